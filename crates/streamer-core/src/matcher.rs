//! The index that finds the subscriptions an event satisfies.
//!
//! ```text
//! database, collection ─┬─ document id ─> subscriptions
//!                       ├─ subscriptions without conditions
//!                       └─ groups of equal filters, found through one access condition each
//! ```
//!
//! Subscriptions with equal filters share one *group*. Each group is listed under one of its
//! conditions, its *access*: a value that a field must equal or contain, a range that the field must lie
//! in, or the mere presence of the field. An event looks up its own values, which yields the
//! *candidates*; only their remaining conditions are evaluated. The cost of an event therefore follows
//! its candidates and never the number of subscriptions, collections or documents (decision 0014).
//!
//! Matching can stop and continue: [`Matcher::start`] looks up the candidates and [`Matching::run`]
//! evaluates as many of them as its budget allows, so that a caller can do other work in between.

mod access;
mod choice;
mod collection;
mod condition;
mod field_index;
mod fields;
mod group;
mod ids;
mod intervals;
mod key_list;
mod lists;
mod matching;
mod members;
mod object;
mod postings;
mod profile;
mod scanner;
mod values;

use std::{collections::BTreeMap, sync::Arc};

pub(crate) use self::matching::COPIES_PER_COST;
use self::{
    collection::Collection,
    ids::{Slot, SlotKind},
};
pub use self::{
    matching::Matching,
    object::{Member, read_members},
    profile::{CostProfile, FilterCost},
};
use crate::{
    Event,
    arena::{Arena, is_sparse},
    filter::{Document, Filter, InvalidDocument, Selection},
};
use foldhash::quality::FixedState;
use hashbrown::HashMap;

/// Names a subscription within the server. Keys are given out in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionKey(pub u64);

/// The kind of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterKind {
    /// One document by its id.
    Document,
    /// Every document of the collection.
    Collection,
    /// The documents that satisfy conditions.
    Conditions,
}

impl FilterKind {
    pub(crate) fn of(filter: &Filter) -> Self {
        match filter.selection() {
            Selection::Document(_) => Self::Document,
            Selection::Collection => Self::Collection,
            Selection::Conditions(_) => Self::Conditions,
        }
    }
}

/// Finds the subscriptions that an event satisfies.
#[derive(Debug)]
pub struct Matcher {
    /// The indices in `collections`.
    names: BTreeMap<Arc<str>, BTreeMap<Arc<str>, usize>>,
    collections: Arena<Collection>,
    /// Only looked up, never iterated, so that its order cannot show.
    slots: HashMap<SubscriptionKey, (u32, Slot), FixedState>,
    /// The highest key so far.
    newest: SubscriptionKey,
    /// The serial number of the next collection.
    next_serial: u64,
    seed: u64,
}

