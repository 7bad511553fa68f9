mod scripted;
mod simulation;

use steadfast_session::{Advice, Effect, Signal};

use self::scripted::{Puller, Store, change, taken};
use super::*;
use crate::puller::Progress;

/// A Puller, an intake and the log that it fills.
#[derive(Default)]
struct Rig {
    puller: Puller,
    store: Store,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self::default();
        rig.connect();
        rig
    }

    fn connect(&mut self) {
        let request = self.store.open();
        self.puller.subscribe(&request);
    }

    /// Receives everything that the Puller has.
    fn receive(&mut self) {
        while let Some(event) = self.puller.next() {
            self.store.receive(event);
        }
    }

    fn cut(&mut self) {
        self.puller.cut();
        self.store
            .down(&End::retry(Initiator::Network, Reason::Finished));
    }

    /// Ends the process and begins again with what was committed.
    fn kill(&mut self) {
        self.puller.cut();
        self.store.kill();
        self.connect();
    }

    fn ids(&self) -> Vec<&str> {
        self.store.committed.iter().map(taken).collect()
    }
}

#[test]
fn each_attempt_has_a_consumer_id_of_its_own() {
    let mut rig = Rig::default();
    let ids: Vec<String> = (0..3).map(|_| rig.store.open().consumer_id).collect();
    assert!(ids.iter().all(|id| id.starts_with("test-")), "{ids:?}");
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
}

#[test]
fn changes_of_one_time_are_all_taken_and_none_twice() {
    let mut rig = Rig::new();
    // Live they come as they happened, replayed in the order of their ids.
    for id in ["12-1-cc", "12-1-aa", "12-1-bb"] {
        rig.puller.add(change("b1", id));
    }
    rig.store.receive(rig.puller.next().unwrap());
    rig.store.commit(1);
    rig.kill();
    rig.receive();
    rig.store.commit(9);
    rig.cut();
    rig.connect();
    rig.receive();
    rig.store.commit(9);
    assert_eq!(rig.ids(), ["12-1-cc", "12-1-aa", "12-1-bb"]);
    assert_eq!(rig.store.lost, []);
}

#[test]
fn change_dropped_live_is_taken_from_the_replay() {
    let mut rig = Rig::new();
    rig.puller.drops_same_time = true;
    for id in ["12-1-cc", "12-1-aa", "13-1-dd"] {
        rig.puller.add(change("b1", id));
    }
    rig.store.receive(rig.puller.next().unwrap());
    rig.cut();
    rig.connect();
    rig.receive();
    rig.store.commit(9);
    assert_eq!(rig.ids(), ["12-1-cc", "12-1-aa", "13-1-dd"]);
}

#[test]
fn cut_before_the_first_change_loses_nothing() {
    let mut rig = Rig::new();
    rig.store.receive(rig.puller.heartbeat());
    rig.cut();
    rig.puller.add(change("b1", "12-1-aa"));
    rig.connect();
    rig.receive();
    rig.store.commit(9);
    assert_eq!(rig.ids(), ["12-1-aa"]);
}

#[test]
fn backend_that_the_marker_lost_is_not_repeated() {
    let mut rig = Rig::new();
    rig.puller.names_one_backend = true;
    for (backend, id) in [("b1", "12-1-aa"), ("b2", "3-1-aa"), ("b1", "13-1-aa")] {
        rig.puller.add(change(backend, id));
    }
    rig.receive();
    rig.store.commit(9);
    rig.kill();
    rig.puller.add(change("b3", "1-1-cc"));
    rig.puller.add(change("b2", "4-1-bb"));
    rig.receive();
    rig.store.commit(9);
    let all = ["12-1-aa", "3-1-aa", "13-1-aa", "1-1-cc", "4-1-bb"];
    assert_eq!(rig.ids(), all);
    assert_eq!(rig.store.lost, [], "a backend that is new misses nothing");
}

#[test]
fn forgotten_changes_are_told_before_the_next_one() {
    let mut rig = Rig::new();
    rig.puller.add(change("b1", "12-1-aa"));
    rig.puller.add(change("b2", "12-1-aa"));
    rig.receive();
    rig.cut();
    rig.puller.add(change("b1", "13-1-aa"));
    rig.puller.forget("b1");
    for (backend, id) in [("b1", "14-1-aa"), ("b2", "14-1-aa"), ("b1", "15-1-aa")] {
        rig.puller.add(change(backend, id));
    }
    rig.connect();
    rig.receive();
    rig.store.commit(9);
    let forgotten = Lost::Forgotten {
        backend: "b1".to_owned(),
    };
    assert_eq!(rig.store.lost, [(2, forgotten)]);
    assert_eq!(rig.ids().len(), 5);
}

