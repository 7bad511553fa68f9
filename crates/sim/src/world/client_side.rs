//! The clients' side: dialling, sending, receiving, and their applications.

use rand::RngExt as _;
use steadfast_session::{Cause, End, Generation, Initiator, Reason, endpoint, session};
use steadfast_streamer_core::client::{
    self, Command, Item, LiveDocuments, Resync, ResyncReason, ServerMessage, Start,
    SubscribeOptions, SubscriptionId, WindowDocuments,
};
use steadfast_streamer_core::{Direction, Window};

use super::World;
use crate::{
    Fault,
    net::{Connection, ConnectionId, ToClient, ToServer},
    oracle,
    scheduler::Task,
    subscription::{
        COLLECTIONS, Condition, Consumed, DOCUMENTS, Live, Payload, Selection, Subscription,
    },
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
                    self.outcome.plain_losses += 1;
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
        let mut wanted = client.subscriptions.iter().filter(|it| !it.unsubscribed);
        !client.profile && wanted.any(is_behind)
    }

    fn dial(&mut self, number: usize, generation: Generation) {
        let now = self.scheduler.now();
        let client = &mut self.clients[number];
        client.attempts += 1;
        client.generation = generation;
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
            ToClient::Message(message, _) => endpoint::Input::Message(generation, message.into()),
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
                if let Some(subscription) = self.subscription(number, id) {
                    let offset = position.map(|position| position.offset);
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
                if let Some(subscription) = self.subscription(number, id) {
                    subscription.refused = Some(refusal.to_string());
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
            client::Event::Greeted { .. }
            | client::Event::Rtt(_)
            | client::Event::CredentialsDue
            | client::Event::Counters(_)
            | client::Event::Stopped { .. } => {}
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

    pub(super) fn subscribe(&mut self, number: usize) {
        let condition = match self.rng.random_range(0..4) {
            0 => Condition::None,
            1 => Condition::Publisher(self.rng.random_range(0..3)),
            2 => Condition::AtLeast(self.rng.random_range(0..20)),
            _ => Condition::Document(self.rng.random_range(0..DOCUMENTS)),
        };
        let selection = Selection {
            collection: COLLECTIONS[usize::from(self.rng.random_range(0..5) == 0)],
            condition,
        };
        let start = self.draw_start(number);
        self.subscribe_from(number, selection, start);
    }

    fn subscribe_from(&mut self, number: usize, selection: Selection, start: Start) {
        self.next_subscription += 1;
        let id = SubscriptionId(self.next_subscription);
        let mut subscription = Subscription::new(id, selection);
        // A plain server has no snapshots.
        if start == Start::Now && self.clients[number].profile {
            subscription.live = self.draw_live();
        }
        let options = subscription
            .live
            .as_ref()
            .map_or_else(SubscribeOptions::default, Live::options);
        match start {
            // A plain server tells no position. Its start is not before what the hub knew by now.
            Start::Now if !self.clients[number].profile => {
                subscription.start = Some(self.server.known_head);
            }
            Start::After(position) => subscription.start = Some(position.offset),
            Start::Oldest | Start::AtTime(_) => {
                subscription.begins = Some((start, self.server.known_first));
            }
            _ => {}
        }
        self.clients[number].subscriptions.push(subscription);
        let command = Command::Subscribe {
            id,
            database: "default".to_owned(),
            collection: selection.collection.to_owned(),
            filter: selection.filter(),
            start,
            options,
        };
        self.command(number, command);
    }

    /// Decides where a subscription begins. A plain server has no past.
    fn draw_start(&mut self, number: usize) -> Start {
        if !self.clients[number].profile {
            return Start::Now;
        }
        match self.rng.random_range(0..8) {
            0 => Start::Oldest,
            1 => {
                let back = self.rng.random_range(0..4_000);
                let now = self.scheduler.now().as_micros() / 1_000;
                Start::AtTime(now.saturating_sub(back).cast_signed())
            }
            _ => Start::Now,
        }
    }

    /// Checks the offset at which the server began a subscription that was not to begin now.
    fn check_start(&mut self, number: usize, id: SubscriptionId, offset: u64) {
        let subscription = self.subscription(number, id);
        let Some((start, known_first)) = subscription.and_then(|it| it.begins.take()) else {
            return;
        };
        self.read_events();
        let first = self.server.reader.bounds().first;
        let is_right = match start {
            // The log may have been trimmed while the request was on its way.
            Start::Oldest => {
                self.outcome.starts_at_oldest += 1;
                (known_first..=first).contains(&offset)
            }
            Start::AtTime(time_ms) => {
                self.outcome.starts_at_time += 1;
                self.events.begin_at(time_ms, offset, first)
            }
            _ => false,
        };
        if !is_right {
            self.violation(format!(
                "{id} was to begin at {start:?} and began at {offset}"
            ));
        }
    }

    /// Decides whether an application holds documents, and which.
    fn draw_live(&mut self) -> Option<Live> {
        match self.rng.random_range(0..6) {
            0 => Some(Live::Set(LiveDocuments::default())),
            1 => {
                let direction = if self.rng.random_range(0..2) == 0 {
                    Direction::Ascending
                } else {
                    Direction::Descending
                };
                // Of few documents, so that windows run empty and overflow.
                let mut window = Window::new("v", direction, self.rng.random_range(1..3));
                window.reserve = self.rng.random_range(0..2);
                let documents = WindowDocuments::new(window.clone());
                Some(Live::Window(window, Box::new(documents)))
            }
            _ => None,
        }
    }

    /// Cancels a random subscription. With `continues`, a new one goes on where its application
    /// stopped, as after a restart of the process.
    fn unsubscribe(&mut self, number: usize, continues: bool) {
        let count = self.clients[number].subscriptions.len();
        let at = self.rng.random_range(0..count);
        let subscription = &mut self.clients[number].subscriptions[at];
        // The entry stays in the list, because indices of tasks refer to it.
        if std::mem::replace(&mut subscription.unsubscribed, true) {
            return;
        }
        let queue = std::mem::take(&mut subscription.queue);
        let (id, selection) = (subscription.id, subscription.selection);
        // Of the consumed items, not of the received ones: the successor gets the queued ones
        // again.
        // A set that is held ends with its application.
        let position = queue
            .position()
            .filter(|_| continues && subscription.live.is_none());
        subscription.end = position.map(|position| position.offset);
        self.command(number, Command::Unsubscribe { id });
        if let Some(position) = position {
            self.subscribe_from(number, selection, Start::After(position));
        }
    }

    /// Lets an application consume some items of its queue.
    pub(super) fn on_consume(&mut self, number: usize, at: usize) {
        let now = self.scheduler.now();
        let most = self.rng.random_range(1..=6);
        let subscription = &mut self.clients[number].subscriptions[at];
        if subscription.paused_until > now {
            let resume_at = subscription.paused_until;
            return self.scheduler.at(resume_at, Task::Consume(number, at));
        }
        // Only of a position that had left the log, with its term if all of that had. A server that keeps
        // positions roughly may have had an earlier one.
        let lost_before = self.server.reader.bounds().first + self.shape.rewind;
        let is_explained = |resync: &Resync| {
            matches!(resync.reason, ResyncReason::Trimmed | ResyncReason::Epoch)
                && resync.lost_from.offset < lost_before
        };
        let (mut trims, mut unexpected) = (0, Vec::new());
        let mut whole = Vec::new();
        let mut asked = Vec::new();
        for _ in 0..most {
            let item = subscription.queue.pop();
            if let (Some(live), Some(item)) = (&mut subscription.live, &item) {
                match item {
                    Item::Resync(resync) if is_explained(resync) => trims += 1,
                    Item::Resync(_) => unexpected.push(item.clone()),
                    _ => {}
                }
                asked.extend(live.apply(subscription.id, item.clone()));
                // Whole sets are compared with the log at every position.
                let at = subscription.queue.position();
                whole.extend(
                    at.filter(|_| live.is_exact())
                        .map(|at| (at.offset, live.clone())),
                );
                continue;
            }
            match item {
                Some(Item::Change(change)) => match Payload::from_json(&change.data) {
                    Some(payload) => subscription.consumed.push(Consumed::Change(payload)),
                    None => subscription.refused = Some("unreadable payload".to_owned()),
                },
                Some(Item::Gap(_)) => subscription.consumed.push(Consumed::Gap),
                Some(Item::Resync(resync)) if is_explained(&resync) => {
                    let (from, to) = (resync.lost_from.offset, resync.resumes_at.offset);
                    subscription.consumed.push(Consumed::Trimmed(from, to));
                    trims += 1;
                }
                Some(item) => unexpected.push(item),
                None => break,
            }
        }
        let unexpected = unexpected
            .first()
            .map(|item| format!("{} got {item:?}", subscription.id));
        *self.outcome.fault_effects.entry(Fault::Trim).or_default() += trims;
        let (id, selection) = (subscription.id, subscription.selection);
        let report = subscription.queue.take_report();
        if !subscription.queue.is_empty() {
            let delay = self.millis(1, 25);
            self.scheduler.after(delay, Task::Consume(number, at));
        }
        if let Some(through) = report {
            self.trace(id.0 ^ through);
            self.command(number, Command::Taken { id, through });
        }
        for command in asked {
            match &command {
                Command::Refill { .. } => self.outcome.windows_refilled += 1,
                _ => self.outcome.windows_narrowed += 1,
            }
            self.command(number, command);
        }
        if let Some(what) = unexpected {
            self.violation(what);
        }
        for (offset, live) in whole {
            self.check_live(selection, offset, &live);
        }
    }

    /// Compares the documents that an application holds with a query of the log.
    fn check_live(&mut self, selection: Selection, offset: u64, live: &Live) {
        self.read_events();
        self.outcome.live_checks += 1;
        if let Some(what) = oracle::live_difference(&self.events, selection, offset, live) {
            self.violation(what);
        }
    }

    /// Checks that the server has ended the older streams of every session.
    fn check_sessions(&mut self) {
        let held = self.server.hub.as_ref().map(|hub| hub.stats().gauges);
        if let Some(held) = held.filter(|held| held.profile_streams > held.sessions) {
            self.violation(format!("two streams of one session: {held:?}"));
        }
    }

    /// Lets a client act by itself.
    pub(super) fn on_act(&mut self, number: usize) {
        if self.settling || self.clients[number].has_ended {
            return;
        }
        self.check_sessions();
        match self.rng.random_range(0..8) {
            0 | 1 => self.subscribe(number),
            2 => self.unsubscribe(number, false),
            3 | 4 => self.unsubscribe(number, true),
            5 => {
                // A requested attempt may come before the backoff ends, but not before the minimum
                // interval.
                self.clients[number].pace.on_connect_requested();
                self.session(number, session::Input::Reconnect);
            }
            _ => {
                self.clients[number].pace.on_connect_requested();
                self.session(number, session::Input::Connect);
            }
        }
        let delay = self.millis(100, 2_500);
        self.scheduler.after(delay, Task::Act(number));
    }
}

fn session_input(input: session::Input) -> Input {
    endpoint::Input::Session(input)
}
