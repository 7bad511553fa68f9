//! The server's side of the world.

use std::sync::Arc;

use rand::RngExt as _;
use steadfast_session::{End, Initiator, Reason};
use steadfast_streamer::log::{Log as _, Outcome};
use steadfast_streamer_core::hub::{Action, Input, ReadFault, StreamId, Ticket};

use super::World;
use crate::{
    Fault,
    agenda::Event,
    net::{ConnectionId, Down, Up, WINDOW},
    server::to_end,
};

impl World {
    /// Steps the hub, and again with whatever comes of performing its actions.
    pub(super) fn step_hub(&mut self, input: Input) {
        self.for_hub.push_back(input);
        while let Some(input) = self.for_hub.pop_front() {
            let now = self.agenda.now();
            let Some(hub) = &mut self.server.hub else {
                self.for_hub.clear();
                return;
            };
            let mut actions = Vec::new();
            let deadline = hub.step(now, input, &mut actions);
            for action in actions {
                self.perform_for_server(action);
            }
            if let Some(at) = deadline
                && self.server.due.is_none_or(|due| due <= now || at < due)
            {
                self.server.due = Some(at);
                self.agenda.at(at, Event::HubDue(self.server.incarnation));
            }
        }
    }

    pub(super) fn on_hub_due(&mut self, incarnation: u64) {
        if incarnation != self.server.incarnation || self.server.hub.is_none() {
            return;
        }
        if let Some(thaw) = self.server.frozen_until {
            self.agenda.at(thaw, Event::HubDue(incarnation));
            return;
        }
        self.server.due = None;
        self.step_hub(Input::Tick);
    }

