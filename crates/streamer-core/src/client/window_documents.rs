//! The first documents of an order, kept up to date from the items of a subscription with a window.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use super::{Change, Command, Item, Snapshot, SubscriptionId};
use crate::{Event, Operation, Place, Window, filter::Document};

/// The first documents of one subscription with a window, in order.
///
/// What is shown is always the state at one position. The documents kept in reserve take the places of
/// those that leave. When too few are left, what is shown stays as it is until a new snapshot is whole.
#[derive(Clone, Debug)]
pub struct WindowDocuments {
    window: Window,
    /// The documents shown, in order.
    shown: Vec<(Place, Change)>,
    held: Held,
    /// The documents of the snapshot in progress.
    incoming: Option<Held>,
    is_whole: bool,
    /// The number of the newest snapshot for which another one was asked.
    refilled: u64,
    /// The place to be told to the server.
    narrowed: bool,
}

/// The documents up to a bound.
#[derive(Clone, Debug, Default)]
struct Held {
    places: BTreeMap<Arc<str>, Place>,
    documents: BTreeMap<Place, Change>,
    bound: Option<Place>,
    /// The number of the snapshot.
    number: u64,
}

/// The effect of an item on the documents shown. Indices count from 0. Several updates apply one after
/// another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WindowUpdate {
    /// A document is shown that was not before.
    Entered {
        /// Its id.
        id: Arc<str>,
        /// Its index.
        index: usize,
    },
    /// A document that is shown changed, and kept its place.
    Changed {
        /// Its id.
        id: Arc<str>,
        /// Its index.
        index: usize,
    },
    /// A document that is shown changed, or is the same, and has another place.
    Moved {
        /// Its id.
        id: Arc<str>,
        /// Its index before.
        from: usize,
        /// Its index after it was removed from there.
        to: usize,
    },
    /// A document is no longer shown: it was deleted, does not match any more, or others are before it.
    Left {
        /// Its id.
        id: Arc<str>,
        /// Its index before.
        index: usize,
    },
    /// The documents are those at one position, for the first time or again after a snapshot or a pause. The
    /// updates before this one tell the difference.
    Whole,
}

impl WindowDocuments {
    /// Creates the documents of a subscription with this window, which shows none yet.
    #[must_use]
    pub fn new(window: Window) -> Self {
        Self {
            window,
            shown: Vec::new(),
            held: Held::default(),
            incoming: None,
            is_whole: false,
            refilled: 0,
            narrowed: false,
        }
    }

    /// Applies an item, in the order of the subscription, and returns the effects in order.
    pub fn apply(&mut self, item: Item) -> Vec<WindowUpdate> {
        match item {
            Item::Snapshot(Snapshot::Begin { .. }) => {
                self.incoming = Some(Held::default());
                Vec::new()
            }
            Item::Snapshot(Snapshot::Bound { number, bound }) => {
                let incoming = self.incoming.get_or_insert_default();
                (incoming.number, incoming.bound) = (number, bound);
                Vec::new()
            }
            Item::Snapshot(Snapshot::Document(change)) | Item::Change(change) => {
                let is_deleted = change.operation == Operation::Delete;
                let place = (!is_deleted).then(|| self.place(&change));
                self.set(change, place)
            }
            Item::Left(change) => self.set(change, None),
            Item::Snapshot(Snapshot::End(_)) => {
                self.held = self.incoming.take().unwrap_or_default();
                self.narrow();
                self.settle()
            }
            Item::Resync(_) | Item::Gap(_) => Vec::new(),
        }
    }

    /// Returns the command that the subscription needs now: the window is to be filled again, or fewer
    /// documents are kept. To be called after each item.
    pub fn take_command(&mut self, id: SubscriptionId) -> Option<Command> {
        let snapshot = self.held.number;
        if std::mem::take(&mut self.narrowed)
            && let Some(bound) = self.held.bound.clone()
        {
            return Some(Command::Narrow {
                id,
                snapshot,
                bound,
            });
        }
        // Once for each snapshot: the answer is another one.
        let wants = self.incoming.is_none() && self.is_short() && self.refilled < snapshot;
        wants.then(|| {
            self.refilled = snapshot;
            Command::Refill { id, snapshot }
        })
    }

