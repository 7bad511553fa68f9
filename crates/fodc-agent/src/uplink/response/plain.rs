//! The response in one message that every proxy understands.
//!
//! A window that does not fit is cut at its old end. Its encoded size is measured first, from the
//! newest sample backwards, and only the range that fits is written.

use std::{collections::BTreeMap, ops::ControlFlow};

use prost::{Message as _, encoding::encoded_len_varint};
use steadfast_fodc_model::kind;
use steadfast_wire::fodc::{Metric, Truncation};

use super::{ResponseContext, ResponseSink, ResponseSummary, SeriesSelector, timestamp};
use crate::uplink::{
    query::Scope,
    sample_store::{SampleStore, Series, StoreError, Visit, Visitor},
};

/// The most bytes that the fields beside the metrics take.
const ENVELOPE_BYTES: usize = 128;

/// The tag of the metrics field, number 1, length-delimited.
const METRICS_TAG: u8 = 1 << 3 | 2;

/// The range that is measured first, in milliseconds. Each further one is four times as long.
const FIRST_SPAN: i64 = 1_000;

/// A measurement is abandoned, once, at this multiple of the message.
const ABANDON_FACTOR: usize = 8;

/// The tag and length of a time in a metric.
const TIME_HEAD_BYTES: usize = 2;

/// Samples between two checks of the time.
const SAMPLES_PER_CHECK: usize = 1_024;

/// Attempts to measure and write. Between the two, a slow scrape may be recorded at a time that was
/// measured already; then what was found to fit may not fit any more.
const ATTEMPTS: u32 = 4;

pub(super) fn write(
    context: &ResponseContext,
    store: &dyn SampleStore,
    sink: &mut dyn ResponseSink,
) -> ResponseSummary {
    let mut attempts = 1;
    let (fit, written) = loop {
        let fit = match context.query.scope {
            Scope::Latest => Fit::default(),
            Scope::Window { from, to } => find_fit(context, store, sink, from, to),
        };
        let written = write_range(context, store, sink, fit.range);
        let outgrown = fit.range.is_some_and(|range| range.fits) && written.left_out > 0;
        if !outgrown || attempts == ATTEMPTS || sink.must_stop_reading() {
            break (fit, written);
        }
        attempts += 1;
    };
    let error = fit.error.or(written.error);
    // Samples are missing at times that are not known.
    let unknown = written.left_out > 0 || written.stopped || error.is_some();
    let truncation = match fit.range {
        // Not even a first range could be measured in time.
        None if fit.truncated => Some(context.truncated_throughout()),
        _ if unknown => Some(context.truncated_throughout()),
        Some(range) if fit.truncated => Some(Truncation {
            from: Some(timestamp(range.from)),
            samples: 0,
        }),
        Some(_) | None => None,
    };
    let truncation = truncation.map(|truncation| Truncation {
        samples: written.left_out + fit.range.map_or(0, |range| range.left_out),
        ..truncation
    });
    let truncated = truncation.is_some();
    sink.last(
        context.envelope(written.fields, false, truncation),
        truncated,
    );
    ResponseSummary {
        samples: written.samples,
        not_finite: written.not_finite,
        truncated,
        error,
    }
}

/// The encoded metrics of a response, and what is not among them.
struct Written {
    fields: Vec<u8>,
    samples: u64,
    left_out: u64,
    not_finite: u64,
    /// The time was over before the last sample.
    stopped: bool,
    error: Option<StoreError>,
}

fn write_range(
    context: &ResponseContext,
    store: &dyn SampleStore,
    sink: &dyn ResponseSink,
    range: Option<FittingRange>,
) -> Written {
    let mut writer = Writer::new(context, sink);
    let visited = match (context.query.scope, range) {
        (Scope::Latest, _) => store.latest(&mut writer),
        (Scope::Window { .. }, Some(range)) if range.from <= range.to => {
            // The latest values have none, as in the original: their time is that of the message.
            writer.timed = true;
            store.window(range.from, range.to, &mut writer)
        }
        (Scope::Window { .. }, _) => Ok(()),
    };
    Written {
        fields: writer.fields,
        samples: writer.samples,
        left_out: writer.left_out,
        not_finite: writer.not_finite,
        stopped: writer.stopped,
        error: visited.err(),
    }
}

