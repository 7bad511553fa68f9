//! A short run of the simulation, as a test. `cargo xtask sim --schedules N` runs longer ones.

use steadfast_sim::{Fault, run, run_many};

#[test]
fn two_hundred_schedules_lose_double_reorder_and_leak_nothing() {
    let report = run_many(1, 200, true);
    assert_eq!(report.first_violation, None);
    for fault in Fault::ALL {
        let count = report.faults[fault.name()];
        assert!(count >= 20, "{} took effect {count} times", fault.name());
    }
    for (count, what) in [
        (report.counts.starts_at_oldest, "began at the oldest event"),
        (report.counts.starts_at_time, "began at a time"),
        (report.counts.denials, "were denied"),
        (
            report.counts.rights_snapshots,
            "began again with other rights",
        ),
    ] {
        assert!(count >= 20, "{count} subscriptions {what}");
    }
    // Each excuses what a plain client misses, so that there must be few.
    let losses = report.counts.plain_losses;
    assert!(losses <= 5, "{losses} plain clients ended by a trim");
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in [3, 77, 1_234_567] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.trace, second.trace);
        assert_eq!(first.counts, second.counts);
        assert_eq!(first.fault_effects, second.fault_effects);
    }
}
