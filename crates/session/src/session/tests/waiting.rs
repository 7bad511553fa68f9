//! Delays after an end: the backoff, its reset, and delays that the peer asks for.

use std::time::Duration;

use super::bench::{
    Bench, ended_with, finished, just_before, millis, plain, seconds, stops, unreachable,
};
use crate::{
    Activity, Advice, Config, End, Initiator, Jitter, Reason, Recovery, Signal, State,
    session::{Action, Input},
};

/// The delays after streams that each live for `life`.
fn delays_of_a_flapping_peer(life: Duration, count: usize) -> Vec<u64> {
    let mut bench = Bench::new(plain());
    bench.open();
    (0..count)
        .map(|_| {
            bench.go_live();
            bench.wait(life);
            bench.end(finished());
            bench.wait_for_attempt().as_secs()
        })
        .collect()
}

#[test]
fn delays_grow_if_streams_end_just_before_stable() {
    let life = just_before(Config::default().stable_after);
    assert_eq!(delays_of_a_flapping_peer(life, 7), [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn stable_streams_restart_the_backoff() {
    let life = Config::default().stable_after;
    assert_eq!(delays_of_a_flapping_peer(life, 7), [1; 7]);
}

#[test]
fn time_before_live_does_not_count_towards_stable() {
    let mut bench = Bench::new(plain());
    bench.open();
    let mut delays = Vec::new();
    for _ in 0..4 {
        bench.wait(seconds(9));
        bench.headers();
        bench.wait(seconds(9));
        bench.signal(Signal::Greeted);
        bench.wait(seconds(29));
        bench.signal(Signal::Restored);
        bench.wait(seconds(20));
        bench.end(finished());
        delays.push(bench.wait_for_attempt().as_secs());
    }
    assert_eq!(delays, [1, 2, 4, 8]);
}

#[test]
fn one_stable_stream_resets_all_failures() {
    let mut bench = Bench::new(plain());
    bench.open();
    for _ in 0..6 {
        bench.end(unreachable());
        bench.wait_for_attempt();
    }
    assert_eq!(bench.session.status().consecutive_failures, 6);
    bench.go_live();
    assert_eq!(bench.session.status().consecutive_failures, 6);
    bench.stabilize();
    assert_eq!(bench.session.status().consecutive_failures, 0);
    bench.end(finished());
    assert_eq!(bench.session.status().consecutive_failures, 0);
    assert_eq!(bench.wait_for_attempt(), seconds(1));
}

#[test]
fn delay_of_the_peer_is_kept_and_clamped() {
    let after = |advice| {
        let mut bench = Bench::in_activity(plain(), Activity::Opening);
        bench.end(ended_with(advice));
        bench.wait_for_attempt()
    };
    let wait = |wait| Advice::Wait(Some(wait));
    assert_eq!(after(wait(Duration::ZERO)), seconds(1));
    assert_eq!(after(wait(millis(999))), seconds(1));
    assert_eq!(after(wait(seconds(40))), seconds(40));
    assert_eq!(after(wait(seconds(300))), seconds(300));
    assert_eq!(after(wait(seconds(301))), seconds(300));
    assert_eq!(after(wait(Duration::MAX)), seconds(300));
    assert_eq!(after(Advice::Wait(None)), seconds(30));
}

#[test]
fn jitter_never_shortens_the_delay_of_the_peer() {
    for jitter in [Jitter::Proportional(0.2), Jitter::Full] {
        for seed in 0..500 {
            let config = Config { jitter, ..plain() };
            let mut bench = Bench::seeded(config, seed);
            bench.open();
            bench.end(ended_with(Advice::Wait(Some(seconds(45)))));
            let delay = bench.wait_for_attempt();
            assert!((seconds(45)..=seconds(75)).contains(&delay), "{delay:?}");
        }
    }
}

#[test]
fn delay_of_the_peer_never_shortens_the_backoff() {
    let mut bench = Bench::in_activity(plain(), Activity::Opening);
    let delays: Vec<u64> = (0..6)
        .map(|_| {
            bench.end(ended_with(Advice::Wait(Some(seconds(3)))));
            bench.wait_for_attempt().as_secs()
        })
        .collect();
    assert_eq!(delays, [3, 3, 4, 8, 16, 30]);
}

#[test]
fn delay_of_the_peer_is_kept_after_a_stable_stream() {
    let mut bench = Bench::stable(plain());
    bench.end(ended_with(Advice::Wait(Some(seconds(60)))));
    assert_eq!(bench.wait_for_attempt(), seconds(60));
}

#[test]
fn terminal_ends_stop_once_and_for_good() {
    for phase in [
        Activity::Opening,
        Activity::Greeting,
        Activity::Restoring,
        Activity::Live,
    ] {
        for reason in [
            Reason::Fenced,
            Reason::Status {
                code: 7,
                message: "denied".into(),
            },
        ] {
            let mut bench = Bench::in_activity(plain(), phase);
            let end = End::stop(Initiator::Peer, reason);
            let out = bench.end(end.clone());
            assert_eq!(stops(&out), [end]);
            assert_eq!(bench.activity(), Activity::Idle);
            assert_eq!(bench.state(), State::Disconnected);
            assert_eq!(bench.session.deadline(), None);
            assert_eq!(bench.wait(seconds(3_600)), []);
            bench.end(finished());
            bench.signal(Signal::Restored);
            assert_eq!(bench.attempts().len(), 1);
        }
    }
}

#[test]
fn all_other_ends_are_retried() {
    for end in [
        finished(),
        unreachable(),
        ended_with(Advice::Retry),
        End::retry(Initiator::Network, Reason::Lost("reset".into())),
        End::retry(Initiator::Local, Reason::OutboxFull),
        End::retry(Initiator::Peer, Reason::RestoreRefused("busy".into())),
    ] {
        let mut bench = Bench::live(plain());
        bench.end(end.clone());
        assert_eq!(bench.wait_for_attempt(), seconds(1), "{end}");
    }
}

#[test]
fn refused_credentials_are_renewed_once() {
    let mut bench = Bench::in_activity(plain(), Activity::Opening);
    bench.wait(seconds(1));
    let refused = ended_with(Advice::Refresh);
    let out = bench.end(refused.clone());
    assert!(matches!(
        out.last(),
        Some(Action::Open { refresh: true, .. })
    ));
    assert_eq!(stops(&bench.end(refused.clone())), [refused]);
    assert_eq!(bench.wait(seconds(3_600)), []);
}

#[test]
fn renewable_credentials_meet_the_backoff_when_refused() {
    let mut bench = Bench::in_activity(
        Config {
            renews_credentials: true,
            ..plain()
        },
        Activity::Opening,
    );
    bench.wait(seconds(1));
    let refused = ended_with(Advice::Refresh);
    bench.end(refused.clone());
    for expected in [2, 4, 8] {
        assert_eq!(bench.activity(), Activity::Opening);
        assert!(bench.attempts().last().unwrap().1, "new ones each time");
        assert!(stops(&bench.end(refused.clone())).is_empty());
        assert_eq!(bench.wait_for_attempt(), seconds(expected));
    }
}

#[test]
fn credentials_expired_during_an_outage_are_renewed_again() {
    let mut bench = Bench::in_activity(plain(), Activity::Opening);
    let renewals = |bench: &Bench| -> Vec<bool> {
        bench
            .attempts()
            .iter()
            .map(|(_, refresh)| *refresh)
            .collect()
    };
    bench.end(ended_with(Advice::Refresh));
    bench.wait_for_attempt();
    bench.end(unreachable());
    bench.wait_for_attempt();
    bench.end(ended_with(Advice::Refresh));
    assert_eq!(bench.wait_for_attempt(), seconds(4), "not at once");
    assert_eq!(renewals(&bench), [false, true, false, true]);
    bench.go_live();
    bench.end(ended_with(Advice::Refresh));
    assert_eq!(bench.wait_for_attempt(), seconds(8), "taken, then expired");
}

#[test]
fn stable_stream_renews_credentials_at_once_each_time() {
    let mut bench = Bench::stable(plain());
    for _ in 0..3 {
        bench.end(ended_with(Advice::Refresh));
        assert_eq!(bench.activity(), Activity::Opening);
        assert!(bench.attempts().last().unwrap().1);
        bench.go_live();
        bench.stabilize();
    }
}

#[test]
fn round_of_servers_is_one_failure_and_has_an_end() {
    let mut stable = Bench::stable(plain());
    stable.end(finished());
    stable.wait_for_attempt();
    let fresh = Bench::in_activity(plain(), Activity::Opening);
    for (mut bench, backoff) in [(fresh, 1), (stable, 2)] {
        let next = ended_with(Advice::NextServer);
        for _ in 0..15 {
            bench.end(next.clone());
            assert_eq!(bench.session.status().consecutive_failures, 0);
            assert_eq!(bench.wait_for_attempt(), millis(500));
        }
        bench.end(next);
        assert_eq!(bench.session.status().consecutive_failures, 1);
        assert_eq!(bench.wait_for_attempt(), seconds(backoff));
    }
}

#[test]
fn connect_after_a_terminal_end_resets_the_failures() {
    let mut bench = Bench::in_activity(plain(), Activity::Opening);
    for _ in 0..5 {
        bench.end(unreachable());
        bench.wait_for_attempt();
    }
    bench.end(ended_with(Advice::Stop));
    bench.wait(seconds(1));
    bench.feed(Input::Connect);
    assert_eq!(bench.activity(), Activity::Opening);
    assert_eq!(bench.session.status().consecutive_failures, 0);
    bench.end(unreachable());
    assert_eq!(bench.wait_for_attempt(), seconds(1));
}

#[test]
fn recovery_spread_bounds_the_first_delay_after_stable() {
    let config = Config {
        recovery: Recovery::Spread(seconds(1)),
        ..plain()
    };
    for seed in 0..200 {
        let mut bench = Bench::seeded(config.clone(), seed);
        bench.open();
        bench.go_live();
        bench.stabilize();
        bench.end(finished());
        let recovery = if bench.activity() == Activity::Opening {
            Duration::ZERO
        } else {
            bench.wait_for_attempt()
        };
        assert!(recovery <= seconds(1), "{recovery:?}");
        bench.end(unreachable());
        assert_eq!(bench.wait_for_attempt(), seconds(1), "then the backoff");
    }
}

#[test]
fn first_orderly_end_of_a_live_stream_is_followed_quickly() {
    let protocol = || Reason::Protocol("nonsense".into());
    for (end, spread, is_quick) in [
        (finished(), 1, true),
        (ended_with(Advice::Retry), 1, true),
        // The backoff is the longest delay in any case.
        (finished(), 1_000_000, false),
        (End::status(13, "no", Advice::Retry), 1, false),
        (End::retry(Initiator::Network, Reason::Finished), 1, false),
        (End::retry(Initiator::Peer, protocol()), 1, false),
        (unreachable(), 1, false),
    ] {
        let mut bench = Bench::new(Config {
            initial_backoff: seconds(5),
            max_backoff: seconds(5),
            recovery: Recovery::Spread(seconds(spread)),
            ..plain()
        });
        for attempt in 0..4 {
            if attempt == 0 {
                bench.open();
            }
            bench.go_live();
            bench.end(end.clone());
            let delay = bench.wait_for_attempt();
            if is_quick && attempt == 0 {
                assert!(delay <= seconds(1), "{delay:?}");
            } else {
                assert_eq!(
                    delay,
                    seconds(5),
                    "a peer that ends every stream meets the backoff"
                );
            }
        }
    }
}
