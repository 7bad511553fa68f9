//! Flow control: a slow stream delays no other.

use steadfast_wire::streamer::{
    GatewayMessage, Heartbeat, gateway_message::Payload as Request, streamer_message::Payload,
};

use super::server::*;
use crate::hub::*;

/// Returns limits with a queue of two messages; a third waits in the log.
fn narrow() -> Limits {
    Limits {
        queue_messages: 2,
        ..Limits::default()
    }
}

#[test]
fn credit_is_a_total_that_bounds_messages() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").credit(2, 1_000_000));
    for _ in 0..6 {
        server.commit("rooms", "r1", 1);
    }
    assert_eq!(server.offsets(stream), [1, 2]);
    assert_eq!(server.hub.stats().gauges.behind, 1);
    server.credit(stream, "a", 1, 0);
    server.run_until_idle();
    assert_eq!(
        server.offsets(stream),
        [0; 0],
        "a smaller total takes nothing back and gives nothing"
    );
    server.credit(stream, "a", 5, 0);
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [3, 4, 5]);
    server.credit(stream, "a", 100, 0);
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [6]);
    assert_eq!(server.hub.stats().gauges.behind, 0, "live again");
    server.commit("rooms", "r1", 1);
    assert_eq!(server.offsets(stream), [7]);
}

#[test]
fn credit_bounds_bytes_up_to_one_delivery_over() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    let weight = event(1, "rooms", "r1", 1).weight() as u64;
    server.subscribe(stream, want("a", "rooms").credit(1_000, 2 * weight + 1));
    for _ in 0..5 {
        server.commit("rooms", "r1", 1);
    }
    assert_eq!(server.offsets(stream), [1, 2, 3]);
    server.credit(stream, "a", 0, 3 * weight);
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [0; 0], "all of it is used");
    server.credit(stream, "a", 0, 3 * weight + 1);
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [4]);
}

#[test]
fn ids_of_one_event_are_split_at_the_limit_of_a_delivery() {
    let limit = 4_096;
    let mut server = Server::with(Limits {
        delivery_bytes: limit,
        ..Limits::default()
    });
    server.audited = false;
    let stream = server.welcomed("s");
    let id = |n: usize| format!("{n:0>200}");
    for n in 0..100 {
        // Those without credit take no part, and split nothing.
        let credit = if n % 3 == 0 { 0 } else { 1_000 };
        server.subscribe(stream, want(&id(n), "rooms").credit(credit, 1_000_000));
    }
    server.transport_takes_all(stream);
    server.commit("rooms", "r1", 1);
    let sizes = &server.unsent[&stream];
    assert!(
        sizes.iter().all(|size| *size <= limit + FRAME_HEAD + 8),
        "{sizes:?}"
    );
    let fewest = 66 * 200 / limit + 1;
    assert!(sizes.len() <= fewest + 1, "{sizes:?}");
    let ids = server
        .delivered(stream)
        .into_iter()
        .flat_map(|(_, ids)| ids);
    let expected: Vec<_> = (0..100).filter(|n| n % 3 > 0).map(id).collect();
    assert_eq!(ids.collect::<Vec<_>>(), expected);
    // An event that leaves no room for ids goes to one subscription at a time.
    let mut large = Event::clone(&event(2, "rooms", "r1", 1));
    large.data = Bytes::from(vec![b' '; limit]);
    server.step(Input::Committed {
        events: vec![Arc::new(large)],
    });
    let ids = server.delivered(stream).into_iter().map(|(_, ids)| ids);
    assert!(ids.eq(expected.into_iter().map(|id| vec![id])));
}

#[test]
fn credit_for_unknown_subscription_is_ignored() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.credit(stream, "gone", 5, 5);
    assert_eq!((server.take(stream), server.code(stream)), (vec![], None));
}

#[test]
fn subscription_without_credit_delays_nothing_else() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.subscribe(stream, want("stalled", "rooms").credit(0, 0));
    server.subscribe(stream, want("fast", "rooms"));
    for expected in 1..=50 {
        server.commit("rooms", "r1", 1);
        assert_eq!(
            server.delivered(stream),
            [(expected, vec!["fast".to_owned()])]
        );
        server.heartbeat(stream, 1);
    }
}

#[test]
fn stream_that_does_not_read_delays_no_other() {
    let mut server = Server::with(narrow());
    let (slow, fast) = (server.open(), server.open());
    server.subscribe(slow, want("slow", "rooms"));
    server.subscribe(fast, want("fast", "rooms"));
    server.transport_takes_all(slow);
    server.transport_takes_all(fast);
    for expected in 1..=100 {
        server.commit("rooms", "r1", 1);
        assert_eq!(server.offsets(fast), [expected], "at once");
        server.transport_takes_all(fast);
    }
    let held = server.hub.stats().gauges;
    assert_eq!((held.queued_messages, held.behind), (2, 1));
}

