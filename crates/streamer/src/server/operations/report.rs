//! The status of a server as JSON (docs/operations.md).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Gathered, Unready, figures};
use crate::{
    hub::{FilterCost, LAG_BOUNDS, PeerKind, StreamStatus, Survey},
    log::Durations,
};

/// The status of a server: what `/status` returns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Report {
    /// The version of the server.
    pub version: String,
    /// The name of the server process.
    pub server_id: String,
    /// The address of the listener for peers.
    pub address: String,
    /// `ready`, `draining` or `failed`.
    pub state: String,
    /// Problems, one sentence each.
    pub problems: Vec<String>,
    /// The time since the start, in seconds.
    pub uptime_seconds: f64,
    /// The log.
    pub log: LogReport,
    /// The streams that are furthest behind, the slowest first.
    pub slowest_streams: Vec<SlowStream>,
    /// All other streams.
    pub other_streams: OtherStreams,
    /// The streams by their lag.
    pub lags: Vec<LagBucket>,
    /// The filters that use most of the cost of matching, the most expensive first.
    pub expensive_filters: Vec<ExpensiveFilter>,
    /// The intake from a Puller, if there is one.
    pub puller: Option<PullerReport>,
    /// All single numbers, by the name of their metric without prefix and `_total`.
    pub figures: BTreeMap<String, u64>,
}

/// The log of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LogReport {
    /// The epoch of the current term, as in positions.
    pub epoch: String,
    /// The position of the newest event.
    pub head: u64,
    /// The offset after which the log begins.
    pub first: u64,
    /// The size of the files with events, in bytes.
    pub bytes: u64,
    /// The number of these files.
    pub files: usize,
    /// The records that were read at the start because the index did not have them.
    pub recovered_records: u64,
    /// The time that opening the log took, in seconds.
    pub opened_in_seconds: f64,
    /// The interval of syncs, in seconds, if commits are acknowledged before they are synced: a power
    /// failure loses about as much.
    #[serde(default)]
    pub sync_interval_seconds: Option<f64>,
    /// The syncs.
    pub syncs: DurationReport,
    /// The commits, syncs included.
    pub commits: DurationReport,
}

/// The durations of an operation. Quantiles are rounded up to the bound of a bucket; `null` is none, or
/// more than all bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DurationReport {
    /// The number of operations.
    pub count: u64,
    /// The average, in seconds.
    pub mean_seconds: f64,
    /// The duration that half of them do not exceed, in seconds.
    pub p50_seconds: Option<f64>,
    /// The duration that 99 % of them do not exceed, in seconds.
    pub p99_seconds: Option<f64>,
}

/// A stream of a subscriber.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SlowStream {
    /// The number of the stream since the start of the server.
    pub stream: u64,
    /// The address of the peer.
    pub peer: Option<String>,
    /// `profile` with the resume profile, `plain` without, `unknown` before the first message,
    /// `refused`.
    pub kind: String,
    /// The session of a peer with the resume profile.
    pub session: Option<String>,
    /// The principal of the peer, with a policy.
    #[serde(default)]
    pub principal: Option<String>,
    /// The number of subscriptions.
    pub subscriptions: usize,
    /// The number of subscriptions that are behind.
    pub behind: usize,
    /// The number of subscriptions that are behind because their application takes nothing.
    pub without_credit: usize,
    /// The events between the slowest subscription and the head.
    pub lag: u64,
    /// The slowest subscription.
    pub slowest: Option<SlowSubscription>,
    /// Bytes queued and not sent.
    pub queued_bytes: usize,
    /// Messages queued and not sent.
    pub queued_messages: usize,
    /// The time since the peer took something from a queue that is not empty, in seconds.
    // A CLI and a server may be of different builds.
    #[serde(default, alias = "stalledSeconds")]
    pub blocked_seconds: f64,
}

/// A subscription that is behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SlowSubscription {
    /// The id that the peer gave it.
    pub id: String,
    /// The database.
    pub database: String,
    /// The full path of the collection.
    pub collection: String,
}

