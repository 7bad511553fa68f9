//! From a call to a live stream: every phase has its own patience.

use super::bench::{Bench, MICRO, downs, finished, just_before, millis, plain, seconds};
use crate::{
    Activity, Config, Generation, Ready, Reason, Signal, State,
    session::{Action, Input},
};

#[test]
fn i1_each_phase_of_opening_ends_at_its_own_deadline_with_its_own_reason() {
    let config = Config {
        open_timeout: seconds(7),
        greeting_timeout: seconds(11),
        restoring_timeout: seconds(13),
        ..plain()
    };
    for (phase, limit, reason) in [
        (Activity::Opening, seconds(7), Reason::OpenTimeout),
        (Activity::Greeting, seconds(11), Reason::GreetingTimeout),
        (Activity::Restoring, seconds(13), Reason::RestoringTimeout),
    ] {
        let mut bench = Bench::busy_with(config.clone(), phase);
        assert_eq!(downs(&bench.wait(just_before(limit))), [], "{phase:?}");
        assert_eq!(bench.activity(), phase);
        assert_eq!(downs(&bench.wait(MICRO)), [(Generation(1), reason)]);
        assert_eq!(bench.activity(), Activity::Backoff);
    }
}

#[test]
fn i1_a_peer_that_trickles_bytes_gains_no_time_to_greet_or_to_restore() {
    for (phase, limit, reason) in [
        (Activity::Greeting, seconds(10), Reason::GreetingTimeout),
        (Activity::Restoring, seconds(30), Reason::RestoringTimeout),
    ] {
        let mut bench = Bench::busy_with(plain(), phase);
        let began = bench.now;
        let mut ends = Vec::new();
        while ends.is_empty() {
            bench.received();
            ends = downs(&bench.wait(millis(250)));
            assert!(bench.now - began <= limit, "{phase:?} goes on");
        }
        assert_eq!(ends, [(Generation(1), reason)]);
        assert_eq!(bench.now - began, limit);
    }
}

#[test]
fn i1_acceptance_alone_gains_no_time_where_headers_are_awaited() {
    let mut bench = Bench::busy_with(
        Config {
            ready: Ready::Headers,
            ..plain()
        },
        Activity::Opening,
    );
    bench.wait(seconds(9));
    bench.feed(Input::Accepted(Generation(1)));
    assert_eq!(
        downs(&bench.wait(seconds(1))),
        [(Generation(1), Reason::OpenTimeout)]
    );
}

#[test]
fn i13_connected_is_not_told_before_the_whole_set_is_answered() {
    let mut bench = Bench::new(plain());
    bench.open();
    let from = bench.generation();
    bench.headers();
    bench.feed(Input::Message(from));
    bench.signal(Signal::Greeted);
    for _ in 0..50 {
        bench.wait(seconds(20));
        bench.feed(Input::Message(from));
        bench.signal(Signal::RestoreProgress);
        assert_eq!(bench.activity(), Activity::Restoring);
        assert_eq!(bench.state(), State::Connecting);
    }
    let ups = |done: &[(crate::Time, Action)]| {
        done.iter()
            .filter(|(_, action)| matches!(action, Action::Up(_)))
            .count()
    };
    assert_eq!(ups(&bench.done), 0);
    bench.signal(Signal::Restored);
    assert_eq!(ups(&bench.done), 1);
    assert_eq!(bench.state(), State::Connected);
}

#[test]
fn i13_an_answer_that_never_comes_ends_the_attempt_at_its_deadline() {
    let mut bench = Bench::busy_with(plain(), Activity::Restoring);
    bench.wait(seconds(29));
    bench.signal(Signal::RestoreProgress);
    assert_eq!(downs(&bench.wait(just_before(seconds(30)))), []);
    assert_eq!(bench.state(), State::Connecting);
    assert_eq!(
        downs(&bench.wait(MICRO)),
        [(Generation(1), Reason::RestoringTimeout)]
    );
    bench.wait_for_attempt();
    assert_eq!(bench.state(), State::Connecting);
}

#[test]
fn i13_signals_out_of_their_phase_do_not_shorten_the_way() {
    for signal in [
        Signal::RestoreProgress,
        Signal::Restored,
        Signal::HeartbeatAcked,
    ] {
        for phase in [Activity::Opening, Activity::Greeting] {
            let mut bench = Bench::busy_with(plain(), phase);
            assert_eq!(bench.signal(signal.clone()), []);
            assert_eq!(bench.activity(), phase);
        }
    }
}

#[test]
fn i13_after_an_outage_connected_waits_for_the_restoration_too() {
    let mut bench = Bench::proven(plain());
    bench.end(finished());
    assert_eq!(bench.state(), State::Reconnecting);
    bench.wait_for_attempt();
    bench.headers();
    bench.signal(Signal::Greeted);
    assert_eq!(bench.state(), State::Reconnecting);
    bench.signal(Signal::Restored);
    assert_eq!(bench.state(), State::Connected);
}
