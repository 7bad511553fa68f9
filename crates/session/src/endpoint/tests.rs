//! What an endpoint adds to its session: the protocol is told, and what it says is heard.

mod script;

use std::time::Duration;

use script::{Bench, Play, seconds};

use super::{Action, Input};
use crate::{
    Activity, End, Generation, Initiator, Reason, Signal, Time, Timer, protocol::Effect, session,
};

const FIRST: Generation = Generation(1);
const SECOND: Generation = Generation(2);

fn finished() -> End {
    End::retry(Initiator::Peer, Reason::Finished)
}

#[test]
fn what_a_protocol_says_on_opening_goes_out_with_the_call() {
    let mut bench = Bench::new();
    let out = bench.session(session::Input::Connect);
    assert_eq!(
        out[1..],
        [
            Action::Open {
                generation: FIRST,
                refresh: false
            },
            Action::Send(FIRST, "hello"),
        ]
    );
}

#[test]
fn signals_are_fed_back_within_the_same_step() {
    let mut bench = Bench::new();
    bench.session(session::Input::Connect);
    bench.session(session::Input::Headers(FIRST));
    let out = bench.message(
        FIRST,
        &[
            Play::Emit("greeted"),
            Play::Signal(Signal::Greeted),
            Play::Signal(Signal::Restored),
        ],
    );
    assert_eq!(out[0], Action::Event("greeted"));
    assert_eq!(out[1], Action::Up(FIRST));
    assert_eq!(out[2], Action::Event("live"));
    assert!(matches!(out[3], Action::Changed(_)));
    assert_eq!(bench.endpoint.status().activity, Activity::Live);
}

#[test]
fn a_signal_that_ends_the_stream_voids_those_after_it() {
    let mut bench = Bench::new();
    bench.session(session::Input::Connect);
    bench.session(session::Input::Headers(FIRST));
    bench.message(
        FIRST,
        &[
            Play::Signal(Signal::Fail(finished())),
            Play::Signal(Signal::Greeted),
            Play::Signal(Signal::Restored),
        ],
    );
    assert_eq!(bench.endpoint.status().activity, Activity::Backoff);
    assert_eq!(bench.endpoint.status().streams_established, 0);
    assert_eq!(bench.endpoint.status().failed_attempts, 1);
}

#[test]
fn a_protocol_that_fails_every_opening_meets_the_backoff() {
    let mut bench = Bench::opening_with(&[Play::Signal(Signal::Fail(finished()))]);
    bench.session(session::Input::Connect);
    bench.wait(seconds(60));
    assert_eq!(bench.opened(), 6, "0, 1, 3, 7, 15 and 31 s");
}

#[test]
fn a_message_is_life_before_the_protocol_sees_it() {
    let mut bench = Bench::live();
    bench.wait(seconds(80));
    bench.message(FIRST, &[]);
    bench.wait(seconds(80));
    assert_eq!(bench.endpoint.status().activity, Activity::Live);
}

#[test]
fn i14_sends_go_to_the_current_stream_only() {
    let mut bench = Bench::live();
    assert_eq!(
        bench.command(&[Play::Send("one")]),
        [Action::Send(FIRST, "one")]
    );
    bench.session(session::Input::Ended(FIRST, finished()));
    assert_eq!(bench.command(&[Play::Send("between")]), []);
    bench.wait(seconds(1));
    assert_eq!(
        bench.command(&[Play::Send("two")]),
        [Action::Send(SECOND, "two")],
        "queued with the call, before it is open"
    );
}

#[test]
fn i14_what_was_wished_offline_is_not_replayed_by_the_endpoint() {
    let mut bench = Bench::new();
    bench.command(&[Play::Send("offline")]);
    bench.go_live();
    assert_eq!(bench.sent(), [(FIRST, "hello")]);
}

#[test]
fn i10_messages_of_older_streams_never_reach_the_protocol() {
    let mut bench = Bench::live();
    bench.session(session::Input::Ended(FIRST, finished()));
    bench.wait(seconds(1));
    let heard = bench.endpoint.protocol().heard.clone();
    for stale in [Generation(0), FIRST, Generation(3)] {
        assert_eq!(bench.message(stale, &[Play::Emit("late")]), []);
    }
    assert_eq!(bench.endpoint.protocol().heard, heard);
}

#[test]
fn i10_a_message_that_comes_with_the_deadline_of_its_stream_is_not_told_after_the_end() {
    let mut bench = Bench::new();
    bench.session(session::Input::Connect);
    bench.session(session::Input::Headers(FIRST));
    bench.now = bench.now + seconds(10);
    let out = bench.message(FIRST, &[Play::Emit("too late")]);
    assert!(!out.contains(&Action::Event("too late")));
    assert_eq!(bench.endpoint.status().activity, Activity::Backoff);
}

#[test]
fn commands_reach_the_protocol_whether_a_stream_is_open_or_not() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.command(&[Play::Emit("noted")]),
        [Action::Event("noted")]
    );
    assert!(!bench.endpoint.protocol().open);
    bench.go_live();
    bench.command(&[]);
    assert!(bench.endpoint.protocol().open);
    bench.session(session::Input::Ended(FIRST, finished()));
    bench.command(&[]);
    assert!(!bench.endpoint.protocol().open);
}

