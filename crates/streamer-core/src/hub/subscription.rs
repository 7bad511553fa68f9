//! One subscription.

use std::sync::Arc;

use super::{
    StreamId,
    access::{self, Granted},
    credit::Credit,
    limits::MAX_SUBSCRIPTIONS,
    progress::{KnownOffset, Progress},
    snapshot::Snapshot,
    window::WindowState,
};
use crate::{
    Event, Operation, Previous,
    filter::{Document, Filter, Selection},
    matcher::SubscriptionKey,
};

/// One subscription. It is behind if the backlog of its stream contains it, and live otherwise.
///
/// It takes 112 bytes and those of its id; its filter is kept by the matcher alone, unless it wants more
/// than changes.
#[derive(Debug)]
pub(super) struct Subscription {
    key: SubscriptionKey,
    stream: StreamId,
    id: Box<str>,
    name: Arc<CollectionName>,
    /// The number of the request that created the subscription.
    request: u64,
    credit: Credit,
    known: KnownOffset,
    /// The offset of the last event that was delivered or read from the log. Matching may be behind
    /// it.
    handled: u64,
    /// Apart, because most subscriptions want only changes.
    state: Option<Box<StateOptions>>,
}

/// What a subscription wants beside changes, and what that needs.
#[derive(Debug)]
pub(super) struct StateOptions {
    pub(super) wants: Wants,
    filter: Filter,
    /// A snapshot that is not whole yet.
    snapshot: Option<Snapshot>,
    /// Only the first documents of an order are wanted.
    window: Option<WindowState>,
    /// What its peer may see, if that is not a part of the filter: at least one must hold.
    also: Option<Arc<[Filter]>>,
}

/// What a subscription asked for beside changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// A snapshot, wherever there is no position to continue from.
    pub(super) snapshot: bool,
    /// To be told when a document may have left the filter.
    pub(super) left: bool,
}

impl StateOptions {
    /// Returns what is kept for a subscription; `None` if it wants only changes.
    pub(super) fn new(
        wants: Wants,
        granted: &Granted,
        snapshot: Option<Snapshot>,
        mut window: Option<WindowState>,
    ) -> Option<Box<Self>> {
        if snapshot.as_ref().is_some_and(Snapshot::is_new)
            && let Some(window) = &mut window
        {
            window.restart();
        }
        (wants != Wants::default() || granted.also.is_some()).then(|| {
            Box::new(Self {
                wants,
                filter: granted.filter.clone(),
                snapshot,
                window,
                also: granted.also.clone(),
            })
        })
    }

    /// Returns true if a document is one of those wanted, and may be seen.
    fn admits(&self, document: &Document<'_>) -> bool {
        let window = self.window.as_ref();
        self.selects(document) && window.is_none_or(|it| it.holds(document))
    }

    /// Returns true if a document satisfies the filter, and may be seen.
    fn selects(&self, document: &Document<'_>) -> bool {
        access::satisfies(&self.filter, document) && access::admits(self.also.as_deref(), document)
    }

    /// Returns true if a document can be admitted and no longer be after a change.
    fn can_be_left(&self) -> bool {
        self.window.is_some() || self.also.is_some() || can_be_left(&self.filter)
    }
}

impl Subscription {
    /// Creates a subscription that is behind at the offset `start`.
    pub(super) fn new(
        key: SubscriptionKey,
        stream: StreamId,
        id: Box<str>,
        name: Arc<CollectionName>,
        request: u64,
        credit: Credit,
        start: u64,
    ) -> Self {
        Self {
            key,
            stream,
            id,
            name,
            request,
            credit,
            known: KnownOffset::new(start),
            handled: start,
            state: None,
        }
    }

    /// Sets what is wanted beside changes.
    pub(super) fn with(mut self, state: Option<Box<StateOptions>>) -> Self {
        self.state = state;
        self
    }

    pub(super) fn wants(&self) -> Wants {
        self.state
            .as_ref()
            .map_or(Wants::default(), |state| state.wants)
    }