/// The newest part of a window that fits into a message.
#[derive(Clone, Copy, Debug)]
struct FittingRange {
    from: i64,
    to: i64,
    /// False if not even the samples of the newest time fit.
    fits: bool,
    /// The samples before `from`, as far as they were measured.
    left_out: u64,
}

/// The result of measuring a window.
#[derive(Debug, Default)]
struct Fit {
    range: Option<FittingRange>,
    /// The range is not known to be the whole window.
    truncated: bool,
    error: Option<StoreError>,
}

/// Finds the newest part of a window that fits, to the millisecond.
///
/// The measured range grows backwards from the end of the window until it covers the window or
/// exceeds the message, so that no measurement is much larger than a message.
fn find_fit(
    context: &ResponseContext,
    store: &dyn SampleStore,
    sink: &dyn ResponseSink,
    from: i64,
    mut to: i64,
) -> Fit {
    let mut fit = Fit::default();
    if from > to {
        return fit;
    }
    // An open window ends at the clock: no sample is newer, unless the clock was set back.
    let mut anchor = to.min(context.now).max(from);
    let mut span = FIRST_SPAN;
    let mut abandon_above = Some(context.message_bytes.saturating_mul(ABANDON_FACTOR));
    loop {
        let start = match span {
            // The multiplication below saturated: the span exceeds all times.
            i64::MAX => from,
            _ => anchor.saturating_sub(span).max(from),
        };
        let mut meter = SizeMeter::new(context, sink, abandon_above);
        let visited = store.window(start, to, &mut meter);
        if let (true, Some(newest)) = (meter.abandoned, meter.newest()) {
            // The record ends long before the window, so the growing range met all of it at once.
            // Start again from the end of the record.
            abandon_above = None;
            (anchor, span) = (newest, FIRST_SPAN);
            continue;
        }
        if visited.is_err() || meter.out_of_time {
            fit.truncated = true;
            fit.error = visited.err();
            return fit;
        }
        // Samples recorded from now on were not measured and must not be written.
        to = meter.newest().map_or(to, |newest| newest.min(to));
        if let Some(range) = meter.fitting_range(context.message_bytes, to) {
            fit.truncated = true;
            fit.range = Some(range);
            return fit;
        }
        fit.range = Some(FittingRange {
            from: start,
            to,
            fits: true,
            left_out: 0,
        });
        if start == from {
            return fit;
        }
        span = span.saturating_mul(4);
    }
}

/// Returns the metric of a series, still without value and time.
fn metric(series: &Series<'_>, labels: BTreeMap<String, String>) -> Metric {
    Metric {
        name: series.name.to_owned(),
        labels,
        description: series.help.to_owned(),
        r#type: kind::to_wire(series.kind).into(),
        ..Metric::default()
    }
}

/// Returns the bytes that a metric of an encoded length takes in the message.
fn framed(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

/// Encodes metrics as long as they fit.
struct Writer<'a> {
    selector: SeriesSelector<'a>,
    sink: &'a dyn ResponseSink,
    capacity: usize,
    /// Each metric carries the time of its sample.
    timed: bool,
    /// Values without a number in JSON are left out: one of them empties a plain proxy's response about
    /// all agents (O30). A proxy with the profile takes them.
    finite_only: bool,
    not_finite: u64,
    fields: Vec<u8>,
    metric: Metric,
    samples: u64,
    left_out: u64,
    stopped: bool,
}

impl<'a> Writer<'a> {
    fn new(context: &'a ResponseContext, sink: &'a dyn ResponseSink) -> Self {
        Self {
            selector: SeriesSelector::new(context),
            sink,
            capacity: context.message_bytes.saturating_sub(ENVELOPE_BYTES),
            timed: false,
            finite_only: !context.profile,
            not_finite: 0,
            fields: Vec::new(),
            metric: Metric::default(),
            samples: 0,
            left_out: 0,
            stopped: false,
        }
    }
}

