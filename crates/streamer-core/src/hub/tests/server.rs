//! A hub with a log and peers around it, all of them values of the test.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use steadfast_session::Time;
use steadfast_wire::streamer::{
    Credit, EventDelivery, Filter, Final, FinalCode, GatewayMessage, Heartbeat, HeartbeatAck,
    Hello, Position, StreamerMessage, SubscribeRequest, SubscribeResponse, UnsubscribeRequest,
    Value, gateway_message::Payload as Ask, streamer_message::Payload as Answer, value::Kind,
};

use super::super::*;
use crate::Operation;

/// The log's name.
pub(super) const EPOCH: u64 = 0xe1;

/// How a stream ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) status: EndStatus,
    pub(super) final_code: Option<FinalCode>,
    pub(super) retry_after_ms: Option<u32>,
    pub(super) flush: bool,
}

/// A read that the log has not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    id: ReadId,
    pub(super) after: u64,
    max_events: usize,
    pub(super) max_bytes: usize,
}

pub(super) struct Server {
    pub(super) hub: Hub,
    pub(super) now: Time,
    pub(super) log: Vec<Arc<Event>>,
    /// What was sent on a stream and not looked at by the test.
    inbox: BTreeMap<StreamId, VecDeque<Answer>>,
    /// Sizes of what has not left the queue of a stream.
    pub(super) unsent: BTreeMap<StreamId, VecDeque<usize>>,
    pub(super) ended: BTreeMap<StreamId, Ended>,
    pub(super) reads: Vec<Pending>,
    pub(super) reads_seen: u64,
    pub(super) next_tick: Option<Time>,
    /// The oldest place that can be read from.
    pub(super) first: u64,
    /// The only entry that can not be read.
    pub(super) damaged: Option<u64>,
    /// Whether to look at everything after each step.
    pub(super) audited: bool,
    next_stream: u64,
    next_request: u64,
}

