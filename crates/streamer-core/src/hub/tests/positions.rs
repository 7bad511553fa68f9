//! Positions: the start of a subscription, and its progress.

use steadfast_wire::streamer::{
    HeartbeatAck, Position, Progress, RefusalCode, ResyncReason, SubscribeResponse,
    streamer_message::Payload, subscribe_request::Start, value::Kind,
};

use bytes::Bytes;

use super::server::*;
use crate::{Epoch, Terms, hub::*};

#[test]
fn subscription_without_position_starts_at_head() {
    let mut server = Server::with_log(rooms(5), Limits::default());
    let stream = server.welcomed("s");
    let response = server.subscribe(stream, want("a", "rooms"));
    assert_eq!(
        (response.position, response.resync),
        (Some(position(5)), None)
    );
    server.run_until_idle();
    server.commit("rooms", "r1", 1);
    let deliveries = server.deliveries(stream);
    assert_eq!(deliveries[0].position, Some(position(6)));
    assert_eq!(deliveries[0].previous, [5]);
}

#[test]
fn start_is_the_offset_or_the_oldest_without_a_known_loss() {
    for (lost, wanted, expected) in [
        (None, 0, 4),
        (None, 4, 4),
        (None, 7, 7),
        (None, 10, 10),
        (None, u64::MAX, 10),
        (Some(6), 0, 6),
        (Some(6), 7, 7),
    ] {
        let mut server = Server::with_log(rooms(10), Limits::default());
        server.first = 4;
        server.step(Input::Trimmed { first: 4 });
        if let Some(before) = lost {
            server.step(Input::Lost { before });
        }
        let stream = server.welcomed("s");
        let wanted = want("a", "rooms").start(Start::StartOffset(wanted));
        let response = server.subscribe(stream, wanted);
        assert_eq!(response.position, Some(position(expected)));
        assert_eq!((response.resync, response.start), (None, true));
        server.run_until_idle();
        let offsets = server.offsets(stream);
        assert_eq!(offsets, (expected + 1..=10).collect::<Vec<_>>());
    }
}

#[test]
fn position_goes_before_a_start() {
    for start in [Start::StartOffset(0), Start::StartTimeMs(0)] {
        let mut server = Server::with_log(rooms(5), Limits::default());
        let stream = server.welcomed("s");
        let response = server.subscribe(stream, want("a", "rooms").after(3).start(start));
        assert_eq!(response.position, Some(position(3)));
        assert!(response.start, "the server knows starts");
    }
}

#[test]
fn start_that_cannot_be_found_is_refused() {
    let start = |start| want("a", "rooms").start(start);
    for (wanted, code, words) in [
        (
            start(Start::StartTimeMs(0)),
            RefusalCode::Unavailable,
            "could not be searched for a time; try again later",
        ),
        (
            start(Start::StartOffset(0)).snapshot(Bytes::new()),
            RefusalCode::Invalid,
            "but not both",
        ),
    ] {
        let mut server = Server::with_log(rooms(5), Limits::default());
        let stream = server.welcomed("s");
        let response = server.subscribe(stream, wanted);
        assert_eq!((response.success, response.code()), (false, code));
        assert!(response.error.contains(words), "{}", response.error);
    }
}

/// Subscribes at a position of a log of ten events of which the first four are trimmed.
fn begin_at(position: Position) -> (SubscribeResponse, Vec<u64>) {
    let mut server = Server::with_log(rooms(10), Limits::default());
    server.first = 4;
    server.step(Input::Trimmed { first: 4 });
    let stream = server.welcomed("s");
    let response = server.subscribe(stream, want("a", "rooms").resume(position));
    server.run_until_idle();
    server.commit("rooms", "r1", 1);
    (response, server.offsets(stream))
}

#[test]
fn every_position_in_the_log_is_honoured() {
    for offset in 4..=10 {
        let (response, offsets) = begin_at(position(offset));
        assert_eq!(response.position, Some(position(offset)));
        assert_eq!(response.resync, None);
        assert_eq!(offsets, (offset + 1..=11).collect::<Vec<_>>());
    }
}

#[test]
fn offset_zero_is_honoured_in_untrimmed_log() {
    let mut server = Server::with_log(rooms(3), Limits::default());
    let stream = server.welcomed("s");
    let response = server.subscribe(stream, want("a", "rooms").after(0));
    assert_eq!(
        (response.position, response.resync),
        (Some(position(0)), None)
    );
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [1, 2, 3]);
}

#[test]
fn unusable_position_yields_resync_with_reason() {
    let elsewhere = Position {
        epoch: EPOCH + 1,
        offset: 7,
    };
    for (resume, reason) in [
        (position(3), ResyncReason::Trimmed),
        (position(0), ResyncReason::Trimmed),
        (position(11), ResyncReason::Future),
        (position(u64::MAX), ResyncReason::Future),
        (elsewhere, ResyncReason::Epoch),
    ] {
        let (response, offsets) = begin_at(resume);
        assert!(response.success, "the subscription is active");
        let resync = response.resync.expect("a resync");
        assert_eq!(resync.reason(), reason, "{resume:?}");
        assert_eq!(resync.resumes_at, Some(position(10)));
        assert_eq!(response.position, Some(position(10)));
        assert_eq!(offsets, [11]);
    }
}

