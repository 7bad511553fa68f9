//! The window of one subscription: the place up to which its client has documents.
//!
//! A window is a snapshot and the changes after it, both cut off at a place, the *bound*. The server keeps
//! no document and no id for it. To find the bound of a new window it reads the collection once and keeps
//! the places of the first documents; then it reads it again and sends what is not beyond the bound.
//! When too few documents are left, the client asks for a new window; when it has too many, it moves the
//! bound.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Event, Operation,
    filter::{Document, FieldPath},
    window::{Direction, Place, Window},
};

/// The window of a subscription.
#[derive(Debug)]
pub(super) struct WindowState {
    window: Window,
    /// The last place of which the client has documents; `None` if it has all that match.
    bound: Option<Arc<Place>>,
    /// The number of bounds that were found.
    number: u32,
    /// The bound of the snapshot that begins is being determined.
    scan: Option<Scan>,
}

/// The search for a bound.
#[derive(Debug, Default)]
struct Scan {
    /// The first places found.
    first: BTreeSet<Place>,
    /// There are more.
    is_full: bool,
    /// The id of the last document that was read.
    after: Option<Arc<str>>,
}

impl WindowState {
    /// Creates a window that continues with what its client has.
    pub(super) fn new((window, bound): (Window, Option<Place>)) -> Self {
        Self {
            window,
            bound: bound.map(Arc::new),
            number: 0,
            scan: None,
        }
    }

    /// Begins to determine the bound anew.
    pub(super) fn restart(&mut self) {
        self.scan = Some(Scan::default());
    }

    /// Returns true while the bound is being determined.
    pub(super) fn is_scanning(&self) -> bool {
        self.scan.is_some()
    }

    /// Returns the id of the last document that was looked at for the bound.
    pub(super) fn scanned(&self) -> Option<&Arc<str>> {
        self.scan.as_ref()?.after.as_ref()
    }

    /// Looks at a document that matches the filter or not.
    pub(super) fn scan(&mut self, event: &Event, document: Option<&Document<'_>>) {
        let Some(scan) = &mut self.scan else {
            return;
        };
        scan.after = Some(Arc::clone(&event.document_id));
        if let Some(document) = document {
            scan.first.insert(self.window.place(document));
            if scan.first.len() > self.window.capacity() {
                scan.first.pop_last();
                scan.is_full = true;
            }
        }
    }

    /// Notes that no document is left before an id; `None` for the end of the collection, at which the
    /// bound is known.
    pub(super) fn scanned_to(&mut self, next: Option<&Arc<str>>) {
        if let (Some(scan), Some(next)) = (&mut self.scan, next) {
            scan.after = Some(Arc::clone(next));
        } else if let Some(mut scan) = self.scan.take() {
            let last = scan.first.pop_last().filter(|_| scan.is_full);
            self.bound = last.map(Arc::new);
            self.number += 1;
        }
    }

    /// Returns true if the client has or gets a document that matches the filter.
    pub(super) fn holds(&self, document: &Document<'_>) -> bool {
        document.event().operation != Operation::Delete
            && self
                .bound
                .as_ref()
                .is_none_or(|bound| self.window.place(document) <= **bound)
    }

    /// Returns what documents are ordered by.
    pub(super) fn order(&self) -> (&FieldPath, Direction) {
        (&self.window.field, self.window.direction)
    }

    /// Returns the bound and the number of the snapshot.
    pub(super) fn bound(&self) -> (Option<&Arc<Place>>, u32) {
        (self.bound.as_ref(), self.number)
    }

    /// Moves the bound to where the client has set its own, if it knows the newest snapshot.
    pub(super) fn narrow(&mut self, bound: &steadfast_wire::streamer::WindowBound, number: u32) {
        let bound = self.window.place_of_wire(bound);
        // Never further: the client would lack the documents between.
        if number == self.number && self.bound.as_ref().is_none_or(|now| bound < **now) {
            self.bound = Some(Arc::new(bound));
        }
    }
}

#[cfg(test)]
mod tests {
    use steadfast_wire::streamer::{WindowBound, window_bound::Value};

    use super::*;

    #[test]
    fn bound_follows_the_client_of_the_newest_snapshot_only() {
        let bound = |value| WindowBound {
            document_id: "d".to_owned(),
            value: Some(Value::IntValue(value)),
        };
        let window = Window::new("v", Direction::Ascending, 3);
        let place = |value| Some(Arc::new(window.place_of_wire(&bound(value))));
        let at_nine = window.place_of_wire(&bound(9));
        let mut state = WindowState::new((window.clone(), Some(at_nine)));
        state.number = 2;
        state.narrow(&bound(5), 1);
        assert_eq!(state.bound, place(9), "by an older snapshot");
        state.narrow(&bound(7), 2);
        assert_eq!(state.bound, place(7));
        state.narrow(&bound(8), 2);
        assert_eq!(state.bound, place(7), "never further");
    }
}
