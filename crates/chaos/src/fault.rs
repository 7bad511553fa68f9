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
    /// Nothing passes in that direction, and the sockets stay open. Bytes held back are lost: when the
    /// fault ends, its connections are reset, as by a firewall that forgot them.
    Blackhole(Direction),
    /// Nothing passes in either direction, and nothing is lost: when the fault ends, all bytes held
    /// back go on in order.
    Freeze,
    /// Connections are refused. Affects later connections only.
    Refuse,
    /// Every byte arrives this much later.
    Delay(Direction, Duration),
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
