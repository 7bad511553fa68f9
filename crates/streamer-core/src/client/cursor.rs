//! The position of a subscription in the log, and the check that a delivery continues it.

use crate::Position;

/// The resume position of one subscription. It outlives streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The position of the last queued item, or a later one if the server said that nothing is
    /// pending. `None` until the acknowledgement of a subscription from now fixes it.
    last: Option<Position>,
    /// Times in a row that the server did not continue from `last`.
    rejections: u32,
    /// A position that was given up and for which a resync is due.
    lost: Option<Position>,
}

/// The relation of a delivery to the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Continuity {
    /// It is the next one.
    Next,
    /// It was delivered before.
    Duplicate,
    /// At least one delivery before it is missing.
    Hole,
    /// It belongs to another log.
    OtherEpoch,
}

/// The effect of [`Cursor::reject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// The position is requested again.
    Kept,
    /// The position is given up; the next request starts from now.
    GivenUp,
}

impl Cursor {
    pub(super) fn new(last: Option<Position>) -> Self {
        Self {
            last,
            rejections: 0,
            lost: None,
        }
    }

    /// Returns the position to resume from.
    pub(super) fn last(&self) -> Option<Position> {
        self.last
    }

    /// Compares a delivery at `at` with the cursor. `previous` is the offset that the server sent
    /// before it.
    pub(super) fn check(&self, previous: u64, at: Position) -> Continuity {
        match self.last {
            // Only acknowledged subscriptions receive deliveries, and those have a position.
            None => Continuity::Hole,
            Some(last) if last.epoch != at.epoch => Continuity::OtherEpoch,
            Some(last) if at.offset <= last.offset => Continuity::Duplicate,
            Some(last) if previous > last.offset => Continuity::Hole,
            Some(_) => Continuity::Next,
        }
    }

    /// Moves to a position that is known to follow. Only a real move clears the rejections:
    /// a server that accepts the same position and then skips it again must not do so for ever.
    pub(super) fn advance(&mut self, to: Position) {
        if self.last != Some(to) {
            self.last = Some(to);
            self.rejections = 0;
        }
    }

    /// Counts that the server did not continue from the position, and gives it up the
    /// `max_rejections`th time.
    pub(super) fn reject(&mut self, max_rejections: u32) -> Rejected {
        self.rejections += 1;
        if self.rejections < max_rejections || self.last.is_none() {
            return Rejected::Kept;
        }
        self.lost = self.last.take();
        Rejected::GivenUp
    }

    /// Returns the position that was given up, once.
    pub(super) fn take_lost(&mut self) -> Option<Position> {
        self.lost.take()
    }

    /// Forgets every position. Returns whether there was one.
    pub(super) fn clear(&mut self) -> bool {
        let held = self.last.is_some() || self.lost.is_some();
        *self = Self::new(None);
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;

    fn at(offset: u64) -> Position {
        Position::new(Epoch(1), offset)
    }

    #[test]
    fn a_delivery_is_accepted_once_and_in_order() {
        let cursor = Cursor::new(Some(at(5)));
        for (previous, offset, expected) in [
            (5, 6, Continuity::Next),
            (3, 9, Continuity::Next),
            (0, 5, Continuity::Duplicate),
            (7, 4, Continuity::Duplicate),
            (6, 7, Continuity::Hole),
        ] {
            assert_eq!(
                cursor.check(previous, at(offset)),
                expected,
                "{previous} {offset}"
            );
        }
        // Its offsets say nothing about this one, not even an older one.
        for offset in [3, 5, 6] {
            let elsewhere = Position::new(Epoch(2), offset);
            assert_eq!(cursor.check(2, elsewhere), Continuity::OtherEpoch);
        }
    }

    #[test]
    fn repeated_rejections_give_up_a_position() {
        let mut cursor = Cursor::new(Some(at(5)));
        assert_eq!(cursor.reject(3), Rejected::Kept);
        assert_eq!(cursor.reject(3), Rejected::Kept);
        cursor.advance(at(6));
        assert_eq!(cursor.reject(3), Rejected::Kept);
        assert_eq!(cursor.reject(3), Rejected::Kept);
        cursor.advance(at(6));
        assert_eq!(cursor.reject(3), Rejected::GivenUp, "staying is not moving");
        assert_eq!(cursor.last(), None);
        assert_eq!(cursor.take_lost(), Some(at(6)));
        assert_eq!(cursor.take_lost(), None);
        assert_eq!(cursor.reject(1), Rejected::Kept, "there is none to give up");
    }
}
