//! Connections: two directions, each in order, each of which can be blocked.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use steadfast_session::{End, Generation, Time};
use steadfast_wire::streamer::{
    GatewayMessage, StreamerMessage, gateway_message::Payload as Request, streamer_message::Payload,
};

use crate::{rights::PeerRights, wire_check::WireCheck};

/// The id of a connection and of the one stream on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// An item on its way to the server.
#[derive(Clone, Debug)]
pub(crate) enum ToServer {
    Open,
    Message(Box<GatewayMessage>),
    /// A probe of the client.
    Probe,
    /// The client ended its half, or reset the connection.
    Closed,
}

impl ToServer {
    pub(crate) fn is_unsubscribe(&self) -> bool {
        let Self::Message(message) = self else {
            return false;
        };
        matches!(message.payload, Some(Request::Unsubscribe(_)))
    }
}

/// An item on its way to the client.
#[derive(Clone, Debug)]
pub(crate) enum ToClient {
    Headers,
    /// A message, its weight in the server's queue, and what its peer may see then.
    Message(StreamerMessage, usize, Option<Arc<PeerRights>>),
    /// The response to a probe.
    Probed,
    Closed(End),
}

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Pipe<T> {
    items: VecDeque<(Time, T)>,
    last: Time,
    pub(crate) blocked: bool,
}

/// A connection between a client and an incarnation of the server.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: usize,
    pub(crate) generation: Generation,
    pub(crate) incarnation: u64,
    pub(crate) to_server: Pipe<ToServer>,
    pub(crate) to_client: Pipe<ToClient>,
    /// Items that the server queued beyond the window.
    pub(crate) queue: VecDeque<ToClient>,
    /// The check of the messages to a client with the profile.
    pub(crate) wire: WireCheck,
    /// What the hub knows of the client's rights; `None` if everybody may see everything.
    pub(crate) rights: Option<Arc<PeerRights>>,
    /// When the hub ends the stream unless newer credentials arrive.
    pub(crate) expires_at: Option<Time>,
    /// The client still uses it.
    pub(crate) client_open: bool,
    /// The server still uses it.
    pub(crate) server_open: bool,
}

/// The number of items in flight to a client; further ones wait in the server's queue.
pub(crate) const WINDOW: usize = 24;

impl<T> Pipe<T> {
    fn new() -> Self {
        Self {
            items: VecDeque::new(),
            last: Time::ZERO,
            blocked: false,
        }
    }

    /// Sends an item. Returns its arrival: after `delay`, and not before earlier items.
    pub(crate) fn send(&mut self, now: Time, delay: Duration, item: T) -> Time {
        // TCP does not reorder within a direction.
        let at = (now + delay).max(self.last);
        self.last = at;
        self.items.push_back((at, item));
        at
    }

    /// Returns the next item that has arrived.
    pub(crate) fn peek(&self, now: Time) -> Option<&T> {
        let (at, item) = self.items.front()?;
        // Blocked items stay: they arrive when the fault ends, as after a retransmission.
        (!self.blocked && *at <= now).then_some(item)
    }

    /// Removes the next item that has arrived.
    pub(crate) fn receive(&mut self, now: Time) -> Option<T> {
        self.peek(now)?;
        self.items.pop_front().map(|(_, item)| item)
    }

    /// Returns the arrival of the next item, unless the direction is blocked.
    pub(crate) fn next(&self) -> Option<Time> {
        self.items
            .front()
            .filter(|_| !self.blocked)
            .map(|(at, _)| *at)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
    }
}

impl Connection {
    pub(crate) fn new(client: usize, generation: Generation, incarnation: u64) -> Self {
        Self {
            client,
            generation,
            incarnation,
            to_server: Pipe::new(),
            to_client: Pipe::new(),
            queue: VecDeque::new(),
            wire: WireCheck::default(),
            rights: None,
            expires_at: None,
            client_open: true,
            server_open: true,
        }
    }

    /// Returns the number of deliveries in the server's queue.
    pub(crate) fn waiting_deliveries(&self) -> usize {
        let delivery = |item: &&ToClient| match item {
            ToClient::Message(message, ..) => {
                matches!(message.payload, Some(Payload::Delivery(_)))
            }
            ToClient::Headers | ToClient::Probed | ToClient::Closed(_) => false,
        };
        self.queue.iter().filter(delivery).count()
    }

    /// Returns true if items are in flight or queued.
    pub(crate) fn is_busy(&self) -> bool {
        self.to_server.len() + self.to_client.len() + self.queue.len() > 0
    }
}