    /// Returns the snapshot that is not whole yet.
    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        self.state.as_ref()?.snapshot.as_ref()
    }

    pub(super) fn snapshot_mut(&mut self) -> Option<&mut Snapshot> {
        self.state.as_mut()?.snapshot.as_mut()
    }

    /// Begins a snapshot that contains at least the changes up to `head`. Returns false if none was asked
    /// for.
    pub(super) fn begin_snapshot(&mut self, head: u64) -> bool {
        match &mut self.state {
            Some(state) if state.wants.snapshot => {
                state.snapshot = Some(Snapshot::new(head));
                if let Some(window) = &mut state.window {
                    window.restart();
                }
                true
            }
            Some(_) | None => false,
        }
    }

    /// Returns true if documents of a snapshot are left to read, and changes have to wait.
    pub(super) fn is_reading_documents(&self) -> bool {
        self.snapshot().is_some_and(Snapshot::is_reading)
    }

    /// Returns true if the documents of the snapshot contain an event.
    pub(super) fn has_in_snapshot(&self, event: &Event) -> bool {
        self.snapshot().is_some_and(|it| it.contains(event))
    }

    /// Returns the window of a subscription without conditions.
    pub(super) fn unconditional_window(&self) -> Option<&WindowState> {
        let state = self.state.as_ref()?;
        let window = state.window.as_ref();
        window.filter(|_| state.filter.selection() == Selection::Collection)
    }

    /// Returns the window.
    pub(super) fn window(&self) -> Option<&WindowState> {
        self.state.as_ref()?.window.as_ref()
    }

    pub(super) fn window_mut(&mut self) -> Option<&mut WindowState> {
        self.state.as_mut()?.window.as_mut()
    }

    /// Returns true while documents are read to determine the bound of the window, and none is sent.
    pub(super) fn is_scanning(&self) -> bool {
        self.window().is_some_and(WindowState::is_scanning)
    }

    /// Looks at a document to determine the bound of the window.
    pub(super) fn scan(&mut self, event: &Event) {
        if let Some(state) = &mut self.state {
            let document = Document::of(event);
            let matches = state.selects(&document);
            if let Some(window) = &mut state.window {
                window.scan(event, matches.then_some(&document));
            }
        }
    }

    /// Returns the id of the document after which the next page of documents is to be read.
    pub(super) fn last_read(&self) -> Option<&Arc<str>> {
        match self.window() {
            Some(window) if window.is_scanning() => window.scanned(),
            Some(_) | None => self.snapshot().and_then(Snapshot::last_id),
        }
    }

    /// Returns true if a document of the snapshot is one of those wanted.
    pub(super) fn selects(&self, event: &Event) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|it| it.admits(&Document::of(event)))
    }

    /// Returns true if every document of the collection is selected.
    pub(super) fn selects_all(&self) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|it| !it.can_be_left() && it.filter.selection() == Selection::Collection)
    }

    /// Returns true if documents can leave and the peer is told of them.
    pub(super) fn wants_left(&self) -> bool {
        self.state
            .as_ref()
            .is_some_and(|it| it.wants.left && it.can_be_left())
    }

    /// Returns what the peer is told of an event that matches the filter, or may by which a document left
    /// it.
    pub(super) fn effect(&self, document: &Document<'_>, before: &Before<'_>) -> Effect {
        let Some(state) = &self.state else {
            return Effect::Change;
        };
        if !self.wants_left() {
            // The matcher has looked at the filter only.
            return if access::admits(state.also.as_deref(), document) {
                Effect::Change
            } else {
                Effect::Nothing
            };
        }
        let was_held = |before: &Document<'_>| {
            before.event().operation != Operation::Delete && state.admits(before)
        };
        match before {
            _ if state.admits(document) => Effect::Change,
            // In doubt, the peer is told; but of the one document that it asks for, and no other.
            Before::Unknown => match state.filter.selection() {
                Selection::Document(id) if *id != *document.event().document_id => Effect::Nothing,
                _ => Effect::Left,
            },
            Before::Document(before) if was_held(before) => Effect::Left,
            Before::Document(_) | Before::Nothing => Effect::Nothing,
        }
    }

    /// Returns the number of further deliveries that the peer accepts, at most `max`.
    pub(super) fn messages_left(&self, max: usize) -> usize {
        self.credit.messages_left(max)
    }

    /// Uses the credit of one document of a snapshot.
    pub(super) fn charge(&mut self, weight: usize) {
        self.credit.charge(weight);
    }

    pub(super) fn key(&self) -> SubscriptionKey {
        self.key
    }

    pub(super) fn stream(&self) -> StreamId {
        self.stream
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns true if the peer grants no credit, as only plain peers do. Their ids share a namespace.
    pub(super) fn is_plain(&self) -> bool {
        self.credit.is_unlimited()
    }

    pub(super) fn name(&self) -> &Arc<CollectionName> {
        &self.name
    }

    pub(super) fn database(&self) -> &Arc<str> {
        &self.name.0
    }

    pub(super) fn collection(&self) -> &Arc<str> {
        &self.name.1
    }

    pub(super) fn request(&self) -> u64 {
        self.request
    }

    pub(super) fn has_credit(&self) -> bool {
        self.credit.is_open()
    }

    pub(super) fn grant(&mut self, total_messages: u64, total_bytes: u64) {
        self.credit.grant(total_messages, total_bytes);
    }

    /// Counts a delivery of a weight and returns the offset that the client knew before it.
    pub(super) fn on_delivery(&mut self, offset: u64, weight: usize, progress: &Progress) -> u64 {
        let previous = self.known.get(progress);
        self.known.note_sent(offset);
        // A page may deliver ahead of matching, which then offers the same event once more.
        self.handled = offset;
        self.credit.charge(weight);
        self.drop_whole_snapshot(offset);
        previous
    }

    /// Forgets the snapshot if everything that it contains is passed.
    fn drop_whole_snapshot(&mut self, offset: u64) {
        if let Some(state) = &mut self.state {
            state
                .snapshot
                .take_if(|it| it.whole_at().is_some_and(|at| at <= offset));
        }
    }

    /// Notes that the client was told to continue at an offset.
    pub(super) fn restart_at(&mut self, offset: u64) {
        self.known.note_sent(offset);
    }

    pub(super) fn fall_behind(&mut self, progress: &Progress) {
        self.known.fall_behind(progress);
    }

    /// Makes the subscription live. Everything up to `offset` was delivered or did not match.
    pub(super) fn go_live(&mut self, offset: u64, progress: &Progress) {
        self.handled = offset;
        self.known.go_live(progress);
        self.drop_whole_snapshot(offset);
    }

    /// Returns the offset up to which a live subscription has nothing more to get.
    pub(super) fn handled(&self) -> u64 {
        self.handled
    }
}