#[test]
fn position_of_an_earlier_term_is_honoured_up_to_its_end() {
    let mut terms = Terms::new(Epoch(1));
    terms.begin(Epoch(EPOCH), 0, 10);
    for (offset, resync) in [
        (0, None),
        (10, None),
        (11, Some(ResyncReason::Epoch)),
        (20, Some(ResyncReason::Epoch)),
    ] {
        let mut server = Server::with_terms(terms.clone(), rooms(15), Limits::default());
        let stream = server.welcomed("s");
        let resume = Position { epoch: 1, offset };
        let response = server.subscribe(stream, want("a", "rooms").resume(resume));
        assert_eq!(response.resync.map(|it| it.reason()), resync, "{offset}");
        let resumed = if resync.is_none() { offset } else { 15 };
        assert_eq!(
            response.position,
            Some(position(resumed)),
            "the current term"
        );
        server.run_until_idle();
        let ids = server.deliveries(stream).into_iter();
        let ids: Vec<_> = ids.map(|it| it.event.unwrap().event_id).collect();
        let written =
            |offset| crate::Position::new(Epoch(if offset > 10 { EPOCH } else { 1 }), offset);
        let expected: Vec<_> = (resumed + 1..=15)
            .map(|it| written(it).to_string())
            .collect();
        assert_eq!(ids, expected, "an event keeps its id");
    }
}

#[test]
fn progress_becomes_previous_of_next_delivery() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms"));
    server.subscribe(stream, want("b", "users"));
    server.commit("rooms", "r1", 1);
    server.take(stream);
    server.pass(seconds(10));
    let progress = Progress {
        position: Some(position(1)),
        behind: vec![],
    };
    assert_eq!(server.take(stream), [Payload::Progress(progress)]);
    server.pass(seconds(25));
    assert_eq!(server.take(stream), [], "nothing new to tell");
    server.commit("other", "o1", 1);
    server.commit("users", "u1", 1);
    assert_eq!(server.deliveries(stream)[0].previous, [1]);
    let ack = HeartbeatAck {
        timestamp: 5,
        progress: Some(Progress {
            position: Some(position(3)),
            behind: vec![],
        }),
    };
    assert_eq!(server.heartbeat(stream, 5), ack);
    server.commit("rooms", "r1", 1);
    assert_eq!(server.deliveries(stream)[0].previous, [3]);
}

#[test]
fn progress_never_goes_back_and_needs_a_subscription() {
    let mut server = Server::with(Limits {
        slice: 1,
        ..Limits::default()
    });
    let (stream, idle) = (server.welcomed("s"), server.welcomed("t"));
    server.subscribe(stream, want("quiet", "users"));
    let events: Vec<_> = rooms(5);
    server.log.extend(events.iter().cloned());
    server.step(Input::Committed { events });
    let progress = server.heartbeat(stream, 1).progress.expect("progress");
    assert_eq!(progress.position, Some(position(5)), "nothing for it");
    // Its collection is not matched as far as the stream was told.
    server.subscribe(stream, want("late", "rooms").after(0));
    assert!(server.hub.matching.matched(5) < 5);
    assert_eq!(server.heartbeat(stream, 2).progress, None);
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [1, 2, 3, 4, 5]);
    server.pass(seconds(30));
    assert_eq!(server.take(idle), [], "progress of nothing");

    // Nor behind a resync, or behind the documents of a snapshot.
    let later = server.welcomed("u");
    server.subscribe(later, want("a", "rooms"));
    let head = server.log.len() as u64;
    let events: Vec<_> = (1..=5)
        .map(|it| event(head + it, "rooms", "r1", 1))
        .collect();
    server.log.extend(events.iter().cloned());
    server.step(Input::Committed { events });
    server.subscribe(stream, want("set", "rooms").snapshot(Bytes::new()));
    server.complete_document_read();
    server.step(Input::Lost { before: head + 5 });
    while server.hub.loss.is_some() {
        server.step(Input::Tick);
    }
    server.take(later);
    assert!(server.hub.matching.matched(head + 5) < head + 5);
    assert_eq!(server.heartbeat(later, 3).progress, None);
    server.run_until_idle();
}

#[test]
fn documents_are_not_followed_by_progress_before_them() {
    let mut server = Server::with(Limits {
        slice: 1,
        ..Limits::default()
    });
    let (heavy, stream) = (server.welcomed("s"), server.welcomed("t"));
    server.subscribe(heavy, want("a", "rooms"));
    server.subscribe(stream, want("quiet", "rooms"));
    server.send_subscribe(stream, want("set", "rooms").snapshot(Bytes::new()));
    let events = rooms(5);
    server.log.extend(events.iter().cloned());
    server.step(Input::Committed { events });
    server.take(stream);
    server.complete_document_read();
    let told = server
        .take(stream)
        .into_iter()
        .any(|it| matches!(it, Payload::Snapshot(it) if it.follows == Some(position(5))));
    assert!(told, "the documents are as of the head");
    assert!(server.hub.matching.matched(5) < 5);
    assert_eq!(server.heartbeat(stream, 1).progress, None);
    server.run_until_idle();
}

