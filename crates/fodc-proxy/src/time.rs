//! Times of samples, and windows of them.

use std::time::SystemTime;

use prost_types::Timestamp;

/// The time of a sample in nanoseconds since 1970. A time outside the years 1677 to 2262 becomes the
/// nearest one inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct UnixNanos(i64);

/// A range of times, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    start: UnixNanos,
    end: UnixNanos,
}

const SECOND: i64 = 1_000_000_000;

impl UnixNanos {
    /// Returns the current time of the system's clock.
    pub(super) fn wall_clock() -> Self {
        jiff::Timestamp::try_from(SystemTime::now()).map_or(Self(0), Self::from)
    }

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

    /// Returns the time as the wire has it.
    pub(super) fn timestamp(self) -> Timestamp {
        Timestamp {
            seconds: self.0.div_euclid(SECOND),
            nanos: i32::try_from(self.0.rem_euclid(SECOND)).expect("less than a second"),
        }
    }
}

impl From<jiff::Timestamp> for UnixNanos {
    fn from(time: jiff::Timestamp) -> Self {
        let nanos = time.as_nanosecond();
        let limit = if nanos < 0 { i64::MIN } else { i64::MAX };
        Self(i64::try_from(nanos).unwrap_or(limit))
    }
}

impl Window {
    /// Returns `None` if the end is before the start.
    pub(super) fn new(start: UnixNanos, end: UnixNanos) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    pub(super) fn start(self) -> UnixNanos {
        self.start
    }

    pub(super) fn end(self) -> UnixNanos {
        self.end
    }

    /// Returns the time from the start to the end.
    pub(super) fn nanos(self) -> i64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Splits off everything from `nanos` before `end` on, and returns the part before it, if any, and
    /// this. The first part ends a nanosecond before the second, so that each time is in exactly one.
    pub(super) fn split_before(self, end: UnixNanos, nanos: i64) -> (Option<Self>, Self) {
        let cut = UnixNanos(end.0.saturating_sub(nanos.max(0)));
        if cut <= self.start {
            return (None, self);
        }
        let before = Self {
            start: self.start,
            // It cannot underflow, because the cut is after the start.
            end: UnixNanos(cut.0 - 1),
        };
        let last = Self {
            start: cut,
            end: self.end,
        };
        (Some(before), last)
    }
}
