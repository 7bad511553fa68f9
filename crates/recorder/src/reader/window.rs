//! Windows: the samples of series in a range of time.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc};

use super::{
    Sample, SeriesInfo, part_cursor::PartCursor, plan::Plan, series_builder::SeriesBuilder,
};
use crate::{
    column::Column,
    error::Damage,
    labels::{Labels, Meta},
    selector::Selector,
    snapshot::Snapshot,
};

/// The samples of one series in a range.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WindowSeries {
    /// The source of the series.
    pub source: Arc<str>,
    /// The name and the labels.
    pub labels: Labels,
    /// The metadata.
    pub meta: Arc<Meta>,
    /// The samples, sorted by time. Never empty.
    pub samples: Vec<Sample>,
    /// The times of scrapes that failed or did not have the series, each right after one that had it.
    /// Sorted.
    pub absences: Vec<i64>,
}

/// An iterator over the series of a window, record by record.
#[derive(Debug)]
pub struct Windows {
    snapshots: Arc<[Snapshot]>,
    selector: Selector,
    range: RangeInclusive<i64>,
    /// The index of the current record's snapshot.
    at: usize,
    current: Option<RecordWindows>,
}

impl Windows {
    pub(super) fn new(
        snapshots: Arc<[Snapshot]>,
        selector: Selector,
        range: RangeInclusive<i64>,
    ) -> Self {
        let mut windows = Self {
            snapshots,
            selector,
            range,
            at: 0,
            current: None,
        };
        windows.enter();
        windows
    }

    /// Starts with the first record from `at` on that may have a series of the window.
    fn enter(&mut self) {
        let rest = self.snapshots[self.at..].iter();
        self.at += rest
            .take_while(|next| !next.may_match(&self.selector))
            .count();
        let snapshot = self.snapshots.get(self.at);
        self.current = snapshot
            .map(|snapshot| RecordWindows::new(snapshot, &self.selector, self.range.clone()));
    }
}

impl Iterator for Windows {
    type Item = Result<WindowSeries, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(next) = self.current.as_mut()?.next() {
                let snapshot = &self.snapshots[self.at];
                return Some(next.map_err(|damage| snapshot.located(damage)));
            }
            self.at += 1;
            self.enter();
        }
    }
}

/// An iterator over the series of a window in one record.
#[derive(Debug)]
struct RecordWindows {
    plan: Plan,
    range: RangeInclusive<i64>,
    cursors: Vec<PartCursor>,
    next: usize,
    column: Column,
    /// Damage that is not reported yet.
    damage: VecDeque<Damage>,
    /// All damage found so far.
    found: Vec<Damage>,
}

impl RecordWindows {
    fn new(snapshot: &Snapshot, selector: &Selector, range: RangeInclusive<i64>) -> Self {
        let mut plan = Plan::new(snapshot, selector, &range);
        let damage = std::mem::take(&mut plan.damage);
        let mut windows = Self {
            range,
            cursors: std::mem::take(&mut plan.cursors),
            next: 0,
            column: Column::default(),
            damage: VecDeque::new(),
            found: Vec::new(),
            plan,
        };
        for damage in snapshot.damage.iter().cloned().chain(damage) {
            windows.report(damage);
        }
        windows
    }

    fn report(&mut self, damage: Damage) {
        // All series of a damaged block meet the same damage.
        if !self.found.contains(&damage) {
            self.found.push(damage.clone());
            self.damage.push_back(damage);
        }
    }

    fn assemble(&mut self, index: usize) -> SeriesBuilder {
        let mut series = SeriesBuilder::new(self.range.clone());
        for at in 0..self.cursors.len() {
            let cursor = &mut self.cursors[at];
            if cursor.is_evicted() {
                series.skip_part();
                continue;
            }
            let mut entries = self.plan.entries(index).iter();
            let Some(entry) = entries.find(|entry| entry.catalog == cursor.catalog) else {
                // The part's catalog does not define the series: it was absent in the whole part.
                let name = self.plan.source(&self.plan.entries(index)[0]);
                let mut timelines = cursor.timelines().iter();
                if let Some(timeline) = timelines.find(|timeline| timeline.name == *name) {
                    series.add(timeline, &Column::default());
                }
                continue;
            };
            match cursor.column(entry.source, entry.slot, &mut self.column) {
                Ok(()) => {
                    if let Some(timeline) = cursor.timeline(entry.source) {
                        series.add(timeline, &self.column);
                    }
                }
                Err(damage) => {
                    series.skip_part();
                    self.report(damage);
                }
            }
        }
        series
    }
}

impl Iterator for RecordWindows {
    type Item = Result<WindowSeries, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(damage) = self.damage.pop_front() {
                return Some(Err(damage));
            }
            if self.next == self.plan.len() {
                return None;
            }
            let index = self.next;
            self.next += 1;
            let (samples, absences) = self.assemble(index).finish();
            let Some(SeriesInfo {
                source,
                labels,
                meta,
            }) = self.plan.series(index).filter(|_| !samples.is_empty())
            else {
                continue;
            };
            return Some(Ok(WindowSeries {
                source,
                labels,
                meta,
                samples,
                absences,
            }));
        }
    }
}
