//! Deliveries to peers with random rights, compared with those of a naive reader.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{prelude::*, test_runner::Config};
use steadfast_wire::streamer::{Window, streamer_message::Payload, value::Kind};

use super::{
    access::{authorize, known},
    server::*,
};
use crate::{Operation, filter::Filter, hub::*};

/// One step of a script.
#[derive(Clone, Debug)]
enum Op {
    Commit { document: u8, n: i64 },
    Delete { document: u8 },
    Rights(MaySee),
    Cut,
    Slice,
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..5_u8, 0..10_i64).prop_map(|(document, n)| Op::Commit { document, n }),
        2 => (0..5_u8).prop_map(|document| Op::Delete { document }),
        3 => may_see().prop_map(Op::Rights),
        1 => Just(Op::Cut),
        8 => Just(Op::Slice),
        2 => Just(Op::Settle),
    ]
}

/// A condition of a filter, with a naive reading of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Condition {
    Less(i64),
    AtLeast(i64),
    Is(i64),
    OneOf(i64, i64),
}

/// One filter of a grant. The id of a document is one only alone.
#[derive(Clone, Debug, PartialEq)]
enum Visible {
    Document(u8),
    All(Vec<Condition>),
}

/// What a peer may see: everything, or what at least one filter admits.
#[derive(Clone, Debug, PartialEq)]
struct MaySee(Option<Vec<Visible>>);

fn may_see() -> impl Strategy<Value = MaySee> {
    let condition = prop_oneof![
        (0..10_i64).prop_map(Condition::Less),
        (0..10_i64).prop_map(Condition::AtLeast),
        (0..10_i64).prop_map(Condition::Is),
        (0..10_i64, 0..10_i64).prop_map(|(n, m)| Condition::OneOf(n, m)),
    ];
    let visible = prop_oneof![
        1 => (0..5_u8).prop_map(Visible::Document),
        3 => proptest::collection::vec(condition, 1..3).prop_map(Visible::All),
    ];
    prop_oneof![
        1 => Just(MaySee(None)),
        // A peer of no role may see nothing; one of several roles has several filters.
        6 => proptest::collection::vec(visible, 0..4).prop_map(|filters| MaySee(Some(filters))),
    ]
}

impl Condition {
    fn text(self) -> String {
        match self {
            Self::Less(n) => format!("n < {n}"),
            Self::AtLeast(n) => format!("n >= {n}"),
            Self::Is(n) => format!("n == {n}"),
            Self::OneOf(n, m) => format!("n in [{n}, {m}]"),
        }
    }

    fn holds(self, number: i64) -> bool {
        match self {
            Self::Less(n) => number < n,
            Self::AtLeast(n) => number >= n,
            Self::Is(n) => number == n,
            Self::OneOf(n, m) => number == n || number == m,
        }
    }
}

impl MaySee {
    fn grant(&self) -> Grant {
        let Some(filters) = &self.0 else {
            return Grant::Everything;
        };
        let filters = filters.iter().map(|filter| match filter {
            Visible::Document(document) => Filter::from_text([format!("_id == d{document}")]),
            Visible::All(all) => Filter::from_text(all.iter().map(|it| it.text())),
        });
        Grant::Any(filters.map(Result::unwrap).collect())
    }

    fn is_nothing(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// Returns true if a document of the subscription's own filter may be seen.
    fn admits(&self, id: &str, n: i64) -> bool {
        let admits = |filter: &Visible| match filter {
            Visible::Document(document) => id == format!("d{document}"),
            Visible::All(all) => all.iter().all(|it| it.holds(n)),
        };
        n != 3
            && self
                .0
                .as_ref()
                .is_none_or(|filters| filters.iter().any(admits))
    }
}

/// A client that keeps a set of documents through changes of its rights.
struct Reader {
    server: Server,
    stream: Option<StreamId>,
    attempt: u64,
    rights: MaySee,
    /// Streams of the same peer beside its own.
    plain: Plain,
    window: Option<StreamId>,
    documents: BTreeMap<String, i64>,
    known: Option<u64>,
    cursor: Bytes,
    whole_at: Option<u64>,
    /// As the last response told it.
    told: Option<u64>,
}

impl Reader {
    fn new(slice: u64) -> Self {
        let limits = Limits {
            slice,
            page_events: 2,
            ..Limits::default()
        };
        let mut server = Server::with(limits);
        server.hub = server.hub.restricted();
        Self {
            server,
            stream: None,
            attempt: 0,
            rights: MaySee(None),
            plain: Plain::default(),
            window: None,
            documents: BTreeMap::new(),
            known: None,
            cursor: Bytes::new(),
            whole_at: None,
            told: None,
        }
    }

