//! The matching of one event within a budget.

use std::sync::Arc;

use super::subscriptions::Subscriptions;
use crate::{
    Event,
    matcher::{COPIES_PER_COST, CostProfile, Matching, SubscriptionKey},
};

/// The matching of one event, which can stop and continue.
#[derive(Debug)]
pub(super) struct EventMatch {
    event: Arc<Event>,
    matching: Matching,
    /// The number of subscriptions in `keys` that were found without evaluation.
    unconditional: usize,
    keys: Vec<SubscriptionKey>,
    /// The key of the first subscription that was inserted after the start.
    bound: SubscriptionKey,
}

impl EventMatch {
    /// Looks up the candidates of an event.
    pub(super) fn start(
        event: &Arc<Event>,
        subscriptions: &Subscriptions,
        budget: &mut u64,
    ) -> Self {
        let mut matching = subscriptions.matcher().start(event);
        let mut keys = Vec::new();
        matching.take_unconditional(&mut keys);
        let cost = 1
            + event.weight() / BYTES_PER_COST
            + (matching.candidates() + keys.len()) / COPIES_PER_COST;
        *budget = budget.saturating_sub(cost as u64);
        Self {
            event: Arc::clone(event),
            matching,
            unconditional: keys.len(),
            keys,
            bound: subscriptions.next_key(),
        }
    }

    /// Continues and returns whether the matching is complete. Makes progress with any budget.
    pub(super) fn run(
        &mut self,
        subscriptions: &Subscriptions,
        budget: &mut u64,
        profile: &mut CostProfile,
    ) -> bool {
        let matcher = subscriptions.matcher();
        let complete = self.matching.run(matcher, budget, profile, &mut self.keys);
        if complete {
            // Groups are found in no particular order.
            self.matching.sort(&mut self.keys[self.unconditional..]);
            // A later subscription was not matched reliably: it may have taken over the slot of a
            // candidate that was removed.
            self.keys.retain(|key| *key < self.bound);
        }
        complete
    }

    pub(super) fn event(&self) -> &Arc<Event> {
        &self.event
    }

    pub(super) fn bound(&self) -> SubscriptionKey {
        self.bound
    }

    /// Returns true if the event's data could not be decoded.
    pub(super) fn is_unreadable(&self) -> bool {
        self.matching.fault().is_some()
    }

    /// Returns the number of subscriptions and filters that were looked up as possible matches.
    pub(super) fn candidates(&self) -> usize {
        self.matching.candidates() + self.unconditional
    }

    /// Returns the subscriptions found, in the order of the matcher.
    pub(super) fn take_keys(&mut self) -> Vec<SubscriptionKey> {
        std::mem::take(&mut self.keys)
    }
}

/// The bytes of an event that cost as much to decode as one candidate costs to evaluate.
pub(super) const BYTES_PER_COST: usize = 64;
/// The maximum number of subscriptions to which one slice delivers an event on one stream, in one
/// message. More get it in further messages, in later slices.
pub(super) const MAX_IDS: usize = 4_096;
