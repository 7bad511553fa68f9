//! Counting of attempts, and giving up.

use super::bench::{Bench, finished, just_before, plain, seconds, stops, unreachable};
use crate::{Activity, Cause, Config, State, session::Input};

fn at_most(max_retries: u32) -> Config {
    Config {
        max_retries,
        ..plain()
    }
}

/// Fails every attempt until the session gives up. Returns the number of attempts.
fn attempts_until_given_up(config: Config, fail: fn(&mut Bench)) -> usize {
    let mut bench = Bench::new(config);
    bench.feed(Input::Connect);
    while bench.activity() != Activity::Idle {
        assert!(bench.attempts().len() < 50, "never given up");
        if bench.activity() == Activity::Opening {
            fail(&mut bench);
        } else {
            bench.wait_for_attempt();
        }
    }
    let told = bench.actions();
    assert_eq!(stops(&told).len(), 1);
    assert_eq!(bench.state(), State::Disconnected);
    assert_eq!(
        bench.session.status().cause,
        Cause::Ended(stops(&told).remove(0)),
        "the last reason is kept"
    );
    bench.attempts().len()
}

#[test]
fn max_retries_is_the_number_of_attempts_made() {
    for max in [1, 2, 3, 7] {
        let made = attempts_until_given_up(at_most(max), |bench| drop(bench.end(unreachable())));
        assert_eq!(made, max as usize);
    }
}

#[test]
fn peer_that_accepts_and_fails_uses_up_the_retries() {
    let made = attempts_until_given_up(at_most(3), |bench| {
        bench.go_live();
        bench.end(finished());
    });
    assert_eq!(made, 3);
}

#[test]
fn failed_restoration_counts_as_a_failed_attempt() {
    let made = attempts_until_given_up(at_most(4), |bench| {
        bench.headers();
        bench.signal(crate::Signal::Greeted);
        bench.wait(seconds(30));
        assert_eq!(
            bench.session.status().consecutive_failures as usize,
            bench.attempts().len()
        );
    });
    assert_eq!(made, 4);
}

#[test]
fn only_ends_before_stable_count_as_failures() {
    let mut bench = Bench::live(at_most(2));
    bench.wait(just_before(Config::default().stable_after));
    bench.end(finished());
    assert_eq!(bench.session.status().consecutive_failures, 1);
    bench.wait_for_attempt();
    bench.go_live();
    bench.stabilize();
    bench.end(finished());
    assert_eq!(
        bench.session.status().consecutive_failures,
        0,
        "the count began again"
    );
    bench.wait_for_attempt();
    bench.end(unreachable());
    bench.wait_for_attempt();
    assert_eq!(stops(&bench.end(unreachable())), [unreachable()]);
}

#[test]
fn first_connection_is_retried_like_any_other() {
    let mut bench = Bench::in_activity(plain(), Activity::Opening);
    for expected in [1, 2, 4] {
        bench.end(unreachable());
        assert_eq!(bench.state(), State::Connecting);
        assert_eq!(bench.wait_for_attempt(), seconds(expected));
    }
}

#[test]
fn zero_retries_never_give_up() {
    let mut bench = Bench::in_activity(plain(), Activity::Opening);
    for _ in 0..1_000 {
        bench.end(unreachable());
        bench.wait_for_attempt();
    }
    assert_eq!(bench.session.status().consecutive_failures, 1_000);
    assert_eq!(bench.session.status().failed_attempts, 1_000);
}
