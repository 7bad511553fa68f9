//! The current catalog: the definitions of all series that may be alive.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    closed_parts::ClosedCatalog,
    storage::{Storage, file_cost},
};
use crate::{
    catalog::{Catalog, Definition, Extent, MetaIndex, truncated},
    disk::DiskFile,
    error::WriteError,
    frame::{Log, begin_frame},
    labels::Meta,
    part::CatalogData,
    source::Sources,
};

/// The maximum number of changed metas that are remembered. Further series get theirs with the next
/// catalog but one.
const META_CHANGES_MAX: usize = 1 << 14;

/// The current catalog and its file.
#[derive(Debug)]
pub(super) struct Definitions {
    catalog: Arc<Catalog>,
    log: Log,
    metas: MetaIndex,
    /// The metas that changed after the definition, by source and slot. The next catalog has them.
    meta_changes: BTreeMap<(u32, u32), Arc<Meta>>,
}

/// The next frame of a catalog's file.
#[derive(Debug)]
pub(super) struct CatalogFrame {
    bytes: Vec<u8>,
    /// The part of the catalog that the file has with the frame.
    written: Extent,
}

/// A slot that is alive: source, slot, block of its definition, and hash of its key.
pub(super) type LiveSlot = (u32, u32, u32, u32);

impl Definitions {
    pub(super) fn new(id: u64, record: u16) -> Self {
        Self::with_catalog(Catalog::new(id, record))
    }

    fn with_catalog(catalog: Catalog) -> Self {
        Self {
            log: Log::new(catalog.header()),
            metas: MetaIndex::new(catalog.metas()),
            catalog: Arc::new(catalog),
            meta_changes: BTreeMap::new(),
        }
    }

    /// Continues a catalog of which the first `len` bytes of the file are intact.
    pub(super) fn resumed(catalog: Catalog, file: Arc<dyn DiskFile>, len: u64) -> Self {
        let log = Log::resumed(catalog.header(), file, len);
        Self {
            log,
            ..Self::with_catalog(catalog)
        }
    }

    pub(super) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    pub(super) fn id(&self) -> u64 {
        self.catalog.id
    }

    pub(super) fn memory(&self) -> u64 {
        self.catalog.memory()
    }

    /// Returns the length of the file.
    pub(super) fn len(&self) -> u64 {
        self.log.len()
    }

    pub(super) fn file_cost(&self) -> u64 {
        file_cost(self.log.len())
    }

    pub(super) fn has_meta_changes(&self) -> bool {
        !self.meta_changes.is_empty()
    }

    pub(super) fn add_source(&mut self, name: Arc<str>) {
        Arc::make_mut(&mut self.catalog).add_source(name);
    }

    /// Defines the slot of a new series. Returns the block of the definition.
    pub(super) fn define(&mut self, source: u32, slot: u32, key: &[u8], meta: &Meta) -> usize {
        let catalog = Arc::make_mut(&mut self.catalog);
        let meta = self.metas.find_or_add(&Arc::new(truncated(meta)), catalog);
        catalog.define(Definition {
            source,
            slot,
            meta,
            key,
        })
    }

    /// Remembers the meta of a defined series if it differs from the definition.
    pub(super) fn update_meta(
        &mut self,
        source: u32,
        slot: u32,
        defined: Option<u32>,
        meta: &Meta,
    ) {
        if defined.is_some_and(|defined| !self.catalog.is_meta(defined, meta))
            && self.meta_changes.len() < META_CHANGES_MAX
        {
            let meta = Arc::new(truncated(meta));
            self.meta_changes.insert((source, slot), meta);
        }
    }

    /// Creates a catalog with the series that are alive, on the slots they have.
    pub(super) fn rebuild(&self, id: u64, sources: &Sources) -> (Self, Vec<LiveSlot>) {
        let mut catalog = Catalog::new(id, self.catalog.record);
        for source in sources.iter() {
            catalog.add_source(Arc::clone(&source.name));
        }
        let mut metas = MetaIndex::default();
        let mut live = Vec::with_capacity(sources.alive_at_most());
        self.catalog.walk(|_, definition| {
            let (source, slot) = (definition.source, definition.slot);
            if !sources[source].is_alive(slot) {
                return;
            }
            // A new catalog is the only chance to correct a meta: definitions are never changed.
            let changed = self.meta_changes.get(&(source, slot));
            let meta = changed.unwrap_or(&self.catalog.metas()[definition.meta as usize]);
            let meta = metas.find_or_add(meta, &mut catalog);
            let block = catalog.define(Definition { meta, ..definition });
            let hash = sources.hash(definition.key);
            live.push((source, slot, block as u32, hash));
        });
        let log = Log::new(catalog.header());
        let rebuilt = Self {
            catalog: Arc::new(catalog),
            log,
            metas,
            meta_changes: BTreeMap::new(),
        };
        (rebuilt, live)
    }

    /// Returns the next frame that the file lacks, or `None` if the file is complete.
    pub(super) fn next_frame(&self) -> Option<CatalogFrame> {
        let mut bytes = Vec::new();
        begin_frame(&mut bytes);
        let from = self.catalog.written();
        let written = self.catalog.put_unwritten(from, &mut bytes)?;
        Some(CatalogFrame { bytes, written })
    }

    /// Returns the size of the file with a frame.
    pub(super) fn file_cost_with(&self, frame: &CatalogFrame) -> u64 {
        file_cost(self.log.len_with(&frame.bytes))
    }

    /// Writes a frame.
    pub(super) fn append(
        &mut self,
        mut frame: CatalogFrame,
        storage: &mut Storage,
    ) -> Result<(), WriteError> {
        storage.append(&mut self.log, &mut frame.bytes)?;
        // Only now: after a failed write the next frame begins with the same block.
        Arc::make_mut(&mut self.catalog).mark_written(frame.written);
        Ok(())
    }

    /// Removes the file of a catalog that cannot be completed. The next catalog has the same name.
    pub(super) fn discard(self, storage: &mut Storage) {
        storage.remove(&self.log.name()).ok();
    }

    /// Closes the catalog because another one is current from now on.
    pub(super) fn close(self, storage: &Storage) -> ClosedCatalog {
        if storage.is_memory() {
            return ClosedCatalog {
                cost: self.memory(),
                data: CatalogData::Memory(self.catalog),
                log: None,
                unsynced: None,
            };
        }
        let closed = ClosedCatalog::in_file(self.len());
        ClosedCatalog {
            log: Some(self.log),
            unsynced: Some(self.catalog),
            ..closed
        }
    }

    pub(super) fn take_unsynced(&mut self) -> Option<Arc<dyn DiskFile>> {
        self.log.take_unsynced()
    }
}
