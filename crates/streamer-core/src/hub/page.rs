//! A page of the log, on its way to the subscriptions that are behind.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    StreamId, backlog::Backlog, context::Context, delivery::OutgoingEvent, event_match::EventMatch,
    streams::Streams, subscription::Subscription, subscriptions::Subscriptions,
};
use crate::{Event, filter::Document, matcher::SubscriptionKey};

/// A page being matched and delivered.
#[derive(Debug)]
pub(super) struct Page {
    /// The streams that the page is for and that can still take events.
    streams: BTreeSet<StreamId>,
    /// The streams that the page is no longer for.
    released: Vec<StreamId>,
    /// The offset up to which the page was delivered.
    after: u64,
    /// The events after that offset.
    events: VecDeque<Arc<Event>>,
    /// The matching of the first event, if it has begun.
    current: Option<EventMatch>,
}

/// The part of a page that is delivered in one slice.
#[derive(Debug)]
struct Turn {
    /// Subscriptions at this offset or later take part.
    after: u64,
    /// Subscriptions with lower keys take part.
    bound: SubscriptionKey,
    /// The subscriptions that take part, if they are few.
    few: Option<Vec<SubscriptionKey>>,
    /// The streams whose queues are full, each with the offset that it reached.
    stopped: BTreeMap<StreamId, u64>,
}

impl Page {
    /// Creates a page of the events after an offset.
    pub(super) fn new(after: u64, streams: BTreeSet<StreamId>, events: Vec<Arc<Event>>) -> Self {
        Self {
            streams,
            released: Vec::new(),
            after,
            events: events.into(),
            current: None,
        }
    }

    /// Returns true if nothing is left to deliver.
    pub(super) fn is_done(&self) -> bool {
        self.streams.is_empty()
    }

    /// Returns the streams that the page was for.
    pub(super) fn into_streams(self) -> Vec<StreamId> {
        self.released
    }

    /// Delivers events until the budget is used up, the streams' queues are full, or the head is
    /// reached.
    ///
    /// After the events of the page come those in memory, if the page reaches so far. Without them a
    /// catch-up would never finish while others publish.
    pub(super) fn run(
        &mut self,
        budget: &mut u64,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        let mut turn = self.start_turn(budget, streams);
        let mut keys = Vec::new();
        while *budget > 0 && turn.stopped.len() < self.streams.len() {
            if self.events.is_empty() {
                self.events = cx.log.recent_after(self.after).into();
            }
            let Some(event) = self.events.front().cloned() else {
                // The head is reached, or the next events must be read.
                for id in &self.streams {
                    turn.stopped.entry(*id).or_insert(self.after);
                }
                break;
            };
            if !self.find(&event, &turn, budget, streams, subscriptions, &mut keys) {
                break;
            }
            turn.deliver(&event, &mut keys, budget, streams, subscriptions, cx);
            self.events.pop_front();
            self.after = event.offset;
        }
        self.finish_turn(turn, streams, subscriptions, cx);
    }

    fn start_turn(&mut self, budget: &mut u64, streams: &Streams) -> Turn {
        self.streams.retain(|id| streams.get(*id).is_some());
        let backlogs = || {
            let ids = self.streams.iter();
            ids.filter_map(|id| Some(&streams.get(*id)?.backlog))
        };
        let behind: usize = backlogs().map(Backlog::len).sum();
        // Each turn visits every cursor once or twice. Half of the budget is left for events, so that
        // a turn makes progress however many cursors there are.
        let cost = (behind / CURSORS_PER_COST) as u64;
        *budget = budget.saturating_sub(cost).max(budget.div_ceil(2));
        let ready: usize = backlogs().map(Backlog::ready_count).sum();
        let few = (self.current.is_none() && ready <= MAX_FEW).then(|| {
            let within = |backlog: &Backlog| backlog.ready_within(self.after..u64::MAX);
            backlogs().flat_map(within).collect()
        });
        Turn {
            after: self.after,
            bound: self
                .current
                .as_ref()
                .map_or(SubscriptionKey(u64::MAX), EventMatch::bound),
            few,
            stopped: BTreeMap::new(),
        }
    }

