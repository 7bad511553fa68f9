//! The items of one subscription that wait for the application.

use std::collections::VecDeque;

use super::{Gap, GapReason, Item, Resync, Snapshot};
use crate::Position;

/// Items in order, and the positions that follow them.
///
/// The core bounds the number of changes, through credit or by dropping. Between two changes there
/// is at most one gap of each kind and one resync, because waiting ones of a kind are merged.
///
/// Changes are numbered from 1 in the order in which they are pushed, as the core numbers them.
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Entry>,
    /// The number of the newest change pushed.
    pushed: u64,
    /// The number of the newest change popped.
    popped: u64,
    /// The changes that wait.
    changes: u64,
    unreported: Unreported,
    position: Option<Position>,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    /// The number of the change; of the newest change before it for another item.
    number: u64,
    /// A later position, up to which nothing more belongs to the subscription.
    then: Option<Position>,
}

/// Changes that were popped and not reported to the core.
#[derive(Debug, Default)]
struct Unreported {
    changes: u64,
    bytes: u64,
}

/// The core is told at the latest after so many changes or bytes, so that its account of a long
/// queue is not far from the truth.
const MAX_UNREPORTED: Unreported = Unreported {
    changes: 128,
    bytes: 64 << 10,
};

impl Queue {
    /// Appends an item. A gap or resync is merged with a waiting one of its kind. A snapshot that begins
    /// takes the place of one of which nothing but the beginning waits.
    pub fn push(&mut self, item: Item) {
        if matches!(item, Item::Snapshot(Snapshot::Begin { .. })) {
            self.drop_begun();
        }
        if item.change().is_some() {
            self.pushed += 1;
            self.changes += 1;
        }
        let merged = self
            .entries
            .iter_mut()
            .rev()
            // A gap from before a change must not move behind it.
            .take_while(|entry| entry.item.change().is_none())
            .find_map(|entry| Some((merge(&entry.item, &item)?, entry)));
        match merged {
            Some((item, entry)) => entry.item = item,
            None => self.entries.push_back(Entry {
                item,
                number: self.pushed,
                then: None,
            }),
        }
    }

    /// Drops the snapshots without documents that wait at the back: the next one replaces them, and a
    /// client that begins again and again must not fill the queue.
    fn drop_begun(&mut self) {
        // The end that is after the entry looked at, which belongs to the snapshot before it.
        let mut end = None;
        for index in (0..self.entries.len()).rev() {
            match self.entries[index].item {
                Item::Change(_) | Item::Left(_) | Item::Snapshot(Snapshot::Document(_)) => return,
                Item::Gap(_) | Item::Resync(_) => {}
                Item::Snapshot(Snapshot::End(_)) => end = Some(index),
                // The end of a snapshot stays if its beginning was taken or documents wait before it.
                Item::Snapshot(Snapshot::Begin { .. } | Snapshot::Bound { .. }) => {
                    if let Some(end) = end.take() {
                        self.entries.remove(end);
                    }
                    self.entries.remove(index);
                }
            }
        }
    }

    /// Notes that nothing more belongs to the subscription up to a position.
    pub fn mark(&mut self, at: Position) {
        match self.entries.back_mut() {
            // Kept with the newest entry: the position must not pass an item that was not taken.
            Some(entry) => entry.then = Some(at),
            None => self.position = Some(at),
        }
    }

    /// Drops the waiting changes whose number is `from` or higher. Other items stay.
    pub fn discard(&mut self, from: u64) {
        let mut kept = Vec::new();
        while self
            .entries
            .back()
            .is_some_and(|entry| entry.number >= from)
            && let Some(entry) = self.entries.pop_back()
        {
            if entry.item.change().is_some() {
                self.changes -= 1;
            } else {
                kept.push(entry);
            }
        }
        // They were collected from the back.
        self.entries.extend(kept.into_iter().rev());
    }

    /// Removes the oldest item.
    pub fn pop(&mut self) -> Option<Item> {
        let Entry { item, number, then } = self.entries.pop_front()?;
        // A gap has no position, and afterwards there is none to resume from.
        self.position = then.or(item.position());
        if let Some(change) = item.change() {
            self.popped = number;
            self.changes -= 1;
            self.unreported.changes += 1;
            self.unreported.bytes += change.weight();
        }
        Some(item)
    }

