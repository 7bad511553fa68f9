//! A look at all streams, in slices, for operators.

use std::{sync::Arc, time::Duration};

use super::{
    Counters, Gauges, Hub, StreamId,
    stream::{Peer, Stream},
};
use crate::matcher::{FilterCost, SubscriptionKey};

/// A look at all streams: totals, and the streams that are furthest behind.
///
/// A server may have a hundred thousand streams, and one stream a hundred thousand subscriptions that
/// are behind. [`Hub::survey`] therefore visits a limited number in one call. What changes between two
/// calls is seen before or after its change.
///
/// ```
/// use steadfast_streamer_core::hub::{Hub, InitialState, Limits, Survey};
/// # use steadfast_streamer_core::{Bounds, Epoch, Terms};
/// # let initial = InitialState {
/// #     server_id: "s".to_owned(), terms: Terms::new(Epoch(1)), bounds: Bounds { first: 0, head: 0 }, seed: [0; 32],
/// # };
/// let hub = Hub::new(initial, Limits::default())?;
/// let mut survey = Survey::new(10);
/// while !hub.survey(&mut survey, 1_000) {}
/// assert_eq!(survey.gauges.streams, 0);
/// # Ok::<(), steadfast_streamer_core::hub::InvalidLimits>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survey {
    /// The current amounts, complete at the end.
    pub gauges: Gauges,
    /// The totals since the hub was created, at the end.
    pub counters: Counters,
    /// The slowest streams, the slowest first.
    pub slowest: Vec<StreamStatus>,
    /// The streams whose lag is at most each of [`LAG_BOUNDS`] and above the one before, and at last
    /// those above all.
    pub lags: [u64; LAG_BOUNDS.len() + 1],
    /// The sum of the lags of all streams.
    pub lag_sum: u64,
    /// The filters that use most of the cost of matching, the most expensive first.
    pub expensive: Vec<FilterCost>,
    /// The maximum length of `slowest` and of `expensive`.
    max_entries: usize,
    /// The stream to continue with.
    next: StreamId,
    /// The part of that stream that was visited.
    visited: Visited,
}

/// One stream, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStatus {
    /// The stream.
    pub stream: StreamId,
    /// The kind of peer.
    pub peer: PeerKind,
    /// The session that the stream holds, of a profile peer.
    pub session: Option<Arc<str>>,
    /// The principal of the peer, with a policy.
    pub principal: Option<Arc<str>>,
    /// The number of subscriptions.
    pub subscriptions: usize,
    /// The number of subscriptions that are behind.
    pub behind: usize,
    /// The number of subscriptions that are behind and have no credit: their applications do not take
    /// what was sent.
    pub without_credit: usize,
    /// The events between the slowest subscription and the head.
    pub lag: u64,
    /// Id, database and collection of the slowest subscription.
    pub slowest: Option<(Box<str>, Arc<str>, Arc<str>)>,
    /// Bytes queued and not sent.
    pub queued_bytes: usize,
    /// Messages queued and not sent.
    pub queued_messages: usize,
    /// The time since the peer took something from a queue that is not empty.
    pub blocked: Duration,
}

/// The kind of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerKind {
    /// It has sent nothing yet.
    Unknown,
    /// It speaks the plain protocol.
    Plain,
    /// It speaks the resume profile.
    Profile,
    /// It is being refused.
    Refused,
}

/// The subscriptions of a stream that were visited.
#[derive(Clone, Copy, Debug, Default)]
struct Visited {
    last: Option<SubscriptionKey>,
    /// The subscription with the lowest offset so far.
    lowest: Option<(u64, SubscriptionKey)>,
}

/// The lags by which [`Survey::lags`] counts streams, in events.
pub const LAG_BOUNDS: [u64; 7] = [0, 10, 100, 1_000, 10_000, 100_000, 1_000_000];

