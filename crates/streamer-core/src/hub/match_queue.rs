//! The events that wait to be matched.
//!
//! Matching an event can take long: it may have a hundred thousand candidates. The hub therefore
//! matches in slices with a budget, and its driver handles messages between the slices. Each
//! collection has a queue of its own. The queue with the lowest offset is served first, so that
//! deliveries follow the log, until it has used its share of the round; then the others get theirs. A
//! collection whose events are expensive to match thus delays only itself.
//!
//! When more events wait than the limits allow, the longest queues are dropped. Their collections are
//! *overloaded*: their events are read back from the log, a page at a time, until they have reached the
//! head again. Publishing never waits for them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    StreamId,
    context::Context,
    delivery::{OutgoingEvent, fall_behind},
    event_match::{EventMatch, MAX_IDS},
    page::Page,
    stream::Stream,
    streams::Streams,
    subscription::Subscription,
    subscriptions::Subscriptions,
};
use crate::{Event, matcher::SubscriptionKey};

/// The committed events and the pages that are not matched yet.
#[derive(Debug)]
pub(super) struct MatchQueue {
    /// The budget of one collection in one round: a part of a slice, so that one slice serves several
    /// collections.
    share: u64,
    pub(super) collections: BTreeMap<CollectionName, CollectionQueue>,
    /// The collections that have a share of this round left, by the offset of their first event.
    pub(super) ready: BTreeMap<u64, CollectionName>,
    /// The collections that have used their share of this round.
    pub(super) parked: BTreeMap<u64, CollectionName>,
    pages: VecDeque<Page>,
    /// The number of pages at the front that have a turn in this round.
    page_turns: usize,
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// The overloaded collections, each with the offset up to which its events were queued. Later ones
    /// are to be read from the log.
    pub(super) overloaded: BTreeMap<CollectionName, u64>,
    /// Nothing after this offset counts as matched.
    held_after: Option<u64>,
}

/// A database and a collection.
pub(super) type CollectionName = (Arc<str>, Arc<str>);

/// The events of one collection, ordered by offset. The first one may be partly matched.
#[derive(Debug)]
pub(super) struct CollectionQueue {
    pub(super) events: VecDeque<Arc<Event>>,
    pub(super) bytes: usize,
    pub(super) current: Option<LiveMatch>,
    /// The budget left in this round.
    share: u64,
}

/// The matching and delivery of one event.
#[derive(Debug)]
pub(super) struct LiveMatch {
    matching: EventMatch,
    /// The matches that are not delivered yet, in descending order of streams; `None` while the
    /// matching is incomplete.
    undelivered: Option<Vec<(StreamId, SubscriptionKey)>>,
}

impl MatchQueue {
    /// Creates an empty queue that is served in slices of this budget.
    pub(super) fn new(slice: u64) -> Self {
        Self {
            share: slice.div_ceil(4),
            collections: BTreeMap::new(),
            ready: BTreeMap::new(),
            parked: BTreeMap::new(),
            pages: VecDeque::new(),
            page_turns: 0,
            events: 0,
            bytes: 0,
            overloaded: BTreeMap::new(),
            held_after: None,
        }
    }

    /// Sets an offset after which nothing counts as matched, although it may be: peers must not be told a
    /// later position yet.
    pub(super) fn hold_after(&mut self, offset: Option<u64>) {
        self.held_after = offset;
    }

    /// Adds a committed event. If there are too many, the longest queues are dropped.
    pub(super) fn push(&mut self, event: &Arc<Event>, cx: &mut Context) {
        let name = name_of(event);
        // Queued now, it would overtake those that are still to be read from the log.
        if self.overloaded.contains_key(&name) {
            return;
        }
        self.enqueue(name, event);
        let (events, bytes) = (cx.limits.unmatched_events, cx.limits.unmatched_bytes);
        if self.events > events {
            let size = |queue: &CollectionQueue| queue.events.len();
            // Down to half, so that a full queue is not sorted again for every event.
            self.shed(size, |it| it.events > events / 2, cx);
        }
        if self.bytes > bytes {
            self.shed(|queue| queue.bytes, |it| it.bytes > bytes / 2, cx);
        }
    }

