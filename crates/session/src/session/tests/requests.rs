//! Requests of callers, and their outcome in the status.

use super::bench::{
    Bench, MICRO, downs, finished, just_before, millis, plain, seconds, unreachable,
};
use crate::{
    Activity, Config, Generation, Liveness, Reason, Signal, State,
    session::{Action, Input},
};

#[test]
fn reconnect_keeps_a_stream_whose_peer_responds() {
    let mut bench = Bench::live(plain());
    bench.wait(seconds(10));
    assert_eq!(bench.feed(Input::Reconnect), [Action::Probe(Generation(1))]);
    bench.wait(millis(20));
    assert_eq!(bench.feed(Input::Probed(Generation(1), true)), []);
    assert_eq!(downs(&bench.wait(seconds(20))), []);
    assert_eq!(bench.generation(), Generation(1));
    assert_eq!(
        bench.session.status().streams_established,
        1,
        "nothing was rebuilt"
    );
    assert_eq!(
        bench.session.status().probes_answered,
        1,
        "which answers the request"
    );
}

#[test]
fn reconnect_replaces_at_once_a_stream_whose_probe_fails() {
    let mut silent = Bench::live(plain());
    silent.wait(seconds(10));
    silent.feed(Input::Reconnect);
    assert_eq!(downs(&silent.wait(just_before(seconds(5)))), []);
    let found = silent.wait(MICRO);
    let mut refused = Bench::live(plain());
    refused.wait(seconds(10));
    refused.feed(Input::Reconnect);
    let told = refused.feed(Input::Probed(Generation(1), false));
    for (bench, out) in [(&silent, found), (&refused, told)] {
        assert_eq!(downs(&out), [(Generation(1), Reason::ProbeFailed)]);
        assert_eq!(bench.activity(), Activity::Opening);
        assert_eq!(bench.generation(), Generation(2));
    }
}

#[test]
fn reconnect_uses_a_probe_that_is_under_way() {
    let mut bench = Bench::live(Config {
        liveness: Liveness::Probed,
        ..plain()
    });
    bench.wait(seconds(32));
    assert_eq!(bench.feed(Input::Reconnect), [], "one is on its way");
    assert_eq!(
        downs(&bench.wait(seconds(3))),
        [(Generation(1), Reason::ProbeFailed)]
    );
}

#[test]
fn reconnect_ends_the_backoff_and_is_harmless_elsewhere() {
    for request in [Input::Connect, Input::Reconnect] {
        let mut waiting = Bench::in_activity(plain(), Activity::Opening);
        for _ in 0..5 {
            waiting.end(unreachable());
            waiting.wait_for_attempt();
        }
        waiting.end(unreachable());
        waiting.wait(millis(600));
        waiting.feed(request);
        assert_eq!(waiting.attempts().last().unwrap().0, waiting.now, "at once");
    }

    for activity in [Activity::Opening, Activity::Greeting, Activity::Restoring] {
        for request in [Input::Connect, Input::Reconnect] {
            let mut bench = Bench::in_activity(plain(), activity);
            let before = bench.snapshot();
            assert_eq!(bench.feed(request), []);
            assert_eq!(bench.snapshot(), before);
        }
    }
}

#[test]
fn caller_can_count_attempts_without_ending_the_loop() {
    let mut bench = Bench::new(plain());
    bench.feed(Input::Connect);
    let before = bench.session.status().failed_attempts;
    while bench.session.status().failed_attempts - before < 3 {
        assert_eq!(bench.state(), State::Connecting);
        bench.end(unreachable());
        if bench.session.status().failed_attempts - before < 3 {
            bench.wait_for_attempt();
        }
    }
    assert_eq!(bench.wait_for_attempt(), seconds(4), "the loop goes on");
    bench.go_live();
    assert_eq!(bench.session.status().streams_established, 1);
}

#[test]
fn loss_of_a_stable_stream_is_no_failed_attempt() {
    let mut bench = Bench::stable(plain());
    let before = bench.session.status().clone();
    bench.end(finished());
    assert_eq!(
        bench.session.status().failed_attempts,
        before.failed_attempts,
        "a loss is none"
    );
    bench.wait_for_attempt();
    bench.end(unreachable());
    assert_eq!(
        bench.session.status().failed_attempts,
        before.failed_attempts + 1
    );
}

#[test]
fn connect_while_draining_takes_effect_after_the_end() {
    for request in [Input::Connect, Input::Reconnect] {
        let mut bench = Bench::in_activity(plain(), Activity::Draining);
        bench.feed(request);
        assert_eq!(bench.activity(), Activity::Draining);
        bench.wait(seconds(1));
        bench.end(finished());
        assert_eq!(bench.activity(), Activity::Opening);
        assert_eq!(bench.generation(), Generation(2));
        assert_eq!(bench.state(), State::Connecting);
    }
}

#[test]
fn last_of_alternating_requests_wins_while_draining() {
    let mut bench = Bench::in_activity(plain(), Activity::Draining);
    bench.feed(Input::Connect);
    bench.feed(Input::Leave);
    bench.end(finished());
    assert_eq!(bench.activity(), Activity::Idle);
}

#[test]
fn drain_of_the_peer_is_ignored_while_leaving() {
    let mut bench = Bench::in_activity(plain(), Activity::Draining);
    assert_eq!(bench.signal(Signal::Drain("restart".into())), []);
    assert_eq!(bench.activity(), Activity::Draining);
}
