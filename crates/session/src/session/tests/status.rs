//! The published status.

use super::bench::{Bench, ended_with, finished, plain, seconds, unreachable};
use crate::{
    Activity, Advice, Cause, Detail, End, Generation, Initiator, Reason, Signal, State, Status,
    Transition,
    session::{Action, Input},
};

/// The allowed transitions.
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
    let mut transitions = Vec::new();
    for (_, action) in &bench.done {
        if let Action::Changed(transition) = action {
            transitions.push(transition.clone());
        }
    }
    transitions
}

/// Asserts that all transitions are allowed, numbered without a hole and joined, and that the status
/// agrees with them.
pub(super) fn assert_history_is_consistent(bench: &Bench) {
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
fn status_keeps_the_newest_sixty_four_transitions() {
    let mut bench = Bench::live(plain());
    for _ in 0..60 {
        bench.stabilize();
        bench.end(finished());
        bench.wait_for_attempt();
        bench.go_live();
        assert_history_is_consistent(&bench);
    }
    assert_eq!(bench.session.status().transitions, 122);
    assert_eq!(bench.session.status().recent.len(), Status::RECENT);
    assert_eq!(bench.session.status().recent[0].number, 59);
}

#[test]
fn an_outage_of_many_attempts_is_one_transition() {
    let mut bench = Bench::stable(plain());
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
        "the newest failure is the cause"
    );
    assert_eq!(
        status.recent.back().unwrap().cause,
        Cause::Ended(finished())
    );
}

#[test]
fn status_announces_the_next_retry() {
    let mut bench = Bench::in_activity(plain(), Activity::Opening);
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
fn connecting_becomes_reconnecting_after_the_first_live_stream() {
    let mut bench = Bench::in_activity(plain(), Activity::Opening);
    bench.end(unreachable());
    assert_eq!(bench.state(), State::Connecting);
    bench.wait_for_attempt();
    bench.go_live();
    bench.end(finished());
    assert_eq!(bench.state(), State::Reconnecting);
    bench.wait_for_attempt();
    bench.end(ended_with(Advice::Stop));
    assert_eq!(bench.state(), State::Disconnected);
    bench.wait(seconds(1));
    bench.feed(Input::Connect);
    assert_eq!(bench.state(), State::Connecting, "it begins anew");
    assert_history_is_consistent(&bench);
}

#[test]
fn drain_of_a_stable_stream_is_no_outage() {
    let mut bench = Bench::stable(plain());
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
fn failed_move_after_a_drain_becomes_an_outage() {
    let mut bench = Bench::stable(plain());
    bench.signal(Signal::Drain("restart".into()));
    bench.end(unreachable());
    assert_eq!(bench.state(), State::Reconnecting);
    assert_eq!(bench.session.status().consecutive_failures, 1);
    assert_eq!(bench.wait_for_attempt(), seconds(1));
    assert_history_is_consistent(&bench);
}

#[test]
fn status_transition_and_end_are_one_plain_line() {
    let mut bench = Bench::new(plain());
    let mut lines = vec![bench.session.status().to_string()];
    let mut show = |bench: &Bench| lines.push(bench.session.status().to_string());
    bench.open();
    show(&bench);
    bench.end(unreachable());
    show(&bench);
    bench.wait_for_attempt();
    bench.go_live();
    show(&bench);
    bench.stabilize();
    bench.end(End::status(14, "going\ndown \u{1b}[31mnow", Advice::Retry));
    show(&bench);
    bench.wait_for_attempt();
    bench.end(ended_with(Advice::Stop));
    show(&bench);
    lines.extend(transitions(&bench).iter().map(ToString::to_string));
    for reason in [
        Reason::Silent,
        Reason::Credentials("no\ttoken".into()),
        Reason::Lost("reset".into()),
        Reason::Refused("a\rb".into()),
        Reason::RestoreRefused("busy".into()),
        Reason::Drained("restart".into()),
    ] {
        lines.push(End::retry(Initiator::Peer, reason).to_string());
    }
    insta::assert_snapshot!("lines", lines.join("\n"));
}

#[test]
fn ends_differ_by_their_details_and_name_the_source() {
    let lost = |text: &str| {
        let detail = Detail::new(text, std::fmt::Error);
        End::retry(Initiator::Network, Reason::Lost(detail))
    };
    assert_eq!(lost("reset"), lost("reset"));
    assert_ne!(lost("reset"), lost("broken pipe"));
    let end = lost("reset");
    let source = std::error::Error::source(&end).expect("the detail has one");
    assert_eq!(source.to_string(), std::fmt::Error.to_string());
}
