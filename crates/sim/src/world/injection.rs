//! Injection of faults, and their end.

use std::{sync::Arc, time::Duration};

use rand::RngExt as _;
use steadfast_session::{End, Initiator, Reason};
use steadfast_streamer::log::Log as _;
use steadfast_streamer_core::hub::{Input, StreamId};

use super::World;
use crate::{
    Fault,
    net::{Connection, ConnectionId, ToClient},
    rights::PeerRights,
    scheduler::Task,
};

/// A fault in force, with its target.
#[derive(Debug)]
pub(crate) enum ActiveFault {
    BlackHole(Fault, usize, ConnectionId),
    SlowConsumer(usize, usize),
    Freeze,
    Drain,
    Flap,
    Revocation(usize),
}

impl World {
    /// Injects a fault and schedules its end. Without effect if it has no target now.
    pub(super) fn start_fault(&mut self, fault: Fault) {
        let started = match fault {
            // Over at once, so that no end has to be scheduled.
            Fault::Reset => return self.reset(),
            Fault::Trim => return self.trim(),
            Fault::Kill => {
                if self.server.hub.is_some() {
                    if self.has_open_connection() {
                        self.count_effect(fault);
                    }
                    self.kill_server();
                    let delay = self.millis(50, 2_500);
                    self.scheduler.after(delay, Task::Restart);
                }
                return;
            }
            Fault::BlackHole | Fault::BlackHoleUp | Fault::BlackHoleDown => self.black_hole(fault),
            Fault::Freeze => self.freeze(),
            Fault::Drain => self.drain(),
            Fault::SlowConsumer => Some(self.pause_application()),
            Fault::Flap => {
                self.server.flapping = true;
                Some((ActiveFault::Flap, self.millis(500, 3_000)))
            }
            Fault::Rights => {
                let number = self.rng.random_range(0..self.clients.len());
                return self.change_rights(number);
            }
            Fault::Revocation => self.revoke(),
            // They are not injected.
            Fault::Late | Fault::Expiry => None,
        };
        if let Some((active, span)) = started {
            self.faults_started += 1;
            self.active_faults.insert(self.faults_started, active);
            self.scheduler
                .after(span, Task::EndFault(self.faults_started));
        }
    }

    pub(super) fn end_fault(&mut self, number: u64) {
        match self.active_faults.remove(&number) {
            Some(ActiveFault::BlackHole(fault, client, id)) => {
                self.end_black_hole(fault, client, id);
            }
            Some(ActiveFault::SlowConsumer(client, at)) => {
                let subscription = &self.clients[client].subscriptions[at];
                if !subscription.queue.is_empty() {
                    self.count_effect(Fault::SlowConsumer);
                }
            }
            Some(ActiveFault::Freeze) => self.thaw(),
            Some(ActiveFault::Flap) => self.server.flapping = false,
            // A kill may have ended the drain, and the server that runs now is another process.
            Some(ActiveFault::Drain) if self.server.draining => {
                self.kill_server();
                let delay = self.millis(20, 800);
                self.scheduler.after(delay, Task::Restart);
            }
            Some(ActiveFault::Drain | ActiveFault::Revocation(_)) | None => {}
        }
    }

    /// Ends all faults and prevents new ones.
    pub(super) fn end_all_faults(&mut self) {
        self.settling = true;
        // In the order of their start. Those that have ended are no longer there.
        for number in 1..=self.faults_started {
            self.end_fault(number);
        }
        for number in 0..self.clients.len() {
            let client = &self.clients[number];
            if let Some(rights) = client.rights.last() {
                let lasting = rights.lasting(&mut self.rng);
                self.set_rights(number, lasting);
            }
        }
        if self.server.hub.is_none() {
            self.scheduler
                .after(Duration::from_millis(10), Task::Restart);
        }
    }

    /// Changes the rights of a client.
    pub(super) fn change_rights(&mut self, number: usize) {
        if self.shape.restricted {
            let rights = PeerRights::draw(&mut self.rng);
            self.set_rights(number, rights);
        }
    }

