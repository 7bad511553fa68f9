//! What a client may see of the items of its subscription.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use steadfast_streamer::{
    Change, Event, Filter, Item, Operation, Previous, Snapshot,
    filter::{Document, evaluate},
};

use crate::{
    rights::Peer,
    subscription::{End, EndCode, Request},
};

/// What the client of one subscription may see, and which documents it was shown.
#[derive(Debug)]
pub(super) struct View {
    /// The filters of which each document must satisfy one. The Streamer has not applied them.
    pub(super) local: Option<Arc<[Filter]>>,
    /// `None` if nobody is told what leaves, or the rights cannot change.
    shown: Option<Box<Shown>>,
}

/// The documents that a client was shown and that did not leave since. The id of any other one is not its
/// business, also not that it changed.
#[derive(Debug, Default)]
struct Shown {
    /// Hashes of the ids.
    hashes: HashSet<u64>,
    hasher: RandomState,
    /// The client may have documents that are not here.
    is_incomplete: bool,
}

/// The most documents that are remembered for one subscription.
const MAX_SHOWN: usize = 65_536;

impl View {
    pub(super) fn new(request: &Request, peer: &Peer) -> Self {
        let tells = (request.left || request.snapshot) && request.window.is_none();
        let shown = (tells && peer.is_restricted()).then(|| {
            Box::new(Shown {
                is_incomplete: request.from.is_some(),
                ..Shown::default()
            })
        });
        Self { local: None, shown }
    }

    /// Returns true if the client may have documents that this does not know of.
    pub(super) fn is_incomplete(&self) -> bool {
        self.shown.as_ref().is_some_and(|it| it.is_incomplete)
    }

    /// Returns what the client may see of an item.
    ///
    /// # Errors
    ///
    /// If more documents were shown than are remembered, and it matters.
    pub(super) fn visible(&mut self, item: Item) -> Result<Option<Item>, End> {
        let local = self.local.as_deref();
        let is_admitted = |change: &Change| local.is_none_or(|filters| admits(filters, change));
        let Some(shown) = &mut self.shown else {
            let is_hidden = matches!(&item, Item::Change(change) if !is_admitted(change));
            return Ok((!is_hidden).then_some(item));
        };
        match &item {
            Item::Change(change) if is_admitted(change) => {
                if change.operation == Operation::Delete {
                    shown.remove(&change.document_id);
                } else {
                    shown.add(&change.document_id);
                }
            }
            Item::Change(change) => {
                let was_shown = shown.remove(&change.document_id);
                return Ok(was_shown.then(|| left(item)));
            }
            // Without filters of our own the Streamer knows what left, also of earlier subscriptions.
            Item::Left(change) if !shown.remove(&change.document_id) && local.is_some() => {
                return Ok(None);
            }
            Item::Snapshot(Snapshot::Begin { .. }) => {
                (shown.hashes, shown.is_incomplete) = (HashSet::new(), false);
            }
            Item::Snapshot(Snapshot::Document(document)) if !is_admitted(document) => {
                return Ok(None);
            }
            Item::Snapshot(Snapshot::Document(document)) => shown.add(&document.document_id),
            _ => {}
        }
        if shown.hashes.len() > MAX_SHOWN {
            if local.is_some() {
                let what = format!(
                    "more than {MAX_SHOWN} documents with rights of several filters; narrow the query"
                );
                return Err(End::new(EndCode::Limit, what));
            }
            (shown.hashes, shown.is_incomplete) = (HashSet::new(), true);
        }
        Ok(Some(item))
    }
}

impl Shown {
    fn add(&mut self, id: &str) {
        let hash = self.hasher.hash_one(id);
        self.hashes.insert(hash);
    }

    /// Removes a document. Returns true if it was shown.
    fn remove(&mut self, id: &str) -> bool {
        let hash = self.hasher.hash_one(id);
        self.hashes.remove(&hash)
    }
}

/// Returns the news that a document left, without its data.
fn left(item: Item) -> Item {
    match item {
        Item::Change(mut change) => {
            change.data = bytes::Bytes::new();
            Item::Left(change)
        }
        item => item,
    }
}

