//! Random scripts against a model that knows only the list of all events.
//!
//! The model recomputes from that list what each subscription must have received. It shares no code
//! with the hub: filters are judged by hand, positions are counted, credit is added up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::{prelude::*, test_runner::Config};
use steadfast_wire::streamer::{
    EventDelivery, Progress, SubscribeResponse, gateway_message::Payload as Request,
    streamer_message::Payload, value::Kind,
};

use super::server::*;
use crate::hub::*;

/// One step of a script. Small numbers choose among what exists, so that scripts shrink well.
#[derive(Clone, Debug)]
enum Op {
    OpenPlain,
    OpenProfile {
        session: u8,
        late: bool,
    },
    End {
        stream: u8,
    },
    Subscribe {
        stream: u8,
        id: u8,
        filter: u8,
        resume: u8,
        credit: u8,
    },
    Unsubscribe {
        stream: u8,
        id: u8,
    },
    Grant {
        stream: u8,
        id: u8,
        messages: u8,
    },
    Commit {
        count: u8,
        collection: u8,
        document: u8,
        n: u8,
    },
    CompleteRead {
        which: u8,
    },
    Send {
        stream: u8,
        count: u8,
    },
    Heartbeat {
        stream: u8,
    },
    /// A tick without time passing, which matches one slice.
    Slice,
    Pass {
        seconds: u8,
    },
    Trim {
        keep: u8,
    },
    Damage {
        back: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::OpenPlain),
        3 => (0..2_u8, any::<bool>())
            .prop_map(|(session, late)| Op::OpenProfile { session, late }),
        1 => any::<u8>().prop_map(|stream| Op::End { stream }),
        12 => (any::<u8>(), 0..4_u8, 0..4_u8, 0..8_u8, 0..6_u8).prop_map(
            |(stream, id, filter, resume, credit)| Op::Subscribe {
                stream, id, filter, resume, credit,
            }
        ),
        3 => (any::<u8>(), 0..4_u8).prop_map(|(stream, id)| Op::Unsubscribe { stream, id }),
        10 => (any::<u8>(), 0..4_u8, 0..6_u8)
            .prop_map(|(stream, id, messages)| Op::Grant { stream, id, messages }),
        14 => (1..5_u8, 0..2_u8, 0..2_u8, 0..8_u8).prop_map(
            |(count, collection, document, n)| Op::Commit { count, collection, document, n }
        ),
        12 => any::<u8>().prop_map(|which| Op::CompleteRead { which }),
        12 => (any::<u8>(), 1..6_u8).prop_map(|(stream, count)| Op::Send { stream, count }),
        3 => any::<u8>().prop_map(|stream| Op::Heartbeat { stream }),
        12 => Just(Op::Slice),
        3 => (1..25_u8).prop_map(|seconds| Op::Pass { seconds }),
        1 => (0..6_u8).prop_map(|keep| Op::Trim { keep }),
        1 => (0..4_u8).prop_map(|back| Op::Damage { back }),
    ]
}

/// A client's state of one of its subscriptions.
#[derive(Debug)]
struct Known {
    filter: u8,
    /// The order of registration within the whole script.
    age: usize,
    /// The offset of its start or of its last resync.
    began: u64,
    /// The last offset told.
    last: u64,
    /// The offsets received since `began`.
    received: Vec<u64>,
    /// The credit since the subscribe request; `None` for plain peers.
    credit: Option<Totals>,
}

#[derive(Clone, Copy, Debug)]
struct Totals {
    allowed: u64,
    used: u64,
}

#[derive(Debug)]
struct Client {
    session: Option<u8>,
    known: BTreeMap<String, Known>,
    /// The requests without a response, in order.
    requested: Vec<(String, Known)>,
}

struct Model {
    server: Server,
    clients: BTreeMap<StreamId, Client>,
    attempts: [u64; 2],
    age: usize,
}

impl Model {
    fn new(slice: u64) -> Self {
        let limits = Limits {
            slice,
            // About two ids fit, so that an event for more is sent in parts.
            delivery_bytes: 150,
            queue_messages: 4,
            page_events: 3,
            tail_events: 4,
            unmatched_events: 3,
            reads: 2,
            ..Limits::default()
        };
        Self {
            server: Server::with(limits),
            clients: BTreeMap::new(),
            attempts: [0; 2],
            age: 0,
        }
    }

