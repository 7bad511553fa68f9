//! The clients' side: dialling, sending and receiving.

use rand::RngExt as _;
use steadfast_session::{
    Authorization, Cause, End, Generation, Initiator, Reason, endpoint, session,
};
use steadfast_streamer_core::client::{
    self, Command, Item, ServerMessage, Snapshot, SubscriptionId,
};

use super::World;
use crate::{
    Fault,
    net::{Connection, ConnectionId, ToClient, ToServer},
    oracle,
    rights::MaySee,
    scheduler::Task,
    subscription::Subscription,
};

type Action = endpoint::Action<client::ClientMessage, client::Event>;
type Input = endpoint::Input<ServerMessage, Command>;

impl World {
    pub(super) fn step_client(&mut self, number: usize, input: Input) {
        let mut actions = Vec::new();
        let now = self.scheduler.now();
        let client = &mut self.clients[number];
        client.endpoint.step(now, input, &mut actions);
        for action in actions {
            self.perform_client_action(number, action);
        }
        self.arm_client(number);
    }

    fn arm_client(&mut self, number: usize) {
        let now = self.scheduler.now();
        let client = &mut self.clients[number];
        let Some(deadline) = client.endpoint.deadline() else {
            return;
        };
        if client
            .scheduled_deadline
            // A later deadline needs no task: the scheduled one finds that nothing is due and arms
            // again.
            .is_none_or(|at| at <= now || deadline.at < at)
        {
            client.scheduled_deadline = Some(deadline.at);
            self.scheduler.at(deadline.at, Task::ClientDue(number));
        }
    }

    pub(super) fn on_client_due(&mut self, number: usize) {
        let now = self.scheduler.now();
        let client = &mut self.clients[number];
        // A task that a sooner one has replaced runs too, and must not clear the entry of a later
        // one.
        if client.scheduled_deadline.is_some_and(|at| at <= now) {
            client.scheduled_deadline = None;
        }
        if client
            .endpoint
            .deadline()
            .is_some_and(|deadline| deadline.at <= now)
        {
            self.session(number, session::Input::Tick);
        } else {
            self.arm_client(number);
        }
    }

    fn perform_client_action(&mut self, number: usize, action: Action) {
        let now = self.scheduler.now();
        match action {
            Action::Open { generation, .. } => self.dial(number, generation),
            Action::Send(generation, message) => {
                self.send_to_server(
                    number,
                    generation,
                    ToServer::Message(Box::new(message.into_message())),
                );
            }
            Action::Probe(generation) => self.send_to_server(number, generation, ToServer::Probe),
            Action::Finish(generation) => self.send_to_server(number, generation, ToServer::Closed),
            Action::Kill(generation) => self.cut(number, generation),
            Action::Event(event) => self.on_event(number, event),
            Action::Up(generation) => {
                self.trace(generation.0);
                self.clients[number].pace.on_live(now);
            }
            Action::Down(_, end) => {
                let client = &mut self.clients[number];
                client.pace.on_down(now, &end, &client.config);
            }
            Action::Stopped(end) => {
                // No fault of a schedule may make a client give up. Leaving is requested at the end
                // of a run.
                // But events that left the log, of which a plain peer can only be told by an end.
                let lost = matches!(end.reason, Reason::Status { code: 15, .. });
                let is_told = lost && self.may_have_lost(number);
                let client = &mut self.clients[number];
                if is_told {
                    self.outcome.counts.plain_losses += 1;
                    client
                        .subscriptions
                        .iter_mut()
                        .for_each(|it| it.unsubscribed = true);
                    client.has_ended = true;
                } else if end.reason != Reason::Left {
                    client.stopped = Some(end.to_string());
                }
            }
            Action::Changed(transition) => {
                self.trace(transition.at.as_micros());
                // Both ends are ours, so that no message is ever malformed or beyond its credit.
                if let Cause::Ended(end) = &transition.cause
                    && matches!(end.reason, Reason::Protocol(_))
                {
                    self.violation(format!("client {number}: {end}"));
                }
            }
        }
    }