impl Server {
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        Self::holding(Vec::new(), limits)
    }

    /// A server that begins on a log with these events.
    pub(super) fn holding(log: Vec<Arc<Event>>, limits: Limits) -> Self {
        let initial = InitialState {
            server_id: "test".to_owned(),
            epoch: Epoch(EPOCH),
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
            next_tick: None,
            first: 0,
            damaged: None,
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
        assert!(!(is_tick && overdue), "a tick that does not do what is due");
        for action in out {
            self.on_action(action);
        }
    }

    fn on_action(&mut self, action: Action) {
        match action {
            Action::Send {
                stream,
                message,
                bytes,
            } => {
                assert!(!self.ended.contains_key(&stream), "sent after the end");
                assert_eq!(bytes, prost::Message::encoded_len(&message));
                self.unsent.entry(stream).or_default().push_back(bytes);
                let payload = message.payload.expect("every message says something");
                self.inbox.entry(stream).or_default().push_back(payload);
            }
            Action::End {
                stream,
                last,
                status,
                flush,
            } => {
                self.unsent.remove(&stream);
                let last = last.map(|StreamerMessage { payload }| match payload {
                    Some(Answer::Final(last)) => last,
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
        }
    }

    /// A peer that has said nothing yet.
    pub(super) fn open(&mut self) -> StreamId {
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        self.step(Input::Opened { stream });
        stream
    }

    /// A peer that began with hello. Its welcome is still to be looked at.
    pub(super) fn hello(&mut self, session: &str, attempt: u64) -> StreamId {
        let stream = self.open();
        self.say(stream, Ask::Hello(hello(session, attempt)));
        stream
    }

    /// A peer of the profile that was welcomed.
    pub(super) fn welcomed(&mut self, session: &str) -> StreamId {
        let stream = self.hello(session, 1);
        assert!(matches!(self.next(stream), Some(Answer::Welcome(_))));
        stream
    }

    pub(super) fn say(&mut self, stream: StreamId, payload: Ask) {
        let message = GatewayMessage {
            payload: Some(payload),
        };
        self.step(Input::Message { stream, message });
    }

    /// Subscribes and returns the answer, which is the next message.
    pub(super) fn subscribe(&mut self, stream: StreamId, wanted: Wanted) -> SubscribeResponse {
        let request = self.ask(stream, wanted);
        match self.next(stream) {
            Some(Answer::SubscribeResponse(response)) => {
                assert!(response.request == 0 || response.request == request);
                response
            }
            other => panic!("not an answer to subscribe: {other:?}"),
        }
    }

    /// Asks for a subscription and looks at nothing. Returns the request's number.
    pub(super) fn ask(&mut self, stream: StreamId, wanted: Wanted) -> u64 {
        self.next_request += 1;
        let request = SubscribeRequest {
            request: self.next_request,
            ..wanted.0
        };
        self.say(stream, Ask::Subscribe(request));
        self.next_request
    }

    pub(super) fn unsubscribe(&mut self, stream: StreamId, id: &str, request: u64) {
        let unsubscribe = UnsubscribeRequest {
            subscription_id: id.to_owned(),
            request,
        };
        self.say(stream, Ask::Unsubscribe(unsubscribe));
    }

    pub(super) fn credit(&mut self, stream: StreamId, id: &str, messages: u64, bytes: u64) {
        let credit = Credit {
            subscription_id: id.to_owned(),
            messages,
            bytes,
        };
        self.say(stream, Ask::Credit(credit));
    }

    /// A heartbeat, whose ack must be the next message.
    pub(super) fn heartbeat(&mut self, stream: StreamId, timestamp: i64) -> HeartbeatAck {
        self.beat(stream, timestamp);
        match self.next(stream) {
            Some(Answer::HeartbeatAck(ack)) => ack,
            other => panic!("not an ack: {other:?}"),
        }
    }

    pub(super) fn beat(&mut self, stream: StreamId, timestamp: i64) {
        let heartbeat = Heartbeat {
            gateway_id: "gateway".to_owned(),
            timestamp,
        };
        self.say(stream, Ask::Heartbeat(heartbeat));
    }

    /// Commits one event of `n` to a document and returns its offset.
    pub(super) fn commit(&mut self, collection: &str, document: &str, n: i64) -> u64 {
        let offset = self.log.len() as u64 + 1;
        let event = event(offset, collection, document, n);
        self.log.push(Arc::clone(&event));
        self.step(Input::Committed {
            events: vec![event],
        });
        offset
    }

    /// Answers the read at this place of the row, as the log would.
    pub(super) fn answer(&mut self, index: usize) {
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
            Ok(page.cloned().collect())
        };
        self.step(Input::ReadDone {
            read: read.id,
            result,
        });
    }

    /// Answers the oldest read with a fault.
    pub(super) fn fail_read(&mut self, fault: ReadFault) {
        let read = self.reads.remove(0).id;
        self.step(Input::ReadDone {
            read,
            result: Err(fault),
        });
    }

    /// Lets up to `count` messages leave the queue of a stream.
    pub(super) fn send_some(&mut self, stream: StreamId, count: usize) {
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

    pub(super) fn send_all(&mut self, stream: StreamId) {
        self.send_some(stream, usize::MAX);
    }

    /// Sends everything and answers every read until nothing is left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let waiting = self.unsent.iter().find(|(_, unsent)| !unsent.is_empty());
            if let Some(stream) = waiting.map(|(stream, _)| *stream) {
                self.send_all(stream);
            } else if self.reads.is_empty() {
                return;
            } else {
                self.answer(0);
            }
        }
        panic!("the hub never comes to rest");
    }

    pub(super) fn end(&mut self, stream: StreamId) {
        self.step(Input::Ended { stream });
    }

    /// Lets time pass, with a tick whenever the hub asked for one.
    pub(super) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.next_tick.filter(|at| *at <= until) {
            self.now = at;
            self.step(Input::Tick);
        }
        self.now = until;
        self.step(Input::Tick);
    }

    pub(super) fn next(&mut self, stream: StreamId) -> Option<Answer> {
        self.inbox.get_mut(&stream)?.pop_front()
    }

    /// Puts answers before everything that came since they were taken.
    pub(super) fn put_back(&mut self, stream: StreamId, before: Vec<Answer>) {
        let inbox = self.inbox.entry(stream).or_default();
        for answer in before.into_iter().rev() {
            inbox.push_front(answer);
        }
    }

    /// Everything sent on a stream since the last look.
    pub(super) fn take(&mut self, stream: StreamId) -> Vec<Answer> {
        self.inbox.remove(&stream).unwrap_or_default().into()
    }

    /// The deliveries among everything sent since the last look, which must be nothing else.
    pub(super) fn deliveries(&mut self, stream: StreamId) -> Vec<EventDelivery> {
        let delivery = |answer| match answer {
            Answer::Delivery(delivery) => delivery,
            other => panic!("not a delivery: {other:?}"),
        };
        self.take(stream).into_iter().map(delivery).collect()
    }

    /// Offset and subscription ids of each delivery since the last look. For any peer.
    pub(super) fn delivered(&mut self, stream: StreamId) -> Vec<(u64, Vec<String>)> {
        let row = |delivery: EventDelivery| {
            let event = delivery.event.expect("a delivery has an event");
            (offset_of(&event.event_id), delivery.subscription_ids)
        };
        self.deliveries(stream).into_iter().map(row).collect()
    }

    /// Offsets delivered since the last look, to the one subscription there is.
    pub(super) fn offsets(&mut self, stream: StreamId) -> Vec<u64> {
        let rows = self.delivered(stream);
        rows.into_iter().map(|(offset, _)| offset).collect()
    }

    pub(super) fn code(&self, stream: StreamId) -> Option<EndCode> {
        self.ended.get(&stream).map(|ended| ended.status.code)
    }

    /// Ends every stream and looks for anything left.
    pub(super) fn assert_frees_everything(&mut self) {
        let open = self.hub.streams.ids();
        for stream in open {
            self.end(stream);
        }
        while !self.reads.is_empty() {
            self.answer(0);
        }
        assert_eq!(self.hub.stats().gauges, Gauges::default());
        assert_eq!(self.next_tick, None);
    }
}

/// A subscribe request in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(pub(super) SubscribeRequest);

/// A subscription to a whole collection, with credit for a million.
pub(super) fn want(id: &str, collection: &str) -> Wanted {
    Wanted(SubscribeRequest {
        subscription_id: id.to_owned(),
        database: "db".to_owned(),
        collection: collection.to_owned(),
        credit_messages: 1_000_000,
        credit_bytes: 1_000_000_000,
        ..SubscribeRequest::default()
    })
}

impl Wanted {
    pub(super) fn filter(mut self, field: &str, op: &str, value: Kind) -> Self {
        self.0.filters.push(Filter {
            field: field.to_owned(),
            op: op.to_owned(),
            value: Some(Value { kind: Some(value) }),
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

    pub(super) fn resume(mut self, place: Position) -> Self {
        self.0.resume = Some(place);
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
        offset,
        database: "db".into(),
        collection: collection.into(),
        document_id: document.into(),
        operation: Operation::Insert,
        data: Bytes::from(format!("{{\"n\":{n}}}")),
        timestamp: 0,
    })
}

/// So many events in `rooms`.
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
