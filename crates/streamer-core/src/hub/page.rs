//! A page of the log, on its way to the subscriptions that are behind.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    StreamId,
    backlog::Backlog,
    context::Context,
    delivery::OutgoingEvent,
    event_match::{BYTES_PER_COST, EventMatch, MAX_IDS},
    stream::Stream,
    streams::Streams,
    subscription::Subscription,
    subscriptions::Subscriptions,
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
    /// The deliveries of the first event that are left, if it was matched.
    undelivered: Option<Undelivered>,
}

/// The deliveries of one event that are left.
///
/// An event with few matches is delivered in one turn. Between the turns of a larger one, subscriptions
/// get credit and fall behind, so those that did not want the event at first are considered again at
/// the end.
#[derive(Debug)]
struct Undelivered {
    /// The matches, in descending order of streams.
    matches: Vec<(StreamId, SubscriptionKey)>,
    /// The matches that did not want the event, in ascending order of streams.
    skipped: Vec<(StreamId, SubscriptionKey)>,
    /// The deliveries take more than one turn.
    is_large: bool,
    /// The key of the first subscription that was not matched.
    bound: SubscriptionKey,
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
            undelivered: None,
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
        // Subscriptions get credit, fall behind and go away between the turns, so that each turn
        // begins with a fresh look at the cursors.
        let mut turn = self.start_turn(budget, streams);
        while *budget > 0 && turn.stopped.len() < self.streams.len() {
            // Looked up anew each time, because others publish while the page is delivered.
            if self.events.is_empty() {
                let recent = cx.log.recent_after(self.after, cx.limits.page_events);
                self.events = recent.into();
            }
            let Some(event) = self.events.front().cloned() else {
                // The head is reached, or the next events must be read.
                for id in &self.streams {
                    turn.stopped.entry(*id).or_insert(self.after);
                }
                break;
            };
            let undelivered = self.undelivered.take();
            let Some(mut undelivered) = undelivered
                .or_else(|| self.find(&event, &turn, budget, (&*subscriptions, &mut *cx)))
            else {
                break;
            };
            let all = (&mut *streams, &mut *subscriptions, &mut *cx);
            // The event stays at the front and `after` before it, so that nobody counts it as read.
            if !turn.deliver(&event, &mut undelivered, budget, all) {
                self.undelivered = Some(undelivered);
                break;
            }
            self.events.pop_front();
            self.after = event.offset;
        }
        self.finish_turn(turn, streams, subscriptions, cx);
    }

    fn start_turn(&mut self, budget: &mut u64, streams: &Streams) -> Turn {
        // A stream that ended must not keep the page alive.
        self.streams.retain(|id| streams.get(*id).is_some());
        if let Some(undelivered) = &mut self.undelivered {
            undelivered.retain_streams(&self.streams);
        }
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
        let undelivered = self.undelivered.as_ref().map(|it| it.bound);
        // The bound of the event that is in progress holds for the whole turn: a later subscription
        // was not offered that event, so that its cursor must not move past it.
        let bound = undelivered.or(self.current.as_ref().map(EventMatch::bound));
        let few = (self.current.is_none() && ready <= MAX_FEW).then(|| {
            let within = |backlog: &Backlog| backlog.ready_within(self.after..u64::MAX);
            backlogs().flat_map(within).collect()
        });
        Turn {
            after: self.after,
            bound: bound.unwrap_or(SubscriptionKey(u64::MAX)),
            few,
            stopped: BTreeMap::new(),
        }
    }

    /// Finds the subscriptions that an event matches; `None` if the budget does not suffice.
    ///
    /// Few subscriptions are evaluated one by one, which costs nothing for all others of the server;
    /// many are found through the matcher, and so are those that want a large event: it hashes a list once,
    /// where each condition of each of them would search it.
    fn find(
        &mut self,
        event: &Arc<Event>,
        turn: &Turn,
        budget: &mut u64,
        (subscriptions, cx): (&Subscriptions, &mut Context),
    ) -> Option<Undelivered> {
        let mut bound = subscriptions.next_key();
        let mut keys = Vec::new();
        if let Some(few) = &turn.few
            && event.weight() <= FEW_WEIGHT_MAX
        {
            // At least 1, so that events without candidates use the budget up, too.
            let cost = 1 + few.len() + event.weight() / BYTES_PER_COST;
            *budget = budget.saturating_sub(cost as u64);
            let document = Document::of(event);
            // What they are told is decided at the delivery.
            let wanting = subscriptions.that_want_left(event);
            let wants_left = |key| wanting.is_some_and(|keys| keys.contains(key));
            let mut found: Vec<_> = few
                .iter()
                .filter_map(|key| match subscriptions.evaluate(*key, &document)? {
                    (rank, true) => Some((rank, *key)),
                    (rank, false) => wants_left(key).then_some((rank, *key)),
                })
                .collect();
            // The order of the matcher: by kind of filter, then by age.
            found.sort_unstable();
            keys.extend(found.into_iter().map(|(_, key)| key));
        } else {
            let mut current = self
                .current
                .take()
                .unwrap_or_else(|| EventMatch::start(event, subscriptions, budget));
            if !current.run(subscriptions, budget, &mut cx.profile) {
                self.current = Some(current);
                return None;
            }
            bound = current.bound();
            keys = current.take_keys();
        }
        let mut matches = subscriptions.group(&keys);
        matches.reverse();
        let mut undelivered = Undelivered {
            matches,
            skipped: Vec::new(),
            is_large: false,
            bound,
        };
        undelivered.retain_streams(&self.streams);
        undelivered.is_large = undelivered.matches.len() > MAX_IDS;
        Some(undelivered)
    }

    /// Moves the cursors of all streams to where the page was delivered.
    fn finish_turn(
        &mut self,
        turn: Turn,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        // Offsets and not matches: it counts the passes over the log (decision 0017).
        cx.counters.page_events += self.after - turn.after;
        let head = cx.log.head();
        for id in &self.streams {
            // A stream that stopped was not offered the events after that.
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
    /// Delivers an event and returns whether it was delivered to all.
    ///
    /// A stream whose queue cannot take it, or not for all subscriptions, stops before the event. The
    /// subscriptions that got it are moved past it, and the others read it again. A stream of which no
    /// subscription has credit left stops after the event.
    fn deliver(
        &mut self,
        event: &Event,
        undelivered: &mut Undelivered,
        budget: &mut u64,
        (streams, subscriptions, cx): (&mut Streams, &mut Subscriptions, &mut Context),
    ) -> bool {
        // Most events of a page match nothing, and need not be encoded.
        if undelivered.matches.is_empty() && undelivered.skipped.is_empty() {
            return true;
        }
        let outgoing = OutgoingEvent::new(event, cx);
        let mut keys = Vec::new();
        while let Some((id, _)) = undelivered.matches.last().copied() {
            // A small event overdraws the budget by at most one message of ids, and needs no state
            // between turns.
            if *budget == 0 && undelivered.is_large {
                return false;
            }
            let Some(stream) = streams.get_mut(id) else {
                undelivered.matches.pop();
                continue;
            };
            let wants = |key| self.wants(key, event, stream);
            // Taken even if the stream has stopped, so that the loop comes to the next stream.
            let is_whole = undelivered.take_part(id, &mut keys, wants);
            *budget = budget.saturating_sub(keys.len() as u64);
            if keys.is_empty() || self.stopped.contains_key(&id) {
                continue;
            }
            // Nothing of this part is sent. Cursors of earlier parts are past the event already.
            if stream.outbox.is_full() {
                self.stopped.insert(id, event.offset - 1);
                continue;
            }
            // Those without credit leave `keys`; `deliver` has put their cursors before the event.
            let sent = outgoing.deliver(stream, &mut keys, subscriptions, cx);
            let is_whole = is_whole && sent == keys.len();
            for key in &keys[..sent] {
                // At the head nothing is left to read, with or without credit.
                let goes_on = event.offset >= cx.log.head()
                    || subscriptions
                        .get(*key)
                        .is_some_and(Subscription::has_credit);
                // Otherwise `finish_turn` moves all cursors of the stream in one pass.
                if !is_whole || !goes_on {
                    stream.backlog.insert(*key, event.offset, goes_on);
                }
            }
            // The cursors of those that got it are past it already; `advance` never moves one back.
            if sent < keys.len() {
                self.stopped.insert(id, event.offset - 1);
            } else if is_whole && stream.backlog.ready_count() == 0 {
                self.stopped.insert(id, event.offset);
            }
        }
        if undelivered.skipped.is_empty() {
            return true;
        }
        let wants = |(id, key): &(StreamId, SubscriptionKey)| {
            let stream = streams.get(*id);
            stream.is_some_and(|stream| self.wants(*key, event, stream))
        };
        // Credit may have come, or a live subscription fallen behind at this event, since it was
        // skipped.
        undelivered.skipped.retain(wants);
        let mut again = Undelivered {
            matches: undelivered.skipped.drain(..).rev().collect(),
            skipped: Vec::new(),
            is_large: false,
            bound: undelivered.bound,
        };
        // Not large, so that it neither stops for the budget nor skips: the recursion is one deep.
        self.deliver(event, &mut again, budget, (streams, subscriptions, cx))
    }

    /// Returns true if an event is for a subscription: it is behind, has credit, and has not read it.
    fn wants(&self, key: SubscriptionKey, event: &Event, stream: &Stream) -> bool {
        key < self.bound && stream.backlog.wants(key, self.after, event.offset)
    }
}

impl Undelivered {
    /// Takes up to [`MAX_IDS`] subscriptions of a stream that want the event, and returns whether they
    /// are all of them and none will be considered again.
    fn take_part(
        &mut self,
        id: StreamId,
        keys: &mut Vec<SubscriptionKey>,
        wants: impl Fn(SubscriptionKey) -> bool,
    ) -> bool {
        keys.clear();
        while keys.len() < MAX_IDS
            && let Some((_, key)) = self.matches.pop_if(|(other, _)| *other == id)
        {
            if wants(key) {
                keys.push(key);
            } else if self.is_large {
                self.skipped.push((id, key));
            }
        }
        !self.is_large
    }

    fn retain_streams(&mut self, streams: &BTreeSet<StreamId>) {
        self.matches.retain(|(id, _)| streams.contains(id));
        self.skipped.retain(|(id, _)| streams.contains(id));
    }
}

/// The maximum number of subscriptions that are evaluated one by one.
const MAX_FEW: usize = 64;
/// The maximum weight of an event for which they are.
const FEW_WEIGHT_MAX: usize = 4 << 10;
/// The number of cursors that cost as much to move as one candidate costs to evaluate.
const CURSORS_PER_COST: usize = 8;
