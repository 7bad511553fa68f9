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
}

impl ActiveFault {
    pub(crate) fn affects(&self, connection: u64) -> bool {
        match self.reach {
            Reach::Present => connection < self.first_later,
            Reach::Later => connection >= self.first_later,
            Reach::Everything => true,
        }
    }
}

impl Conditions {
    /// Combines the faults that affect a connection. Of several delays the longest counts.
    pub(crate) fn combine(connection: u64, faults: &[ActiveFault]) -> Self {
        let mut conditions = Self::default();
        for active in faults.iter().filter(|active| active.affects(connection)) {
            match active.fault {
                Fault::Reset => conditions.cut = Some(Cut::Reset),
                // Affects connections that are not accepted yet; see the listener.
                Fault::Refuse => {}
                Fault::Blackhole(_) | Fault::Freeze | Fault::Delay(..) => {
                    conditions.to_server.add(Direction::ToServer, active.fault);
                    conditions.to_client.add(Direction::ToClient, active.fault);
                }
            }
        }
        conditions
    }
}

impl Shaping {
    fn add(&mut self, own: Direction, fault: Fault) {
        match fault {
            Fault::Blackhole(direction) => self.stopped |= direction.covers(own),
            Fault::Freeze => self.stopped = true,
            Fault::Delay(direction, delay) if direction.covers(own) => {
                self.delay = self.delay.max(delay);
            }
            Fault::Delay(..) | Fault::Reset | Fault::Refuse => {}
        }
    }
}
