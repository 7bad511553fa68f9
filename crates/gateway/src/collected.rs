//! The documents of a snapshot, collected with the changes that happen meanwhile.

use std::{collections::BTreeMap, sync::Arc};

use steadfast_streamer::{Change, Item, Operation, Snapshot};

/// The documents of a snapshot, with the changes that happened meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    by_id: BTreeMap<Arc<str>, Change>,
    bytes: u64,
    is_too_large: bool,
}

/// The most documents. The original of the classic protocol stopped at 1,000 documents, without a word.
const MAX_DOCUMENTS: usize = 10_000;
/// The bytes of these documents.
const MAX_BYTES: u64 = 8 << 20;

/// The refusal of a snapshot with more than that.
pub(crate) const TOO_LARGE: &str =
    "the snapshot has more than 10000 documents or 8 MiB; narrow the query";

impl Collected {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes as usize
    }

    pub(crate) fn is_too_large(&self) -> bool {
        self.is_too_large
    }

    /// Applies an item between the beginning and the end of a snapshot.
    pub(crate) fn apply(&mut self, item: Item) {
        match item {
            Item::Snapshot(Snapshot::Begin { .. }) => *self = Self::default(),
            Item::Snapshot(Snapshot::Document(change)) | Item::Change(change) => self.put(change),
            Item::Left(change) => self.remove(&change.document_id),
            // The end changes nothing, and after a loss another snapshot begins.
            _ => {}
        }
    }

    fn put(&mut self, change: Change) {
        self.remove(&change.document_id);
        if change.operation == Operation::Delete || self.is_too_large {
            return;
        }
        self.bytes += change.weight();
        self.by_id.insert(Arc::clone(&change.document_id), change);
        if self.by_id.len() > MAX_DOCUMENTS || self.bytes > MAX_BYTES {
            *self = Self {
                is_too_large: true,
                ..Self::default()
            };
        }
    }

    fn remove(&mut self, id: &str) {
        if let Some(removed) = self.by_id.remove(id) {
            self.bytes -= removed.weight();
        }
    }

    /// Returns the documents in the order of their ids; `None` if there were too many.
    pub(crate) fn into_documents(self) -> Option<Vec<Change>> {
        (!self.is_too_large).then(|| self.by_id.into_values().collect())
    }
}
