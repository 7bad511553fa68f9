//! The world: runs the next task, steps the machine it concerns, and performs the machine's actions.

mod applications;
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
    client::{Client, Lifetime},
    net::{Connection, ConnectionId},
    oracle::{self, Events},
    publisher::Publisher,
    rights::PeerRights,
    scheduler::{Scheduler, Task},
    server::Server,
    shape::Shape,
    subscription::Consumed,
};

/// The state of one schedule.
pub(crate) struct World {
    seed: u64,
    shape: Shape,
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
    /// The events of the log, as far as they were read for the oracle.
    events: Events,
    /// The client and index of a subscription that was seen to wait for something.
    waiting: Option<(usize, usize)>,
    /// The steps taken so far, of all machines.
    steps: u64,
    outcome: Outcome,
}

/// The end of commits that the hub does not hear of. Later ones follow, by which it notices.
const HOLES_END: Time = Time::from_micros(7_000_000);
/// The end of faults and publishing.
const FAULTS_END: Time = Time::from_micros(9_000_000);
/// The bound on the steps of one schedule. The longest that is not stuck takes half of it.
const MAX_STEPS: u64 = 2_000_000;
/// The deadline for everything to be delivered.
const END: Time = Time::from_micros(90_000_000);

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shape = Shape::draw(&mut rng);
        let count = rng.random_range(2..=4);
        let clients = (0..count)
            .map(|number| {
                // At least one client resumes; a plain one tells the oracle less.
                let profile = number == 0 || rng.random_range(0..4) > 0;
                let mut client = Client::new(seed, number, profile, shape.client);
                if shape.restricted {
                    client.rights.push(PeerRights::draw(&mut rng));
                    if rng.random_range(0..3) == 0 {
                        client.credentials = Lifetime::Short;
                    }
                }
                client
            })
            .collect();
        let publishers = (0..3).map(Publisher::new).collect();
        Self {
            server: Server::new(seed, &shape),
            seed,
            shape,
            events: Events::default(),
            waiting: None,
            steps: 0,
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
        self.settle();
        self.check();
        self.close();
        // A run that is stuck repeats one fault for every subscription.
        self.outcome.violations.truncate(8);
        self.outcome
    }

    /// Runs until everything is delivered. A run that gets stuck ends at a bound, in virtual time and
    /// in steps, with a violation that says what waits.
    fn settle(&mut self) {
        let mut limit = FAULTS_END;
        // In slices, because judging all subscriptions after every task would dominate the run.
        while limit < END && !self.is_exhausted() && !self.is_settled() {
            limit = limit + Duration::from_millis(250);
            self.run_until(limit);
        }
        if !self.is_settled() {
            let what = self.describe_waiting();
            self.violation(what);
        }
    }

    /// Returns true if the machines step each other without end.
    fn is_exhausted(&self) -> bool {
        self.steps >= MAX_STEPS
    }

    fn begin(&mut self) {
        for client in 0..self.clients.len() {
            for _ in 0..self.rng.random_range(1..=self.shape.subscriptions) {
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
        let faults = self.rng.random_range(4..=9);
        for _ in 0..faults {
            let fault = Fault::INJECTED[self.rng.random_range(0..Fault::INJECTED.len())];
            // After the first connections, and early enough before `FAULTS_END` to take effect.
            let at = self.rng.random_range(300_000..8_500_000);
            self.scheduler
                .at(Time::from_micros(at), Task::StartFault(fault));
        }
    }

    fn run_until(&mut self, limit: Time) {
        while !self.is_exhausted()
            && let Some(task) = self.scheduler.next(limit)
        {
            self.steps += 1;
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
            Task::DocumentsRead(incarnation, read) => self.on_documents_read(incarnation, read),
            Task::Consume(client, subscription) => self.on_consume(client, subscription),
            Task::Act(client) => self.on_act(client),
            Task::StartFault(fault) => self.start_fault(fault),
            Task::EndFault(number) => self.end_fault(number),
            Task::Trimmed(incarnation) => self.on_trimmed(incarnation),
            Task::RightsChanged(incarnation, client) => {
                self.on_rights_changed(incarnation, client);
            }
            Task::Restart => self.restart(),
        }
    }

    fn on_publish(&mut self, number: usize) {
        // An entry in flight is submitted until it is acknowledged: only then is the run settled.
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
            // Set again when the submission or its acknowledgement is lost.
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

    /// Reads the events that the log has got since the last call.
    fn read_events(&mut self) {
        let reader = &self.server.reader;
        let events = reader
            // From the log and not from what the hub was told, which is what is under test.
            .read(self.events.len(), usize::MAX, usize::MAX)
            .expect("the log in memory does not fail");
        for event in events {
            self.events.push(&event);
        }
    }

    /// Returns true if all events are acknowledged and delivered.
    fn is_settled(&mut self) -> bool {
        self.read_events();
        let waits = |(client, at): &(usize, usize)| {
            let client = &self.clients[*client];
            oracle::missing(&self.events, client, &client.subscriptions[*at]) != Some(0)
        };
        let has_stopped = self.clients.iter().any(|client| client.stopped.is_some());
        // The one that waited the last time is judged before all others.
        if has_stopped
            || self.publishers.iter().any(|it| it.in_flight.is_some())
            || self.waiting.as_ref().is_some_and(waits)
        {
            return false;
        }
        let clients = self.clients.iter().enumerate();
        let mut all = clients.flat_map(|(number, client)| {
            (0..client.subscriptions.len()).map(move |at| (number, at))
        });
        self.waiting = all.find(waits);
        self.waiting.is_none()
    }

    fn check(&mut self) {
        self.read_events();
        let violations = &mut self.outcome.violations;
        oracle::check_log(&self.events, &self.publishers, violations);
        for client in &self.clients {
            if let Some(why) = &client.stopped {
                violations.push(format!("a client stopped: {why}"));
            }
            for subscription in &client.subscriptions {
                oracle::check(&self.events, client, subscription, violations);
                let changes = |item: &&Consumed| matches!(item, Consumed::Change(_));
                self.outcome.counts.delivered +=
                    subscription.consumed.iter().filter(changes).count() as u64;
            }
            self.outcome.counts.attempts += client.attempts;
        }
        self.outcome.counts.events = self.events.len();
        self.outcome.counts.steps = self.steps;
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
            // A closed session holds no timer.
            if client.endpoint.deadline().is_some() {
                self.outcome
                    .violations
                    .push("a closed client still has a deadline".to_owned());
            }
        }
        let held = self.server.hub.as_ref().map(|hub| hub.stats().gauges);
        // Everything a stream occupied must be released with it, or a server leaks over its
        // reconnects.
        if held.is_some_and(|held| held != hub::Gauges::default()) {
            self.outcome
                .violations
                .push(format!("the server still holds {held:?}"));
        }
    }

    /// Describes a run that got stuck: what is missing, and the state of each machine.
    fn describe_waiting(&self) -> String {
        let mut waiting = Vec::new();
        for publisher in &self.publishers {
            if let Some(entry) = &publisher.in_flight {
                waiting.push(format!(
                    "publisher {} waits for {entry:?}",
                    publisher.number
                ));
            }
        }
        for (number, client) in self.clients.iter().enumerate() {
            let activity = client.endpoint.status().activity;
            if let Some(why) = &client.stopped {
                waiting.push(format!("client {number} stopped: {why}"));
            }
            for subscription in &client.subscriptions {
                let missing = match oracle::missing(&self.events, client, subscription) {
                    Some(0) => continue,
                    Some(missing) => format!("{missing} changes"),
                    None => "its acceptance".to_owned(),
                };
                let (id, queued) = (subscription.id, subscription.queue.len());
                waiting.push(format!(
                    "subscription {id} of client {number} ({activity:?}) waits for {missing} with {queued} queued"
                ));
            }
        }
        waiting.push(match &self.server.hub {
            Some(hub) => format!("the server holds {:?}", hub.stats().gauges),
            None => "the server is down".to_owned(),
        });
        let (seed, steps, now) = (self.seed, self.steps, self.scheduler.now());
        let waiting = waiting.join("; ");
        format!("seed {seed} is stuck at {now} after {steps} steps: {waiting}")
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
        // Depends on the order, so that two runs with the same events in another order differ.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuck_run_ends_at_virtual_deadline_and_says_what_waits() {
        let mut world = World::new(5);
        world.begin();
        world.run_until(FAULTS_END);
        world.end_all_faults();
        world.server.frozen_until = Some(END + Duration::from_secs(1_000));
        world.settle();
        let text = &world.outcome.violations[0];
        assert!(text.starts_with("seed 5 is stuck at 8"), "{text}");
        for part in ["waits for", "changes with", "the server holds Gauges"] {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }

    #[test]
    fn run_without_end_stops_after_a_number_of_steps() {
        let mut world = World::new(5);
        world.steps = MAX_STEPS - 1_000;
        let outcome = world.run();
        assert!(
            outcome.counts.steps <= MAX_STEPS + 100,
            "{}",
            outcome.counts.steps
        );
        let text = &outcome.violations[0];
        assert!(
            text.contains("seed 5 is stuck") && text.contains("2000"),
            "{text}"
        );
    }
}