#[test]
fn signals_while_no_stream_is_open_are_void() {
    let mut bench = Bench::new();
    bench.command(&[Play::Signal(Signal::Fail(End::stop(
        Initiator::Local,
        Reason::Fenced,
    )))]);
    bench.go_live();
    assert_eq!(bench.endpoint.status().activity, Activity::Live);
}

#[test]
fn the_protocols_timer_is_one_of_the_endpoints_deadlines() {
    let mut bench = Bench::live();
    bench.command(&[Play::Timer(Time::from_micros(5_000_000))]);
    let deadline = bench.endpoint.deadline().unwrap();
    assert_eq!(
        (deadline.at, deadline.timer),
        (Time::from_micros(5_000_000), Timer::Protocol)
    );
    assert_eq!(bench.wait(seconds(4)), []);
    assert_eq!(bench.wait(seconds(1)), [Action::Event("timer")]);
    assert_ne!(bench.endpoint.deadline().unwrap().timer, Timer::Protocol);
}

#[test]
fn the_protocols_timer_runs_offline_too_and_may_end_the_stream_when_there_is_one() {
    let mut bench = Bench::new();
    bench.command(&[Play::Timer(Time::from_micros(1_000_000))]);
    assert_eq!(bench.wait(seconds(2)), [Action::Event("timer")]);

    let mut bench = Bench::live();
    bench.command(&[
        Play::Timer(Time::from_micros(1_000_000)),
        Play::OnTimer(Signal::Fail(finished())),
    ]);
    let out = bench.wait(seconds(1));
    assert_eq!(out[0], Action::Event("timer"));
    assert!(out.contains(&Action::Down(FIRST, finished())));
}

#[test]
fn every_loss_is_told_to_the_protocol_after_the_stream_is_dropped() {
    let mut bench = Bench::live();
    let out = bench.session(session::Input::Ended(FIRST, finished()));
    assert_eq!(
        out[..3],
        [
            Action::Kill(FIRST),
            Action::Down(FIRST, finished()),
            Action::Event("down"),
        ]
    );
    assert!(
        !bench.endpoint.protocol().open,
        "nothing can be said any more"
    );
}

#[test]
fn a_protocol_is_told_of_heartbeats_on_its_stream() {
    let mut bench = Bench::live();
    let out = bench.wait(seconds(30));
    assert_eq!(out, [Action::Send(FIRST, "heartbeat")]);
}

#[test]
fn i23_nothing_is_sent_after_leave_though_the_peer_still_speaks() {
    let mut bench = Bench::live();
    assert_eq!(
        bench.session(session::Input::Leave),
        [Action::Finish(FIRST)]
    );
    assert_eq!(bench.command(&[Play::Send("more")]), []);
    assert_eq!(
        bench.message(FIRST, &[Play::Send("answer"), Play::Emit("the last")]),
        [Action::Event("the last")],
        "what still arrives is told"
    );
    assert!(!bench.endpoint.protocol().open);
    let sent = bench.sent().len();
    bench.wait(seconds(9));
    assert_eq!(bench.sent().len(), sent, "no heartbeat either");
    bench.wait(seconds(1));
    assert_eq!(bench.endpoint.status().activity, Activity::Idle);
}

#[test]
fn i23_a_protocol_is_told_once_that_nothing_follows() {
    for how in [session::Input::Leave, session::Input::Close] {
        let mut bench = Bench::live();
        bench.session(how);
        bench.wait(seconds(10));
        let heard = &bench.endpoint.protocol().heard;
        assert_eq!(heard[heard.len() - 2..], ["down", "stop"]);
        assert_eq!(heard.iter().filter(|what| **what == "stop").count(), 1);
    }
}

#[test]
fn i23_after_the_close_commands_are_answered_and_nothing_is_sent() {
    let mut bench = Bench::live();
    bench.session(session::Input::Close);
    let told = bench.command(&[Play::Send("x"), Play::Emit("closed")]);
    assert_eq!(told, [Action::Event("closed")]);
    assert_eq!(bench.message(FIRST, &[Play::Emit("late")]), []);
    assert_eq!(bench.wait(seconds(3_600)), []);
}

#[test]
fn a_context_without_a_stream_says_so_and_keeps_what_else_was_asked() {
    let mut cx: crate::Context<&str, &str> = crate::Context::new(false);
    assert!(!cx.is_open());
    cx.emit("event");
    cx.fail(finished());
    assert_eq!(
        cx.into_effects(),
        [
            Effect::Event("event"),
            Effect::Signal(Signal::Fail(finished())),
        ]
    );
}

#[test]
fn a_step_that_is_late_runs_everything_that_was_due() {
    let mut bench = Bench::live();
    bench.command(&[Play::Timer(Time::from_micros(7_000_000))]);
    bench.now = bench.now + Duration::from_secs(60);
    let out = bench.session(session::Input::Tick);
    assert!(out.contains(&Action::Event("timer")));
    assert!(out.contains(&Action::Send(FIRST, "heartbeat")));
    let deadline = bench.endpoint.deadline().unwrap();
    assert!(deadline.at > bench.now);
    let tick = bench.step(Input::Session(session::Input::Tick));
    assert_eq!(tick, []);
}
