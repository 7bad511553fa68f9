//! The changes that wait for the application: per subscription, and in all.

use std::collections::{BTreeSet, VecDeque};

use super::{Limits, SubscriptionId, load::Load};

/// The core's account of the changes in the queue of one subscription.
///
/// The core and [`super::queue::Queue`] number changes alike, from 1 in the order in which they are
/// queued. Both "taken up to" and "discarded from" name a number, so that the two accounts agree
/// even when the application takes a change while the core decides to discard it.
#[derive(Debug, Default)]
pub(super) struct QueuedChanges {
    /// Number and weight of each queued change.
    changes: VecDeque<(u64, u64)>,
    load: Load,
    newest: u64,
}

impl QueuedChanges {
    pub(super) fn load(&self) -> Load {
        self.load
    }

    pub(super) fn push(&mut self, weight: u64) {
        self.newest += 1;
        self.changes.push_back((self.newest, weight));
        self.load.add(weight);
    }

    /// Removes the changes up to a number, which the application took.
    pub(super) fn take_through(&mut self, number: u64) {
        // A number may already be gone: the core can discard a change that the application just
        // took.
        while let Some(&(oldest, weight)) = self.changes.front()
            && oldest <= number
        {
            self.changes.pop_front();
            self.subtract(weight);
        }
    }

    /// Removes the newest change and returns its number.
    pub(super) fn discard_newest(&mut self) -> Option<u64> {
        let (number, weight) = self.changes.pop_back()?;
        self.subtract(weight);
        Some(number)
    }

    fn subtract(&mut self, weight: u64) {
        self.load.messages -= 1;
        self.load.bytes -= weight;
    }
}

/// The changes queued for all subscriptions, while the peer is a plain one.
///
/// A plain peer cannot be held back, so the total is bounded here: when it is exhausted, the largest
/// queue loses its newest change. Below the bound no queue loses anything, however large its part.
#[derive(Debug)]
pub(super) struct Backlog {
    limits: Limits,
    total: Load,
    /// The subscriptions with queued changes by number of changes, and by bytes.
    by_messages: BTreeSet<(u64, SubscriptionId)>,
    by_bytes: BTreeSet<(u64, SubscriptionId)>,
}

impl Backlog {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            total: Load::default(),
            by_messages: BTreeSet::new(),
            by_bytes: BTreeSet::new(),
        }
    }

    /// Notes that the load of a subscription changed.
    pub(super) fn update(&mut self, id: SubscriptionId, before: Load, after: Load) {
        // Empty queues are not ranked, so that one of them is never asked to lose a change.
        if before.messages > 0 {
            self.by_messages.remove(&(before.messages, id));
            self.by_bytes.remove(&(before.bytes, id));
        }
        if after.messages > 0 {
            self.by_messages.insert((after.messages, id));
            self.by_bytes.insert((after.bytes, id));
        }
        self.total.messages = self.total.messages + after.messages - before.messages;
        self.total.bytes = (self.total.bytes - before.bytes).saturating_add(after.bytes);
    }

    /// Returns the subscription that has to lose a change before `id`, whose load is `load`, may
    /// queue another; it is `id` itself if no queue is larger. `None` while the total has room.
    ///
    /// A change larger than the total fits an empty client.
    pub(super) fn loser(&self, id: SubscriptionId, load: Load) -> Option<SubscriptionId> {
        let (ranking, own) = if self.total.messages >= self.limits.messages {
            (&self.by_messages, load.messages)
        } else if self.total.bytes >= self.limits.bytes {
            (&self.by_bytes, load.bytes)
        } else {
            return None;
        };
        let &(size, largest) = ranking.last()?;
        // An empty queue never loses: nothing would be taken from it to end the overflow.
        Some(if own >= size && load.messages > 0 {
            id
        } else {
            largest
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const LIMITS: Limits = Limits {
        messages: 4,
        bytes: 100,
        messages_per_subscription: 1,
    };

    fn load(messages: u64, bytes: u64) -> Load {
        Load { messages, bytes }
    }

    #[test]
    fn the_largest_queue_loses_once_the_total_is_reached() {
        let [a, b, c] = [1, 2, 3].map(SubscriptionId);
        let none = Load::default();
        let mut backlog = Backlog::new(LIMITS);
        backlog.update(a, none, load(3, 30));
        assert_eq!(backlog.loser(a, load(3, 30)), None);
        backlog.update(b, none, load(1, 60));
        assert_eq!(backlog.loser(a, load(3, 30)), Some(a));
        assert_eq!(backlog.loser(b, load(1, 60)), Some(a), "by messages");
        assert_eq!(backlog.loser(c, none), Some(a));
        backlog.update(a, load(3, 30), load(2, 50));
        assert_eq!(backlog.loser(c, none), Some(b), "by bytes");
        backlog.update(b, load(1, 60), none);
        assert_eq!(backlog.loser(c, none), None);
        backlog.update(a, load(2, 50), load(4, 0));
        assert_eq!(backlog.loser(c, none), Some(a));
    }

    proptest! {
        #[test]
        fn loser_is_the_one_that_a_look_at_all_queues_finds(
            updates in vec((0..4_u64, 0..5_u64, 0..60_u64), 1..40),
        ) {
            let mut backlog = Backlog::new(LIMITS);
            let mut queues = [Load::default(); 4];
            for (id, messages, bytes) in updates {
                // A queue without changes has no bytes.
                let after = load(messages, bytes * messages.min(1));
                let before = std::mem::replace(&mut queues[id as usize], after);
                backlog.update(SubscriptionId(id), before, after);
                let [messages, bytes]: [fn(&Load) -> u64; 2] = [|it| it.messages, |it| it.bytes];
                let total = |of: fn(&Load) -> u64| queues.iter().map(of).sum::<u64>();
                let by = if total(messages) >= LIMITS.messages {
                    Some(messages)
                } else {
                    (total(bytes) >= LIMITS.bytes).then_some(bytes)
                };
                for (id, own) in (0..).zip(&queues) {
                    let ranked = (0..).zip(&queues).filter(|(_, it)| it.messages > 0);
                    let expected = by.and_then(|by| {
                        let (largest, most) = ranked.max_by_key(|(id, it)| (by(it), *id))?;
                        let is_own = by(own) >= by(most) && own.messages > 0;
                        Some(if is_own { id } else { largest })
                    });
                    let loser = backlog.loser(SubscriptionId(id), *own);
                    prop_assert_eq!(loser, expected.map(SubscriptionId));
                }
            }
        }
    }

    #[test]
    fn changes_taken_and_discarded_at_once_are_counted_once() {
        let mut queued = QueuedChanges::default();
        for weight in 1..=4 {
            queued.push(weight);
        }
        assert_eq!(queued.discard_newest(), Some(4));
        assert_eq!(queued.discard_newest(), Some(3));
        queued.push(10);
        queued.take_through(4);
        assert_eq!(queued.load(), load(1, 10), "number 5 is still queued");
        queued.take_through(5);
        assert_eq!(queued.load(), Load::default());
        assert_eq!(queued.discard_newest(), None);
    }
}