    /// Sets the rights of new streams of a client. The hub hears of them a little later.
    fn set_rights(&mut self, number: usize, rights: Arc<PeerRights>) {
        let delay = self.millis(0, 500);
        self.clients[number].rights.push(rights);
        let changed = Task::RightsChanged(self.server.incarnation, number);
        self.scheduler.after(delay, changed);
    }

    pub(super) fn on_rights_changed(&mut self, incarnation: u64, number: usize) {
        if incarnation != self.server.incarnation || self.server.hub.is_none() {
            return;
        }
        if let Some(thaw) = self.server.frozen_until {
            let task = Task::RightsChanged(incarnation, number);
            return self.scheduler.at(thaw, task);
        }
        for id in self.served_connections(number) {
            let before = self.connections[&id].rights.clone();
            if before.as_ref() != self.clients[number].rights.last() {
                self.count_effect(Fault::Rights);
            }
            self.authorize(id, false);
        }
    }

    /// Returns the open connections of a client to the server that runs.
    fn served_connections(&self, number: usize) -> Vec<ConnectionId> {
        let is_served = |connection: &Connection| {
            connection.client == number
                && connection.server_open
                && connection.incarnation == self.server.incarnation
                && connection.rights.is_some()
        };
        let served = self.connections.iter().filter(|(_, it)| is_served(it));
        served.map(|(id, _)| *id).collect()
    }

    /// Returns true if the credentials of a client are refused.
    pub(super) fn is_revoked(&self, number: usize) -> bool {
        let revokes =
            |fault: &ActiveFault| matches!(fault, ActiveFault::Revocation(it) if *it == number);
        self.active_faults.values().any(revokes)
    }

    /// Ends the streams of a client, which gets no new ones for a while.
    fn revoke(&mut self) -> Option<(ActiveFault, Duration)> {
        if !self.shape.restricted || !self.server.is_running() {
            return None;
        }
        let number = self.rng.random_range(0..self.clients.len());
        for id in self.served_connections(number) {
            self.count_effect(Fault::Revocation);
            self.step_hub(Input::Revoked {
                stream: StreamId(id.0),
                reason: "the credentials are revoked".to_owned(),
            });
        }
        Some((ActiveFault::Revocation(number), self.millis(100, 2_000)))
    }

    fn has_open_connection(&self) -> bool {
        self.connections
            .values()
            .any(|connection| connection.server_open && connection.client_open)
    }

