//! What can be wrong with a connection, and what a set of faults makes of one.

use std::time::Duration;

/// A way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// Both ways.
    Both,
}

/// Something that is wrong for as long as its [`Guard`](crate::Guard) lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both sides get a TCP reset. A connection hit does not come back; later ones are reset as soon
    /// as they are accepted.
    Reset,
    /// Both sides get an orderly end (FIN) after what was already passed on.
    Close,
    /// Nothing passes in that direction, the sockets stay open. What was held back is lost: when the
    /// fault ends, connections it hit are reset, as by a firewall that forgot them.
    Blackhole(Direction),
    /// Nothing passes in either direction, and nothing is lost: when the fault ends, everything held
    /// back goes on in order.
    Freeze,
    /// Connections are refused. Reaches later connections only.
    Refuse,
    /// Connections stay in the kernel's backlog: the client is connected and nobody takes it.
    /// Reaches later connections only.
    Unaccepted,
    /// Every byte arrives this much later.
    Delay(Direction, Duration),
    /// Bytes go out in pieces of at most `bytes`, with a pause after each.
    Slice {
        /// Largest piece; 0 counts as 1.
        bytes: usize,
        /// Time between two pieces.
        pause: Duration,
    },
    /// After this many more bytes in that direction (counted for each direction on its own) the
    /// connection is reset.
    Limit(Direction, u64),
    /// At most this many bytes per second pass, in each direction; 0 counts as 1.
    Bandwidth(u64),
}

/// Which connections a fault reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Those accepted before it was injected.
    Present,
    /// Those accepted after it was injected.
    Later,
    /// All of them.
    Everything,
}

/// A fault as the proxy keeps it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    pub(crate) id: u64,
    pub(crate) fault: Fault,
    pub(crate) reach: Reach,
    /// Number of the first connection that was not there when the fault came.
    pub(crate) boundary: u64,
}

/// How a connection ends before its peers want it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Reset,
    Close,
}

/// What holds for one direction of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) stopped: bool,
    pub(crate) delay: Duration,
    /// Largest piece and the pause after it.
    pub(crate) slice: Option<(usize, Duration)>,
    pub(crate) bytes_per_second: Option<u64>,
    /// Id of the fault and the bytes it lets through.
    pub(crate) limit: Option<(u64, u64)>,
}

/// What holds for one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) to_server: Lane,
    pub(crate) to_client: Lane,
    /// Once set it stays.
    pub(crate) cut: Option<Cut>,
}

impl Direction {
    fn covers(self, lane: Direction) -> bool {
        self == Direction::Both || self == lane
    }
}

impl Active {
    /// Whether the fault reaches the connection with that number.
    pub(crate) fn reaches(&self, connection: u64) -> bool {
        match self.reach {
            Reach::Present => connection < self.boundary,
            Reach::Later => connection >= self.boundary,
            Reach::Everything => true,
        }
    }

    /// Whether the fault reaches connections that do not exist yet.
    pub(crate) fn reaches_later(&self) -> bool {
        self.reach != Reach::Present
    }
}

impl Conditions {
    /// What the faults make of the connection with that number. Of several limits the newest counts,
    /// of several delays the longest, of several rates and pieces the smallest.
    pub(crate) fn of(connection: u64, faults: &[Active]) -> Self {
        let mut conditions = Self::default();
        for active in faults.iter().filter(|active| active.reaches(connection)) {
            match active.fault {
                Fault::Reset => conditions.cut = Some(Cut::Reset),
                Fault::Close => conditions.cut = conditions.cut.or(Some(Cut::Close)),
                Fault::Refuse | Fault::Unaccepted => {}
                Fault::Blackhole(_)
                | Fault::Freeze
                | Fault::Delay(..)
                | Fault::Slice { .. }
                | Fault::Limit(..)
                | Fault::Bandwidth(_) => {
                    conditions.to_server.add(Direction::ToServer, active);
                    conditions.to_client.add(Direction::ToClient, active);
                }
            }
        }
        conditions
    }
}

impl Lane {
    fn add(&mut self, lane: Direction, active: &Active) {
        match active.fault {
            Fault::Blackhole(direction) => self.stopped |= direction.covers(lane),
            Fault::Freeze => self.stopped = true,
            Fault::Delay(direction, delay) if direction.covers(lane) => {
                self.delay = self.delay.max(delay);
            }
            Fault::Slice { bytes, pause } => {
                let (bytes, pause) = (bytes.max(1), pause);
                self.slice = Some(match self.slice {
                    Some((size, before)) => (size.min(bytes), before.max(pause)),
                    None => (bytes, pause),
                });
            }
            Fault::Limit(direction, bytes) if direction.covers(lane) => {
                self.limit = Some((active.id, bytes));
            }
            Fault::Bandwidth(rate) => {
                let rate = rate.max(1);
                self.bytes_per_second = Some(self.bytes_per_second.map_or(rate, |r| r.min(rate)));
            }
            Fault::Delay(..)
            | Fault::Limit(..)
            | Fault::Reset
            | Fault::Close
            | Fault::Refuse
            | Fault::Unaccepted => {}
        }
    }
}
