//! The subscriptions of one stream that are behind.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
};

use crate::matcher::SubscriptionKey;

/// The cursors of the subscriptions that are behind: a few dozen bytes for each.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    cursors: BTreeMap<SubscriptionKey, Cursor>,
    /// The number of cursors that are ready.
    ready: usize,
}

/// The progress of one subscription through the log.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// Every event up to here was delivered or did not match.
    offset: u64,
    /// The subscription has credit.
    ready: bool,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.cursors.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    pub(super) fn contains(&self, key: SubscriptionKey) -> bool {
        self.cursors.contains_key(&key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = SubscriptionKey> {
        self.cursors.keys().copied()
    }

    /// Returns the number of subscriptions with credit.
    pub(super) fn ready_count(&self) -> usize {
        self.ready
    }

    /// Returns the subscriptions after `key`, each with its offset.
    pub(super) fn after(
        &self,
        key: Option<SubscriptionKey>,
    ) -> impl Iterator<Item = (SubscriptionKey, u64)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let cursors = self.cursors.range((from, Bound::Unbounded));
        cursors.map(|(key, cursor)| (*key, cursor.offset))
    }

    /// Returns the lowest offset of all subscriptions.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.cursors.values().map(|cursor| cursor.offset).min()
    }

    /// Returns the lowest offset of the subscriptions with credit.
    pub(super) fn lowest_ready(&self) -> Option<u64> {
        if self.ready == 0 {
            return None;
        }
        let ready = self.cursors.values().filter(|cursor| cursor.ready);
        ready.map(|cursor| cursor.offset).min()
    }

    /// Sets the cursor of a subscription, whether or not it was behind before.
    pub(super) fn insert(&mut self, key: SubscriptionKey, offset: u64, ready: bool) {
        // Counted here, because pages ask for the number at every event.
        let older = self.cursors.insert(key, Cursor { offset, ready });
        self.ready -= usize::from(older.is_some_and(|older| older.ready));
        self.ready += usize::from(ready);
    }

    pub(super) fn remove(&mut self, key: SubscriptionKey) {
        let older = self.cursors.remove(&key);
        self.ready -= usize::from(older.is_some_and(|older| older.ready));
    }

    /// Notes that the subscription, if it is behind, has credit.
    pub(super) fn set_ready(&mut self, key: SubscriptionKey) {
        if let Some(cursor) = self.cursors.get_mut(&key) {
            self.ready += usize::from(!cursor.ready);
            cursor.ready = true;
        }
    }

    #[cfg(test)]
    pub(super) fn is_ready(&self, key: SubscriptionKey) -> bool {
        let counted = self.cursors.values().filter(|cursor| cursor.ready).count();
        assert_eq!(counted, self.ready);
        self.cursors.get(&key).is_some_and(|cursor| cursor.ready)
    }

    /// Returns true if the event at `offset`, in a page read after `after`, is for this subscription.
    pub(super) fn wants(&self, key: SubscriptionKey, after: u64, offset: u64) -> bool {
        self.cursors
            .get(&key)
            // A cursor before the page would miss the events between; its stream gets another page
            // for it.
            .is_some_and(|cursor| cursor.ready && cursor.offset >= after && cursor.offset < offset)
    }

    /// Returns the subscriptions with credit whose offset is in the range.
    pub(super) fn ready_within(&self, range: Range<u64>) -> Vec<SubscriptionKey> {
        let within = |cursor: &Cursor| cursor.ready && range.contains(&cursor.offset);
        let cursors = self.cursors.iter().filter(|(_, cursor)| within(cursor));
        cursors.map(|(key, _)| *key).collect()
    }

    /// Moves the cursors from `after` or later to `offset` at least, of the subscriptions that have
    /// credit and a key below `bound`. Removes and returns those that reach the head.
    pub(super) fn advance(
        &mut self,
        after: u64,
        offset: u64,
        head: u64,
        bound: SubscriptionKey,
    ) -> Vec<SubscriptionKey> {
        let mut arrived = Vec::new();
        self.cursors.retain(|key, cursor| {
            if cursor.ready && cursor.offset >= after && *key < bound {
                // Some are ahead: they fell behind at a later event, or got one of a page that was
                // cut short.
                cursor.offset = cursor.offset.max(offset);
                if cursor.offset >= head {
                    // A cursor at the head goes live in the same step: no commit can come in
                    // between.
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