    /// Returns the number of the newest change taken, when the core should be told.
    ///
    /// That is not for each change, but before fewer are left than are unreported, so that the peer
    /// gets new credit in time.
    pub fn take_report(&mut self) -> Option<u64> {
        let Unreported { changes, bytes } = self.unreported;
        // Half of what waits was taken. With short queues that is every change, so that credit of
        // one change does not stall.
        let due = changes >= self.changes
            || changes >= MAX_UNREPORTED.changes
            || bytes >= MAX_UNREPORTED.bytes;
        if changes == 0 || !due {
            return None;
        }
        self.unreported = Unreported::default();
        Some(self.popped)
    }

    /// Returns the position to resume from after everything popped; `None` if there is none.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Returns the number of waiting items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of waiting changes and documents, which the limits bound.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

/// Two gaps or resyncs with no change between them say no more than one.
fn merge(earlier: &Item, later: &Item) -> Option<Item> {
    match (earlier, later) {
        (Item::Gap(earlier), Item::Gap(later)) => {
            let reason = match (earlier.reason, later.reason) {
                (GapReason::Overflow { dropped: a }, GapReason::Overflow { dropped: b }) => {
                    GapReason::Overflow { dropped: a + b }
                }
                (a, b) if a == b => a,
                (_, _) => return None,
            };
            Some(Item::Gap(Gap { reason }))
        }
        (Item::Resync(earlier), Item::Resync(later)) => Some(Item::Resync(Resync {
            lost_from: earlier.lost_from,
            ..*later
        })),
        (
            Item::Change(_) | Item::Left(_) | Item::Snapshot(_) | Item::Gap(_) | Item::Resync(_),
            _,
        ) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Epoch, Operation,
        client::{Change, ResyncReason},
    };

    fn at(offset: u64) -> Position {
        Position::new(Epoch(7), offset)
    }

    fn change(offset: u64) -> Item {
        Item::Change(Change {
            position: Some(at(offset)),
            event_id: offset.to_string().into(),
            database: "d".into(),
            collection: "c".into(),
            document_id: "i".into(),
            operation: Operation::Insert,
            data: bytes::Bytes::from_static(b"{}"),
            timestamp: 0,
        })
    }

    fn gap(reason: GapReason) -> Item {
        Item::Gap(Gap { reason })
    }

    #[test]
    fn position_moves_with_taken_items_and_their_markers() {
        let mut queue = Queue::default();
        assert_eq!(queue.position(), None);
        queue.mark(at(3));
        assert_eq!(queue.position(), Some(at(3)));
        queue.push(change(4));
        queue.mark(at(8));
        queue.push(change(9));
        assert_eq!(queue.position(), Some(at(3)), "nothing was taken");
        queue.pop();
        assert_eq!(queue.position(), Some(at(8)));
        queue.pop();
        assert_eq!(queue.position(), Some(at(9)));
    }

    #[test]
    fn position_never_passes_an_untaken_resync_or_gap() {
        let mut queue = Queue::default();
        queue.push(change(4));
        queue.push(Item::Resync(Resync {
            reason: ResyncReason::Trimmed,
            lost_from: at(4),
            resumes_at: at(20),
            snapshot_follows: false,
        }));
        queue.mark(at(25));
        queue.pop();
        assert_eq!(queue.position(), Some(at(4)));
        queue.pop();
        assert_eq!(queue.position(), Some(at(25)));
        queue.push(gap(GapReason::LeftProfile));
        queue.pop();
        assert_eq!(queue.position(), None);
    }

    #[test]
    fn untaken_gaps_and_resyncs_are_merged() {
        let mut queue = Queue::default();
        for round in 0..100 {
            queue.push(gap(GapReason::Disconnected));
            queue.push(gap(GapReason::Overflow { dropped: 2 }));
            queue.push(Item::Resync(Resync {
                reason: ResyncReason::Epoch,
                lost_from: at(round),
                resumes_at: at(round + 1),
                snapshot_follows: false,
            }));
        }
        assert_eq!(queue.len(), 3);
        assert_eq!(queue.pop(), Some(gap(GapReason::Disconnected)));
        assert_eq!(queue.pop(), Some(gap(GapReason::Overflow { dropped: 200 })));
        let all = Item::Resync(Resync {
            reason: ResyncReason::Epoch,
            lost_from: at(0),
            resumes_at: at(100),
            snapshot_follows: false,
        });
        assert_eq!(queue.pop(), Some(all));
    }

    #[test]
    fn gaps_on_both_sides_of_a_change_stay_apart() {
        let mut queue = Queue::default();
        queue.push(gap(GapReason::Disconnected));
        queue.push(change(1));
        queue.push(gap(GapReason::Disconnected));
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn begun_snapshot_replaces_one_without_documents() {
        let begin = || Item::Snapshot(Snapshot::Begin { follows: at(1) });
        let bound = |number| {
            Item::Snapshot(Snapshot::Bound {
                number,
                bound: None,
            })
        };
        let end = |offset| Item::Snapshot(Snapshot::End(at(offset)));
        let again = vec![begin(), bound(2)];
        let after = |first: Vec<Item>| [first, again.clone()].concat();
        let document = |offset| match change(offset) {
            Item::Change(change) => Item::Snapshot(Snapshot::Document(change)),
            other => other,
        };
        let disconnected = gap(GapReason::Disconnected);
        let replaced = after(Vec::new());
        // Each: what was pushed, how much of it was taken, and what waits after the next beginning.
        let cases = [
            (vec![begin(), bound(1)], 0, replaced.clone()),
            (vec![begin(), bound(1)], 1, replaced.clone()),
            (vec![begin(), bound(1)], 2, replaced.clone()),
            (vec![begin(), bound(1), end(5)], 0, replaced.clone()),
            (vec![begin(), bound(1), end(5)], 1, replaced.clone()),
            (vec![begin(), bound(1), end(5)], 2, after(vec![end(5)])),
            (vec![begin(), end(5), begin(), end(6)], 0, replaced.clone()),
            (
                vec![begin(), end(5), begin(), end(6)],
                1,
                after(vec![end(6)]),
            ),
            (
                vec![begin(), bound(1), end(5), disconnected.clone()],
                0,
                after(vec![disconnected.clone()]),
            ),
            (
                vec![begin(), bound(1), document(4), end(5)],
                0,
                after(vec![begin(), bound(1), document(4), end(5)]),
            ),
            (
                vec![begin(), bound(1), end(5), change(6)],
                0,
                after(vec![begin(), bound(1), end(5), change(6)]),
            ),
        ];
        for (pushed, taken, expected) in cases {
            let mut queue = Queue::default();
            let what = format!("{taken} of {pushed:?}");
            for item in pushed {
                queue.push(item);
            }
            for _ in 0..taken {
                queue.pop();
            }
            for item in &again {
                queue.push(item.clone());
            }
            let left: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            assert_eq!(left, expected, "{what}");
        }
    }

    #[test]
    fn discarded_changes_leave_what_stands_between_them() {
        let mut queue = Queue::default();
        let items = [
            change(1),
            gap(GapReason::Disconnected),
            change(2),
            gap(GapReason::Evicted),
            gap(GapReason::TooLarge),
            change(3),
        ];
        for item in items.clone() {
            queue.push(item);
        }
        queue.discard(2);
        assert_eq!((queue.len(), queue.changes()), (4, 1));
        let [first, disconnected, _, evicted, too_large, _] = items;
        let left: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(left, [first, disconnected, evicted, too_large]);
        queue.discard(0);
        assert!(queue.is_empty());
    }

    #[test]
    fn long_queue_is_reported_by_number_and_by_bytes() {
        let heavy = |offset| match change(offset) {
            Item::Change(change) => Item::Change(Change {
                data: bytes::Bytes::from(vec![b'1'; 33 << 10]),
                ..change
            }),
            other => other,
        };
        let light: fn(u64) -> Item = change;
        let heavy: fn(u64) -> Item = heavy;
        for (make, first) in [(light, 128), (heavy, 2)] {
            let mut queue = Queue::default();
            for offset in 1..=1_000 {
                queue.push(make(offset));
            }
            let told = std::iter::from_fn(|| queue.pop().map(|_| queue.take_report()));
            let told: Vec<_> = told.flatten().take(2).collect();
            assert_eq!(told, [first, 2 * first]);
        }
    }

    #[test]
    fn taken_changes_are_reported_in_batches() {
        let mut queue = Queue::default();
        for offset in 1..=8 {
            queue.push(change(offset));
        }
        let mut told = Vec::new();
        assert_eq!(queue.take_report(), None, "nothing was taken");
        while queue.pop().is_some() {
            told.extend(queue.take_report());
        }
        assert_eq!(queue.take_report(), None);
        assert_eq!(told, [4, 6, 7, 8]);
    }
}
