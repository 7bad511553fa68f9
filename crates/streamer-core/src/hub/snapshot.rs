//! The snapshot of one subscription: the documents that were sent, and the changes they contain.
//!
//! Documents are read in pages, in ascending order of their ids, and each page may be newer than the one
//! before. The changes after the age of the first page follow the documents. A change that the page of
//! its document contains already is not sent again, so that no document goes back to an older state.

use std::sync::Arc;

use prost::Message as _;
use steadfast_wire::streamer::{
    ResyncReason, SnapshotCursor, SnapshotPart, SnapshotRequest, SubscribeRequest,
    subscribe_request,
};

use super::{access::EVERYTHING, context::Context};
use crate::{Epoch, Event, Position};

/// A snapshot in progress, or one whose documents were sent and whose changes are being read.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The offset after which changes follow; `None` before the first page.
    follows: Option<u64>,
    /// The parts of the collection that were read, in ascending order of ids and of age.
    parts: Vec<Part>,
    /// The offset at which the snapshot is whole; `None` while documents are left.
    whole_at: Option<u64>,
    /// The snapshot is not whole before this offset, the head when it began.
    not_before: u64,
    /// The beginning was told.
    is_announced: bool,
    /// No page is read before the peer grants credit.
    pub(super) waits_for_credit: bool,
}

/// The documents up to an id, as they were at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// The id of the last document; `None` for the end of the collection.
    last: Option<Arc<str>>,
    as_of: u64,
}

/// The offset at which a subscription starts, the reason if it is not the one it asked for, and the
/// snapshot that it starts with.
pub(super) type Start = (u64, Option<ResyncReason>, Option<Snapshot>);

impl Snapshot {
    /// Creates a snapshot of which nothing was sent. It contains at least the changes up to `head`.
    pub(super) fn new(head: u64) -> Self {
        Self {
            follows: None,
            parts: Vec::new(),
            whole_at: None,
            not_before: head,
            is_announced: false,
            waits_for_credit: false,
        }
    }

    /// Reads from a request of a profile peer where the subscription starts.
    ///
    /// `rights` is the fingerprint of what the peer may see. Documents that it has from other rights, or
    /// from unknown ones while it may not see everything, make no whole.
    pub(super) fn start(request: &SubscribeRequest, rights: u64, cx: &Context) -> Start {
        let (start, resync) = match (&request.resume, request.start) {
            (None, Some(subscribe_request::Start::StartOffset(after))) => {
                (cx.log.start_after(after), None)
            }
            // A time without a position was refused (`Subscriptions::admit`).
            (resume, _) => cx.log.start(resume.as_ref()),
        };
        let Some(wanted) = &request.snapshot else {
            return (start, resync, None);
        };
        // An application that resumes in a new process does not know the fingerprint, and its rights may have
        // changed while it was down.
        let has_documents = request.resume.is_some() || !wanted.cursor.is_empty();
        let known = request.rights.or(has_documents.then_some(EVERYTHING));
        if known.is_some_and(|known| known != rights) {
            let head = cx.log.head();
            let resync = resync.or(request.resume.as_ref().map(|_| ResyncReason::Rights));
            return (head, resync, Some(Self::new(head)));
        }
        let continued = Self::read(wanted, cx);
        match (&request.resume, continued) {
            // The position is lost: only another snapshot makes the application's state whole.
            (Some(_), _) if resync.is_some() => (start, resync, Some(Self::new(start))),
            // The documents contain changes that are not of this log.
            (Some(_), None) if !wanted.cursor.is_empty() => (start, None, Some(Self::new(start))),
            // The changes up to `whole_at` that the documents contain are still to be left out.
            (Some(_), continued) => {
                let unfinished = |it: &Self| it.whole_at.is_some_and(|at| at > start);
                (start, None, continued.filter(unfinished))
            }
            (None, Some(continued)) => {
                let follows = continued.follows.unwrap_or(start);
                (follows, None, Some(continued))
            }
            (None, None) => (start, None, Some(Self::new(start))),
        }
    }

    /// Reads the cursor of a request. `None` if there is none, if it is invalid, or if the changes after
    /// its documents can no longer be read: the snapshot then begins again.
    fn read(request: &SnapshotRequest, cx: &Context) -> Option<Self> {
        if request.cursor.is_empty() {
            return None;
        }
        let cursor = SnapshotCursor::decode(&*request.cursor).ok()?;
        let follows = cursor.follows?;
        let newest = cursor
            .parts
            .last()
            .map_or(follows.offset, |part| part.as_of);
        // In an older copy of the log, the documents may contain changes that never happened.
        let is_of_this_log = cx.log.contains(Position::new(Epoch(follows.epoch), newest));
        let (follows, lost) = cx.log.start(Some(&follows));
        let parts: Vec<_> = cursor.parts.into_iter().map(Part::of_wire).collect();
        // A cursor is written by a server, and returned by a peer that may have changed it.
        let ordered = parts.is_sorted_by(Part::precedes) && parts.len() <= MAX_PARTS;
        let ends = parts.last().is_some_and(|part| part.last.is_none());
        let is_valid =
            lost.is_none() && is_of_this_log && ordered && ends == cursor.whole_at.is_some();
        is_valid.then_some(Self {
            follows: Some(follows),
            parts,
            whole_at: cursor.whole_at,
            not_before: cursor.not_before.min(cx.log.head()),
            is_announced: true,
            waits_for_credit: false,
        })
    }

