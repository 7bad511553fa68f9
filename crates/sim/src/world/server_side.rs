//! The server's side: the hub, its log, and its queues.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use rand::RngExt as _;
use steadfast_session::{Advice, End, Initiator, Reason, Time};
use steadfast_streamer::log::{
    DocumentKey, DocumentQuery, Log as _, LogReader, Outcome, testing::offset_of_time,
    with_previous,
};
use steadfast_streamer_core::hub::{
    Action, FRAME_HEAD, Hub, Input, ReadFault, ReadId, StreamAccess, StreamId, split_frames,
};
use steadfast_wire::streamer::{
    GatewayMessage, StreamerMessage, SubscribeRequest, gateway_message::Payload,
    subscribe_request::Start,
};

use super::{HOLES_END, World};
use crate::{
    Fault,
    client::Lifetime,
    net::{ConnectionId, ToClient, ToServer, WINDOW},
    scheduler::Task,
    server::{DocumentRead, to_end},
};

impl World {
    /// Steps the hub, then again with the inputs that its actions cause.
    pub(super) fn step_hub(&mut self, input: Input) {
        // Queued, because an action may cause an input and the hub must not be stepped within a
        // step.
        self.hub_inputs.push_back(input);
        while let Some(input) = self.hub_inputs.pop_front() {
            self.steps += 1;
            let input = self.complete(input);
            let now = self.scheduler.now();
            let Some(hub) = &mut self.server.hub else {
                self.hub_inputs.clear();
                return;
            };
            let mut actions = Vec::new();
            let deadline = hub.step(now, input, &mut actions);
            for action in actions {
                self.perform_hub_action(action);
            }
            if let Some(at) = deadline {
                // A slice of matching takes a moment, in which messages arrive.
                self.arm_hub(at.max(now + Duration::from_micros(100)));
            }
        }
    }

    /// Schedules the next step of the hub, unless one is scheduled before.
    fn arm_hub(&mut self, at: Time) {
        let is_later = |due: Time| at < due;
        if self.server.scheduled_deadline.is_none_or(is_later) {
            self.server.scheduled_deadline = Some(at);
            self.scheduler.at(at, Task::HubDue(self.server.incarnation));
        }
    }

    /// Reads the states of documents before events, as a driver does, or fails to.
    fn complete(&mut self, mut input: Input) -> Input {
        if let Input::Authorized { stream, access, .. } = &input
            && let Some(connection) = self.connections.get_mut(&ConnectionId(stream.0))
        {
            // Only now: what the hub sent before was sent with other rights.
            connection.rights = self.clients[connection.client].rights.last().cloned();
            connection.expires_at = access.expires_at;
        }
        if let Input::Committed { events }
        | Input::ReadDone {
            result: Ok(events), ..
        } = &mut input
            && let Some(hub) = &self.server.hub
        {
            for event in events.iter_mut().filter(|event| hub.wants_previous(event)) {
                if self.rng.random_range(0..16) == 0 {
                    self.outcome.counts.previous_unread += 1;
                } else {
                    *event = with_previous(&*self.server.reader, event);
                    self.outcome.counts.previous_read += 1;
                }
            }
        }
        input
    }

    pub(super) fn on_hub_due(&mut self, incarnation: u64) {
        // Scheduled by a process that was killed meanwhile.
        if incarnation != self.server.incarnation || self.server.hub.is_none() {
            return;
        }
        // A frozen process keeps its timers; they are all due when it continues.
        if let Some(thaw) = self.server.frozen_until {
            self.scheduler.at(thaw, Task::HubDue(incarnation));
            return;
        }
        let now = self.scheduler.now();
        // A task that a sooner one has replaced finds a later deadline, or none.
        if self
            .server
            .scheduled_deadline
            .take_if(|at| *at <= now)
            .is_some()
        {
            self.step_hub(Input::Tick);
        }
    }

