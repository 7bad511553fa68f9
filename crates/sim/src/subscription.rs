//! Subscriptions of the simulated applications.

use steadfast_session::Time;
use steadfast_streamer_core::{
    Position, Window,
    client::{
        Change, Command, Item, LiveDocuments, Start, SubscribeOptions, SubscriptionId,
        WindowDocuments, queue::Queue,
    },
};

use crate::{
    payload::{Payload, Selection},
    rights::MaySee,
};

/// An item that an application consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumed {
    Change(Payload),
    Gap,
    /// The changes after the first offset, up to the second, may be missing: they left the log.
    Trimmed(u64, u64),
}

/// A subscription as the application sees it.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    pub(crate) selection: Selection,
    /// The offset after which its changes follow, once the server has acknowledged it.
    pub(crate) start: Option<u64>,
    /// The offset up to which its application consumed everything before a successor took over.
    pub(crate) end: Option<u64>,
    pub(crate) queue: Queue,
    /// Where it was to begin, and the offset up to which the server knew the log to be trimmed when it was
    /// requested; until the server has accepted it.
    pub(crate) begins: Option<(Start, u64)>,
    /// The documents held, of a subscription that begins with a snapshot.
    pub(crate) live: Option<Live>,
    pub(crate) granted: Granted,
    pub(crate) consumed: Vec<Consumed>,
    pub(crate) paused_until: Time,
    pub(crate) unsubscribed: bool,
    pub(crate) refused: Option<String>,
}

/// The rights of its peer to the collection, as of each acceptance.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    /// Each with the offset after which it decides. Empty before the first acceptance.
    since: Vec<(u64, MaySee)>,
    has_changed: bool,
    /// The position that each queued snapshot follows, and its rights.
    queued: Vec<(Position, MaySee)>,
    /// The rights of the snapshot that was taken last. Several if more than one of the same position was
    /// queued, because one may have taken the place of another.
    held: Vec<MaySee>,
}

/// The documents that an application holds.
#[derive(Clone, Debug)]
pub(crate) enum Live {
    /// All that match.
    Set(LiveDocuments),
    /// The first ones by value.
    Window(Window, Box<WindowDocuments>),
}

impl Granted {
    /// Notes an acceptance, after whose offset these rights decide.
    pub(crate) fn accept(&mut self, offset: u64, rights: &MaySee) {
        self.has_changed |= self.last().is_some_and(|last| last != rights);
        self.since.retain(|(since, _)| *since < offset);
        if self.last() != Some(rights) {
            self.since.push((offset, rights.clone()));
        }
    }

    /// Returns true if the peer may see an event.
    pub(crate) fn admits(&self, offset: u64, payload: Payload) -> bool {
        let before = self.since.partition_point(|(since, _)| *since < offset);
        let rights = before.checked_sub(1).map(|at| &self.since[at].1);
        rights.is_none_or(|rights| rights.admits(payload))
    }

    /// Returns the rights of the last acceptance.
    pub(crate) fn last(&self) -> Option<&MaySee> {
        self.since.last().map(|(_, last)| last)
    }

    pub(crate) fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// Notes that a snapshot begins in the queue.
    pub(crate) fn queue(&mut self, follows: Position) {
        let rights = self.last().cloned().unwrap_or_default();
        self.queued.push((follows, rights));
    }

    /// Notes that the beginning of a snapshot was taken from the queue. Returns true if it replaces one of
    /// other rights.
    pub(crate) fn hold(&mut self, follows: Position) -> bool {
        let same = |(at, _): &&(Position, MaySee)| *at == follows;
        let held = self.queued.iter().filter(same);
        let held = held.map(|(_, rights)| rights.clone()).collect();
        let before = std::mem::replace(&mut self.held, held);
        let first = self.queued.iter().position(|(at, _)| *at == follows);
        self.queued.drain(..first.map_or(0, |at| at + 1));
        !before.is_empty() && before != self.held
    }

    /// Returns the rights with which the documents that are held may have been sent.
    pub(crate) fn held(&self) -> &[MaySee] {
        &self.held
    }
}

impl Live {
    /// Returns what to ask the server for.
    pub(crate) fn options(&self) -> SubscribeOptions {
        let mut options = SubscribeOptions::default();
        (options.snapshot, options.left) = (true, true);
        if let Self::Window(window, _) = self {
            options.window = Some(window.clone());
        }
        options
    }

    /// Applies an item and returns what the application asks for then.
    pub(crate) fn apply(&mut self, id: SubscriptionId, item: Item) -> Option<Command> {
        match self {
            Self::Set(documents) => {
                documents.apply(item);
                None
            }
            Self::Window(_, documents) => {
                documents.apply(item);
                documents.take_command(id)
            }
        }
    }

    /// Returns whether the documents are those after the last item.
    pub(crate) fn is_exact(&self) -> bool {
        match self {
            Self::Set(documents) => documents.is_whole() && !documents.is_refreshing(),
            Self::Window(_, documents) => documents.is_whole(),
        }
    }

    /// Returns the documents in their order.
    pub(crate) fn documents(&self) -> Vec<&Change> {
        match self {
            Self::Set(documents) => documents.iter().collect(),
            Self::Window(_, documents) => documents.iter().collect(),
        }
    }
}

impl Subscription {
    pub(crate) fn new(id: SubscriptionId, selection: Selection) -> Self {
        Self {
            id,
            selection,
            start: None,
            end: None,
            queue: Queue::default(),
            begins: None,
            live: None,
            granted: Granted::default(),
            consumed: Vec::new(),
            paused_until: Time::ZERO,
            unsubscribed: false,
            refused: None,
        }
    }
}
