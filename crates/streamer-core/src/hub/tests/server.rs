//! A hub with a log and peers, all of them values of the test.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use steadfast_session::Time;
use steadfast_wire::streamer::{
    self as wire, Credit, EventDelivery, Filter, Final, FinalCode, GatewayMessage, Heartbeat,
    HeartbeatAck, Hello, Position, SnapshotRequest, StreamerMessage, SubscribeRequest,
    SubscribeResponse, UnsubscribeRequest, Value, gateway_message::Payload as Request,
    streamer_message::Payload, subscribe_request, value::Kind,
};

use super::super::*;
use crate::{Bounds, Epoch, Operation, Previous, Terms};

/// The epoch of the log.
pub(super) const EPOCH: u64 = 0xe1;

/// The end of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) status: EndStatus,
    pub(super) final_code: Option<FinalCode>,
    pub(super) retry_after_ms: Option<u32>,
    pub(super) flush: bool,
}

/// A read in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    id: ReadId,
    pub(super) after: u64,
    max_events: usize,
    pub(super) max_bytes: usize,
}

/// A read of documents in progress.
#[derive(Clone, Debug)]
pub(super) struct PendingDocuments {
    id: ReadId,
    collection: Arc<str>,
    pub(super) after: Option<Arc<str>>,
    pub(super) max_documents: usize,
}

pub(super) struct Server {
    pub(super) hub: Hub,
    pub(super) now: Time,
    pub(super) log: Vec<Arc<Event>>,
    /// The messages that the test has not taken yet.
    inbox: BTreeMap<StreamId, VecDeque<Payload>>,
    /// The sizes of the messages in each stream's queue.
    pub(super) unsent: BTreeMap<StreamId, VecDeque<usize>>,
    pub(super) ended: BTreeMap<StreamId, Ended>,
    pub(super) reads: Vec<Pending>,
    pub(super) reads_seen: u64,
    pub(super) document_reads: Vec<PendingDocuments>,
    /// The number of newest events that the table of documents does not contain yet.
    pub(super) table_lag: u64,
    pub(super) next_tick: Option<Time>,
    /// The oldest offset that can be read after.
    pub(super) first: u64,
    /// The offset of the only damaged event.
    pub(super) damaged: Option<u64>,
    /// The states of documents before events can be read.
    pub(super) reads_previous: bool,
    /// The hub is audited after each step.
    pub(super) audited: bool,
    next_stream: u64,
    next_request: u64,
}