    pub(super) fn enqueue(&mut self, name: CollectionName, event: &Arc<Event>) {
        let weight = event.held_bytes();
        self.events += 1;
        self.bytes += weight;
        if let Some(queue) = self.collections.get_mut(&name) {
            queue.events.push_back(Arc::clone(event));
            queue.bytes += weight;
        } else {
            // At once and with a full share: a quiet collection must not wait for the round of busy
            // ones.
            self.ready.insert(event.offset, name.clone());
            let queue = CollectionQueue {
                events: VecDeque::from([Arc::clone(event)]),
                bytes: weight,
                current: None,
                share: self.share,
            };
            self.collections.insert(name, queue);
        }
    }

    /// Adds a page of a catch-up read.
    pub(super) fn push_page(&mut self, page: Page) {
        self.pages.push_back(page);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events == 0 && self.pages.is_empty()
    }

    /// Returns true if every committed event was matched.
    fn is_settled(&self) -> bool {
        self.events == 0 && self.overloaded.is_empty()
    }

    /// Returns the number of committed events in memory.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// Returns the size of the committed events in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the offset up to which every event of every collection was matched.
    pub(super) fn matched(&self, head: u64) -> u64 {
        // A collection is in one of the two maps at the offset of its first event, which may be
        // partly delivered.
        let first = |order: &BTreeMap<u64, _>| order.keys().next().map(|first| first - 1);
        let firsts = first(&self.ready).into_iter().chain(first(&self.parked));
        let overloaded = self.overloaded.values().copied();
        let bounds = overloaded.chain(self.held_after);
        firsts.chain(bounds).min().unwrap_or(head)
    }

    /// Returns the offset up to which every event of a subscription's collection was matched.
    pub(super) fn matched_of(&self, subscription: &Subscription, head: u64) -> u64 {
        let name = collection_of(subscription);
        let first = self
            .collections
            .get(&name)
            .and_then(|queue| queue.events.front());
        let read = || self.overloaded.get(&name).copied().unwrap_or(head);
        first.map_or_else(read, |first| first.offset - 1)
    }

    /// Returns the offset up to which every event for a stream was matched. Not exact, but never too
    /// high, for a stream with many subscriptions.
    pub(super) fn matched_for(
        &self,
        stream: &Stream,
        subscriptions: &Subscriptions,
        head: u64,
    ) -> u64 {
        // Asked at every heartbeat: one look-up per subscription would make acks of a large stream
        // expensive.
        if self.is_settled() || stream.subscriptions().len() > MAX_EXACT {
            return self.matched(head);
        }
        let found = stream.subscriptions().filter_map(|key| {
            let subscription = subscriptions.get(key)?;
            Some(self.matched_of(subscription, head))
        });
        found.chain(self.held_after).min().unwrap_or(head)
    }

    /// Makes every live subscription read from the log the events that it was not offered, and drops
    /// all committed events.
    pub(super) fn fall_back_to_log(
        &mut self,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        // Before the queues are cleared, which tell how far each subscription got.
        self.leave_to_streams(|_| true, u64::MAX, streams, subscriptions, cx);
        self.collections.clear();
        self.ready.clear();
        self.parked.clear();
        self.overloaded.clear();
        (self.events, self.bytes) = (0, 0);
    }

    /// Makes the chosen live subscriptions that were not offered everything up to an offset read it
    /// from the log.
    pub(super) fn leave_to_streams(
        &self,
        chosen: impl Fn(&Subscription) -> bool,
        upto: u64,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        let head = cx.log.head();
        for stream in streams.iter_mut() {
            let keys: Vec<_> = stream.subscriptions().collect();
            for key in keys {
                if !stream.backlog.contains(key)
                    && let Some(subscription) = subscriptions.get(key)
                    && chosen(subscription)
                {
                    let matched = self.matched_of(subscription, head);
                    // Some subscriptions already have an event that is partly delivered.
                    let offset = matched.max(subscription.handled());
                    if offset < upto {
                        fall_behind(stream, key, offset, subscriptions, cx);
                    }
                }
            }
        }
    }

    /// Matches events and delivers them until the budget of one slice is used up. Returns the pages
    /// that are done.
    pub(super) fn run_slice(
        &mut self,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) -> Vec<Page> {
        let mut done = Vec::new();
        let mut budget = cx.limits.slice;
        cx.counters.slices += u64::from(!self.is_empty());
        // Terminates: a collection or page that gets its turn uses budget or leaves the queue.
        while budget > 0 && !self.is_empty() {
            let before = budget;
            if let Some((_, name)) = self.ready.pop_first() {
                self.run_collection(name, &mut budget, streams, subscriptions, cx);
            } else if self.page_turns > 0
                && let Some(mut page) = self.pages.pop_front()
            {
                // After live events, as a page is for subscriptions that are late anyway, but in
                // every round, so that busy collections cannot starve it.
                self.page_turns -= 1;
                // Half a slice: a page serves many streams and begins its turn with a pass over
                // their cursors.
                let mut left = budget.min(2 * self.share);
                let given = left;
                page.run(&mut left, streams, subscriptions, cx);
                budget -= given - left;
                if page.is_done() {
                    done.push(page);
                } else {
                    self.pages.push_back(page);
                }
            } else {
                self.start_round();
            }
            cx.counters.match_cost += before - budget;
        }
        done
    }

