//! A short run of the simulation, as a test. `cargo xtask sim --schedules N` runs longer ones.

use steadfast_sim::{Fault, run, run_many};

#[test]
fn two_hundred_schedules_lose_double_reorder_and_leak_nothing() {
    let report = run_many(1, 200, true);
    assert_eq!(
        (report.first_failing_seed, report.first_violation),
        (None, None)
    );
    for fault in Fault::ALL {
        let count = report.faults[fault.name()];
        assert!(count >= 20, "{} took effect {count} times", fault.name());
    }
    for (count, starts) in [
        (report.starts_at_oldest, "the oldest event"),
        (report.starts_at_time, "a time"),
    ] {
        assert!(count >= 20, "{count} subscriptions began at {starts}");
    }
    // Each excuses what a plain client misses, so that there must be few.
    let losses = report.plain_losses;
    assert!(losses <= 5, "{losses} plain clients ended by a trim");
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in [3, 77, 1_234_567] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.trace, second.trace);
        assert_eq!(
            (
                first.events,
                first.delivered,
                first.attempts,
                first.fault_effects
            ),
            (
                second.events,
                second.delivered,
                second.attempts,
                second.fault_effects
            )
        );
    }
}
