//! What waits for the application, of one subscription.

use std::collections::VecDeque;

use super::{Gap, GapReason, Item, Resync};
use crate::Position;

/// Items in order, and the places that follow them.
///
/// The bound on changes is kept by the core, through credit or by dropping. Between two changes
/// there is at most one gap of each kind and one resync, because untaken ones of a kind are merged.
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Entry>,
    changes: u64,
    taken: Taken,
    position: Option<Position>,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    /// A place further on, up to which nothing more belongs to the subscription.
    then: Option<Position>,
}

/// What was taken and not told to the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Changes.
    pub changes: u64,
    /// Their weight in bytes.
    pub bytes: u64,
}

impl Queue {
    /// Appends an item, merged with an untaken gap or resync of the same kind.
    pub fn push(&mut self, item: Item) {
        self.changes += u64::from(matches!(item, Item::Change(_)));
        let merged = self
            .entries
            .iter_mut()
            .rev()
            .take_while(|entry| !matches!(entry.item, Item::Change(_)))
            .find_map(|entry| Some((merge(&entry.item, &item)?, entry)));
        match merged {
            Some((item, entry)) => entry.item = item,
            None => self.entries.push_back(Entry { item, then: None }),
        }
    }

    /// Nothing more belongs to the subscription up to this place.
    pub fn mark(&mut self, at: Position) {
        match self.entries.back_mut() {
            Some(entry) => entry.then = Some(at),
            None => self.position = Some(at),
        }
    }

    /// Removes the oldest item.
    pub fn pop(&mut self) -> Option<Item> {
        let Entry { item, then } = self.entries.pop_front()?;
        self.position = then.or(item.position());
        if let Item::Change(change) = &item {
            self.changes -= 1;
            self.taken.changes += 1;
            self.taken.bytes += change.weight();
        }
        Some(item)
    }

    /// What the core should be told was taken: not each change by itself, but before what is left
    /// is less than what is untold, so that the peer is let on in time.
    pub fn take_taken(&mut self) -> Option<Taken> {
        (self.taken.changes > 0 && self.taken.changes >= self.changes)
            .then(|| std::mem::take(&mut self.taken))
    }

    /// The place to continue from after everything popped; `None` if there is no such place.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    #[cfg(test)]
    /// The number of queued changes.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether no item is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of queued items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Two signs of one kind with no change between them say no more than one.
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
        (Item::Change(_) | Item::Gap(_) | Item::Resync(_), _) => None,
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
    fn i17_the_position_moves_with_what_is_taken_and_with_marks_in_their_turn() {
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
    fn i17_no_position_leads_past_a_resync_or_gap_that_was_not_taken() {
        let mut queue = Queue::default();
        queue.push(change(4));
        queue.push(Item::Resync(Resync {
            reason: ResyncReason::Trimmed,
            lost_from: at(4),
            resumes_at: at(20),
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
    fn i20_signs_that_nobody_takes_do_not_pile_up() {
        let mut queue = Queue::default();
        for round in 0..100 {
            queue.push(gap(GapReason::Disconnected));
            queue.push(gap(GapReason::Overflow { dropped: 2 }));
            queue.push(Item::Resync(Resync {
                reason: ResyncReason::Epoch,
                lost_from: at(round),
                resumes_at: at(round + 1),
            }));
        }
        assert_eq!(queue.len(), 3);
        assert_eq!(queue.pop(), Some(gap(GapReason::Disconnected)));
        assert_eq!(queue.pop(), Some(gap(GapReason::Overflow { dropped: 200 })));
        let all = Item::Resync(Resync {
            reason: ResyncReason::Epoch,
            lost_from: at(0),
            resumes_at: at(100),
        });
        assert_eq!(queue.pop(), Some(all));
    }

    #[test]
    fn signs_on_both_sides_of_a_change_stay_apart() {
        let mut queue = Queue::default();
        queue.push(gap(GapReason::Disconnected));
        queue.push(change(1));
        queue.push(gap(GapReason::Disconnected));
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn what_was_taken_is_told_in_batches_and_never_withheld() {
        let mut queue = Queue::default();
        for offset in 1..=8 {
            queue.push(change(offset));
        }
        let mut told = Vec::new();
        while queue.pop().is_some() {
            told.extend(queue.take_taken().map(|taken| taken.changes));
        }
        assert_eq!(told, [4, 2, 1, 1]);
    }
}
