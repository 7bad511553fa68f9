//! Settings: all faults are reported at once, and no valid setting makes a session panic.

use std::time::Duration;

use crate::{
    Activity, Config, End, Generation, Initiator, Jitter, Liveness, Ready, Reason, Recovery,
    Session, Signal, Time,
    session::{Action, Input},
};
use proptest::prelude::*;

fn faults(config: Config) -> Vec<&'static str> {
    match config.check() {
        Ok(_) => Vec::new(),
        Err(faults) => faults.faults().iter().map(|fault| fault.field).collect(),
    }
}

#[test]
fn default_settings_are_valid() {
    assert_eq!(faults(Config::default()), [""; 0]);
}

#[test]
fn all_faults_of_the_settings_are_reported_at_once() {
    let config = Config {
        initial_backoff: Duration::from_secs(60),
        backoff_multiplier: 0.5,
        jitter: Jitter::Proportional(1.5),
        open_timeout: Duration::ZERO,
        probe_timeout: Duration::from_nanos(10),
        heartbeat_interval: Some(Duration::from_secs(90)),
        activity_timeout: Some(Duration::from_secs(90)),
        recovery: Recovery::Spread(Duration::ZERO),
        ..Config::default()
    };
    let told = config.clone().check().unwrap_err();
    assert_eq!(
        faults(config),
        [
            "open_timeout",
            "probe_timeout",
            "recovery",
            "max_backoff",
            "backoff_multiplier",
            "jitter",
            "activity_timeout",
        ]
    );
    let text = told.to_string();
    assert_eq!(text.matches("; ").count(), 6, "{text}");
    assert!(text.contains("max_backoff: is 30s, less than initial_backoff (60s)"));
    assert!(text.contains("must be longer than heartbeat_interval (90s)"));
}

#[test]
fn settings_that_are_not_finite_numbers_are_faults() {
    for multiplier in [f64::NAN, f64::INFINITY, -2.0, 0.99] {
        let config = Config {
            backoff_multiplier: multiplier,
            ..Config::default()
        };
        assert_eq!(faults(config), ["backoff_multiplier"]);
    }
    let constant = Config {
        backoff_multiplier: 1.0,
        ..Config::default()
    };
    assert_eq!(faults(constant), [""; 0]);
    let config = Config {
        jitter: Jitter::Proportional(f64::NAN),
        ..Config::default()
    };
    assert_eq!(faults(config), ["jitter"]);
}

#[test]
fn probing_needs_an_activity_timeout_of_any_length() {
    let asked = Config {
        liveness: Liveness::Probed,
        ..Config::default()
    };
    let without = Config {
        activity_timeout: None,
        ..asked.clone()
    };
    assert_eq!(faults(without), ["activity_timeout"]);
    let short = Config {
        activity_timeout: Some(Duration::from_secs(3)),
        ..asked
    };
    assert_eq!(faults(short), [""; 0]);
}

#[test]
fn minimum_interval_follows_its_formula() {
    let least = |initial_backoff| {
        Config {
            initial_backoff,
            ..Config::default()
        }
        .min_interval()
    };
    assert_eq!(least(Duration::from_secs(1)), Duration::from_millis(500));
    assert_eq!(least(Duration::from_millis(100)), Duration::from_millis(80));
}

/// From the least that passes to more than a clock holds.
fn spans() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::from_micros(1)),
        (1..5_u64).prop_map(Duration::from_micros),
        (1..100_000_u64).prop_map(Duration::from_millis),
        Just(Duration::from_secs(u64::MAX / 3)),
        Just(Duration::MAX),
    ]
}

