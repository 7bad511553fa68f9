//! One stream at a time; input from any other generation is ignored.

use super::bench::{ACTIVITIES, Bench, every_report, finished, plain, seconds, unreachable};
use crate::{
    Activity, Config, Generation, Liveness, Signal,
    session::{Action, Input},
};

/// Creates a session in `activity` after two earlier attempts.
fn third(activity: Activity) -> Bench {
    let mut bench = Bench::live(Config {
        liveness: Liveness::Probed,
        ..plain()
    });
    bench.end(finished());
    bench.wait_for_attempt();
    bench.headers();
    bench.end(finished());
    bench.wait_for_attempt();
    match activity {
        Activity::Idle => drop(bench.feed(Input::Leave)),
        Activity::Backoff => drop(bench.end(unreachable())),
        Activity::Opening => {}
        Activity::Greeting => drop(bench.headers()),
        Activity::Restoring => {
            bench.headers();
            bench.signal(Signal::Greeted);
        }
        Activity::Live => bench.go_live(),
        Activity::Draining => {
            bench.go_live();
            bench.feed(Input::Leave);
        }
        Activity::Closed => drop(bench.feed(Input::Close)),
    }
    assert_eq!(
        (bench.activity(), bench.generation()),
        (activity, Generation(3))
    );
    bench
}

#[test]
fn input_of_another_generation_changes_nothing() {
    for activity in ACTIVITIES {
        let mut bench = third(activity);
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

#[test]
fn late_result_of_an_older_probe_is_ignored() {
    let mut bench = Bench::live(plain());
    bench.feed(Input::Reconnect);
    bench.end(finished());
    bench.wait_for_attempt();
    bench.go_live();
    assert_eq!(bench.feed(Input::Reconnect), [Action::Probe(Generation(2))]);
    assert_eq!(bench.feed(Input::Probed(Generation(1), false)), []);
    assert_eq!(bench.activity(), Activity::Live);
}
