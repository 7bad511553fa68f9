//! The clients' side of the world.

use rand::RngExt as _;
use steadfast_session::{End, Generation, Initiator, Reason, endpoint, session};
use steadfast_streamer_core::client::{Command, Item, Notice, Start, SubscriptionId};
use steadfast_wire::streamer::{GatewayMessage, StreamerMessage};

use super::World;
use crate::{
    Fault,
    agenda::Event,
    net::{Connection, ConnectionId, Down, Up},
    subscription::{DOCUMENTS, Payload, Subscription, Taken, Wish},
};

type Action = endpoint::Action<GatewayMessage, Notice>;
type Input = endpoint::Input<StreamerMessage, Command>;

impl World {
    pub(super) fn step_client(&mut self, number: usize, input: Input) {
        let mut actions = Vec::new();
        let now = self.agenda.now();
        let client = &mut self.clients[number];
        client.endpoint.step(now, input, &mut actions);
        for action in actions {
            self.perform_for(number, action);
        }
        self.arm_client(number);
    }

    fn arm_client(&mut self, number: usize) {
        let now = self.agenda.now();
        let client = &mut self.clients[number];
        let Some(deadline) = client.endpoint.deadline() else {
            return;
        };
        if client.due.is_none_or(|due| due <= now || deadline.at < due) {
            client.due = Some(deadline.at);
            self.agenda.at(deadline.at, Event::ClientDue(number));
        }
    }

