//! Windows: the samples of series inside a range of time.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc};

use super::{Reader, Sample, SeriesInfo, Snapshot, assemble::Assembly, cursor::Cursor, plan::Plan};
use crate::{
    column::Column,
    error::Damage,
    labels::{Labels, Meta},
    selector::Selector,
};

/// One series inside a range.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WindowSeries {
    /// Which source it is of.
    pub source: Arc<str>,
    /// Its name and labels.
    pub labels: Labels,
    /// What is said about it.
    pub meta: Arc<Meta>,
    /// What was scraped, sorted by time. One at least.
    pub samples: Vec<Sample>,
    /// Times of scrapes of its source at which it was absent, or which were missed, and at the scrape
    /// before which it had been there. Sorted.
    pub absences: Vec<i64>,
}

/// Goes through the series of a window, record by record.
#[derive(Debug)]
pub struct Windows {
    reader: Reader,
    selector: Selector,
    range: RangeInclusive<i64>,
    /// Which record is gone through, and how far.
    place: usize,
    current: Option<InRecord>,
}

impl Windows {
    pub(super) fn new(reader: Reader, selector: Selector, range: RangeInclusive<i64>) -> Self {
        let mut windows = Self {
            reader,
            selector,
            range,
            place: 0,
            current: None,
        };
        windows.enter();
        windows
    }

    /// Begins with the first record from `place` on in which there may be something.
    fn enter(&mut self) {
        let rest = self.reader.snapshots[self.place..].iter();
        let passed = rest.take_while(|snapshot| !snapshot.may_have(&self.selector));
        self.place += passed.count();
        let snapshot = self.reader.snapshots.get(self.place);
        self.current =
            snapshot.map(|snapshot| InRecord::new(snapshot, &self.selector, self.range.clone()));
    }
}

impl Iterator for Windows {
    type Item = Result<WindowSeries, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(next) = self.current.as_mut()?.next() {
                let snapshot = &self.reader.snapshots[self.place];
                return Some(next.map_err(|damage| snapshot.placed(damage)));
            }
            self.place += 1;
            self.enter();
        }
    }
}

/// Goes through the series of a window in one record.
#[derive(Debug)]
struct InRecord {
    plan: Plan,
    range: RangeInclusive<i64>,
    cursors: Vec<Cursor>,
    next: usize,
    column: Column,
    damage: VecDeque<Damage>,
    /// What has been told already.
    told: Vec<Damage>,
}

impl InRecord {
    fn new(snapshot: &Snapshot, selector: &Selector, range: RangeInclusive<i64>) -> Self {
        let mut plan = Plan::new(snapshot, selector, &range);
        let mut windows = Self {
            range,
            cursors: std::mem::take(&mut plan.cursors),
            next: 0,
            column: Column::default(),
            damage: VecDeque::new(),
            told: Vec::new(),
            plan,
        };
        let found = snapshot
            .damage
            .iter()
            .cloned()
            .chain(std::mem::take(&mut windows.plan.damage));
        for damage in found.collect::<Vec<_>>() {
            windows.tell(damage);
        }
        windows
    }

    fn tell(&mut self, damage: Damage) {
        if !self.told.contains(&damage) {
            self.told.push(damage.clone());
            self.damage.push_back(damage);
        }
    }

    fn assemble(&mut self, index: usize) -> Assembly {
        let mut assembly = Assembly::new(self.range.clone());
        for at in 0..self.cursors.len() {
            let cursor = &mut self.cursors[at];
            if !cursor.is_readable() {
                assembly.lose_track();
                continue;
            }
            let entry = self
                .plan
                .entries(index)
                .iter()
                .find(|entry| entry.catalog == cursor.catalog);
            let Some(entry) = entry else {
                // Another catalog does not know the series: it was not there as long as that one held.
                let name = self.plan.source(&self.plan.entries(index)[0]);
                let mut timelines = cursor.timelines().iter();
                if let Some(timeline) = timelines.find(|timeline| timeline.name == *name) {
                    assembly.add(timeline, &Column::default());
                }
                continue;
            };
            match cursor.column(entry.source, entry.slot, &mut self.column) {
                Ok(()) => {
                    if let Some(timeline) = cursor.timeline(entry.source) {
                        assembly.add(timeline, &self.column);
                    }
                }
                Err(damage) => {
                    assembly.lose_track();
                    self.tell(damage);
                }
            }
        }
        assembly
    }
}

impl Iterator for InRecord {
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
