//! Says where a series was not, in the language of Prometheus.
//!
//! A Prometheus shows the last value of a series for five minutes, unless it is told that the
//! series has ended: by a sample that is a certain NaN. Our record knows when a series was absent
//! and when a scrape was missed, so we can tell it.

use std::time::Duration;

use steadfast_recorder::Sample as Recorded;
use steadfast_wire::prometheus::Sample;

/// The NaN by which Prometheus knows that a series was not there.
pub(super) const STALE: u64 = 0x7ff0_0000_0000_0002;

/// How long a source may be silent before its series count as gone: the agent did not run then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How often the source is read, in milliseconds.
    pub(super) interval: i64,
    /// How long one reading may take, in milliseconds.
    pub(super) timeout: i64,
}

impl Patience {
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 8);
        Self {
            interval: ms(interval).max(1),
            timeout: ms(timeout),
        }
    }
}

/// The samples of one series, each time once, with a mark at the first moment after each stretch of
/// them at which the series was known to be absent.
///
/// `samples` are sorted by time; of those of one time, which a clock that was set back gives, the
/// last recorded wins. `absences` are the times at which the source was read, or was to be read, and
/// the series was not there. `until` is the last moment about which anything is known.
pub(super) fn mark(
    samples: &[Recorded],
    absences: &[i64],
    until: i64,
    patience: Patience,
) -> Vec<Sample> {
    let mut marked: Vec<Sample> = Vec::with_capacity(samples.len() + 1);
    let mut absent = absences.iter().copied().peekable();
    let mut spacing = usual_spacing(samples, patience);
    for (index, sample) in samples.iter().enumerate() {
        let next = samples.get(index + 1).map(|next| next.time_ms);
        if next == Some(sample.time_ms) {
            continue;
        }
        marked.push(Sample {
            value: sample.value,
            timestamp: sample.time_ms,
        });
        while absent.next_if(|at| *at <= sample.time_ms).is_some() {}
        let end = next.unwrap_or(until.saturating_add(1));
        let known = absent.peek().copied().filter(|at| *at < end);
        let silent = end.saturating_sub(sample.time_ms) > 3 * spacing + patience.timeout;
        let presumed = silent.then(|| sample.time_ms.saturating_add(spacing));
        if let Some(at) = [known, presumed].into_iter().flatten().min() {
            marked.push(Sample {
                value: f64::from_bits(STALE),
                timestamp: at,
            });
        } else if let Some(next) = next {
            spacing = patience.interval.max(next - sample.time_ms);
        }
    }
    marked
}

/// How far apart the source was read at the first of these samples: the record may be of an agent
/// that read less often than this one does.
fn usual_spacing(samples: &[Recorded], patience: Patience) -> i64 {
    let spaces = samples.windows(2).take(3);
    let mut spaces: Vec<_> = spaces
        .map(|pair| pair[1].time_ms - pair[0].time_ms)
        .collect();
    spaces.sort_unstable();
    let middle = spaces.len().saturating_sub(1) / 2;
    patience
        .interval
        .max(spaces.get(middle).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        interval: 1_000,
        timeout: 1_000,
    };

    fn recorded(seconds: i64, value: f64) -> Recorded {
        Recorded {
            time_ms: seconds * 1_000,
            value,
        }
    }

    /// Times of the answer in seconds, those of marks negative.
    fn seconds(times: &[i64], absences: &[i64], until: i64, patience: Patience) -> Vec<i64> {
        let samples: Vec<_> = times.iter().map(|time| recorded(*time, 1.0)).collect();
        let absences: Vec<_> = absences.iter().map(|time| time * 1_000).collect();
        let marked = mark(&samples, &absences, until * 1_000, patience);
        let time = |sample: &Sample| {
            let stale = sample.value.to_bits() == STALE;
            (if stale { -1 } else { 1 }) * sample.timestamp / 1_000
        };
        marked.iter().map(time).collect()
    }

    #[test]
    fn a_series_that_is_always_there_has_no_mark() {
        assert_eq!(seconds(&[1, 2, 3], &[], 4, PATIENCE), [1, 2, 3]);
        assert_eq!(seconds(&[], &[1, 2], 9, PATIENCE), [] as [i64; 0]);
    }

    #[test]
    fn fodc_o22_a_series_that_vanished_ends_where_it_was_first_missing() {
        assert_eq!(seconds(&[1, 2, 3], &[4, 5, 6], 6, PATIENCE), [1, 2, 3, -4]);
    }

    #[test]
    fn a_flapping_series_ends_each_time_and_once() {
        assert_eq!(
            seconds(&[2, 3, 6, 8], &[1, 4, 5, 7], 8, PATIENCE),
            [2, 3, -4, 6, -7, 8]
        );
    }

    #[test]
    fn a_silence_of_the_agent_ends_what_was_before_it() {
        assert_eq!(
            seconds(&[1, 2, 3, 60, 61], &[], 61, PATIENCE),
            [1, 2, 3, -4, 60, 61]
        );
        assert_eq!(seconds(&[1, 2, 3], &[], 60, PATIENCE), [1, 2, 3, -4]);
        // What may still be under way is not gone.
        assert_eq!(seconds(&[1, 2, 3], &[], 6, PATIENCE), [1, 2, 3]);
    }

    #[test]
    fn a_record_of_a_slower_agent_is_not_full_of_ends() {
        assert_eq!(
            seconds(&[10, 20, 30, 31, 32], &[], 33, PATIENCE),
            [10, 20, 30, 31, 32]
        );
        assert_eq!(
            seconds(&[10, 20, 30], &[], 600, PATIENCE),
            [10, 20, 30, -40]
        );
        assert_eq!(
            seconds(&[0, 600, 601, 602], &[], 602, PATIENCE),
            [0, -1, 600, 601, 602]
        );
    }

    #[test]
    fn a_clock_set_back_repeats_no_time_and_the_later_recording_wins() {
        let samples = [
            (1, 1.0),
            (2, 2.0),
            (2, 20.0),
            (3, 3.0),
            (3, 30.0),
            (4, 40.0),
        ]
        .map(|(time, value)| recorded(time, value));
        let marked = mark(&samples, &[], 4_000, PATIENCE);
        let pairs: Vec<_> = marked
            .iter()
            .map(|s| (s.timestamp / 1_000, s.value))
            .collect();
        assert_eq!(pairs, [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]);
    }

    #[test]
    fn the_bits_of_a_nan_are_kept() {
        let odd = f64::from_bits(0x7ff8_0000_dead_beef);
        let marked = mark(&[recorded(1, odd)], &[], 2, PATIENCE);
        assert_eq!(marked[0].value.to_bits(), odd.to_bits());
    }
}
