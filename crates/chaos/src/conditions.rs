//! The combined effect of all faults on one connection.

use std::time::Duration;

use crate::fault::{Direction, Fault, Reach};

/// A fault in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActiveFault {
    pub(crate) id: u64,
    pub(crate) fault: Fault,
    pub(crate) reach: Reach,
    /// The number of the first connection accepted after the injection.
    pub(crate) first_later: u64,
}

/// An end of a connection that its peers did not ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Reset,
    Close,
}

/// The conditions of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) to_server: Shaping,
    pub(crate) to_client: Shaping,
    /// Never cleared once it is set.
    pub(crate) cut: Option<Cut>,
}

/// The conditions of one direction of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shaping {
    pub(crate) stopped: bool,
    pub(crate) delay: Duration,
    /// The largest piece and the pause after it.
    pub(crate) slice: Option<(usize, Duration)>,
    pub(crate) bytes_per_second: Option<u64>,
    /// The id of the fault and the bytes it lets through.
    pub(crate) limit: Option<(u64, u64)>,
}

impl ActiveFault {
    pub(crate) fn affects(&self, connection: u64) -> bool {
        match self.reach {
            Reach::Present => connection < self.first_later,
            Reach::Later => connection >= self.first_later,
            Reach::Everything => true,
        }
    }

    pub(crate) fn affects_later(&self) -> bool {
        self.reach != Reach::Present
    }
}

impl Conditions {
    /// Combines the faults that affect a connection. Of several limits the newest counts, of several
    /// delays the longest, of several rates and pieces the smallest.
    pub(crate) fn combine(connection: u64, faults: &[ActiveFault]) -> Self {
        let mut conditions = Self::default();
        for active in faults.iter().filter(|active| active.affects(connection)) {
            match active.fault {
                Fault::Reset => conditions.cut = Some(Cut::Reset),
                Fault::Close => conditions.cut = conditions.cut.or(Some(Cut::Close)),
                // These affect connections that are not accepted yet; see the listener.
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

impl Shaping {
    fn add(&mut self, own: Direction, active: &ActiveFault) {
        match active.fault {
            Fault::Blackhole(direction) => self.stopped |= direction.covers(own),
            Fault::Freeze => self.stopped = true,
            Fault::Delay(direction, delay) if direction.covers(own) => {
                self.delay = self.delay.max(delay);
            }
            Fault::Slice { bytes, pause } => {
                let (largest, longest) = self.slice.unwrap_or((usize::MAX, Duration::ZERO));
                self.slice = Some((largest.min(bytes.max(1)), longest.max(pause)));
            }
            Fault::Limit(direction, bytes) if direction.covers(own) => {
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
