//! The state of one record that a reader holds.

use std::{io, sync::Arc};

use crate::{
    catalog::Catalog,
    codec::Decoder,
    column::Column,
    disk::{Disk, read_whole},
    error::{Damage, DamageKind},
    frame::FileKind,
    part::{CatalogData, Part, PartData},
    rows::GROUP,
    segment::Segment,
    selector::Selector,
    source::NewestValues,
};

/// The newest scrape of a source.
#[derive(Clone, Debug)]
pub(crate) struct NewestScrape {
    pub(crate) source: u32,
    pub(crate) name: Arc<str>,
    /// The time of the last scrape, and true if it failed. `None` if only a part has it.
    pub(crate) last: Option<(i64, bool)>,
    pub(crate) newest: Arc<NewestValues>,
}

/// The state of one record that a reader holds.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The record's directory inside the directory that was opened; empty if that is the record's.
    pub(crate) directory: String,
    /// All sources of the record. `None` if they are not known without reading catalogs.
    pub(crate) sources: Option<Vec<Arc<str>>>,
    pub(crate) disk: Option<Arc<dyn Disk>>,
    /// Oldest first.
    pub(crate) parts: Vec<Part>,
    pub(crate) catalogs: Vec<(u64, CatalogData)>,
    pub(crate) latest: Vec<NewestScrape>,
    /// The catalog that defines the slots of `latest`.
    pub(crate) current: Arc<Catalog>,
    pub(crate) damage: Vec<Damage>,
}

/// A catalog that a reader has read.
#[derive(Debug)]
pub(crate) struct ReadCatalog {
    pub(crate) catalog: Arc<Catalog>,
    /// The length of the file's intact part.
    intact_len: u64,
    pub(crate) damage: Option<Damage>,
}

impl ReadCatalog {
    /// Returns the damage if the catalog ends before the last block that a part needs.
    pub(crate) fn missing_end(&self, part: &Part) -> Option<Damage> {
        let is_known = |damage: &Damage| !matches!(damage.kind, DamageKind::Restored(_));
        let short = self.catalog.blocks() < part.catalog_blocks
            && !self.damage.as_ref().is_some_and(is_known);
        let damage =
            || FileKind::Catalog.damage(part.catalog, self.intact_len, DamageKind::Truncated);
        short.then(damage)
    }
}

impl Snapshot {
    /// Returns false if the record has no source that the selector matches.
    pub(crate) fn may_match(&self, selector: &Selector) -> bool {
        let sources = self.sources.as_ref();
        sources.is_none_or(|sources| sources.iter().any(|name| selector.matches_source(name)))
    }

    /// Adds the record's directory to the file's name, if there are several records.
    pub(crate) fn located(&self, damage: Damage) -> Damage {
        damage.inside(&self.directory)
    }

    /// Adds a part, and its catalog unless the part before it has the same.
    pub(crate) fn push(&mut self, part: Part, catalog: impl FnOnce() -> CatalogData) {
        // Catalogs change only between two heads, so that parts with the same one are neighbours.
        let last = self.catalogs.last();
        if last.is_none_or(|(id, _)| *id != part.catalog) {
            self.catalogs.push((part.catalog, catalog()));
        }
        self.parts.push(part);
    }

    /// Reads the whole record and returns all damage.
    pub(crate) fn check(&self) -> Vec<Damage> {
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
                    let ends = parts.filter_map(|part| read.missing_end(part));
                    ends.for_each(&mut note);
                }
                Err(found) => note(found),
            }
        }
        for part in &self.parts {
            self.check_part(part).into_iter().for_each(&mut note);
        }
        damage
    }

    /// Returns the intact part of a catalog, or `None` if it was removed since.
    pub(crate) fn catalog(&self, id: u64) -> Result<Option<ReadCatalog>, Damage> {
        let Some((_, data)) = self.catalogs.iter().find(|(of, _)| *of == id) else {
            return Ok(None);
        };
        let disk = match (data, &self.disk) {
            (CatalogData::Memory(catalog), _) => {
                return Ok(Some(ReadCatalog {
                    catalog: Arc::clone(catalog),
                    intact_len: u64::MAX,
                    damage: None,
                }));
            }
            (CatalogData::File, None) => return Ok(None),
            (CatalogData::File, Some(disk)) => disk,
        };
        match read_whole(&**disk, &FileKind::Catalog.name(id)) {
            Ok(bytes) => {
                let (catalog, intact_len, damage) = Catalog::read(id, &bytes);
                // A frame that is being written may be incomplete. If a part needs it, `missing_end`
                // reports it.
                let damage = damage.filter(|damage| !damage.is_truncation());
                Ok(Some(ReadCatalog {
                    catalog: Arc::new(catalog),
                    intact_len,
                    damage,
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileKind::Catalog.unreadable(id, &error)),
        }
    }

    /// Opens a sealed part. Returns `None` if it was evicted since, or is not sealed.
    pub(crate) fn segment(&self, part: &Part) -> Result<Option<Segment>, Damage> {
        match (&part.data, &self.disk) {
            (PartData::Memory(..), _) => Ok(part.memory_segment()),
            (PartData::File, Some(disk)) => match Segment::open_file(part.id, &**disk) {
                Err(damage) if damage.kind == DamageKind::Missing => Ok(None),
                opened => opened.map(Some),
            },
            (PartData::File, None) | (PartData::Rows(_), _) => Ok(None),
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
                    Ok(Some(mut block)) => {
                        let read = |slot| block.column(slot, &mut decoder, &mut column).err();
                        damage.extend((0..GROUP).find_map(read));
                    }
                    Err(found) => damage.push(found),
                }
            }
        }
        damage
    }
}