fn configs() -> impl Strategy<Value = Config> {
    let jitter = prop_oneof![
        Just(Jitter::Full),
        (0.0..=1.0).prop_map(Jitter::Proportional)
    ];
    let asked = prop::sample::select(vec![Liveness::Probed, Liveness::Received]);
    (
        prop::array::uniform11(spans()),
        jitter,
        asked,
        any::<bool>(),
        1.0..1e12_f64,
    )
        .prop_map(|(spans, jitter, liveness, spread, backoff_multiplier)| {
            let [
                initial_backoff,
                max_backoff,
                open_timeout,
                greeting_timeout,
                restoring_timeout,
                probe_timeout,
                drain_timeout,
                heartbeat,
                activity,
                stable_after,
                retry_after_max,
            ] = spans;
            Config {
                initial_backoff: initial_backoff.min(max_backoff),
                max_backoff,
                backoff_multiplier,
                jitter,
                recovery: if spread {
                    Recovery::Spread(stable_after)
                } else {
                    Recovery::Backoff
                },
                ready: Ready::Restored,
                open_timeout,
                greeting_timeout,
                restoring_timeout,
                probe_timeout,
                drain_timeout,
                heartbeat_interval: (liveness == Liveness::Probed || heartbeat < activity)
                    .then_some(heartbeat),
                activity_timeout: Some(activity),
                liveness,
                stable_after,
                retry_after_max,
                ..Config::default()
            }
        })
}

/// No clock gets there; a deadline that would lie beyond it stands for "never".
const END_OF_TIME: Time = Time::from_micros(u64::MAX);

/// Steps a session through everything, a few timers each.
fn exercise(config: Config) {
    let mut session = Session::new(config.check().expect("settings without a fault"), 5);
    let mut now = Time::ZERO;
    let mut out = Vec::new();
    let wait = crate::Advice::Wait(Some(Duration::MAX));
    for turn in 0..30_u64 {
        let from = session.status().generation;
        let advice = if turn.is_multiple_of(2) {
            wait
        } else {
            crate::Advice::Retry
        };
        let end = End::new(Initiator::Peer, Reason::Finished, advice);
        for input in [
            Input::Connect,
            Input::Headers(from),
            Input::Signal(from, Signal::Greeted),
            Input::Signal(from, Signal::Restored),
            Input::Signal(from, Signal::HeartbeatInterval(Duration::ZERO)),
            Input::Reconnect,
            Input::Tick,
            Input::Probed(from, turn % 3 == 0),
            Input::Tick,
            Input::Ended(from, end),
        ] {
            if input == Input::Tick
                && let Some(deadline) = session.deadline()
                && deadline.at < END_OF_TIME
            {
                now = now.max(deadline.at);
            }
            session.step(now, input, &mut out);
            assert!(session.deadline().is_none_or(|deadline| deadline.at > now));
            assert!(out.len() < 100_000, "a timer that never comes to rest");
        }
    }
    session.step(now, Input::Close, &mut out);
    assert_eq!(session.status().activity, Activity::Closed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn extreme_settings_never_make_a_session_panic(config in configs()) {
        exercise(config);
    }
}

#[test]
fn smallest_timeouts_end_attempts_and_nothing_else() {
    let tiny = Duration::from_micros(1);
    let config = Config {
        initial_backoff: tiny,
        max_backoff: tiny,
        open_timeout: tiny,
        greeting_timeout: tiny,
        restoring_timeout: tiny,
        probe_timeout: tiny,
        drain_timeout: tiny,
        heartbeat_interval: Some(tiny),
        activity_timeout: Some(Duration::from_micros(2)),
        stable_after: tiny,
        retry_after_max: tiny,
        ..Config::default()
    };
    exercise(config.clone());
    let mut session = Session::new(config.check().unwrap(), 5);
    let mut out = Vec::new();
    session.step(Time::ZERO, Input::Connect, &mut out);
    session.step(Time::ZERO, Input::Headers(Generation(1)), &mut out);
    session.step(Time::from_micros(2), Input::Tick, &mut out);
    assert!(
        out.iter()
            .any(|action| matches!(action, Action::Down(_, end) if end.reason == Reason::Silent))
    );
}
