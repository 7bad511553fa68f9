//! Subscriptions that are behind: pages, faults of the log, and fairness.

use steadfast_wire::streamer::{
    FinalCode, ResyncReason, SubscribeResponse, streamer_message::Payload, value::Kind,
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
fn page_serves_all_subscriptions_of_the_stream() {
    let mut server = Server::with_log(rooms(10), pages_of(4));
    let stream = server.welcomed("s");
    for (id, offset) in [("a", 2), ("b", 0), ("c", 8)] {
        server.send_subscribe(stream, want(id, "rooms").after(offset));
    }
    server.take(stream);
    server.run_until_idle();
    let rows = server.delivered(stream);
    let ids: Vec<String> = rows.iter().map(|(_, ids)| ids.concat()).collect();
    // The read in progress when b and c arrived was for a alone.
    assert_eq!(ids[..4], ["a", "a", "a", "a"]);
    assert_eq!(
        ids[4..],
        ["b", "b", "b", "b", "b", "b", "ab", "ab", "abc", "abc"]
    );
    assert_eq!(server.hub.stats().gauges.behind, 0);
}

#[test]
fn event_committed_during_read_is_delivered_once() {
    let mut server = Server::with_log(rooms(3), Limits::default());
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").after(1));
    server.commit("rooms", "r1", 1);
    assert_eq!(server.offsets(stream), [0; 0]);
    // The log may return events that the hub was not told of yet.
    let unseen = event(5, "rooms", "r1", 1);
    server.log.push(Arc::clone(&unseen));
    server.complete_read(0);
    assert_eq!(server.offsets(stream), [2, 3, 4]);
    server.step(Input::Committed {
        events: vec![unseen],
    });
    assert_eq!(server.offsets(stream), [5]);
}

#[test]
fn catch_up_finishes_although_every_page_is_outdated() {
    let mut server = Server::with_log(rooms(100), pages_of(50));
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").after(0));
    for _ in 0..2 {
        server.commit("rooms", "r1", 1);
        server.complete_read(0);
    }
    assert_eq!(server.hub.stats().gauges.behind, 0);
    assert_eq!(server.offsets(stream), (1..=102).collect::<Vec<_>>());
}

#[test]
fn hole_in_commits_is_filled_from_the_log() {
    let mut server = Server::new();
    let (stream, plain) = (server.welcomed("s"), server.open());
    server.subscribe(stream, want("a", "rooms"));
    server.subscribe(plain, want("b", "rooms"));
    server.log = rooms(4);
    let last = Arc::clone(&server.log[3]);
    server.step(Input::Committed { events: vec![last] });
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [1, 2, 3, 4]);
    assert_eq!(server.offsets(plain), [1, 2, 3, 4]);
    let events = server.log[2..].to_vec();
    server.step(Input::Committed { events });
    server.run_until_idle();
    assert_eq!(server.take(stream), [], "they are known");
}

#[test]
fn hole_behind_a_half_delivered_event_repeats_nothing() {
    let mut server = Server::with(Limits {
        slice: 1,
        ..Limits::default()
    });
    let streams = [server.welcomed("one"), server.welcomed("two")];
    for stream in streams {
        server.subscribe(stream, want("a", "rooms"));
    }
    server.log = rooms(3);
    let [first, _, last] = [0, 1, 2].map(|at| Arc::clone(&server.log[at]));
    server.step(Input::Committed {
        events: vec![first],
    });
    server.step(Input::Tick);
    let before = streams.map(|stream| server.offsets(stream));
    assert_eq!(before, [vec![1], vec![]], "the slice ends between them");
    server.step(Input::Committed { events: vec![last] });
    server.run_until_idle();
    let after = streams.map(|stream| server.offsets(stream));
    assert_eq!(after, [vec![2, 3], vec![1, 2, 3]]);
}

