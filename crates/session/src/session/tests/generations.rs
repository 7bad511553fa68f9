//! One stream at a time; input from any other generation is ignored.

use super::bench::{ACTIVITIES, Bench, every_report, finished, plain, probing, seconds};
use crate::{
    Activity, Generation, Signal,
    session::{Action, Input},
};

/// Creates a session in `activity` after two earlier attempts.
fn third(activity: Activity) -> Bench {
    let mut bench = Bench::live(probing());
    bench.end(finished());
    bench.wait_for_attempt();
    bench.headers();
    bench.end(finished());
    bench.wait_for_attempt();
    bench.advance_to(activity);
    assert_eq!(bench.generation(), Generation(3));
    bench
}

#[test]
fn input_of_another_generation_changes_nothing() {
    for activity in ACTIVITIES {
        let mut bench = third(activity);
        if activity == Activity::Live {
            // With a probe under way, a late result of an older one would be taken for its result.
            assert_eq!(bench.feed(Input::Reconnect), [Action::Probe(Generation(3))]);
        }
        // At the instant of the last input, arming a timer again would not show.
        bench.wait(seconds(1));
        bench.feed(Input::Tick);
        let before = bench.snapshot();
        for generation in [0, 1, 2, 4] {
            for stale in every_report(Generation(generation)) {
                assert_eq!(bench.feed(stale.clone()), [], "{activity:?} {stale:?}");
                assert_eq!(bench.snapshot(), before, "{activity:?} {stale:?}");
            }
        }
    }
}

#[test]
fn timers_end_with_their_stream() {
    let mut bench = Bench::live(plain());
    bench.signal(Signal::ExpectAcks);
    bench.wait(seconds(29));
    bench.end(finished());
    bench.wait_for_attempt();
    bench.go_live();
    bench.wait(seconds(5));
    bench.received();
    assert_eq!(
        bench.session.status().consecutive_failures,
        1,
        "the timer of the older stream does not make the newer one stable"
    );
    let out = bench.wait(seconds(20));
    assert_eq!(out, [], "no heartbeat of the older stream");
}
