//! What is to happen, in the order of its time.

use std::{collections::BTreeMap, time::Duration};

use steadfast_session::{Generation, Time};
use steadfast_streamer_core::hub::Ticket;

use crate::{faults::Fault, net::ConnectionId};

/// Something that is to happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A deadline of a client's machine.
    ClientDue(usize),
    /// A deadline of the hub of an incarnation of the server.
    HubDue(u64),
    /// The connection of an attempt is made, or refused.
    Dialled(usize, Generation),
    /// Something may have arrived at the server.
    AtServer(ConnectionId),
    /// Something may have arrived at the client.
    AtClient(ConnectionId),
    /// A publisher does its next step.
    Publish(usize),
    /// The log of an incarnation of the server commits what it has.
    Commit(u64),
    /// A read of the log is done.
    ReadDone(u64, Ticket),
    /// An application looks at the queue of a subscription.
    Take(usize, usize),
    /// A client does something by itself: subscribes, unsubscribes, asks to reconnect.
    Act(usize),
    /// A fault begins.
    Strike(Fault),
    /// A fault ends.
    Heal(Fault, u64),
    /// The server starts again.
    Restart,
}

/// The agenda. Equal times keep the order in which they were entered.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    now: Time,
    entered: u64,
    entries: BTreeMap<(Time, u64), Event>,
}

impl Agenda {
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.entered += 1;
        self.entries.insert((at.max(self.now), self.entered), event);
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// The next event before `limit`; time moves to it.
    pub(crate) fn next(&mut self, limit: Time) -> Option<Event> {
        let (&(at, _), _) = self.entries.first_key_value()?;
        if at > limit {
            return None;
        }
        self.now = at;
        self.entries.pop_first().map(|(_, event)| event)
    }
}