    fn play(&mut self, op: &Op) {
        match *op {
            Op::OpenPlain => {
                let stream = self.server.open();
                self.client(stream, None);
            }
            Op::OpenProfile { session, late } => self.open_profile(session, late),
            Op::End { stream } => {
                if let Some(stream) = self.pick(stream) {
                    self.server.end(stream);
                }
            }
            Op::Subscribe {
                stream,
                id,
                filter,
                resume,
                credit,
            } => {
                if let Some(stream) = self.pick(stream) {
                    self.subscribe(stream, id, filter, resume, credit);
                }
            }
            Op::Unsubscribe { stream, id } => {
                if let Some(stream) = self.pick(stream) {
                    let id = name(id);
                    self.server.unsubscribe(stream, &id, 1);
                    self.receive_all();
                    if let Some(client) = self.clients.get_mut(&stream) {
                        client.known.remove(&id);
                    }
                }
            }
            Op::Grant {
                stream,
                id,
                messages,
            } => self.grant(stream, id, messages.into()),
            Op::Commit {
                count,
                collection,
                document,
                n,
            } => self.commit(count, collection, document, n),
            Op::CompleteRead { which } => {
                if !self.server.reads.is_empty() {
                    let which = usize::from(which) % self.server.reads.len();
                    self.server.complete_read(which);
                }
            }
            Op::Send { stream, count } => {
                if let Some(stream) = self.pick(stream) {
                    self.server.transport_takes(stream, count.into());
                }
            }
            Op::Heartbeat { stream } => {
                if let Some(stream) = self.pick(stream) {
                    self.server.send_heartbeat(stream, 1);
                }
            }
            Op::Slice => self.server.step(Input::Tick),
            Op::Pass { seconds: count } => self.server.pass(seconds(count.into())),
            Op::Trim { keep } => {
                let first = self
                    .head()
                    .saturating_sub(keep.into())
                    .max(self.server.first);
                self.server.first = first;
                self.server.step(Input::Trimmed { first });
            }
            Op::Damage { back } => {
                self.server.damaged = Some(self.head().saturating_sub(back.into()).max(1));
            }
        }
        self.receive_all();
    }

    fn head(&self) -> u64 {
        self.server.log.len() as u64
    }

    /// Returns one of the open streams.
    fn pick(&self, choice: u8) -> Option<StreamId> {
        let count = self.clients.len();
        let index = usize::from(choice).checked_rem(count)?;
        self.clients.keys().nth(index).copied()
    }

    fn client(&mut self, stream: StreamId, session: Option<u8>) {
        let client = Client {
            session,
            known: BTreeMap::new(),
            requested: Vec::new(),
        };
        self.clients.insert(stream, client);
    }

    fn open_profile(&mut self, session: u8, late: bool) {
        let attempt = &mut self.attempts[usize::from(session)];
        let held = |client: &Client| client.session == Some(session);
        let held = self.clients.values().any(held);
        let stream = if late && held {
            self.server.hello(&format!("session-{session}"), *attempt)
        } else {
            *attempt += 1;
            self.server.hello(&format!("session-{session}"), *attempt)
        };
        assert_eq!(self.server.ended.contains_key(&stream), late && held);
        if !(late && held) {
            assert!(matches!(
                self.server.next(stream),
                Some(Payload::Welcome(_))
            ));
            self.receive_all();
            assert!(
                !self.clients.values().any(|it| it.session == Some(session)),
                "not fenced"
            );
            self.client(stream, Some(session));
        }
    }

    fn subscribe(&mut self, stream: StreamId, id: u8, filter: u8, resume: u8, credit: u8) {
        let id = name(id);
        let profile = self.clients[&stream].session.is_some();
        let mut wanted = want(&id, "rooms");
        wanted = match filter {
            0 => wanted,
            1 => wanted.document("d1"),
            2 => wanted.filter("n", ">", Kind::IntValue(3)),
            _ => wanted.filter("n", "in", Kind::ListValue(few())),
        };
        if profile && resume > 0 {
            wanted = wanted.after((self.head() + 1).saturating_sub(resume.into()));
        }
        wanted = wanted.credit(credit.into(), 1_000_000);
        self.age += 1;
        let known = Known {
            filter,
            age: self.age,
            began: self.head(),
            last: self.head(),
            received: Vec::new(),
            credit: profile.then_some(Totals {
                allowed: credit.into(),
                used: 0,
            }),
        };
        if !profile {
            // Streams are numbered as they were opened; a newer one keeps the id.
            for (_, other) in self.clients.range_mut(..stream) {
                if other.session.is_none() {
                    other.known.remove(&id);
                }
            }
        }
        if let Some(client) = self.clients.get_mut(&stream) {
            client.requested.push((id, known));
        }
        self.server.send_subscribe(stream, wanted);
    }