impl Visitor for Writer<'_> {
    fn series(&mut self, series: &Series<'_>) -> Visit {
        if self.sink.must_stop_sending() {
            self.stopped = true;
            return Visit::Stop;
        }
        match self.selector.labels(series) {
            Some(labels) => {
                self.metric = metric(series, labels);
                Visit::Samples
            }
            None => Visit::Skip,
        }
    }

    fn samples(&mut self, times: &[i64], values: &[f64]) -> ControlFlow<()> {
        for (index, (time, value)) in times.iter().zip(values).enumerate() {
            // `series` has checked already: a short series costs no second look.
            if index % SAMPLES_PER_CHECK == SAMPLES_PER_CHECK - 1 && self.sink.must_stop_sending() {
                self.stopped = true;
                return ControlFlow::Break(());
            }
            if self.finite_only && !value.is_finite() {
                self.not_finite += 1;
                continue;
            }
            self.metric.value = *value;
            self.metric.timestamp = self.timed.then(|| timestamp(*time));
            if self.fields.len() + framed(self.metric.encoded_len()) > self.capacity {
                // A later, shorter sample may still fit.
                self.left_out += 1;
                continue;
            }
            self.fields.push(METRICS_TAG);
            let encoded = self.metric.encode_length_delimited(&mut self.fields);
            encoded.expect("a vector has room");
            self.samples += 1;
        }
        ControlFlow::Continue(())
    }
}

/// Measures the encoded size of the samples of each time.
struct SizeMeter<'a> {
    selector: SeriesSelector<'a>,
    sink: &'a dyn ResponseSink,
    /// The encoded length of the current series' metric with a value and without a time.
    untimed_bytes: usize,
    /// The bytes and samples of each time.
    sizes: BTreeMap<i64, (usize, u64)>,
    total: usize,
    abandon_above: Option<usize>,
    abandoned: bool,
    out_of_time: bool,
}

impl<'a> SizeMeter<'a> {
    fn new(
        context: &'a ResponseContext,
        sink: &'a dyn ResponseSink,
        abandon_above: Option<usize>,
    ) -> Self {
        Self {
            selector: SeriesSelector::new(context),
            sink,
            untimed_bytes: 0,
            sizes: BTreeMap::new(),
            total: 0,
            abandon_above,
            abandoned: false,
            out_of_time: false,
        }
    }

    fn newest(&self) -> Option<i64> {
        self.sizes.last_key_value().map(|(time, _)| *time)
    }

    /// Returns the newest times that fit together, or `None` if everything fits. The newest time
    /// is part of it even if its samples do not all fit.
    fn fitting_range(&self, message_bytes: usize, to: i64) -> Option<FittingRange> {
        let mut capacity = message_bytes.saturating_sub(ENVELOPE_BYTES);
        let newest = self.newest()?;
        let mut oldest = newest;
        for (time, (bytes, _)) in self.sizes.iter().rev() {
            // One cut for all series: what is sent is complete from there on.
            let Some(left) = capacity.checked_sub(*bytes) else {
                let before = self.sizes.range(..oldest);
                return Some(FittingRange {
                    from: oldest,
                    to,
                    fits: *time != newest,
                    left_out: before.map(|(_, (_, samples))| samples).sum(),
                });
            };
            capacity = left;
            oldest = *time;
        }
        None
    }
}

impl Visitor for SizeMeter<'_> {
    fn series(&mut self, series: &Series<'_>) -> Visit {
        if self.sink.must_stop_reading() {
            self.out_of_time = true;
            return Visit::Stop;
        }
        match self.selector.labels(series) {
            Some(labels) => {
                let mut metric = metric(series, labels);
                // Protobuf omits a value of zero; any other value has the full length.
                metric.value = 1.0;
                self.untimed_bytes = metric.encoded_len();
                Visit::Samples
            }
            None => Visit::Skip,
        }
    }

    fn samples(&mut self, times: &[i64], values: &[f64]) -> ControlFlow<()> {
        // Values that a plain proxy does not get are measured, too: the estimate is never too low.
        for (index, (time, _)) in times.iter().zip(values).enumerate() {
            if index % SAMPLES_PER_CHECK == SAMPLES_PER_CHECK - 1 && self.sink.must_stop_reading() {
                self.out_of_time = true;
                return ControlFlow::Break(());
            }
            let time_bytes = TIME_HEAD_BYTES + timestamp(*time).encoded_len();
            let bytes = framed(self.untimed_bytes + time_bytes);
            let (size, samples) = self.sizes.entry(*time).or_default();
            *size += bytes;
            *samples += 1;
            self.total += bytes;
        }
        if self.abandon_above.is_some_and(|limit| self.total > limit) {
            self.abandoned = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
