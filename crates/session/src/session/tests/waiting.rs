//! How long is waited after an end: the backoff, its reset, and what the peer may ask for.

use std::time::Duration;

use super::bench::{
    Bench, advised, finished, just_before, millis, plain, seconds, stops, unreachable,
};
use crate::{
    Activity, Advice, Config, End, Initiator, Jitter, Reason, Recovery, Signal, State,
    session::{Action, Input},
};

/// Delays between the ends of streams that each live for `life` and the attempts after them.
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
fn i4_streams_that_end_just_before_they_were_stable_let_the_delay_grow() {
    let life = just_before(Config::default().stable_after);
    assert_eq!(delays_of_a_flapping_peer(life, 7), [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn i4_streams_that_were_just_stable_begin_with_the_first_delay_again() {
    let life = Config::default().stable_after;
    assert_eq!(delays_of_a_flapping_peer(life, 7), [1; 7]);
}

#[test]
fn i4_time_before_the_stream_was_live_proves_nothing() {
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
fn i4_one_stable_stream_forgives_everything_before_it() {
    let mut bench = Bench::new(plain());
    bench.open();
    for _ in 0..6 {
        bench.end(unreachable());
        bench.wait_for_attempt();
    }
    assert_eq!(bench.session.status().consecutive_failures, 6);
    bench.go_live();
    assert_eq!(bench.session.status().consecutive_failures, 6);
    bench.prove();
    assert_eq!(bench.session.status().consecutive_failures, 0);
    bench.end(finished());
    assert_eq!(bench.session.status().consecutive_failures, 0);
    assert_eq!(bench.wait_for_attempt(), seconds(1));
}

#[test]
fn i5_the_delay_a_peer_asks_for_is_kept_and_clamped() {
    let after = |advice| {
        let mut bench = Bench::busy_with(plain(), Activity::Opening);
        bench.end(advised(advice));
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
fn i5_jitter_never_shortens_what_the_peer_asked_for() {
    for jitter in [Jitter::Proportional(0.2), Jitter::Full] {
        for seed in 0..500 {
            let config = Config { jitter, ..plain() };
            let mut bench = Bench::seeded(config, seed);
            bench.open();
            bench.end(advised(Advice::Wait(Some(seconds(45)))));
            let delay = bench.wait_for_attempt();
            assert!((seconds(45)..=seconds(75)).contains(&delay), "{delay:?}");
        }
    }
}

#[test]
fn i5_a_wait_shorter_than_the_backoff_does_not_shorten_it() {
    let mut bench = Bench::busy_with(plain(), Activity::Opening);
    let delays: Vec<u64> = (0..6)
        .map(|_| {
            bench.end(advised(Advice::Wait(Some(seconds(3)))));
            bench.wait_for_attempt().as_secs()
        })
        .collect();
    assert_eq!(delays, [3, 3, 4, 8, 16, 30]);
}

#[test]
fn i5_a_stable_stream_is_sent_away_for_as_long_as_the_peer_says() {
    let mut bench = Bench::proven(plain());
    bench.end(advised(Advice::Wait(Some(seconds(60)))));
    assert_eq!(bench.wait_for_attempt(), seconds(60));
}

#[test]
fn i6_terminal_ends_are_told_once_and_nothing_follows() {
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
            let mut bench = Bench::busy_with(plain(), phase);
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
fn i6_every_other_end_is_tried_again_a_clean_one_included() {
    for end in [
        finished(),
        unreachable(),
        advised(Advice::Retry),
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
fn i6_refused_credentials_are_renewed_once_then_it_is_over() {
    let mut bench = Bench::busy_with(plain(), Activity::Opening);
    bench.wait(seconds(1));
    let refused = advised(Advice::Refresh);
    let out = bench.end(refused.clone());
    assert!(matches!(
        out.last(),
        Some(Action::Open { refresh: true, .. })
    ));
    assert_eq!(stops(&bench.end(refused.clone())), [refused]);
    assert_eq!(bench.wait(seconds(3_600)), []);
}

#[test]
fn i6_credentials_that_expire_during_a_long_outage_are_renewed_again() {
    let mut bench = Bench::busy_with(plain(), Activity::Opening);
    let renewals = |bench: &Bench| -> Vec<bool> {
        bench
            .attempts()
            .iter()
            .map(|(_, refresh)| *refresh)
            .collect()
    };
    bench.end(advised(Advice::Refresh));
    bench.wait_for_attempt();
    bench.end(unreachable());
    bench.wait_for_attempt();
    bench.end(advised(Advice::Refresh));
    assert_eq!(bench.wait_for_attempt(), seconds(4), "not at once");
    assert_eq!(renewals(&bench), [false, true, false, true]);
}

#[test]
fn i6_a_stable_stream_may_have_its_credentials_renewed_at_once_each_time() {
    let mut bench = Bench::proven(plain());
    for _ in 0..3 {
        bench.end(advised(Advice::Refresh));
        assert_eq!(bench.activity(), Activity::Opening);
        assert!(bench.attempts().last().unwrap().1);
        bench.go_live();
        bench.prove();
    }
}

#[test]
fn i6_a_new_connect_after_a_terminal_end_begins_anew() {
    let mut bench = Bench::busy_with(plain(), Activity::Opening);
    for _ in 0..5 {
        bench.end(unreachable());
        bench.wait_for_attempt();
    }
    bench.end(advised(Advice::Stop));
    bench.wait(seconds(1));
    bench.feed(Input::Connect);
    assert_eq!(bench.activity(), Activity::Opening);
    assert_eq!(bench.session.status().consecutive_failures, 0);
    bench.end(unreachable());
    assert_eq!(bench.wait_for_attempt(), seconds(1));
}

#[test]
fn the_loss_of_a_stable_stream_can_be_followed_within_a_chosen_span() {
    let config = Config {
        recovery: Recovery::Spread(seconds(1)),
        ..plain()
    };
    for seed in 0..200 {
        let mut bench = Bench::seeded(config.clone(), seed);
        bench.open();
        bench.go_live();
        bench.prove();
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