    /// Returns whether events that a plain client has not received may have left the log.
    fn may_have_lost(&mut self, number: usize) -> bool {
        self.read_events();
        let first = self.server.reader.bounds().first;
        let client = &self.clients[number];
        let is_behind = |it: &Subscription| {
            let last = oracle::last_offset(&self.events, it);
            last.is_some_and(|last| last < first)
        };
        // The server knows nothing of an unsubscription that is still on its way.
        let is_wanted = |it: &&Subscription| !it.unsubscribed || client.unsubscribes_in_flight > 0;
        let mut wanted = client.subscriptions.iter().filter(is_wanted);
        !client.profile && wanted.any(is_behind)
    }

    fn dial(&mut self, number: usize, generation: Generation) {
        let now = self.scheduler.now();
        let client = &mut self.clients[number];
        client.attempts += 1;
        client.generation = generation;
        client.unsubscribes_in_flight = 0;
        let violation = client.pace.on_attempt(now, &client.config);
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        client.connection = Some(id);
        let mut connection = Connection::new(number, generation, self.server.incarnation);
        connection.to_server.blocked = client.unreachable;
        connection.to_client.blocked = client.unreachable;
        self.connections.insert(id, connection);
        if let Some(violation) = violation {
            self.violation(format!("client {number}: {violation}"));
        }
        let delay = self.latency();
        self.scheduler
            .after(delay, Task::Dialled(number, generation));
        self.send_to_server(number, generation, ToServer::Open);
    }

    /// Completes dialling. The kernel accepts a connection even while the server process is frozen.
    pub(super) fn on_dialled(&mut self, number: usize, generation: Generation) {
        let client = &self.clients[number];
        // A draining server has closed its listener.
        let refused = self.server.hub.is_none() || self.server.draining;
        // An unreachable server refuses nothing: the dial is silent, and the open timeout must end
        // it.
        if client.generation == generation && !client.unreachable && refused {
            let why = Reason::Unreachable("refused".into());
            let end = End::retry(Initiator::Network, why);
            self.session(number, session::Input::Ended(generation, end));
        }
    }

