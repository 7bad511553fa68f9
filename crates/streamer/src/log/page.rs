//! Pages of events and of documents, limited by count and weight.

use std::{ops::Bound, sync::Arc};

use super::{DocumentKey, DocumentPage, DocumentQuery, LogError};
use crate::Event;

/// Maximum number of documents scanned for one page. Deleted documents count, so that a range of
/// them does not hold a read transaction open for long.
const DOCUMENTS_SCANNED_MAX: usize = 16_384;

/// Collects the events of one page. The first event always fits, whatever its weight: otherwise a
/// reader could not get past it.
#[derive(Debug)]
pub(super) struct PageBuilder {
    events: Vec<Arc<Event>>,
    max_events: usize,
    bytes_left: usize,
}

impl PageBuilder {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            events: Vec::new(),
            max_events,
            bytes_left: max_bytes,
        }
    }

    /// Returns `true` if no more events may be pushed. The last one may exceed the bytes left.
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= self.max_events || (!self.events.is_empty() && self.bytes_left == 0)
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        debug_assert!(!self.is_full());
        self.bytes_left = self.bytes_left.saturating_sub(event.weight());
        self.events.push(event);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn into_events(self) -> Vec<Arc<Event>> {
        self.events
    }
}

impl DocumentQuery<'_> {
    /// Returns the bounds of the keys to scan. The scan ends at the first key that is not
    /// [included](Self::includes).
    pub(super) fn range(&self) -> (Bound<DocumentKey>, Bound<DocumentKey>) {
        let start = match self.after {
            Some(key) => Bound::Excluded(key.clone()),
            // Sorts before every document of the collection.
            None => Bound::Included(DocumentKey::new(
                self.database,
                self.collection.unwrap_or_default(),
                "",
            )),
        };
        (start, Bound::Unbounded)
    }

    fn includes(&self, key: &DocumentKey) -> bool {
        *key.database == *self.database && self.collection.is_none_or(|it| *key.collection == *it)
    }

    /// Collects a page from `documents`: each key with a closure that loads the last event of the
    /// document, `None` if it is deleted.
    pub(super) fn collect<F>(
        self,
        as_of: u64,
        documents: impl Iterator<Item = Result<(DocumentKey, F), LogError>>,
    ) -> Result<DocumentPage, LogError>
    where
        F: FnOnce(&DocumentKey) -> Result<Option<Arc<Event>>, LogError>,
    {
        // With 0 a page would be full before its first document, and look like the last one.
        let mut page = PageBuilder::new(self.max_documents.max(1), self.max_bytes);
        let mut last = None;
        let mut next = None;
        for (scanned, item) in documents.enumerate() {
            let (key, load) = item?;
            // Keys are sorted, so that nothing after the first key outside can be inside.
            if !self.includes(&key) {
                break;
            }
            // Checked only when another document follows, so that a page that ends the range has no
            // `next`.
            if scanned == DOCUMENTS_SCANNED_MAX || page.is_full() {
                next = last;
                break;
            }
            if let Some(event) = load(&key)? {
                page.push(event);
            }
            // Deleted documents too: a page may consist of them, and the next one must begin after
            // them.
            last = Some(key);
        }
        Ok(DocumentPage {
            documents: page.into_events(),
            as_of,
            next,
        })
    }
}