impl Server {
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        Self::with_log(Vec::new(), limits)
    }

    /// Creates a server on a log with these events.
    pub(super) fn with_log(log: Vec<Arc<Event>>, limits: Limits) -> Self {
        Self::with_terms(Terms::new(Epoch(EPOCH)), log, limits)
    }

    /// Creates a server on a log with these terms and events.
    pub(super) fn with_terms(terms: Terms, log: Vec<Arc<Event>>, limits: Limits) -> Self {
        let initial = InitialState {
            server_id: "test".to_owned(),
            terms,
            bounds: Bounds {
                first: 0,
                head: log.len() as u64,
            },
            seed: [7; 32],
        };
        Self {
            hub: Hub::new(initial, limits).unwrap(),
            now: Time::ZERO,
            log,
            inbox: BTreeMap::new(),
            unsent: BTreeMap::new(),
            ended: BTreeMap::new(),
            reads: Vec::new(),
            reads_seen: 0,
            document_reads: Vec::new(),
            table_lag: 0,
            next_tick: None,
            first: 0,
            damaged: None,
            reads_previous: true,
            audited: true,
            next_stream: 0,
            next_request: 0,
        }
    }

    pub(super) fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        let is_tick = matches!(input, Input::Tick);
        self.next_tick = self.hub.step(self.now, input, &mut out);
        if self.audited {
            self.hub.audit();
        }
        let overdue = self.next_tick.is_some_and(|at| at <= self.now);
        assert!(
            !(is_tick && overdue && !self.hub.has_work()),
            "a tick left something overdue"
        );
        for action in out {
            self.on_action(action);
        }
    }

    fn on_action(&mut self, action: Action) {
        match action {
            Action::Send {
                stream,
                frames,
                messages,
            } => {
                assert!(!self.ended.contains_key(&stream), "sent after the end");
                let split: Vec<_> = split_frames(frames).collect();
                assert_eq!(split.len(), messages);
                for message in split {
                    let unsent = self.unsent.entry(stream).or_default();
                    unsent.push_back(FRAME_HEAD + message.len());
                    let message = decode(&message);
                    let payload = message.payload.expect("every message has a payload");
                    self.inbox.entry(stream).or_default().push_back(payload);
                }
            }
            Action::End {
                stream,
                last,
                status,
                flush,
            } => {
                self.unsent.remove(&stream);
                let last = last.map(|last| match decode(&last.slice(FRAME_HEAD..)).payload {
                    Some(Payload::Final(last)) => last,
                    other => panic!("the last message is {other:?}"),
                });
                let ended = Ended {
                    status,
                    final_code: last.as_ref().map(Final::code),
                    retry_after_ms: last.map(|last| last.retry_after_ms),
                    flush,
                };
                let before = self.ended.insert(stream, ended);
                assert_eq!(before, None, "ended twice");
            }
            Action::Read {
                read,
                after,
                max_events,
                max_bytes,
            } => {
                self.reads_seen += 1;
                self.reads.push(Pending {
                    id: read,
                    after,
                    max_events,
                    max_bytes,
                });
            }
            Action::ReadDocuments {
                read,
                collection,
                after,
                max_documents,
                ..
            } => self.document_reads.push(PendingDocuments {
                id: read,
                collection,
                after,
                max_documents,
            }),
        }
    }

    /// Opens a stream without a message.
    pub(super) fn open(&mut self) -> StreamId {
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        self.step(Input::Opened { stream });
        stream
    }

    /// Opens a profile stream. Its welcome is the next message.
    pub(super) fn hello(&mut self, session: &str, attempt: u64) -> StreamId {
        let stream = self.open();
        self.send(stream, Request::Hello(hello(session, attempt)));
        stream
    }

    /// Opens a profile stream and takes its welcome.
    pub(super) fn welcomed(&mut self, session: &str) -> StreamId {
        let stream = self.hello(session, 1);
        assert!(matches!(self.next(stream), Some(Payload::Welcome(_))));
        stream
    }

    pub(super) fn send(&mut self, stream: StreamId, payload: Request) {
        let message = GatewayMessage {
            payload: Some(payload),
        };
        self.step(Input::Message { stream, message });
    }

    /// Subscribes and returns the response, which must be the next message.
    pub(super) fn subscribe(
        &mut self,
        stream: StreamId,
        wanted: NewSubscription,
    ) -> SubscribeResponse {
        let request = self.send_subscribe(stream, wanted);
        match self.next(stream) {
            Some(Payload::SubscribeResponse(response)) => {
                assert!(response.request == 0 || response.request == request);
                response
            }
            other => panic!("not a response to subscribe: {other:?}"),
        }
    }

    /// Sends a subscribe request and returns its number.
    pub(super) fn send_subscribe(&mut self, stream: StreamId, wanted: NewSubscription) -> u64 {
        self.next_request += 1;
        let request = SubscribeRequest {
            request: self.next_request,
            ..wanted.0
        };
        self.send(stream, Request::Subscribe(request));
        self.next_request
    }

    pub(super) fn unsubscribe(&mut self, stream: StreamId, id: &str, request: u64) {
        let unsubscribe = UnsubscribeRequest {
            subscription_id: id.to_owned(),
            request,
        };
        self.send(stream, Request::Unsubscribe(unsubscribe));
    }

    pub(super) fn credit(&mut self, stream: StreamId, id: &str, messages: u64, bytes: u64) {
        let credit = Credit {
            subscription_id: id.to_owned(),
            messages,
            bytes,
            ..Credit::default()
        };
        self.send(stream, Request::Credit(credit));
    }

    /// Tells how far the client keeps the documents of a window.
    pub(super) fn narrow(
        &mut self,
        stream: StreamId,
        id: &str,
        bound: wire::WindowBound,
        snapshot: u32,
    ) {
        let credit = Credit {
            subscription_id: id.to_owned(),
            bound: Some(Box::new(bound)),
            snapshot,
            ..Credit::default()
        };
        self.send(stream, Request::Credit(credit));
    }

    /// Sends a heartbeat and returns the ack, which must be the next message.
    pub(super) fn heartbeat(&mut self, stream: StreamId, timestamp: i64) -> HeartbeatAck {
        self.send_heartbeat(stream, timestamp);
        match self.next(stream) {
            Some(Payload::HeartbeatAck(ack)) => ack,
            other => panic!("not an ack: {other:?}"),
        }
    }

    pub(super) fn send_heartbeat(&mut self, stream: StreamId, timestamp: i64) {
        let heartbeat = Heartbeat {
            gateway_id: "gateway".to_owned(),
            timestamp,
        };
        self.send(stream, Request::Heartbeat(heartbeat));
    }

    /// Commits one event with the field `n` and returns its offset.
    pub(super) fn commit(&mut self, collection: &str, document: &str, n: i64) -> u64 {
        self.commit_event(|offset| event(offset, collection, document, n))
    }

    /// Commits the deletion of a document.
    pub(super) fn commit_delete(&mut self, collection: &str, document: &str) -> u64 {
        self.commit_event(|offset| {
            let mut event = Event::clone(&event(offset, collection, document, 0));
            event.operation = Operation::Delete;
            event.data = Bytes::from_static(b"{\"deleted\":true}");
            Arc::new(event)
        })
    }

    fn commit_event(&mut self, event: impl Fn(u64) -> Arc<Event>) -> u64 {
        let offset = self.log.len() as u64 + 1;
        let mut event = Event::clone(&event(offset));
        let mut earlier = self.log.iter().rev();
        let before = earlier
            .find(|it| it.document_id == event.document_id && it.collection == event.collection);
        event.previous = match before {
            Some(before) if before.operation != Operation::Delete => Previous::At(before.offset),
            Some(_) | None => Previous::Nothing,
        };
        self.log.push(Arc::new(event));
        let events = self.completed(&self.log[offset as usize - 1..]);
        self.step(Input::Committed { events });
        offset
    }

    /// Returns events with the states before them, where the hub wants them.
    fn completed(&self, events: &[Arc<Event>]) -> Vec<Arc<Event>> {
        let complete = |event: &Arc<Event>| match event.previous {
            Previous::At(at)
                if self.reads_previous && at > self.first && self.hub.wants_previous(event) =>
            {
                Arc::new(Event {
                    previous: Previous::Read(Arc::clone(&self.log[at as usize - 1])),
                    ..Event::clone(event)
                })
            }
            _ => Arc::clone(event),
        };
        events.iter().map(complete).collect()
    }

    /// Completes a read in progress, as the log would.
    pub(super) fn complete_read(&mut self, index: usize) {
        let read = self.reads.remove(index);
        let after = usize::try_from(read.after).unwrap();
        let result = if read.after < self.first {
            Err(ReadFault::Trimmed { first: self.first })
        } else if self.damaged == Some(read.after + 1) {
            Err(ReadFault::Damaged {
                offset: read.after + 1,
            })
        } else {
            let mut bytes = 0;
            let page = self.log[after..].iter().take(read.max_events);
            let page = page.take_while(|event| {
                let fits = bytes == 0 || bytes + event.weight() <= read.max_bytes;
                bytes += event.weight();
                fits && self.damaged != Some(event.offset)
            });
            let page: Vec<_> = page.cloned().collect();
            Ok(self.completed(&page))
        };
        self.step(Input::ReadDone {
            read: read.id,
            result,
        });
    }

    /// Completes the oldest read of documents, as the log would.
    pub(super) fn complete_document_read(&mut self) {
        let read = self.document_reads.remove(0);
        let as_of = (self.log.len() as u64).saturating_sub(self.table_lag);
        let contained = self
            .log
            .iter()
            .filter(|event| event.offset <= as_of && event.collection == read.collection);
        let newest: BTreeMap<_, _> = contained
            .map(|event| (Arc::clone(&event.document_id), event))
            .collect();
        let rest: Vec<_> = newest
            .into_iter()
            .filter(|(id, _)| read.after.as_ref().is_none_or(|after| id > after))
            .collect();
        let page = &rest[..rest.len().min(read.max_documents)];
        let existing = page
            .iter()
            .filter(|(_, event)| event.operation != Operation::Delete);
        let result = DocumentPage {
            documents: existing.map(|(_, event)| Arc::clone(event)).collect(),
            as_of,
            next: page
                .last()
                .filter(|_| page.len() < rest.len())
                .map(|(id, _)| Arc::clone(id)),
        };
        self.step(Input::DocumentsRead {
            read: read.id,
            result: Ok(result),
        });
    }

    /// Fails the oldest read of documents.
    pub(super) fn fail_document_read(&mut self) {
        let read = self.document_reads.remove(0).id;
        let result = Err(ReadFault::Storage("disk".to_owned()));
        self.step(Input::DocumentsRead { read, result });
    }

    /// Completes the oldest read with a fault.
    pub(super) fn fail_read(&mut self, fault: ReadFault) {
        let read = self.reads.remove(0).id;
        self.step(Input::ReadDone {
            read,
            result: Err(fault),
        });
    }

    /// Removes up to `count` messages from a stream's queue.
    pub(super) fn transport_takes(&mut self, stream: StreamId, count: usize) {
        let Some(unsent) = self.unsent.get_mut(&stream) else {
            return;
        };
        let messages = count.min(unsent.len());
        let bytes = unsent.drain(..messages).sum();
        if messages > 0 {
            self.step(Input::Sent {
                stream,
                bytes,
                messages,
            });
        }
    }

    pub(super) fn transport_takes_all(&mut self, stream: StreamId) {
        self.transport_takes(stream, usize::MAX);
    }

    /// Sends everything and completes every read until nothing is left to do.
    pub(super) fn run_until_idle(&mut self) {
        for _ in 0..1_000_000 {
            let waiting = self.unsent.iter().find(|(_, unsent)| !unsent.is_empty());
            if let Some(stream) = waiting.map(|(stream, _)| *stream) {
                self.transport_takes_all(stream);
            } else if self.hub.has_work() {
                self.step(Input::Tick);
            } else if !self.document_reads.is_empty() {
                self.complete_document_read();
            } else if self.reads.is_empty() {
                return;
            } else {
                self.complete_read(0);
            }
        }
        panic!("the hub never becomes idle");
    }

    pub(super) fn end(&mut self, stream: StreamId) {
        self.step(Input::Ended { stream });
    }

    /// Advances the time, with a tick at each deadline.
    pub(super) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.next_tick.filter(|at| *at <= until) {
            self.now = at;
            self.step(Input::Tick);
        }
        self.now = until;
        self.step(Input::Tick);
    }

    pub(super) fn next(&mut self, stream: StreamId) -> Option<Payload> {
        self.inbox.get_mut(&stream)?.pop_front()
    }

    /// Puts messages back in front of those sent since they were taken.
    pub(super) fn put_back(&mut self, stream: StreamId, before: Vec<Payload>) {
        let inbox = self.inbox.entry(stream).or_default();
        for payload in before.into_iter().rev() {
            inbox.push_front(payload);
        }
    }

    /// Takes all messages of a stream.
    pub(super) fn take(&mut self, stream: StreamId) -> Vec<Payload> {
        self.inbox.remove(&stream).unwrap_or_default().into()
    }

    /// Takes all messages of a stream, which must be deliveries.
    pub(super) fn deliveries(&mut self, stream: StreamId) -> Vec<EventDelivery> {
        let delivery = |payload| match payload {
            Payload::Delivery(delivery) => delivery,
            other => panic!("not a delivery: {other:?}"),
        };
        self.take(stream).into_iter().map(delivery).collect()
    }

    /// Takes all deliveries and returns the offset and subscription ids of each.
    pub(super) fn delivered(&mut self, stream: StreamId) -> Vec<(u64, Vec<String>)> {
        let row = |delivery: EventDelivery| {
            let event = delivery.event.expect("a delivery has an event");
            (offset_of(&event.event_id), delivery.subscription_ids)
        };
        self.deliveries(stream).into_iter().map(row).collect()
    }

    /// Takes all deliveries and returns their offsets.
    pub(super) fn offsets(&mut self, stream: StreamId) -> Vec<u64> {
        let rows = self.delivered(stream);
        rows.into_iter().map(|(offset, _)| offset).collect()
    }

    pub(super) fn code(&self, stream: StreamId) -> Option<EndCode> {
        self.ended.get(&stream).map(|ended| ended.status.code)
    }

    /// Ends every stream and checks that nothing is left.
    pub(super) fn assert_frees_everything(&mut self) {
        let open = self.hub.streams.ids();
        for stream in open {
            self.end(stream);
        }
        self.run_until_idle();
        assert_eq!(self.hub.stats().gauges, Gauges::default());
        assert!(self.hub.subscriptions.windows().is_empty());
        assert!(!self.hub.catch_up.holds_pages(), "pages nobody waits for");
        assert_eq!(self.next_tick, None);
    }
}

