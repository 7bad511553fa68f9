//! Streams ended by the server: full, draining, silent.

use std::time::Duration;

use steadfast_wire::streamer::{
    Drain, FinalCode, gateway_message::Payload as Request, streamer_message::Payload,
};

use super::server::*;
use crate::hub::*;

fn limited_to(streams: usize) -> Server {
    let limits = Limits {
        streams,
        ..Limits::default()
    };
    Server::with(limits)
}

fn drain(server: &mut Server, within: Duration) {
    let deadline = server.now + within;
    let reason = "an upgrade".to_owned();
    server.step(Input::Drain { deadline, reason });
}

#[test]
fn stream_over_limit_gets_ending_its_peer_understands() {
    let mut server = limited_to(1);
    let first = server.welcomed("s");
    let (profile, plain, mute) = (server.open(), server.open(), server.open());
    server.send(profile, Request::Hello(hello("t", 1)));
    server.subscribe_refused(plain);
    server.pass(seconds(5));
    for stream in [profile, plain, mute] {
        assert_eq!(server.code(stream), Some(EndCode::ResourceExhausted));
        assert_eq!(server.take(stream), []);
    }
    let ended = &server.ended[&profile];
    assert_eq!(
        (ended.final_code, ended.retry_after_ms),
        (Some(FinalCode::Limit), Some(5_000))
    );
    assert!(
        ended.status.text.contains("has 1 streams"),
        "{}",
        ended.status.text
    );
    assert_eq!(server.ended[&plain].final_code, None);
    assert_eq!(server.code(first), None);
    server.end(first);
    assert!(server.subscribe_accepted());
    server.assert_frees_everything();
}

impl Server {
    fn subscribe_refused(&mut self, stream: StreamId) {
        self.send_subscribe(stream, want("a", "rooms"));
    }

    /// Returns true if one more stream is served.
    fn subscribe_accepted(&mut self) -> bool {
        let stream = self.open();
        self.subscribe(stream, want("a", "rooms")).success
    }
}

#[test]
fn streams_being_refused_are_bounded() {
    let mut server = limited_to(1);
    server.welcomed("s");
    let flood: Vec<_> = (0..1_000).map(|_| server.open()).collect();
    assert_eq!(server.hub.stats().gauges.streams, 1 + 256);
    assert_eq!(server.code(flood[256]), Some(EndCode::ResourceExhausted));
    server.assert_frees_everything();
}

#[test]
fn streams_being_refused_take_no_place_of_others() {
    let mut server = limited_to(1);
    let first = server.open();
    let refused = server.open();
    server.end(first);
    let next = server.open();
    server.send_heartbeat(next, 1);
    assert_eq!((server.code(refused), server.code(next)), (None, None));
    server.send_heartbeat(refused, 1);
    assert!(server.code(refused).is_some());
}

#[test]
fn draining_ends_plain_stream_that_no_event_matches_in_time() {
    let mut server = Server::with(Limits {
        slice: 1,
        ..Limits::default()
    });
    let (heavy, plain) = (server.welcomed("s"), server.open());
    server.subscribe(heavy, want("a", "rooms"));
    server.subscribe(plain, want("b", "users"));
    server.transport_takes_all(plain);
    let events = rooms(5);
    server.log.extend(events.iter().cloned());
    server.step(Input::Committed { events });
    drain(&mut server, seconds(60));
    assert_eq!(server.code(plain), None, "something may match");
    while server.hub.has_work() {
        server.step(Input::Tick);
    }
    assert!(server.code(plain).is_some(), "and nothing did");
    assert_eq!(server.code(heavy), None);
}

#[test]
fn drain_is_announced_and_ends_streams_at_deadline() {
    let mut server = Server::new();
    let (profile, plain, unknown) = (server.welcomed("s"), server.open(), server.open());
    server.subscribe(profile, want("a", "rooms"));
    server.subscribe(plain, want("a", "rooms"));
    drain(&mut server, seconds(20));
    let announcement = Drain {
        deadline_ms: 20_000,
        reason: "an upgrade".to_owned(),
    };
    assert_eq!(server.take(profile), [Payload::Drain(announcement)]);
    assert_eq!(server.take(plain), []);
    server.commit("rooms", "r1", 1);
    assert_eq!(server.offsets(profile), [1], "service goes on meanwhile");
    assert_eq!(server.offsets(plain), [1]);
    server.send(unknown, Request::Hello(hello("t", 1)));
    assert_eq!(server.ended[&unknown].final_code, Some(FinalCode::Drained));
    server.pass(Duration::from_micros(19_999_999));
    assert_eq!((server.code(profile), server.code(plain)), (None, None));
    server.pass(Duration::from_micros(1));
    for stream in [profile, plain] {
        assert_eq!(server.code(stream), Some(EndCode::Unavailable));
    }
    assert_eq!(server.ended[&profile].final_code, Some(FinalCode::Drained));
    assert_eq!(server.ended[&profile].retry_after_ms, Some(1_000));
    assert_eq!(server.ended[&plain].final_code, None);
    server.assert_frees_everything();
}

