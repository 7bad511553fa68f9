//! A core with a scripted peer: no network, no clock.

mod credit;
mod greeting;
mod model;
mod plain;
mod positions;
mod profile;
mod renewal;
mod snapshots;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use steadfast_session::{Effect, Signal};
use steadfast_wire::streamer::{
    EventDelivery, Final, Progress, RefusalCode, StreamerEvent, StreamerMessage, SubscribeRequest,
    SubscribeResponse, Welcome, gateway_message, streamer_message::Payload,
};

use super::*;
use crate::{Epoch, Position, filter::Filter};

const SESSION: &str = "s";
const EPOCH: u64 = 7;

/// The signals of the last response that a restoration waits for.
const RESTORED: [Signal; 2] = [Signal::RestoreProgress, Signal::Restored];

/// A core, and its effects since the last look.
struct Rig {
    core: Core,
    now: Time,
    open: bool,
    generation: u64,
    sent: Vec<gateway_message::Payload>,
    events: Vec<Event>,
    signals: Vec<Signal>,
    /// The number of the newest change taken, by subscription.
    taken: BTreeMap<u64, u64>,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(SESSION, "gw", 1_700_000_000_000);
        change(&mut config);
        Self {
            core: Core::new(config),
            now: Time::ZERO,
            open: false,
            generation: 0,
            sent: Vec::new(),
            events: Vec::new(),
            signals: Vec::new(),
            taken: BTreeMap::new(),
        }
    }

    fn call(&mut self, call: impl FnOnce(&mut Core, Time, &mut Cx)) {
        let mut cx = Context::new(self.open);
        call(&mut self.core, self.now, &mut cx);
        for effect in cx.into_effects() {
            match effect {
                Effect::Send(message) => {
                    self.sent
                        .push(message.into_message().payload.expect("a payload"));
                }
                Effect::Event(event) => self.events.push(event),
                Effect::Signal(signal) => self.signals.push(signal),
            }
        }
    }

    fn open(&mut self) {
        self.open = true;
        self.generation += 1;
        let generation = Generation(self.generation);
        self.call(|core, now, cx| core.on_open(now, generation, cx));
    }

    fn receive(&mut self, payload: Payload) {
        let message = StreamerMessage {
            payload: Some(payload),
        };
        self.call(|core, now, cx| core.on_message(now, message.into(), cx));
    }

    fn command(&mut self, command: Command) {
        self.call(|core, now, cx| core.on_command(now, command, cx));
    }

    /// The application takes `changes` more changes of a subscription.
    fn take(&mut self, id: u64, changes: u64) {
        let through = self.taken.entry(id).or_default();
        *through += changes;
        let (id, through) = (SubscriptionId(id), *through);
        self.command(Command::Taken { id, through });
    }

    fn cut(&mut self) {
        self.cut_by(Reason::Lost("cut".into()));
    }

    fn cut_by(&mut self, reason: Reason) {
        self.open = false;
        let end = End::retry(Initiator::Network, reason);
        self.call(|core, now, cx| core.on_down(now, &end, cx));
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        while self.core.deadline().is_some_and(|at| at <= self.now) {
            self.call(Protocol::on_timer);
        }
    }

    fn take_sent(&mut self) -> Vec<gateway_message::Payload> {
        std::mem::take(&mut self.sent)
    }

    fn take_signals(&mut self) -> Vec<Signal> {
        std::mem::take(&mut self.signals)
    }

    /// Returns the items of one subscription since the last look, and keeps those of the others.
    fn take_items(&mut self, wanted: u64) -> Vec<Item> {
        let mut items = Vec::new();
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Item { id, item } if id == SubscriptionId(wanted) => items.push(item),
                Event::Item { .. } => self.events.push(event),
                _ => {}
            }
        }
        items
    }

    /// Subscribe requests sent since the last look.
    fn take_requests(&mut self) -> Vec<SubscribeRequest> {
        let request = |payload| match payload {
            gateway_message::Payload::Subscribe(request) => Some(request),
            _ => None,
        };
        self.take_sent().into_iter().filter_map(request).collect()
    }

    fn one_request(&mut self) -> SubscribeRequest {
        let mut requests = self.take_requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// The timestamp of the newest heartbeat sent.
    fn heartbeat(&self) -> i64 {
        let timestamp = |payload: &gateway_message::Payload| match payload {
            gateway_message::Payload::Heartbeat(heartbeat) => Some(heartbeat.timestamp),
            _ => None,
        };
        self.sent
            .iter()
            .rev()
            .find_map(timestamp)
            .expect("a heartbeat")
    }

    fn ack(&mut self, timestamp: i64, progress: Option<Progress>) {
        self.receive(Payload::HeartbeatAck(wire::HeartbeatAck {
            timestamp,
            progress,
        }));
    }

    /// Opens a stream to a plain peer.
    fn greet_plain(&mut self) {
        self.open();
        let timestamp = self.heartbeat();
        self.ack(timestamp, None);
    }

    /// Opens a stream to a peer with the profile, whose log is at `head`.
    fn greet_profile(&mut self, head: u64) {
        self.greet_in(EPOCH, head);
    }

    /// Welcomes the client in a term of the server.
    fn greet_in(&mut self, epoch: u64, head: u64) {
        self.open();
        let mut welcome = welcome(head);
        if let Payload::Welcome(welcome) = &mut welcome {
            welcome.head = Some(on_wire(Position::new(Epoch(epoch), head)));
        }
        self.receive(welcome);
    }

    /// Loses the stream and opens another one to a plain peer.
    fn resume_plain(&mut self) {
        self.cut();
        self.greet_plain();
    }

    /// Loses the stream and opens another one to a peer with the profile, whose log is at `head`.
    fn resume_profile(&mut self, head: u64) {
        self.cut();
        self.greet_profile(head);
    }

    fn subscribe(&mut self, id: u64) {
        self.subscribe_from(id, Start::Now);
    }

    fn subscribe_from(&mut self, id: u64, start: Start) {
        self.subscribe_with(id, start, SubscribeOptions::default());
    }

    fn subscribe_with(&mut self, id: u64, start: Start, options: SubscribeOptions) {
        self.command(Command::Subscribe {
            options,
            id: SubscriptionId(id),
            database: "default".to_owned(),
            collection: "users".to_owned(),
            filter: Filter::all(),
            start,
        });
    }

    fn unsubscribe(&mut self, id: u64) {
        let id = SubscriptionId(id);
        self.command(Command::Unsubscribe { id });
    }

    /// Accepts the only request since the last look, and returns it.
    fn accept_one(&mut self, at: Position) -> SubscribeRequest {
        let request = self.one_request();
        self.accept_at(&request, at);
        request
    }

    /// As [`Rig::accept_one`], from a plain peer.
    fn accept_one_plain(&mut self) -> SubscribeRequest {
        let request = self.one_request();
        self.accept_plain(&request);
        request
    }

    fn accept_all_plain(&mut self) {
        for request in self.take_requests() {
            self.accept_plain(&request);
        }
    }

    /// Responds to a request. A plain peer does not know the number of the request.
    fn respond(&mut self, request: &SubscribeRequest, number: u64, response: SubscribeResponse) {
        self.receive(Payload::SubscribeResponse(SubscribeResponse {
            subscription_id: request.subscription_id.clone(),
            request: number,
            ..response
        }));
    }

    fn accept_plain(&mut self, request: &SubscribeRequest) {
        self.respond(request, 0, accepted());
    }

    fn refuse_plain(&mut self, request: &SubscribeRequest, error: &str) {
        let error = error.to_owned();
        let response = SubscribeResponse {
            error,
            ..SubscribeResponse::default()
        };
        self.respond(request, 0, response);
    }

    fn accept_at(&mut self, request: &SubscribeRequest, at: Position) {
        let position = Some(on_wire(at));
        let response = SubscribeResponse {
            position,
            ..accepted()
        };
        self.respond(request, request.request, response);
    }

    /// Accepts a request that says where to begin.
    fn begin_at(&mut self, request: &SubscribeRequest, at: Position) {
        let response = SubscribeResponse {
            position: Some(on_wire(at)),
            start: true,
            ..accepted()
        };
        self.respond(request, request.request, response);
    }

    fn refuse(&mut self, request: &SubscribeRequest, code: RefusalCode, error: &str) {
        let response = SubscribeResponse {
            error: error.to_owned(),
            code: code.into(),
            ..SubscribeResponse::default()
        };
        self.respond(request, request.request, response);
    }

    fn resync(&mut self, request: &SubscribeRequest, reason: wire::ResyncReason, to: Position) {
        let resync = Some(wire::Resync {
            reason: reason.into(),
            resumes_at: Some(on_wire(to)),
        });
        let response = SubscribeResponse {
            resync,
            ..accepted()
        };
        self.respond(request, request.request, response);
    }

    fn deliver_plain(&mut self, ids: &[&str], name: u64) {
        self.receive(Payload::Delivery(EventDelivery {
            subscription_ids: ids.iter().map(ToString::to_string).collect(),
            event: Some(event(name)),
            ..EventDelivery::default()
        }));
    }

    fn deliver(&mut self, id: &str, previous: u64, offset: u64) {
        self.deliver_at(&[id], &[previous], at(offset));
    }

    fn deliver_at(&mut self, ids: &[&str], previous: &[u64], at: Position) {
        self.receive(Payload::Delivery(EventDelivery {
            subscription_ids: ids.iter().map(ToString::to_string).collect(),
            event: Some(event(at.offset)),
            position: Some(on_wire(at)),
            previous: previous.to_vec(),
            left: false,
        }));
    }

    fn progress(&mut self, offset: u64, behind: &[&str]) {
        self.receive(Payload::Progress(progress(offset, behind)));
    }

    /// The end that was signalled since the last look.
    fn failure(&mut self) -> End {
        let failed = |signal| match signal {
            Signal::Fail(end) => Some(end),
            _ => None,
        };
        let ends: Vec<_> = self.take_signals().into_iter().filter_map(failed).collect();
        assert_eq!(ends.len(), 1, "{ends:?}");
        ends.into_iter().next().expect("one end")
    }

    /// What the peer did wrong, as signalled since the last look.
    fn fault(&mut self) -> String {
        match self.failure() {
            End {
                initiator: Initiator::Peer,
                reason: Reason::Protocol(what),
                advice: steadfast_session::Advice::Retry,
                ..
            } => what.to_string(),
            end => panic!("not a protocol fault: {end:?}"),
        }
    }
}

