//! Close and leave, from every phase: one final end and nothing after it.

use super::bench::{
    ACTIVITIES, Bench, MICRO, downs, every_input, every_report, finished, just_before, probing,
    seconds, stops,
};
use crate::{
    Activity, End, Generation, Initiator, Reason, State,
    session::{Action, Input},
};

fn left() -> End {
    End::stop(Initiator::Local, Reason::Left)
}

#[test]
fn close_ends_every_phase_at_once_and_for_good() {
    for activity in ACTIVITIES {
        let mut bench = Bench::in_activity(probing(), activity);
        let held = bench.session.current();
        let out = bench.feed(Input::Close);
        let told = usize::from(activity != Activity::Closed);
        assert_eq!(stops(&out), vec![left(); told], "{activity:?}");
        let killed = out
            .iter()
            .filter(|action| matches!(action, Action::Kill(_)));
        assert_eq!(killed.count(), usize::from(held.is_some()), "{activity:?}");
        assert_eq!(downs(&out).len(), usize::from(held.is_some()));
        assert_eq!(bench.state(), State::Disconnected);
        assert_eq!(bench.session.deadline(), None, "{activity:?}: no timer");

        for generation in 0..=2 {
            for input in every_input(Generation(generation)) {
                assert_eq!(bench.feed(input.clone()), [], "{activity:?} {input:?}");
            }
        }
        assert_eq!(bench.wait(seconds(3_600)), []);
        assert_eq!(bench.activity(), Activity::Closed);
    }
}

#[test]
fn leave_ends_every_phase_in_idle_without_new_attempts() {
    for activity in ACTIVITIES {
        let mut bench = Bench::in_activity(probing(), activity);
        let already = stops(&bench.actions()).len();
        bench.feed(Input::Leave);
        bench.wait(seconds(10));
        let told = match activity {
            Activity::Idle | Activity::Closed => already,
            Activity::Backoff
            | Activity::Opening
            | Activity::Greeting
            | Activity::Restoring
            | Activity::Live
            | Activity::Draining => 1,
        };
        assert_eq!(stops(&bench.actions()), vec![left(); told], "{activity:?}");
        assert_eq!(bench.session.current(), None);
        assert_eq!(bench.session.deadline(), None, "{activity:?}: no timer");
        assert_eq!(bench.state(), State::Disconnected);
        for input in every_report(Generation(1)) {
            assert_eq!(bench.feed(input.clone()), [], "{activity:?} {input:?}");
        }
        assert_eq!(bench.wait(seconds(3_600)), []);
    }
}

#[test]
fn orderly_end_waits_for_the_peer_until_its_timeout() {
    let mut bench = Bench::live(probing());
    assert_eq!(bench.feed(Input::Leave), [Action::Finish(Generation(1))]);
    assert_eq!(bench.wait(just_before(seconds(10))), []);
    assert_eq!(downs(&bench.wait(MICRO)), [(Generation(1), Reason::Left)]);
    assert_eq!(bench.activity(), Activity::Idle);

    let mut bench = Bench::live(probing());
    bench.feed(Input::Leave);
    assert_eq!(
        downs(&bench.end(finished())),
        [(Generation(1), Reason::Left)]
    );
    assert_eq!(bench.activity(), Activity::Idle);
}

#[test]
fn draining_stream_gets_no_probe_and_no_heartbeat() {
    let mut bench = Bench::in_activity(probing(), Activity::Live);
    bench.wait(seconds(30));
    bench.feed(Input::Leave);
    let began = bench.done.len();
    for input in every_report(Generation(1)) {
        if !matches!(input, Input::Ended(..) | Input::Signal(..)) {
            bench.feed(input);
        }
    }
    bench.wait(just_before(seconds(10)));
    assert_eq!(bench.done[began..], []);
    assert_eq!(bench.activity(), Activity::Draining);
}
