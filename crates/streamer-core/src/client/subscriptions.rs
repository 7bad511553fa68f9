//! The wanted subscriptions, by handle id and by wire id, and what is common to both kinds of peer.

use std::{
    collections::BTreeMap,
    ops::{Index, IndexMut},
};

use steadfast_session::{End, Initiator, Reason};
use steadfast_wire::streamer as wire;

use super::{
    Config, Counters, Cx, Event, GapReason, Limits, Refusal, Start, SubscribeOptions,
    SubscriptionId,
    cursor::Rejected,
    subscription::{Request, SubscribeState, Subscription},
    window::WindowState,
};
use crate::{
    Position,
    convert::LastNames,
    filter::{Filter, Spelling},
};

/// The wanted set. It outlives streams.
#[derive(Debug)]
pub(super) struct Subscriptions {
    session_id: String,
    pub(super) limits: Limits,
    max_rejections: u32,
    by_id: BTreeMap<SubscriptionId, Subscription>,
    /// The number of the newest request of the session.
    newest_request: u64,
    /// The number of the newest delivery.
    newest_delivery: u64,
    /// The operator spelling that the last plain peer accepted.
    pub(super) spelling: Spelling,
    pub(super) counters: Counters,
    pub(super) names: LastNames,
}

impl Subscriptions {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            session_id: config.session_id.clone(),
            limits: config.limits,
            max_rejections: config.max_rejections,
            by_id: BTreeMap::new(),
            newest_request: 0,
            newest_delivery: 0,
            spelling: Spelling::default(),
            counters: Counters::default(),
            names: LastNames::default(),
        }
    }

    pub(super) fn add(
        &mut self,
        id: SubscriptionId,
        database: String,
        collection: String,
        filter: Filter,
        (start, options): (Start, SubscribeOptions),
    ) {
        // The session id keeps apart the subscriptions of several clients on a plain server.
        let wire_id = format!("{}-{id}", self.session_id);
        let subscription =
            Subscription::new(id, wire_id, database, collection, filter, (start, options));
        let before = self.by_id.insert(id, subscription);
        debug_assert!(before.is_none(), "subscription {id} was made twice");
    }

    /// Removes a subscription, and returns whether the restoration waits for it.
    pub(super) fn remove(&mut self, id: SubscriptionId) -> bool {
        let removed = self.by_id.remove(&id);
        removed.is_some_and(|subscription| subscription.awaited)
    }

    pub(super) fn clear(&mut self) {
        self.by_id.clear();
    }

    /// Gives a subscription another id on the wire.
    pub(super) fn rename(&mut self, id: SubscriptionId) {
        // Any number that was never used makes the id new. Those of requests are at hand.
        let number = self.next_request();
        let wire_id = format!("{}-{id}.{number}", self.session_id);
        self[id].rename(wire_id);
    }

    /// Returns the subscription of a wire id, and counts an id that no subscription has.
    pub(super) fn find(&mut self, wire_id: &str) -> Option<SubscriptionId> {
        let id = self.find_uncounted(wire_id);
        self.counters.unknown_ids += u64::from(id.is_none());
        id
    }

    pub(super) fn find_uncounted(&self, wire_id: &str) -> Option<SubscriptionId> {
        // Read from the text: a table of texts would be another look-up in memory that no cache holds.
        let number = wire_id.strip_prefix(&*self.session_id)?.strip_prefix('-')?;
        let (number, is_first) = match number.split_once('.') {
            Some((number, _)) => (number, false),
            None => (number, true),
        };
        let id = SubscriptionId(number.parse().ok()?);
        let subscription = self.by_id.get(&id)?;
        // The first id follows from the number, so that the text in memory need not be read for most.
        let follows = is_first
            && subscription.renames == 0
            // Also "+7" and "07" are read as "7" is.
            && number.starts_with(|first: char| ('1'..='9').contains(&first));
        (follows || subscription.wire_id == wire_id).then_some(id)
    }

    /// Returns the window of a subscription, if it is wanted and has one.
    pub(super) fn window_mut(&mut self, id: SubscriptionId) -> Option<&mut WindowState> {
        self.get_mut(id)?.window.as_mut()
    }

    pub(super) fn get_mut(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn contains(&self, id: SubscriptionId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn ids(&self) -> Vec<SubscriptionId> {
        self.by_id.keys().copied().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.by_id.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Subscription> {
        self.by_id.values_mut()
    }

    pub(super) fn next_request(&mut self) -> u64 {
        self.newest_request += 1;
        self.newest_request
    }

    pub(super) fn next_delivery(&mut self) -> u64 {
        self.newest_delivery += 1;
        self.newest_delivery
    }

    /// Returns a subscription together with the counters, for calls that change both.
    pub(super) fn with_counters(
        &mut self,
        id: SubscriptionId,
    ) -> (&mut Subscription, &mut Counters) {
        let subscription = self.by_id.get_mut(&id).expect(KNOWN);
        (subscription, &mut self.counters)
    }

    /// Notes that the peer did not continue a subscription from its cursor.
    pub(super) fn reject(&mut self, id: SubscriptionId) -> Rejected {
        let max_rejections = self.max_rejections;
        self[id].cursor.reject(max_rejections)
    }

    /// Schedules a gap for every subscription that the application relies on.
    pub(super) fn set_pending_gaps(&mut self, reason: GapReason) {
        for subscription in self.by_id.values_mut() {
            // To the others nothing was promised yet, so nothing can be missing.
            if subscription.acknowledged {
                subscription.set_pending_gap(reason);
            }
        }
    }

    /// Forgets the state of every subscription on a stream that is gone.
    pub(super) fn on_stream_gone(&mut self) {
        for subscription in self.by_id.values_mut() {
            subscription.state = SubscribeState::NotSent;
            subscription.awaited = false;
        }
    }

    /// Marks a subscription as active, and reports the gap that precedes it. Returns whether the restoration
    /// waited for it.
    pub(super) fn acknowledge(
        &mut self,
        id: SubscriptionId,
        request: Request,
        position: Option<Position>,
        taken_over: bool,
        cx: &mut Cx,
    ) -> bool {
        self.counters.acknowledged += 1;
        self.counters.taken_over += u64::from(taken_over);
        let (subscription, counters) = self.with_counters(id);
        subscription.acknowledged = true;
        subscription.state = SubscribeState::Active {
            request: request.number,
            spelling: request.spelling,
            probed: false,
        };
        // Before the acknowledgement, which tells the application that the stream goes on.
        subscription.report_gap(counters, cx);
        cx.emit(Event::Subscribed {
            id,
            position,
            taken_over,
        });
        std::mem::take(&mut subscription.awaited)
    }

    /// Ends a subscription that the peer refused, and returns whether the restoration waits for it.
    pub(super) fn refuse(
        &mut self,
        id: SubscriptionId,
        permanent: bool,
        error: &str,
        cx: &mut Cx,
    ) -> bool {
        self.counters.refused += 1;
        // Removed before the event, so that a handle which reacts to it finds the id gone.
        let awaited = self.remove(id);
        let message = error.to_owned();
        let refusal = Refusal { permanent, message };
        cx.emit(Event::Refused { id, refusal });
        awaited
    }

    /// Ends the stream because the peer refused, for now, a subscription that the application
    /// relies on: the set must be restored as a whole, so the next attempt waits for the backoff.
    pub(super) fn fail_restore(&mut self, id: SubscriptionId, error: &str, cx: &mut Cx) {
        self.counters.refused += 1;
        let text = format!("subscription {}: {error}", self[id].wire_id);
        cx.fail(End::retry(Initiator::Peer, Reason::RestoreRefused(text)));
    }

    /// Returns an unsubscribe request. Only a peer with the profile answers it, by its number.
    pub(super) fn unsubscribe_request(
        &mut self,
        id: SubscriptionId,
        numbered: bool,
    ) -> wire::UnsubscribeRequest {
        let request = if numbered { self.next_request() } else { 0 };
        wire::UnsubscribeRequest {
            subscription_id: self[id].wire_id.clone(),
            request,
        }
    }
}

const KNOWN: &str = "ids come from the set and leave it last";

impl Index<SubscriptionId> for Subscriptions {
    type Output = Subscription;

    fn index(&self, id: SubscriptionId) -> &Subscription {
        self.by_id.get(&id).expect(KNOWN)
    }
}

impl IndexMut<SubscriptionId> for Subscriptions {
    fn index_mut(&mut self, id: SubscriptionId) -> &mut Subscription {
        self.by_id.get_mut(&id).expect(KNOWN)
    }
}
