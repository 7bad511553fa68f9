//! Putting one series together from its columns.

use std::ops::RangeInclusive;

use super::{Sample, cursor::Timeline};
use crate::column::Column;

/// What is known of a series so far, part by part.
#[derive(Debug)]
pub(super) struct Assembly {
    range: RangeInclusive<i64>,
    pub(super) samples: Vec<Sample>,
    pub(super) absences: Vec<i64>,
    /// It was there at the scrape before.
    present: bool,
}

impl Assembly {
    pub(super) fn new(range: RangeInclusive<i64>) -> Self {
        Self {
            range,
            samples: Vec::new(),
            absences: Vec::new(),
            present: false,
        }
    }

    /// Nothing is known of what comes next.
    pub(super) fn lose_track(&mut self) {
        self.present = false;
    }

    /// Takes in a part: the source's scrapes and the series' column, which may be empty.
    pub(super) fn add(&mut self, timeline: &Timeline, column: &Column) {
        self.add_absences(timeline, &column.runs);
        if column.stamps.is_empty() && timeline.ascends {
            self.add_even(timeline, column);
        } else {
            self.add_uneven(timeline, column);
        }
    }

    fn add_absences(&mut self, timeline: &Timeline, runs: &[(u32, u32)]) {
        let mut end = 0;
        let rows = timeline.rows.len() as u32;
        for &(from, to) in runs.iter().chain([&(rows, rows)]) {
            if self.present {
                let first = timeline.missed_before(end);
                let first =
                    first.or_else(|| timeline.rows[end as usize..from as usize].first().copied());
                if let Some(time) = first {
                    self.absent(time);
                    self.present = false;
                }
            }
            if from < to {
                for &(before, time) in &timeline.missed {
                    if from < before && before < to {
                        self.absent(time);
                    }
                }
                self.present = true;
            }
            end = to;
        }
    }

    fn absent(&mut self, time: i64) {
        if self.range.contains(&time) {
            self.absences.push(time);
        }
    }

    /// Times ascend and are the scrapes': what is inside the range is one piece.
    fn add_even(&mut self, timeline: &Timeline, column: &Column) {
        let times = &timeline.rows;
        let first = times.partition_point(|time| time < self.range.start());
        let last = times.partition_point(|time| time <= self.range.end());
        let mut at = 0;
        for &(from, to) in &column.runs {
            let (from, to) = (from as usize, to as usize);
            let (start, end) = (from.max(first), to.min(last));
            if start < end {
                let values = &column.values[at + start - from..at + end - from];
                let samples = times[start..end].iter().zip(values);
                self.samples.extend(samples.map(|(time, bits)| Sample {
                    time_ms: *time,
                    value: f64::from_bits(*bits),
                }));
            }
            at += to - from;
        }
    }

    fn add_uneven(&mut self, timeline: &Timeline, column: &Column) {
        let rows = column.runs.iter().flat_map(|&(from, to)| from..to);
        let mut stamps = column.stamps.iter().peekable();
        for (row, bits) in rows.zip(&column.values) {
            while stamps.next_if(|(stamped, _)| *stamped < row).is_some() {}
            let stamp = stamps.next_if(|(stamped, _)| *stamped == row);
            let time_ms =
                timeline.rows[row as usize].wrapping_add(stamp.map_or(0, |(_, offset)| *offset));
            // A line that keeps its time is the same sample, scraped again.
            let again = stamp.is_some()
                && self
                    .samples
                    .last()
                    .is_some_and(|last| last.time_ms == time_ms && last.value.to_bits() == *bits);
            if self.range.contains(&time_ms) && !again {
                self.samples.push(Sample {
                    time_ms,
                    value: f64::from_bits(*bits),
                });
            }
        }
    }

    /// Everything, sorted by time. The order of scrapes stays among equal times.
    pub(super) fn finish(mut self) -> (Vec<Sample>, Vec<i64>) {
        if !self.samples.is_sorted_by_key(|sample| sample.time_ms) {
            self.samples.sort_by_key(|sample| sample.time_ms);
        }
        self.absences.sort_unstable();
        (self.samples, self.absences)
    }
}
