//! Responses in columns and several messages, for a proxy that asked for them.

use std::ops::ControlFlow;

use prost::Message as _;
use steadfast_fodc_model::{columns::ColumnsBuilder, kind};
use steadfast_wire::fodc::{Columns, SeriesColumn, StreamMetricsRequest};

use super::{ResponseContext, ResponseSink, ResponseSummary, SeriesSelector};
use crate::uplink::{
    query::Scope,
    sample_store::{SampleStore, Series, Visit, Visitor},
};

/// The size in bytes from which a part is sent. Two of them may be in memory at once.
const PART_BYTES: usize = 1 << 20;

/// Bytes of a message per sample of a chunk. A sample takes at most 30: a value of 8, a time of 10
/// and a run of 12. The largest chunk therefore fills less than half of a message.
const BYTES_PER_SAMPLE: usize = 64;

/// The most samples of one series in a chunk.
const CHUNK_MAX: usize = 100_000;

pub(super) fn write(
    context: &ResponseContext,
    store: &dyn SampleStore,
    sink: &mut dyn ResponseSink,
) -> ResponseSummary {
    // A chunk is not split again, so the largest one has to fit into a message with its labels.
    let chunk = CHUNK_MAX.min(context.message_bytes / BYTES_PER_SAMPLE);
    let mut writer = Writer {
        context,
        selector: SeriesSelector::new(context),
        sink,
        builder: ColumnsBuilder::new(),
        // A part exceeds this by up to one chunk, which is less than half of a message.
        part_bytes: PART_BYTES.min(context.message_bytes / 4),
        chunk: chunk.max(1),
        series: None,
        source: 0,
        times: Vec::new(),
        values: Vec::new(),
        samples: 0,
        end: End::Complete,
    };
    let visited = match context.query.scope {
        Scope::Latest => store.latest(&mut writer),
        Scope::Window { from, to } if from <= to => store.window(from, to, &mut writer),
        // Reversed ends contain nothing.
        Scope::Window { .. } => Ok(()),
    };
    // The store announces only a next series, so that the last one is not in the builder yet.
    if writer.end == End::Complete && writer.finish_series().is_break() {
        writer.end = End::Unwanted;
    }
    let mut summary = ResponseSummary {
        samples: writer.samples,
        not_finite: 0,
        truncated: writer.end == End::OutOfTime || visited.is_err(),
        error: visited.err(),
    };
    match writer.end {
        End::Complete | End::OutOfTime => {
            // Series are visited one by one: a visit that was cut is complete at no time.
            let truncated = summary.truncated.then(|| context.truncated_throughout());
            let last = context.envelope(encode(writer.builder.take()), false, truncated);
            writer.sink.last(last, summary.truncated);
        }
        // The receiver is gone, so there is nobody to send a last part to.
        End::Unwanted => summary.truncated = true,
    }
    summary
}

/// The reason why a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All series were visited.
    Complete,
    OutOfTime,
    /// The sink does not want the rest.
    Unwanted,
}

struct Writer<'a> {
    context: &'a ResponseContext,
    selector: SeriesSelector<'a>,
    sink: &'a mut dyn ResponseSink,
    builder: ColumnsBuilder,
    /// The size from which a part is sent.
    part_bytes: usize,
    /// The most samples of one series in a column.
    chunk: usize,
    /// The current series, and its samples that are not in the builder yet.
    series: Option<SeriesColumn>,
    source: u64,
    times: Vec<i64>,
    values: Vec<f64>,
    samples: u64,
    end: End,
}

impl Writer<'_> {
    /// Moves the gathered samples into the builder, and sends a part that is large enough.
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
        // Several small series share a part; the estimate is never below the encoded size.
        if self.builder.bytes() < self.part_bytes {
            return ControlFlow::Continue(());
        }
        let message = self
            .context
            .envelope(encode(self.builder.take()), true, None);
        self.sink.part(message)
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
    fn series(&mut self, series: &Series<'_>) -> Visit {
        if self.finish_series().is_break() {
            self.end = End::Unwanted;
            return Visit::Stop;
        }
        if self.sink.must_stop_sending() {
            self.end = End::OutOfTime;
            return Visit::Stop;
        }
        let Some(labels) = self.selector.labels(series) else {
            return Visit::Skip;
        };
        self.source = series.source;
        self.series = Some(SeriesColumn {
            name: series.name.to_owned(),
            labels,
            description: series.help.to_owned(),
            r#type: kind::to_wire(series.kind).into(),
            ..SeriesColumn::default()
        });
        Visit::Samples
    }

    fn samples(&mut self, times: &[i64], values: &[f64]) -> ControlFlow<()> {
        for (times, values) in times.chunks(self.chunk).zip(values.chunks(self.chunk)) {
            if self.sink.must_stop_sending() {
                return self.stop(End::OutOfTime);
            }
            // The store may hand out a series in pieces of any size; they are merged up to a chunk.
            if self.times.len() + times.len() > self.chunk && self.flush().is_break() {
                return self.stop(End::Unwanted);
            }
            self.times.extend_from_slice(times);
            self.values.extend_from_slice(values);
        }
        ControlFlow::Continue(())
    }
}

/// Encodes columns as a field of the message, and as nothing if there are none.
fn encode(columns: Columns) -> Vec<u8> {
    let columns = Some(columns).filter(|columns| !columns.series.is_empty());
    StreamMetricsRequest {
        columns,
        ..StreamMetricsRequest::default()
    }
    .encode_to_vec()
}
