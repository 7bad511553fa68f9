//! Assembly of one series from its columns.

use std::ops::RangeInclusive;

use super::{Sample, part_cursor::Timeline};
use crate::column::Column;

/// A series that is assembled part by part.
#[derive(Debug)]
pub(super) struct SeriesBuilder {
    range: RangeInclusive<i64>,
    pub(super) samples: Vec<Sample>,
    pub(super) absences: Vec<i64>,
    /// The series was present at the last scrape.
    present: bool,
}

impl SeriesBuilder {
    pub(super) fn new(range: RangeInclusive<i64>) -> Self {
        Self {
            range,
            samples: Vec::new(),
            absences: Vec::new(),
            present: false,
        }
    }

    /// Skips a part that cannot be read: absences at its end are unknown.
    pub(super) fn skip_part(&mut self) {
        self.present = false;
    }

    /// Adds a part: the source's scrapes and the series' column, which may be empty.
    pub(super) fn add(&mut self, timeline: &Timeline, column: &Column) {
        self.add_absences(timeline, &column.runs);
        if column.timestamps.is_empty() && timeline.is_sorted {
            self.add_sorted(timeline, column);
        } else {
            self.add_unsorted(timeline, column);
        }
    }

    fn add_absences(&mut self, timeline: &Timeline, runs: &[(u32, u32)]) {
        let mut end = 0;
        let rows = timeline.rows.len() as u32;
        // An empty run behind the last row ends the series' presence in this part.
        for &(from, to) in runs.iter().chain([&(rows, rows)]) {
            if self.present {
                // Scrapes that failed right behind the run precede the next row.
                let first = timeline.missed_before(end);
                let first =
                    first.or_else(|| timeline.rows[end as usize..from as usize].first().copied());
                if let Some(time) = first {
                    self.push_absence(time);
                    self.present = false;
                }
            }
            if from < to {
                // A failed scrape has no row, so that it can lie within a run.
                for &(before, time) in &timeline.missed {
                    if from < before && before < to {
                        self.push_absence(time);
                    }
                }
                self.present = true;
            }
            end = to;
        }
    }

    fn push_absence(&mut self, time: i64) {
        if self.range.contains(&time) {
            self.absences.push(time);
        }
    }

    /// Adds samples at the scrapes' times, which ascend: those in the range are contiguous.
    fn add_sorted(&mut self, timeline: &Timeline, column: &Column) {
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

    fn add_unsorted(&mut self, timeline: &Timeline, column: &Column) {
        let rows = column.runs.iter().flat_map(|&(from, to)| from..to);
        let mut timestamps = column.timestamps.iter().peekable();
        for (row, bits) in rows.zip(&column.values) {
            while timestamps.next_if(|(of, _)| *of < row).is_some() {}
            let timestamp = timestamps.next_if(|(of, _)| *of == row);
            let offset = timestamp.map_or(0, |(_, offset)| *offset);
            let time_ms = timeline.rows[row as usize].wrapping_add(offset);
            // An exporter repeats a line with its timestamp until it has a newer value.
            let again = timestamp.is_some()
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

    /// Returns samples and absences, sorted by time and then by scrape.
    pub(super) fn finish(mut self) -> (Vec<Sample>, Vec<i64>) {
        if !self.samples.is_sorted_by_key(|sample| sample.time_ms) {
            // Stable: samples of the same time stay in the order of the scrapes.
            self.samples.sort_by_key(|sample| sample.time_ms);
        }
        self.absences.sort_unstable();
        (self.samples, self.absences)
    }
}