    fn start_round(&mut self) {
        // `ready` is empty here, so that nothing is left in `parked`.
        std::mem::swap(&mut self.ready, &mut self.parked);
        for name in self.ready.values() {
            if let Some(queue) = self.collections.get_mut(name) {
                queue.share = self.share;
            }
        }
        self.page_turns = self.pages.len();
    }

    /// Works on the first event of a collection.
    fn run_collection(
        &mut self,
        name: CollectionName,
        budget: &mut u64,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        let Some(queue) = self.collections.get_mut(&name) else {
            return;
        };
        let Some(event) = queue.events.front() else {
            return;
        };
        let before = queue.share.min(*budget);
        let mut left = before;
        let current = queue.current.get_or_insert_with(|| LiveMatch {
            matching: EventMatch::start(event, subscriptions, &mut left),
            undelivered: None,
        });
        let done = current.run(&mut left, streams, subscriptions, cx);
        queue.share -= before - left;
        *budget -= before - left;
        if done {
            self.events -= 1;
            self.bytes -= event.held_bytes();
            queue.bytes -= event.held_bytes();
            // Before the next event is looked at, which must not be matched with the candidates of
            // this one.
            queue.current = None;
            queue.events.pop_front();
        }
        match queue.events.front() {
            None => {
                self.collections.remove(&name);
            }
            Some(first) if queue.share == 0 => {
                self.parked.insert(first.offset, name);
            }
            Some(first) => {
                self.ready.insert(first.offset, name);
            }
        }
    }
}

impl LiveMatch {
    /// Continues and returns whether the event was delivered to all.
    fn run(
        &mut self,
        budget: &mut u64,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) -> bool {
        let undelivered = if let Some(undelivered) = &mut self.undelivered {
            undelivered
        } else {
            if !self.matching.run(subscriptions, budget, &mut cx.profile) {
                return false;
            }
            // A condition is false for an event that cannot be decoded. The log accepts none.
            cx.counters.unreadable += u64::from(self.matching.is_unreadable());
            cx.counters.candidates += self.matching.candidates() as u64;
            let keys = self.matching.take_keys();
            cx.counters.matched += keys.len() as u64;
            let mut grouped = subscriptions.group(&keys);
            grouped.reverse();
            self.undelivered.insert(grouped)
        };
        if undelivered.is_empty() {
            return true;
        }
        let event = self.matching.event();
        let outgoing = OutgoingEvent::new(event, cx);
        let mut keys = Vec::new();
        while let Some((id, _)) = undelivered.last().copied() {
            if *budget == 0 {
                return false;
            }
            keys.clear();
            while keys.len() < MAX_IDS
                && let Some((_, key)) = undelivered.pop_if(|(other, _)| *other == id)
            {
                keys.push(key);
            }
            *budget = budget.saturating_sub(keys.len() as u64);
            if let Some(stream) = streams.get_mut(id) {
                // Subscriptions may have been removed, have fallen behind, or have read the event
                // from the log since the event was matched.
                keys.retain(|key| {
                    let subscription = subscriptions.get(*key);
                    subscription.is_some_and(|it| it.handled() < event.offset)
                        && !stream.backlog.contains(*key)
                });
                outgoing.deliver(stream, &mut keys, subscriptions, cx);
                // A first message in an empty queue starts the stall timeout.
                streams.arm(id, cx);
            }
        }
        true
    }
}

pub(super) fn name_of(event: &Event) -> CollectionName {
    (Arc::clone(&event.database), Arc::clone(&event.collection))
}

pub(super) fn collection_of(subscription: &Subscription) -> CollectionName {
    let (database, collection) = (subscription.database(), subscription.collection());
    (Arc::clone(database), Arc::clone(collection))
}

/// The maximum number of subscriptions of a stream that are looked at one by one.
const MAX_EXACT: usize = 64;