/// Returns true if one of the filters admits the document of a change. One that cannot be read is not shown.
fn admits(filters: &[Filter], change: &Change) -> bool {
    // Next to parsing the data, the copies of the names cost nothing.
    let event = Event {
        offset: change.position.map_or(0, |position| position.offset),
        database: Arc::clone(&change.database),
        collection: Arc::clone(&change.collection),
        document_id: Arc::clone(&change.document_id),
        operation: change.operation,
        data: change.data.clone(),
        timestamp: change.timestamp,
        previous: Previous::Unknown,
    };
    let document = Document::of(&event);
    let mut filters = filters.iter();
    filters.any(|filter| evaluate(filter, &document).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use steadfast_streamer::{
        Epoch, Position,
        filter::{Condition, FieldPath, Op, Value},
    };

    use super::*;
    use crate::subscription;

    fn view(local: Option<Arc<[Filter]>>) -> View {
        View {
            local,
            shown: Some(Box::default()),
        }
    }

    fn own() -> Arc<[Filter]> {
        let own = Condition::new(FieldPath::from("own"), Op::Eq, Value::from(true));
        [Filter::new([own]).unwrap()].into()
    }

    fn change(id: &str, operation: Operation, own: bool) -> Change {
        subscription::tests::change(id, operation, &format!(r#"{{"own":{own}}}"#))
    }

    /// What a client sees: the kind and the id.
    fn seen(view: &mut View, item: Item) -> Option<String> {
        view.visible(item).unwrap().map(|item| match item {
            Item::Change(change) => format!("change {}", change.document_id),
            Item::Left(change) => format!("left {}", change.document_id),
            Item::Snapshot(_) => "snapshot".to_owned(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn only_documents_that_were_shown_can_leave() {
        use Operation::{Delete, Insert, Update};
        let mut view = view(Some(own()));
        for (item, expected) in [
            (Item::Change(change("secret", Insert, false)), None),
            (Item::Change(change("secret", Update, false)), None),
            (Item::Left(change("secret", Update, false)), None),
            (Item::Change(change("secret", Delete, false)), None),
            (Item::Change(change("1", Insert, true)), Some("change 1")),
            (Item::Change(change("1", Update, false)), Some("left 1")),
            (Item::Change(change("1", Update, false)), None),
            (Item::Change(change("2", Insert, true)), Some("change 2")),
            (Item::Left(change("2", Update, true)), Some("left 2")),
            (Item::Change(change("3", Insert, true)), Some("change 3")),
            (Item::Change(change("3", Delete, false)), Some("left 3")),
        ] {
            let what = format!("{item:?}");
            assert_eq!(seen(&mut view, item).as_deref(), expected, "{what}");
        }
        // A snapshot replaces everything before it.
        view.visible(Item::Change(change("4", Insert, true)))
            .unwrap();
        let follows = Position::new(Epoch(7), 1);
        let begin = Item::Snapshot(Snapshot::Begin { follows });
        assert_eq!(seen(&mut view, begin).as_deref(), Some("snapshot"));
        let document = |id, own| Item::Snapshot(Snapshot::Document(change(id, Insert, own)));
        assert_eq!(seen(&mut view, document("5", false)), None);
        assert_eq!(
            seen(&mut view, document("6", true)).as_deref(),
            Some("snapshot")
        );
        let gone =
            ["4", "5", "6"].map(|id| seen(&mut view, Item::Change(change(id, Update, false))));
        assert_eq!(gone, [None, None, Some("left 6".to_owned())]);
    }

    #[test]
    fn documents_beyond_the_remembered_ones_end_or_are_noted() {
        for local in [Some(own()), None] {
            let mut view = view(local.clone());
            let mut show = |id: usize| {
                let item = change(&id.to_string(), Operation::Insert, true);
                view.visible(Item::Change(item)).map(|_| ())
            };
            for id in 0..MAX_SHOWN {
                show(id).unwrap();
            }
            let last = show(MAX_SHOWN).map_err(|end| end.code);
            assert_eq!(last.is_err(), local.is_some());
            assert_eq!(last.err(), local.as_ref().map(|_| EndCode::Limit));
            assert_eq!(view.is_incomplete(), local.is_none());
        }
    }
}
