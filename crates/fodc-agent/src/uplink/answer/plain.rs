//! One message with one metric per value: what every proxy understands.

use std::{collections::BTreeMap, ops::ControlFlow};

use prost::{Message as _, encoding::encoded_len_varint};
use steadfast_wire::fodc::{Metric, Truncation};

use super::{Outcome, Outlet, Selection, Task, timestamp};
use crate::uplink::{
    question::About,
    responder::{Responder, Series, Unreadable, Visitor, Wanted},
};

/// What goes around the metrics takes no more.
const ENVELOPE: usize = 128;

/// Tag of the metrics, one byte as its number is below 16.
const METRICS: u8 = 1 << 3 | 2;

/// The first look at a window's end, milliseconds. Each further one goes back four times as far.
const FIRST_LOOK: i64 = 1_000;

/// A look that has found so many times what fits is given up, once.
const TOO_MUCH: usize = 8;

/// Tag and length of a time in a metric.
const TIMED: usize = 2;

/// Samples between two looks at whether the answer hurries.
const SLICE: usize = 1_024;

/// A slow reading may be recorded after a faster one that began later. If that happens between weighing
/// and writing, not all may fit that was found to fit, and it is weighed again.
const WEIGHINGS: u32 = 4;

pub(super) fn answer(task: &Task, responder: &dyn Responder, outlet: &mut dyn Outlet) -> Outcome {
    let mut weighings = 1;
    let (cut, mut outcome, written) = loop {
        let (cut, outcome) = match task.question.about {
            About::Latest => (None, Outcome::default()),
            About::Window { from, to } => find_cut(task, responder, outlet, from, to),
        };
        let written = write(task, responder, outlet, cut);
        let grew = cut.is_some_and(|cut| cut.fits) && written.left_out > 0;
        if !grew || weighings == WEIGHINGS || outlet.hurries() {
            break (cut, outcome, written);
        }
        weighings += 1;
    };
    let Written {
        fields,
        samples,
        left_out,
        stopped,
        unreadable,
    } = written;
    outcome.samples = samples;
    outcome.unreadable = outcome.unreadable.or(unreadable);
    let unknown = left_out > 0 || stopped || outcome.unreadable.is_some();
    let truncated = match cut {
        None if outcome.cut => Some(task.after_everything()),
        _ if unknown => Some(task.after_everything()),
        Some(cut) if outcome.cut => Some(Truncation {
            from: Some(timestamp(cut.from)),
            samples: 0,
        }),
        Some(_) | None => None,
    };
    let truncated = truncated.map(|truncated| Truncation {
        samples: left_out + cut.map_or(0, |cut| cut.left_out),
        ..truncated
    });
    outcome.cut = truncated.is_some();
    outlet.last(task.envelope(fields, false, truncated), outcome.cut);
    outcome
}

/// The metrics of an answer, and what is not among them.
struct Written {
    fields: Vec<u8>,
    samples: u64,
    left_out: u64,
    stopped: bool,
    unreadable: Option<Unreadable>,
}

fn write(task: &Task, responder: &dyn Responder, outlet: &dyn Outlet, cut: Option<Cut>) -> Written {
    let mut writer = Writer::new(task, outlet);
    let told = match (task.question.about, cut) {
        (About::Latest, _) => responder.latest(&mut writer),
        (About::Window { .. }, Some(cut)) if cut.from <= cut.to => {
            writer.timed = true;
            responder.window(cut.from, cut.to, &mut writer)
        }
        (About::Window { .. }, _) => Ok(()),
    };
    Written {
        fields: writer.fields,
        samples: writer.samples,
        left_out: writer.left_out,
        stopped: writer.stopped,
        unreadable: told.err(),
    }
}

/// The newest part of a window that fits.
#[derive(Clone, Copy, Debug)]
struct Cut {
    from: i64,
    to: i64,
    /// Not even the newest time alone fits, if this is false.
    fits: bool,
    /// How many samples it leaves out, as far as they were looked at.
    left_out: u64,
}

/// Goes back from the end of the window until it has all of it or more than fits. A record that ends long
/// before the window does is met by a look that is far too large: that one is left as soon as it is seen
/// to be, and the next begins where the record ends. What fits is known
/// then to the millisecond, and no look is much larger than what can be sent.
fn find_cut(
    task: &Task,
    responder: &dyn Responder,
    outlet: &dyn Outlet,
    from: i64,
    mut to: i64,
) -> (Option<Cut>, Outcome) {
    let mut outcome = Outcome::default();
    if from > to {
        return (None, outcome);
    }
    let mut anchor = to.min(task.now).max(from);
    let mut fits: Option<Cut> = None;
    let mut back = FIRST_LOOK;
    let mut too_much = Some(task.message_bytes.saturating_mul(TOO_MUCH));
    loop {
        let start = match back {
            i64::MAX => from,
            _ => anchor.saturating_sub(back).max(from),
        };
        let mut scale = Scale::new(task, outlet, too_much);
        let told = responder.window(start, to, &mut scale);
        if let (true, Some(newest)) = (scale.gave_up, scale.newest()) {
            // The end of the record is not where it was looked for.
            too_much = None;
            (anchor, back) = (newest, FIRST_LOOK);
            continue;
        }
        if told.is_err() || scale.hurried {
            outcome.cut = true;
            outcome.unreadable = told.err();
            return (fits, outcome);
        }
        // What is recorded from now on was not weighed.
        to = scale.newest().map_or(to, |newest| newest.min(to));
        if let Some(cut) = scale.cut(task.message_bytes, to) {
            outcome.cut = true;
            return (Some(cut), outcome);
        }
        let whole = Cut {
            from: start,
            to,
            fits: true,
            left_out: 0,
        };
        if start == from {
            return (Some(whole), outcome);
        }
        fits = Some(whole);
        back = back.saturating_mul(4);
    }
}