    fn send_to_server(&mut self, number: usize, generation: Generation, item: ToServer) {
        let now = self.scheduler.now();
        let delay = self.latency();
        let Some(id) = self.clients[number].connection else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&id)
            // A message of an ended attempt must not reach the stream of its successor.
            && connection.generation == generation
        {
            self.clients[number].unsubscribes_in_flight += usize::from(item.is_unsubscribe());
            let at = connection.to_server.send(now, delay, item);
            self.scheduler.at(at, Task::ArriveAtServer(id));
        }
    }

    /// Cuts the client's connection. Items in flight to the client still arrive and must change nothing.
    fn cut(&mut self, number: usize, generation: Generation) {
        self.send_to_server(number, generation, ToServer::Closed);
        let Some(id) = self.clients[number].connection.take() else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            // The entry stays until both directions are empty: what is in flight must be seen to
            // change nothing.
            connection.client_open = false;
        }
    }

    /// Delivers the next item that has arrived at the client.
    pub(super) fn on_client_arrival(&mut self, id: ConnectionId) {
        let now = self.scheduler.now();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (number, generation) = (connection.client, connection.generation);
        let Some(item) = connection.to_client.receive(now) else {
            return;
        };
        let current = connection.client_open;
        if let Some(at) = connection.to_client.next() {
            self.scheduler.at(at, Task::ArriveAtClient(id));
        }
        let input = match item {
            ToClient::Headers => session_input(session::Input::Headers(generation)),
            ToClient::Message(message, _, rights) => {
                self.clients[number].sees = rights;
                endpoint::Input::Message(generation, message.into())
            }
            ToClient::Probed => session_input(session::Input::Probed(generation, true)),
            ToClient::Closed(end) => session_input(session::Input::Ended(generation, end)),
        };
        // One item left the window. The server's transport goes on by itself, without the hub.
        self.send_queued(id);
        if current {
            self.step_client(number, input);
        } else {
            self.step_stale(number, generation, input);
        }
        self.remove_if_closed(id);
    }

    /// Steps a client with input of an ended stream and checks that it has no effect.
    fn step_stale(&mut self, number: usize, generation: Generation, input: Input) {
        let now = self.scheduler.now();
        // Due timers run first, so that every action below is an effect of the stale input.
        self.session(number, session::Input::Tick);
        let client = &mut self.clients[number];
        let succeeded = client.generation > generation;
        let mut actions = Vec::new();
        client.endpoint.step(now, input, &mut actions);
        if succeeded {
            self.count_effect(Fault::Late);
        }
        if !actions.is_empty() {
            self.violation(format!(
                "client {number}: a stale input had an effect: {actions:?}"
            ));
        }
        for action in actions {
            self.perform_client_action(number, action);
        }
        self.arm_client(number);
    }

    fn on_event(&mut self, number: usize, event: client::Event) {
        let now = self.scheduler.now();
        match event {
            client::Event::Subscribed { id, position, .. } => {
                if let Some(position) = position {
                    self.check_start(number, id, position.offset);
                }
                let sees = self.sees(number, id);
                if let Some(subscription) = self.subscription(number, id) {
                    let offset = position.map(|position| position.offset);
                    subscription.granted.accept(offset.unwrap_or(0), &sees);
                    // The first response counts: after a reconnect, the promise since then still
                    // holds.
                    subscription.start = subscription.start.or(offset);
                    if let Some(position) = position {
                        subscription.queue.mark(position);
                    }
                }
            }
            client::Event::Marker { id, position } => {
                if let Some(subscription) = self.subscription(number, id) {
                    subscription.queue.mark(position);
                }
            }
            client::Event::Refused { id, refusal } => {
                let is_denied = self.sees(number, id).is_nothing();
                self.outcome.counts.denials += u64::from(is_denied);
                if let Some(subscription) = self.subscription(number, id) {
                    // It has ended for its application, as if that had cancelled it.
                    subscription.unsubscribed |= is_denied;
                    subscription.refused = (!is_denied).then(|| refusal.to_string());
                }
            }
            client::Event::Item { id, item } => {
                let Some(at) = self.index(number, id) else {
                    return;
                };
                let client = &mut self.clients[number];
                // A plain peer has no credit: only the total of its client is bounded.
                let limit = client
                    .profile
                    .then_some(client.limits.messages_per_subscription);
                let subscription = &mut client.subscriptions[at];
                // An unsubscription is complete at once, whatever is still in flight.
                if subscription.unsubscribed {
                    return self.violation(format!("an item for {id} after its unsubscription"));
                }
                if let Item::Snapshot(Snapshot::Begin { follows }) = &item {
                    subscription.granted.queue(*follows);
                }
                subscription.queue.push(item);
                let queued = subscription.queue.len();
                // The beginning and the end of a snapshot cost no credit.
                let waiting = subscription.queue.changes();
                // With more, a task for this queue is already scheduled.
                if queued == 1 {
                    let resume_at = subscription.paused_until.max(now);
                    let delay = self.millis(0, 20);
                    self.scheduler
                        .at(resume_at + delay, Task::Consume(number, at));
                }
                if let Some(limit) = limit.filter(|limit| waiting > *limit) {
                    self.violation(format!(
                        "{waiting} changes wait for {id}, the limit is {limit}"
                    ));
                }
            }
            client::Event::Discard { id, from } => {
                if let Some(subscription) = self.subscription(number, id) {
                    subscription.queue.discard(from);
                }
            }
            client::Event::CredentialsDue => {
                // Now and then the source has none, and the stream ends.
                if self.rng.random_range(0..3) > 0 {
                    let newer = Authorization("Bearer newer".to_owned());
                    self.command(number, Command::Authenticate(newer));
                }
            }
            client::Event::Greeted { .. }
            | client::Event::Rtt(_)
            | client::Event::Counters(_)
            | client::Event::Stopped { .. } => {}
        }
    }

    /// Returns what a client may see of the collection of a subscription, by the message that arrives.
    fn sees(&self, number: usize, id: SubscriptionId) -> MaySee {
        let client = &self.clients[number];
        let subscription = client.subscriptions.iter().find(|it| it.id == id);
        let sees = subscription.zip(client.sees.as_ref());
        sees.map_or(MaySee::Everything, |(subscription, sees)| {
            sees.of(subscription.selection.collection).clone()
        })
    }

    fn index(&self, number: usize, id: SubscriptionId) -> Option<usize> {
        self.clients[number]
            .subscriptions
            .iter()
            .position(|subscription| subscription.id == id)
    }

    pub(super) fn subscription(
        &mut self,
        number: usize,
        id: SubscriptionId,
    ) -> Option<&mut Subscription> {
        let at = self.index(number, id)?;
        Some(&mut self.clients[number].subscriptions[at])
    }
}

fn session_input(input: session::Input) -> Input {
    endpoint::Input::Session(input)
}