    fn perform_hub_action(&mut self, action: Action) {
        match action {
            Action::Send { stream, frames, .. } => {
                for message in split_frames(frames) {
                    let length = FRAME_HEAD + message.len();
                    self.send(ConnectionId(stream.0), decode(&message), length);
                }
            }
            Action::End {
                stream,
                last,
                status,
                flush,
            } => {
                let id = ConnectionId(stream.0);
                let now = self.scheduler.now();
                if let Some(connection) = self.connections.get_mut(&id) {
                    if connection.expires_at.is_some_and(|at| at <= now) {
                        *self.outcome.fault_effects.entry(Fault::Expiry).or_default() += 1;
                    }
                    connection.server_open = false;
                    if !flush {
                        connection.queue.clear();
                    }
                    connection.queue.extend(
                        last.into_iter()
                            .flat_map(split_frames)
                            .map(|message| ToClient::Message(decode(&message), 0, None)),
                    );
                    // Behind the messages: a status does not overtake data on a stream.
                    connection.queue.push_back(ToClient::Closed(to_end(status)));
                    self.send_queued(id);
                }
            }
            Action::Read {
                read,
                after,
                max_events,
                max_bytes,
            } => {
                self.server
                    .reads
                    .insert(read, (after, max_events, max_bytes));
                let delay = self.millis(0, 3);
                self.scheduler
                    .after(delay, Task::ReadDone(self.server.incarnation, read));
            }
            Action::ReadDocuments {
                read,
                collection,
                after,
                max_documents,
                max_bytes,
                ..
            } => {
                let wanted = DocumentRead {
                    collection,
                    after,
                    max_documents,
                    max_bytes,
                };
                self.server.document_reads.insert(read, wanted);
                let delay = self.millis(0, 30);
                self.scheduler
                    .after(delay, Task::DocumentsRead(self.server.incarnation, read));
            }
        }
    }

    pub(super) fn on_read_done(&mut self, incarnation: u64, read: ReadId) {
        if incarnation != self.server.incarnation {
            return;
        }
        if let Some(thaw) = self.server.frozen_until {
            return self.scheduler.at(thaw, Task::ReadDone(incarnation, read));
        }
        let Some((after, events, bytes)) = self.server.reads.remove(&read) else {
            return;
        };
        let result = self
            .server
            .reader
            .read(after, events, bytes)
            .map_err(ReadFault::from);
        self.step_hub(Input::ReadDone { read, result });
    }

    pub(super) fn on_documents_read(&mut self, incarnation: u64, read: ReadId) {
        if incarnation != self.server.incarnation {
            return;
        }
        if let Some(thaw) = self.server.frozen_until {
            let task = Task::DocumentsRead(incarnation, read);
            return self.scheduler.at(thaw, task);
        }
        let Some(wanted) = self.server.document_reads.remove(&read) else {
            return;
        };
        let collection = &wanted.collection;
        let key = |id| DocumentKey::new("default", Arc::clone(collection), id);
        let after = wanted.after.map(key);
        let page = self.server.reader.documents(DocumentQuery {
            database: "default",
            collection: Some(collection),
            after: after.as_ref(),
            max_documents: wanted.max_documents,
            max_bytes: wanted.max_bytes,
        });
        let result = page.map(Into::into).map_err(ReadFault::from);
        self.step_hub(Input::DocumentsRead { read, result });
    }

    /// Sends a message of the hub, after a check of what it promises.
    fn send(&mut self, id: ConnectionId, message: StreamerMessage, bytes: usize) {
        let limit = self.shape.hub.queue_messages;
        let now = self.scheduler.now();
        let mut rights = None;
        if let Some(connection) = self.connections.get_mut(&id) {
            if self.clients[connection.client].profile
                && let Err(what) = connection.wire.check(&message)
            {
                self.outcome.violations.push(what);
            }
            rights.clone_from(&connection.rights);
            if let Some(Err(what)) = rights.as_ref().map(|it| it.check(&message)) {
                self.outcome.violations.push(what);
            }
            // A process that was frozen handles what has arrived meanwhile before its clock.
            let thawed_at = self.server.thawed_at;
            if connection
                .expires_at
                .is_some_and(|at| at.max(thawed_at) < now)
            {
                let what = format!("{message:?} is sent after the credentials expired");
                self.outcome.violations.push(what);
            }
            let waiting = connection.waiting_deliveries();
            if waiting > limit {
                let what = format!("{waiting} deliveries wait in a queue for {limit}");
                self.outcome.violations.push(what);
            }
        }
        self.queue_for_client(id, ToClient::Message(message, bytes, rights));
    }