    fn perform_for_server(&mut self, action: Action) {
        match action {
            Action::Send {
                stream,
                message,
                bytes,
            } => {
                self.queue_down(ConnectionId(stream.0), Down::Message(message, bytes));
            }
            Action::End {
                stream,
                last,
                status,
                flush,
            } => {
                let id = ConnectionId(stream.0);
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.server_open = false;
                    if !flush {
                        connection.queue.clear();
                    }
                    connection
                        .queue
                        .extend(last.map(|message| Down::Message(message, 0)));
                    connection.queue.push_back(Down::Over(to_end(status)));
                    self.pump(id);
                }
            }
            Action::Read {
                ticket,
                after,
                max_events,
                max_bytes,
            } => {
                self.server
                    .reads
                    .insert(ticket, (after, max_events, max_bytes));
                let delay = self.millis(0, 3);
                self.agenda
                    .after(delay, Event::ReadDone(self.server.incarnation, ticket));
            }
        }
    }

    pub(super) fn on_read_done(&mut self, incarnation: u64, ticket: Ticket) {
        if incarnation != self.server.incarnation {
            return;
        }
        if let Some(thaw) = self.server.frozen_until {
            return self.agenda.at(thaw, Event::ReadDone(incarnation, ticket));
        }
        let Some((after, events, bytes)) = self.server.reads.remove(&ticket) else {
            return;
        };
        let result = self
            .server
            .reader
            .read(after, events, bytes)
            .map_err(ReadFault::from);
        self.step_hub(Input::ReadDone { ticket, result });
    }

    fn queue_down(&mut self, id: ConnectionId, item: Down) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.queue.push_back(item);
            self.pump(id);
        }
    }

    /// Moves what the window has room for from the server's queue onto the way.
    pub(super) fn pump(&mut self, id: ConnectionId) {
        let now = self.agenda.now();
        let (mut bytes, mut messages) = (0, 0);
        loop {
            let delay = self.latency();
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            if connection.down.len() >= WINDOW {
                break;
            }
            let Some(item) = connection.queue.pop_front() else {
                break;
            };
            if let Down::Message(_, weight) = &item {
                bytes += weight;
                messages += 1;
            }
            let at = connection.down.send(now, delay, item);
            self.agenda.at(at, Event::AtClient(id));
        }
        if messages > 0 && self.connections.get(&id).is_some_and(|it| it.server_open) {
            self.for_hub.push_back(Input::Sent {
                stream: StreamId(id.0),
                bytes,
                messages,
            });
            // Outside a step of the hub there is nobody else to take it.
            self.agenda.at(now, Event::HubDue(self.server.incarnation));
        }
    }

    /// Whatever has arrived at the server's end of a connection.
    pub(super) fn on_server_side(&mut self, id: ConnectionId) {
        let now = self.agenda.now();
        if let Some(thaw) = self.server.frozen_until {
            return self.agenda.at(thaw, Event::AtServer(id));
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let alive = connection.incarnation == self.server.incarnation && self.server.hub.is_some();
        let Some(item) = connection.up.receive(now) else {
            return;
        };
        let open = connection.server_open;
        let stream = StreamId(id.0);
        if let Some(at) = connection.up.next() {
            self.agenda.at(at, Event::AtServer(id));
        }
        if alive {
            match item {
                Up::Open => {
                    self.queue_down(id, Down::Headers);
                    self.step_hub(Input::Opened { stream });
                }
                Up::Message(message) if open => {
                    self.step_hub(Input::Message { stream, message });
                    self.flap(id);
                }
                Up::Message(_) => {}
                Up::Probe => self.queue_down(id, Down::Probed),
                Up::Over => self.step_hub(Input::Ended { stream }),
            }
        }
        self.forget_if_over(id);
    }

    /// While the server flaps, every stream ends once it has greeted.
    fn flap(&mut self, id: ConnectionId) {
        let open = self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.server_open);
        if self.server.flapping && open && self.rng.random_range(0..3) == 0 {
            self.bite(Fault::Flap);
            self.step_hub(Input::Ended {
                stream: StreamId(id.0),
            });
        }
    }

    pub(super) fn on_commit(&mut self, incarnation: u64) {
        if incarnation != self.server.incarnation || self.server.hub.is_none() {
            return;
        }
        if let Some(thaw) = self.server.frozen_until {
            return self.agenda.at(thaw, Event::Commit(incarnation));
        }
        let events = self.commit(true);
        if !events.is_empty() {
            self.step_hub(Input::Committed { events });
        }
    }

    /// Makes what is pending durable. `tell` is false when the process dies before it can answer.
    pub(super) fn commit(&mut self, tell: bool) -> Vec<Arc<steadfast_streamer_core::Event>> {
        let pending = std::mem::take(&mut self.server.pending);
        let batch = pending
            .iter()
            .map(|(number, payload)| self.publishers[*number].submission(*payload));
        let now_ms = (self.agenda.now().as_micros() / 1_000).cast_signed();
        let batch: Vec<_> = batch.collect();
        let outcomes = self
            .server
            .log
            .append(batch, now_ms)
            .expect("memory does not fail");
        let mut events = Vec::new();
        for ((number, payload), outcome) in pending.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Appended(event) => events.push(event),
                Outcome::Duplicate => {}
                Outcome::Refused(_) | Outcome::Jump { .. } => {
                    self.violation(format!("{payload:?} was not taken: {outcome:?}"));
                }
            }
            let answered = tell && self.rng.random_range(0..20) > 0;
            let publisher = &mut self.publishers[number];
            if answered {
                publisher.acknowledge(payload);
            } else {
                publisher.lose();
            }
        }
        events
    }

    /// The process is gone: the kernel resets what it held.
    pub(super) fn kill_server(&mut self) {
        if self.rng.random_bool(0.5) {
            self.commit(false);
        }
        self.server.pending.clear();
        for publisher in &mut self.publishers {
            publisher.lose();
        }
        self.for_hub.clear();
        self.server.stop();
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            let now = self.agenda.now();
            let delay = self.latency();
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.server_open = false;
            connection.queue.clear();
            let lost = Reason::Lost("reset by the peer".into());
            let end = End::retry(Initiator::Network, lost);
            let at = connection.down.send(now, delay, Down::Over(end));
            self.agenda.at(at, Event::AtClient(id));
        }
    }

    pub(super) fn restart(&mut self) {
        if self.server.hub.is_none() {
            self.server.start();
        }
    }

    pub(super) fn forget_if_over(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id)
            && !connection.client_open
            && !connection.server_open
            && !connection.is_busy()
        {
            self.connections.remove(&id);
        }
    }
}