#[test]
fn beginning_of_the_log_never_moves_back() {
    let mut server = Server::with_log(rooms(9), Limits::default());
    let stream = server.welcomed("s");
    server.first = 5;
    for first in [5, 3] {
        // Late, as a fault of a read may tell it before.
        server.step(Input::Trimmed { first });
        let response = server.subscribe(stream, want("a", "rooms").after(4));
        let reason = response.resync.map(|it| it.reason());
        assert_eq!(reason, Some(ResyncReason::Trimmed), "{first}");
    }
}

#[test]
fn progress_names_subscriptions_that_are_behind() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.subscribe(stream, want("stalled", "rooms").credit(1, 1_000));
    server.subscribe(stream, want("quiet", "users"));
    for _ in 0..3 {
        server.commit("rooms", "r1", 1);
    }
    server.take(stream);
    let progress = server.heartbeat(stream, 1).progress.expect("progress");
    assert_eq!(progress.position, Some(position(3)));
    assert_eq!(progress.behind, ["stalled"]);
    server.credit(stream, "stalled", 10, 10_000);
    server.run_until_idle();
    let previous: Vec<_> = server
        .deliveries(stream)
        .into_iter()
        .map(|it| it.previous)
        .collect();
    assert_eq!(previous, [[1], [2]], "progress was not for the stalled one");
    server.commit("users", "u1", 1);
    assert_eq!(
        server.deliveries(stream)[0].previous,
        [3],
        "progress was for the other"
    );
}

#[test]
fn progress_waits_for_the_queue_and_names_at_most_256() {
    let mut server = Server::with(Limits {
        queue_messages: 2,
        ..Limits::default()
    });
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms"));
    server.subscribe(stream, want("b", "users"));
    server.transport_takes_all(stream);
    for _ in 0..3 {
        server.commit("rooms", "r1", 1);
    }
    server.pass(seconds(20));
    assert_eq!(server.offsets(stream), [1, 2], "no progress, either");
    server.transport_takes_all(stream);
    server.run_until_idle();
    server.take(stream);
    server.commit("other", "o1", 1);
    server.pass(seconds(10));
    assert!(matches!(server.take(stream)[..], [Payload::Progress(_)]));

    for (behind, is_told) in [(256, true), (257, false)] {
        let mut server = Server::new();
        let stream = server.welcomed("s");
        for number in 0..600 {
            let name = if number < behind { "rooms" } else { "users" };
            let wanted = want(&format!("{number}"), name);
            server.subscribe(stream, wanted.credit(1, 1_000));
        }
        for _ in 0..2 {
            server.commit("rooms", "r1", 1);
        }
        server.transport_takes_all(stream);
        server.take(stream);
        let progress = server.heartbeat(stream, 1).progress;
        assert_eq!(progress.is_some(), is_told, "{behind}");
    }
}

#[test]
fn no_progress_while_most_subscriptions_are_behind() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").credit(0, 0));
    server.commit("rooms", "r1", 1);
    assert_eq!(server.heartbeat(stream, 1).progress, None);
    server.pass(seconds(20));
    assert_eq!(server.take(stream), []);
}

#[test]
fn refused_subscribe_changes_nothing_and_says_why() {
    let limits = Limits {
        subscriptions_per_stream: 2,
        subscriptions: 3,
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms"));
    server.subscribe(stream, want("b", "rooms"));
    let wrong = want("a", "rooms").filter("n", "~", Kind::BoolValue(true));
    let long = "x".repeat(257);
    for (wanted, code, words) in [
        (wrong, RefusalCode::Invalid, "failed to compile filters: "),
        (
            want(&long, "rooms"),
            RefusalCode::Invalid,
            "257 bytes; the limit is 256 (id_bytes)",
        ),
        (
            want("c", "rooms"),
            RefusalCode::Limit,
            "has 2 subscriptions",
        ),
    ] {
        let response = server.subscribe(stream, wanted);
        assert!(!response.success);
        assert_eq!(response.code(), code);
        assert!(response.error.contains(words), "{}", response.error);
        assert_eq!((response.position, response.resync), (None, None));
    }
    assert!(
        server.subscribe(stream, want("b", "rooms")).success,
        "a repeated id takes no capacity"
    );
    let other = server.welcomed("t");
    assert!(server.subscribe(other, want("a", "rooms")).success);
    let response = server.subscribe(other, want("b", "rooms"));
    assert!(
        response.error.contains("server has 3 subscriptions"),
        "{}",
        response.error
    );
    server.commit("rooms", "r1", 1);
    let ids = ["a", "b"].map(str::to_owned);
    assert_eq!(server.delivered(stream), [(1, ids.to_vec())]);
}