impl Survey {
    /// Begins a survey that keeps this number of streams and filters.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self {
            gauges: Gauges::default(),
            counters: Counters::default(),
            slowest: Vec::new(),
            lags: [0; LAG_BOUNDS.len() + 1],
            lag_sum: 0,
            expensive: Vec::new(),
            max_entries,
            next: StreamId(0),
            visited: Visited::default(),
        }
    }

    /// Returns the subscriptions behind and the lag of all streams but the slowest.
    #[must_use]
    pub fn others(&self) -> (usize, u64) {
        let behind = self.slowest.iter().map(|stream| stream.behind).sum();
        let lag = self.slowest.iter().map(|stream| stream.lag).sum();
        (
            self.gauges.behind.saturating_sub(behind),
            self.lag_sum.saturating_sub(lag),
        )
    }

    fn add(&mut self, status: StreamStatus) {
        let bucket = LAG_BOUNDS.partition_point(|bound| *bound < status.lag);
        self.lags[bucket] += 1;
        self.lag_sum += status.lag;
        // A peer that leaves its queue unread is not behind before the queue is full.
        let slowness = |it: &StreamStatus| (it.lag, it.queued_bytes);
        if slowness(&status) == (0, 0) {
            return;
        }
        let at = self
            .slowest
            .partition_point(|other| slowness(other) >= slowness(&status));
        if at < self.max_entries {
            self.slowest.insert(at, status);
            self.slowest.truncate(self.max_entries);
        }
    }
}

impl Hub {
    /// Continues a survey and returns true at its end. Visits at most `budget` streams and subscriptions
    /// that are behind, and at least one.
    #[must_use]
    pub fn survey(&self, survey: &mut Survey, budget: usize) -> bool {
        let mut left = budget.max(1);
        for stream in self.streams.from(survey.next) {
            if left == 0 {
                return false;
            }
            if stream.id() != survey.next {
                survey.visited = Visited::default();
                survey.next = stream.id();
            }
            let Visited { last, lowest } = &mut survey.visited;
            for (key, offset) in stream.backlog.after(*last).take(left) {
                left -= 1;
                *last = Some(key);
                if lowest.is_none_or(|(lowest, _)| offset < lowest) {
                    *lowest = Some((offset, key));
                }
            }
            // The stream itself counts last: a call with a budget of 1 makes progress.
            let Some(rest) = left.checked_sub(1) else {
                return false;
            };
            left = rest;
            let status = self.status(stream, *lowest);
            survey.gauges.add_stream(stream);
            survey.add(status);
            survey.next = StreamId(stream.id().0 + 1);
            survey.visited = Visited::default();
        }
        let visited = survey.gauges;
        survey.gauges = Gauges {
            profile_streams: visited.profile_streams,
            behind: visited.behind,
            queued_bytes: visited.queued_bytes,
            queued_messages: visited.queued_messages,
            ..self.quick_gauges()
        };
        survey.counters = self.cx.counters;
        let matcher = self.subscriptions.matcher();
        survey.expensive = self.cx.profile.most_expensive(matcher, survey.max_entries);
        true
    }

    fn status(&self, stream: &Stream, lowest: Option<(u64, SubscriptionKey)>) -> StreamStatus {
        let (peer, session) = match stream.peer() {
            Peer::Unknown => (PeerKind::Unknown, None),
            Peer::Plain => (PeerKind::Plain, None),
            Peer::Profile(profile) => (PeerKind::Profile, Some(Arc::clone(&profile.session))),
            Peer::Refused { .. } => (PeerKind::Refused, None),
        };
        let slowest = lowest.and_then(|(_, key)| {
            let it = self.subscriptions.get(key)?;
            let (database, collection) = (Arc::clone(it.database()), Arc::clone(it.collection()));
            Some((it.id().into(), database, collection))
        });
        let queued_messages = stream.outbox.messages();
        StreamStatus {
            stream: stream.id(),
            peer,
            session,
            principal: stream.access().map(|it| Arc::clone(&it.owner)),
            subscriptions: stream.subscriptions().len(),
            behind: stream.backlog.len(),
            without_credit: stream.backlog.len() - stream.backlog.ready_count(),
            lag: lowest.map_or(0, |(offset, _)| self.cx.log.head().saturating_sub(offset)),
            slowest,
            queued_bytes: stream.outbox.bytes(),
            queued_messages,
            blocked: if queued_messages == 0 {
                Duration::ZERO
            } else {
                self.cx.now - stream.outbox.moved()
            },
        }
    }
}

impl Gauges {
    /// Adds what a stream holds.
    pub(super) fn add_stream(&mut self, stream: &Stream) {
        self.profile_streams += usize::from(stream.is_profile());
        self.behind += stream.backlog.len();
        self.queued_bytes += stream.outbox.bytes();
        self.queued_messages += stream.outbox.messages();
    }
}
