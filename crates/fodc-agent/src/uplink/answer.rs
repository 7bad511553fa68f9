//! Makes answers: pure, in slices, within the limits of the peer.
//!
//! A plain proxy gets one message, and what does not fit is left out oldest first. Our own may get
//! several, each with whole time columns, and is told what is missing.

mod columnar;
mod plain;

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use prost_types::Timestamp;
use steadfast_wire::fodc::{StreamMetricsRequest, Truncation};

use super::{
    question::{About, Question},
    responder::{Responder, Series, Unreadable},
};
use steadfast_fodc_model::identity::Identity;

/// What an answer is made for and with.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) question: Arc<Question>,
    pub(crate) identity: Arc<Identity>,
    /// No message is longer.
    pub(crate) message_bytes: usize,
    /// Whether the proxy knows our own fields. A plain one is never sent any.
    pub(crate) profile: bool,
    /// The clock when it began, Unix milliseconds.
    pub(crate) now: i64,
}

/// Where the parts of an answer go, and whether they are still wanted.
pub(crate) trait Outlet {
    /// Takes a part that another one follows. Breaking says that nobody wants the rest.
    fn part(&mut self, message: Bytes) -> ControlFlow<()>;

    /// Takes the last part, of an answer that was `cut` if it holds less than was asked for.
    fn last(&mut self, message: Bytes, cut: bool);

    /// Whether there is no more time to look for what fits, only to send it.
    fn hurries(&self) -> bool;

    /// Whether the answer must come to its end now, with what it has.
    fn is_over(&self) -> bool;
}

/// What became of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Samples in it.
    pub(crate) samples: u64,
    /// Whether it holds less than was asked for.
    pub(crate) cut: bool,
    /// Why the record could not be read.
    pub(crate) unreadable: Option<Unreadable>,
}

/// Makes the answer and hands out its parts, the last one exactly once unless the outlet breaks.
pub(crate) fn answer(task: &Task, responder: &dyn Responder, outlet: &mut dyn Outlet) -> Outcome {
    if task.question.columnar && task.profile {
        columnar::answer(task, responder, outlet)
    } else {
        plain::answer(task, responder, outlet)
    }
}

/// The answer that stands in for one that can not be made: nothing, and said so to who understands.
pub(crate) fn nothing(task: &Task) -> Bytes {
    task.envelope(Vec::new(), false, Some(task.after_everything()))
}

impl Task {
    /// A message of ready-made fields and those that go around them.
    fn envelope(&self, mut fields: Vec<u8>, more: bool, truncated: Option<Truncation>) -> Bytes {
        let around = StreamMetricsRequest {
            timestamp: Some(timestamp(self.now)),
            request_id: if self.profile { self.question.id } else { 0 },
            more,
            truncated: truncated.filter(|_| self.profile),
            ..StreamMetricsRequest::default()
        };
        prost::Message::encode(&around, &mut fields).expect("a vector has room");
        fields.into()
    }

    /// Nothing of what was asked for can be relied on to be whole.
    fn after_everything(&self) -> Truncation {
        let end = match self.question.about {
            About::Latest | About::Window { to: i64::MAX, .. } => self.now,
            About::Window { to, .. } => to,
        };
        Truncation {
            from: Some(timestamp(end.saturating_add(1))),
            samples: 0,
        }
    }
}

/// Chooses series and stamps them. The stamps of a source are made once.
#[derive(Debug)]
struct Selection<'t> {
    task: &'t Task,
    stamps: BTreeMap<Option<String>, Vec<(String, String)>>,
}

impl<'t> Selection<'t> {
    fn new(task: &'t Task) -> Self {
        Self {
            task,
            stamps: BTreeMap::new(),
        }
    }

    /// The labels a series is sent with, if it is asked for. A stamp never replaces what the metric
    /// says itself.
    fn labels(&mut self, series: &Series<'_>) -> Option<BTreeMap<String, String>> {
        let container = series.container.map(str::to_owned);
        let identity = &self.task.identity;
        let stamps = self.stamps.entry(container);
        let stamps = stamps.or_insert_with_key(|container| identity.stamps(container.as_deref()));
        let mut labels: Vec<(&str, &str)> = series.labels.to_vec();
        for (name, value) in stamps {
            if !series.labels.iter().any(|(own, _)| own == name) {
                labels.push((name, value));
            }
        }
        labels.sort_unstable();
        let wanted = self.task.question.wants(series.name, &labels);
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        wanted.then(|| labels.into_iter().map(owned).collect())
    }
}

/// Unix milliseconds as the wire has them.
fn timestamp(millis: i64) -> Timestamp {
    Timestamp {
        seconds: millis.div_euclid(1_000),
        nanos: i32::try_from(millis.rem_euclid(1_000) * 1_000_000).expect("less than a second"),
    }
}

#[cfg(test)]
mod tests;
