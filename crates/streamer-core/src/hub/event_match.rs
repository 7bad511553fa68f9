//! The matching of one event within a budget.

use std::sync::Arc;

use super::{subscription::Subscription, subscriptions::Subscriptions, window_index::WindowSearch};
use crate::{
    Event, Previous,
    matcher::{COPIES_PER_COST, CostProfile, Matching, SubscriptionKey},
};

/// The matching of one event, which can stop and continue.
#[derive(Debug)]
pub(super) struct EventMatch {
    event: Arc<Event>,
    /// The search for windows without conditions, until it is done. They come first in `keys`, with the
    /// subscriptions of the whole collection.
    windows: Option<WindowSearch>,
    /// The number of bounds of windows that were found before the start.
    new_bounds: u64,
    matching: Matching,
    /// The number of subscriptions in `keys` that were found without evaluation.
    unconditional: usize,
    keys: Vec<SubscriptionKey>,
    /// The search for those whose filter the document may have left.
    left: LeftMatch,
    /// The key of the first subscription that was inserted after the start.
    bound: SubscriptionKey,
}

/// The search for subscriptions whose filter a document may have left.
#[derive(Debug)]
enum LeftMatch {
    /// There are none, or they were found.
    Done,
    /// It may be all that ask for it: the state of the document before is not known, or windows have
    /// changed.
    Any,
    /// The matching of the document before, and what it has found.
    Before(Box<Matching>, Vec<SubscriptionKey>),
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
        let mut cost = 1
            + event.weight() / BYTES_PER_COST
            + (matching.candidates() + keys.len()) / COPIES_PER_COST;
        let windows = WindowSearch::start(event, subscriptions.windows(), &mut cost);
        let left = LeftMatch::start(event, subscriptions, &mut cost);
        *budget = budget.saturating_sub(cost as u64);
        Self {
            event: Arc::clone(event),
            windows,
            new_bounds: subscriptions.windows().new_bounds(),
            matching,
            unconditional: keys.len(),
            keys,
            left,
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
        if let Some(search) = &mut self.windows {
            if !search.run(subscriptions.windows(), budget, &mut self.keys) {
                return false;
            }
            self.windows = None;
            self.unconditional = self.keys.len();
        }
        let matcher = subscriptions.matcher();
        if !self.matching.run(matcher, budget, profile, &mut self.keys) {
            return false;
        }
        if let LeftMatch::Before(matching, found) = &mut self.left
            && !matching.run(matcher, budget, profile, found)
        {
            return false;
        }
        // Groups are found in no particular order.
        self.matching.sort(&mut self.keys[self.unconditional..]);
        let mut left = std::mem::replace(&mut self.left, LeftMatch::Done);
        if self.new_bounds != subscriptions.windows().new_bounds() {
            // The bound of a window may now include what the search has passed. What each one is told is
            // decided at the delivery.
            left = LeftMatch::Any;
        }
        let left = left.finish(&self.event, subscriptions);
        if !left.is_empty() {
            let mut known = self.keys.clone();
            known.sort_unstable();
            let is_new = |key: &SubscriptionKey| known.binary_search(key).is_err();
            self.keys.extend(left.into_iter().filter(is_new));
            *budget = budget.saturating_sub((known.len() / COPIES_PER_COST) as u64);
        }
        // A later subscription was not matched reliably: it may have taken over the slot of a
        // candidate that was removed.
        self.keys.retain(|key| *key < self.bound);
        true
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

    /// Returns the subscriptions found, in the order of the matcher, and after them those whose filter the
    /// document may have left.
    pub(super) fn take_keys(&mut self) -> Vec<SubscriptionKey> {
        std::mem::take(&mut self.keys)
    }
}

impl LeftMatch {
    fn start(event: &Event, subscriptions: &Subscriptions, cost: &mut usize) -> Self {
        let Some(keys) = subscriptions.that_want_left(event) else {
            return Self::Done;
        };
        match &event.previous {
            Previous::Nothing => Self::Done,
            Previous::Unknown | Previous::At(_) => {
                *cost += keys.len() / COPIES_PER_COST;
                Self::Any
            }
            Previous::Read(before) => {
                // Those that are found without evaluation match after the event as well.
                let matching = subscriptions.matcher().start(before);
                *cost += before.weight() / BYTES_PER_COST + matching.candidates() / COPIES_PER_COST;
                Self::Before(Box::new(matching), Vec::new())
            }
        }
    }

    /// Returns the subscriptions that are to be told, unless the document still matches.
    fn finish(self, event: &Event, subscriptions: &Subscriptions) -> Vec<SubscriptionKey> {
        match self {
            Self::Done => Vec::new(),
            Self::Any => {
                let keys = subscriptions.that_want_left(event);
                keys.into_iter().flatten().copied().collect()
            }
            Self::Before(_, mut found) => {
                found.retain(|key| {
                    let subscription = subscriptions.get(*key);
                    subscription.is_some_and(Subscription::wants_left)
                });
                found.sort_unstable();
                found
            }
        }
    }
}

/// The bytes of an event that cost as much to decode as one candidate costs to evaluate.
pub(super) const BYTES_PER_COST: usize = 64;
/// The maximum number of subscriptions to which one slice delivers an event on one stream, in one
/// message. More get it in further messages, in later slices.
pub(super) const MAX_IDS: usize = 4_096;
