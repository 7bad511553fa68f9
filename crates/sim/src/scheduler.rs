//! Virtual time: tasks in the order of their time.

use std::{collections::BTreeMap, time::Duration};

use steadfast_session::{Generation, Time};
use steadfast_streamer_core::hub::ReadId;

use crate::{fault::Fault, net::ConnectionId};

/// A task of the simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// Step a client whose deadline has passed.
    ClientDue(usize),
    /// Step the hub of an incarnation of the server, whose deadline has passed.
    HubDue(u64),
    /// Complete an attempt's dialling: connect or refuse.
    Dialled(usize, Generation),
    /// Deliver the items that have arrived at the server.
    ArriveAtServer(ConnectionId),
    /// Deliver the items that have arrived at the client.
    ArriveAtClient(ConnectionId),
    /// Run the next step of a publisher.
    Publish(usize),
    /// Commit the pending submissions of an incarnation of the server.
    Commit(u64),
    /// Complete a read of the log.
    ReadDone(u64, ReadId),
    /// A read of documents is complete, unless the server was restarted.
    DocumentsRead(u64, ReadId),
    /// Let an application consume items of a subscription.
    Consume(usize, usize),
    /// Let a client act by itself: subscribe, unsubscribe, reconnect or connect.
    Act(usize),
    /// Begin a fault.
    StartFault(Fault),
    /// End a fault, by its number.
    EndFault(u64),
    /// Tell the hub of an incarnation of the server that the log was trimmed.
    Trimmed(u64),
    /// Tell the hub of an incarnation of the server that the rights of a client have changed.
    RightsChanged(u64, usize),
    /// Start the server again.
    Restart,
}

/// The scheduled tasks and the current time.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    now: Time,
    scheduled: u64,
    /// By time, then by the order of scheduling, so that equal times replay.
    tasks: BTreeMap<(Time, u64), Task>,
}

impl Scheduler {
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn at(&mut self, at: Time, task: Task) {
        self.scheduled += 1;
        // A deadline in the past runs now. The number makes the key unique, so that no task is
        // lost.
        self.tasks.insert((at.max(self.now), self.scheduled), task);
    }

    pub(crate) fn after(&mut self, delay: Duration, task: Task) {
        self.at(self.now + delay, task);
    }

    /// Removes the next task until `limit` and advances the time to it.
    pub(crate) fn next(&mut self, limit: Time) -> Option<Task> {
        let (&(at, _), _) = self.tasks.first_key_value()?;
        // Stays scheduled for the next call: time is advanced in slices.
        if at > limit {
            return None;
        }
        self.now = at;
        self.tasks.pop_first().map(|(_, task)| task)
    }
}
