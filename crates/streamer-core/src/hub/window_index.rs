//! The windows without conditions, in the order of their bounds.
//!
//! A change concerns a window if the document is within its bound after the change or was before. Without
//! conditions there is nothing else to find it by: the matcher would yield every window of the collection
//! for every change.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use serde_json::{Map, Value as Json};

use super::{
    subscription::{CollectionName, Subscription},
    window::WindowState,
};
use crate::{
    Event, Operation, Previous,
    filter::{Document, FieldPath},
    matcher::SubscriptionKey,
    window::{Direction, Place},
};

/// The windows without conditions, by collection and order.
#[derive(Debug, Default)]
pub(super) struct WindowIndex {
    collections: BTreeMap<Arc<CollectionName>, BTreeMap<Order, Windows>>,
    new_bounds: u64,
}

/// What a window is ordered by.
type Order = (FieldPath, Direction);

/// The windows of one order.
#[derive(Debug, Default)]
struct Windows {
    /// Those without a bound, whose clients have all documents.
    unbounded: BTreeSet<SubscriptionKey>,
    bounded: BTreeSet<(Arc<Place>, SubscriptionKey)>,
}

impl WindowIndex {
    /// Adds a subscription if it is a window without conditions. Returns whether it is one.
    pub(super) fn insert(&mut self, subscription: &Subscription) -> bool {
        let Some(window) = subscription.unconditional_window() else {
            return false;
        };
        let name = Arc::clone(subscription.name());
        let orders = self.collections.entry(name).or_default();
        let windows = orders.entry(order(window)).or_default();
        match window.bound() {
            (Some(bound), _) => {
                let entry = (Arc::clone(bound), subscription.key());
                windows.bounded.insert(entry);
            }
            (None, _) => {
                windows.unbounded.insert(subscription.key());
            }
        }
        true
    }

    /// Removes a subscription, whose bound is the one with which it was inserted.
    pub(super) fn remove(&mut self, subscription: &Subscription) {
        let Some(window) = subscription.unconditional_window() else {
            return;
        };
        let Some(orders) = self.collections.get_mut(subscription.name()) else {
            return;
        };
        let order = order(window);
        if let Some(windows) = orders.get_mut(&order) {
            match window.bound() {
                (Some(bound), _) => {
                    let entry = (Arc::clone(bound), subscription.key());
                    windows.bounded.remove(&entry);
                }
                (None, _) => {
                    windows.unbounded.remove(&subscription.key());
                }
            }
            // Clients choose the orders: empty ones would fill memory if they were kept.
            if windows.unbounded.is_empty() && windows.bounded.is_empty() {
                orders.remove(&order);
            }
        }
        if orders.is_empty() {
            self.collections.remove(subscription.name());
        }
    }

    /// Notes that a window of before has got a bound, which may be further than the one with which a search
    /// that is in progress has passed it.
    pub(super) fn note_new_bound(&mut self) {
        self.new_bounds += 1;
    }

    /// Returns the number of bounds noted so far.
    pub(super) fn new_bounds(&self) -> u64 {
        self.new_bounds
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.collections.is_empty()
    }
}

fn order(window: &WindowState) -> Order {
    let (field, direction) = window.order();
    (field.clone(), direction)
}

/// The search for the windows that a change concerns, which can stop and continue.
///
/// The windows of one order are found in one piece: finding one is little more than copying its key. Between
/// two orders windows may come, go, and move their bounds. One that stays is found with the bound that it has
/// when its order is searched.
#[derive(Debug)]
pub(super) struct WindowSearch {
    collection: CollectionName,
    document_id: Arc<str>,
    /// The fields of the document after the change and before it, where it existed.
    states: Vec<Map<String, Json>>,
    /// The order that was searched last.
    last: Option<Order>,
}

impl WindowSearch {
    /// Reads the document of a change, and adds the cost of that in candidates. `None` if there is nothing to
    /// search.
    ///
    /// If the document before the change is not known, that is so, too: every subscription that is told of
    /// documents that leave is then found without a search.
    pub(super) fn start(event: &Event, index: &WindowIndex, cost: &mut usize) -> Option<Self> {
        // Most servers have none, and names would be compared for each event.
        if index.collections.is_empty() {
            return None;
        }
        let collection = (Arc::clone(&event.database), Arc::clone(&event.collection));
        if !index.collections.contains_key(&collection) {
            return None;
        }
        let before = match &event.previous {
            Previous::Unknown | Previous::At(_) => return None,
            Previous::Nothing => None,
            Previous::Read(before) => Some(&**before),
        };
        let states = [Some(event), before].into_iter().flatten();
        let states = states.filter(|state| state.operation != Operation::Delete);
        // Owned, so that they are parsed once, however often the search stops. A document that cannot be read
        // has no fields.
        let states: Vec<_> = states
            .map(|state| Document::of(state).into_fields().unwrap_or_default())
            .collect();
        *cost += states.len() * event.weight() / BYTES_PER_COST;
        Some(Self {
            collection,
            document_id: Arc::clone(&event.document_id),
            states,
            last: None,
        })
    }

    /// Searches orders until none is left or the budget is used up, appends the windows found, and returns
    /// whether it is done. At least one order is searched.
    pub(super) fn run(
        &mut self,
        index: &WindowIndex,
        budget: &mut u64,
        out: &mut Vec<SubscriptionKey>,
    ) -> bool {
        let Some(orders) = index.collections.get(&self.collection) else {
            // The last window has gone.
            return true;
        };
        let from = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        for (order, windows) in orders.range((from, Bound::Unbounded)) {
            let found = out.len();
            self.search(order, windows, out);
            let cost = COST_PER_ORDER + (out.len() - found) / FOUND_PER_COST;
            *budget = budget.saturating_sub(cost as u64);
            if *budget == 0 {
                self.last = Some(order.clone());
                return false;
            }
        }
        true
    }

    /// Appends the windows of one order that have, or had, the document within their bounds.
    fn search(
        &self,
        (field, direction): &Order,
        windows: &Windows,
        out: &mut Vec<SubscriptionKey>,
    ) {
        let places = self.states.iter().map(|fields| {
            let value = field.find(fields);
            Place::of(*direction, value, &self.document_id)
        });
        // Where the document is not, it is not within a bound either.
        let Some(first) = places.min() else {
            return;
        };
        out.extend(&windows.unbounded);
        let from = (Arc::new(first), SubscriptionKey(0));
        out.extend(windows.bounded.range(from..).map(|(_, key)| *key));
    }
}

/// The cost of an order without windows to be found, in candidates: two look-ups in the document and one in
/// the index.
pub(super) const COST_PER_ORDER: usize = 8;
/// The bytes of a document that cost as much to parse in full as one candidate costs to evaluate.
const BYTES_PER_COST: usize = 16;
/// The number of windows that cost as much to walk over as one candidate costs to evaluate.
const FOUND_PER_COST: usize = 4;
