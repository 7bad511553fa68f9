//! Snapshots and documents that leave, against a naive query of the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{prelude::*, test_runner::Config};
use steadfast_wire::streamer::{
    Snapshot, Window, WindowBound, streamer_message::Payload, value::Kind, window_bound,
};

use super::server::*;
use crate::{Operation, hub::*};

/// A client that holds the documents of one subscription, as an application would.
#[derive(Debug, Default)]
struct Holder {
    documents: BTreeMap<String, i64>,
    /// The documents of the snapshot in progress.
    incoming: Option<BTreeMap<String, i64>>,
    cursor: Bytes,
    whole_at: Option<u64>,
    /// The offset up to which everything was received.
    known: Option<u64>,
    /// Only the first documents are wanted.
    window: Option<Window>,
    /// Only documents that are held may leave.
    is_exact: bool,
    /// The number of the newest snapshot, as the server counts them.
    number: u32,
    used: u64,
    begun: u32,
    resyncs: u32,
}

const FILTER: i64 = 10;

impl Holder {
    /// The request for what is missing.
    fn request(&self, credit: u64) -> NewSubscription {
        let want = want("s", "rooms").filter("n", "<", Kind::IntValue(FILTER));
        let mut want = want.credit(credit, u64::MAX).snapshot(self.cursor.clone());
        if let Some(window) = &self.window {
            want = want.window(window.clone());
        }
        match self.known {
            Some(known) if self.incoming.is_none() || self.whole_at.is_some() => want.after(known),
            _ => want,
        }
    }

    /// Returns whether a document is within the bound of the window.
    fn holds(&self, id: &str, n: i64) -> bool {
        let bound = self.window.as_ref().and_then(|it| it.bound.as_ref());
        bound.is_none_or(|bound| {
            let Some(window_bound::Value::IntValue(last)) = bound.value else {
                panic!("{bound:?}");
            };
            (n, id) <= (last, &bound.document_id)
        })
    }

    /// Keeps only some of the documents, and returns the new bound.
    fn narrow(&mut self, kept: usize) -> Option<WindowBound> {
        let window = self.window.as_mut()?;
        if self.incoming.is_some() || self.documents.len() <= kept {
            return None;
        }
        let mut places: Vec<_> = self
            .documents
            .iter()
            .map(|(id, n)| (*n, id.clone()))
            .collect();
        places.sort();
        let (last, document_id) = places[kept - 1].clone();
        self.documents
            .retain(|id, n| (*n, id) <= (last, &document_id));
        window.bound = Some(WindowBound {
            document_id,
            value: Some(window_bound::Value::IntValue(last)),
        });
        window.bound.clone()
    }