impl Matcher {
    /// Creates a matcher without subscriptions.
    ///
    /// Clients choose the values that are hashed, so the seed should be secret where they are not
    /// trusted. Two matchers of one seed behave alike.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            names: BTreeMap::new(),
            collections: Arena::new(),
            slots: HashMap::with_hasher(FixedState::with_seed(seed)),
            newest: SubscriptionKey(0),
            next_serial: 0,
            seed,
        }
    }

    /// Returns the number of subscriptions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns whether there are no subscriptions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Inserts a subscription. A subscription of the same key is replaced.
    pub fn insert(
        &mut self,
        key: SubscriptionKey,
        database: &str,
        collection: &str,
        filter: &Filter,
    ) {
        // First, because the new filter may belong to another collection or another group. Keys mostly
        // rise, and a new one needs no look-up.
        if key <= self.newest {
            self.remove(key);
        }
        self.newest = self.newest.max(key);
        let index = self.collection_or_new(database, collection);
        let slot = self.collections[index].insert(key, filter);
        // There are never 2^32 collections: each has a subscription, and those fill memory first.
        self.slots.insert(key, (index as u32, slot));
    }

    /// Removes a subscription and returns whether it was there.
    pub fn remove(&mut self, key: SubscriptionKey) -> bool {
        let Some((index, slot)) = self.slots.remove(&key) else {
            return false;
        };
        if is_sparse(self.slots.len(), self.slots.capacity()) {
            self.slots.shrink_to(2 * self.slots.len());
        }
        let index = index as usize;
        let Some(collection) = self.collections.get_mut(index) else {
            return false;
        };
        collection.remove(key, slot);
        // Clients choose the names: empty collections would fill memory if they were kept.
        if collection.is_empty()
            && let Some(gone) = self.collections.remove(index)
            && let Some(inside) = self.names.get_mut(&gone.database)
        {
            inside.remove(&gone.name);
            if inside.is_empty() {
                self.names.remove(&gone.database);
            }
        }
        true
    }

    /// Returns the rank of a subscription's kind of filter in the order of [`matches`](Self::matches),
    /// and whether the event satisfies the filter. Looks at no other subscription, so that few of many
    /// are evaluated at little cost. `None` if the subscription is not known.
    ///
    /// A document that cannot be read satisfies no condition.
    pub(crate) fn evaluate(
        &self,
        key: SubscriptionKey,
        document: &Document<'_>,
    ) -> Option<(u8, bool)> {
        let (index, slot) = self.slots.get(&key)?;
        let collection = self.collections.get(*index as usize)?;
        let event = document.event();
        let is_inside =
            collection.database == event.database && collection.name == event.collection;
        Some((
            slot.kind().rank(),
            is_inside && collection.evaluate(*slot, document).unwrap_or(false),
        ))
    }

    /// Returns the kind of a subscription's filter, or `None` if the subscription is not known.
    pub(crate) fn kind(&self, key: SubscriptionKey) -> Option<FilterKind> {
        let (_, slot) = self.slots.get(&key)?;
        Some(match slot.kind() {
            SlotKind::Document(_) => FilterKind::Document,
            SlotKind::Whole => FilterKind::Collection,
            SlotKind::Group(_) => FilterKind::Conditions,
        })
    }

    /// Returns true if a subscription has this filter in this collection.
    pub(crate) fn has_filter(
        &self,
        key: SubscriptionKey,
        (database, name): (&str, &str),
        filter: &Filter,
    ) -> bool {
        let Some(&(index, slot)) = self.slots.get(&key) else {
            return false;
        };
        let inside = self.collections.get(index as usize);
        inside
            .filter(|it| *it.database == *database && *it.name == *name)
            // Filters are not kept as they came, but equal ones are in one list.
            .is_some_and(|inside| inside.find(filter) == Some(slot))
    }

    /// Looks up the candidates of an event. No condition is evaluated yet.
    #[must_use]
    pub fn start(&self, event: &Event) -> Matching {
        let mut matching = Matching::new();
        matching.start(self, event);
        matching
    }

    /// Appends the subscriptions that the event satisfies, each once: those of the document, those
    /// of the whole collection, then those with other filters; each kind in the order of keys.
    ///
    /// # Errors
    ///
    /// When there are filters to evaluate and the event's data is not a JSON object. The
    /// subscriptions of the first two kinds, which need no data, are appended nevertheless.
    pub fn matches(
        &self,
        event: &Event,
        out: &mut Vec<SubscriptionKey>,
    ) -> Result<(), InvalidDocument> {
        let mut matching = self.start(event);
        matching.finish(self, out);
        matching.into_fault().map_or(Ok(()), Err)
    }

    fn collection(&self, database: &str, name: &str) -> Option<(usize, &Collection)> {
        let index = *self.names.get(database)?.get(name)?;
        Some((index, self.collections.get(index)?))
    }

    fn collection_or_new(&mut self, database: &str, name: &str) -> usize {
        let known = self.names.get(database).and_then(|inside| inside.get(name));
        if let Some(&index) = known {
            return index;
        }
        let database: Arc<str> = self
            .names
            // All collections of a database share its name.
            .get_key_value(database)
            .map_or_else(|| database.into(), |(database, _)| Arc::clone(database));
        let name: Arc<str> = name.into();
        let collection = Collection::new(
            Arc::clone(&database),
            Arc::clone(&name),
            self.next_serial,
            self.seed,
        );
        // The index is given out again, so that a matching in progress needs more than the index
        // to know its collection.
        self.next_serial += 1;
        let index = self.collections.insert(collection);
        self.names.entry(database).or_default().insert(name, index);
        index
    }
}

#[cfg(test)]
mod tests;
