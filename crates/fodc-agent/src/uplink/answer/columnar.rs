//! Several messages with columns, for a proxy of our own that asked for them.

use std::ops::ControlFlow;

use prost::Message as _;
use steadfast_fodc_model::columns::ColumnsBuilder;
use steadfast_wire::fodc::{Columns, SeriesColumn, StreamMetricsRequest};

use super::{Outcome, Outlet, Selection, Task};
use crate::uplink::{
    question::About,
    responder::{Responder, Series, Visitor, Wanted},
};

/// A part is sent when it has grown to this, bytes: small enough that two of them wait nowhere long.
const PART: usize = 1 << 20;

/// No part of a series is longer than this share of a message, in samples: with a time of ten bytes
/// and a run of twelve for each value it would still be half of it.
const SAMPLES_SHARE: usize = 64;

/// At most so many samples of one series in a piece.
const SAMPLES_MAX: usize = 100_000;

pub(super) fn answer(task: &Task, responder: &dyn Responder, outlet: &mut dyn Outlet) -> Outcome {
    let mut writer = Writer {
        task,
        selection: Selection::new(task),
        outlet,
        builder: ColumnsBuilder::new(),
        part: PART.min(task.message_bytes / 4),
        piece: SAMPLES_MAX.min(task.message_bytes / SAMPLES_SHARE).max(1),
        series: None,
        source: 0,
        times: Vec::new(),
        values: Vec::new(),
        samples: 0,
        end: End::Reached,
    };
    let told = match task.question.about {
        About::Latest => responder.latest(&mut writer),
        About::Window { from, to } if from <= to => responder.window(from, to, &mut writer),
        About::Window { .. } => Ok(()),
    };
    if writer.end == End::Reached && writer.finish_series().is_break() {
        writer.end = End::Unwanted;
    }
    let mut outcome = Outcome {
        samples: writer.samples,
        cut: writer.end == End::OutOfTime || told.is_err(),
        unreadable: told.err(),
    };
    match writer.end {
        End::Reached | End::OutOfTime => {
            let truncated = outcome.cut.then(|| task.after_everything());
            let last = task.envelope(fields(writer.builder.take()), false, truncated);
            writer.outlet.last(last, outcome.cut);
        }
        End::Unwanted => outcome.cut = true,
    }
    outcome
}

/// How the telling came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything was told.
    Reached,
    /// There was no more time.
    OutOfTime,
    /// Nobody wants the rest.
    Unwanted,
}

struct Writer<'a> {
    task: &'a Task,
    selection: Selection<'a>,
    outlet: &'a mut dyn Outlet,
    builder: ColumnsBuilder,
    part: usize,
    piece: usize,
    /// The series that is being told, and what was told of it.
    series: Option<SeriesColumn>,
    source: u64,
    times: Vec<i64>,
    values: Vec<f64>,
    samples: u64,
    end: End,
}

impl Writer<'_> {
    /// Writes what was gathered of the series, and sends a part that has grown enough.
    fn flush(&mut self) -> ControlFlow<()> {
        let Some(series) = self.series.as_ref().filter(|_| !self.times.is_empty()) else {
            return ControlFlow::Continue(());
        };
        let (times, values) = (&self.times, &self.values);
        self.builder
            .push(series.clone(), self.source, times, values);
        self.samples += self.times.len() as u64;
        self.times.clear();
        self.values.clear();
        if self.builder.bytes() < self.part {
            return ControlFlow::Continue(());
        }
        let message = self.task.envelope(fields(self.builder.take()), true, None);
        self.outlet.part(message)
    }

    fn finish_series(&mut self) -> ControlFlow<()> {
        let flushed = self.flush();
        self.series = None;
        flushed
    }

    fn stop(&mut self, end: End) -> ControlFlow<()> {
        self.end = end;
        ControlFlow::Break(())
    }
}

impl Visitor for Writer<'_> {
    fn series(&mut self, series: &Series<'_>) -> Wanted {
        if self.finish_series().is_break() {
            self.end = End::Unwanted;
            return Wanted::Stop;
        }
        if self.outlet.is_over() {
            self.end = End::OutOfTime;
            return Wanted::Stop;
        }
        let Some(labels) = self.selection.labels(series) else {
            return Wanted::No;
        };
        self.source = series.source;
        self.series = Some(SeriesColumn {
            name: series.name.to_owned(),
            labels,
            description: series.help.to_owned(),
            r#type: series.kind.into(),
            ..SeriesColumn::default()
        });
        Wanted::Yes
    }

    fn samples(&mut self, times: &[i64], values: &[f64]) -> ControlFlow<()> {
        for (times, values) in times.chunks(self.piece).zip(values.chunks(self.piece)) {
            if self.outlet.is_over() {
                return self.stop(End::OutOfTime);
            }
            if self.times.len() + times.len() > self.piece && self.flush().is_break() {
                return self.stop(End::Unwanted);
            }
            self.times.extend_from_slice(times);
            self.values.extend_from_slice(values);
        }
        ControlFlow::Continue(())
    }
}

/// The columns as a field of the message, nothing if there are none.
fn fields(columns: Columns) -> Vec<u8> {
    let columns = Some(columns).filter(|columns| !columns.series.is_empty());
    StreamMetricsRequest {
        columns,
        ..StreamMetricsRequest::default()
    }
    .encode_to_vec()
}
