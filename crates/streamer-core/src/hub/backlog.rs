//! Which subscriptions of a stream are behind, and where.

use std::{collections::BTreeMap, ops::Range};

use crate::matcher::SubscriptionKey;

/// The subscriptions of one stream that are behind: a few dozen bytes for each.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    places: BTreeMap<SubscriptionKey, Place>,
    ready: usize,
}

/// Everything up to the offset was delivered or did not match.
#[derive(Clone, Copy, Debug)]
struct Place {
    upto: u64,
    /// Whether it has credit.
    ready: bool,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn contains(&self, key: SubscriptionKey) -> bool {
        self.places.contains_key(&key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = SubscriptionKey> {
        self.places.keys().copied()
    }

    /// How many of them have credit.
    pub(super) fn ready_count(&self) -> usize {
        self.ready
    }

    /// The lowest place of all.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.places.values().map(|place| place.upto).min()
    }

    /// Puts a subscription at a place, whether it was behind before or not.
    pub(super) fn insert(&mut self, key: SubscriptionKey, upto: u64, ready: bool) {
        let older = self.places.insert(key, Place { upto, ready });
        self.ready -= usize::from(older.is_some_and(|older| older.ready));
        self.ready += usize::from(ready);
    }

    pub(super) fn remove(&mut self, key: SubscriptionKey) {
        let older = self.places.remove(&key);
        self.ready -= usize::from(older.is_some_and(|older| older.ready));
    }

    /// The subscription has credit now.
    pub(super) fn ready(&mut self, key: SubscriptionKey) {
        if let Some(place) = self.places.get_mut(&key) {
            self.ready += usize::from(!place.ready);
            place.ready = true;
        }
    }

    #[cfg(test)]
    pub(super) fn is_ready(&self, key: SubscriptionKey) -> bool {
        let counted = self.places.values().filter(|place| place.ready).count();
        assert_eq!(counted, self.ready);
        self.places.get(&key).is_some_and(|place| place.ready)
    }

    /// Whether a page read after `after` is for this subscription, as to the event at `offset`.
    pub(super) fn takes(&self, key: SubscriptionKey, after: u64, offset: u64) -> bool {
        self.places
            .get(&key)
            .is_some_and(|place| place.ready && place.upto >= after && place.upto < offset)
    }

    /// The lowest place of those with credit.
    pub(super) fn lowest_ready(&self) -> Option<u64> {
        if self.ready == 0 {
            return None;
        }
        let ready = self.places.values().filter(|place| place.ready);
        ready.map(|place| place.upto).min()
    }

    /// The subscriptions with credit whose place is in the range.
    pub(super) fn ready_within(&self, range: Range<u64>) -> Vec<SubscriptionKey> {
        let within = |place: &Place| place.ready && range.contains(&place.upto);
        let places = self.places.iter().filter(|(_, place)| within(place));
        places.map(|(key, _)| *key).collect()
    }

    /// Everything after `after` up to `upto` was looked at for those with credit. Returns those that
    /// are no longer behind.
    pub(super) fn advance(&mut self, after: u64, upto: u64, head: u64) -> Vec<SubscriptionKey> {
        let mut arrived = Vec::new();
        self.places.retain(|key, place| {
            if place.ready && place.upto >= after {
                place.upto = place.upto.max(upto);
                if place.upto >= head {
                    arrived.push(*key);
                    return false;
                }
            }
            true
        });
        self.ready -= arrived.len();
        arrived
    }
}
