//! Commands from the handles to the core, and events from the core to the handles.

use std::{fmt, time::Duration};

use steadfast_session::{Authorization, End};

use super::{Counters, Item};
use crate::{Place, Position, Window, filter::Filter};

/// The name of a subscription between handle and core. Unique within a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// The position at which a subscription begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// The first change after the server accepted the subscription.
    #[default]
    Now,
    /// The first change after a position, for example one that an earlier process stored.
    After(Position),
    /// The oldest change that the server's log still has. Only a server with the resume profile has it;
    /// others refuse the subscription.
    Oldest,
    /// The first change that happened at this time or later, Unix milliseconds, by the server's clock. The
    /// server looks it up once: afterwards the subscription continues by position. Refused as `Oldest` is.
    AtTime(i64),
}

/// What a subscription wants beside changes. Only a server with the resume profile has it; others refuse
/// the subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// The existing documents first, and again wherever changes are missing.
    pub snapshot: bool,
    /// The changes by which a document may have left the filter.
    pub left: bool,
    /// Only the first documents in an order. Needs the other two.
    pub window: Option<Window>,
}

/// A command of a handle.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Adds a subscription to the wanted set. [`Event::Subscribed`], [`Event::Refused`] or
    /// [`Event::Stopped`] follows, however many streams that takes.
    Subscribe {
        /// The id of the subscription; must be new.
        id: SubscriptionId,
        /// The exact name of the database.
        database: String,
        /// The exact name of the collection.
        collection: String,
        /// The conditions that a document must meet.
        filter: Filter,
        /// The position at which the subscription begins.
        start: Start,
        /// What is wanted beside changes.
        options: SubscribeOptions,
    },
    /// Removes a subscription from the wanted set, at once and for good, connected or not. No event
    /// for it follows.
    Unsubscribe {
        /// The subscription.
        id: SubscriptionId,
    },
    /// The application took changes from the queue of a subscription, which frees capacity.
    Taken {
        /// The subscription.
        id: SubscriptionId,
        /// The number of the newest change taken, as [`super::queue::Queue`] counts them.
        through: u64,
    },
    /// The application keeps the documents of a window only up to a place. Ignored after a newer snapshot
    /// began.
    Narrow {
        /// The subscription.
        id: SubscriptionId,
        /// The number of the snapshot, as [`super::Snapshot::Bound`] tells it.
        snapshot: u64,
        /// The last place kept.
        bound: Place,
    },
    /// Too few documents of a window are left: a snapshot is to begin. Ignored after a newer one began.
    Refill {
        /// The subscription.
        id: SubscriptionId,
        /// The number of the snapshot, as [`super::Snapshot::Bound`] tells it.
        snapshot: u64,
    },
    /// Newer credentials for the stream, after [`Event::CredentialsDue`].
    Authenticate(Authorization),
    /// Requests [`Event::Counters`].
    Report,
}

/// An event of the core, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The peer of a stream is known.
    Greeted {
        /// The server's name for itself; empty with a plain peer.
        server_id: String,
        /// The newest position of its log; `None` with a plain peer.
        head: Option<Position>,
    },
    /// The credentials of the stream expire soon. [`Command::Authenticate`] brings newer ones; the stream
    /// ends without. Emitted again until the server has accepted newer ones.
    CredentialsDue,
    /// The server acknowledged a subscription; emitted once per stream.
    Subscribed {
        /// The subscription.
        id: SubscriptionId,
        /// The position that deliveries follow; `None` with a plain peer.
        position: Option<Position>,
        /// The subscription was taken over from an older stream.
        taken_over: bool,
    },
    /// The server refused a subscription, which has left the wanted set.
    Refused {
        /// The subscription.
        id: SubscriptionId,
        /// The reason.
        refusal: Refusal,
    },
    /// An item for the queue of a subscription.
    Item {
        /// The subscription.
        id: SubscriptionId,
        /// The item.
        item: Item,
    },
    /// Nothing more belongs to the subscription up to a position. The marker is queued like an
    /// item, behind the items before it.
    Marker {
        /// The subscription.
        id: SubscriptionId,
        /// The position.
        position: Position,
    },
    /// The newest queued changes of a subscription are to be dropped, because too many changes are
    /// queued in all. A [`super::GapReason::Overflow`] reports them later.
    Discard {
        /// The subscription.
        id: SubscriptionId,
        /// The number of the first change to drop, as [`super::queue::Queue`] counts them.
        from: u64,
    },
    /// A heartbeat was acknowledged after this time.
    Rtt(Duration),
    /// The session stopped. The wanted set is empty.
    Stopped(End),
    /// The requested counters.
    Counters(Box<Counters>),
}

/// The refusal of a subscription by a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Refusal {
    /// The same request would be refused again.
    pub permanent: bool,
    /// The text of the server.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = if self.permanent {
            "change the request"
        } else {
            "try again later"
        };
        write!(
            f,
            "the server refused the subscription ({advice}): {}",
            self.message
        )
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
