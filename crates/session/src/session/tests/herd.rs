//! Many sessions that lose one server at the same time do not return at the same time.

use std::time::Duration;

use super::bench::{Bench, ended_with, finished, seconds, unreachable};
use crate::{Advice, Config, End, Jitter, Recovery};

const BIN: f64 = 0.1;

/// Ends the stable streams of many sessions with `end` and fails every later attempt. Returns the delays
/// before the next `count` attempts, in seconds, one row per attempt.
fn delays(config: &Config, end: &End, sessions: u64, count: usize) -> Vec<Vec<f64>> {
    let mut rows = vec![Vec::new(); count];
    for seed in 0..sessions {
        let mut bench = Bench::seeded(config.clone(), seed);
        bench.open();
        bench.headers();
        bench.stabilize();
        bench.end(end.clone());
        for row in &mut rows {
            row.push(bench.wait_for_attempt().as_secs_f64());
            bench.end(unreachable());
        }
    }
    rows
}

/// Asserts that all delays are in the window and that no bin holds more than three times the mean.
fn assert_spread(delays: &[f64], from: f64, to: f64) {
    let bins = ((to - from) / BIN).ceil() as usize;
    let mut counts = vec![0_usize; bins];
    for delay in delays {
        assert!((from..=to).contains(delay), "{delay} not in {from}..={to}");
        let bin = ((delay - from) / BIN) as usize;
        counts[bin.min(bins - 1)] += 1;
    }
    let mean = delays.len() / bins;
    let most = counts.iter().copied().max().unwrap_or(0);
    assert!(most <= 3 * mean, "{most} in one bin, {mean} in the mean");
}

#[test]
fn first_attempt_is_made_at_once() {
    for seed in 0..100 {
        let mut bench = Bench::seeded(Config::default(), seed);
        bench.wait(seconds(seed));
        let asked_at = bench.now;
        bench.open();
        assert_eq!(bench.attempts(), [(asked_at, false)]);
    }
}

#[test]
fn ten_thousand_sessions_spread_every_attempt() {
    let windows = [
        (0.8, 1.2),
        (1.6, 2.4),
        (3.2, 4.8),
        (6.4, 9.6),
        (12.8, 19.2),
        (24.0, 30.0),
        (24.0, 30.0),
    ];
    let rows = delays(&Config::default(), &finished(), 10_000, windows.len());
    for (row, (from, to)) in rows.iter().zip(windows) {
        assert_spread(row, from, to);
    }
}

#[test]
fn full_jitter_and_spread_recovery_fill_their_windows() {
    let full = Config {
        jitter: Jitter::Full,
        ..Config::default()
    };
    assert_spread(&delays(&full, &finished(), 3_000, 1)[0], 0.5, 1.0);
    let spread = Config {
        recovery: Recovery::Spread(seconds(1)),
        ..Config::default()
    };
    assert_spread(&delays(&spread, &finished(), 3_000, 1)[0], 0.0, 1.0);
}

#[test]
fn clients_with_the_same_delay_do_not_return_together() {
    let told = |advice| delays(&Config::default(), &ended_with(advice), 3_000, 1).remove(0);
    let wait = |seconds| Advice::Wait(Some(Duration::from_secs(seconds)));
    assert_spread(&told(wait(10)), 10.0, 12.0);
    assert_spread(&told(wait(100_000)), 300.0, 306.0);
    assert_spread(&told(Advice::Wait(None)), 24.0, 30.0);
}