#[test]
fn subscription_without_credit_waits_while_others_catch_up() {
    let mut server = Server::with_log(rooms(6), Limits::default());
    let stream = server.welcomed("s");
    server.send_subscribe(stream, want("thrifty", "rooms").after(0).credit(2, 1_000));
    server.send_subscribe(stream, want("rich", "rooms").after(0));
    server.take(stream);
    server.run_until_idle();
    let rows = server.delivered(stream);
    let of = |id: &str| {
        let rows = rows.iter().filter(|(_, ids)| ids.iter().any(|it| it == id));
        rows.map(|(offset, _)| *offset).collect::<Vec<_>>()
    };
    assert_eq!(of("thrifty"), [1, 2]);
    assert_eq!(of("rich"), [1, 2, 3, 4, 5, 6]);
    server.credit(stream, "thrifty", 100, 100_000);
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [3, 4, 5, 6]);
}

#[test]
fn few_and_many_subscriptions_get_same_events_in_order() {
    for others in [0, 200] {
        let mut log = rooms(6);
        log[3] = event(4, "rooms", "r2", 7);
        let mut server = Server::with_log(log, Limits::default());
        let stream = server.welcomed("s");
        let filtered = want("filtered", "rooms").filter("n", "==", Kind::IntValue(7));
        server.send_subscribe(stream, filtered.after(0));
        server.send_subscribe(stream, want("all", "rooms").after(0));
        server.send_subscribe(stream, want("document", "rooms").document("r2").after(0));
        for index in 0..others {
            server.send_subscribe(stream, want(&format!("other-{index}"), "users").after(0));
        }
        server.take(stream);
        server.run_until_idle();
        let rows = server.delivered(stream);
        let fourth = rows.iter().filter(|(offset, _)| *offset == 4);
        let fourth: Vec<_> = fourth.flat_map(|(_, ids)| ids).collect();
        // The first read was in progress when the others arrived, so an event may come in two parts.
        let mut sorted = fourth.clone();
        sorted.sort();
        assert_eq!(sorted, ["all", "document", "filtered"], "{others} others");
        let apart = fourth.first().is_some_and(|id| *id == "filtered");
        assert_eq!(fourth[usize::from(apart)..][..2], ["document", "all"]);
    }
}

#[test]
fn streams_take_turns_by_pages_of_the_log() {
    let limits = Limits {
        reads: 1,
        ..pages_of(1)
    };
    let mut server = Server::with_log(rooms(8), limits);
    let streams = [("s", 0), ("t", 3), ("u", 6)].map(|(session, offset)| {
        let stream = server.welcomed(session);
        server.subscribe(stream, want("a", "rooms").after(offset));
        stream
    });
    let mut order = Vec::new();
    while !server.reads.is_empty() {
        assert_eq!(server.reads.len(), 1, "the bound of reads");
        server.complete_read(0);
        for stream in streams {
            order.extend(server.offsets(stream));
        }
    }
    assert_eq!(order[..9], [1, 4, 7, 2, 5, 8, 3, 6, 4]);
}

#[test]
fn page_is_shared_by_waiting_streams() {
    let mut server = Server::with_log(rooms(100), pages_of(10));
    let streams = (0..50).map(|session| {
        let stream = server.welcomed(&format!("session-{session}"));
        server.subscribe(stream, want("a", "rooms").after(session % 5));
        stream
    });
    let streams: Vec<_> = streams.collect();
    server.run_until_idle();
    for (index, stream) in streams.into_iter().enumerate() {
        let first = index as u64 % 5 + 1;
        assert_eq!(server.offsets(stream), (first..=100).collect::<Vec<_>>());
    }
    assert!(
        server.reads_seen <= 12,
        "{} reads for ten pages",
        server.reads_seen
    );
}

#[test]
fn full_stream_leaves_shared_page_early_and_alone() {
    let limits = Limits {
        queue_messages: 4,
        ..Limits::default()
    };
    let mut server = Server::with_log(rooms(10), limits);
    let (slow, fast) = (server.welcomed("s"), server.welcomed("t"));
    server.transport_takes_all(fast);
    for stream in [slow, fast] {
        server.send_subscribe(stream, want("a", "rooms").after(0));
    }
    server.take(slow);
    server.take(fast);
    server.complete_read(0);
    assert_eq!(server.offsets(slow), [1, 2]);
    assert_eq!(server.offsets(fast), [1, 2, 3]);
    server.run_until_idle();
    assert_eq!(server.offsets(slow), (3..=10).collect::<Vec<_>>());
    assert_eq!(server.offsets(fast), (4..=10).collect::<Vec<_>>());
}

