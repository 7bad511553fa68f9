//! What an observer sees.

use super::bench::{Bench, advised, finished, plain, seconds, unreachable};
use crate::{
    Activity, Advice, Cause, Generation, Signal, State, Status, Transition,
    session::{Action, Input},
};

/// Every transition there may be.
pub(super) const EDGES: [(State, State); 7] = [
    (State::Disconnected, State::Connecting),
    (State::Connecting, State::Connected),
    (State::Connecting, State::Disconnected),
    (State::Connected, State::Reconnecting),
    (State::Connected, State::Disconnected),
    (State::Reconnecting, State::Connected),
    (State::Reconnecting, State::Disconnected),
];

pub(super) fn transitions(bench: &Bench) -> Vec<Transition> {
    bench
        .done
        .iter()
        .filter_map(|(_, action)| match action {
            Action::Changed(transition) => Some(transition.clone()),
            Action::Open { .. }
            | Action::Finish(_)
            | Action::Kill(_)
            | Action::Probe(_)
            | Action::Heartbeat(_)
            | Action::Up(_)
            | Action::Down(..)
            | Action::Stopped(_) => None,
        })
        .collect()
}

/// What must hold of every history: each transition is an edge, numbered without a hole and joined
/// to the one before; the status tells where they led, since when, and the newest of them.
pub(super) fn assert_tells_its_history(bench: &Bench) {
    let told = transitions(bench);
    let status = bench.session.status();
    let mut state = State::Disconnected;
    for (number, transition) in (1..).zip(&told) {
        assert_eq!(transition.number, number);
        assert_eq!(transition.from, state);
        assert!(
            EDGES.contains(&(transition.from, transition.to)),
            "{transition:?}"
        );
        state = transition.to;
    }
    assert_eq!(status.state, state);
    assert_eq!(status.transitions, told.len() as u64);
    assert_eq!(
        status.since,
        told.last().map_or(crate::Time::ZERO, |newest| newest.at)
    );
    let newest = told.len().saturating_sub(Status::RECENT);
    assert!(status.recent.iter().eq(&told[newest..]));
}

#[test]
fn i12_a_slow_observer_finds_the_last_sixty_four_transitions_in_the_newest_value() {
    let mut bench = Bench::live(plain());
    for _ in 0..60 {
        bench.prove();
        bench.end(finished());
        bench.wait_for_attempt();
        bench.go_live();
        assert_tells_its_history(&bench);
    }
    assert_eq!(bench.session.status().transitions, 122);
    assert_eq!(bench.session.status().recent.len(), Status::RECENT);
    assert_eq!(bench.session.status().recent[0].number, 59);
}

#[test]
fn i12_an_outage_is_one_transition_however_many_attempts_it_takes() {
    let mut bench = Bench::proven(plain());
    let lost_at = bench.now;
    bench.end(finished());
    for _ in 0..20 {
        bench.wait_for_attempt();
        bench.end(unreachable());
    }
    let status = bench.session.status();
    assert_eq!(status.since, lost_at);
    assert_eq!(status.transitions, 3);
    assert_eq!(status.generation, Generation(21));
    assert_eq!(
        status.cause,
        Cause::Ended(unreachable()),
        "the newest failure is told"
    );
    assert_eq!(
        status.recent.back().unwrap().cause,
        Cause::Ended(finished())
    );
}

#[test]
fn i12_the_next_retry_is_announced_and_kept() {
    let mut bench = Bench::busy_with(plain(), Activity::Opening);
    for _ in 0..10 {
        bench.wait(seconds(1));
        assert_eq!(bench.session.status().next_retry_at, None);
        bench.end(unreachable());
        let announced = bench.session.status().next_retry_at.unwrap();
        bench.wait_for_attempt();
        assert_eq!(bench.attempts().last().unwrap().0, announced);
        assert_eq!(bench.session.status().next_retry_at, None);
    }
    bench.end(unreachable());
    bench.feed(Input::Leave);
    assert_eq!(bench.session.status().next_retry_at, None);
}

#[test]
fn i12_connecting_lasts_until_the_first_live_stream_reconnecting_follows_it() {
    let mut bench = Bench::busy_with(plain(), Activity::Opening);
    bench.end(unreachable());
    assert_eq!(bench.state(), State::Connecting);
    bench.wait_for_attempt();
    bench.go_live();
    bench.end(finished());
    assert_eq!(bench.state(), State::Reconnecting);
    bench.wait_for_attempt();
    bench.end(advised(Advice::Stop));
    assert_eq!(bench.state(), State::Disconnected);
    bench.wait(seconds(1));
    bench.feed(Input::Connect);
    assert_eq!(bench.state(), State::Connecting, "it begins anew");
    assert_tells_its_history(&bench);
}

#[test]
fn i12_a_peer_that_drains_is_no_outage_and_the_cause_says_so() {
    let mut bench = Bench::proven(plain());
    bench.signal(Signal::Drain("restart".into()));
    let moving = Cause::PeerDraining("restart".into());
    assert_eq!(bench.state(), State::Connected);
    assert_eq!(bench.session.status().cause, moving);
    bench.headers();
    bench.signal(Signal::Greeted);
    assert_eq!(bench.session.status().cause, moving);
    bench.signal(Signal::Restored);
    assert_eq!(bench.session.status().cause, Cause::Live);
    assert_eq!(bench.session.status().transitions, 2);
    assert_eq!(bench.session.status().streams_established, 2);
}

#[test]
fn i12_a_move_that_fails_becomes_an_outage() {
    let mut bench = Bench::proven(plain());
    bench.signal(Signal::Drain("restart".into()));
    bench.end(unreachable());
    assert_eq!(bench.state(), State::Reconnecting);
    assert_eq!(bench.session.status().consecutive_failures, 1);
    assert_eq!(bench.wait_for_attempt(), seconds(1));
    assert_tells_its_history(&bench);
}