    /// Returns whether the documents shown are those after the last item applied: false until the first
    /// snapshot is whole, and while a new one is needed or in progress.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole && self.incoming.is_none()
    }

    /// Returns the documents shown, in order, each as its newest change.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Change> {
        self.shown.iter().map(|(_, change)| change)
    }

    /// Returns the document that an update shows. `None` if it shows none, or if a later update of the same
    /// item removed it again.
    #[must_use]
    pub fn document(&self, update: &WindowUpdate) -> Option<&Change> {
        let id = match update {
            WindowUpdate::Entered { id, .. }
            | WindowUpdate::Changed { id, .. }
            | WindowUpdate::Moved { id, .. } => id,
            WindowUpdate::Left { .. } | WindowUpdate::Whole => return None,
        };
        // Not by index: later updates of the same item may have moved it.
        self.iter().find(|change| change.document_id == *id)
    }

    /// Returns the document at an index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Change> {
        self.shown.get(index).map(|(_, change)| change)
    }

    /// Returns the number of documents shown.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shown.len()
    }

    /// Returns whether no document is shown.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Returns the number of documents kept, with the reserve.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.held.documents.len()
    }

    fn limit(&self) -> usize {
        self.window.limit as usize
    }

    /// Returns whether documents that should be shown may be missing: too few are left, and there are more
    /// beyond the bound.
    fn is_short(&self) -> bool {
        self.held.bound.is_some() && self.held.documents.len() < self.limit()
    }

    fn place(&self, change: &Change) -> Place {
        let event = Event {
            previous: crate::Previous::Unknown,
            offset: 0,
            database: Arc::clone(&change.database),
            collection: Arc::clone(&change.collection),
            document_id: Arc::clone(&change.document_id),
            operation: change.operation,
            data: change.data.clone(),
            timestamp: change.timestamp,
        };
        self.window.place(&Document::of(&event))
    }

    /// Sets the newest change of a document, or removes the document if it has no place.
    fn set(&mut self, change: Change, place: Option<Place>) -> Vec<WindowUpdate> {
        if let Some(incoming) = &mut self.incoming {
            incoming.set(change, place);
            return Vec::new();
        }
        let id = Arc::clone(&change.document_id);
        let (before, after) = self.held.set(change, place);
        self.narrow();
        if !self.is_whole || self.is_short() {
            return self.settle();
        }
        self.show(&id, before.as_ref(), after.as_ref())
    }

    /// Shows a change of one document. Costs the updates, and a search in the window.
    fn show(
        &mut self,
        id: &Arc<str>,
        before: Option<&Place>,
        after: Option<&Place>,
    ) -> Vec<WindowUpdate> {
        let mut updates = Vec::new();
        let id = || Arc::clone(id);
        let from = before.and_then(|place| self.find(place).ok());
        if let Some(from) = from {
            self.shown.remove(from);
        }
        let to = after.map(|place| self.find(place).unwrap_or_else(|index| index));
        // At the end of what is shown others may be before it, which `fill` finds out.
        let to = to.filter(|to| *to < self.shown.len());
        if let (Some(to), Some(place)) = (to, after)
            && let Some(change) = self.held.documents.get(place)
        {
            self.shown.insert(to, (place.clone(), change.clone()));
        }
        match (from, to) {
            (Some(index), Some(to)) if index == to => {
                updates.push(WindowUpdate::Changed { id: id(), index });
            }
            (Some(from), Some(to)) => updates.push(WindowUpdate::Moved { id: id(), from, to }),
            (None, Some(index)) => updates.push(WindowUpdate::Entered { id: id(), index }),
            (Some(from), None) => {
                let last = self.fill();
                match last {
                    // It is the last one shown, before or after.
                    Some(to) if self.shown[to].1.document_id == id() => {
                        updates.push(if from == to {
                            WindowUpdate::Changed {
                                id: id(),
                                index: to,
                            }
                        } else {
                            WindowUpdate::Moved { id: id(), from, to }
                        });
                    }
                    last => {
                        updates.push(WindowUpdate::Left {
                            id: id(),
                            index: from,
                        });
                        updates.extend(last.map(|index| self.entered(index)));
                    }
                }
            }
            (None, None) => {
                let last = self.fill();
                updates.extend(last.map(|index| self.entered(index)));
            }
        }
        if self.shown.len() > self.limit()
            && let Some((_, last)) = self.shown.pop()
        {
            updates.push(WindowUpdate::Left {
                id: last.document_id,
                index: self.shown.len(),
            });
        }
        updates
    }

    /// Shows the next document that is kept, if fewer than wanted are shown. Returns its index.
    fn fill(&mut self) -> Option<usize> {
        if self.shown.len() >= self.limit() {
            return None;
        }
        let last = self.shown.last().map(|(place, _)| place);
        let (place, change) = match last {
            None => self.held.documents.first_key_value()?,
            Some(last) => self
                .held
                .documents
                .range((Excluded(last), Unbounded))
                .next()?,
        };
        self.shown.push((place.clone(), change.clone()));
        Some(self.shown.len() - 1)
    }

    fn entered(&self, index: usize) -> WindowUpdate {
        let id = Arc::clone(&self.shown[index].1.document_id);
        WindowUpdate::Entered { id, index }
    }

    fn find(&self, place: &Place) -> Result<usize, usize> {
        self.shown.binary_search_by(|(other, _)| other.cmp(place))
    }

    /// Shows what is kept, unless too few documents are left, and returns the difference.
    fn settle(&mut self) -> Vec<WindowUpdate> {
        self.is_whole = !self.is_short();
        if !self.is_whole {
            return Vec::new();
        }
        let mut updates = Vec::new();
        let first = self.held.documents.values().take(self.limit());
        let first: BTreeSet<_> = first.map(|it| Arc::clone(&it.document_id)).collect();
        // From the back, so that the indices hold for one update after another.
        for index in (0..self.shown.len()).rev() {
            if !first.contains(&self.shown[index].1.document_id) {
                let (_, change) = self.shown.remove(index);
                let id = change.document_id;
                updates.push(WindowUpdate::Left { id, index });
            }
        }
        for (index, (place, change)) in self.held.documents.iter().take(self.limit()).enumerate() {
            let id = Arc::clone(&change.document_id);
            let rest = self.shown.get(index..).unwrap_or_default();
            let from = rest.iter().position(|(_, it)| it.document_id == id);
            match from.map(|from| index + from) {
                None => updates.push(WindowUpdate::Entered { id, index }),
                Some(from) => {
                    let (_, before) = self.shown.remove(from);
                    if from != index {
                        let to = index;
                        updates.push(WindowUpdate::Moved { id, from, to });
                    } else if before.event_id != change.event_id {
                        updates.push(WindowUpdate::Changed { id, index });
                    }
                }
            }
            self.shown.insert(index, (place.clone(), change.clone()));
        }
        updates.push(WindowUpdate::Whole);
        updates
    }

    /// Drops the documents at the end when twice the reserve is kept, so that memory is bounded.
    fn narrow(&mut self) {
        let reserve = self.window.reserve as usize;
        if self.held.documents.len() > self.limit() + 2 * reserve.max(1) {
            while self.held.documents.len() > self.window.capacity()
                && let Some((_, change)) = self.held.documents.pop_last()
            {
                self.held.places.remove(&change.document_id);
            }
            self.held.bound = self.held.documents.keys().next_back().cloned();
            self.narrowed = true;
        }
    }
}

impl Held {
    /// Sets the newest change of a document. Returns its place before and after.
    fn set(&mut self, change: Change, place: Option<Place>) -> (Option<Place>, Option<Place>) {
        // The server may not know yet how far documents are kept.
        let is_within = |place: &Place| self.bound.as_ref().is_none_or(|bound| place <= bound);
        let place = place.filter(is_within);
        let before = match &place {
            Some(place) => {
                let id = Arc::clone(&change.document_id);
                self.places.insert(id, place.clone())
            }
            None => self.places.remove(&change.document_id),
        };
        if let Some(before) = &before {
            self.documents.remove(before);
        }
        if let Some(place) = &place {
            self.documents.insert(place.clone(), change.detached());
        }
        (before, place)
    }
}

#[cfg(test)]
mod tests;
