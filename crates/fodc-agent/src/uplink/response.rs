//! Writes responses to queries within the limits of the proxy.
//!
//! A plain proxy gets one message; samples that do not fit are left out, oldest first. A proxy with
//! the profile may get several messages with whole time columns, and learns what is missing.

mod columnar;
mod plain;

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use prost_types::Timestamp;
use steadfast_fodc_model::identity::Identity;
use steadfast_wire::fodc::{StreamMetricsRequest, Truncation};

use super::{
    query::{Query, Scope},
    sample_store::{SampleStore, Series, StoreError},
};

/// The query of a response and the terms under which it is written.
#[derive(Clone, Debug)]
pub(crate) struct ResponseContext {
    pub(crate) query: Arc<Query>,
    pub(crate) identity: Arc<Identity>,
    /// The longest message that the proxy accepts.
    pub(crate) message_bytes: usize,
    /// The proxy has the profile. A plain one is never sent our own fields.
    pub(crate) profile: bool,
    /// The clock when the response began, in Unix milliseconds.
    pub(crate) now: i64,
}

/// The receiver of the parts of a response.
pub(crate) trait ResponseSink {
    /// Takes a part that another one follows. `Break` says that the rest is not wanted.
    fn part(&mut self, message: Bytes) -> ControlFlow<()>;

    /// Takes the last part of a response that is `truncated` if it holds less than was asked for.
    fn last(&mut self, message: Bytes, truncated: bool);

    /// Returns true once no time is left to measure what fits, only to send it.
    fn must_stop_reading(&self) -> bool;

    /// Returns true once the response has to end with what it has.
    fn must_stop_sending(&self) -> bool;
}

/// The result of writing a response.
#[derive(Debug, Default)]
pub(crate) struct ResponseSummary {
    /// The samples in the response.
    pub(crate) samples: u64,
    /// The samples that were left out because a plain proxy cannot show them.
    pub(crate) not_finite: u64,
    /// The response holds less than was asked for.
    pub(crate) truncated: bool,
    /// The error that ended the reading.
    pub(crate) error: Option<StoreError>,
}

/// Writes a response part by part. The last part is sent exactly once, unless the sink breaks.
pub(crate) fn write(
    context: &ResponseContext,
    store: &dyn SampleStore,
    sink: &mut dyn ResponseSink,
) -> ResponseSummary {
    if context.query.columnar && context.profile {
        columnar::write(context, store, sink)
    } else {
        plain::write(context, store, sink)
    }
}

/// Returns the response to a query that cannot be answered: no samples, marked as truncated for a
/// proxy with the profile.
pub(crate) fn empty(context: &ResponseContext) -> Bytes {
    context.envelope(Vec::new(), false, Some(context.truncated_throughout()))
}

impl ResponseContext {
    /// Completes a message whose samples are encoded in `fields`.
    fn envelope(&self, mut fields: Vec<u8>, more: bool, truncated: Option<Truncation>) -> Bytes {
        let envelope = StreamMetricsRequest {
            timestamp: Some(timestamp(self.now)),
            request_id: if self.profile { self.query.id } else { 0 },
            more,
            truncated: truncated.filter(|_| self.profile),
            ..StreamMetricsRequest::default()
        };
        // Protobuf merges fields in any order, so the envelope can follow the samples.
        prost::Message::encode(&envelope, &mut fields).expect("a vector has room");
        fields.into()
    }

    /// Returns the mark of a response that is complete at no time: it is complete from just after
    /// its end.
    fn truncated_throughout(&self) -> Truncation {
        let end = match self.query.scope {
            // An open window ends at the agent's clock.
            Scope::Latest | Scope::Window { to: i64::MAX, .. } => self.now,
            Scope::Window { to, .. } => to,
        };
        Truncation {
            from: Some(timestamp(end.saturating_add(1))),
            samples: 0,
        }
    }
}

/// Selects the series of a query and adds the identity's labels to theirs. The identity's labels
/// are computed once per container.
#[derive(Debug)]
struct SeriesSelector<'t> {
    context: &'t ResponseContext,
    stamps: BTreeMap<Option<String>, Vec<(String, String)>>,
}

impl<'t> SeriesSelector<'t> {
    fn new(context: &'t ResponseContext) -> Self {
        Self {
            context,
            stamps: BTreeMap::new(),
        }
    }

    /// Returns the labels that a series is sent with if the query selects it. A label of the
    /// metric itself is never replaced.
    fn labels(&mut self, series: &Series<'_>) -> Option<BTreeMap<String, String>> {
        // Most stores have one or two containers, so this map stays tiny.
        let container = series.container.map(str::to_owned);
        let identity = &self.context.identity;
        let stamps = self.stamps.entry(container);
        let stamps = stamps.or_insert_with_key(|container| identity.stamps(container.as_deref()));
        let mut labels: Vec<(&str, &str)> = series.labels.to_vec();
        for (name, value) in stamps {
            if !series.labels.iter().any(|(own, _)| own == name) {
                labels.push((name, value));
            }
        }
        // Matchers see the labels as they are sent, so `pod_name` can be matched too.
        labels.sort_unstable();
        if !self.context.query.selects(series.name, &labels) {
            return None;
        }
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Some(labels.into_iter().map(owned).collect())
    }
}

/// Converts Unix milliseconds to the time of the wire.
pub(crate) fn timestamp(millis: i64) -> Timestamp {
    Timestamp {
        seconds: millis.div_euclid(1_000),
        nanos: i32::try_from(millis.rem_euclid(1_000) * 1_000_000).expect("less than a second"),
    }
}

#[cfg(test)]
mod tests;
