//! Reading a record.

mod latest;
mod part_cursor;
mod plan;
mod series_builder;
mod window;

use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc};

use crate::{
    error::Damage,
    labels::{Labels, Meta},
    selector::Selector,
    snapshot::Snapshot,
    span::union_of,
};

pub use self::{
    latest::{Latest, LatestSeries},
    window::{WindowSeries as SeriesWindow, Windows},
};

/// A value and its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The time of the scrape or, with honored timestamps, of the line. Unix milliseconds.
    pub time_ms: i64,
    /// The value, bit for bit as it was given to [`Scrape::set`](crate::Scrape::set).
    pub value: f64,
}

/// A series and its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeriesInfo {
    /// The source of the series.
    pub source: Arc<str>,
    /// The name and the labels.
    pub labels: Labels,
    /// The metadata.
    pub meta: Arc<Meta>,
}

/// A view of the record at the moment when the reader was made.
///
/// A reader is cheap to clone, works on any thread and does not delay the recorder. Parts in files
/// disappear from the reader when the recorder evicts them.
#[derive(Clone, Debug)]
pub struct Reader {
    /// One snapshot per record.
    snapshots: Arc<[Snapshot]>,
}

impl Reader {
    /// Creates a reader of several records. No two have a source in common.
    pub(crate) fn new(snapshots: impl IntoIterator<Item = Snapshot>) -> Self {
        Self {
            snapshots: snapshots.into_iter().collect(),
        }
    }

    /// Returns the times of the oldest and the newest data in Unix milliseconds, or `None` if the
    /// record is empty.
    #[must_use]
    pub fn span(&self) -> Option<(i64, i64)> {
        let parts = self.snapshots.iter().flat_map(|snapshot| &snapshot.parts);
        union_of(parts.map(|part| part.span))
    }

    /// Returns the names of the sources that have data, sorted. Those of a damaged catalog are not known;
    /// [`Reader::check`] returns the damage.
    #[must_use]
    pub fn sources(&self) -> Vec<Arc<str>> {
        let mut names = BTreeSet::new();
        for snapshot in &*self.snapshots {
            for (id, _) in &snapshot.catalogs {
                if let Ok(Some(read)) = snapshot.catalog(*id) {
                    names.extend(read.catalog.sources().iter().cloned());
                }
            }
        }
        names.into_iter().collect()
    }

    /// Returns the newest scrape of each source. A source of which the newest scrape failed has no
    /// series in it.
    #[must_use]
    pub fn latest(&self, selector: &Selector) -> Latest {
        let mut all = Latest::default();
        for snapshot in &*self.snapshots {
            let latest = latest::latest(snapshot, selector);
            all.series.extend(latest.series);
            all.scrapes.extend(latest.scrapes);
            let damage = latest.damage.into_iter();
            all.damage
                .extend(damage.map(|damage| snapshot.located(damage)));
        }
        // Stable: the series of a source stay in the order of their catalog.
        all.series.sort_by(|a, b| a.source.cmp(&b.source));
        all
    }

    /// Iterates over the series that have a sample in `range` (Unix milliseconds).
    ///
    /// Samples are sorted by time. Samples of the same time, which exist if a clock was set back, are in
    /// the order of their scrapes. The iterator reports each damage once and continues with the data
    /// that is intact.
    #[must_use]
    pub fn window(&self, selector: &Selector, range: RangeInclusive<i64>) -> Windows {
        Windows::new(Arc::clone(&self.snapshots), selector.clone(), range)
    }

    /// Returns all series, with or without samples. Damage hides only the series that it concerns;
    /// [`Reader::check`] returns it.
    #[must_use]
    pub fn series(&self, selector: &Selector) -> Vec<SeriesInfo> {
        let mut series = Vec::new();
        let snapshots = self.snapshots.iter();
        for snapshot in snapshots.filter(|snapshot| snapshot.may_match(selector)) {
            let plan = plan::Plan::new(snapshot, selector, &(i64::MIN..=i64::MAX));
            series.extend((0..plan.len()).filter_map(|index| plan.series(index)));
        }
        series
    }

    /// Reads the whole record and returns all damage.
    #[must_use]
    pub fn check(&self) -> Vec<Damage> {
        let mut damage = Vec::new();
        for snapshot in &*self.snapshots {
            let found = snapshot.check().into_iter();
            damage.extend(found.map(|damage| snapshot.located(damage)));
        }
        damage
    }
}
