//! The documents that match a filter, kept up to date from the items of a subscription.

use std::{collections::BTreeMap, sync::Arc};

use super::{Change, Item, Snapshot};
use crate::Operation;

/// The documents of one subscription with `snapshot` and `left`, by id.
///
/// What is shown is always the state at one position. A snapshot that begins again is collected beside it
/// and replaces it when it is whole.
///
/// ```
/// use steadfast_streamer_core::{
///     Epoch, Position,
///     client::{Item, LiveDocuments, LiveUpdate, Snapshot},
/// };
///
/// let mut documents = LiveDocuments::default();
/// let at = Position::new(Epoch(1), 9);
/// let begin = Item::Snapshot(Snapshot::Begin { follows: at });
/// assert_eq!(documents.apply(begin), None);
/// let whole = Item::Snapshot(Snapshot::End(at));
/// assert_eq!(documents.apply(whole), Some(LiveUpdate::Replaced));
/// assert_eq!(documents.len(), 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct LiveDocuments {
    shown: Documents,
    /// The documents of the snapshot in progress.
    incoming: Option<Documents>,
    is_whole: bool,
}

type Documents = BTreeMap<Arc<str>, Change>;

/// The effect of an item on the documents shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LiveUpdate {
    /// A snapshot is whole: all documents may have changed.
    Replaced,
    /// A document was not shown before.
    Entered(Arc<str>),
    /// A document that was shown changed.
    Changed(Arc<str>),
    /// A document is no longer shown: it was deleted, or does not match any more.
    Left(Arc<str>),
}

impl LiveDocuments {
    /// Applies an item, in the order of the subscription. Returns the effect; `None` if what is shown did
    /// not change.
    pub fn apply(&mut self, item: Item) -> Option<LiveUpdate> {
        match item {
            Item::Snapshot(Snapshot::Begin { .. }) => {
                self.incoming = Some(Documents::new());
                None
            }
            Item::Snapshot(Snapshot::Document(document)) => {
                let incoming = self.incoming.get_or_insert_default();
                incoming.insert(Arc::clone(&document.document_id), document.detached());
                None
            }
            Item::Snapshot(Snapshot::End(_)) => {
                self.shown = self.incoming.take().unwrap_or_default();
                self.is_whole = true;
                Some(LiveUpdate::Replaced)
            }
            Item::Change(change) if change.operation != Operation::Delete => self.insert(change),
            // Also a document that was not held: whether it left is not always known.
            Item::Change(change) | Item::Left(change) => self.remove(&change.document_id),
            // Of a window, which `WindowDocuments` keeps.
            Item::Snapshot(Snapshot::Bound { .. }) | Item::Resync(_) | Item::Gap(_) => None,
        }
    }

    fn insert(&mut self, change: Change) -> Option<LiveUpdate> {
        let id = Arc::clone(&change.document_id);
        if let Some(incoming) = &mut self.incoming {
            incoming.insert(id, change.detached());
            return None;
        }
        Some(
            match self.shown.insert(Arc::clone(&id), change.detached()) {
                None => LiveUpdate::Entered(id),
                Some(_) => LiveUpdate::Changed(id),
            },
        )
    }

    fn remove(&mut self, id: &Arc<str>) -> Option<LiveUpdate> {
        if let Some(incoming) = &mut self.incoming {
            incoming.remove(id);
            return None;
        }
        let removed = self.shown.remove(id);
        removed.map(|_| LiveUpdate::Left(Arc::clone(id)))
    }

    /// Returns whether the documents shown are those at one position: false until the first snapshot is
    /// whole.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Returns whether a snapshot is in progress, which will replace what is shown.
    #[must_use]
    pub fn is_refreshing(&self) -> bool {
        self.incoming.is_some()
    }

    /// Returns a document by its id, as its newest change.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Change> {
        self.shown.get(id)
    }

    /// Returns the documents in ascending order of their ids.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Change> {
        self.shown.values()
    }

    /// Returns the number of documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shown.len()
    }

    /// Returns whether no document is shown.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, Position};

    fn change(id: &str, operation: Operation) -> Change {
        Change {
            position: None,
            event_id: id.into(),
            database: "d".into(),
            collection: "c".into(),
            document_id: id.into(),
            operation,
            data: bytes::Bytes::from_static(b"{}"),
            timestamp: 0,
        }
    }

    #[test]
    fn documents_are_those_of_one_position() {
        let at = Position::new(Epoch(1), 9);
        let begin = || Item::Snapshot(Snapshot::Begin { follows: at });
        let document = |id| Item::Snapshot(Snapshot::Document(change(id, Operation::Insert)));
        let end = || Item::Snapshot(Snapshot::End(at));
        let changed = |id| Item::Change(change(id, Operation::Update));
        let deleted = |id| Item::Change(change(id, Operation::Delete));
        let left = |id| Item::Left(change(id, Operation::Update));
        let mut documents = LiveDocuments::default();
        let (mut is_refreshing, mut is_whole) = (false, false);
        // Each: an item, its effect, and what is shown after it.
        for (item, effect, shown) in [
            (begin(), None, ""),
            (document("a"), None, ""),
            (document("b"), None, ""),
            (changed("c"), None, ""),
            (deleted("b"), None, ""),
            (end(), Some(LiveUpdate::Replaced), "ac"),
            (changed("b"), Some(LiveUpdate::Entered("b".into())), "abc"),
            (changed("b"), Some(LiveUpdate::Changed("b".into())), "abc"),
            (left("a"), Some(LiveUpdate::Left("a".into())), "bc"),
            (left("a"), None, "bc"),
            (deleted("c"), Some(LiveUpdate::Left("c".into())), "b"),
            (begin(), None, "b"),
            (document("d"), None, "b"),
            (left("b"), None, "b"),
            (end(), Some(LiveUpdate::Replaced), "d"),
            (begin(), None, "d"),
            (end(), Some(LiveUpdate::Replaced), ""),
        ] {
            match item {
                Item::Snapshot(Snapshot::Begin { .. }) => is_refreshing = true,
                Item::Snapshot(Snapshot::End(_)) => (is_refreshing, is_whole) = (false, true),
                _ => {}
            }
            assert_eq!(documents.apply(item.clone()), effect, "{item:?}");
            let ids: String = documents.iter().map(|it| &*it.document_id).collect();
            assert_eq!(ids, shown, "{item:?}");
            assert_eq!(documents.len(), shown.len());
            assert_eq!(documents.is_empty(), shown.is_empty());
            assert_eq!(documents.get("d").is_some(), shown.contains('d'));
            assert_eq!(documents.is_refreshing(), is_refreshing, "{item:?}");
            assert_eq!(documents.is_whole(), is_whole, "{item:?}");
        }
    }
}
