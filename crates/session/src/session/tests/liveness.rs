//! A dead peer is found in time, a living one is left alone.

use std::time::Duration;

use super::bench::{Bench, MICRO, downs, finished, just_before, millis, plain, seconds};
use crate::{
    Activity, Config, Generation, Liveness, Ready, Reason, Signal,
    session::{Action, Input},
};

fn asked() -> Config {
    Config {
        liveness: Liveness::Probed,
        ..plain()
    }
}

/// When each of the actions that `which` names was asked for, counted from the first attempt.
fn moments(bench: &Bench, which: fn(&Action) -> bool) -> Vec<Duration> {
    let began = bench.attempts()[0].0;
    bench
        .done
        .iter()
        .filter(|(_, action)| which(action))
        .map(|(at, _)| *at - began)
        .collect()
}

fn is_heartbeat(action: &Action) -> bool {
    matches!(action, Action::Heartbeat(_))
}

fn is_probe(action: &Action) -> bool {
    matches!(action, Action::Probe(_))
}

#[test]
fn i7_a_silent_peer_is_found_when_the_activity_timeout_has_passed() {
    let mut bench = Bench::live(plain());
    assert_eq!(downs(&bench.wait(just_before(seconds(90)))), []);
    bench.received();
    assert_eq!(downs(&bench.wait(just_before(seconds(90)))), []);
    assert_eq!(downs(&bench.wait(MICRO)), [(Generation(1), Reason::Silent)]);
}

#[test]
fn i7_silence_is_noticed_while_restoring_too() {
    let config = Config {
        activity_timeout: Some(seconds(20)),
        heartbeat_interval: Some(seconds(5)),
        ..plain()
    };
    let mut bench = Bench::busy_with(config, Activity::Restoring);
    assert_eq!(
        downs(&bench.wait(seconds(20))),
        [(Generation(1), Reason::Silent)]
    );
}

#[test]
fn i7_a_peer_whose_application_hangs_is_found_behind_a_proxy_that_still_sends_bytes() {
    let mut bench = Bench::live(plain());
    bench.signal(Signal::ExpectAcks);
    let answered_until = seconds(300);
    let mut ends = Vec::new();
    let began = bench.now;
    while ends.is_empty() {
        ends = downs(&bench.wait(seconds(1)));
        assert!(bench.now - began < seconds(600), "never found");
        bench.received();
        if bench.now - began <= answered_until {
            bench.signal(Signal::HeartbeatAcked);
        }
    }
    assert_eq!(ends, [(Generation(1), Reason::HeartbeatUnanswered)]);
    let config = Config::default();
    let bound = config.heartbeat_interval.unwrap() + config.activity_timeout.unwrap();
    let found_after = bench.now.since(began + answered_until);
    assert!(found_after <= bound, "{found_after:?}");
    assert!(found_after >= seconds(90), "{found_after:?}");
}

#[test]
fn i7_acks_are_demanded_only_of_a_peer_that_promised_them() {
    let mut bench = Bench::live(plain());
    for _ in 0..600 {
        assert_eq!(downs(&bench.wait(seconds(1))), []);
        bench.received();
    }
}

#[test]
fn i7_a_promise_of_acks_ends_with_its_stream() {
    let mut bench = Bench::live(plain());
    bench.signal(Signal::ExpectAcks);
    bench.end(finished());
    bench.wait_for_attempt();
    bench.go_live();
    for _ in 0..600 {
        assert_eq!(downs(&bench.wait(seconds(1))), []);
        bench.received();
    }
}

#[test]
fn i7_a_peer_that_never_speaks_unasked_is_held_for_an_hour_and_lost_in_time_when_it_dies() {
    let mut bench = Bench::live(asked());
    let hour = bench.now + seconds(3_600);
    let mut last_answer = bench.now;
    while bench.now < hour {
        let out = bench.wait(seconds(1));
        assert_eq!(downs(&out), []);
        if out.iter().any(is_probe) {
            bench.wait(millis(40));
            bench.feed(Input::Probed(Generation(1), true));
            last_answer = bench.now;
        }
    }
    let probes = moments(&bench, is_probe).len();
    assert!((110..=120).contains(&probes), "every 30 s: {probes}");
    assert_eq!(bench.session.status().probes_answered as usize, probes);

    let dead = downs(&bench.wait(seconds(90)));
    assert_eq!(dead[0], (Generation(1), Reason::Silent));
    let (found_at, _) = bench
        .done
        .iter()
        .find(|(_, action)| matches!(action, Action::Down(..)))
        .unwrap();
    assert_eq!(*found_at - last_answer, seconds(90));
}

