//! The closed parts of the record, oldest first: segments, and heads that wait to be sealed; and the
//! catalogs they need. Eviction takes parts from here.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};

use super::storage::{Storage, file_cost, temporary_name};
use crate::{
    catalog::Catalog,
    disk::DiskFile,
    frame::{FileKind, Log},
    part::{CatalogData, Part, PartData},
    segment::Index,
};

/// A closed part.
#[derive(Debug)]
struct ClosedPart {
    id: u64,
    catalog: u64,
    /// `None` for a damaged file, which counts until it is evicted in its turn.
    part: Option<Part>,
    cost: u64,
    /// The head's log as long as it may have to be synced.
    log: Option<Log>,
    /// The segment that is written but not durable.
    segment: Option<UnsyncedSegment>,
    /// The part cannot be sealed.
    unsealable: bool,
}

#[derive(Debug)]
struct UnsyncedSegment {
    file: Arc<dyn DiskFile>,
    len: u64,
}

/// A catalog that is not the current one.
#[derive(Debug)]
pub(super) struct ClosedCatalog {
    /// The place from which readers take it.
    pub(super) data: CatalogData,
    pub(super) cost: u64,
    /// The catalog's log as long as it may have to be synced.
    pub(super) log: Option<Log>,
    /// The content until it is durable, from which the file is written again after a failed sync.
    pub(super) unsynced: Option<Arc<Catalog>>,
}

impl ClosedCatalog {
    /// A catalog that is in its file only.
    pub(super) fn in_file(len: u64) -> Self {
        Self {
            data: CatalogData::File,
            cost: file_cost(len),
            log: None,
            unsynced: None,
        }
    }
}

/// The closed parts of a record and their catalogs.
#[derive(Debug, Default)]
pub(super) struct ClosedParts {
    parts: VecDeque<ClosedPart>,
    catalogs: BTreeMap<u64, ClosedCatalog>,
    /// Files to remove once the directory is durable, with their cost: heads that a segment replaced,
    /// and files of which the removal failed.
    obsolete: Vec<(String, u64)>,
    cost: u64,
    evicted: u64,
}

impl ClosedParts {
    /// Returns the size of parts, catalogs and obsolete files.
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    /// Returns the number of parts evicted so far.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Returns the id of the oldest part.
    pub(super) fn oldest_id(&self) -> Option<u64> {
        self.parts.front().map(|closed| closed.id)
    }

