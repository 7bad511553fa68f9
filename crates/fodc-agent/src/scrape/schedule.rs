//! The ticks at which an endpoint is scraped.

use std::time::Duration;

/// The ticks of one endpoint, as times since the agent's start.
///
/// The first tick is at the start. The others are at the multiples of the interval on the wall clock
/// as it was at the start, so that all endpoints with one interval are scraped at the same instants.
/// Setting the clock later changes the timestamps of scrapes, not the ticks.
#[derive(Debug)]
pub(crate) struct Schedule {
    interval: Duration,
    /// The first multiple of the interval, at most one interval after the start.
    origin: Duration,
    next: Duration,
}

/// The ticks that passed while a scrape was under way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// The first of them.
    pub(crate) first: Duration,
    /// The number of them.
    pub(crate) count: u64,
}

impl Schedule {
    /// Creates a schedule. `wall` is the wall clock at the start.
    pub(crate) fn new(interval: Duration, wall: Duration) -> Self {
        let interval_ns = interval.as_nanos().max(1);
        let past = wall.as_nanos() % interval_ns;
        let origin = Duration::from_nanos((interval_ns - past) as u64);
        Self {
            interval,
            origin,
            next: Duration::ZERO,
        }
    }

    /// Returns the next tick.
    pub(crate) fn next(&self) -> Duration {
        self.next
    }

    /// Advances to the next tick after a scrape that ended at `now`, and returns the skipped ones.
    ///
    /// A tick that has passed is still used, late, until the one after it is due.
    pub(crate) fn advance(&mut self, now: Duration) -> Option<Skipped> {
        let used = self.next;
        // The first tick is between two multiples. The next multiple is left out if it is so close
        // that the scrape would find the same values.
        let first = if used < self.origin {
            if self.origin.saturating_sub(used) < self.interval / 2 {
                self.origin + self.interval
            } else {
                self.origin
            }
        } else {
            used + self.interval
        };
        if now < first + self.interval {
            self.next = first;
            return None;
        }
        let count = now.saturating_sub(first).as_nanos() / self.interval.as_nanos().max(1);
        // `Duration` multiplies by `u32`; more ticks than that pass in no realistic sleep.
        let count = count.min(u128::from(u32::MAX)) as u32;
        self.next = first + self.interval * count;
        Some(Skipped {
            first,
            count: u64::from(count),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn ticks_are_on_the_grid_and_skipped_for_good() {
        for (case, wall, scrapes) in [
            (
                "between two multiples",
                5_300,
                &[(20, 700, None), (720, 1_700, None)][..],
            ),
            (
                "the first multiple is too close",
                5_900,
                &[(20, 1_100, None)],
            ),
            ("on the grid", 5_000, &[(1, 1_000, None)]),
            (
                // The tick at 1 s took until 4.2 s: 2 s and 3 s are lost, 4 s is used late.
                "a slow scrape",
                5_000,
                &[
                    (1, 1_000, None),
                    (4_200, 4_000, Some((2_000, 2))),
                    (4_300, 5_000, None),
                ],
            ),
            (
                "a scrape into the next tick",
                5_000,
                &[(1, 1_000, None), (2_999, 2_000, None)],
            ),
        ] {
            let mut schedule = Schedule::new(SECOND, ms(wall));
            assert_eq!(schedule.next(), ms(0), "{case}");
            for &(now, next, skipped) in scrapes {
                let skipped = skipped.map(|(first, count)| Skipped {
                    first: ms(first),
                    count,
                });
                assert_eq!(schedule.advance(ms(now)), skipped, "{case}");
                assert_eq!(schedule.next(), ms(next), "{case}");
            }
        }
    }

    #[test]
    fn a_night_asleep_is_one_skip() {
        let mut schedule = Schedule::new(SECOND, ms(0));
        schedule.advance(ms(1));
        let skipped = schedule.advance(Duration::from_secs(8 * 3_600)).unwrap();
        assert_eq!(skipped.first, ms(2_000));
        assert_eq!(skipped.count, 8 * 3_600 - 2);
    }
}
