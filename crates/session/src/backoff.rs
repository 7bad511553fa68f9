//! Delays between attempts: pure, seeded, with jitter at every step, the cap included.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::config::{Config, Jitter, Recovery};

/// The delays between attempts. They grow until [`Backoff::reset`].
#[derive(Debug)]
pub(crate) struct Backoff {
    rng: ChaCha8Rng,
    step: u32,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            step: 0,
        }
    }

    /// Starts again with the initial delay.
    pub(crate) fn reset(&mut self) {
        self.step = 0;
    }

    /// Returns the next delay: `d = min(initial·multiplier^step, max)`, with jitter.
    pub(crate) fn next(&mut self, config: &Config) -> Duration {
        let delay = Self::delay(config, self.step);
        // A session that fails for years must not wrap around to the first delay.
        self.step = self.step.saturating_add(1);
        self.spread(config, delay)
    }

    /// Returns the delay of a step, without jitter.
    pub(crate) fn delay(config: &Config, step: u32) -> Duration {
        // A large exponent gives infinity, which `seconds` turns into the longest duration
        // and `min` into the maximum.
        let factor = config.backoff_multiplier.powf(f64::from(step));
        let initial = config.initial_backoff.as_secs_f64();
        seconds(initial * factor).min(config.max_backoff)
    }

    /// Returns the longest delay, with jitter, for a peer that is overloaded or refuses for now.
    pub(crate) fn longest(&mut self, config: &Config) -> Duration {
        self.spread(config, config.max_backoff)
    }

    /// Returns the first delay after the loss of a stable stream.
    pub(crate) fn recovery(&mut self, config: &Config) -> Duration {
        match config.recovery {
            Recovery::Backoff => self.next(config),
            // Many clients lose the same server at once, so even the first delay is drawn. The
            // minimum interval between attempts still holds; the session adds it.
            Recovery::Spread(span) => self.between((Duration::ZERO, span)),
        }
    }

    /// Returns the next delay after an orderly end of a stream that was live but not stable: that of
    /// [`Backoff::recovery`], except that the backoff advances.
    pub(crate) fn after_orderly_end(&mut self, config: &Config) -> Duration {
        let next = self.next(config);
        match config.recovery {
            Recovery::Backoff => next,
            Recovery::Spread(span) => self.between((Duration::ZERO, span)).min(next),
        }
    }

    /// Returns the delay that the peer asked for, or a little more, because the peer may have asked all
    /// its clients for the same.
    pub(crate) fn at_least(&mut self, config: &Config, wait: Duration) -> Duration {
        self.between(Self::window_after(config, wait))
    }

    /// Returns the bounds of the delay after a peer that asked for `wait`.
    pub(crate) fn window_after(config: &Config, wait: Duration) -> (Duration, Duration) {
        let fraction = match config.jitter {
            Jitter::Proportional(fraction) => fraction,
            Jitter::Full => 1.0,
        };
        // A peer that asks for an hour must not make the spread an hour, too.
        let width = times(wait.min(config.max_backoff), fraction);
        (wait, wait.saturating_add(width))
    }

    fn spread(&mut self, config: &Config, delay: Duration) -> Duration {
        self.between(Self::window(config, delay))
    }

    /// Returns the bounds of a delay with jitter.
    pub(crate) fn window(config: &Config, delay: Duration) -> (Duration, Duration) {
        match config.jitter {
            Jitter::Proportional(fraction) => (
                times(delay, 1.0 - fraction),
                times(delay, 1.0 + fraction).min(config.max_backoff),
            ),
            Jitter::Full => {
                // A window that begins at zero would break the minimum interval.
                let floor = config.min_interval();
                (floor, delay.max(floor))
            }
        }
    }

    fn between(&mut self, (low, high): (Duration, Duration)) -> Duration {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        // Inclusive, because a window of one value is allowed: without jitter both ends are equal.
        Duration::from_micros(self.rng.random_range(micros(low)..=micros(high.max(low))))
    }
}

fn times(span: Duration, factor: f64) -> Duration {
    seconds(span.as_secs_f64() * factor)
}

/// Converts to a [`Duration`], saturating.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(config: &Config, seed: u64, count: usize) -> Vec<f64> {
        let mut backoff = Backoff::new(seed);
        (0..count)
            .map(|_| backoff.next(config).as_secs_f64())
            .collect()
    }

    #[test]
    fn delays_double_from_the_initial_one_to_the_cap() {
        let config = Config {
            jitter: Jitter::Proportional(0.0),
            ..Config::default()
        };
        assert_eq!(
            delays(&config, 1, 7),
            [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        );
    }

    #[test]
    fn full_jitter_fills_its_window_from_the_minimum_interval() {
        let config = Config {
            jitter: Jitter::Full,
            ..Config::default()
        };
        let drawn: Vec<f64> = (0..2_000).map(|seed| delays(&config, seed, 4)[3]).collect();
        assert!(drawn.iter().all(|delay| (0.5..=8.0).contains(delay)));
        assert!(drawn.iter().any(|delay| *delay < 1.0) && drawn.iter().any(|delay| *delay > 7.5));
    }

    #[test]
    fn huge_step_count_neither_overflows_nor_exceeds_the_cap() {
        let config = Config {
            backoff_multiplier: 1e9,
            ..Config::default()
        };
        let mut backoff = Backoff {
            step: u32::MAX - 1,
            ..Backoff::new(3)
        };
        for _ in 0..4 {
            assert!(backoff.next(&config) <= config.max_backoff);
        }
    }
}