    fn grant(&mut self, stream: u8, id: u8, messages: u64) {
        let Some(stream) = self.pick(stream) else {
            return;
        };
        let Some(client) = self.clients.get_mut(&stream) else {
            return;
        };
        let id = name(id);
        if client.session.is_none() {
            return;
        }
        let total = client.known.get_mut(&id).map_or(messages, |known| {
            let totals = known.credit.as_mut().expect("a profile peer counts credit");
            totals.allowed += messages;
            totals.allowed
        });
        self.server.credit(stream, &id, total, 1_000_000);
    }

    fn commit(&mut self, count: u8, collection: u8, document: u8, n: u8) {
        let head = self.head();
        let collection = ["rooms", "users"][usize::from(collection)];
        let document = ["d1", "d2"][usize::from(document)];
        let at = |step: u8| event(head + u64::from(step), collection, document, n.into());
        let events: Vec<_> = (1..=count).map(at).collect();
        self.server.log.extend(events.iter().map(Arc::clone));
        self.server.step(Input::Committed { events });
    }

    /// Handles every message sent and every stream ended.
    fn receive_all(&mut self) {
        let streams: Vec<_> = self.clients.keys().copied().collect();
        for stream in streams {
            for payload in self.server.take(stream) {
                self.on_payload(stream, payload);
            }
            if self.server.ended.contains_key(&stream) {
                self.clients.remove(&stream);
            }
        }
    }

    fn on_payload(&mut self, stream: StreamId, payload: Payload) {
        let profile = self.clients[&stream].session.is_some();
        match payload {
            Payload::Delivery(delivery) => self.on_delivery(stream, &delivery),
            Payload::SubscribeResponse(response) => self.on_response(stream, &response),
            Payload::HeartbeatAck(ack) => {
                assert!(profile || ack.progress.is_none());
                if let Some(progress) = ack.progress {
                    self.on_progress(stream, &progress);
                }
            }
            Payload::Progress(progress) => self.on_progress(stream, &progress),
            Payload::UnsubscribeAck(_) | Payload::Drain(_) => assert!(profile),
            Payload::Welcome(_)
            | Payload::Final(_)
            | Payload::Snapshot(_)
            | Payload::Authenticated(_) => {
                panic!("{payload:?} in the stream")
            }
        }
    }

    fn on_response(&mut self, stream: StreamId, response: &SubscribeResponse) {
        let id = &response.subscription_id;
        let held_by_newer = self
            .clients
            .range(stream..)
            .skip(1)
            .any(|(_, newer)| newer.session.is_none() && newer.known.contains_key(id));
        let client = self.clients.get_mut(&stream).expect("an open stream");
        let requested = client
            .requested
            .first()
            .is_some_and(|(first, _)| first == id);
        let refused = requested && client.session.is_none() && held_by_newer;
        assert_eq!(response.success, !refused, "{response:?}");
        if refused {
            client.requested.remove(0);
            return;
        }
        if requested {
            let (id, known) = client.requested.remove(0);
            let is_same = |it: &Known| it.credit.is_none() && it.filter == known.filter;
            // A plain peer that repeats its request misses nothing.
            if !client.known.get(&id).is_some_and(is_same) {
                client.known.insert(id, known);
            }
        } else {
            assert!(response.resync.is_some(), "an payload nobody requested for");
        }
        let known = client
            .known
            .get_mut(&response.subscription_id)
            .expect("a subscription");
        match response.position {
            Some(at) => {
                assert!(known.credit.is_some());
                assert_eq!(at.epoch, EPOCH);
                known.began = at.offset;
                known.last = at.offset;
                known.received.clear();
            }
            None => assert!(known.credit.is_none() && response.resync.is_none()),
        }
    }