/// Decodes a message and checks that the generated code would encode it in the same way.
fn decode(encoded: &[u8]) -> StreamerMessage {
    let message = StreamerMessage::decode(encoded).expect("a valid message");
    assert_eq!(message.encode_to_vec(), encoded);
    message
}

/// A builder of subscribe requests.
#[derive(Clone, Debug, Default)]
pub(super) struct NewSubscription(pub(super) SubscribeRequest);

/// Returns a request for a whole collection with credit for a million events.
pub(super) fn want(id: &str, collection: &str) -> NewSubscription {
    NewSubscription(SubscribeRequest {
        subscription_id: id.to_owned(),
        database: "db".to_owned(),
        collection: collection.to_owned(),
        credit_messages: 1_000_000,
        credit_bytes: 1_000_000_000,
        ..SubscribeRequest::default()
    })
}

impl NewSubscription {
    pub(super) fn filter(mut self, field: &str, op: &str, value: Kind) -> Self {
        self.0.filters.push(Filter {
            field: field.to_owned(),
            op: op.to_owned(),
            value: Some(Value { kind: Some(value) }),
            path: Vec::new(),
        });
        self
    }

    pub(super) fn document(self, id: &str) -> Self {
        self.filter("_id", "==", Kind::StringValue(id.to_owned()))
    }