#[test]
fn draining_ends_plain_stream_once_everything_is_sent() {
    let limits = Limits {
        queue_messages: 2,
        tail_events: 1,
        page_events: 2,
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    let (idle, busy) = (server.open(), server.open());
    for (stream, id) in [(idle, "idle"), (busy, "busy")] {
        server.subscribe(stream, want(id, id));
        server.transport_takes_all(stream);
    }
    for _ in 0..5 {
        server.commit("busy", "b1", 1);
    }
    drain(&mut server, seconds(20));
    assert_eq!(server.code(idle), Some(EndCode::Unavailable));
    assert_eq!(server.code(busy), None);
    server.transport_takes_all(busy);
    assert_eq!(server.code(busy), None, "the rest is being read");
    server.complete_read(0);
    server.transport_takes_all(busy);
    assert_eq!(server.code(busy), None, "the newest event is left");
    server.step(Input::Tick);
    server.transport_takes_all(busy);
    assert_eq!(server.offsets(busy), [1, 2, 3, 4, 5]);
    assert_eq!(server.code(busy), Some(EndCode::Unavailable));
}

#[test]
fn stream_opened_during_drain_is_refused() {
    let mut server = Server::new();
    drain(&mut server, seconds(20));
    let (profile, plain) = (server.hello("s", 1), server.open());
    server.heartbeat_refused(plain);
    for (stream, code) in [(profile, Some(FinalCode::Drained)), (plain, None)] {
        assert_eq!(server.code(stream), Some(EndCode::Unavailable));
        assert_eq!(server.ended[&stream].final_code, code);
    }
    server.assert_frees_everything();
}

impl Server {
    fn heartbeat_refused(&mut self, stream: StreamId) {
        self.send_heartbeat(stream, 1);
        assert_eq!(self.take(stream), []);
    }
}

#[test]
fn second_drain_only_shortens_the_first() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    drain(&mut server, seconds(20));
    drain(&mut server, seconds(60));
    drain(&mut server, seconds(5));
    let left = server.take(stream).into_iter().map(|it| match it {
        Payload::Drain(drain) => drain.deadline_ms,
        other => panic!("not a drain: {other:?}"),
    });
    assert_eq!(left.collect::<Vec<_>>(), [20_000, 20_000, 5_000]);
    server.pass(seconds(5));
    assert_eq!(server.code(stream), Some(EndCode::Unavailable));

    // Nor does it take a peer that has read since the first for one that was idle before.
    let mut server = Server::new();
    let plain = server.open();
    server.subscribe(plain, want("a", "rooms"));
    server.commit("rooms", "r1", 1);
    drain(&mut server, seconds(60));
    server.pass(seconds(2));
    server.transport_takes(plain, 1);
    server.pass(seconds(1));
    drain(&mut server, seconds(60));
    server.pass(seconds(10));
    assert_eq!(server.code(plain), None);
}

#[test]
fn profile_peer_is_ended_after_three_silent_intervals() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.transport_takes_all(stream);
    server.pass(seconds(60));
    server.credit(stream, "any message will do", 1, 1);
    server.pass(Duration::from_micros(89_999_999));
    assert_eq!(server.code(stream), None);
    server.pass(Duration::from_micros(1));
    assert_eq!(server.code(stream), Some(EndCode::Unavailable));
    assert_eq!(server.ended[&stream].final_code, Some(FinalCode::Silent));
    server.assert_frees_everything();
}

#[test]
fn earlier_time_counts_as_the_latest() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.transport_takes_all(stream);
    server.pass(seconds(50));
    server.now = Time::ZERO;
    server.credit(stream, "heard at 50 s", 1, 1);
    server.pass(seconds(50) + Duration::from_micros(89_999_999));
    assert_eq!(server.code(stream), None);
    server.pass(Duration::from_micros(1));
    assert_eq!(server.code(stream), Some(EndCode::Unavailable));
}

#[test]
fn message_before_late_tick_keeps_stream_alive() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.now = server.now + seconds(600);
    server.commit("rooms", "r1", 1);
    assert_eq!(server.next_tick.map(|at| at <= server.now), Some(true));
    server.send_heartbeat(stream, 1);
    server.step(Input::Tick);
    assert_eq!(server.code(stream), None);
}

#[test]
fn stream_ended_by_peer_ends_with_ok() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.end(stream);
    let ended = &server.ended[&stream];
    assert_eq!(
        (ended.status.code, ended.final_code, ended.flush),
        (EndCode::Ok, None, true)
    );
    server.end(stream);
    server.transport_takes_all(stream);
    server.step(Input::Sent {
        stream,
        bytes: 10,
        messages: 1,
    });
    server.assert_frees_everything();
}

#[test]
fn drain_does_not_wait_for_peers_that_were_silent_before() {
    let mut server = Server::new();
    let (late, plain, unread, alive) = (
        server.welcomed("late"),
        server.open(),
        server.open(),
        server.welcomed("alive"),
    );
    server.heartbeat(plain, 1);
    server.subscribe(plain, want("plain", "rooms"));
    server.subscribe(unread, want("unread", "users"));
    for stream in [late, plain, unread, alive] {
        server.transport_takes_all(stream);
    }
    server.pass(seconds(43));
    server.heartbeat(alive, 1);
    server.transport_takes_all(alive);
    server.pass(seconds(2));
    server.commit("rooms", "r1", 1);
    server.commit("users", "u1", 1);
    server.pass(seconds(1));
    drain(&mut server, seconds(60));
    for stream in [late, plain] {
        assert_eq!(server.code(stream), Some(EndCode::Unavailable));
    }
    assert_eq!((server.code(unread), server.code(alive)), (None, None));
    server.transport_takes_all(alive);
    server.pass(seconds(3));
    assert_eq!(server.code(unread), None, "it may still read");
    server.pass(seconds(1));
    assert_eq!(server.code(unread), Some(EndCode::Unavailable));
    assert!(!server.ended[&unread].flush);
    assert_eq!(server.code(alive), None);
}
