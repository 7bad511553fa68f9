//! A dead peer is found in time, a living one is kept.

use std::time::Duration;

use super::bench::{Bench, MICRO, downs, finished, just_before, millis, plain, probing, seconds};
use crate::{
    Activity, Config, Generation, Ready, Reason, Signal,
    session::{Action, Input},
};

/// The times of the actions that `which` selects, counted from the first attempt.
fn times(bench: &Bench, which: fn(&Action) -> bool) -> Vec<Duration> {
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
fn silent_peer_is_lost_at_the_activity_timeout() {
    let mut bench = Bench::live(plain());
    assert_eq!(downs(&bench.wait(just_before(seconds(90)))), []);
    bench.received();
    // A driver that wakes late with bytes in hand has heard the peer.
    bench.now = bench.now + seconds(100);
    assert_eq!(downs(&bench.received()), []);
    assert_eq!(downs(&bench.wait(just_before(seconds(90)))), []);
    assert_eq!(downs(&bench.wait(MICRO)), [(Generation(1), Reason::Silent)]);
}

#[test]
fn silence_while_restoring_ends_the_attempt() {
    let config = Config {
        activity_timeout: Some(seconds(20)),
        heartbeat_interval: Some(seconds(5)),
        ..plain()
    };
    let mut bench = Bench::in_activity(config, Activity::Restoring);
    assert_eq!(
        downs(&bench.wait(seconds(20))),
        [(Generation(1), Reason::Silent)]
    );
}

#[test]
fn hung_application_is_found_although_bytes_still_arrive() {
    let mut bench = Bench::live(plain());
    bench.signal(Signal::ExpectAcks);
    let acked_until = seconds(300);
    let mut ends = Vec::new();
    let began = bench.now;
    while ends.is_empty() {
        ends = downs(&bench.wait(seconds(1)));
        assert!(bench.now - began < seconds(600), "never found");
        bench.received();
        if bench.now - began <= acked_until {
            bench.signal(Signal::HeartbeatAcked);
        }
    }
    assert_eq!(ends, [(Generation(1), Reason::HeartbeatUnanswered)]);
    let config = Config::default();
    let bound = config.heartbeat_interval.unwrap() + config.activity_timeout.unwrap();
    let found_after = bench.now.since(began + acked_until);
    assert!(found_after <= bound, "{found_after:?}");
    assert!(found_after >= seconds(90), "{found_after:?}");
}

#[test]
fn promise_of_acks_ends_with_its_stream() {
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
fn probed_silent_peer_is_held_for_an_hour_until_it_dies() {
    let mut bench = Bench::live(probing());
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
    let probes = times(&bench, is_probe).len();
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
fn lost_probe_is_repeated_before_the_activity_timeout() {
    let mut bench = Bench::live(probing());
    bench.wait(seconds(30));
    bench.feed(Input::Probed(Generation(1), false));
    bench.wait(seconds(30));
    assert_eq!(times(&bench, is_probe), [seconds(30), seconds(60)]);
    bench.feed(Input::Probed(Generation(1), true));
    assert_eq!(downs(&bench.wait(seconds(89))), []);
    assert_eq!(bench.activity(), Activity::Live);
}

#[test]
fn peer_that_sends_is_not_probed() {
    let mut bench = Bench::live(probing());
    for _ in 0..100 {
        bench.wait(seconds(29));
        bench.received();
    }
    assert_eq!(times(&bench, is_probe), []);
}

#[test]
fn heartbeats_start_with_the_headers_and_keep_the_interval() {
    let mut bench = Bench::in_activity(
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
    assert_eq!(times(&bench, is_heartbeat), expected);
}

#[test]
fn heartbeat_interval_of_the_peer_is_bounded() {
    let beats = |interval: Duration, span: Duration| {
        let mut bench = Bench::live(plain());
        bench.signal(Signal::HeartbeatInterval(interval));
        bench.wait(span);
        times(&bench, is_heartbeat)
    };
    assert_eq!(beats(seconds(7), seconds(20)), [seconds(7), seconds(14)]);
    assert_eq!(beats(seconds(86_400), seconds(89)), [seconds(45)]);
    assert_eq!(beats(Duration::ZERO, millis(35)), [10, 20, 30].map(millis));
}

#[test]
fn heartbeat_interval_of_the_peer_ends_with_its_stream() {
    let mut bench = Bench::live(plain());
    bench.signal(Signal::HeartbeatInterval(seconds(7)));
    bench.end(finished());
    bench.wait_for_attempt();
    bench.go_live();
    bench.done.retain(|(_, action)| !is_heartbeat(action));
    bench.wait(seconds(30));
    assert_eq!(times(&bench, is_heartbeat), [seconds(31)]);
}

#[test]
fn sent_heartbeats_are_no_activity() {
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
fn acceptance_and_late_headers_are_no_activity() {
    let mut bench = Bench::in_activity(
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
fn paused_reading_keeps_the_stream_for_ten_timeouts() {
    for config in [plain(), probing()] {
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
fn failed_probe_while_paused_starts_no_new_one() {
    let mut bench = Bench::live(probing());
    bench.wait(seconds(30));
    assert_eq!(times(&bench, is_probe).len(), 1);
    bench.feed(Input::ReadPaused(Generation(1), true));
    bench.wait(seconds(900));
    assert_eq!(times(&bench, is_probe).len(), 1);
    assert_eq!(bench.activity(), Activity::Live);
}

#[test]
fn paused_reading_stops_the_timeouts_of_opening() {
    for (phase, limit, reason) in [
        (Activity::Greeting, seconds(10), Reason::GreetingTimeout),
        (Activity::Restoring, seconds(30), Reason::RestoringTimeout),
    ] {
        let mut bench = Bench::in_activity(plain(), phase);
        bench.feed(Input::ReadPaused(Generation(1), true));
        assert_eq!(downs(&bench.wait(seconds(900))), []);
        bench.feed(Input::ReadPaused(Generation(1), false));
        assert_eq!(downs(&bench.wait(just_before(limit))), []);
        assert_eq!(downs(&bench.wait(MICRO)), [(Generation(1), reason)]);
    }
}

#[test]
fn pause_from_before_a_loss_does_not_fail_the_next_attempt() {
    let mut bench = Bench::stable(plain());
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
fn attempt_after_a_paused_stream_still_times_out() {
    let mut bench = Bench::stable(plain());
    bench.feed(Input::ReadPaused(Generation(1), true));
    bench.end(finished());
    bench.wait_for_attempt();
    let out = bench.wait(seconds(10));
    assert_eq!(downs(&out), [(Generation(2), Reason::OpenTimeout)]);
    bench.wait_for_attempt();
    bench.headers();
    let out = bench.wait(seconds(10));
    assert_eq!(downs(&out), [(Generation(3), Reason::GreetingTimeout)]);
}

#[test]
fn resumed_reading_without_a_pause_is_no_activity() {
    let mut bench = Bench::live(plain());
    bench.wait(seconds(80));
    bench.feed(Input::ReadPaused(Generation(1), false));
    assert_eq!(
        downs(&bench.wait(seconds(10))),
        [(Generation(1), Reason::Silent)]
    );
}

#[test]
fn silence_never_ends_a_stream_without_an_activity_timeout() {
    let mut bench = Bench::live(Config {
        activity_timeout: None,
        heartbeat_interval: None,
        ..plain()
    });
    bench.signal(Signal::ExpectAcks);
    assert_eq!(bench.wait(seconds(86_400)), []);
}