    pub(super) fn after(mut self, offset: u64) -> Self {
        self.0.resume = Some(position(offset));
        self
    }

    pub(super) fn resume(mut self, position: Position) -> Self {
        self.0.resume = Some(position);
        self
    }

    /// Asks for a snapshot and for documents that leave.
    pub(super) fn snapshot(mut self, cursor: Bytes) -> Self {
        self.0.snapshot = Some(SnapshotRequest { cursor });
        self.0.left = true;
        self
    }

    pub(super) fn start(mut self, start: subscribe_request::Start) -> Self {
        self.0.start = Some(start);
        self
    }

    /// Asks for documents that leave.
    pub(super) fn left(mut self) -> Self {
        self.0.left = true;
        self
    }

    /// Asks for the first documents by their field `n`.
    pub(super) fn window(mut self, window: wire::Window) -> Self {
        self.0.window = Some(Box::new(window));
        self
    }

    pub(super) fn credit(mut self, messages: u64, bytes: u64) -> Self {
        self.0.credit_messages = messages;
        self.0.credit_bytes = bytes;
        self
    }
}

pub(super) fn hello(session: &str, attempt: u64) -> Hello {
    Hello {
        version: 1,
        client_id: "client".to_owned(),
        session_id: session.to_owned(),
        attempt,
        heartbeat_interval_ms: 30_000,
        secret: bytes::Bytes::new(),
    }
}

pub(super) fn position(offset: u64) -> Position {
    Position {
        epoch: EPOCH,
        offset,
    }
}

pub(super) fn event(offset: u64, collection: &str, document: &str, n: i64) -> Arc<Event> {
    Arc::new(Event {
        previous: crate::Previous::Unknown,
        offset,
        database: "db".into(),
        collection: collection.into(),
        document_id: document.into(),
        operation: Operation::Insert,
        data: Bytes::from(format!("{{\"n\":{n}}}")),
        timestamp: 0,
    })
}

/// Returns `count` events in `rooms`.
pub(super) fn rooms(count: u64) -> Vec<Arc<Event>> {
    (1..=count)
        .map(|offset| event(offset, "rooms", "r1", 1))
        .collect()
}

pub(super) fn offset_of(event_id: &str) -> u64 {
    let position: crate::Position = event_id.parse().unwrap();
    position.offset
}

pub(super) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
