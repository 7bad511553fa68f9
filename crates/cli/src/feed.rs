//! Sources of documents: a generator, and the package index of this machine.

pub(crate) mod command;
mod dumpavail;
pub(crate) mod generator;
pub(crate) mod packages;

use std::{io, num::NonZeroU32, time::Duration};

use tokio::time::{Instant, sleep_until};

use self::{generator::Generator, packages::Packages};
use crate::document::Document;

/// A source of documents.
pub(crate) enum Feed {
    Generator(Generator),
    Packages(Packages),
}

impl Feed {
    /// Returns the next document; `None` at the end. The generator never ends.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Document>> {
        match self {
            Self::Generator(generator) => Ok(generator.next()),
            Self::Packages(packages) => packages.next().await,
        }
    }
}

/// Keeps a feed to its rate.
#[derive(Debug)]
pub(crate) struct Pace {
    period: Duration,
    next: Instant,
}

/// A delayed feed catches up at most this time at once, so that it sends no long burst.
const BURST_MAX: Duration = Duration::from_millis(100);

impl Pace {
    /// Limits a feed to `rate` documents a second, or not at all.
    pub(crate) fn new(rate: Option<NonZeroU32>) -> Self {
        let period = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        Self {
            period,
            next: Instant::now(),
        }
    }

    /// Waits until the next document is due. Cancel safe.
    pub(crate) async fn wait(&mut self) {
        if self.period.is_zero() {
            return;
        }
        let now = Instant::now();
        self.next = self.next.max(now.checked_sub(BURST_MAX).unwrap_or(now));
        if self.next > now {
            sleep_until(self.next).await;
        }
        // Only after the sleep: a wait that is cancelled takes no turn.
        self.next += self.period;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_holds_its_rate_at_any_speed() {
        for rate in [10, 150, 1_000, 12_345] {
            let mut pace = Pace::new(NonZeroU32::new(rate));
            let began = Instant::now();
            for _ in 0..rate * 2 {
                pace.wait().await;
            }
            let took = began.elapsed().as_secs_f64();
            assert!(
                (1.9..2.1).contains(&took),
                "{rate} a second took {took} s for two seconds"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_was_held_up_does_not_come_back_in_one_burst() {
        let mut pace = Pace::new(NonZeroU32::new(100));
        pace.wait().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let back = Instant::now();
        for _ in 0..100 {
            pace.wait().await;
        }
        assert!(
            back.elapsed() > Duration::from_millis(850),
            "{:?}",
            back.elapsed()
        );
    }
}