    /// Returns the cursor after the documents that were read.
    pub(super) fn cursor(&self, cx: &Context) -> Vec<u8> {
        let cursor = SnapshotCursor {
            follows: self.follows.map(|offset| cx.wire_position(offset)),
            parts: self.parts.iter().map(Part::to_wire).collect(),
            whole_at: self.whole_at,
            not_before: self.not_before,
        };
        cursor.encode_to_vec()
    }

    /// Returns true if nothing of it was sent.
    pub(super) fn is_new(&self) -> bool {
        !self.is_announced
    }

    /// Returns true if documents are left to read.
    pub(super) fn is_reading(&self) -> bool {
        self.whole_at.is_none()
    }

    /// Returns the offset after which changes follow; `None` before the first page.
    pub(super) fn follows(&self) -> Option<u64> {
        self.follows
    }

    /// Returns the offset at which the snapshot is whole; `None` while documents are left.
    pub(super) fn whole_at(&self) -> Option<u64> {
        self.whole_at
    }

    /// Returns the id of the last document that was read.
    pub(super) fn last_id(&self) -> Option<&Arc<str>> {
        self.parts.last()?.last.as_ref()
    }

    /// Notes the age of the first page.
    pub(super) fn begin(&mut self, follows: u64) {
        self.follows.get_or_insert(follows);
    }

    /// Returns true the first time.
    pub(super) fn take_begins(&mut self) -> bool {
        !std::mem::replace(&mut self.is_announced, true)
    }

    /// Notes that the documents up to an id were read, as they were at an offset.
    pub(super) fn advance(&mut self, last: &Arc<str>, as_of: u64) {
        self.push(Some(Arc::clone(last)), as_of);
    }

    /// Notes that all documents were read.
    pub(super) fn finish(&mut self, as_of: u64) {
        self.push(None, as_of);
        self.whole_at = Some(as_of.max(self.not_before));
    }

    fn push(&mut self, last: Option<Arc<str>>, as_of: u64) {
        let is_full = self.parts.len() == MAX_PARTS;
        match self.parts.last_mut() {
            // Joined to an older part, changes that the documents contain are sent once more. The
            // other way round changes would be lost.
            Some(newest) if newest.as_of == as_of || is_full => newest.last = last,
            _ => self.parts.push(Part { last, as_of }),
        }
    }

    /// Returns true if the documents that were sent contain an event.
    pub(super) fn contains(&self, event: &Event) -> bool {
        let part = self.parts.iter().find(|part| part.covers(event));
        part.is_some_and(|part| event.offset <= part.as_of)
    }
}

impl Part {
    fn of_wire(part: SnapshotPart) -> Self {
        Self {
            // No document has an empty id.
            last: (!part.last_id.is_empty()).then(|| part.last_id.into()),
            as_of: part.as_of,
        }
    }

    fn to_wire(&self) -> SnapshotPart {
        SnapshotPart {
            last_id: self.last.as_deref().unwrap_or_default().to_owned(),
            as_of: self.as_of,
        }
    }

    fn covers(&self, event: &Event) -> bool {
        self.last
            .as_ref()
            .is_none_or(|last| event.document_id <= *last)
    }

    fn precedes(&self, later: &Self) -> bool {
        let ids = match (&self.last, &later.last) {
            (Some(last), Some(later)) => last < later,
            (Some(_), None) => true,
            (None, _) => false,
        };
        ids && self.as_of <= later.as_of
    }
}

/// The maximum number of parts of a cursor. Pages of one age are one part, and the table of documents
/// changes its age every few thousand events or every ten seconds (decision 0011).
const MAX_PARTS: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{Operation, Previous};

    fn change(offset: u64, document_id: &str) -> Event {
        Event {
            offset,
            database: "db".into(),
            collection: "rooms".into(),
            document_id: document_id.into(),
            operation: Operation::Update,
            data: bytes::Bytes::new(),
            timestamp: 0,
            previous: Previous::Unknown,
        }
    }

    proptest! {
        /// An event that is left out and not contained is lost; one that is sent once more is not. Only a
        /// cursor without room for another part may send one more than once.
        #[test]
        fn changes_that_no_document_contains_are_never_left_out(
            ages in vec(0..3_u64, 1..60),
            is_whole: bool,
        ) {
            let mut snapshot = Snapshot::new(0);
            let mut read = Vec::new();
            let mut as_of = 100;
            for (index, age) in ages.iter().enumerate() {
                as_of += age;
                let id = format!("d{index:02}");
                if is_whole && index + 1 == ages.len() {
                    snapshot.finish(as_of);
                } else {
                    snapshot.advance(&id.as_str().into(), as_of);
                }
                read.push((id, as_of));
            }
            prop_assert!(snapshot.parts.len() <= MAX_PARTS, "a cursor that is refused");
            let is_exact = ages.iter().filter(|age| **age > 0).count() < MAX_PARTS;
            for (id, as_of) in &read {
                for offset in 100..=as_of + 1 {
                    let contains = snapshot.contains(&change(offset, id));
                    prop_assert!(!contains || offset <= *as_of, "{} at {}", id, offset);
                    prop_assert!(contains || !is_exact || offset > *as_of, "{} at {}", id, offset);
                }
            }
            let beyond = snapshot.contains(&change(100, "e"));
            prop_assert_eq!(beyond, is_whole, "only a whole one has all documents");
            prop_assert_eq!(snapshot.whole_at(), is_whole.then_some(as_of));
        }
    }
}