    fn on_payload(&mut self, payload: Payload) {
        match payload {
            Payload::Snapshot(snapshot) => self.on_snapshot(snapshot),
            Payload::Delivery(delivery) => {
                let offset = delivery.position.expect("a position").offset;
                let event = delivery.event.expect("an event");
                let known = self.known.expect("changes follow documents");
                assert!(delivery.previous[0] <= known && known < offset);
                self.end_if_whole(offset - 1);
                let is_held =
                    !delivery.left && self.holds(&event.document_id, number(&event.document_data));
                let documents = self.incoming.as_mut().unwrap_or(&mut self.documents);
                if delivery.left {
                    assert!(event.document_data.is_empty());
                    let is_held = documents.contains_key(&event.document_id);
                    assert!(is_held || !self.is_exact, "{}", event.document_id);
                }
                // The server may not know yet how far documents are kept.
                if is_held {
                    documents.insert(event.document_id, number(&event.document_data));
                } else {
                    documents.remove(&event.document_id);
                }
                self.used += 1;
                self.known = Some(offset);
                self.end_if_whole(offset);
            }
            Payload::SubscribeResponse(response) => {
                assert!(response.success && response.snapshot && response.left);
                assert_eq!(response.window, self.window.is_some());
                self.number = 0;
                self.resyncs += u32::from(response.resync.is_some());
            }
            Payload::Progress(progress) if progress.behind.is_empty() => {
                self.on_progress(progress.position.expect("a position").offset);
            }
            Payload::HeartbeatAck(ack) => {
                if let Some(progress) = ack.progress.filter(|it| it.behind.is_empty()) {
                    self.on_progress(progress.position.expect("a position").offset);
                }
            }
            Payload::Welcome(_) | Payload::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn on_snapshot(&mut self, snapshot: Snapshot) {
        let follows = snapshot.follows.expect("a position").offset;
        if snapshot.begins {
            self.begun += 1;
            self.incoming = Some(BTreeMap::new());
            self.whole_at = None;
            if let Some(window) = &mut self.window {
                window.bound = snapshot.bound.map(|bound| *bound);
                self.number = snapshot.number;
            }
        }
        self.known = Some(follows);
        let mut kept = Vec::new();
        let incoming = self.incoming.as_mut().expect("documents after a beginning");
        for document in snapshot.documents {
            self.used += 1;
            let n = number(&document.document_data);
            kept.push((document.document_id.clone(), n));
            let before = incoming.insert(document.document_id, n);
            assert_eq!(before, None, "a document was sent twice");
        }
        assert!(
            kept.iter().all(|(id, n)| self.holds(id, *n)),
            "beyond the bound"
        );
        self.cursor = snapshot.cursor;
        self.whole_at = snapshot.whole_at.map(|at| at.offset);
        self.end_if_whole(follows);
    }

    fn on_progress(&mut self, offset: u64) {
        let reading = self.incoming.is_some() && self.whole_at.is_none();
        if let Some(known) = &mut self.known
            && !reading
        {
            *known = (*known).max(offset);
            self.end_if_whole(offset);
        }
    }

    fn end_if_whole(&mut self, offset: u64) {
        if self.whole_at.is_some_and(|at| at <= offset) {
            self.documents = self
                .incoming
                .take()
                .expect("a snapshot that ends has begun");
            self.whole_at = None;
            self.cursor = Bytes::new();
        }
    }

    /// Compares what is held with a query of the log.
    fn check(&self, log: &[Arc<Event>]) {
        let (Some(known), None) = (self.known, &self.incoming) else {
            return;
        };
        let mut expected = naive(log, known);
        expected.retain(|id, n| self.holds(id, *n));
        assert_eq!(self.documents, expected, "at {known}");
    }
}

/// The documents at an offset that match the filter.
fn naive(log: &[Arc<Event>], offset: u64) -> BTreeMap<String, i64> {
    let mut documents = BTreeMap::new();
    for event in log
        .iter()
        .filter(|event| event.offset <= offset && &*event.collection == "rooms")
    {
        let id = event.document_id.to_string();
        if event.operation == Operation::Delete || number(&event.data) >= FILTER {
            documents.remove(&id);
        } else {
            documents.insert(id, number(&event.data));
        }
    }
    documents
}

fn number(data: &[u8]) -> i64 {
    let json: serde_json::Value = serde_json::from_slice(data).expect("JSON");
    json["n"].as_i64().expect("a number")
}

/// Takes the messages of a stream and checks the holder after each.
fn receive(server: &mut Server, stream: StreamId, holder: &mut Holder) {
    for payload in server.take(stream) {
        holder.on_payload(payload);
        holder.check(&server.log);
    }
}

#[test]
fn a_snapshot_sends_each_document_once_then_the_changes() {
    let mut server = Server::new();
    for n in 0..20 {
        server.commit("rooms", &format!("r{n}"), n);
    }
    server.commit_delete("rooms", "r3");
    // The table is older than the log: the newest events are changes after the documents.
    server.table_lag = 4;
    let stream = server.welcomed("a");
    let mut holder = Holder::default();
    server.send_subscribe(stream, holder.request(1_000));
    server.run_until_idle();
    receive(&mut server, stream, &mut holder);
    assert_eq!((holder.begun, holder.documents.len()), (1, 9));
    server.commit("rooms", "r1", 50);
    server.commit("rooms", "r30", 5);
    server.run_until_idle();
    receive(&mut server, stream, &mut holder);
    assert_eq!(holder.documents.len(), 9);
    server.assert_frees_everything();
}

#[test]
fn changes_that_the_documents_contain_are_not_sent_again() {
    let limits = Limits {
        page_events: 2,
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    for document in ["a", "b", "c", "d"] {
        server.commit("rooms", document, 1);
    }
    let stream = server.welcomed("a");
    server.send_subscribe(stream, want("s", "rooms").snapshot(Bytes::new()));
    server.complete_document_read();
    // The first page does not contain the change of `a`, the second one contains that of `c`.
    server.commit("rooms", "a", 2);
    server.commit("rooms", "c", 2);
    server.run_until_idle();
    let delivered: Vec<_> = server
        .take(stream)
        .into_iter()
        .filter_map(|payload| match payload {
            Payload::Delivery(delivery) => Some(delivery.event.expect("an event").document_id),
            _ => None,
        })
        .collect();
    assert_eq!(delivered, ["a"]);
    server.assert_frees_everything();
}

#[test]
fn documents_wait_for_credit_and_change_no_position() {
    let mut server = Server::new();
    for n in 0..5 {
        server.commit("rooms", &format!("r{n}"), n);
    }
    let stream = server.welcomed("a");
    let mut holder = Holder::default();
    server.send_subscribe(stream, holder.request(0));
    server.run_until_idle();
    assert!(
        server.document_reads.is_empty(),
        "nobody may take documents"
    );
    for total in 1..=5 {
        server.credit(stream, "s", total, u64::MAX);
        server.run_until_idle();
        receive(&mut server, stream, &mut holder);
        assert_eq!(holder.used, total);
    }
    server.run_until_idle();
    receive(&mut server, stream, &mut holder);
    assert_eq!(holder.documents.len(), 5);
    server.assert_frees_everything();
}

#[test]
fn a_lost_position_is_followed_by_a_snapshot() {
    let mut server = Server::new();
    for n in 0..9 {
        server.commit("rooms", &format!("r{n}"), n);
    }
    server.first = 5;
    server.step(Input::Trimmed { first: 5 });
    let stream = server.welcomed("a");
    let response = server.subscribe(stream, want("s", "rooms").after(2).snapshot(Bytes::new()));
    assert!(response.resync.is_some() && response.snapshot);
    server.run_until_idle();
    let documents: usize = server
        .take(stream)
        .into_iter()
        .map(|payload| match payload {
            Payload::Snapshot(snapshot) => snapshot.documents.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(documents, 9);
    server.assert_frees_everything();
}

#[test]
fn a_page_read_before_a_loss_is_no_part_of_the_next_snapshot() {
    let limits = Limits {
        page_events: 2,
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    for n in 0..6 {
        server.commit("rooms", &format!("r{n}"), n);
    }
    let stream = server.welcomed("a");
    let mut holder = Holder::default();
    server.send_subscribe(stream, holder.request(1_000));
    server.complete_document_read();
    receive(&mut server, stream, &mut holder);
    // The second page is being read.
    server.step(Input::Lost { before: 4 });
    server.run_until_idle();
    receive(&mut server, stream, &mut holder);
    assert_eq!((holder.begun, holder.resyncs), (2, 1));
    assert_eq!(holder.documents.len(), 6);
    server.assert_frees_everything();
}

#[test]
fn cursors_of_another_log_or_without_sense_begin_again() {
    use prost::Message as _;
    use steadfast_wire::streamer::{Position, SnapshotCursor, SnapshotPart};
    let mut server = Server::new();
    for n in 0..9 {
        server.commit("rooms", &format!("r{n}"), n);
    }
    let part = |last_id: &str, as_of| SnapshotPart {
        last_id: last_id.to_owned(),
        as_of,
    };
    let cursor = |epoch, parts: Vec<SnapshotPart>, whole_at| {
        let follows = Some(Position { epoch, offset: 1 });
        let cursor = SnapshotCursor {
            follows,
            parts,
            whole_at,
            not_before: 0,
        };
        Bytes::from(cursor.encode_to_vec())
    };
    for (what, cursor) in [
        ("no cursor", Bytes::from_static(b"\xff\xff")),
        ("no position", Bytes::from_static(b"\x10\x01")),
        ("another log", cursor(EPOCH + 1, vec![part("r3", 1)], None)),
        (
            "ids go back",
            cursor(EPOCH, vec![part("r3", 1), part("r1", 2)], None),
        ),
        (
            "ages go back",
            cursor(EPOCH, vec![part("r1", 2), part("r3", 1)], None),
        ),
        (
            "too many parts",
            cursor(
                EPOCH,
                (10..99).map(|n| part(&n.to_string(), 1)).collect(),
                None,
            ),
        ),
        (
            "the end is not the last part",
            cursor(EPOCH, vec![part("", 1), part("r1", 1)], None),
        ),
        (
            "whole without an end",
            cursor(EPOCH, vec![part("r1", 1)], Some(5)),
        ),
    ] {
        let stream = server.welcomed(what);
        let mut holder = Holder {
            cursor,
            ..Holder::default()
        };
        server.send_subscribe(stream, holder.request(1_000));
        server.run_until_idle();
        receive(&mut server, stream, &mut holder);
        assert_eq!((holder.begun, holder.documents.len()), (1, 9), "{what}");
    }
    server.assert_frees_everything();
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Op {
    Commit { document: u8, n: u8 },
    Delete { document: u8 },
    OtherCollection,
    ReadDocuments,
    ReadLog,
    Tick,
    Send { count: u8 },
    Grant { messages: u8 },
    Cut,
    TableLag(u8),
    Trim { by: u8 },
    Heartbeat,
    Narrow { kept: u8 },
    Refill,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..12_u8, 0..20_u8).prop_map(|(document, n)| Op::Commit { document, n }),
        2 => (0..12_u8).prop_map(|document| Op::Delete { document }),
        1 => Just(Op::OtherCollection),
        4 => Just(Op::ReadDocuments),
        3 => Just(Op::ReadLog),
        4 => Just(Op::Tick),
        4 => (1..6_u8).prop_map(|count| Op::Send { count }),
        3 => (1..9_u8).prop_map(|messages| Op::Grant { messages }),
        1 => Just(Op::Cut),
        1 => (0..6_u8).prop_map(Op::TableLag),
        1 => (0..4_u8).prop_map(|by| Op::Trim { by }),
        1 => Just(Op::Heartbeat),
        1 => (1..5_u8).prop_map(|kept| Op::Narrow { kept }),
        1 => Just(Op::Refill),
    ];
    prop::collection::vec(op, 0..120)
}

proptest! {
    #![proptest_config(Config::with_cases(512))]

    /// Whatever happens, a set that is whole equals the query at the offset that is known.
    #[test]
    fn a_held_set_equals_the_query_at_every_offset(
        before in prop::collection::vec((0..12_u8, 0..20_u8), 0..20),
        ops in ops(),
        page in 1..5_usize,
        queue in 1..6_usize,
        window in prop::option::of((1..4_u32, 0..3_u32)),
        reads_previous: bool,
        slice in prop_oneof![1..30_u64, Just(16_384)],
    ) {
        let limits = Limits {
            slice,
            page_events: page,
            queue_messages: queue,
            ..Limits::default()
        };
        let mut server = Server::with(limits);
        for (document, n) in before {
            server.commit("rooms", &format!("r{document:02}"), n.into());
        }
        server.reads_previous = reads_previous;
        let window = window.map(|(limit, reserve)| Window {
            field: "n".to_owned(),
            limit,
            reserve,
            ..Window::default()
        });
        let mut holder = Holder {
            // The bounds of both sides may differ for a while.
            is_exact: reads_previous && window.is_none(),
            window,
            ..Holder::default()
        };
        let mut attempt = 1;
        let mut stream = server.hello("a", attempt);
        let mut granted = 3;
        server.send_subscribe(stream, holder.request(granted));
        for op in ops {
            match op {
                Op::Commit { document, n } => {
                    server.commit("rooms", &format!("r{document:02}"), n.into());
                }
                Op::Delete { document } => {
                    server.commit_delete("rooms", &format!("r{document:02}"));
                }
                Op::OtherCollection => {
                    server.commit("halls", "r1", 1);
                }
                Op::ReadDocuments if !server.document_reads.is_empty() => server.complete_document_read(),
                Op::ReadLog if !server.reads.is_empty() => server.complete_read(0),
                Op::Tick => server.step(Input::Tick),
                Op::Send { count } => server.transport_takes(stream, count.into()),
                Op::Grant { messages } => {
                    granted += u64::from(messages);
                    server.credit(stream, "s", granted, u64::MAX);
                }
                Op::Cut => {
                    server.end(stream);
                    attempt += 1;
                    stream = server.hello("a", attempt);
                    granted = 3;
                    server.send_subscribe(stream, holder.request(granted));
                }
                // The table of documents never becomes older, and contains what was trimmed.
                Op::TableLag(lag) => {
                    let as_of = (server.log.len() as u64).saturating_sub(server.table_lag);
                    let lag = u64::from(lag).min(server.log.len() as u64 - as_of);
                    server.table_lag = lag;
                }
                Op::Trim { by } => {
                    let as_of = (server.log.len() as u64).saturating_sub(server.table_lag);
                    let first = (server.first + u64::from(by)).min(as_of);
                    server.first = first;
                    holder.is_exact = false;
                    server.step(Input::Trimmed { first });
                }
                Op::Heartbeat => server.send_heartbeat(stream, 1),
                Op::Narrow { kept } => {
                    let number = holder.number;
                    if let Some(bound) = holder.narrow(kept.into()) {
                        server.narrow(stream, "s", bound, number);
                    }
                }
                // As for a window of which too little is left.
                Op::Refill if holder.window.is_some() && holder.incoming.is_none() => {
                    holder.known = None;
                    server.take(stream);
                    granted = 3;
                    server.send_subscribe(stream, holder.request(granted));
                }
                Op::Refill | Op::ReadDocuments | Op::ReadLog => {}
            }
            receive(&mut server, stream, &mut holder);
        }
        server.credit(stream, "s", 1_000_000, u64::MAX);
        server.run_until_idle();
        server.send_heartbeat(stream, 2);
        receive(&mut server, stream, &mut holder);
        prop_assert!(holder.incoming.is_none(), "the snapshot never ends");
        holder.check(&server.log);
        if let Some(window) = &holder.window
            && window.bound.is_none()
        {
            let head = server.log.len() as u64;
            prop_assert_eq!(&holder.documents, &naive(&server.log, head));
        }
        server.assert_frees_everything();
    }
}

#[test]
fn one_window_of_a_stream_looks_for_its_bound_at_a_time() {
    let mut server = Server::with(Limits {
        page_events: 2,
        ..Limits::default()
    });
    for n in 0..6 {
        server.commit("rooms", &format!("d{n}"), n);
    }
    let stream = server.welcomed("a");
    for id in ["s", "t"] {
        let window = Window {
            field: "n".to_owned(),
            limit: 1,
            ..Window::default()
        };
        let wanted = want(id, "rooms").snapshot(Bytes::new()).window(window);
        server.send_subscribe(stream, wanted);
    }
    let mut read = Vec::new();
    for _ in 0..6 {
        while server.document_reads.is_empty() {
            assert!(server.hub.has_work());
            server.step(Input::Tick);
        }
        read.push(server.document_reads[0].after.as_deref().map(str::to_owned));
        server.complete_document_read();
    }
    let [second, third] = ["d1", "d3"].map(|id| Some(id.to_owned()));
    let pass = [None, second, third];
    assert_eq!(read, [pass.clone(), pass].concat());
    server.run_until_idle();
    server.assert_frees_everything();
}

#[test]
fn documents_that_cannot_be_read_end_only_their_stream() {
    let mut server = Server::new();
    let (stream, other) = (server.welcomed("s"), server.welcomed("t"));
    server.subscribe(stream, want("s", "rooms").snapshot(Bytes::new()));
    server.fail_document_read();
    assert_eq!(server.code(stream), Some(EndCode::Unavailable));
    assert_eq!(server.code(other), None);
    assert_eq!(server.hub.stats().counters.read_faults, 1);
}