    pub(super) fn on_client_due(&mut self, number: usize) {
        let now = self.agenda.now();
        let client = &mut self.clients[number];
        if client.due.is_some_and(|due| due <= now) {
            client.due = None;
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

    fn perform_for(&mut self, number: usize, action: Action) {
        let now = self.agenda.now();
        match action {
            Action::Open { generation, .. } => self.dial(number, generation),
            Action::Send(generation, message) => {
                self.send_up(number, generation, Up::Message(message));
            }
            Action::Probe(generation) => self.send_up(number, generation, Up::Probe),
            Action::Finish(generation) => self.send_up(number, generation, Up::Over),
            Action::Kill(generation) => self.abandon(number, generation),
            Action::Event(notice) => self.on_notice(number, notice),
            Action::Up(generation) => {
                self.trace(generation.0);
                self.clients[number].pace.live(now);
            }
            Action::Down(_, end) => {
                let client = &mut self.clients[number];
                client.pace.down(now, &end, &client.config);
            }
            Action::Stopped(end) => {
                if end.reason != Reason::Left {
                    self.clients[number].stopped = Some(end.to_string());
                }
            }
            Action::Changed(transition) => self.trace(transition.at.as_micros()),
        }
    }

    fn dial(&mut self, number: usize, generation: Generation) {
        let now = self.agenda.now();
        let client = &mut self.clients[number];
        client.attempts += 1;
        client.generation = generation;
        let wrong = client.pace.attempt(now, &client.config);
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        client.connection = Some(id);
        let mut connection = Connection::new(number, generation, self.server.incarnation);
        connection.up.held = client.dark;
        connection.down.held = client.dark;
        self.connections.insert(id, connection);
        if let Some(wrong) = wrong {
            self.violation(format!("client {number}: {wrong}"));
        }
        let delay = self.latency();
        self.agenda.after(delay, Event::Dialled(number, generation));
        self.send_up(number, generation, Up::Open);
    }

    /// The server's kernel takes a connection even while the process is frozen.
    pub(super) fn on_dialled(&mut self, number: usize, generation: Generation) {
        let client = &self.clients[number];
        let refused = self.server.hub.is_none() || self.server.draining;
        if client.generation == generation && !client.dark && refused {
            let why = Reason::Unreachable("refused".into());
            let end = End::retry(Initiator::Network, why);
            self.session(number, session::Input::Ended(generation, end));
        }
    }

    fn send_up(&mut self, number: usize, generation: Generation, item: Up) {
        let now = self.agenda.now();
        let delay = self.latency();
        let Some(id) = self.clients[number].connection else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.generation == generation
        {
            let at = connection.up.send(now, delay, item);
            self.agenda.at(at, Event::AtServer(id));
        }
    }

    /// The client cuts its connection. What is under way to it still comes, and must change nothing.
    fn abandon(&mut self, number: usize, generation: Generation) {
        self.send_up(number, generation, Up::Over);
        let Some(id) = self.clients[number].connection.take() else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.client_open = false;
        }
    }

    /// Whatever has arrived at the client's end of a connection.
    pub(super) fn on_client_side(&mut self, id: ConnectionId) {
        let now = self.agenda.now();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (number, generation) = (connection.client, connection.generation);
        let Some(item) = connection.down.receive(now) else {
            return;
        };
        let current = connection.client_open;
        if let Some(at) = connection.down.next() {
            self.agenda.at(at, Event::AtClient(id));
        }
        let input = match item {
            Down::Headers => session_input(session::Input::Headers(generation)),
            Down::Message(message, _) => endpoint::Input::Message(generation, message),
            Down::Probed => session_input(session::Input::Probed(generation, true)),
            Down::Over(end) => session_input(session::Input::Ended(generation, end)),
        };
        self.pump(id);
        if current {
            self.step_client(number, input);
        } else {
            self.step_stale(number, generation, input);
        }
        self.forget_if_over(id);
    }

    /// Something of a stream that is gone: it must have no effect at all.
    fn step_stale(&mut self, number: usize, generation: Generation, input: Input) {
        let now = self.agenda.now();
        // What is due is done first, so that nothing but the stale input is left to be done.
        self.session(number, session::Input::Tick);
        let client = &mut self.clients[number];
        let succeeded = client.generation > generation;
        let mut actions = Vec::new();
        client.endpoint.step(now, input, &mut actions);
        if succeeded {
            self.bite(Fault::Late);
        }
        if !actions.is_empty() {
            self.violation(format!(
                "client {number}: a stale input had an effect: {actions:?}"
            ));
        }
        for action in actions {
            self.perform_for(number, action);
        }
        self.arm_client(number);
    }

    fn on_notice(&mut self, number: usize, notice: Notice) {
        let now = self.agenda.now();
        match notice {
            Notice::Subscribed { id, position, .. } => {
                if let Some(subscription) = self.subscription(number, id) {
                    let offset = position.map(|position| position.offset);
                    subscription.start = subscription.start.or(offset);
                }
            }
            Notice::Refused { id, refusal } => {
                if let Some(subscription) = self.subscription(number, id) {
                    subscription.refused = Some(refusal.to_string());
                }
            }
            Notice::Item { id, item } => {
                let Some(at) = self.index(number, id) else {
                    return;
                };
                let subscription = &mut self.clients[number].subscriptions[at];
                if subscription.unsubscribed {
                    return self.violation(format!("an item for {id} after its end"));
                }
                subscription.queue.push_back(item);
                if subscription.queue.len() == 1 {
                    let wake = subscription.asleep_until.max(now);
                    let delay = self.millis(0, 20);
                    self.agenda.at(wake + delay, Event::Take(number, at));
                }
            }
            Notice::Greeted { .. }
            | Notice::Marker { .. }
            | Notice::Rtt(_)
            | Notice::Counters(_)
            | Notice::Stopped { .. } => {}
        }
    }

    fn index(&self, number: usize, id: SubscriptionId) -> Option<usize> {
        self.clients[number]
            .subscriptions
            .iter()
            .position(|subscription| subscription.id == id)
    }

    fn subscription(&mut self, number: usize, id: SubscriptionId) -> Option<&mut Subscription> {
        let at = self.index(number, id)?;
        Some(&mut self.clients[number].subscriptions[at])
    }

    // Applications.

    pub(super) fn subscribe(&mut self, number: usize) {
        self.next_subscription += 1;
        let id = SubscriptionId(self.next_subscription);
        let wish = match self.rng.random_range(0..4) {
            0 => Wish::Everything,
            1 => Wish::Publisher(self.rng.random_range(0..3)),
            2 => Wish::AtLeast(self.rng.random_range(0..20)),
            _ => Wish::Document(self.rng.random_range(0..DOCUMENTS)),
        };
        self.clients[number]
            .subscriptions
            .push(Subscription::new(id, wish));
        let command = Command::Subscribe {
            id,
            database: "default".to_owned(),
            collection: "things".to_owned(),
            filter: wish.filter(),
            start: Start::Now,
        };
        self.command(number, command);
    }

    /// An application takes some of what waits.
    pub(super) fn on_take(&mut self, number: usize, at: usize) {
        let now = self.agenda.now();
        let most = self.rng.random_range(1..=6);
        let subscription = &mut self.clients[number].subscriptions[at];
        if subscription.asleep_until > now {
            let wake = subscription.asleep_until;
            return self.agenda.at(wake, Event::Take(number, at));
        }
        let (mut changes, mut bytes) = (0, 0);
        for _ in 0..most {
            match subscription.queue.pop_front() {
                Some(Item::Change(change)) => {
                    changes += 1;
                    bytes += change.weight();
                    match Payload::from_json(&change.data) {
                        Some(payload) => subscription.taken.push(Taken::Change(payload)),
                        None => subscription.refused = Some("an unreadable payload".to_owned()),
                    }
                }
                Some(Item::Gap(_)) => subscription.taken.push(Taken::Gap),
                Some(_) => subscription.taken.push(Taken::Resync),
                None => break,
            }
        }
        let id = subscription.id;
        if !subscription.queue.is_empty() {
            let delay = self.millis(1, 25);
            self.agenda.after(delay, Event::Take(number, at));
        }
        if changes > 0 {
            self.trace(id.0 ^ changes);
            self.command(number, Command::Taken { id, changes, bytes });
        }
    }

    /// A client does something by itself.
    pub(super) fn on_act(&mut self, number: usize) {
        if self.calm {
            return;
        }
        match self.rng.random_range(0..6) {
            0 | 1 => self.subscribe(number),
            2 => {
                let count = self.clients[number].subscriptions.len();
                let at = self.rng.random_range(0..count);
                let subscription = &mut self.clients[number].subscriptions[at];
                if !std::mem::replace(&mut subscription.unsubscribed, true) {
                    subscription.queue.clear();
                    let id = subscription.id;
                    self.command(number, Command::Unsubscribe { id });
                }
            }
            3 => {
                self.clients[number].pace.ask();
                self.session(number, session::Input::Reconnect);
            }
            _ => {
                self.clients[number].pace.ask();
                self.session(number, session::Input::Connect);
            }
        }
        let delay = self.millis(100, 2_500);
        self.agenda.after(delay, Event::Act(number));
    }
}

fn session_input(input: session::Input) -> Input {
    endpoint::Input::Session(input)
}
