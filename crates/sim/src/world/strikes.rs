//! Faults: how they strike, and how they are undone.

use std::time::Duration;

use rand::RngExt as _;
use steadfast_session::{End, Initiator, Reason};
use steadfast_streamer_core::hub::{Input, StreamId};

use super::World;
use crate::{
    Fault,
    agenda::Event,
    net::{ConnectionId, Down},
};

/// What a fault holds until it heals.
#[derive(Debug)]
pub(crate) enum Struck {
    Connection(usize, ConnectionId),
    Application(usize, usize),
    Server,
}

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        let struck = match fault {
            Fault::Reset => return self.reset(),
            Fault::Kill => {
                if self.server.hub.is_some() {
                    if self.is_in_use() {
                        self.bite(fault);
                    }
                    self.kill_server();
                    let delay = self.millis(50, 2_500);
                    self.agenda.after(delay, Event::Restart);
                }
                return;
            }
            Fault::BlackHole | Fault::BlackHoleUp | Fault::BlackHoleDown => self.black_hole(fault),
            Fault::Freeze => self.freeze(),
            Fault::Drain => self.drain(),
            Fault::SlowConsumer => Some(self.send_to_sleep()),
            Fault::Flap => {
                self.server.flapping = true;
                Some((Struck::Server, self.millis(500, 3_000)))
            }
            Fault::Late => None,
        };
        if let Some((struck, span)) = struck {
            self.heals += 1;
            self.struck.insert(self.heals, struck);
            self.agenda.after(span, Event::Heal(fault, self.heals));
        }
    }

    pub(super) fn heal(&mut self, fault: Fault, number: u64) {
        let Some(struck) = self.struck.remove(&number) else {
            return;
        };
        match struck {
            Struck::Connection(client, id) => self.heal_connection(fault, client, id),
            Struck::Application(client, at) => {
                let subscription = &self.clients[client].subscriptions[at];
                if !subscription.queue.is_empty() {
                    self.bite(fault);
                }
            }
            Struck::Server => match fault {
                Fault::Freeze => self.thaw(),
                Fault::Flap => self.server.flapping = false,
                Fault::Drain => {
                    if self.server.draining {
                        self.kill_server();
                        let delay = self.millis(20, 800);
                        self.agenda.after(delay, Event::Restart);
                    }
                }
                Fault::Reset
                | Fault::BlackHole
                | Fault::BlackHoleUp
                | Fault::BlackHoleDown
                | Fault::Kill
                | Fault::SlowConsumer
                | Fault::Late => {}
            },
        }
    }

    /// Everything heals, nothing new begins.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        for number in 1..=self.heals {
            let fault = match self.struck.get(&number) {
                Some(Struck::Connection(..)) => Fault::BlackHole,
                Some(Struck::Application(..)) => Fault::SlowConsumer,
                Some(Struck::Server) if self.server.draining => Fault::Drain,
                Some(Struck::Server) => Fault::Freeze,
                None => continue,
            };
            self.heal(fault, number);
        }
        self.server.flapping = false;
        self.thaw();
        if self.server.hub.is_none() {
            self.agenda.after(Duration::from_millis(10), Event::Restart);
        }
    }

    fn is_in_use(&self) -> bool {
        self.connections
            .values()
            .any(|it| it.server_open && it.client_open)
    }

    /// A connection that is in use, of any client.
    fn some_connection(&mut self) -> Option<(usize, ConnectionId)> {
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
        let Some((_, id)) = self.some_connection() else {
            return;
        };
        let now = self.agenda.now();
        let delay = self.latency();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.up.clear();
        connection.down.clear();
        connection.queue.clear();
        connection.server_open = false;
        let lost = Reason::Lost("reset on the way".into());
        let end = End::retry(Initiator::Network, lost);
        let at = connection.down.send(now, delay, Down::Over(end));
        self.agenda.at(at, Event::AtClient(id));
        self.bite(Fault::Reset);
        if self.server.hub.is_some() {
            self.step_hub(Input::Ended {
                stream: StreamId(id.0),
            });
        }
    }

    fn black_hole(&mut self, fault: Fault) -> Option<(Struck, Duration)> {
        let (client, id) = self.some_connection()?;
        let connection = self.connections.get_mut(&id)?;
        connection.up.held |= fault != Fault::BlackHoleDown;
        connection.down.held |= fault != Fault::BlackHoleUp;
        self.clients[client].dark |= fault == Fault::BlackHole && self.rng.random_bool(0.4);
        Some((Struck::Connection(client, id), self.millis(200, 4_000)))
    }

    fn heal_connection(&mut self, fault: Fault, client: usize, id: ConnectionId) {
        let now = self.agenda.now();
        self.clients[client].dark = false;
        let bitten = self
            .connections
            .get(&id)
            .is_none_or(|connection| !connection.client_open || connection.is_busy());
        if bitten {
            self.bite(fault);
        }
        for (id, connection) in &mut self.connections {
            if connection.client == client {
                connection.up.held = false;
                connection.down.held = false;
                self.agenda.at(now, Event::AtServer(*id));
                self.agenda.at(now, Event::AtClient(*id));
            }
        }
    }

    fn freeze(&mut self) -> Option<(Struck, Duration)> {
        if !self.server.runs() {
            return None;
        }
        let span = self.millis(200, 4_000);
        if self.is_in_use() {
            self.bite(Fault::Freeze);
        }
        self.server.frozen_until = Some(self.agenda.now() + span);
        Some((Struck::Server, span))
    }

    fn thaw(&mut self) {
        self.server.frozen_until = None;
        let now = self.agenda.now();
        for id in self.connections.keys() {
            self.agenda.at(now, Event::AtServer(*id));
        }
        self.agenda.at(now, Event::HubDue(self.server.incarnation));
    }

    fn drain(&mut self) -> Option<(Struck, Duration)> {
        if !self.server.runs() || self.server.draining {
            return None;
        }
        if self.is_in_use() {
            self.bite(Fault::Drain);
        }
        self.server.draining = true;
        let span = self.millis(100, 800);
        let deadline = self.agenda.now() + span;
        self.step_hub(Input::Drain {
            deadline,
            reason: "an upgrade".to_owned(),
        });
        Some((Struck::Server, span))
    }

    fn send_to_sleep(&mut self) -> (Struck, Duration) {
        let client = self.rng.random_range(0..self.clients.len());
        let count = self.clients[client].subscriptions.len();
        let at = self.rng.random_range(0..count);
        let span = self.millis(500, 5_000);
        let until = self.agenda.now() + span;
        self.clients[client].subscriptions[at].asleep_until = until;
        (Struck::Application(client, at), span)
    }
}
