//! Subscriptions that are behind: pages, faults of the log, and fairness.

use steadfast_wire::streamer::{
    FinalCode, ResyncReason, SubscribeResponse, streamer_message::Payload as Answer, value::Kind,
};

use super::server::*;
use crate::hub::*;

fn pages_of(events: usize) -> Limits {
    Limits {
        page_events: events,
        ..Limits::default()
    }
}

#[test]
fn a_page_serves_every_subscription_of_the_stream_in_one_message_per_event() {
    let mut server = Server::holding(rooms(10), pages_of(4));
    let stream = server.welcomed("s");
    for (id, place) in [("a", 2), ("b", 0), ("c", 8)] {
        server.ask(stream, want(id, "rooms").after(place));
    }
    server.take(stream);
    while !server.reads.is_empty() {
        server.answer(0);
    }
    let rows = server.delivered(stream);
    let ids: Vec<String> = rows.iter().map(|(_, ids)| ids.concat()).collect();
    // The page under way when b and c came was read for a alone.
    assert_eq!(ids[..4], ["a", "a", "a", "a"]);
    assert_eq!(
        ids[4..],
        ["b", "b", "b", "b", "b", "b", "ab", "ab", "abc", "abc"]
    );
    assert_eq!(server.hub.stats().gauges.behind, 0);
}

#[test]
fn what_is_committed_while_a_page_is_read_comes_once() {
    let mut server = Server::holding(rooms(3), Limits::default());
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").after(1));
    server.commit("rooms", "r1", 1);
    assert_eq!(server.offsets(stream), [0; 0]);
    // The log gives what it holds, which may be more than the hub was told of.
    let unseen = event(5, "rooms", "r1", 1);
    server.log.push(Arc::clone(&unseen));
    server.answer(0);
    assert_eq!(server.offsets(stream), [2, 3, 4]);
    server.step(Input::Committed {
        events: vec![unseen],
    });
    assert_eq!(server.offsets(stream), [5]);
}

#[test]
fn catching_up_ends_although_every_page_is_old_when_it_comes() {
    let mut server = Server::holding(rooms(100), pages_of(50));
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").after(0));
    for _ in 0..2 {
        server.commit("rooms", "r1", 1);
        server.answer(0);
    }
    assert_eq!(server.hub.stats().gauges.behind, 0);
    assert_eq!(server.offsets(stream), (1..=102).collect::<Vec<_>>());
}

#[test]
fn a_hole_in_what_was_told_is_filled_from_the_log() {
    let mut server = Server::new();
    let (stream, plain) = (server.welcomed("s"), server.open());
    server.subscribe(stream, want("a", "rooms"));
    server.subscribe(plain, want("b", "rooms"));
    server.log = rooms(4);
    let last = Arc::clone(&server.log[3]);
    server.step(Input::Committed { events: vec![last] });
    server.settle();
    assert_eq!(server.offsets(stream), [1, 2, 3, 4]);
    assert_eq!(server.offsets(plain), [1, 2, 3, 4]);
}

#[test]
fn a_subscription_without_credit_waits_in_the_log_while_others_of_its_stream_pass() {
    let mut server = Server::holding(rooms(6), Limits::default());
    let stream = server.welcomed("s");
    server.ask(stream, want("thrifty", "rooms").after(0).credit(2, 1_000));
    server.ask(stream, want("rich", "rooms").after(0));
    server.take(stream);
    server.settle();
    let rows = server.delivered(stream);
    let of = |id: &str| {
        let rows = rows.iter().filter(|(_, ids)| ids.iter().any(|it| it == id));
        rows.map(|(offset, _)| *offset).collect::<Vec<_>>()
    };
    assert_eq!(of("thrifty"), [1, 2]);
    assert_eq!(of("rich"), [1, 2, 3, 4, 5, 6]);
    server.credit(stream, "thrifty", 100, 100_000);
    server.settle();
    assert_eq!(server.offsets(stream), [3, 4, 5, 6]);
}