#[test]
fn i7_one_lost_probe_is_followed_by_another_before_the_verdict() {
    let mut bench = Bench::live(asked());
    bench.wait(seconds(30));
    bench.feed(Input::Probed(Generation(1), false));
    bench.wait(seconds(30));
    assert_eq!(moments(&bench, is_probe), [seconds(30), seconds(60)]);
    bench.feed(Input::Probed(Generation(1), true));
    assert_eq!(downs(&bench.wait(seconds(89))), []);
    assert_eq!(bench.activity(), Activity::Live);
}

#[test]
fn i7_nobody_is_asked_while_the_peer_speaks() {
    let mut bench = Bench::live(asked());
    for _ in 0..100 {
        bench.wait(seconds(29));
        bench.received();
    }
    assert_eq!(moments(&bench, is_probe), []);
}

#[test]
fn i7_heartbeats_go_out_from_the_greeting_on_at_the_interval() {
    let mut bench = Bench::busy_with(
        Config {
            heartbeat_interval: Some(seconds(4)),
            ..plain()
        },
        Activity::Greeting,
    );
    bench.wait(seconds(5));
    bench.signal(Signal::Greeted);
    bench.wait(seconds(5));
    bench.signal(Signal::Restored);
    bench.wait(seconds(7));
    let expected = [4, 8, 12, 16].map(seconds);
    assert_eq!(moments(&bench, is_heartbeat), expected);
}

#[test]
fn i7_the_interval_a_peer_asks_for_is_neither_a_flood_nor_longer_than_our_patience() {
    let beats = |asked_for: Duration, span: Duration| {
        let mut bench = Bench::live(plain());
        bench.signal(Signal::HeartbeatInterval(asked_for));
        bench.wait(span);
        moments(&bench, is_heartbeat)
    };
    assert_eq!(beats(seconds(7), seconds(20)), [seconds(7), seconds(14)]);
    assert_eq!(beats(seconds(86_400), seconds(89)), [seconds(45)]);
    assert_eq!(beats(Duration::ZERO, millis(35)), [10, 20, 30].map(millis));
}

#[test]
fn i7_the_interval_a_peer_asked_for_ends_with_its_stream() {
    let mut bench = Bench::live(plain());
    bench.signal(Signal::HeartbeatInterval(seconds(7)));
    bench.end(finished());
    bench.wait_for_attempt();
    bench.go_live();
    bench.done.retain(|(_, action)| !is_heartbeat(action));
    bench.wait(seconds(30));
    assert_eq!(moments(&bench, is_heartbeat), [seconds(31)]);
}

#[test]
fn i8_what_is_sent_proves_nothing() {
    let mut bench = Bench::live(Config {
        heartbeat_interval: Some(millis(100)),
        ..plain()
    });
    let out = bench.wait(seconds(90));
    assert_eq!(
        out.iter().filter(|action| is_heartbeat(action)).count(),
        899
    );
    assert_eq!(downs(&out), [(Generation(1), Reason::Silent)]);
}

#[test]
fn i8_a_message_of_which_bytes_still_arrive_keeps_the_stream_for_as_long_as_it_takes() {
    let mut bench = Bench::live(plain());
    for _ in 0..60 {
        assert_eq!(downs(&bench.wait(seconds(89))), []);
        bench.received();
    }
    assert_eq!(bench.activity(), Activity::Live);
}

#[test]
fn i8_acceptance_and_late_headers_are_no_life() {
    let mut bench = Bench::busy_with(
        Config {
            ready: Ready::Accepted,
            ..plain()
        },
        Activity::Opening,
    );
    let from = bench.generation();
    bench.feed(Input::Accepted(from));
    assert_eq!(bench.activity(), Activity::Live);
    bench.wait(seconds(80));
    bench.feed(Input::Accepted(from));
    bench.feed(Input::Headers(from));
    assert_eq!(
        downs(&bench.wait(seconds(10))),
        [(Generation(1), Reason::Silent)]
    );
}