    /// Finds the subscriptions that get an event, or returns false if the budget does not suffice.
    ///
    /// Few subscriptions are evaluated one by one, which costs nothing for all others of the server;
    /// many are found through the matcher.
    fn find(
        &mut self,
        event: &Arc<Event>,
        turn: &Turn,
        budget: &mut u64,
        streams: &Streams,
        subscriptions: &Subscriptions,
        keys: &mut Vec<SubscriptionKey>,
    ) -> bool {
        let taking_part = |key: &SubscriptionKey| {
            let subscription = subscriptions.get(*key)?;
            let id = subscription.stream();
            let backlog = &streams.get(id)?.backlog;
            let takes_part = *key < turn.bound
                && self.streams.contains(&id)
                && backlog.wants(*key, turn.after, event.offset);
            takes_part.then_some(subscription)
        };
        if let Some(few) = &turn.few {
            let cost = 1 + few.len() + event.weight() / BYTES_PER_COST;
            *budget = budget.saturating_sub(cost as u64);
            let document = Document::of(event);
            keys.clear();
            keys.extend(few.iter().filter(|key| {
                taking_part(key).is_some_and(|subscription| subscription.matches(event, &document))
            }));
            // The order of the matcher: by kind of filter, then by age.
            keys.sort_by_key(|key| (subscriptions.get(*key).map(Subscription::rank), *key));
            return true;
        }
        let mut current = self
            .current
            .take()
            .unwrap_or_else(|| EventMatch::start(event, subscriptions, budget));
        if !current.run(subscriptions, budget) {
            self.current = Some(current);
            return false;
        }
        *keys = current.take_keys();
        keys.retain(|key| taking_part(key).is_some());
        true
    }

    /// Moves the cursors of all streams to where the page was delivered.
    fn finish_turn(
        &mut self,
        turn: Turn,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        cx.counters.page_events += self.after - turn.after;
        let head = cx.log.head();
        for id in &self.streams {
            let reached = turn.stopped.get(id).copied().unwrap_or(self.after);
            let Some(stream) = streams.get_mut(*id) else {
                continue;
            };
            for key in stream
                .backlog
                .advance(turn.after, reached, head, turn.bound)
            {
                cx.counters.caught_up += 1;
                if let Some(subscription) = subscriptions.get_mut(key) {
                    subscription.go_live(head, &stream.progress);
                }
            }
        }
        for id in turn.stopped.into_keys() {
            if self.streams.remove(&id) {
                self.released.push(id);
            }
        }
    }
}

impl Turn {
    /// Delivers an event.
    ///
    /// A stream whose queue cannot take it, or not for all subscriptions, stops before the event. The
    /// subscriptions that got it are moved past it, and the others read it again.
    fn deliver(
        &mut self,
        event: &Event,
        keys: &mut Vec<SubscriptionKey>,
        budget: &mut u64,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        let grouped = subscriptions.group(keys);
        *budget = budget.saturating_sub(grouped.len() as u64);
        let outgoing = (!grouped.is_empty())
            .then(|| OutgoingEvent::new(event, cx.log.written_in(event.offset)));
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
            let sent = outgoing.deliver(stream, keys, subscriptions, cx);
            if sent < keys.len() {
                self.stopped.insert(id, event.offset - 1);
                for key in &keys[..sent] {
                    stream.backlog.insert(*key, event.offset, true);
                }
            }
        }
    }
}

/// The maximum number of subscriptions that are evaluated one by one.
const MAX_FEW: usize = 64;
/// The bytes of an event that cost as much to decode as one candidate costs to evaluate.
const BYTES_PER_COST: usize = 64;
/// The number of cursors that cost as much to move as one candidate costs to evaluate.
const CURSORS_PER_COST: usize = 8;
