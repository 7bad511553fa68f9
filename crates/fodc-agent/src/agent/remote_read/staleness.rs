//! Adds the stale markers of Prometheus to the samples of a series.
//!
//! Prometheus shows the last value of a series for five minutes unless a stale marker, a certain
//! NaN, ends it. The record knows when a series was absent and when a scrape was missed, so a marker
//! goes where a Prometheus would have written one.

use std::time::Duration;

use steadfast_recorder::Sample as Recorded;
use steadfast_wire::prometheus::Sample;

/// The bits of the stale marker.
pub(super) const STALE: u64 = 0x7ff0_0000_0000_0002;

/// The rule for a gap between two samples of a series. The agent did not run during a long gap, so
/// the series ended before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StalenessRule {
    /// The time between two scrapes in milliseconds.
    pub(super) interval: i64,
    /// The time limit of a scrape in milliseconds.
    pub(super) timeout: i64,
}

impl StalenessRule {
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 8);
        Self {
            interval: ms(interval).max(1),
            timeout: ms(timeout),
        }
    }
}

/// Returns the samples of one series, each time once, with a stale marker after each run of samples
/// at the first time at which the series was absent.
///
/// `samples` are sorted by time. A clock that was set back gives several samples of one time, of
/// which the last one counts. `absences` are the times of scrapes without the series, including
/// missed scrapes. `until` is the last time for which the record can speak.
pub(super) fn with_stale_markers(
    samples: &[Recorded],
    absences: &[i64],
    until: i64,
    rule: StalenessRule,
) -> Vec<Sample> {
    let mut marked: Vec<Sample> = Vec::with_capacity(samples.len() + 1);
    let mut absent = absences.iter().copied().peekable();
    let mut spacing = initial_spacing(samples, rule);
    for (index, sample) in samples.iter().enumerate() {
        let next = samples.get(index + 1).map(|next| next.time_ms);
        if next == Some(sample.time_ms) {
            // Prometheus refuses two samples of one time; the last recorded one counts.
            continue;
        }
        marked.push(Sample {
            value: sample.value,
            timestamp: sample.time_ms,
        });
        // Absences up to here belong to the run before this sample.
        while absent.next_if(|at| *at <= sample.time_ms).is_some() {}
        // No marker may lie after the last time that the record knows.
        let end = next.unwrap_or(until.saturating_add(1));
        let known = absent.peek().copied().filter(|at| *at < end);
        // A scrape may come a little late, and one may still be under way.
        let silent = end.saturating_sub(sample.time_ms) > 3 * spacing + rule.timeout;
        let presumed = silent.then(|| sample.time_ms.saturating_add(spacing));
        if let Some(at) = [known, presumed].into_iter().flatten().min() {
            marked.push(Sample {
                value: f64::from_bits(STALE),
                timestamp: at,
            });
        } else if let Some(next) = next {
            // An agent that was restarted with another interval changes the spacing for good.
            spacing = rule.interval.max(next - sample.time_ms);
        }
    }
    marked
}

/// Returns the interval at which the first samples were scraped. It may be longer than the current
/// one, as an earlier agent may have scraped less often.
fn initial_spacing(samples: &[Recorded], rule: StalenessRule) -> i64 {
    let spaces = samples.windows(2).take(3);
    let mut spaces: Vec<_> = spaces
        .map(|pair| pair[1].time_ms - pair[0].time_ms)
        .collect();
    spaces.sort_unstable();
    // The median: one of the first samples may have been missed.
    let middle = spaces.len().saturating_sub(1) / 2;
    rule.interval.max(spaces.get(middle).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: StalenessRule = StalenessRule {
        interval: 1_000,
        timeout: 1_000,
    };

    fn recorded(seconds: i64, value: f64) -> Recorded {
        Recorded {
            time_ms: seconds * 1_000,
            value,
        }
    }

    /// Returns the times in seconds, those of stale markers as negative numbers.
    fn seconds(times: &[i64], absences: &[i64], until: i64) -> Vec<i64> {
        let samples: Vec<_> = times.iter().map(|time| recorded(*time, 1.0)).collect();
        let absences: Vec<_> = absences.iter().map(|time| time * 1_000).collect();
        let marked = with_stale_markers(&samples, &absences, until * 1_000, RULE);
        let time = |sample: &Sample| {
            let stale = sample.value.to_bits() == STALE;
            (if stale { -1 } else { 1 }) * sample.timestamp / 1_000
        };
        marked.iter().map(time).collect()
    }

    #[test]
    fn series_ends_where_it_is_first_missing() {
        type Seconds<'a> = &'a [i64];
        let cases: [(Seconds<'_>, Seconds<'_>, i64, Seconds<'_>, &str); 10] = [
            (&[1, 2, 3], &[], 4, &[1, 2, 3], "no gap"),
            (&[], &[1, 2], 9, &[], "no samples"),
            (&[1, 2, 3], &[4, 5, 6], 6, &[1, 2, 3, -4], "vanished"),
            (
                &[2, 3, 6, 8],
                &[1, 4, 5, 7],
                8,
                &[2, 3, -4, 6, -7, 8],
                "one marker per gap",
            ),
            (
                &[1, 2, 3, 60, 61],
                &[],
                61,
                &[1, 2, 3, -4, 60, 61],
                "a gap of the agent",
            ),
            (&[1, 2, 3], &[], 60, &[1, 2, 3, -4], "the agent is gone"),
            (
                &[1, 2, 3],
                &[],
                6,
                &[1, 2, 3],
                "a scrape may still be under way",
            ),
            (
                &[10, 20, 30, 31, 32],
                &[],
                33,
                &[10, 20, 30, 31, 32],
                "a slower agent before",
            ),
            (
                &[10, 20, 30],
                &[],
                600,
                &[10, 20, 30, -40],
                "the slower agent is gone",
            ),
            (
                &[0, 600, 601, 602],
                &[],
                602,
                &[0, -1, 600, 601, 602],
                "a much slower one",
            ),
        ];
        for (times, absences, until, expected, case) in cases {
            assert_eq!(seconds(times, absences, until), expected, "{case}");
        }
    }

    #[test]
    fn clock_set_back_keeps_the_last_sample_of_a_time() {
        let samples = [
            (1, 1.0),
            (2, 2.0),
            (2, 20.0),
            (3, 3.0),
            (3, 30.0),
            (4, 40.0),
        ]
        .map(|(time, value)| recorded(time, value));
        let marked = with_stale_markers(&samples, &[], 4_000, RULE);
        let pairs: Vec<_> = marked
            .iter()
            .map(|s| (s.timestamp / 1_000, s.value))
            .collect();
        assert_eq!(pairs, [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]);
    }

    #[test]
    fn the_bits_of_a_nan_are_kept() {
        let odd = f64::from_bits(0x7ff8_0000_dead_beef);
        let marked = with_stale_markers(&[recorded(1, odd)], &[], 2, RULE);
        assert_eq!(marked[0].value.to_bits(), odd.to_bits());
    }
}
