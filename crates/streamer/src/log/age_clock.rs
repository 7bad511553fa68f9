//! The clock by which producers and events age.

use std::time::Duration;

use super::PRODUCER_LIFETIME_MS;

/// A clock that follows the system's, but runs at most a little faster than time passes, and never back.
///
/// A system clock that jumps forward therefore ages nothing at once. What it reads is caught up with in
/// small steps, because a server may really have been stopped for long. After a jump back the clock goes
/// on with the time that passes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AgeClock {
    now_ms: Option<i64>,
}

impl AgeClock {
    /// Maximum advance beyond the time that passed in one step: a thousandth of a producer's lifetime,
    /// which is ten minutes.
    pub(super) const STEP_MS: i64 = PRODUCER_LIFETIME_MS / 1_000;

    /// Continues from an earlier reading.
    pub(super) fn from_reading(now_ms: Option<i64>) -> Self {
        Self { now_ms }
    }

    /// Returns the time. The first reading is that of the system's clock.
    pub(super) fn now_ms(&mut self, system_ms: i64) -> i64 {
        *self.now_ms.get_or_insert(system_ms)
    }

    /// Advances by the time that passed since the last step, and towards the system's clock by at most
    /// `step_ms`.
    pub(super) fn advance(&mut self, system_ms: i64, passed: Duration, step_ms: i64) -> i64 {
        let before = self.now_ms(system_ms);
        // Measured by a monotonic clock: it is what advances ages while the system's clock is
        // wrong.
        let passed = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        // Behind the system's clock it follows; ahead of it only time moves it.
        let later = before.saturating_add(passed);
        let now = if system_ms < before {
            later
        } else {
            system_ms.min(later.saturating_add(step_ms))
        };
        self.now_ms = Some(now);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_follows_the_system_but_not_its_jumps() {
        let mut clock = AgeClock::default();
        assert_eq!(clock.now_ms(1_000), 1_000);
        for (system, passed, expected) in [
            (2_000, 1_000, 2_000),
            // A late step catches up.
            (2_100, 0, 2_100),
            // A jump forward: the time that passed, and one step.
            (1_000_000, 500, 2_700),
            (1_001_000, 1_000, 3_800),
            // Corrected: it is ahead, and goes on with time.
            (3_000, 200, 4_000),
            // A jump back.
            (-50_000, 1_000, 5_000),
        ] {
            let passed = Duration::from_millis(passed);
            assert_eq!(clock.advance(system, passed, 100), expected, "at {system}");
        }
    }
}