    fn queue_for_client(&mut self, id: ConnectionId, item: ToClient) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.queue.push_back(item);
            self.send_queued(id);
        }
    }

    /// Sends queued items as far as the window allows.
    pub(super) fn send_queued(&mut self, id: ConnectionId) {
        let now = self.scheduler.now();
        let (mut bytes, mut messages) = (0, 0);
        loop {
            let delay = self.latency();
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            // Beyond the window items count as queued, so that a slow link fills the hub's queue.
            if connection.to_client.len() >= WINDOW {
                break;
            }
            let Some(item) = connection.queue.pop_front() else {
                break;
            };
            if let ToClient::Message(_, weight, _) = &item {
                bytes += weight;
                messages += 1;
            }
            let at = connection.to_client.send(now, delay, item);
            self.scheduler.at(at, Task::ArriveAtClient(id));
        }
        if messages > 0
            && self
                .connections
                .get(&id)
                .is_some_and(|connection| connection.server_open)
        {
            self.hub_inputs.push_back(Input::Sent {
                stream: StreamId(id.0),
                bytes,
                messages,
            });
            // Outside a step of the hub, only its next step takes this input.
            self.arm_hub(now);
        }
    }

    /// Delivers the next item that has arrived at the server.
    pub(super) fn on_server_arrival(&mut self, id: ConnectionId) {
        let now = self.scheduler.now();
        if let Some(thaw) = self.server.frozen_until {
            return self.scheduler.at(thaw, Task::ArriveAtServer(id));
        }
        let client = self.connections.get(&id).map(|it| it.client);
        let is_revoked = client.is_some_and(|client| self.is_revoked(client));
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.to_server.peek(now).is_some_and(|it| {
            let ahead = |hub: &Hub| start_of(it, &*self.server.reader) > Some(hub.head().offset);
            self.server.hub.as_ref().is_some_and(ahead)
        }) {
            // The driver waits until the hub knows the events before the time, as of its last commit.
            let later = now + Duration::from_millis(5);
            return self.scheduler.at(later, Task::ArriveAtServer(id));
        }
        // A connection belongs to the process that accepted it. Its successor knows nothing of it.
        let served = connection.incarnation == self.server.incarnation && self.server.hub.is_some();
        let Some(item) = connection.to_server.receive(now) else {
            return;
        };
        let open = connection.server_open;
        let stream = StreamId(id.0);
        if let Some(at) = connection.to_server.next() {
            self.scheduler.at(at, Task::ArriveAtServer(id));
        }
        if served {
            let is_unsubscribe = item.is_unsubscribe();
            match item {
                ToServer::Open if is_revoked => {
                    connection.server_open = false;
                    let text = "the credentials are revoked".to_owned();
                    let end = End::status(16, text, Advice::Refresh);
                    self.queue_for_client(id, ToClient::Closed(end));
                }
                ToServer::Open => {
                    self.queue_for_client(id, ToClient::Headers);
                    self.step_hub(Input::Opened { stream });
                    self.authorize(id, false);
                }
                ToServer::Message(mut message) if open => {
                    self.rewind(&mut message);
                    self.look_up_time(&mut message);
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.wire.on_request(&message);
                        let client = &mut self.clients[connection.client];
                        if is_unsubscribe && client.generation == connection.generation {
                            client.unsubscribes_in_flight -= 1;
                        }
                    }
                    let message = *message;
                    if matches!(message.payload, Some(Payload::Authenticate(_))) {
                        self.authorize(id, true);
                    } else {
                        self.step_hub(Input::Message { stream, message });
                    }
                    self.flap(id);
                }
                // The stream has ended; the client may not know yet.
                ToServer::Message(_) => {}
                // Answered without the hub: the health check is another service of the same
                // connection.
                ToServer::Probe => self.queue_for_client(id, ToClient::Probed),
                ToServer::Closed => self.step_hub(Input::Ended { stream }),
            }
        }
        self.remove_if_closed(id);
    }

    /// Tells the hub what the client of a connection may see from now on.
    pub(super) fn authorize(&mut self, id: ConnectionId, answers: bool) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let client = &self.clients[connection.client];
        let Some(rights) = client.rights.last().cloned() else {
            return;
        };
        let stream = StreamId(id.0);
        if self.is_revoked(connection.client) {
            let reason = "the credentials are revoked".to_owned();
            return self.step_hub(Input::Revoked { stream, reason });
        }
        let owner = format!("principal-{}", connection.client);
        let expires = client.credentials == Lifetime::Short && !self.settling;
        let lifetime = self.millis(1_500, 4_000);
        let access = StreamAccess {
            owner: owner.into(),
            shares_limits: false,
            rights,
            expires_at: expires.then(|| self.scheduler.now() + lifetime),
        };
        self.step_hub(Input::Authorized {
            stream,
            access,
            answers,
        });
    }

    /// Makes a server that keeps positions roughly out of ours: it resumes earlier than requested.
    fn rewind(&mut self, message: &mut GatewayMessage) {
        if self.shape.rewind > 0
            && let Some(Payload::Subscribe(request)) = &mut message.payload
            && let Some(resume) = &mut request.resume
        {
            let by = self.rng.random_range(0..=self.shape.rewind);
            resume.offset = resume.offset.saturating_sub(by);
        }
    }

    /// Replaces a time by its offset, as the server's driver does.
    fn look_up_time(&self, message: &mut GatewayMessage) {
        if let Some(Payload::Subscribe(request)) = &mut message.payload
            && let Some(offset) = offset_of_start(request, &*self.server.reader)
        {
            request.start = Some(Start::StartOffset(offset));
        }
    }

    /// Ends a stream after a message, now and then, while the server flaps.
    fn flap(&mut self, id: ConnectionId) {
        let open = self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.server_open);
        if self.server.flapping && open && self.rng.random_range(0..3) == 0 {
            self.count_effect(Fault::Flap);
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
            return self.scheduler.at(thaw, Task::Commit(incarnation));
        }
        let events = self.commit(true);
        // Now and then the hub does not hear of a commit, and must read it from the log.
        let heard = self.scheduler.now() > HOLES_END || self.rng.random_range(0..30) > 0;
        if let Some(last) = events.last()
            && heard
        {
            self.server.known_head = last.offset;
            self.step_hub(Input::Committed { events });
        }
    }

    /// Appends the pending submissions to the log. Without `acknowledge`, the process dies before it can
    /// respond.
    pub(super) fn commit(&mut self, acknowledge: bool) -> Vec<Arc<steadfast_streamer_core::Event>> {
        let pending = std::mem::take(&mut self.server.pending);
        let batch = pending
            .iter()
            .map(|(number, payload)| self.publishers[*number].submission(*payload));
        let now_ms = (self.scheduler.now().as_micros() / 1_000).cast_signed();
        let batch: Vec<_> = batch.collect();
        let outcomes = self
            .server
            .log
            .append(batch, now_ms)
            .expect("the log in memory does not fail");
        let mut events = Vec::new();
        for ((number, payload), outcome) in pending.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Appended(event) => events.push(event),
                Outcome::Duplicate => {}
                Outcome::Refused(_) | Outcome::Jump { .. } => {
                    self.violation(format!("{payload:?} was not appended: {outcome:?}"));
                }
            }
            // One acknowledgement in twenty is lost, so that publishers submit duplicates.
            let acknowledged = acknowledge && self.rng.random_range(0..20) > 0;
            let publisher = &mut self.publishers[number];
            if acknowledged {
                publisher.acknowledge(payload);
            } else {
                publisher.mark_lost();
            }
        }
        events
    }

    /// Kills the process. The kernel resets its connections.
    pub(super) fn kill_server(&mut self) {
        // A commit may survive a process that never acknowledges it: its publisher must submit again
        // and meet a duplicate.
        if self.rng.random_bool(0.5) {
            self.commit(false);
        }
        // What was not committed dies with the process, and its publishers submit it again.
        self.server.pending.clear();
        for publisher in &mut self.publishers {
            publisher.mark_lost();
        }
        self.hub_inputs.clear();
        self.server.stop();
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            let now = self.scheduler.now();
            let delay = self.latency();
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.server_open = false;
            // Bytes that the process had not written are lost; those in flight still arrive.
            connection.queue.clear();
            let lost = Reason::Lost("reset by the peer".into());
            let end = End::retry(Initiator::Network, lost);
            let at = connection.to_client.send(now, delay, ToClient::Closed(end));
            self.scheduler.at(at, Task::ArriveAtClient(id));
        }
    }

    pub(super) fn restart(&mut self) {
        if self.server.hub.is_none() {
            self.server.start();
        }
    }

    pub(super) fn remove_if_closed(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id)
            && !connection.client_open
            && !connection.server_open
            && !connection.is_busy()
        {
            self.connections.remove(&id);
        }
    }
}

fn decode(message: &[u8]) -> StreamerMessage {
    StreamerMessage::decode(message).expect("the hub encodes valid messages")
}

/// Returns the offset of the time at which an item is to begin, if there is one.
fn start_of(item: &ToServer, reader: &dyn LogReader) -> Option<u64> {
    match item {
        ToServer::Message(message) => match &message.payload {
            Some(Payload::Subscribe(request)) => offset_of_start(request, reader),
            _ => None,
        },
        _ => None,
    }
}

fn offset_of_start(request: &SubscribeRequest, reader: &dyn LogReader) -> Option<u64> {
    match (&request.resume, request.start) {
        (None, Some(Start::StartTimeMs(time_ms))) => {
            Some(offset_of_time(reader, time_ms).expect("the log in memory does not fail"))
        }
        _ => None,
    }
}
