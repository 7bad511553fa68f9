//! The collections whose events do not fit into the queue.
//!
//! Their newest events are dropped and read back from the log, a page at a time, whenever such a
//! collection has matched what it has. Its subscriptions notice nothing but a delay.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Limits,
    context::Context,
    match_queue::{CollectionName, CollectionQueue, MatchQueue, collection_of, name_of},
    streams::Streams,
    subscription::Subscription,
    subscriptions::Subscriptions,
};
use crate::Event;

impl MatchQueue {
    /// Drops the newest events of the largest queues, and of equal ones of the newest, while there is
    /// too much. An event that is being matched stays, so that each collection makes progress.
    pub(super) fn shed(
        &mut self,
        size: impl Fn(&CollectionQueue) -> usize,
        too_much: impl Fn(&Self) -> bool,
        cx: &mut Context,
    ) {
        let sized = self
            .collections
            .iter()
            .filter_map(|(name, queue)| Some((size(queue), queue.events.front()?.offset, name)));
        let mut order: Vec<_> = sized
            .map(|(size, first, name)| (size, first, name.clone()))
            .collect();
        // Total without the names, as no two queues begin at one offset: a replay drops the same
        // events.
        order.sort_unstable();
        while too_much(self)
            && let Some((_, _, name)) = order.pop()
        {
            cx.counters.overloads += u64::from(!self.overloaded.contains_key(&name));
            while too_much(self) && self.drop_newest(&name) {}
        }
    }

    /// Drops the newest event of a collection, which is then to be read from the log. Returns false if
    /// there is none to drop.
    fn drop_newest(&mut self, name: &CollectionName) -> bool {
        let Some(queue) = self.collections.get_mut(name) else {
            return false;
        };
        // It may be delivered to some streams already, and matching it again would start from
        // nothing.
        if queue.current.is_some() && queue.events.len() == 1 {
            return false;
        }
        let Some(event) = queue.events.pop_back() else {
            return false;
        };
        self.events -= 1;
        self.bytes -= event.held_bytes();
        queue.bytes -= event.held_bytes();
        if queue.events.is_empty() {
            self.collections.remove(name);
            self.ready.remove(&event.offset);
            self.parked.remove(&event.offset);
        }
        // Dropped from the newest on, so that each drop moves the offset back to the first one
        // missing.
        self.overloaded.insert(name.clone(), event.offset - 1);
        true
    }

    /// Returns the lowest offset after which an overloaded collection needs events from the log, if
    /// there is room for them.
    pub(super) fn next_refill(&self, limits: &Limits) -> Option<u64> {
        if self.overloaded.is_empty() || !self.has_room(limits) {
            return None;
        }
        // One with events left has work; filled early, it would take room from the others.
        let idle = self
            .overloaded
            .iter()
            .filter(|(name, _)| !self.collections.contains_key(*name));
        idle.map(|(_, offset)| *offset).min()
    }

    /// Queues the events after an offset for the overloaded collections that have none left, as many
    /// as there is room for.
    pub(super) fn refill(&mut self, after: u64, events: &[Arc<Event>], cx: &Context) {
        if self.overloaded.is_empty() {
            return;
        }
        let mut end = after + events.len() as u64;
        let idle = self.overloaded.iter().filter(|(name, offset)| {
            // A collection before the page would miss what lies between.
            (after..end).contains(*offset) && !self.collections.contains_key(*name)
        });
        let idle: BTreeSet<_> = idle.map(|(name, _)| name.clone()).collect();
        for event in events {
            let name = name_of(event);
            if idle.contains(&name) && self.overloaded.get(&name) < Some(&event.offset) {
                if !self.has_room(&cx.limits) {
                    end = event.offset - 1;
                    break;
                }
                self.enqueue(name, event);
            }
        }
        for name in idle {
            // The head is the newest committed event, so that later ones are queued again without a
            // hole.
            if end >= cx.log.head() {
                self.overloaded.remove(&name);
            } else if let Some(offset) = self.overloaded.get_mut(&name) {
                *offset = end.max(*offset);
            }
        }
    }

    fn has_room(&self, limits: &Limits) -> bool {
        // The same half that `shed` leaves: above it, a refill would be dropped again by the next
        // commit.
        self.events <= limits.unmatched_events / 2 && self.bytes <= limits.unmatched_bytes / 2
    }

    /// Returns the number of overloaded collections.
    pub(super) fn overloaded(&self) -> usize {
        self.overloaded.len()
    }

    /// Leaves the overloaded collections whose next event cannot be read to the streams that subscribe
    /// to them: each stream meets the fault by itself.
    pub(super) fn give_up_refill(
        &mut self,
        after: u64,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) {
        let failed: BTreeSet<_> = self
            .overloaded
            .iter()
            .filter(|(name, offset)| **offset == after && !self.collections.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        let is_failed = |subscription: &Subscription| failed.contains(&collection_of(subscription));
        let head = cx.log.head();
        // Before the entries are removed, which tell how far their collections were matched.
        self.leave_to_streams(is_failed, head, streams, subscriptions, cx);
        self.overloaded.retain(|name, _| !failed.contains(name));
    }
}
