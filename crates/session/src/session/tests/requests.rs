//! Requests of callers, and their outcome in the status.

use super::bench::{
    Bench, MICRO, downs, finished, just_before, millis, plain, probing, seconds, unreachable,
};
use crate::{
    Activity, Generation, Reason, State,
    session::{Action, Input},
};

#[test]
fn reconnect_keeps_a_stream_whose_peer_responds() {
    let mut bench = Bench::live(plain());
    bench.wait(seconds(10));
    assert_eq!(bench.feed(Input::Reconnect), [Action::Probe(Generation(1))]);
    bench.wait(millis(20));
    assert_eq!(bench.feed(Input::Probed(Generation(1), true)), []);
    let kept = bench.wait(just_before(seconds(90)));
    assert_eq!(downs(&kept), [], "the response is a sign of life");
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
fn reconnect_shares_a_probe_with_liveness_and_decides() {
    // The request comes after the probe for liveness at 30 s, or before it.
    for (asked_at, sent, decided_after) in [(32, vec![], 3), (28, vec![Generation(1)], 5)] {
        let mut bench = Bench::live(probing());
        bench.wait(seconds(asked_at));
        let probes: Vec<_> = sent.into_iter().map(Action::Probe).collect();
        assert_eq!(bench.feed(Input::Reconnect), probes);
        assert_eq!(
            downs(&bench.wait(seconds(decided_after))),
            [(Generation(1), Reason::ProbeFailed)],
            "asked at {asked_at} s"
        );
    }
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
