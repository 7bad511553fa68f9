//! Reading the record: a snapshot, and the questions it answers.

mod assemble;
mod cursor;
mod latest;
mod plan;
mod window;

use std::{collections::BTreeSet, io, ops::RangeInclusive, sync::Arc};

use crate::{
    catalog::{Catalog, unreadable},
    codec::Decoder,
    column::Column,
    disk::{Disk, read_whole},
    error::{Damage, DamageKind},
    frame::FileKind,
    labels::{Labels, Meta},
    live::Newest,
    part::{CatalogForm, Form, Part},
    recorder::cut,
    rows::GROUP,
    segment::Segment,
    selector::Selector,
};

pub use self::{
    latest::{Latest, LatestSeries},
    window::{WindowSeries as SeriesWindow, Windows},
};

/// A value and when it was scraped; with honoured timestamps, when its line said it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Unix, milliseconds.
    pub time_ms: i64,
    /// Bit for bit what was given to [`Scrape::set`](crate::Scrape::set).
    pub value: f64,
}

/// A series and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeriesInfo {
    /// Which source it is of.
    pub source: Arc<str>,
    /// Its name and labels.
    pub labels: Labels,
    /// What is said about it.
    pub meta: Arc<Meta>,
}

/// What a source's newest scrape left.
#[derive(Clone, Debug)]
pub(crate) struct LatestOf {
    pub(crate) source: u32,
    pub(crate) name: Arc<str>,
    /// Time of the last scrape, and whether it was missed. Nothing when it is in a part.
    pub(crate) last: Option<(i64, bool)>,
    pub(crate) newest: Arc<Newest>,
}

/// What a reader holds of one record.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The record's directory inside of the one that was opened; empty if that is the record's.
    pub(crate) place: String,
    /// No source but these is in it. Nothing when that is not known.
    pub(crate) sources: Option<Vec<Arc<str>>>,
    pub(crate) disk: Option<Arc<dyn Disk>>,
    /// Oldest first.
    pub(crate) parts: Vec<Part>,
    pub(crate) catalogs: Vec<(u64, CatalogForm)>,
    pub(crate) latest: Vec<LatestOf>,
    /// The catalog of `latest`.
    pub(crate) current: Arc<Catalog>,
    pub(crate) damage: Vec<Damage>,
}

/// A view of the record as it was when the reader was made. Cheap to clone, good on any thread, beside
/// a recorder that goes on. Parts that leave the record to make room leave the reader too, when they
/// are in files.
#[derive(Clone, Debug)]
pub struct Reader {
    /// One of each record.
    snapshots: Arc<[Snapshot]>,
}