#[test]
fn few_and_many_subscriptions_find_the_same_events_in_the_same_order() {
    for others in [0, 200] {
        let mut log = rooms(6);
        log[3] = event(4, "rooms", "r2", 7);
        let mut server = Server::holding(log, Limits::default());
        let stream = server.welcomed("s");
        let filtered = want("filtered", "rooms").filter("n", "==", Kind::IntValue(7));
        server.ask(stream, filtered.after(0));
        server.ask(stream, want("all", "rooms").after(0));
        server.ask(stream, want("document", "rooms").document("r2").after(0));
        for index in 0..others {
            server.ask(stream, want(&format!("other-{index}"), "users").after(0));
        }
        server.take(stream);
        server.settle();
        let rows = server.delivered(stream);
        let fourth = rows.iter().filter(|(offset, _)| *offset == 4);
        let fourth: Vec<_> = fourth.flat_map(|(_, ids)| ids).collect();
        // The first page was under way when the others came, so one event may come in parts.
        let mut sorted = fourth.clone();
        sorted.sort();
        assert_eq!(sorted, ["all", "document", "filtered"], "{others} others");
        let apart = fourth.first().is_some_and(|id| *id == "filtered");
        assert_eq!(fourth[usize::from(apart)..][..2], ["document", "all"]);
    }
}

#[test]
fn streams_take_turns_by_pages() {
    let limits = Limits {
        reads: 1,
        ..pages_of(1)
    };
    let mut server = Server::holding(rooms(8), limits);
    let streams = [("s", 0), ("t", 3), ("u", 6)].map(|(session, place)| {
        let stream = server.welcomed(session);
        server.subscribe(stream, want("a", "rooms").after(place));
        stream
    });
    let mut order = Vec::new();
    while !server.reads.is_empty() {
        assert_eq!(server.reads.len(), 1, "the bound of reads");
        server.answer(0);
        for stream in streams {
            order.extend(server.offsets(stream));
        }
    }
    assert_eq!(order[..9], [1, 4, 7, 2, 5, 8, 3, 6, 4]);
}

#[test]
fn a_page_is_shared_by_the_streams_that_wait_for_it() {
    let mut server = Server::holding(rooms(100), pages_of(10));
    let streams = (0..50).map(|session| {
        let stream = server.welcomed(&format!("session-{session}"));
        server.subscribe(stream, want("a", "rooms").after(session % 5));
        stream
    });
    let streams: Vec<_> = streams.collect();
    server.settle();
    for (place, stream) in streams.into_iter().enumerate() {
        let first = place as u64 % 5 + 1;
        assert_eq!(server.offsets(stream), (first..=100).collect::<Vec<_>>());
    }
    assert!(
        server.reads_seen <= 12,
        "{} reads for ten pages",
        server.reads_seen
    );
}

#[test]
fn a_stream_without_room_leaves_a_shared_page_early_and_alone() {
    let limits = Limits {
        queue_messages: 4,
        ..Limits::default()
    };
    let mut server = Server::holding(rooms(10), limits);
    let (slow, fast) = (server.welcomed("s"), server.welcomed("t"));
    server.send_all(fast);
    for stream in [slow, fast] {
        server.ask(stream, want("a", "rooms").after(0));
    }
    server.take(slow);
    server.take(fast);
    server.answer(0);
    assert_eq!(server.offsets(slow), [1, 2]);
    assert_eq!(server.offsets(fast), [1, 2, 3]);
    server.settle();
    assert_eq!(server.offsets(slow), (3..=10).collect::<Vec<_>>());
    assert_eq!(server.offsets(fast), (4..=10).collect::<Vec<_>>());
}

#[test]
fn a_page_is_no_larger_than_the_room_for_it() {
    let limits = Limits {
        queue_bytes: 100_000,
        ..Limits::default()
    };
    let mut server = Server::holding(rooms(10), limits);
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").after(0));
    assert!(server.reads[0].max_bytes <= 100_000);
}

#[test]
fn the_end_of_a_stream_with_a_read_under_way_leaves_nothing() {
    let limits = Limits {
        reads: 1,
        ..Limits::default()
    };
    let mut server = Server::holding(rooms(3), limits);
    let streams = ["s", "t"].map(|session| server.welcomed(session));
    for stream in streams {
        server.subscribe(stream, want("a", "rooms").after(0));
    }
    server.end(streams[0]);
    assert_eq!(
        server.reads_seen, 1,
        "the bound counts the read of a stream that ended"
    );
    server.answer(0);
    server.answer(0);
    assert_eq!(server.offsets(streams[1]), [1, 2, 3]);
    server.assert_frees_everything();
}

fn resyncs(answers: Vec<Answer>) -> Vec<(String, ResyncReason, u64)> {
    let resync = |answer| match answer {
        Answer::SubscribeResponse(SubscribeResponse {
            subscription_id,
            success: true,
            position,
            resync: Some(resync),
            ..
        }) => {
            assert_eq!(position, resync.resumes_at);
            (subscription_id, resync.reason(), position.unwrap().offset)
        }
        other => panic!("not a resync: {other:?}"),
    };
    answers.into_iter().map(resync).collect()
}

