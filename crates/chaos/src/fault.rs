//! The faults that a test can inject.

use std::time::Duration;

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// Both directions.
    Both,
}

/// A fault of the network, in force as long as its [`FaultGuard`](crate::FaultGuard) lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both sides get a TCP reset. Open connections end for good; later ones are reset as soon as
    /// they are accepted.
    Reset,
    /// Both sides get an orderly end (FIN) after the bytes that were already passed on.
    Close,
    /// Nothing passes in that direction, and the sockets stay open. Bytes held back are lost: when the
    /// fault ends, its connections are reset, as by a firewall that forgot them.
    Blackhole(Direction),
    /// Nothing passes in either direction, and nothing is lost: when the fault ends, all bytes held
    /// back go on in order.
    Freeze,
    /// Connections are refused. Affects later connections only.
    Refuse,
    /// Connections stay in the kernel's backlog: the client is connected, but never accepted. Affects
    /// later connections only.
    Unaccepted,
    /// Every byte arrives this much later.
    Delay(Direction, Duration),
    /// Bytes go out in pieces with a pause after each.
    Slice {
        /// The largest piece; 0 counts as 1.
        bytes: usize,
        /// The time between two pieces.
        pause: Duration,
    },
    /// The connection is reset after this many more bytes in that direction, counted for each
    /// direction separately.
    Limit(Direction, u64),
    /// At most this many bytes per second pass in each direction; 0 counts as 1.
    Bandwidth(u64),
}

/// The connections that a fault affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Connections accepted before the fault was injected.
    Present,
    /// Connections accepted after the fault was injected.
    Later,
    /// All connections.
    Everything,
}

impl Direction {
    pub(crate) fn covers(self, single: Direction) -> bool {
        self == Direction::Both || self == single
    }
}