    fn on_delivery(&mut self, stream: StreamId, delivery: &EventDelivery) {
        let client = self.clients.get_mut(&stream).expect("an open stream");
        let event = delivery.event.as_ref().expect("a delivery has an event");
        let offset = offset_of(&event.event_id);
        let ids: BTreeSet<_> = delivery.subscription_ids.iter().collect();
        assert_eq!(ids.len(), delivery.subscription_ids.len(), "an id twice");
        assert!(!ids.is_empty());
        let mut order = Vec::new();
        for (index, id) in delivery.subscription_ids.iter().enumerate() {
            let known = client.known.get_mut(id).expect("a delivery for nobody");
            order.push(([1, 0, 2, 2][usize::from(known.filter)], known.age));
            known.received.push(offset);
            match &mut known.credit {
                Some(totals) => {
                    totals.used += 1;
                    assert!(totals.used <= totals.allowed, "{id} beyond its credit");
                    assert_eq!(delivery.position, Some(position(offset)));
                    assert_eq!(delivery.previous[index], known.last, "{id} at {offset}");
                }
                None => assert_eq!((delivery.position, delivery.previous.len()), (None, 0)),
            }
            known.last = offset;
        }
        assert!(
            order.is_sorted(),
            "documents, collections, filters, each by age: {order:?}"
        );
        self.check(stream, delivery.subscription_ids.iter(), offset);
    }

    fn on_progress(&mut self, stream: StreamId, progress: &Progress) {
        let at = progress.position.expect("progress has a position");
        assert_eq!(at.epoch, EPOCH);
        assert!(at.offset <= self.head());
        let client = self.clients.get_mut(&stream).expect("an open stream");
        let mut quiet = Vec::new();
        for (id, known) in &mut client.known {
            if !progress.behind.contains(id) {
                assert!(known.last <= at.offset, "progress goes back");
                known.last = at.offset;
                quiet.push(id.clone());
            }
        }
        self.check(stream, quiet.iter(), at.offset);
    }

    /// Checks that the subscriptions received exactly what they had to, up to an offset.
    fn check<'a>(&self, stream: StreamId, ids: impl Iterator<Item = &'a String>, upto: u64) {
        for id in ids {
            let known = &self.clients[&stream].known[id];
            let wanted = self.server.log.iter().filter(|event| {
                event.offset > known.began && event.offset <= upto && holds(known.filter, event)
            });
            let wanted: Vec<_> = wanted.map(|event| event.offset).collect();
            assert_eq!(known.received, wanted, "{id} on {stream:?} up to {upto}");
        }
    }

    /// Grants credit to all, runs until idle, and checks that nothing is missing.
    fn finish(mut self) {
        for stream in self.clients.keys().copied().collect::<Vec<_>>() {
            for id in 0..4 {
                let choice = self.clients.keys().position(|it| *it == stream);
                if let Some(choice) = choice {
                    self.grant(u8::try_from(choice).unwrap(), id, 1_000);
                    self.receive_all();
                }
            }
        }
        self.server.run_until_idle();
        self.receive_all();
        assert_eq!(self.server.hub.stats().gauges.behind, 0);
        for (stream, client) in &self.clients {
            assert!(client.requested.is_empty(), "a request without an payload");
            self.check(*stream, client.known.keys(), self.head());
        }
        self.server.assert_frees_everything();
    }
}

fn name(id: u8) -> String {
    format!("id-{id}")
}

fn few() -> steadfast_wire::streamer::ListValue {
    let int = |n| steadfast_wire::streamer::Value {
        kind: Some(Kind::IntValue(n)),
    };
    steadfast_wire::streamer::ListValue {
        values: vec![int(1), int(5)],
    }
}

/// Evaluates a filter of the model on the bytes of the event.
fn holds(filter: u8, event: &Event) -> bool {
    let digit = event.data[5] - b'0';
    &*event.collection == "rooms"
        && match filter {
            0 => true,
            1 => &*event.document_id == "d1",
            2 => digit > 3,
            _ => digit == 1 || digit == 5,
        }
}

proptest! {
    #![proptest_config(Config { cases: 400, failure_persistence: None, ..Config::default() })]

    #[test]
    fn deliveries_of_random_scripts_match_the_model(
        script in prop::collection::vec(op(), 1..120),
        slice in prop_oneof![1..6_u64, Just(16_384)],
    ) {
        let mut model = Model::new(slice);
        for op in &script {
            model.play(op);
        }
        model.finish();
    }
}

#[test]
fn same_inputs_give_same_actions() {
    let run = || {
        let mut server = Server::with_log(rooms(20), Limits::default());
        let (stream, plain) = (server.welcomed("s"), server.open());
        server.send(plain, Request::Subscribe(want("", "rooms").0));
        server.send_subscribe(stream, want("", "rooms").after(3));
        server.run_until_idle();
        server.commit("rooms", "r1", 1);
        (server.take(stream), server.take(plain))
    };
    assert_eq!(run(), run());
}
