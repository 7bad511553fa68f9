//! The delivery of a page of the log to the subscriptions that are behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    StreamId, backlog::Backlog, context::Context, delivery::OutgoingEvent, streams::Streams,
    subscription::Subscription, subscriptions::Subscriptions,
};
use crate::{Event, filter::Document, matcher::SubscriptionKey};

/// A page being delivered.
#[derive(Debug)]
pub(super) struct Page {
    /// The offset that the page was read after.
    after: u64,
    /// The streams that the page is for.
    streams: BTreeSet<StreamId>,
    /// The subscriptions that the page is for, if they are few.
    few: Option<Vec<SubscriptionKey>>,
    /// The offset of the last event that was matched.
    matched: u64,
    /// The streams whose queues are full, each with the offset that it reached.
    stopped: BTreeMap<StreamId, u64>,
    deliveries: usize,
}

impl Page {
    pub(super) fn new(after: u64, ids: &[StreamId], streams: &Streams) -> Self {
        Self {
            after,
            streams: ids.iter().copied().collect(),
            few: few(after, ids, streams),
            matched: after,
            stopped: BTreeMap::new(),
            deliveries: 0,
        }
    }

    /// Delivers the events of the page and then those in memory, if the page reaches so far. Without
    /// the latter a catch-up would never finish while others publish.
    pub(super) fn deliver(
        mut self,
        events: &[Arc<Event>],
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        self.deliver_all(events, streams, subscriptions, cx);
        if self.goes_on() {
            let recent = cx.log.recent_after(self.matched);
            self.deliver_all(&recent, streams, subscriptions, cx);
        }
        self.finish(streams, subscriptions, cx);
    }

    fn goes_on(&self) -> bool {
        self.deliveries < DELIVERIES_PER_PAGE && self.stopped.len() < self.streams.len()
    }

    fn deliver_all(
        &mut self,
        events: &[Arc<Event>],
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        for event in events {
            if !self.goes_on() {
                return;
            }
            self.deliver_event(event, streams, subscriptions, cx);
        }
    }

    /// Delivers the next event.
    ///
    /// A stream whose queue cannot take it, or not for all subscriptions, stops before the event. The
    /// subscriptions that got it are moved past it, and the others read it again.
    fn deliver_event(
        &mut self,
        event: &Event,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        let mut keys = Vec::new();
        self.find(event, streams, subscriptions, &mut keys);
        let mut grouped = Vec::new();
        subscriptions.group(&keys, &mut grouped);
        let outgoing = (!grouped.is_empty()).then(|| OutgoingEvent::new(event, cx.log.epoch()));
        for group in grouped.chunk_by(|one, other| one.0 == other.0) {
            let id = group[0].0;
            let (Some(outgoing), Some(stream)) = (&outgoing, streams.get_mut(id)) else {
                continue;
            };
            if self.stopped.contains_key(&id) {
                continue;
            }
            if stream.outbox.is_full() {
                self.stopped.insert(id, event.offset - 1);
                continue;
            }
            keys.clear();
            keys.extend(group.iter().map(|(_, key)| *key));
            self.deliveries += 1;
            let sent = outgoing.deliver(stream, &mut keys, subscriptions, cx);
            if sent < keys.len() {
                self.stopped.insert(id, event.offset - 1);
                for key in &keys[..sent] {
                    stream.backlog.insert(*key, event.offset, true);
                }
            }
        }
        self.matched = event.offset;
    }

    /// Finds the subscriptions that get an event of the page.
    ///
    /// Few subscriptions are evaluated one by one, which costs nothing for all others of the server;
    /// many are found through the matcher.
    fn find(
        &self,
        event: &Event,
        streams: &Streams,
        subscriptions: &Subscriptions,
        keys: &mut Vec<SubscriptionKey>,
    ) {
        let wanting = |key: &SubscriptionKey| {
            let subscription = subscriptions.get(*key)?;
            let id = subscription.stream();
            let wants = self.streams.contains(&id)
                && streams
                    .get(id)?
                    .backlog
                    .wants(*key, self.after, event.offset);
            wants.then_some(subscription)
        };
        let Some(few) = &self.few else {
            // An unreadable event was counted when it was committed.
            subscriptions
                .matcher()
                .matches(event, keys)
                .unwrap_or_default();
            keys.retain(|key| wanting(key).is_some());
            return;
        };
        let document = Document::of(event);
        keys.extend(few.iter().filter(|key| {
            wanting(key).is_some_and(|subscription| subscription.matches(event, &document))
        }));
        // The order of the matcher: by kind of filter, then by age.
        keys.sort_by_key(|key| (subscriptions.get(*key).map(Subscription::rank), *key));
    }

    /// Moves the cursors of all streams to where the page was delivered.
    fn finish(self, streams: &mut Streams, subscriptions: &mut Subscriptions, cx: &mut Context) {
        cx.counters.page_events += self.matched - self.after;
        for id in &self.streams {
            let reached = self.stopped.get(id).copied().unwrap_or(self.matched);
            let Some(stream) = streams.get_mut(*id) else {
                continue;
            };
            for key in stream.backlog.advance(self.after, reached, cx.log.head()) {
                cx.counters.caught_up += 1;
                if let Some(subscription) = subscriptions.get_mut(key) {
                    subscription.go_live(&stream.progress);
                }
            }
        }
    }
}

/// Returns the subscriptions that a page read after `after` is for, if they are few.
fn few(after: u64, ids: &[StreamId], streams: &Streams) -> Option<Vec<SubscriptionKey>> {
    let backlogs = || ids.iter().filter_map(|id| Some(&streams.get(*id)?.backlog));
    let count: usize = backlogs().map(Backlog::ready_count).sum();
    let within = || backlogs().flat_map(|backlog| backlog.ready_within(after..u64::MAX));
    (count <= MAX_FEW).then(|| within().collect())
}

/// The maximum number of subscriptions that are evaluated one by one.
const MAX_FEW: usize = 64;
/// The number of deliveries after which a page is cut: the hub does nothing else meanwhile.
const DELIVERIES_PER_PAGE: usize = 4_096;
