//! The decision to capture profiles.

use std::time::Duration;

use tokio::time::Instant;

/// The memory of one process at its newest scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) rss_bytes: u64,
    pub(super) limit_bytes: u64,
}

/// Decides when profiles are captured.
#[derive(Debug)]
pub(super) struct Trigger {
    percent: u32,
    cooldown: Duration,
    last: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The memory is below the threshold.
    Below,
    /// It is above the threshold, but the last capture is too recent.
    Cooldown,
    /// Profiles are due, with the reading that says so.
    Capture(Reading),
}

impl Trigger {
    pub(super) fn new(percent: u32, cooldown: Duration) -> Self {
        Self {
            percent,
            cooldown,
            last: None,
        }
    }

    pub(super) fn threshold(&self, limit_bytes: u64) -> u64 {
        (u128::from(limit_bytes) * u128::from(self.percent) / 100) as u64
    }

    /// Decides about the processes' newest readings. A capture that is due starts the cooldown,
    /// also if it fails: a process without pprof would otherwise be asked every second.
    pub(super) fn decide(&mut self, now: Instant, readings: &[Reading]) -> Decision {
        let above = readings.iter().filter(|reading| {
            reading.limit_bytes > 0 && reading.rss_bytes >= self.threshold(reading.limit_bytes)
        });
        // Of several processes, the largest one.
        let Some(reading) = above.max_by_key(|reading| reading.rss_bytes) else {
            return Decision::Below;
        };
        if self.last.is_some_and(|last| now < last + self.cooldown) {
            return Decision::Cooldown;
        }
        self.last = Some(now);
        Decision::Capture(*reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(rss_bytes: u64, limit_bytes: u64) -> Reading {
        Reading {
            rss_bytes,
            limit_bytes,
        }
    }

    #[test]
    fn profiles_are_due_from_the_threshold_on() {
        let now = Instant::now();
        for (percent, rss, limit, due) in [
            (75, 749, 1000, false),
            (75, 750, 1000, true),
            (100, 999, 1000, false),
            (100, 1000, 1000, true),
            // A node without a limit reports 0, or the largest number.
            (75, u64::MAX, 0, false),
            (75, u64::MAX / 2, u64::MAX, false),
            (1, 0, 1000, false),
        ] {
            let mut trigger = Trigger::new(percent, Duration::from_secs(300));
            let decision = trigger.decide(now, &[reading(rss, limit)]);
            let capture = due.then(|| Decision::Capture(reading(rss, limit)));
            let expected = capture.unwrap_or(Decision::Below);
            assert_eq!(decision, expected, "{percent} {rss} {limit}");
        }
    }

    #[test]
    fn cooldown_begins_with_each_capture() {
        let start = Instant::now();
        let mut trigger = Trigger::new(50, Duration::from_secs(300));
        let high = [reading(60, 100), reading(10, 100), reading(90, 100)];
        let mut at = |seconds, readings: &[Reading]| {
            trigger.decide(start + Duration::from_secs(seconds), readings)
        };
        assert_eq!(at(0, &[]), Decision::Below);
        assert_eq!(at(1, &high), Decision::Capture(high[2]));
        assert_eq!(at(2, &high[1..2]), Decision::Below);
        assert_eq!(at(300, &high), Decision::Cooldown);
        assert_eq!(at(301, &high), Decision::Capture(high[2]));
        assert_eq!(at(600, &high), Decision::Cooldown);
    }
}
