//! The windows without conditions, in the order of their bounds.
//!
//! A change concerns a window if the document is within its bound after the change or was before. Without
//! conditions there is nothing else to find it by: the matcher would yield every window of the collection
//! for every change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    subscription::{CollectionName, Subscription},
    window::WindowState,
};
use crate::{
    Event, Operation, Previous,
    filter::{Document, FieldPath},
    matcher::SubscriptionKey,
    window::{Direction, Place, place},
};

/// The windows without conditions, by collection and order.
#[derive(Debug, Default)]
pub(super) struct WindowIndex {
    collections: BTreeMap<Arc<CollectionName>, BTreeMap<Order, Windows>>,
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

    /// Appends the windows that a change concerns, and returns the cost of finding them in candidates.
    ///
    /// If the document before the change is not known, that is none of them: every subscription that is
    /// told of documents that leave is then found without a search.
    pub(super) fn concerned(&self, event: &Event, out: &mut Vec<SubscriptionKey>) -> usize {
        // Most servers have none, and names would be compared for each event.
        if self.collections.is_empty() {
            return 0;
        }
        let name = (Arc::clone(&event.database), Arc::clone(&event.collection));
        let Some(orders) = self.collections.get(&name) else {
            return 0;
        };
        let before = match &event.previous {
            Previous::Unknown | Previous::At(_) => return 0,
            Previous::Nothing => None,
            Previous::Read(before) => Some(&**before),
        };
        let states = [Some(event), before].map(|state| {
            let exists = state.filter(|state| state.operation != Operation::Delete);
            exists.map(Document::of)
        });
        let found = out.len();
        for ((field, direction), windows) in orders {
            let places = states.iter().flatten();
            let places = places.map(|document| place(field, *direction, document));
            // Where it is not, it is not within a bound either.
            let Some(first) = places.min() else {
                continue;
            };
            out.extend(&windows.unbounded);
            let from = (Arc::new(first), SubscriptionKey(0));
            out.extend(windows.bounded.range(from..).map(|(_, key)| *key));
        }
        let read = states.iter().flatten().count() * event.weight() / BYTES_PER_COST;
        read + orders.len() + (out.len() - found) / FOUND_PER_COST
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

/// The bytes of a document that cost as much to parse in full as one candidate costs to evaluate.
const BYTES_PER_COST: usize = 16;
/// The number of windows that cost as much to walk over as one candidate costs to evaluate.
const FOUND_PER_COST: usize = 4;