    fn play(&mut self, op: &Op) {
        match op {
            Op::Commit { document, n } => {
                self.server.commit("rooms", &format!("d{document}"), *n);
            }
            Op::Delete { document } => {
                self.server.commit_delete("rooms", &format!("d{document}"));
            }
            Op::Rights(rights) => {
                // What was sent before is read with the rights of then.
                self.receive();
                let before = std::mem::replace(&mut self.rights, rights.clone());
                if let Some(stream) = self.stream {
                    let grant = rights.grant();
                    authorize(&mut self.server, stream, "alice", grant, None);
                    // Refused before, it tries again.
                    if self.told.is_none() {
                        self.server.end(stream);
                        self.stream = None;
                    }
                }
                self.change_others(&before);
            }
            Op::Cut => {
                self.receive();
                if let Some(stream) = self.stream.take() {
                    self.server.end(stream);
                }
            }
            Op::Slice => self.server.step(Input::Tick),
            Op::Settle => self.server.run_until_idle(),
        }
        self.receive();
        self.connect();
        let rights = self.rights.clone();
        self.check_others(&rights, false);
        self.open_others();
    }

    /// Opens the streams of a plain peer and of a window that are not open. Refused, they try again with
    /// the next step.
    fn open_others(&mut self) {
        let grant = self.rights.grant();
        if self.plain.stream.is_none() {
            let stream = self.server.open();
            authorize(&mut self.server, stream, "alice", grant.clone(), None);
            let wanted = want("p", "rooms").filter("n", "!=", Kind::IntValue(3));
            if self.server.subscribe(stream, wanted).success {
                self.plain = Plain {
                    stream: Some(stream),
                    after: self.server.log.len(),
                    seen: Vec::new(),
                };
            } else {
                self.server.end(stream);
            }
        }
        if self.window.is_none() {
            self.attempt += 1;
            let stream = known(&mut self.server, "alice", hello("w", self.attempt), grant);
            let wanted = want("w", "rooms")
                .filter("n", "!=", Kind::IntValue(3))
                .snapshot(Bytes::new())
                .window(Window {
                    field: "n".to_owned(),
                    limit: 2,
                    reserve: 1,
                    ..Window::default()
                });
            if self.server.subscribe(stream, wanted).success {
                self.window = Some(stream);
            } else {
                self.server.end(stream);
            }
        }
    }

    /// Tells the other streams of new rights. Those that ended are opened again later.
    fn change_others(&mut self, before: &MaySee) {
        self.check_others(before, false);
        let grant = self.rights.grant();
        for stream in [self.plain.stream, self.window].into_iter().flatten() {
            authorize(&mut self.server, stream, "alice", grant.clone(), None);
        }
        let is_open = |server: &Server, stream: &StreamId| server.code(*stream).is_none();
        self.plain.stream = self.plain.stream.filter(|it| is_open(&self.server, it));
        self.window = self.window.filter(|it| is_open(&self.server, it));
    }

    /// Checks what the other streams received with these rights: the plain one every visible change since
    /// it subscribed, or the first of them if more are on their way; the window visible documents only.
    fn check_others(&mut self, rights: &MaySee, is_settled: bool) {
        if let Some(stream) = self.plain.stream {
            for payload in self.server.take(stream) {
                let Payload::Delivery(delivery) = payload else {
                    continue;
                };
                let event = delivery.event.unwrap();
                if event.operation != Operation::to_wire(Some(Operation::Delete)) {
                    let n = number(&event.document_data);
                    self.plain.seen.push((event.document_id, n));
                }
            }
            let since = self.server.log.iter().skip(self.plain.after);
            let written = since.filter(|event| event.operation != Operation::Delete);
            let visible: Vec<_> = written
                .map(|event| (event.document_id.to_string(), number(&event.data)))
                .filter(|(id, n)| rights.admits(id, *n))
                .collect();
            assert!(
                visible.starts_with(&self.plain.seen),
                "{visible:?} {:?}",
                self.plain
            );
            assert!(!is_settled || visible.len() == self.plain.seen.len());
        }
        if let Some(stream) = self.window {
            for payload in self.server.take(stream) {
                let events = match payload {
                    Payload::Snapshot(snapshot) => snapshot.documents,
                    Payload::Delivery(delivery) => delivery.event.into_iter().collect(),
                    _ => Vec::new(),
                };
                // A document that leaves, or is gone, has no data.
                let is_delete = Operation::to_wire(Some(Operation::Delete));
                let with_data = events.iter().filter(|it| !it.document_data.is_empty());
                for event in with_data.filter(|it| it.operation != is_delete) {
                    let n = number(&event.document_data);
                    assert!(rights.admits(&event.document_id, n), "{event:?}");
                }
            }
        }
    }

