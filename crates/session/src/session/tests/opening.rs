//! Opening a stream: every phase has its own timeout.

use super::bench::{Bench, MICRO, downs, just_before, millis, plain, seconds};
use crate::{
    Activity, Config, Generation, Ready, Reason, Signal, State,
    session::{Action, Input},
};

#[test]
fn opening_phases_have_their_own_timeouts_and_reasons() {
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
        let mut bench = Bench::in_activity(config.clone(), phase);
        assert_eq!(downs(&bench.wait(just_before(limit))), [], "{phase:?}");
        assert_eq!(bench.activity(), phase);
        assert_eq!(downs(&bench.wait(MICRO)), [(Generation(1), reason)]);
        assert_eq!(bench.activity(), Activity::Backoff);
    }
}

#[test]
fn trickled_bytes_do_not_extend_the_opening_timeouts() {
    for (phase, limit, reason) in [
        (Activity::Greeting, seconds(10), Reason::GreetingTimeout),
        (Activity::Restoring, seconds(30), Reason::RestoringTimeout),
    ] {
        let mut bench = Bench::in_activity(plain(), phase);
        let began = bench.now;
        let mut ends = Vec::new();
        while ends.is_empty() {
            bench.received();
            if phase == Activity::Greeting {
                bench.signal(Signal::RestoreProgress);
            }
            ends = downs(&bench.wait(millis(250)));
            assert!(bench.now - began <= limit, "{phase:?} goes on");
        }
        assert_eq!(ends, [(Generation(1), reason)]);
        assert_eq!(bench.now - began, limit);
    }
}

#[test]
fn acceptance_does_not_extend_the_open_timeout() {
    let mut bench = Bench::in_activity(
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
fn connected_waits_for_the_whole_restoration() {
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
fn missing_restoration_response_ends_the_attempt() {
    let mut bench = Bench::in_activity(plain(), Activity::Restoring);
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