/// The state of a document before an event.
#[derive(Debug)]
pub(super) enum Before<'a> {
    /// It cannot be read.
    Unknown,
    /// The document did not exist.
    Nothing,
    /// The document.
    Document(Document<'a>),
}

/// What a peer is told of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The change.
    Change,
    /// The document left, or may have.
    Left,
    /// The event does not concern it.
    Nothing,
}

impl<'a> Before<'a> {
    pub(super) fn of(event: &'a Event) -> Self {
        match &event.previous {
            Previous::Unknown | Previous::At(_) => Self::Unknown,
            Previous::Nothing => Self::Nothing,
            Previous::Read(previous) => Self::Document(Document::of(previous)),
        }
    }
}

/// Returns true if a document can leave the filter by a change.
fn can_be_left(filter: &Filter) -> bool {
    // A document that is chosen by its id never leaves, and no other one ever matches.
    matches!(filter.selection(), Selection::Conditions(_))
}

/// A database and a collection.
pub(super) type CollectionName = (Arc<str>, Arc<str>);

/// The subscriptions among which an id is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Namespace {
    /// Those of all plain peers. Gateways expect it of the original, which knows no sessions.
    Plain,
    /// Those of one profile stream.
    Stream(StreamId),
}

/// The bits of a key that are the index. 16 million subscriptions fill memory first, and at 10,000 new
/// ones in a second the other 40 bits last for three years.
pub(super) const INDEX_BITS: u32 = MAX_SUBSCRIPTIONS.ilog2();

/// Returns the index that a key contains.
pub(super) fn index_of(key: SubscriptionKey) -> usize {
    key.0 as usize & (MAX_SUBSCRIPTIONS - 1)
}
