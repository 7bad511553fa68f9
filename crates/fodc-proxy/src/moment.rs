//! Times on samples, and windows of them.

use prost_types::Timestamp;

/// A time on a sample: nanoseconds since 1970. What lies outside of 1677 to 2262 is the nearest
/// moment inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Moment(i64);

/// From a moment to a later or the same one; both belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    start: Moment,
    end: Moment,
}

const SECOND: i64 = 1_000_000_000;

impl Moment {
    pub(super) const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    pub(super) const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    pub(super) const fn from_parts(seconds: i64, nanos: i64) -> Self {
        Self(seconds.saturating_mul(SECOND).saturating_add(nanos))
    }

    pub(super) const fn nanos(self) -> i64 {
        self.0
    }

    /// Seconds and what is above them.
    pub(super) fn timestamp(self) -> Timestamp {
        Timestamp {
            seconds: self.0.div_euclid(SECOND),
            nanos: i32::try_from(self.0.rem_euclid(SECOND)).expect("less than a second"),
        }
    }
}

impl From<jiff::Timestamp> for Moment {
    fn from(time: jiff::Timestamp) -> Self {
        let nanos = time.as_nanosecond();
        let limit = if nanos < 0 { i64::MIN } else { i64::MAX };
        Self(i64::try_from(nanos).unwrap_or(limit))
    }
}

impl Window {
    /// `None` when the end is before the start.
    pub(super) fn new(start: Moment, end: Moment) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    pub(super) fn start(self) -> Moment {
        self.start
    }

    pub(super) fn end(self) -> Moment {
        self.end
    }

    /// From the first moment to the last.
    pub(super) fn nanos(self) -> i64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// The first `nanos` of it, and the rest. The next slice begins one nanosecond after the end of
    /// the one before: no time a sample can have lies between, and none in both.
    pub(super) fn split(self, nanos: i64) -> (Self, Option<Self>) {
        let cut = Moment(self.start.0.saturating_add(nanos.max(0)));
        if cut >= self.end {
            return (self, None);
        }
        let first = Self {
            start: self.start,
            end: cut,
        };
        let rest = Self {
            start: Moment(cut.0 + 1),
            end: self.end,
        };
        (first, Some(rest))
    }
}
