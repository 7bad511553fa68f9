//! Histograms of durations.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The bounds of the buckets, in microseconds: from a sync that a cache answers to one on a disk that
/// hangs.
const BOUNDS_US: [u64; 14] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000,
];

/// A histogram of durations that is added to and read without a lock.
#[derive(Debug, Default)]
pub(crate) struct DurationHistogram {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// The durations of an operation, counted by length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Durations {
    /// For each bound, the number of durations up to it and above the one before; at last, with
    /// `None`, those above all bounds.
    pub buckets: Vec<(Option<Duration>, u64)>,
    /// The sum of all durations.
    pub sum: Duration,
}

impl DurationHistogram {
    pub(crate) fn add(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Durations {
        let bounds = BOUNDS_US.iter().map(|us| Some(Duration::from_micros(*us)));
        let counts = self.counts.iter().map(|it| it.load(Ordering::Relaxed));
        Durations {
            buckets: bounds.chain([None]).zip(counts).collect(),
            sum: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)),
        }
    }
}

impl Durations {
    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// Returns the bound that the given share of the durations does not exceed, from 0 to 1. `None` if
    /// there is no duration, or if they exceed all bounds.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets.iter().find_map(|(bound, count)| {
            seen += count;
            (seen >= wanted).then_some(*bound)
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_up_to_each_bound() {
        let histogram = DurationHistogram::default();
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        for us in [0, 50, 51, 4_000, 4_000, 6_000_000] {
            histogram.add(Duration::from_micros(us));
        }
        let read = histogram.snapshot();
        let us = |bound| Some(Duration::from_micros(bound));
        assert_eq!(read.buckets[0], (us(50), 2));
        assert_eq!(read.buckets[1], (us(100), 1));
        assert_eq!(read.buckets[6], (us(5_000), 2));
        assert_eq!(read.buckets.last(), Some(&(None, 1)));
        assert_eq!(read.count(), 6);
        assert_eq!(read.sum, Duration::from_micros(6_008_101));
        let quantiles = [0.0, 0.5, 0.8, 1.0].map(|share| read.quantile(share));
        assert_eq!(quantiles, [us(50), us(100), us(5_000), None]);
    }
}
