//! The world: runs the next task, steps the machine it concerns, and performs the machine's actions.

mod client_side;
mod injection;
mod server_side;

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
    client::Client,
    net::{Connection, ConnectionId},
    oracle,
    publisher::Publisher,
    scheduler::{Scheduler, Task},
    server::Server,
    subscription::{Consumed, Payload},
};

/// The state of one schedule.
pub(crate) struct World {
    rng: ChaCha8Rng,
    scheduler: Scheduler,
    server: Server,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
    next_subscription: u64,
    faults_started: u64,
    /// Faults in force, by number.
    active_faults: BTreeMap<u64, injection::ActiveFault>,
    /// Inputs for the hub that arose while its actions were performed.
    hub_inputs: VecDeque<hub::Input>,
    /// Faults and publishing have ended.
    settling: bool,
    outcome: Outcome,
}

/// The end of faults and publishing.
const FAULTS_END: Time = Time::from_micros(9_000_000);
/// The deadline for everything to be delivered.
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
            scheduler: Scheduler::default(),
            connections: BTreeMap::new(),
            next_connection: 0,
            next_subscription: 0,
            faults_started: 0,
            active_faults: BTreeMap::new(),
            hub_inputs: VecDeque::new(),
            settling: false,
            outcome: Outcome::default(),
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        self.begin();
        self.run_until(FAULTS_END);
        self.end_all_faults();
        let mut limit = FAULTS_END;
        while limit < END && !self.is_settled() {
            limit = limit + Duration::from_millis(250);
            self.run_until(limit);
        }
        let settled = self.is_settled();
        self.check(settled);
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
            self.scheduler.after(delay, Task::Act(client));
        }
        for publisher in 0..self.publishers.len() {
            self.scheduler
                .after(Duration::from_millis(5), Task::Publish(publisher));
        }
        let faults = self.rng.random_range(3..=8);
        for _ in 0..faults {
            let fault = Fault::INJECTED[self.rng.random_range(0..Fault::INJECTED.len())];
            let at = self.rng.random_range(300_000..8_500_000);
            self.scheduler
                .at(Time::from_micros(at), Task::StartFault(fault));
        }
    }

    fn run_until(&mut self, limit: Time) {
        while let Some(task) = self.scheduler.next(limit) {
            self.run_task(task);
        }
    }

    fn run_task(&mut self, task: Task) {
        match task {
            Task::ClientDue(client) => self.on_client_due(client),
            Task::HubDue(incarnation) => self.on_hub_due(incarnation),
            Task::Dialled(client, generation) => self.on_dialled(client, generation),
            Task::ArriveAtServer(connection) => self.on_server_arrival(connection),
            Task::ArriveAtClient(connection) => self.on_client_arrival(connection),
            Task::Publish(publisher) => self.on_publish(publisher),
            Task::Commit(incarnation) => self.on_commit(incarnation),
            Task::ReadDone(incarnation, read) => self.on_read_done(incarnation, read),
            Task::Consume(client, subscription) => self.on_consume(client, subscription),
            Task::Act(client) => self.on_act(client),
            Task::StartFault(fault) => self.start_fault(fault),
            Task::EndFault(number) => self.end_fault(number),
            Task::Restart => self.restart(),
        }
    }

    fn on_publish(&mut self, number: usize) {
        if self.settling && self.publishers[number].in_flight.is_none() {
            return;
        }
        let value = self.rng.random_range(0..20);
        let publisher = &mut self.publishers[number];
        if publisher.in_flight.is_none() {
            publisher.create_entry(value);
        }
        if self.server.is_running()
            && !self.server.draining
            && let Some(entry) = &mut publisher.in_flight
            && entry.needs_submission
        {
            entry.needs_submission = false;
            let payload = entry.payload;
            self.server.pending.push((number, payload));
            let delay = self.millis(1, 5);
            self.scheduler
                .after(delay, Task::Commit(self.server.incarnation));
        }
        let delay = self.millis(2, 60);
        self.scheduler.after(delay, Task::Publish(number));
    }

    fn events(&self) -> Vec<Payload> {
        let reader = &self.server.reader;
        let events = reader
            .read(0, usize::MAX, usize::MAX)
            .expect("the log in memory does not fail");
        let payload = |data: &[u8]| Payload::from_json(data).expect("the payload is ours");
        events.iter().map(|event| payload(&event.data)).collect()
    }

    /// Returns true if all events are acknowledged and delivered.
    fn is_settled(&self) -> bool {
        let events = self.events();
        self.publishers
            .iter()
            .all(|publisher| publisher.in_flight.is_none())
            && self.clients.iter().all(|client| {
                let caught_up = |subscription| oracle::is_caught_up(&events, client, subscription);
                client.stopped.is_none() && client.subscriptions.iter().all(caught_up)
            })
    }

    fn check(&mut self, settled: bool) {
        let events = self.events();
        let violations = &mut self.outcome.violations;
        oracle::check_log(&events, &self.publishers, violations);
        for client in &self.clients {
            if let Some(why) = &client.stopped {
                violations.push(format!("a client stopped: {why}"));
            }
            for subscription in &client.subscriptions {
                oracle::check(&events, client, subscription, violations);
                let changes = |item: &&Consumed| matches!(item, Consumed::Change(_));
                self.outcome.delivered +=
                    subscription.consumed.iter().filter(changes).count() as u64;
            }
            self.outcome.attempts += client.attempts;
        }
        if !settled && violations.is_empty() {
            violations.push("not everything was delivered by the deadline".to_owned());
        }
        self.outcome.events = events.len() as u64;
    }

    /// Closes all clients and checks that nothing is left.
    fn close(&mut self) {
        for client in 0..self.clients.len() {
            self.session(client, session::Input::Close);
        }
        // The server frees the streams only when the ends of the connections have arrived.
        let limit = self.scheduler.now() + Duration::from_secs(5);
        self.run_until(limit);
        for client in &self.clients {
            if client.endpoint.deadline().is_some() {
                self.outcome
                    .violations
                    .push("a closed client still has a deadline".to_owned());
            }
        }
        let held = self.server.hub.as_ref().map(|hub| hub.stats().gauges);
        if held.is_some_and(|held| held != hub::Gauges::default()) {
            self.outcome
                .violations
                .push(format!("the server still holds {held:?}"));
        }
    }

    /// Draws a duration between two numbers of milliseconds.
    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(least * 1_000..=most * 1_000))
    }

    fn latency(&mut self) -> Duration {
        self.millis(1, 12)
    }

    fn count_effect(&mut self, fault: Fault) {
        *self.outcome.fault_effects.entry(fault).or_default() += 1;
    }

    fn violation(&mut self, what: String) {
        self.outcome.violations.push(what);
    }

    /// Mixes a value into the digest of the run.
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
