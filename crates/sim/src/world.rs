//! The world: takes the next event, steps the machine it is for, performs what that asks for.

mod clients;
mod servers;
mod strikes;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use steadfast_session::{Time, endpoint, session};
use steadfast_streamer_core::{client::Command, hub};

use crate::{
    Fault, Outcome,
    agenda::{Agenda, Event},
    client::Client,
    net::{Connection, ConnectionId},
    oracle,
    publisher::Publisher,
    server::Server,
    subscription::{Payload, Taken},
};

/// Everything there is in one schedule.
pub(crate) struct World {
    rng: ChaCha8Rng,
    agenda: Agenda,
    server: Server,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
    next_subscription: u64,
    heals: u64,
    /// What a healing undoes.
    struck: BTreeMap<u64, strikes::Struck>,
    /// Inputs for the hub that came out of performing its actions.
    for_hub: VecDeque<hub::Input>,
    calm: bool,
    outcome: Outcome,
}

/// When faults and publishing end.
const STORM: Time = Time::from_micros(9_000_000);
/// By when everything must be well again.
const END: Time = Time::from_micros(90_000_000);

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = rng.random_range(2..=4);
        let clients = (0..count)
            .map(|number| Client::new(seed, number, number == 0 || rng.random_range(0..4) > 0))
            .collect();
        let publishers = (0..3).map(Publisher::new).collect();
        Self {
            server: Server::new(seed),
            clients,
            publishers,
            rng,
            agenda: Agenda::default(),
            connections: BTreeMap::new(),
            next_connection: 0,
            next_subscription: 0,
            heals: 0,
            struck: BTreeMap::new(),
            for_hub: VecDeque::new(),
            calm: false,
            outcome: Outcome::default(),
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        self.begin();
        self.run_until(STORM);
        self.calm_down();
        let mut limit = STORM;
        while limit < END && !self.is_settled() {
            limit = limit + Duration::from_millis(250);
            self.run_until(limit);
        }
        let settled = self.is_settled();
        self.judge(settled);
        self.close();
        self.outcome.violations.truncate(8);
        self.outcome
    }

    fn begin(&mut self) {
        for client in 0..self.clients.len() {
            for _ in 0..self.rng.random_range(1..=3) {
                self.subscribe(client);
            }
            self.session(client, session::Input::Connect);
            let delay = self.millis(200, 2_000);
            self.agenda.after(delay, Event::Act(client));
        }
        for publisher in 0..self.publishers.len() {
            self.agenda
                .after(Duration::from_millis(5), Event::Publish(publisher));
        }
        let faults = self.rng.random_range(3..=8);
        for _ in 0..faults {
            let fault = Fault::STRIKING[self.rng.random_range(0..Fault::STRIKING.len())];
            let at = self.rng.random_range(300_000..8_500_000);
            self.agenda.at(Time::from_micros(at), Event::Strike(fault));
        }
    }

    fn run_until(&mut self, limit: Time) {
        while let Some(event) = self.agenda.next(limit) {
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ClientDue(client) => self.on_client_due(client),
            Event::HubDue(incarnation) => self.on_hub_due(incarnation),
            Event::Dialled(client, generation) => self.on_dialled(client, generation),
            Event::AtServer(connection) => self.on_server_side(connection),
            Event::AtClient(connection) => self.on_client_side(connection),
            Event::Publish(publisher) => self.on_publish(publisher),
            Event::Commit(incarnation) => self.on_commit(incarnation),
            Event::ReadDone(incarnation, ticket) => self.on_read_done(incarnation, ticket),
            Event::Take(client, subscription) => self.on_take(client, subscription),
            Event::Act(client) => self.on_act(client),
            Event::Strike(fault) => self.strike(fault),
            Event::Heal(fault, number) => self.heal(fault, number),
            Event::Restart => self.restart(),
        }
    }

    // Publishers.

    fn on_publish(&mut self, number: usize) {
        if self.calm && self.publishers[number].under_way.is_none() {
            return;
        }
        let value = self.rng.random_range(0..20);
        let publisher = &mut self.publishers[number];
        if publisher.under_way.is_none() {
            publisher.begin(value);
        }
        if self.server.runs()
            && !self.server.draining
            && let Some(entry) = &mut publisher.under_way
            && entry.idle
        {
            entry.idle = false;
            let payload = entry.payload;
            self.server.pending.push((number, payload));
            let delay = self.millis(1, 5);
            self.agenda
                .after(delay, Event::Commit(self.server.incarnation));
        }
        let delay = self.millis(2, 60);
        self.agenda.after(delay, Event::Publish(number));
    }

    // The end.

    fn events(&self) -> Vec<Payload> {
        let reader = &self.server.reader;
        let events = reader
            .read(0, usize::MAX, usize::MAX)
            .expect("the log is in memory and whole");
        let payload = |data: &[u8]| Payload::from_json(data).expect("we wrote it ourselves");
        events.iter().map(|event| payload(&event.data)).collect()
    }

    fn is_settled(&self) -> bool {
        let events = self.events();
        self.publishers
            .iter()
            .all(|publisher| publisher.under_way.is_none())
            && self.clients.iter().all(|client| {
                let caught_up = |subscription| oracle::is_caught_up(&events, client, subscription);
                client.stopped.is_none() && client.subscriptions.iter().all(caught_up)
            })
    }

    fn judge(&mut self, settled: bool) {
        let events = self.events();
        let found = &mut self.outcome.violations;
        oracle::judge_log(&events, &self.publishers, found);
        for client in &self.clients {
            if let Some(why) = &client.stopped {
                found.push(format!("a client stopped: {why}"));
            }
            for subscription in &client.subscriptions {
                oracle::judge(&events, client, subscription, found);
                let changes = |taken: &&Taken| matches!(taken, Taken::Change(_));
                self.outcome.delivered += subscription.taken.iter().filter(changes).count() as u64;
            }
            self.outcome.attempts += client.attempts;
        }
        if !settled && found.is_empty() {
            found.push("it did not settle".to_owned());
        }
        self.outcome.events = events.len() as u64;
    }

    /// Everybody leaves; nothing may be left.
    fn close(&mut self) {
        for client in 0..self.clients.len() {
            self.session(client, session::Input::Close);
        }
        let limit = self.agenda.now() + Duration::from_secs(5);
        self.run_until(limit);
        for client in &self.clients {
            if client.endpoint.deadline().is_some() {
                self.outcome
                    .violations
                    .push("a closed client still waits".to_owned());
            }
        }
        let held = self.server.hub.as_ref().map(|hub| hub.stats().held);
        if held.is_some_and(|held| held != hub::Held::default()) {
            self.outcome
                .violations
                .push(format!("the server still holds {held:?}"));
        }
    }

    // Small things.

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(least * 1_000..=most * 1_000))
    }

    fn latency(&mut self) -> Duration {
        self.millis(1, 12)
    }

    fn bite(&mut self, fault: Fault) {
        *self.outcome.bites.entry(fault).or_default() += 1;
    }

    fn violation(&mut self, what: String) {
        self.outcome.violations.push(what);
    }

    /// Mixes something into the digest of the run.
    fn trace(&mut self, what: u64) {
        let mixed = self.outcome.trace.rotate_left(7) ^ what;
        self.outcome.trace = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn session(&mut self, client: usize, input: session::Input) {
        self.step_client(client, endpoint::Input::Session(input));
    }

    fn command(&mut self, client: usize, command: Command) {
        self.step_client(client, endpoint::Input::Command(command));
    }
}