impl Reader {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshots: Arc::new([snapshot]),
        }
    }

    /// A reader of several records, of which no two have the same source.
    pub(crate) fn of_all(snapshots: impl IntoIterator<Item = Snapshot>) -> Self {
        Self {
            snapshots: snapshots.into_iter().collect(),
        }
    }

    /// Times of the oldest and the newest data, Unix milliseconds. Nothing when there is none.
    #[must_use]
    pub fn span(&self) -> Option<(i64, i64)> {
        let parts = self.snapshots.iter().flat_map(|snapshot| &snapshot.parts);
        let spans = parts.map(|part| part.span);
        spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Names of the sources that have data, sorted.
    pub fn sources(&self) -> Result<Vec<Arc<str>>, Damage> {
        let mut names = BTreeSet::new();
        for snapshot in &*self.snapshots {
            for (id, _) in &snapshot.catalogs {
                let read = snapshot.catalog(*id);
                if let Some(read) = read.map_err(|damage| snapshot.placed(damage))? {
                    names.extend(read.catalog.sources().iter().cloned());
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// The series of each source's newest scrape, exactly these, with its time. Of a source whose
    /// newest scrape was missed there is nothing.
    #[must_use]
    pub fn latest(&self, selector: &Selector) -> Latest {
        let mut all = Latest::default();
        for snapshot in &*self.snapshots {
            let Latest {
                series,
                scrapes,
                damage,
            } = latest::latest(snapshot, selector);
            all.series.extend(series);
            all.scrapes.extend(scrapes);
            let damage = damage.into_iter().map(|damage| snapshot.placed(damage));
            all.damage.extend(damage);
        }
        all.series.sort_by(|a, b| a.source.cmp(&b.source));
        all
    }

    /// Every series that has a sample inside `range` (Unix, milliseconds), one after the other.
    ///
    /// Samples are sorted by time; those of the same time, as a clock that was set back may give, in
    /// the order of their scrapes. Damage is told once, in between; what it spared is there.
    #[must_use]
    pub fn window(&self, selector: &Selector, range: RangeInclusive<i64>) -> Windows {
        Windows::new(self.clone(), selector.clone(), range)
    }

    /// Every series of the record, with or without samples in particular ranges.
    pub fn series(&self, selector: &Selector) -> Result<Vec<SeriesInfo>, Damage> {
        let mut series = Vec::new();
        for snapshot in self.asked(selector) {
            let plan = plan::Plan::new(snapshot, selector, &(i64::MIN..=i64::MAX));
            if let Some(damage) = plan.damage.first() {
                return Err(snapshot.placed(damage.clone()));
            }
            series.extend((0..plan.len()).filter_map(|index| plan.series(index)));
        }
        Ok(series)
    }

    /// The records in which there may be something of what is asked for.
    fn asked<'a>(&'a self, selector: &'a Selector) -> impl Iterator<Item = &'a Snapshot> {
        self.snapshots
            .iter()
            .filter(|snapshot| snapshot.may_have(selector))
    }

    /// Looks through everything and tells what is damaged.
    #[must_use]
    pub fn check(&self) -> Vec<Damage> {
        let placed = |snapshot: &Snapshot| {
            let damage = snapshot.check().into_iter();
            damage
                .map(|damage| snapshot.placed(damage))
                .collect::<Vec<_>>()
        };
        self.snapshots.iter().flat_map(placed).collect()
    }
}

/// A catalog as a reader has it.
#[derive(Debug)]
pub(crate) struct ReadCatalog {
    pub(crate) catalog: Arc<Catalog>,
    /// Bytes of its file that are good.
    good: u64,
    pub(crate) damage: Option<Damage>,
}

impl ReadCatalog {
    /// What a part misses here.
    pub(crate) fn lacks(&self, part: &Part) -> Option<Damage> {
        let short = self.damage.is_none() && self.catalog.blocks() < part.names;
        short.then(|| cut(FileKind::Catalog.name(part.catalog), self.good))
    }
}

impl Snapshot {
    /// Whether it may have something of what is asked for.
    fn may_have(&self, selector: &Selector) -> bool {
        let sources = self.sources.as_ref();
        sources.is_none_or(|sources| sources.iter().any(|name| selector.takes_source(name)))
    }

    /// With the record's directory, where there are several.
    pub(crate) fn placed(&self, damage: Damage) -> Damage {
        damage.inside(&self.place)
    }

    fn check(&self) -> Vec<Damage> {
        let mut damage = self.damage.clone();
        let mut note = |found: Damage| {
            if !damage.contains(&found) {
                damage.push(found);
            }
        };
        for (id, _) in &self.catalogs {
            let parts = self.parts.iter().filter(|part| part.catalog == *id);
            match self.catalog(*id) {
                Ok(None) => {}
                Ok(Some(read)) => {
                    read.damage.iter().cloned().for_each(&mut note);
                    parts
                        .filter_map(|part| read.lacks(part))
                        .for_each(&mut note);
                }
                Err(found) => note(found),
            }
        }
        for part in &self.parts {
            self.check_part(part).into_iter().for_each(&mut note);
        }
        damage
    }

    /// A catalog, read if it has to be, as far as it is good. Nothing when it has left the record.
    pub(crate) fn catalog(&self, id: u64) -> Result<Option<ReadCatalog>, Damage> {
        let Some((_, form)) = self.catalogs.iter().find(|(known, _)| *known == id) else {
            return Ok(None);
        };
        if let CatalogForm::Memory(catalog) = form {
            let catalog = Arc::clone(catalog);
            return Ok(Some(ReadCatalog {
                catalog,
                good: u64::MAX,
                damage: None,
            }));
        }
        let Some(disk) = &self.disk else {
            return Ok(None);
        };
        match read_whole(&**disk, &FileKind::Catalog.name(id)) {
            Ok(bytes) => {
                let (catalog, good, damage) = Catalog::read(id, &bytes);
                // What is written while it is read ends anywhere.
                let damage = damage.filter(|damage| damage.kind != DamageKind::Cut);
                Ok(Some(ReadCatalog {
                    catalog: Arc::new(catalog),
                    good,
                    damage,
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(id, &error)),
        }
    }

    /// A sealed part. Nothing when it has left the record, or is not sealed.
    pub(crate) fn segment(&self, part: &Part) -> Result<Option<Segment>, Damage> {
        match (&part.form, &self.disk) {
            (Form::Memory(..), _) => Ok(part.in_memory()),
            (Form::File, Some(disk)) => match Segment::open_file(part.id, &**disk) {
                Err(Damage {
                    kind: DamageKind::Missing,
                    ..
                }) => Ok(None),
                opened => opened.map(Some),
            },
            (Form::File, None) | (Form::Rows(_), _) => Ok(None),
        }
    }

    fn check_part(&self, part: &Part) -> Vec<Damage> {
        let mut damage = Vec::new();
        let segment = match self.segment(part) {
            Ok(Some(segment)) => segment,
            Ok(None) => return damage,
            Err(found) => return vec![found],
        };
        let (mut decoder, mut column) = (Decoder::default(), Column::default());
        for section in &segment.index.sections {
            for group in Segment::groups(section) {
                match segment.block(section, group) {
                    Ok(None) => {}
                    Ok(Some(block)) => damage.extend(
                        (0..GROUP)
                            .find_map(|slot| block.column(slot, &mut decoder, &mut column).err()),
                    ),
                    Err(found) => damage.push(found),
                }
            }
        }
        damage
    }
}