#[test]
fn refused_marker_is_told_and_everything_asked_for() {
    let mut rig = Rig::new();
    rig.puller.add(change("b1", "12-1-aa"));
    rig.receive();
    for (code, message, refused) in [
        (11, "the events were trimmed", true),
        (3, "invalid 'after' progress marker: no", true),
        (3, "consumer_id is too long", false),
        (13, "failed to start replay: i/o", false),
        (14, "the marker is fine", false),
    ] {
        let mut intake = rig.store.intake.clone();
        let mut cx = Context::new(true);
        intake.on_open(Time::ZERO, Generation(9), &mut cx);
        let end = End::status(code, message, Advice::Stop);
        let mut cx = Context::new(false);
        intake.on_down(Time::ZERO, &end, &mut cx);
        assert_eq!(cx.into_effects().len(), usize::from(refused), "{message}");
        let mut cx = Context::new(true);
        intake.on_open(Time::ZERO, Generation(10), &mut cx);
        let effects = cx.into_effects();
        let Some(Effect::Send(request)) = effects.first() else {
            panic!("{effects:?}")
        };
        let start = request.after == Marker::default().request().to_string();
        assert_eq!(start, refused, "{message}");
        // A start that is refused too is no further loss.
        let mut cx = Context::new(false);
        intake.on_down(Time::ZERO, &end, &mut cx);
        assert_eq!(cx.into_effects().is_empty(), refused || code != 11);
    }
}

#[test]
fn damage_that_a_puller_passed_is_told_and_keeps_the_marker() {
    let mut rig = Rig::new();
    rig.puller.add(change("b1", "12-1-aa"));
    rig.receive();
    let mut moved = rig.puller.heartbeat();
    moved.progress = Progress {
        backends: [("b1".to_owned(), "15-1-aa".to_owned())].into(),
    }
    .to_string();
    rig.store.receive(moved);
    rig.puller.cut();
    rig.store
        .down(&End::status(15, "13 to 15 are damaged", Advice::Stop));
    let request = rig.store.open();
    let after: Progress = request.after.parse().unwrap();
    assert_eq!(after.backends["b1"], "15-1-aa", "exactly behind the damage");
    rig.puller.subscribe(&request);
    rig.puller.add(change("b1", "16-1-aa"));
    rig.receive();
    rig.store.commit(9);
    let damaged = Lost::Damaged {
        message: "13 to 15 are damaged".to_owned(),
    };
    assert_eq!(rig.store.lost, [(1, damaged)], "told once");
    assert_eq!(rig.ids(), ["12-1-aa", "16-1-aa"]);
}

#[test]
fn merged_changes_are_never_asked_for() {
    let mut rig = Rig::new();
    for generation in 0..3 {
        rig.cut();
        let request = rig.store.open();
        assert!(!request.coalesce_on_catch_up, "attempt {generation}");
    }
}

#[test]
fn replay_in_the_middle_of_a_stream_is_not_taken_twice() {
    let mut rig = Rig::new();
    for id in ["12-1-aa", "12-2-aa", "12-2-bb"] {
        rig.puller.add(change("b1", id));
    }
    rig.receive();
    // A Puller whose queue for this consumer is full goes back to its buffer.
    rig.puller.replay_again();
    rig.puller.add(change("b1", "13-1-aa"));
    rig.receive();
    rig.store.commit(9);
    assert_eq!(rig.ids(), ["12-1-aa", "12-2-aa", "12-2-bb", "13-1-aa"]);
}

#[test]
fn marker_moves_past_a_hard_delete() {
    let mut rig = Rig::new();
    let mut hard = change("b1", "12-1-aa");
    hard.op_type = "delete".to_owned();
    hard.database.clear();
    hard.full_doc.clear();
    rig.puller.add(hard);
    rig.receive();
    rig.store.commit(9);
    rig.kill();
    rig.receive();
    rig.store.commit(9);
    assert_eq!(
        rig.ids(),
        ["12-1-aa"],
        "it is received once, and changes nothing"
    );
}

#[test]
fn change_without_a_time_ends_the_stream() {
    let mut store = Store::default();
    store.open();
    let mut nameless = change("b1", "12-1-aa");
    nameless.event_id.clear();
    nameless.cluster_time = None;
    let mut cx = Context::new(true);
    let event = PullerEvent {
        change_event: Some(nameless),
        progress: String::new(),
    };
    store.intake.on_message(Time::ZERO, event, &mut cx);
    let effects = cx.into_effects();
    assert!(
        matches!(&effects[..], [Effect::Signal(Signal::Fail(_))]),
        "{effects:?}"
    );
}