/// The sums of the streams that are not shown one by one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct OtherStreams {
    /// The number of streams.
    pub streams: usize,
    /// Their subscriptions that are behind.
    pub behind: usize,
    /// The sum of their lags, in events.
    pub lag: u64,
}

/// The streams with a lag in one range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LagBucket {
    /// The largest lag of the range, in events; `null` for the last range.
    pub max: Option<u64>,
    /// The number of streams.
    pub streams: u64,
}

/// A filter and its share of the cost of matching, estimated from samples of the last events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ExpensiveFilter {
    /// The database.
    pub database: String,
    /// The full path of the collection.
    pub collection: String,
    /// The text form, cut after some hundred characters.
    pub filter: String,
    /// The subscriptions with this filter.
    pub subscriptions: usize,
    /// The share of the cost of evaluating all filters, from 0 to 1.
    pub cost_share: f64,
    /// The share of its evaluations that matched, from 0 to 1.
    pub match_share: f64,
}

/// The intake from a Puller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PullerReport {
    /// The state of the connection.
    pub state: String,
    /// Changes that are none of a document, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Report {
    pub(super) fn new(gathered: &Gathered, unready: Option<&Unready>) -> Self {
        let survey = &gathered.survey;
        let mut problems = gathered.problems.clone();
        let state = match unready {
            None => "ready",
            Some(Unready::Starting) => "starting",
            Some(Unready::Draining) => "draining",
            Some(Unready::Failed(why)) => {
                problems.insert(0, why.clone());
                "failed"
            }
        };
        let slowest = survey.slowest.iter();
        let (behind, lag) = survey.others();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            server_id: gathered.server_id.clone(),
            address: gathered.address.to_string(),
            state: state.to_owned(),
            problems,
            uptime_seconds: gathered.uptime.as_secs_f64(),
            log: LogReport::new(gathered),
            slowest_streams: slowest.map(|it| SlowStream::new(it, gathered)).collect(),
            other_streams: OtherStreams {
                streams: survey.gauges.streams.saturating_sub(survey.slowest.len()),
                behind,
                lag,
            },
            lags: lag_buckets(survey)
                .map(|(max, streams)| LagBucket { max, streams })
                .collect(),
            expensive_filters: survey.expensive.iter().map(ExpensiveFilter::new).collect(),
            puller: gathered.puller.as_ref().map(|puller| PullerReport {
                state: puller.link.state.to_string(),
                dropped: puller
                    .counters
                    .dropped
                    .iter()
                    .map(|(reason, count)| (reason.to_string(), *count))
                    .collect(),
            }),
            figures: figures::all(gathered)
                .into_iter()
                .map(|figure| (figure.name.to_owned(), figure.value))
                .collect(),
        }
    }
}

impl LogReport {
    fn new(gathered: &Gathered) -> Self {
        let log = &gathered.log;
        Self {
            epoch: gathered.epoch.to_string(),
            head: gathered.bounds.head,
            first: gathered.bounds.first,
            bytes: log.bytes,
            files: log.files,
            recovered_records: log.recovered,
            opened_in_seconds: log.opened_in.as_secs_f64(),
            sync_interval_seconds: log.sync_interval.as_ref().map(Duration::as_secs_f64),
            syncs: DurationReport::new(&log.syncs),
            commits: DurationReport::new(&gathered.writer.commits),
        }
    }
}

impl DurationReport {
    fn new(durations: &Durations) -> Self {
        let count = durations.count();
        let quantile = |share| {
            durations
                .quantile(share)
                .as_ref()
                .map(Duration::as_secs_f64)
        };
        Self {
            count,
            mean_seconds: durations.sum.as_secs_f64() / count.max(1) as f64,
            p50_seconds: quantile(0.5),
            p99_seconds: quantile(0.99),
        }
    }
}