/// The metric of a series; its value and time change from sample to sample.
fn metric(series: &Series<'_>, labels: BTreeMap<String, String>) -> Metric {
    Metric {
        name: series.name.to_owned(),
        labels,
        description: series.help.to_owned(),
        r#type: series.kind.into(),
        ..Metric::default()
    }
}

/// What a metric of that length takes in the message.
fn framed(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

/// Writes what fits.
struct Writer<'a> {
    selection: Selection<'a>,
    outlet: &'a dyn Outlet,
    room: usize,
    timed: bool,
    fields: Vec<u8>,
    metric: Metric,
    samples: u64,
    left_out: u64,
    stopped: bool,
}

impl<'a> Writer<'a> {
    fn new(task: &'a Task, outlet: &'a dyn Outlet) -> Self {
        Self {
            selection: Selection::new(task),
            outlet,
            room: task.message_bytes.saturating_sub(ENVELOPE),
            timed: false,
            fields: Vec::new(),
            metric: Metric::default(),
            samples: 0,
            left_out: 0,
            stopped: false,
        }
    }
}

impl Visitor for Writer<'_> {
    fn series(&mut self, series: &Series<'_>) -> Wanted {
        if self.outlet.is_over() {
            self.stopped = true;
            return Wanted::Stop;
        }
        match self.selection.labels(series) {
            Some(labels) => {
                self.metric = metric(series, labels);
                Wanted::Yes
            }
            None => Wanted::No,
        }
    }

    fn samples(&mut self, times: &[i64], values: &[f64]) -> ControlFlow<()> {
        for (index, (time, value)) in times.iter().zip(values).enumerate() {
            if index % SLICE == SLICE - 1 && self.outlet.is_over() {
                self.stopped = true;
                return ControlFlow::Break(());
            }
            self.metric.value = *value;
            self.metric.timestamp = self.timed.then(|| timestamp(*time));
            if self.fields.len() + framed(self.metric.encoded_len()) > self.room {
                self.left_out += 1;
                continue;
            }
            self.fields.push(METRICS);
            let written = self.metric.encode_length_delimited(&mut self.fields);
            written.expect("a vector has room");
            self.samples += 1;
        }
        ControlFlow::Continue(())
    }
}

/// Weighs what would be written, by time.
struct Scale<'a> {
    selection: Selection<'a>,
    outlet: &'a dyn Outlet,
    /// Length of the series' metric with a value and without a time.
    untimed: usize,
    /// Bytes and samples of each time.
    weights: BTreeMap<i64, (usize, u64)>,
    total: usize,
    too_much: Option<usize>,
    gave_up: bool,
    hurried: bool,
}

impl<'a> Scale<'a> {
    fn new(task: &'a Task, outlet: &'a dyn Outlet, too_much: Option<usize>) -> Self {
        Self {
            selection: Selection::new(task),
            outlet,
            untimed: 0,
            weights: BTreeMap::new(),
            total: 0,
            too_much,
            gave_up: false,
            hurried: false,
        }
    }

    fn newest(&self) -> Option<i64> {
        self.weights.last_key_value().map(|(time, _)| *time)
    }

    /// The oldest time from which on everything fits; `None` if everything fits. Of the newest time
    /// something is sent even if not all of it fits.
    fn cut(&self, message_bytes: usize, to: i64) -> Option<Cut> {
        let mut room = message_bytes.saturating_sub(ENVELOPE);
        let newest = self.newest()?;
        let mut oldest = newest;
        for (time, (bytes, _)) in self.weights.iter().rev() {
            let Some(left) = room.checked_sub(*bytes) else {
                let before = self.weights.range(..oldest);
                return Some(Cut {
                    from: oldest,
                    to,
                    fits: *time != newest,
                    left_out: before.map(|(_, (_, samples))| samples).sum(),
                });
            };
            room = left;
            oldest = *time;
        }
        None
    }
}

impl Visitor for Scale<'_> {
    fn series(&mut self, series: &Series<'_>) -> Wanted {
        if self.outlet.hurries() {
            self.hurried = true;
            return Wanted::Stop;
        }
        match self.selection.labels(series) {
            Some(labels) => {
                let mut metric = metric(series, labels);
                // A value of zero is not written; that it might be is little.
                metric.value = 1.0;
                self.untimed = metric.encoded_len();
                Wanted::Yes
            }
            None => Wanted::No,
        }
    }

    fn samples(&mut self, times: &[i64], values: &[f64]) -> ControlFlow<()> {
        for (index, (time, _)) in times.iter().zip(values).enumerate() {
            if index % SLICE == SLICE - 1 && self.outlet.hurries() {
                self.hurried = true;
                return ControlFlow::Break(());
            }
            let bytes = framed(self.untimed + TIMED + timestamp(*time).encoded_len());
            let weight = self.weights.entry(*time).or_default();
            weight.0 += bytes;
            weight.1 += 1;
            self.total += bytes;
        }
        if self.too_much.is_some_and(|limit| self.total > limit) {
            self.gave_up = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
