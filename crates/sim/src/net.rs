//! Connections: two directions, each in order, each of which can be held up.

use std::{collections::VecDeque, time::Duration};

use steadfast_session::{End, Generation, Time};
use steadfast_wire::streamer::{GatewayMessage, StreamerMessage};

/// Names a connection; also the stream on it, since there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// What travels to the server.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Open,
    Message(GatewayMessage),
    /// The client wants to know whether the server lives.
    Probe,
    /// The client ended its half, or reset the connection.
    Over,
}

/// What travels to the client.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Headers,
    /// A message and what it counts for in the server's queue.
    Message(StreamerMessage, usize),
    /// The answer to a probe.
    Probed,
    Over(End),
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Pipe<T> {
    items: VecDeque<(Time, T)>,
    last: Time,
    pub(crate) held: bool,
}

/// A connection between a client and an incarnation of the server.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: usize,
    pub(crate) generation: Generation,
    pub(crate) incarnation: u64,
    pub(crate) up: Pipe<Up>,
    pub(crate) down: Pipe<Down>,
    /// What the server queued and the window has no room for.
    pub(crate) queue: VecDeque<Down>,
    /// The client still uses it.
    pub(crate) client_open: bool,
    /// The server still uses it.
    pub(crate) server_open: bool,
}

/// Messages under way to a client before the rest waits in the server's queue.
pub(crate) const WINDOW: usize = 24;

impl<T> Pipe<T> {
    fn new() -> Self {
        Self {
            items: VecDeque::new(),
            last: Time::ZERO,
            held: false,
        }
    }

    /// Sends an item; it arrives after `delay`, and not before those sent earlier.
    pub(crate) fn send(&mut self, now: Time, delay: Duration, item: T) -> Time {
        let at = (now + delay).max(self.last);
        self.last = at;
        self.items.push_back((at, item));
        at
    }

    /// The next item that has arrived.
    pub(crate) fn receive(&mut self, now: Time) -> Option<T> {
        let (at, _) = self.items.front()?;
        if self.held || *at > now {
            return None;
        }
        self.items.pop_front().map(|(_, item)| item)
    }

    /// When the next item arrives, if nothing holds it up.
    pub(crate) fn next(&self) -> Option<Time> {
        self.items.front().filter(|_| !self.held).map(|(at, _)| *at)
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
            up: Pipe::new(),
            down: Pipe::new(),
            queue: VecDeque::new(),
            client_open: true,
            server_open: true,
        }
    }

    /// Whether something is under way or waiting, in either direction.
    pub(crate) fn is_busy(&self) -> bool {
        self.up.len() + self.down.len() + self.queue.len() > 0
    }
}
