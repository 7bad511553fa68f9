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
        let struck = report.faults[fault.name()];
        assert!(struck >= 20, "{} struck {struck} times", fault.name());
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in [3, 77, 1_234_567] {
        let (one, other) = (run(seed), run(seed));
        assert_eq!(one.trace, other.trace);
        assert_eq!(
            (one.events, one.delivered, one.attempts, one.bites),
            (other.events, other.delivered, other.attempts, other.bites)
        );
    }
}