    /// Iterates over the parts that can be read.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter_map(|closed| closed.part.as_ref())
    }

    /// Returns the oldest part that is neither sealed nor about to be.
    pub(super) fn unsealed(&self) -> Option<&Part> {
        let waiting = |closed: &&ClosedPart| closed.segment.is_none() && !closed.unsealable;
        let parts = self.parts.iter().filter(waiting);
        parts
            .filter_map(|closed| closed.part.as_ref())
            .find(|part| part.rows().is_some())
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.parts.iter().any(|closed| closed.id == id)
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut ClosedPart> {
        self.parts.iter_mut().find(|closed| closed.id == id)
    }

    /// Adds a part, or a damaged file.
    pub(super) fn push(&mut self, id: u64, part: Option<Part>, cost: u64, log: Option<Log>) {
        self.cost += cost;
        self.parts.push_back(ClosedPart {
            id,
            catalog: part.as_ref().map_or(0, |part| part.catalog),
            unsealable: part.is_none(),
            part,
            cost,
            log,
            segment: None,
        });
    }

    /// Adds a catalog that is no longer the current one.
    pub(super) fn add_catalog(&mut self, id: u64, catalog: ClosedCatalog) {
        self.cost += catalog.cost;
        self.catalogs.insert(id, catalog);
    }

    /// Removes a catalog that becomes the current one.
    pub(super) fn take_catalog(&mut self, id: u64) {
        if let Some(old) = self.catalogs.remove(&id) {
            self.cost -= old.cost;
        }
    }

    /// Returns the place from which readers take a catalog.
    pub(super) fn catalog(&self, id: u64, current: &Arc<Catalog>) -> CatalogData {
        if id == current.id {
            return CatalogData::Memory(Arc::clone(current));
        }
        let old = self.catalogs.get(&id);
        old.map_or(CatalogData::File, |old| old.data.clone())
    }

    /// Evicts the oldest part. Returns false if there is none.
    pub(super) fn evict(&mut self, storage: &mut Storage) -> bool {
        let Some(evicted) = self.parts.pop_front() else {
            return false;
        };
        let id = evicted.id;
        self.cost -= evicted.cost;
        self.evicted += 1;
        // A head stays beside its segment until the next sync, so that either or both exist.
        let mut names = vec![FileKind::Segment.name(id), FileKind::Head.name(id)];
        if let Some(segment) = &evicted.segment {
            self.cost -= file_cost(segment.len);
            names.push(temporary_name(id));
        }
        for name in names {
            self.remove_file(storage, &name, evicted.cost);
        }
        self.remove_unneeded_catalogs(storage);
        true
    }

    /// Removes the catalogs that no part needs.
    pub(super) fn remove_unneeded_catalogs(&mut self, storage: &mut Storage) {
        let needed = |id: &u64| self.parts.iter().any(|closed| closed.catalog == *id);
        let ids = self.catalogs.keys().copied();
        // Each catalog is shared by the parts of its time and goes with the last of them.
        let unneeded: Vec<u64> = ids.filter(|id| !needed(id)).collect();
        for id in unneeded {
            if let Some(old) = self.catalogs.remove(&id) {
                self.cost -= old.cost;
                self.remove_file(storage, &FileKind::Catalog.name(id), old.cost);
            }
        }
    }

    /// Removes a file of which `cost` is not counted any more.
    fn remove_file(&mut self, storage: &mut Storage, name: &str, cost: u64) {
        // The head of an evicted part may already wait here for a sync. It must count once.
        let known = self.obsolete.iter().position(|(known, _)| known == name);
        if let Some(at) = known {
            self.cost -= self.obsolete.swap_remove(at).1;
        }
        if storage.remove(name).is_err() {
            // The file still takes its space. The next sync tries again.
            self.cost += cost;
            self.obsolete.push((name.to_owned(), cost));
        }
    }

    /// Replaces the rows of a part by a segment in memory.
    pub(super) fn seal_in_memory(&mut self, id: u64, bytes: Vec<u8>, index: Index) {
        let cost = bytes.len() as u64;
        let Some(closed) = self.get_mut(id) else {
            return;
        };
        // Only parts that can be read are sealed.
        let Some(part) = &mut closed.part else { return };
        part.data = PartData::Memory(Arc::new(bytes), Arc::new(index));
        let before = std::mem::replace(&mut closed.cost, cost);
        self.cost = self.cost - before + cost;
    }

    /// Adds a segment that was written under its temporary name, unless its part is evicted.
    pub(super) fn add_segment(&mut self, id: u64, file: Arc<dyn DiskFile>, len: u64) {
        if let Some(closed) = self.get_mut(id) {
            closed.segment = Some(UnsyncedSegment { file, len });
            self.cost += file_cost(len);
        }
    }

    /// Leaves a part unsealed for good.
    pub(super) fn mark_unsealable(&mut self, id: u64) {
        if let Some(closed) = self.get_mut(id) {
            closed.unsealable = true;
        }
    }

    /// Returns the files of catalogs and those of heads that were written since the last call.
    pub(super) fn take_unsynced(&mut self) -> [Vec<Arc<dyn DiskFile>>; 2] {
        // Nothing is appended to a closed log, so that this sync is its last.
        let take = |log: &mut Option<Log>| log.take().and_then(|mut log| log.take_unsynced());
        let catalogs = self.catalogs.values_mut();
        let parts = self.parts.iter_mut();
        [
            catalogs.filter_map(|old| take(&mut old.log)).collect(),
            parts.filter_map(|closed| take(&mut closed.log)).collect(),
        ]
    }

    /// Notes that the files which [`ClosedParts::take_unsynced`] has returned are durable.
    pub(super) fn note_synced(&mut self) {
        for old in self.catalogs.values_mut() {
            // One that was added meanwhile still has its log.
            if old.log.is_none() {
                old.unsynced = None;
            }
        }
    }

    /// Returns the catalogs that are not durable.
    pub(super) fn unsynced_catalogs(&self) -> Vec<Arc<Catalog>> {
        let catalogs = self.catalogs.values();
        catalogs.filter_map(|old| old.unsynced.clone()).collect()
    }

    pub(super) fn has_catalog(&self, id: u64) -> bool {
        self.catalogs.contains_key(&id)
    }

    /// Notes that the file of a catalog was written again.
    pub(super) fn replace_log(&mut self, id: u64, log: Log) {
        if let Some(old) = self.catalogs.get_mut(&id) {
            let cost = file_cost(log.len());
            self.cost = self.cost - std::mem::replace(&mut old.cost, cost) + cost;
            old.log = Some(log);
        }
    }

    /// Returns the ids and files of segments that are not durable.
    pub(super) fn unsynced_segments(&self) -> Vec<(u64, Arc<dyn DiskFile>)> {
        let parts = self.parts.iter();
        let unsynced = parts.filter_map(|closed| Some((closed.id, closed.segment.as_ref()?)));
        unsynced
            .map(|(id, segment)| (id, Arc::clone(&segment.file)))
            .collect()
    }

    /// Replaces a head by its segment, the content of which is durable.
    pub(super) fn publish_segment(&mut self, id: u64, storage: &mut Storage) -> io::Result<()> {
        let Some(closed) = self.get_mut(id) else {
            return Ok(());
        };
        let Some(len) = closed.segment.as_ref().map(|segment| segment.len) else {
            return Ok(());
        };
        storage.publish_segment(id)?;
        closed.segment = None;
        if let Some(part) = &mut closed.part {
            part.data = PartData::File;
        }
        let head_cost = std::mem::replace(&mut closed.cost, file_cost(len));
        // The head goes after the next sync: until then a power cut may undo the renaming.
        self.obsolete.push((FileKind::Head.name(id), head_cost));
        Ok(())
    }

    /// Removes a segment of which the sync failed. It is made again.
    pub(super) fn discard_segment(&mut self, id: u64, storage: &mut Storage) {
        let Some(closed) = self.get_mut(id) else {
            return;
        };
        if let Some(segment) = closed.segment.take() {
            let cost = file_cost(segment.len);
            self.cost -= cost;
            self.remove_file(storage, &temporary_name(id), cost);
        }
    }

    /// Returns the files to remove once the directory is durable.
    pub(super) fn obsolete(&self) -> Vec<String> {
        self.obsolete.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn remove_obsolete(&mut self, names: &[String], storage: &mut Storage) {
        for name in names {
            let known = self.obsolete.iter().find(|(known, _)| known == name);
            if let Some((_, cost)) = known {
                self.remove_file(storage, name, *cost);
            }
        }
    }
}
