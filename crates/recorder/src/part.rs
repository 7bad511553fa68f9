//! A part of the record as readers see it: a head, or the segment made from it.

use std::sync::Arc;

use crate::{
    catalog::Catalog,
    segment::{Index, Segment, Store},
    source_rows::SourceRows,
    span::{Span, union_of},
};

/// The rows of a head, by source. `None` for a source without a scrape in the head.
pub(crate) type HeadRows = Vec<Option<SourceRows>>;

/// A part of the record.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) id: u64,
    /// The record's fingerprint, if it is known.
    pub(crate) record: u16,
    /// The catalog that defines the part's slots.
    pub(crate) catalog: u64,
    /// Blocks of the catalog that the part needs.
    pub(crate) catalog_blocks: u64,
    pub(crate) span: Span,
    pub(crate) data: PartData,
}

/// The data of a part.
#[derive(Clone, Debug)]
pub(crate) enum PartData {
    /// Scrape by scrape, in memory.
    Rows(Arc<HeadRows>),
    /// Series by series, in memory.
    Memory(Arc<Vec<u8>>, Arc<Index>),
    /// Series by series, in the segment file of the part's id.
    File,
}

/// The place from which readers take a catalog.
#[derive(Clone, Debug)]
pub(crate) enum CatalogData {
    Memory(Arc<Catalog>),
    /// The catalog file of its id.
    File,
}

impl Part {
    /// Returns the rows of a part that is not sealed.
    pub(crate) fn rows(&self) -> Option<&Arc<HeadRows>> {
        match &self.data {
            PartData::Rows(rows) => Some(rows),
            PartData::Memory(..) | PartData::File => None,
        }
    }

    /// Returns the segment of a part that is sealed in memory.
    pub(crate) fn memory_segment(&self) -> Option<Segment> {
        match &self.data {
            PartData::Memory(bytes, index) => Some(Segment::with_index(
                self.id,
                Store::Memory(Arc::clone(bytes)),
                Arc::clone(index),
            )),
            PartData::Rows(_) | PartData::File => None,
        }
    }
}

/// Returns the span of a head, `None` if it has no scrape.
pub(crate) fn span_of(rows: &[Option<SourceRows>]) -> Option<Span> {
    union_of(rows.iter().flatten().filter_map(|rows| rows.span))
}

/// Returns the memory that the rows of a head take.
pub(crate) fn memory_of(rows: &[Option<SourceRows>]) -> u64 {
    rows.iter().flatten().map(SourceRows::memory).sum()
}
