//! The messages of one snapshot: their sizes, positions and cursors.

use bytes::Bytes;
use prost::Message as _;
use steadfast_wire::streamer::{Position, SnapshotCursor, SnapshotPart, streamer_message::Payload};

use super::server::*;
use crate::{Epoch, Terms, hub::*};

#[test]
fn documents_that_the_hub_does_not_know_yet_move_no_position() {
    let mut server = Server::with_log(rooms(3), Limits::default());
    let stream = server.welcomed("a");
    // The table contains it before the hub is told of it.
    let unseen = event(4, "rooms", "r2", 1);
    server.log.push(Arc::clone(&unseen));
    server.subscribe(stream, want("s", "rooms").snapshot(Bytes::new()));
    server.run_until_idle();
    let [Payload::Snapshot(snapshot)] = &server.take(stream)[..] else {
        panic!("not one message of documents");
    };
    assert_eq!(snapshot.documents.len(), 2);
    assert_eq!(snapshot.follows, Some(position(3)), "the head of the hub");
    assert_eq!(snapshot.whole_at, Some(position(4)));
    server.step(Input::Committed {
        events: vec![unseen],
    });
    assert_eq!(server.offsets(stream), [0; 0], "the documents contain it");
    server.commit("rooms", "r1", 2);
    assert_eq!(server.offsets(stream), [5]);
}

#[test]
fn large_documents_come_in_several_messages() {
    let log = (1..=40).map(|offset| {
        let mut document = Event::clone(&event(offset, "rooms", &format!("r{offset:02}"), 1));
        document.data = Bytes::from(format!(r#"{{"n":1,"x":"{}"}}"#, "x".repeat(8 << 10)));
        Arc::new(document)
    });
    let mut server = Server::with_log(log.collect(), Limits::default());
    let stream = server.welcomed("a");
    server.subscribe(stream, want("s", "rooms").snapshot(Bytes::new()));
    server.run_until_idle();
    let mut ids = Vec::new();
    for payload in server.take(stream) {
        let Payload::Snapshot(snapshot) = payload else {
            panic!("{payload:?}");
        };
        let documents = snapshot.documents;
        assert!(documents.len() <= 8, "{} in one message", documents.len());
        ids.extend(documents.into_iter().map(|it| it.document_id));
    }
    let all: Vec<_> = (1..=40).map(|n| format!("r{n:02}")).collect();
    assert_eq!(ids, all);
}

#[test]
fn cursor_with_lost_changes_or_history_begins_again() {
    let mut terms = Terms::new(Epoch(1));
    terms.begin(Epoch(EPOCH), 0, 10);
    // The first term ended at 10: what was read of it later never happened in this log.
    // Nor are changes after its first documents skipped that can no longer be read.
    for (as_of, first, begins) in [(10, 8, false), (11, 0, true), (10, 9, true)] {
        let log = (1..=15).map(|offset| event(offset, "rooms", &format!("r{offset:02}"), 1));
        let mut server = Server::with_terms(terms.clone(), log.collect(), Limits::default());
        server.first = first;
        server.step(Input::Trimmed { first });
        let stream = server.welcomed("a");
        let cursor = SnapshotCursor {
            follows: Some(Position {
                epoch: 1,
                offset: 8,
            }),
            parts: vec![SnapshotPart {
                last_id: "r05".to_owned(),
                as_of,
            }],
            whole_at: None,
            // Of a peer that changed it: no snapshot is whole only after the end of the log.
            not_before: u64::MAX,
        };
        let cursor = Bytes::from(cursor.encode_to_vec());
        server.subscribe(stream, want("s", "rooms").snapshot(cursor));
        server.run_until_idle();
        let mut messages = server.take(stream);
        messages.retain(|it| matches!(it, Payload::Snapshot(_)));
        let [Payload::Snapshot(snapshot)] = &messages[..] else {
            panic!("not one message of documents");
        };
        assert_eq!(snapshot.begins, begins, "{as_of}");
        assert_eq!(snapshot.documents.len(), if begins { 15 } else { 10 });
        assert_eq!(snapshot.whole_at, Some(position(15)));
    }
}