#[test]
fn i19_a_damaged_entry_is_told_once_to_those_that_miss_it() {
    let mut server = Server::holding(rooms(9), Limits::default());
    server.damaged = Some(5);
    let stream = server.welcomed("s");
    server.ask(stream, want("before", "rooms").after(2));
    server.ask(stream, want("too", "rooms").after(4));
    server.ask(stream, want("after", "rooms").after(5));
    server.take(stream);
    server.answer(0);
    assert_eq!(server.offsets(stream), [3, 4]);
    server.answer(0);
    let told = resyncs(server.take(stream));
    let expected = ["before", "too"].map(|id| (id.to_owned(), ResyncReason::Damaged, 9));
    assert_eq!(told, expected);
    server.settle();
    assert_eq!(
        server.offsets(stream),
        [6, 7, 8, 9],
        "the third misses nothing"
    );
    server.commit("rooms", "r1", 1);
    let deliveries = server.deliveries(stream);
    assert_eq!(deliveries[0].previous, [9, 9, 9]);
    for (place, reason) in [(4, Some(ResyncReason::Damaged)), (5, None)] {
        let response = server.subscribe(stream, want("later", "rooms").after(place));
        let told = response.resync.map(|resync| resync.reason());
        assert_eq!(told, reason, "it is known by now");
    }
}

#[test]
fn i19_what_is_trimmed_under_a_slow_subscription_is_told() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    let request = server.ask(stream, want("a", "rooms").credit(1, 1_000));
    for _ in 0..6 {
        server.commit("rooms", "r1", 1);
    }
    server.take(stream);
    server.first = 3;
    server.step(Input::Trimmed { first: 3 });
    server.credit(stream, "a", 10, 10_000);
    server.answer(0);
    match server.next(stream) {
        Some(Answer::SubscribeResponse(response)) => {
            assert_eq!(
                response.request, request,
                "so that it can be told from an older one"
            );
            assert_eq!(response.resync.unwrap().reason(), ResyncReason::Trimmed);
            assert_eq!(response.position, Some(position(6)));
        }
        other => panic!("no resync: {other:?}"),
    }
    server.commit("rooms", "r1", 1);
    assert_eq!(server.offsets(stream), [7], "its credit still counts");
}

#[test]
fn i19_a_plain_stream_that_misses_something_is_ended() {
    let limits = Limits {
        queue_messages: 1,
        ..Limits::default()
    };
    for fault in [
        ReadFault::Damaged { offset: 1 },
        ReadFault::Trimmed { first: 2 },
    ] {
        let mut server = Server::with(limits.clone());
        let stream = server.open();
        server.subscribe(stream, want("a", "rooms"));
        server.commit("rooms", "r1", 1);
        server.send_all(stream);
        server.fail_read(fault);
        assert_eq!(server.code(stream), Some(EndCode::DataLoss));
        server.assert_frees_everything();
    }
}

#[test]
fn a_log_that_fails_ends_the_stream_that_needs_it_and_no_other() {
    let mut server = Server::holding(rooms(3), Limits::default());
    let (stream, live) = (server.welcomed("s"), server.welcomed("t"));
    server.subscribe(stream, want("a", "rooms").after(0));
    server.subscribe(live, want("a", "rooms"));
    server.fail_read(ReadFault::Storage("no space".to_owned()));
    assert_eq!(server.code(stream), Some(EndCode::Unavailable));
    assert_eq!(server.ended[&stream].final_code, Some(FinalCode::Storage));
    assert_eq!(server.code(live), None);
}

#[test]
fn a_page_that_is_not_what_was_asked_for_is_not_delivered() {
    for (page, code) in [
        (vec![], Some(EndCode::Unavailable)),
        (vec![event(2, "rooms", "r1", 1)], None),
    ] {
        let mut server = Server::holding(rooms(3), Limits::default());
        let stream = server.welcomed("s");
        server.subscribe(stream, want("a", "rooms").after(0));
        server.reads.clear();
        server.step(Input::ReadDone {
            read: ReadId(0),
            result: Ok(page),
        });
        assert_eq!(server.code(stream), code);
        if code.is_none() {
            let told = resyncs(server.take(stream));
            assert_eq!(told, [("a".to_owned(), ResyncReason::Damaged, 3)]);
        }
    }
}
