//! What handles ask of the core, and what it tells them.

use std::{fmt, time::Duration};

use steadfast_session::End;

use super::{Counters, Item};
use crate::{Position, filter::Filter};

/// Names a subscription between handle and core. Never used twice in one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the first change after the server took the subscription.
    #[default]
    Now,
    /// With the first change after this place, for example one stored by an earlier process.
    After(Position),
}

/// What a handle asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Adds a subscription to the wanted set. Answered by [`Notice::Subscribed`],
    /// [`Notice::Refused`] or [`Notice::Stopped`], however many streams that takes.
    Subscribe {
        /// Its name; must be new.
        id: SubscriptionId,
        /// Exact name of the database.
        database: String,
        /// Exact name of the collection.
        collection: String,
        /// What is asked of a document.
        filter: Filter,
        /// Where to begin.
        start: Start,
    },
    /// Takes a subscription out of the wanted set, at once and for good, connected or not. No
    /// notice for it follows.
    Unsubscribe {
        /// Which.
        id: SubscriptionId,
    },
    /// The application took changes from the queue of a subscription, which makes room for more.
    Taken {
        /// Of which subscription.
        id: SubscriptionId,
        /// How many changes; gaps and resyncs do not count.
        changes: u64,
        /// The sum of their weights.
        bytes: u64,
    },
    /// Asks for [`Notice::Counters`].
    Report,
}

/// What the core tells the handles, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A stream's peer is known.
    Greeted {
        /// The server's name for itself; empty with a plain peer.
        server_id: String,
        /// The newest place of its log; `None` with a plain peer.
        head: Option<Position>,
    },
    /// The server acknowledged a subscription; told once per stream.
    Subscribed {
        /// Which.
        id: SubscriptionId,
        /// Deliveries follow this place; `None` with a plain peer.
        position: Option<Position>,
        /// An older stream held the subscription until now.
        taken_over: bool,
    },
    /// The server refused a subscription, which has left the wanted set.
    Refused {
        /// Which.
        id: SubscriptionId,
        /// Why.
        refusal: Refusal,
    },
    /// An item for the queue of a subscription.
    Item {
        /// Of which subscription.
        id: SubscriptionId,
        /// The item.
        item: Item,
    },
    /// Everything up to this place was looked at; it takes its place in the queue like an item.
    Marker {
        /// For which subscription.
        id: SubscriptionId,
        /// The place.
        position: Position,
    },
    /// A heartbeat came back.
    Rtt(Duration),
    /// The session stopped, and every subscription with it: nothing is wanted any more.
    Stopped(End),
    /// The counters, as asked for.
    Counters(Box<Counters>),
}

/// Why a server refused a subscription.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Refusal {
    /// The same request will be refused again.
    pub permanent: bool,
    /// The server's text.
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
