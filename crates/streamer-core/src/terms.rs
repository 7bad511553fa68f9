//! The terms of a log: which positions belong to its history.

use crate::{Epoch, Position};

/// The table of a log's terms, oldest first.
///
/// Each start of a server begins a term with a random id, and the epoch of a position is the term in
/// which it was read. A copy of a log that is put back is another history from its head on, which no
/// file can show. Its table shows it: the copy does not know the terms that began after it was taken,
/// and in the copy its last term ends where the next start begins another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The id of each term and the head at its beginning. Never empty, and the heads never decrease.
    terms: Vec<(Epoch, u64)>,
}

impl Terms {
    /// Maximum number of terms. Beyond it, the oldest are forgotten and their positions are unknown.
    pub const MAX: usize = 4_096;

    /// Returns the table of a new log.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self {
            terms: vec![(epoch, 0)],
        }
    }

    /// Returns the table with these ids and heads, or `None` if it is empty or not in order.
    #[must_use]
    pub fn from_parts(terms: Vec<(Epoch, u64)>) -> Option<Self> {
        let ordered = terms.is_sorted_by_key(|(_, head)| *head);
        (ordered && !terms.is_empty()).then_some(Self { terms })
    }

    /// Returns the id of each term and the head at its beginning.
    #[must_use]
    pub fn as_parts(&self) -> &[(Epoch, u64)] {
        &self.terms
    }

    /// Returns the current term, the epoch of every position that is read now.
    #[must_use]
    pub fn current(&self) -> Epoch {
        self.terms[self.terms.len() - 1].0
    }

    /// Begins a term at the head of the log, and forgets the terms that ended before `first`.
    pub fn begin(&mut self, epoch: Epoch, first: u64, head: u64) {
        debug_assert!(self.terms.iter().all(|(_, began)| *began <= head));
        // An id that is not random would make the positions of two histories look alike.
        self.terms.retain(|(known, _)| *known != epoch);
        self.terms.push((epoch, head));
        let ended = |next: &(Epoch, u64)| next.1 < first;
        let trimmed = self.terms[1..]
            .iter()
            .take_while(|next| ended(next))
            .count();
        let excess = self.terms.len().saturating_sub(Self::MAX);
        self.terms.drain(..trimmed.max(excess));
    }

    /// Returns `true` if this log is the history in which the position was read: its term is known,
    /// and had not ended before the offset.
    #[must_use]
    pub fn contain(&self, position: Position) -> bool {
        let index = self.terms.iter().rposition(|(id, _)| *id == position.epoch);
        index.is_some_and(|index| match self.terms.get(index + 1) {
            Some((_, end)) => position.offset <= *end,
            None => true,
        })
    }

    /// Returns the term in which the event at an offset was written; the oldest known one if that is
    /// forgotten.
    #[must_use]
    pub fn written_in(&self, offset: u64) -> Epoch {
        let later = self.terms.partition_point(|(_, began)| *began < offset);
        self.terms[later.saturating_sub(1)].0
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn term_that_ended_before_the_offset_is_refused() {
        let mut terms = Terms::new(Epoch(1));
        terms.begin(Epoch(2), 0, 10);
        terms.begin(Epoch(3), 0, 25);
        for (epoch, offset, expected) in [
            (1, 0, true),
            (1, 10, true),
            (1, 11, false),
            (2, 5, true),
            (2, 25, true),
            (2, 26, false),
            (3, 26, true),
            (4, 0, false),
        ] {
            let position = Position::new(Epoch(epoch), offset);
            assert_eq!(terms.contain(position), expected, "{position}");
        }
    }

    #[test]
    fn event_keeps_the_term_in_which_it_was_written() {
        let mut terms = Terms::new(Epoch(1));
        terms.begin(Epoch(2), 0, 10);
        terms.begin(Epoch(3), 0, 10);
        let written = [1, 10, 11, 99].map(|offset| terms.written_in(offset).0);
        assert_eq!(written, [1, 1, 3, 3]);
    }

    #[test]
    fn trimmed_and_excess_terms_are_forgotten() {
        let mut terms = Terms::new(Epoch(1));
        terms.begin(Epoch(2), 0, 10);
        terms.begin(Epoch(3), 0, 20);
        terms.begin(Epoch(4), 10, 30);
        assert_eq!(
            terms.as_parts()[0].0,
            Epoch(1),
            "it ended at the first offset"
        );
        terms.begin(Epoch(5), 11, 30);
        assert_eq!(terms.as_parts()[0].0, Epoch(2));
        for id in 10..10 + Terms::MAX as u64 {
            terms.begin(Epoch(id), 11, 30);
        }
        assert_eq!(terms.as_parts().len(), Terms::MAX);
        assert!(!terms.contain(Position::new(Epoch(5), 20)));
    }

    #[test]
    fn table_out_of_order_is_refused() {
        assert_eq!(Terms::from_parts(vec![]), None);
        assert_eq!(Terms::from_parts(vec![(Epoch(1), 5), (Epoch(2), 4)]), None);
    }

    /// A log whose events are random numbers, so that two histories never agree by chance.
    #[derive(Clone)]
    struct History {
        events: Vec<u64>,
        terms: Terms,
    }

    #[test]
    fn position_is_honoured_only_in_its_own_history() {
        let (mut honoured, mut refused) = (0_u32, 0_u32);
        for seed in 0..2_000 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut log = History {
                events: Vec::new(),
                terms: Terms::new(Epoch(rng.random())),
            };
            let mut copies = vec![log.clone()];
            let mut positions = Vec::new();
            let mut restored = false;
            for _ in 0..40 {
                match rng.random_range(0..6) {
                    0 => copies.push(log.clone()),
                    // A server starts, on what is there or on a copy that was put back.
                    1 | 2 => {
                        if rng.random() {
                            restored = true;
                            log = copies[rng.random_range(0..copies.len())].clone();
                        }
                        let head = log.events.len() as u64;
                        log.terms.begin(Epoch(rng.random()), 0, head);
                    }
                    3 => {
                        let offset = rng.random_range(0..=log.events.len());
                        let position = Position::new(log.terms.current(), offset as u64);
                        positions.push((position, log.events[..offset].to_vec()));
                    }
                    _ => log.events.push(rng.random()),
                }
                for (position, seen) in &positions {
                    if log.terms.contain(*position) {
                        honoured += 1;
                        assert_eq!(log.events.get(..seen.len()), Some(&seen[..]), "seed {seed}");
                    } else {
                        refused += 1;
                        assert!(restored, "seed {seed}: nothing was put back");
                    }
                }
            }
        }
        assert!(
            honoured > 10_000 && refused > 10_000,
            "{honoured} {refused}"
        );
    }
}