impl SlowStream {
    fn new(status: &StreamStatus, gathered: &Gathered) -> Self {
        let kind = match status.peer {
            PeerKind::Plain => "plain",
            PeerKind::Profile => "profile",
            PeerKind::Refused => "refused",
            _ => "unknown",
        };
        let slowest = status.slowest.as_ref();
        Self {
            stream: status.stream.0,
            peer: gathered.peers.get(&status.stream).map(ToString::to_string),
            kind: kind.to_owned(),
            session: status.session.as_deref().map(str::to_owned),
            principal: status.principal.as_deref().map(str::to_owned),
            subscriptions: status.subscriptions,
            behind: status.behind,
            without_credit: status.without_credit,
            lag: status.lag,
            slowest: slowest.map(|(id, database, collection)| SlowSubscription {
                id: id.to_string(),
                database: database.to_string(),
                collection: collection.to_string(),
            }),
            queued_bytes: status.queued_bytes,
            queued_messages: status.queued_messages,
            blocked_seconds: status.blocked.as_secs_f64(),
        }
    }

    /// Returns what delays it, in words (docs/operations.md, "The slow subscriber").
    #[must_use]
    pub fn cause(&self) -> &'static str {
        if self.without_credit > 0 {
            "its application takes nothing"
        } else if self.blocked_seconds >= 1.0 {
            "the peer, or the network to it, takes no bytes"
        } else if self.behind > 0 {
            "it catches up, and the lag falls by itself"
        } else {
            "none: it is live"
        }
    }
}

impl ExpensiveFilter {
    fn new(cost: &FilterCost) -> Self {
        Self {
            database: cost.database.clone(),
            collection: cost.collection.clone(),
            filter: cost.filter.clone(),
            subscriptions: cost.subscriptions,
            cost_share: cost.cost_share,
            match_share: cost.match_share,
        }
    }
}

/// Returns the largest lag of each range, and the number of streams in it.
pub(super) fn lag_buckets(survey: &Survey) -> impl Iterator<Item = (Option<u64>, u64)> {
    let bounds = LAG_BOUNDS.into_iter().map(Some).chain([None]);
    bounds.zip(survey.lags)
}

/// Returns what an operator should know after damage has taken changes from the log.
pub(super) fn doubt(lost_changes: u64) -> Option<String> {
    (lost_changes > 0).then(|| {
        format!(
            "damage has taken {lost_changes} changes from the log: documents that are new or have not \
             changed since may be told as leaving filters that they never matched; restore the log from a \
             backup, or start a new one"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_changes_are_told_with_their_number_and_a_remedy() {
        assert_eq!(doubt(0), None);
        let text = doubt(7).unwrap();
        assert!(
            text.contains(" 7 changes ") && text.contains("backup"),
            "{text}"
        );
    }

    #[test]
    fn time_blocked_has_its_older_name_too_or_none() {
        let seconds = |name: &str| {
            let json = format!(
                r#"{{"stream":1,"kind":"plain","subscriptions":1,"behind":0,"withoutCredit":0,
                "lag":0,"queuedBytes":0,"queuedMessages":0,"{name}":1.5}}"#
            );
            serde_json::from_str::<SlowStream>(&json)
                .unwrap()
                .blocked_seconds
                .to_string()
        };
        for (name, expected) in [
            ("blockedSeconds", "1.5"),
            ("stalledSeconds", "1.5"),
            ("other", "0"),
        ] {
            assert_eq!(seconds(name), expected, "{name}");
        }
    }

    #[test]
    fn cause_of_a_slow_stream_is_the_first_that_explains_it() {
        for (behind, without_credit, blocked, expected) in [
            (1, 1, 8.0, "its application takes nothing"),
            (1, 0, 8.0, "the peer, or the network to it, takes no bytes"),
            (1, 0, 0.9, "it catches up, and the lag falls by itself"),
            (0, 0, 0.9, "none: it is live"),
        ] {
            let json = serde_json::json!({
                "stream": 1, "kind": "plain", "subscriptions": 1, "behind": behind,
                "withoutCredit": without_credit, "lag": 0, "queuedBytes": 0, "queuedMessages": 0,
                "blockedSeconds": blocked,
            });
            let stream: SlowStream = serde_json::from_value(json).unwrap();
            assert_eq!(stream.cause(), expected);
        }
    }
}