#[test]
fn page_is_no_larger_than_free_queue_capacity() {
    let limits = Limits {
        queue_bytes: 100_000,
        ..Limits::default()
    };
    let mut server = Server::with_log(rooms(10), limits);
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").after(0));
    assert!(server.reads[0].max_bytes <= 100_000);
}

#[test]
fn stream_that_ends_during_read_leaks_nothing() {
    let limits = Limits {
        reads: 1,
        ..Limits::default()
    };
    let mut server = Server::with_log(rooms(3), limits);
    let streams = ["s", "t"].map(|session| server.welcomed(session));
    for stream in streams {
        server.subscribe(stream, want("a", "rooms").after(0));
    }
    server.end(streams[0]);
    assert_eq!(
        server.reads_seen, 1,
        "the bound counts the read of a stream that ended"
    );
    server.complete_read(0);
    assert_eq!(server.offsets(streams[1]), [1, 2, 3], "it needs no other");
    let last = server.welcomed("u");
    server.subscribe(last, want("a", "rooms").after(0));
    server.end(last);
    server.complete_read(0);
    assert!(!server.hub.catch_up.holds_pages(), "nobody wants it");
    server.assert_frees_everything();
}

#[test]
fn pages_are_freed_if_the_last_read_of_nobody_fails() {
    let mut server = Server::with_log(rooms(20), pages_of(4));
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").after(0).credit(1, 1_000));
    server.complete_read(0);
    assert!(server.hub.catch_up.holds_pages(), "for when it has credit");
    assert_eq!(server.reads[0].after, 4, "read ahead");
    server.end(stream);
    server.fail_read(ReadFault::Trimmed { first: 9 });
    assert!(!server.hub.catch_up.holds_pages());
}

/// Returns limits with which nearly everything must be read from the log.
fn nearly_forgetful() -> Limits {
    Limits {
        tail_events: 1,
        ..Limits::default()
    }
}

