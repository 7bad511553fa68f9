//! The counted work of matching: candidates, allocations and bytes. They depend on the code alone and
//! never on the machine. Whoever changes a count changes the row, and says why the new one is better.

use allocation_counter::measure;
use steadfast_bench::subscriptions::{SEED, WORKLOADS, events, insert};
use steadfast_streamer_core::matcher::{Matcher, Matching};

const SUBSCRIPTIONS: u64 = 10_000;
const EVENTS: usize = 200;

/// The work of one workload. An event of a matcher that has matched before allocates nothing, in all of
/// them.
#[derive(Debug, PartialEq)]
struct Work {
    name: &'static str,
    /// Over all events.
    candidates: usize,
    matches: usize,
    /// The bytes that a subscription takes, rounded up.
    bytes: u64,
    /// The allocations of inserting a subscription, rounded up.
    allocations: u64,
}

const fn work(
    name: &'static str,
    candidates: usize,
    matches: usize,
    bytes: u64,
    allocations: u64,
) -> Work {
    Work {
        name,
        candidates,
        matches,
        bytes,
        allocations,
    }
}

const EXPECTED: &[Work] = &[
    work("one-equality", 200, 200, 121, 2),
    work("two-equalities-one-shared", 399, 200, 121, 5),
    work("narrow-range", 66, 61, 157, 5),
    work("mixed", 4_918, 4_204, 141, 4),
    work("losing-one-sided-range", 1_952_885, 1_952_878, 157, 2),
    work("losing-not-equal-only", 2_000_000, 1_999_800, 129, 2),
    work("losing-box", 7_939, 19, 193, 7),
];

#[test]
fn work_of_each_workload_is_as_counted() {
    let counted = WORKLOADS.map(|workload| {
        let filters = workload.filters(SUBSCRIPTIONS).unwrap();
        let mut matcher = Matcher::new(SEED);
        let held = measure(|| {
            for (key, filter) in (0..).zip(&filters) {
                insert(&mut matcher, key, filter);
            }
        });
        let (mut matching, mut found) = (Matching::new(), Vec::new());
        let mut work = Work {
            name: workload.name,
            candidates: 0,
            matches: 0,
            bytes: held.bytes_current.unsigned_abs().div_ceil(SUBSCRIPTIONS),
            allocations: held.count_total.div_ceil(SUBSCRIPTIONS),
        };
        let events = events(EVENTS, SUBSCRIPTIONS);
        // The buffers grow while the first events are matched.
        for round in 0..2 {
            (work.candidates, work.matches) = (0, 0);
            for event in &events {
                let allocated = measure(|| {
                    matching.start(&matcher, event);
                    work.candidates += matching.candidates();
                    found.clear();
                    matching.finish(&matcher, &mut found);
                });
                work.matches += found.len();
                assert!(
                    round == 0 || allocated.count_total == 0,
                    "{}: {allocated:?}",
                    workload.name
                );
            }
        }
        work
    });
    assert_eq!(&counted[..], EXPECTED);
}