fn accepted() -> SubscribeResponse {
    SubscribeResponse {
        success: true,
        ..SubscribeResponse::default()
    }
}

fn at(offset: u64) -> Position {
    Position::new(Epoch(EPOCH), offset)
}

fn on_wire(at: Position) -> wire::Position {
    at.into()
}

fn welcome(head: u64) -> Payload {
    Payload::Welcome(Welcome {
        version: 1,
        server_id: "srv".to_owned(),
        head: Some(on_wire(at(head))),
        heartbeat_interval_ms: 0,
        expires_in_ms: 0,
    })
}

fn progress(offset: u64, behind: &[&str]) -> Progress {
    Progress {
        position: Some(on_wire(at(offset))),
        behind: behind.iter().map(ToString::to_string).collect(),
    }
}

/// Weight 16 + 7 + 5 + the digits of the name.
fn event(name: u64) -> StreamerEvent {
    StreamerEvent {
        event_id: name.to_string(),
        database: "default".to_owned(),
        collection: "users".to_owned(),
        document_id: name.to_string(),
        operation: wire::OperationType::Update.into(),
        document_data: bytes::Bytes::from_static(b"{\"version\":12345"),
        timestamp: 1,
    }
}

/// The names of the changes, and every other item as it is.
fn names(items: &[Item]) -> Vec<String> {
    let name = |item: &Item| match item {
        Item::Change(change) => change.event_id.to_string(),
        Item::Gap(gap) => format!("{:?}", gap.reason),
        Item::Resync(resync) => format!(
            "{:?} {}..{}",
            resync.reason, resync.lost_from.offset, resync.resumes_at.offset
        ),
        Item::Left(change) => format!("left {}", change.event_id),
        Item::Snapshot(Snapshot::Begin { follows }) => format!("begin {}", follows.offset),
        Item::Snapshot(Snapshot::Bound { number, bound }) => {
            format!("bound {number} {}", bound.is_some())
        }
        Item::Snapshot(Snapshot::Document(document)) => format!("doc {}", document.event_id),
        Item::Snapshot(Snapshot::End(at)) => format!("end {}", at.offset),
    };
    items.iter().map(name).collect()
}

fn last_words(code: wire::FinalCode, retry_after_ms: u32) -> Payload {
    Payload::Final(Final {
        code: code.into(),
        retry_after_ms,
        message: "m".to_owned(),
    })
}