#[test]
fn plain_stream_that_reads_again_gets_every_event() {
    let mut server = Server::with(narrow());
    let stream = server.open();
    server.subscribe(stream, want("a", "rooms"));
    for _ in 0..3_000 {
        server.commit("rooms", "r1", 1);
    }
    let queued = server.hub.stats().gauges.queued_messages;
    assert_eq!(queued, 2, "no queue grows behind a slow peer");
    server.heartbeat_later(stream);
    assert!(
        server.subscribe_later(stream),
        "requests still get responses"
    );
    server.run_until_idle();
    let offsets = server.offsets(stream);
    assert_eq!(offsets, (1..=3_000).collect::<Vec<_>>());
    assert_eq!(server.code(stream), None);
}

impl Server {
    /// Sends a heartbeat behind earlier deliveries, which are put back.
    fn heartbeat_later(&mut self, stream: StreamId) {
        let before = self.take(stream);
        self.heartbeat(stream, 9);
        self.put_back(stream, before);
    }

    /// Returns true if a subscribe behind earlier deliveries, which are put back, succeeds.
    fn subscribe_later(&mut self, stream: StreamId) -> bool {
        let before = self.take(stream);
        let success = self.subscribe(stream, want("b", "users")).success;
        self.put_back(stream, before);
        success
    }
}

#[test]
fn stream_that_never_reads_is_ended_after_stall_timeout() {
    let limits = Limits {
        stall_timeout: seconds(120),
        ..narrow()
    };
    let mut server = Server::with(limits);
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms"));
    server.transport_takes_all(stream);
    server.commit("rooms", "r1", 1);
    for _ in 0..4 {
        server.pass(seconds(29));
        server.send_heartbeat(stream, 1);
    }
    assert_eq!(
        server.code(stream),
        None,
        "an application may sleep for a minute or two"
    );
    server.pass(seconds(4));
    assert_eq!(server.code(stream), Some(EndCode::ResourceExhausted));
    let ended = server.ended[&stream].clone();
    assert_eq!(
        ended.final_code,
        Some(steadfast_wire::streamer::FinalCode::Evicted)
    );
    assert!(!ended.flush);
    assert_eq!(server.hub.stats().gauges, Gauges::default());
}

#[test]
fn responses_to_peer_that_never_reads_are_bounded() {
    let limits = Limits {
        queue_bytes: 1_000,
        outbound_bytes: 10_000,
        ..narrow()
    };
    let mut server = Server::with(limits);
    let stream = server.open();
    for beat in 0..100_000 {
        if server.code(stream).is_some() {
            break;
        }
        server.send_heartbeat(stream, beat);
        assert!(server.hub.stats().gauges.queued_bytes <= 10_000);
    }
    assert_eq!(server.code(stream), Some(EndCode::ResourceExhausted));
    assert_eq!(server.hub.stats().counters.evicted, 1);
}

#[test]
fn peer_may_send_6000_requests_before_reading() {
    let mut server = Server::new();
    server.audited = false;
    let stream = server.open();
    for index in 0..6_000 {
        server.send_subscribe(stream, want(&format!("sub-{index}"), "rooms"));
    }
    assert_eq!(server.code(stream), None);
    server.run_until_idle();
    let messages = server.take(stream);
    let success = |it: &&Payload| matches!(it, Payload::SubscribeResponse(it) if it.success);
    assert_eq!(messages.iter().filter(success).count(), 6_000);
}

#[test]
fn lag_beyond_max_lag_ends_stream() {
    let limits = Limits {
        max_lag: Some(10),
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").credit(1, 1_000));
    for _ in 0..11 {
        server.commit("rooms", "r1", 1);
    }
    server.transport_takes_all(stream);
    server.pass(seconds(10));
    assert_eq!(server.code(stream), None, "ten behind");
    server.commit("rooms", "r1", 1);
    server.pass(seconds(10));
    assert_eq!(server.code(stream), Some(EndCode::ResourceExhausted));
}

#[test]
fn messages_that_arrive_together_are_answered_in_one_send() {
    let mut server = Server::new();
    let [stays, ends] = ["a", "b"].map(|session| server.welcomed(session));
    let heartbeat = |stream| {
        let payload = Some(Request::Heartbeat(Heartbeat::default()));
        let message = GatewayMessage { payload };
        Input::Message { stream, message }
    };
    let arrived = (0..100).flat_map(|_| [heartbeat(stays), heartbeat(ends)]);
    let arrived = arrived.chain([Input::Ended { stream: ends }, heartbeat(ends)]);
    let mut actions = Vec::new();
    server.hub.step_all(server.now, arrived, &mut actions);
    let done: Vec<_> = actions
        .iter()
        .map(|action| match action {
            Action::Send {
                stream, messages, ..
            } => (*stream, Some(*messages)),
            Action::End { stream, .. } => (*stream, None),
            other => panic!("{other:?}"),
        })
        .collect();
    // What was answered before an end goes before it.
    assert_eq!(done, [(ends, Some(100)), (ends, None), (stays, Some(100))]);
}
