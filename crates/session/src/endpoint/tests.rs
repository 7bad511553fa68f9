//! Forwarding between a session and its protocol.

mod script;

use std::time::Duration;

use script::{Bench, Play, Requested, seconds};

use super::{Action, Input, Timer};
use crate::{
    Activity, End, Generation, Initiator, Reason, Signal, Time, protocol::Effect, session,
};

const FIRST: Generation = Generation(1);
const SECOND: Generation = Generation(2);

fn finished() -> End {
    End::retry(Initiator::Peer, Reason::Finished)
}

#[test]
fn messages_sent_on_opening_go_out_with_the_call() {
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
fn signals_reach_the_session_within_the_same_step() {
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
fn signals_after_one_that_ends_the_stream_are_void() {
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
fn protocol_that_fails_every_opening_meets_the_backoff() {
    let mut bench = Bench::opening_with(&[Play::Signal(Signal::Fail(finished()))]);
    bench.session(session::Input::Connect);
    bench.wait(seconds(60));
    assert_eq!(bench.opened(), 6, "0, 1, 3, 7, 15 and 31 s");
}

#[test]
fn message_counts_as_activity_before_the_protocol_sees_it() {
    let mut bench = Bench::live();
    bench.wait(seconds(80));
    bench.message(FIRST, &[]);
    bench.wait(seconds(80));
    assert_eq!(bench.endpoint.status().activity, Activity::Live);
}

#[test]
fn messages_are_sent_on_the_current_stream_only() {
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
fn connection_is_reported_while_its_attempt_lasts() {
    let mut bench = Bench::new();
    bench.session(session::Input::Connect);
    assert_eq!(bench.connected(SECOND), [], "of another attempt");
    let out = bench.connected(FIRST);
    assert_eq!(out, [Action::Send(FIRST, "newest")]);
    bench.session(session::Input::Ended(FIRST, finished()));
    assert_eq!(bench.connected(FIRST), [], "between two attempts");
    bench.wait(seconds(1));
    assert_eq!(bench.connected(FIRST), [], "of an attempt that is over");
    let calls = &bench.endpoint.protocol().calls;
    assert_eq!(calls[..], ["open", "connected", "down", "open"]);
}

#[test]
fn messages_sent_offline_are_not_replayed() {
    let mut bench = Bench::new();
    bench.command(&[Play::Send("offline")]);
    bench.go_live();
    assert_eq!(bench.sent(), [(FIRST, "hello")]);
}

#[test]
fn messages_of_other_generations_never_reach_the_protocol() {
    let mut bench = Bench::live();
    bench.session(session::Input::Ended(FIRST, finished()));
    bench.wait(seconds(1));
    let calls = bench.endpoint.protocol().calls.clone();
    for stale in [Generation(0), FIRST, Generation(3)] {
        assert_eq!(bench.message(stale, &[Play::Emit("late")]), []);
    }
    assert_eq!(bench.endpoint.protocol().calls, calls);
}

#[test]
fn input_due_with_the_deadline_of_its_stream_meets_none() {
    type Step = fn(&mut Bench) -> Vec<Requested>;
    let steps: [(Activity, Step); 3] = [
        (Activity::Greeting, |bench| {
            bench.message(FIRST, &[Play::Send("late")])
        }),
        (Activity::Opening, |bench| {
            bench.command(&[Play::Send("late")])
        }),
        (Activity::Opening, |bench| bench.connected(FIRST)),
    ];
    for (number, (phase, step)) in steps.into_iter().enumerate() {
        let mut bench = Bench::new();
        bench.session(session::Input::Connect);
        if phase == Activity::Greeting {
            bench.session(session::Input::Headers(FIRST));
        }
        bench.now = bench.now + seconds(10);
        let out = step(&mut bench);
        let sent = |action: &Requested| matches!(action, Action::Send(..));
        assert!(!out.iter().any(sent), "{number}: {out:?}");
        assert_eq!(bench.endpoint.status().activity, Activity::Backoff);
    }
}

#[test]
fn commands_reach_the_protocol_with_and_without_a_stream() {
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
fn signals_without_an_open_stream_are_void() {
    let mut bench = Bench::new();
    bench.command(&[Play::Signal(Signal::Fail(End::stop(
        Initiator::Local,
        Reason::Fenced,
    )))]);
    bench.go_live();
    assert_eq!(bench.endpoint.status().activity, Activity::Live);
}

#[test]
fn protocol_deadline_is_one_of_the_endpoints_deadlines() {
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

    let due = bench.now + seconds(1);
    bench.command(&[Play::Timer(due)]);
    bench.now = due;
    let later = [Play::Timer(due + seconds(1))];
    assert_eq!(bench.message(FIRST, &later), [], "what arrives goes first");
}

#[test]
fn protocol_timer_runs_offline_and_may_end_a_stream() {
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
fn protocol_learns_of_a_loss_after_the_stream_is_dropped() {
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
fn protocol_sends_the_heartbeats_of_its_stream() {
    let mut bench = Bench::live();
    let out = bench.wait(seconds(30));
    assert_eq!(out, [Action::Send(FIRST, "heartbeat")]);
}

#[test]
fn nothing_is_sent_after_leave_while_the_peer_still_sends() {
    let mut bench = Bench::live();
    assert_eq!(
        bench.session(session::Input::Leave),
        [Action::Finish(FIRST)]
    );
    assert_eq!(bench.command(&[Play::Send("more")]), []);
    assert_eq!(
        bench.message(FIRST, &[Play::Send("answer"), Play::Emit("the last")]),
        [Action::Event("the last")],
        "later messages are still passed on"
    );
    assert!(!bench.endpoint.protocol().open);
    let sent = bench.sent().len();
    bench.wait(seconds(9));
    assert_eq!(bench.sent().len(), sent, "no heartbeat either");
    bench.wait(seconds(1));
    assert_eq!(bench.endpoint.status().activity, Activity::Idle);
}

#[test]
fn protocol_is_stopped_exactly_once() {
    for how in [session::Input::Leave, session::Input::Close] {
        let mut bench = Bench::live();
        let mut out = bench.session(how);
        out.extend(bench.wait(seconds(10)));
        let stopped = Action::Stopped(End::stop(Initiator::Local, Reason::Left));
        let at = out.iter().position(|action| *action == stopped).unwrap();
        assert_eq!(out[at + 1], Action::Event("stop"));
        let calls = &bench.endpoint.protocol().calls;
        assert_eq!(calls[calls.len() - 2..], ["down", "stop"]);
        assert_eq!(calls.iter().filter(|what| **what == "stop").count(), 1);
    }
}

#[test]
fn commands_after_close_emit_events_and_send_nothing() {
    let mut bench = Bench::live();
    bench.session(session::Input::Close);
    let told = bench.command(&[Play::Send("x"), Play::Emit("closed")]);
    assert_eq!(told, [Action::Event("closed")]);
    assert_eq!(bench.message(FIRST, &[Play::Emit("late")]), []);
    assert_eq!(bench.wait(seconds(3_600)), []);
}

#[test]
fn context_without_a_stream_keeps_events_and_signals() {
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
fn late_step_runs_everything_that_was_due() {
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