#[test]
fn i8_signs_of_life_of_an_older_stream_do_not_keep_the_newer() {
    let mut bench = Bench::live(asked());
    bench.end(finished());
    bench.wait_for_attempt();
    bench.go_live();
    bench.wait(seconds(80));
    for stale in [
        Input::Received(Generation(1)),
        Input::Message(Generation(1)),
        Input::Probed(Generation(1), true),
        Input::ReadPaused(Generation(1), true),
        Input::ReadPaused(Generation(1), false),
    ] {
        assert_eq!(bench.feed(stale), []);
    }
    assert_eq!(
        downs(&bench.wait(seconds(10))),
        [(Generation(2), Reason::Silent)]
    );
}

#[test]
fn i9_an_application_that_takes_nothing_for_ten_deadlines_keeps_its_stream() {
    for config in [plain(), asked()] {
        let mut bench = Bench::live(config);
        bench.signal(Signal::ExpectAcks);
        bench.feed(Input::ReadPaused(Generation(1), true));
        let out = bench.wait(seconds(900));
        assert_eq!(downs(&out), []);
        assert_eq!(
            out.iter().filter(|action| is_heartbeat(action)).count(),
            30,
            "heartbeats go on"
        );
        assert_eq!(out.iter().filter(|action| is_probe(action)).count(), 0);

        bench.feed(Input::ReadPaused(Generation(1), false));
        assert_eq!(downs(&bench.wait(just_before(seconds(90)))), []);
        assert_eq!(downs(&bench.wait(MICRO)), [(Generation(1), Reason::Silent)]);
    }
}

#[test]
fn i9_a_probe_that_fails_while_the_application_holds_back_starts_no_new_one() {
    let mut bench = Bench::live(asked());
    bench.wait(seconds(30));
    assert_eq!(moments(&bench, is_probe).len(), 1);
    bench.feed(Input::ReadPaused(Generation(1), true));
    bench.wait(seconds(900));
    assert_eq!(moments(&bench, is_probe).len(), 1);
    assert_eq!(bench.activity(), Activity::Live);
}

#[test]
fn i9_a_peer_that_is_not_read_can_neither_greet_nor_answer_and_is_not_blamed_for_it() {
    for (phase, limit, reason) in [
        (Activity::Greeting, seconds(10), Reason::GreetingTimeout),
        (Activity::Restoring, seconds(30), Reason::RestoringTimeout),
    ] {
        let mut bench = Bench::busy_with(plain(), phase);
        bench.feed(Input::ReadPaused(Generation(1), true));
        assert_eq!(downs(&bench.wait(seconds(900))), []);
        bench.feed(Input::ReadPaused(Generation(1), false));
        assert_eq!(downs(&bench.wait(just_before(limit))), []);
        assert_eq!(downs(&bench.wait(MICRO)), [(Generation(1), reason)]);
    }
}

#[test]
fn i9_a_queue_still_full_from_before_the_cut_does_not_spoil_the_next_attempt() {
    let mut bench = Bench::proven(plain());
    bench.feed(Input::ReadPaused(Generation(1), true));
    bench.end(finished());
    bench.wait_for_attempt();
    bench.feed(Input::ReadPaused(Generation(2), true));
    bench.headers();
    assert_eq!(downs(&bench.wait(seconds(900))), []);
    assert_eq!(bench.activity(), Activity::Greeting);
    bench.feed(Input::ReadPaused(Generation(2), false));
    bench.signal(Signal::Greeted);
    bench.signal(Signal::Restored);
    assert_eq!(bench.activity(), Activity::Live);
}

#[test]
fn i9_a_release_without_a_hold_is_no_life() {
    let mut bench = Bench::live(plain());
    bench.wait(seconds(80));
    bench.feed(Input::ReadPaused(Generation(1), false));
    assert_eq!(
        downs(&bench.wait(seconds(10))),
        [(Generation(1), Reason::Silent)]
    );
}

#[test]
fn without_an_activity_timeout_silence_is_left_to_the_transport() {
    let mut bench = Bench::live(Config {
        activity_timeout: None,
        heartbeat_interval: None,
        ..plain()
    });
    bench.signal(Signal::ExpectAcks);
    assert_eq!(bench.wait(seconds(86_400)), []);
}
