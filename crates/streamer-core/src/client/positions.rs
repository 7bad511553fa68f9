//! Where a subscription is in the log, and whether a delivery follows.

use crate::Position;

/// The place of one subscription. It outlives streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// After the last item queued, or further if the server said that nothing was pending. `None`:
    /// from now, not yet fixed by an acknowledgement.
    last: Option<Position>,
    /// How often the server would not, or did not, continue from `last`.
    strikes: u32,
    /// A place that was given up; a resync is owed for it.
    lost: Option<Position>,
}

/// What to do with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It follows.
    Accept,
    /// It is known already.
    Duplicate,
    /// Something before it is missing.
    Hole,
    /// It is of another log than the subscription.
    OtherEpoch,
}

impl Place {
    pub(super) fn new(last: Option<Position>) -> Self {
        Self {
            last,
            strikes: 0,
            lost: None,
        }
    }

    /// The place to ask for.
    pub(super) fn last(&self) -> Option<Position> {
        self.last
    }

    /// Judges a delivery at `at`, before which `previous` was the last one sent.
    pub(super) fn judge(&self, previous: u64, at: Position) -> Verdict {
        match self.last {
            // Only an acknowledged subscription is delivered to, and that one has a place.
            None => Verdict::Hole,
            Some(last) if last.epoch != at.epoch => Verdict::OtherEpoch,
            Some(last) if at.offset <= last.offset => Verdict::Duplicate,
            Some(last) if previous > last.offset => Verdict::Hole,
            Some(_) => Verdict::Accept,
        }
    }

    /// Moves to a place known to follow.
    pub(super) fn settle(&mut self, at: Position) {
        if self.last != Some(at) {
            self.last = Some(at);
            self.strikes = 0;
        }
    }

    /// The server would not or did not continue from here. The `refusals_max`th time the place is
    /// given up, and the next request is from now.
    pub(super) fn strike(&mut self, refusals_max: u32) -> Struck {
        self.strikes += 1;
        if self.strikes < refusals_max || self.last.is_none() {
            return Struck::Kept;
        }
        self.strikes = 0;
        self.lost = self.last.take();
        Struck::GivenUp
    }

    /// The place that was given up, once.
    pub(super) fn take_lost(&mut self) -> Option<Position> {
        self.lost.take()
    }

    /// Forgets every place. Whether there was one.
    pub(super) fn discard(&mut self) -> bool {
        let held = self.last.is_some() || self.lost.is_some();
        *self = Self::new(None);
        held
    }
}

/// What a strike did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Struck {
    /// The place is asked for again.
    Kept,
    /// The place is given up.
    GivenUp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;

    fn at(offset: u64) -> Position {
        Position::new(Epoch(1), offset)
    }

    #[test]
    fn a_delivery_is_accepted_once_and_only_in_its_place() {
        let place = Place::new(Some(at(5)));
        for (previous, offset, verdict) in [
            (5, 6, Verdict::Accept),
            (3, 9, Verdict::Accept),
            (0, 5, Verdict::Duplicate),
            (7, 4, Verdict::Duplicate),
            (6, 7, Verdict::Hole),
        ] {
            assert_eq!(
                place.judge(previous, at(offset)),
                verdict,
                "{previous} {offset}"
            );
        }
        let elsewhere = Position::new(Epoch(2), 6);
        assert_eq!(place.judge(5, elsewhere), Verdict::OtherEpoch);
    }

    #[test]
    fn a_place_is_given_up_only_when_struck_again_and_again_without_moving() {
        let mut place = Place::new(Some(at(5)));
        assert_eq!(place.strike(3), Struck::Kept);
        assert_eq!(place.strike(3), Struck::Kept);
        place.settle(at(6));
        assert_eq!(place.strike(3), Struck::Kept);
        assert_eq!(place.strike(3), Struck::Kept);
        place.settle(at(6));
        assert_eq!(place.strike(3), Struck::GivenUp, "staying is not moving");
        assert_eq!(place.last(), None);
        assert_eq!(place.take_lost(), Some(at(6)));
        assert_eq!(place.take_lost(), None);
    }
}