fn resyncs(messages: Vec<Payload>) -> Vec<(String, ResyncReason, u64)> {
    let resync = |payload| match payload {
        Payload::SubscribeResponse(SubscribeResponse {
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
    messages.into_iter().map(resync).collect()
}

#[test]
fn damaged_event_yields_one_resync_per_affected_subscription() {
    let mut server = Server::with_log(rooms(9), Limits::default());
    server.damaged = Some(5);
    let stream = server.welcomed("s");
    server.send_subscribe(stream, want("before", "rooms").after(2));
    server.send_subscribe(stream, want("too", "rooms").after(4));
    server.send_subscribe(stream, want("after", "rooms").after(5));
    server.take(stream);
    server.complete_read(0);
    assert_eq!(server.offsets(stream), [3, 4]);
    server.complete_read(0);
    let told = resyncs(server.take(stream));
    let expected = ["before", "too"].map(|id| (id.to_owned(), ResyncReason::Damaged, 9));
    assert_eq!(told, expected);
    server.run_until_idle();
    assert_eq!(
        server.offsets(stream),
        [6, 7, 8, 9],
        "the third misses nothing"
    );
    server.commit("rooms", "r1", 1);
    let deliveries = server.deliveries(stream);
    assert_eq!(deliveries[0].previous, [9, 9, 9]);
    for (offset, reason) in [(4, Some(ResyncReason::Damaged)), (5, None)] {
        let response = server.subscribe(stream, want("later", "rooms").after(offset));
        let told = response.resync.map(|resync| resync.reason());
        assert_eq!(told, reason, "the damage is known by now");
    }
}

#[test]
fn loss_at_the_source_yields_one_resync_per_subscription() {
    let mut server = Server::with_log(rooms(5), Limits::default());
    let (stream, plain) = (server.welcomed("s"), server.open());
    server.subscribe(stream, want("live", "rooms"));
    server.subscribe(stream, want("behind", "rooms").after(2).credit(1, 1));
    server.subscribe(plain, want("plain", "rooms"));
    server.step(Input::Lost { before: 4 });
    let told = resyncs(server.take(stream));
    let expected = ["live", "behind"].map(|id| (id.to_owned(), ResyncReason::Damaged, 5));
    assert_eq!(told, expected);
    assert_eq!(server.code(plain), Some(EndCode::DataLoss));
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [0; 0]);
    server.commit("rooms", "r1", 1);
    assert_eq!(server.offsets(stream), [6], "both go on at the head");
    for (offset, reason) in [(3, Some(ResyncReason::Damaged)), (4, None)] {
        let response = server.subscribe(stream, want("later", "rooms").after(offset));
        let told = response.resync.map(|resync| resync.reason());
        assert_eq!(told, reason, "a position from before the loss");
    }
}

#[test]
fn events_trimmed_under_slow_subscription_yield_resync() {
    let mut server = Server::with(nearly_forgetful());
    let stream = server.welcomed("s");
    let request = server.send_subscribe(stream, want("a", "rooms").credit(1, 1_000));
    for _ in 0..6 {
        server.commit("rooms", "r1", 1);
    }
    server.take(stream);
    server.first = 3;
    server.step(Input::Trimmed { first: 3 });
    server.credit(stream, "a", 10, 10_000);
    server.complete_read(0);
    match server.next(stream) {
        Some(Payload::SubscribeResponse(response)) => {
            assert_eq!(
                response.request, request,
                "which tells it from an older response"
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
fn fault_that_names_what_was_read_is_not_met_for_ever() {
    for fault in [
        ReadFault::Trimmed { first: 2 },
        ReadFault::Trimmed { first: 0 },
        ReadFault::Damaged { offset: 2 },
    ] {
        let mut server = Server::with_log(rooms(9), Limits::default());
        let stream = server.welcomed("s");
        server.subscribe(stream, want("a", "rooms").after(2));
        server.fail_read(fault.clone());
        assert_eq!(server.reads.len(), 0, "{fault:?}");
        assert_eq!(resyncs(server.take(stream)).len(), 1, "{fault:?}");
    }
}

#[test]
fn plain_stream_that_loses_events_is_ended() {
    let limits = Limits {
        queue_messages: 1,
        ..nearly_forgetful()
    };
    for fault in [
        ReadFault::Damaged { offset: 1 },
        ReadFault::Trimmed { first: 2 },
    ] {
        let mut server = Server::with(limits.clone());
        let stream = server.open();
        server.subscribe(stream, want("a", "rooms"));
        for _ in 0..2 {
            server.commit("rooms", "r1", 1);
        }
        server.transport_takes_all(stream);
        server.fail_read(fault);
        assert_eq!(server.code(stream), Some(EndCode::DataLoss));
        server.assert_frees_everything();
    }
}

#[test]
fn failing_log_ends_only_the_stream_that_reads() {
    let mut server = Server::with_log(rooms(3), Limits::default());
    let (stream, live) = (server.welcomed("s"), server.welcomed("t"));
    server.subscribe(stream, want("a", "rooms").after(0));
    server.subscribe(live, want("a", "rooms"));
    server.fail_read(ReadFault::Storage("no space".to_owned()));
    assert_eq!(server.code(stream), Some(EndCode::Unavailable));
    assert_eq!(server.ended[&stream].final_code, Some(FinalCode::Storage));
    assert_eq!(server.code(live), None);
}

#[test]
fn unexpected_page_is_not_delivered() {
    for (page, code) in [
        (vec![], Some(EndCode::Unavailable)),
        (vec![event(2, "rooms", "r1", 1)], None),
    ] {
        let mut server = Server::with_log(rooms(3), Limits::default());
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