    fn connect(&mut self) {
        if self
            .stream
            .is_some_and(|stream| self.server.code(stream).is_none())
        {
            return;
        }
        self.attempt += 1;
        let grant = self.rights.grant();
        let stream = known(&mut self.server, "alice", hello("s", self.attempt), grant);
        self.stream = Some(stream);
        let mut wanted = want("s", "rooms")
            .filter("n", "!=", Kind::IntValue(3))
            .snapshot(self.cursor.clone());
        wanted.0.rights = self.told;
        let is_reading = !self.cursor.is_empty() && self.whole_at.is_none();
        if let Some(known) = self.known.filter(|_| !is_reading) {
            wanted = wanted.after(known);
        }
        let response = self.server.subscribe(stream, wanted);
        let is_allowed = !self.rights.is_nothing();
        assert_eq!(response.success, is_allowed, "{response:?}");
        if is_allowed {
            if self.told.is_some_and(|told| told != response.rights) {
                // Another snapshot follows, and nothing continues before it begins.
                (self.known, self.whole_at) = (None, None);
                self.cursor = Bytes::new();
            }
            self.told = Some(response.rights);
        } else {
            // The application's subscription has failed; it begins anew when it tries again.
            (self.told, self.known, self.whole_at) = (None, None, None);
            self.cursor = Bytes::new();
            self.documents.clear();
        }
    }

    fn receive(&mut self) {
        let Some(stream) = self.stream else {
            return;
        };
        for payload in self.server.take(stream) {
            match payload {
                Payload::Snapshot(snapshot) => {
                    if snapshot.begins {
                        self.documents.clear();
                        self.whole_at = None;
                    }
                    self.known = snapshot.follows.map(|it| it.offset);
                    self.cursor = snapshot.cursor;
                    self.whole_at = snapshot.whole_at.map(|it| it.offset);
                    for event in snapshot.documents {
                        let n = number(&event.document_data);
                        assert!(self.rights.admits(&event.document_id, n));
                        self.documents.insert(event.document_id, n);
                    }
                }
                Payload::Delivery(delivery) => {
                    let event = delivery.event.unwrap();
                    self.known = delivery.position.map(|it| it.offset);
                    if delivery.left {
                        assert!(event.document_data.is_empty());
                        self.documents.remove(&event.document_id);
                    } else if event.operation == Operation::to_wire(Some(Operation::Delete)) {
                        self.documents.remove(&event.document_id);
                    } else {
                        let n = number(&event.document_data);
                        assert!(self.rights.admits(&event.document_id, n));
                        self.documents.insert(event.document_id, n);
                    }
                }
                Payload::SubscribeResponse(response) => panic!("{response:?}"),
                _ => {}
            }
            if self
                .whole_at
                .is_some_and(|at| self.known.is_some_and(|known| at <= known))
            {
                self.cursor = Bytes::new();
            }
        }
    }

    fn assert_reads_as_a_naive_reader(&mut self) {
        self.server.run_until_idle();
        self.receive();
        let mut newest = BTreeMap::new();
        for event in &self.server.log {
            let n = (event.operation != Operation::Delete).then(|| number(&event.data));
            newest.insert(event.document_id.to_string(), n);
        }
        let expected: BTreeMap<_, _> = newest
            .into_iter()
            .filter_map(|(id, n)| n.filter(|n| self.rights.admits(&id, *n)).map(|n| (id, n)))
            .collect();
        assert_eq!(self.documents, expected, "{:?}", self.rights);
        let rights = self.rights.clone();
        self.check_others(&rights, true);
    }
}

/// The stream of a peer without the profile.
#[derive(Debug, Default)]
struct Plain {
    stream: Option<StreamId>,
    /// The events of the log when it subscribed.
    after: usize,
    seen: Vec<(String, i64)>,
}

fn number(data: &[u8]) -> i64 {
    let json: serde_json::Value = serde_json::from_slice(data).unwrap();
    json["n"].as_i64().unwrap()
}

proptest! {
    #![proptest_config(Config::with_cases(if cfg!(debug_assertions) { 100 } else { 4_000 }))]

    #[test]
    fn deliveries_are_what_a_naive_reader_may_read(
        slice in 1..20_u64,
        script in proptest::collection::vec(op(), 1..60),
    ) {
        let mut reader = Reader::new(slice);
        reader.connect();
        for op in &script {
            reader.play(op);
        }
        reader.assert_reads_as_a_naive_reader();
    }
}