    /// Returns a random open connection and its client.
    fn random_connection(&mut self) -> Option<(usize, ConnectionId)> {
        let open: Vec<(usize, ConnectionId)> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.client_open && connection.server_open)
            .map(|(id, connection)| (connection.client, *id))
            .collect();
        if open.is_empty() {
            return None;
        }
        let at = self.rng.random_range(0..open.len());
        Some(open[at])
    }

    fn reset(&mut self) {
        let Some((_, id)) = self.random_connection() else {
            return;
        };
        let now = self.scheduler.now();
        let delay = self.latency();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.to_server.clear();
        connection.to_client.clear();
        connection.queue.clear();
        // The server learns of a reset at once, below; the client when its end arrives.
        connection.server_open = false;
        let lost = Reason::Lost("reset on the way".into());
        let end = End::retry(Initiator::Network, lost);
        let at = connection.to_client.send(now, delay, ToClient::Closed(end));
        self.scheduler.at(at, Task::ArriveAtClient(id));
        self.count_effect(Fault::Reset);
        if self.server.hub.is_some() {
            self.step_hub(Input::Ended {
                stream: StreamId(id.0),
            });
        }
    }

    /// Removes all but the newest events from the log. The hub hears of it a little later.
    fn trim(&mut self) {
        if self.server.hub.is_none() {
            return;
        }
        // While they can be read.
        self.read_events();
        let kept = self.rng.random_range(0..12);
        let upto = self.events.len().saturating_sub(kept);
        self.server
            .log
            .trim(upto)
            .expect("the log in memory does not fail");
        let delay = self.millis(0, 40);
        self.scheduler
            .after(delay, Task::Trimmed(self.server.incarnation));
    }

    pub(super) fn on_trimmed(&mut self, incarnation: u64) {
        if incarnation != self.server.incarnation || self.server.hub.is_none() {
            return;
        }
        if let Some(thaw) = self.server.frozen_until {
            return self.scheduler.at(thaw, Task::Trimmed(incarnation));
        }
        let first = self.server.reader.bounds().first;
        self.server.known_first = first;
        self.step_hub(Input::Trimmed { first });
    }

    fn black_hole(&mut self, fault: Fault) -> Option<(ActiveFault, Duration)> {
        let (client, id) = self.random_connection()?;
        let connection = self.connections.get_mut(&id)?;
        // `|=`: another fault may block the other direction at the same time.
        connection.to_server.blocked |= fault != Fault::BlackHoleDown;
        connection.to_client.blocked |= fault != Fault::BlackHoleUp;
        // Now and then new connections are swallowed as well, so that the open timeout is exercised.
        self.clients[client].unreachable |= fault == Fault::BlackHole && self.rng.random_bool(0.4);
        Some((
            ActiveFault::BlackHole(fault, client, id),
            self.millis(200, 4_000),
        ))
    }

    /// Unblocks all connections of the client: a newer one may have been blocked as well.
    fn end_black_hole(&mut self, fault: Fault, client: usize, id: ConnectionId) {
        let now = self.scheduler.now();
        self.clients[client].unreachable = false;
        // Without items in flight and with the stream still open, nobody noticed the fault.
        let effective = self
            .connections
            .get(&id)
            .is_none_or(|connection| !connection.client_open || connection.is_busy());
        if effective {
            self.count_effect(fault);
        }
        for (id, connection) in &mut self.connections {
            if connection.client == client {
                connection.to_server.blocked = false;
                connection.to_client.blocked = false;
                // An arrival that was due meanwhile found the direction blocked, and was not
                // scheduled again.
                self.scheduler.at(now, Task::ArriveAtServer(*id));
                self.scheduler.at(now, Task::ArriveAtClient(*id));
            }
        }
    }

    fn freeze(&mut self) -> Option<(ActiveFault, Duration)> {
        if !self.server.is_running() {
            return None;
        }
        let span = self.millis(200, 4_000);
        if self.has_open_connection() {
            self.count_effect(Fault::Freeze);
        }
        self.server.frozen_until = Some(self.scheduler.now() + span);
        Some((ActiveFault::Freeze, span))
    }

    fn thaw(&mut self) {
        self.server.frozen_until = None;
        let now = self.scheduler.now();
        self.server.thawed_at = now;
        for id in self.connections.keys() {
            self.scheduler.at(now, Task::ArriveAtServer(*id));
        }
        self.scheduler
            .at(now, Task::HubDue(self.server.incarnation));
    }

    fn drain(&mut self) -> Option<(ActiveFault, Duration)> {
        if !self.server.is_running() || self.server.draining {
            return None;
        }
        if self.has_open_connection() {
            self.count_effect(Fault::Drain);
        }
        self.server.draining = true;
        let span = self.millis(100, 800);
        let deadline = self.scheduler.now() + span;
        self.step_hub(Input::Drain {
            deadline,
            reason: "upgrade".to_owned(),
        });
        Some((ActiveFault::Drain, span))
    }

    fn pause_application(&mut self) -> (ActiveFault, Duration) {
        let client = self.rng.random_range(0..self.clients.len());
        let count = self.clients[client].subscriptions.len();
        let at = self.rng.random_range(0..count);
        let span = self.millis(500, 5_000);
        let until = self.scheduler.now() + span;
        self.clients[client].subscriptions[at].paused_until = until;
        (ActiveFault::SlowConsumer(client, at), span)
    }
}
