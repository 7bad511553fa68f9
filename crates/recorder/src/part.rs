//! A part of the record as readers see it: a head, or what became of it.

use std::sync::Arc;

use crate::{
    catalog::Catalog,
    segment::{Index, Segment, Store},
    track::Track,
};

/// The tracks of a head, by source.
pub(crate) type Tracks = Vec<Option<Track>>;

/// A part of the record.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) id: u64,
    /// The catalog its slots are defined in.
    pub(crate) catalog: u64,
    /// How many blocks of it they need.
    pub(crate) names: u64,
    /// Least and greatest time of any sample or scrape.
    pub(crate) span: (i64, i64),
    pub(crate) form: Form,
}

/// How a part is kept.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// By scrape, in memory.
    Rows(Arc<Tracks>),
    /// By series, in memory.
    Memory(Arc<Vec<u8>>, Arc<Index>),
    /// By series, in the file of the part's id.
    File,
}

/// A catalog as readers find it.
#[derive(Clone, Debug)]
pub(crate) enum CatalogForm {
    Memory(Arc<Catalog>),
    /// In the file of its id.
    File,
}

impl Part {
    /// A segment in memory.
    pub(crate) fn in_memory(&self) -> Option<Segment> {
        match &self.form {
            Form::Memory(bytes, index) => Some(Segment::known(
                self.id,
                Store::Memory(Arc::clone(bytes)),
                Arc::clone(index),
            )),
            Form::Rows(_) | Form::File => None,
        }
    }
}

/// What times the tracks cover; nothing when there is no scrape.
pub(crate) fn span_of(tracks: &[Option<Track>]) -> Option<(i64, i64)> {
    let spans = tracks.iter().flatten().filter_map(|track| track.span);
    spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}
