//! Documents that leave a filter: who is told, and what that costs.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use steadfast_wire::streamer::{Window, streamer_message::Payload, value::Kind};

use super::server::*;
use crate::{Event, Previous, hub::*};

/// Takes the deliveries of a stream, each as the id of its document and what happened to it.
fn take_effects(server: &mut Server, stream: StreamId) -> Vec<String> {
    server.run_until_idle();
    let effects = server.take(stream).into_iter().filter_map(|it| match it {
        Payload::Delivery(delivery) => {
            let event = delivery.event.expect("an event");
            let what = if delivery.left { "left" } else { "changed" };
            Some(format!(
                "{} {what} by {}",
                event.document_id, event.operation
            ))
        }
        _ => None,
    });
    effects.collect()
}

#[test]
fn only_who_held_a_document_is_told_that_it_left() {
    let mut server = Server::new();
    let stream = server.welcomed("a");
    let below = |id| {
        want(id, "rooms")
            .filter("n", "<", Kind::IntValue(10))
            .left()
    };
    server.subscribe(stream, below("s"));
    let effects = |server: &mut Server, document: &str, n: Option<i64>| {
        match n {
            Some(n) => server.commit("rooms", document, n),
            None => server.commit_delete("rooms", document),
        };
        take_effects(server, stream)
    };
    let none: [&str; 0] = [];
    for (document, n, expected) in [
        ("a", Some(50), &none[..]),
        ("a", Some(51), &none),
        ("a", Some(5), &["a changed by 1"]),
        ("a", Some(60), &["a left by 1"]),
        ("a", Some(61), &none),
        ("a", None, &none),
        ("a", Some(1), &["a changed by 1"]),
        ("b", Some(2), &["b changed by 1"]),
        ("a", None, &["a left by 4"]),
        ("a", None, &none),
        ("b", Some(3), &["b changed by 1"]),
    ] {
        assert_eq!(
            effects(&mut server, document, n),
            expected,
            "{document} {n:?}"
        );
    }
    // Where the state before cannot be read, it may have been held.
    server.reads_previous = false;
    assert_eq!(
        effects(&mut server, "c", Some(70)),
        none,
        "it did not exist"
    );
    assert_eq!(effects(&mut server, "c", Some(71)), ["c left by 1"]);
    server.assert_frees_everything();
}

#[test]
fn data_is_sent_only_to_those_whose_filter_still_matches() {
    let all = || want("all", "rooms").left();
    let few = || {
        let few = want("few", "rooms").filter("n", "<", Kind::IntValue(10));
        few.left()
    };
    for wanted in [[all(), few()], [few(), all()]] {
        let mut server = Server::new();
        let stream = server.welcomed("s");
        for wanted in wanted {
            server.subscribe(stream, wanted);
        }
        server.commit("rooms", "a", 5);
        server.take(stream);
        server.commit("rooms", "a", 60);
        let mut told: Vec<_> = server
            .deliveries(stream)
            .into_iter()
            .map(|it| {
                let has_data = !it.event.expect("an event").document_data.is_empty();
                (it.subscription_ids, it.left, has_data)
            })
            .collect();
        told.sort();
        let expected = [("all", false, true), ("few", true, false)];
        let expected = expected.map(|(id, left, data)| (vec![id.to_owned()], left, data));
        assert_eq!(told, expected);
    }
}

#[test]
fn document_that_left_uses_credit_without_its_data() {
    let names = ["db", "rooms", "a"].map(str::len).iter().sum::<usize>() as u64;
    for (more, offsets) in [(0, &[1, 2][..]), (1, &[1, 2, 3])] {
        let mut server = Server::new();
        let stream = server.welcomed("s");
        let wanted = want("s", "rooms").filter("n", "<", Kind::IntValue(10));
        let held = event(1, "rooms", "a", 5).weight() as u64;
        server.subscribe(stream, wanted.left().credit(10, held + names + more));
        for n in [5, 60, 6] {
            server.commit("rooms", "a", n);
        }
        assert_eq!(server.offsets(stream), offsets, "{more}");
    }
}

#[test]
fn documents_that_left_meanwhile_are_told_in_catch_up() {
    // Few subscriptions are evaluated one by one, many through the matcher.
    for others in [0, 100] {
        let mut server = Server::new();
        let stream = server.welcomed("a");
        let below = |id: &str| {
            want(id, "rooms")
                .filter("n", "<", Kind::IntValue(10))
                .left()
        };
        server.commit("rooms", "a", 1);
        server.commit("rooms", "b", 50);
        server.commit("rooms", "a", 50);
        server.commit("rooms", "b", 51);
        for other in 0..others {
            server.send_subscribe(stream, below(&format!("o{other}")).after(1));
        }
        server.send_subscribe(stream, below("s").after(1));
        let effects = take_effects(&mut server, stream);
        assert_eq!(effects, ["a left by 1"], "{others}");
        server.assert_frees_everything();
    }
}

#[test]
fn only_who_asks_is_told_in_catch_up_of_what_left() {
    for others in [0, 100] {
        let mut server = Server::new();
        let stream = server.welcomed("a");
        let below = |id: &str| want(id, "rooms").filter("n", "<", Kind::IntValue(10));
        server.commit("rooms", "a", 1);
        server.commit("rooms", "a", 50);
        server.commit("rooms", "a", 2);
        for other in 0..others {
            server.send_subscribe(stream, below(&format!("o{other}")).after(0));
        }
        server.send_subscribe(stream, below("asks").left().after(0));
        server.send_subscribe(stream, below("plain").after(0));
        server.send_subscribe(stream, want("one", "rooms").document("b").after(0));
        server.take(stream);
        server.run_until_idle();
        let mut told = BTreeMap::<_, Vec<_>>::new();
        for delivery in server.deliveries(stream) {
            let offset = offset_of(&delivery.event.expect("an event").event_id);
            for id in delivery.subscription_ids {
                told.entry(id).or_default().push((offset, delivery.left));
            }
        }
        let changes = [(1, false), (3, false)];
        assert_eq!(
            told.remove("asks").unwrap(),
            [(1, false), (2, true), (3, false)]
        );
        assert_eq!(told.len(), others + 1);
        assert!(told.values().all(|it| *it == changes), "{told:?}");
    }
}

#[test]
fn events_in_memory_are_read_again_after_the_first_who_asks() {
    let mut server = Server::new();
    let stream = server.welcomed("a");
    server.commit("rooms", "a", 50);
    server.commit("rooms", "a", 51);
    let below = |id| {
        want(id, "rooms")
            .filter("n", "<", Kind::IntValue(10))
            .left()
    };
    // The first one is live. The next one is behind, and must not be told of what never matched.
    server.subscribe(stream, below("live"));
    server.send_subscribe(stream, below("behind").after(1));
    let none: [&str; 0] = [];
    assert_eq!(take_effects(&mut server, stream), none);
    server.assert_frees_everything();
}

#[test]
fn states_before_events_are_wanted_only_where_somebody_asks() {
    let mut server = Server::new();
    let stream = server.welcomed("a");
    let changed = |collection: &str| {
        let mut event = Event::clone(&event(9, collection, "a", 1));
        event.previous = Previous::At(3);
        event
    };
    server.subscribe(
        stream,
        want("plain", "rooms").filter("n", "<", Kind::IntValue(1)),
    );
    server.subscribe(stream, want("all", "rooms").left());
    assert!(
        !server.hub.wants_previous(&changed("rooms")),
        "nothing can leave"
    );
    let below = want("left", "rooms").filter("n", "<", Kind::IntValue(1));
    server.subscribe(stream, below.left());
    assert!(server.hub.wants_previous(&changed("rooms")));
    assert!(!server.hub.wants_previous(&changed("halls")));
    assert!(
        !server.hub.wants_previous(&event(9, "rooms", "a", 1)),
        "nothing to read"
    );
    let other = want("other", "rooms").filter("n", "<", Kind::IntValue(1));
    server.subscribe(stream, other.left());
    server.unsubscribe(stream, "left", 9);
    assert!(server.hub.wants_previous(&changed("rooms")), "one is left");
    server.unsubscribe(stream, "other", 10);
    assert!(!server.hub.wants_previous(&changed("rooms")));
    server.assert_frees_everything();
}

#[test]
fn states_before_events_count_in_limits_of_memory() {
    let mut server = Server::with(Limits {
        unmatched_bytes: 4_000,
        tail_bytes: 4_000,
        ..Limits::default()
    });
    let stream = server.welcomed("a");
    server.subscribe(stream, want("all", "rooms"));
    let mut before = Event::clone(&event(1, "rooms", "a", 1));
    before.data = Bytes::from(vec![b' '; 1_500]);
    let before = Arc::new(before);
    let events = (1..=10).map(|offset| {
        let mut event = Event::clone(&event(offset, "rooms", "a", 1));
        event.previous = Previous::Read(Arc::clone(&before));
        Arc::new(event)
    });
    let events: Vec<_> = events.collect();
    assert!(events.iter().map(|event| event.weight()).sum::<usize>() < 1_000);
    server.log.extend(events.iter().map(Arc::clone));
    server.step(Input::Committed { events });
    assert_eq!(server.hub.stats().counters.overloads, 1);
    assert!(
        !server.hub.cx.log.has_recent_after(7),
        "more than two are kept"
    );
    server.run_until_idle();
    assert_eq!(server.delivered(stream).len(), 10);
    assert_eq!(server.hub.matching.bytes(), 0);
    server.assert_frees_everything();
}

#[test]
fn a_change_costs_the_windows_that_it_enters_or_leaves() {
    const WINDOWS: u32 = 200;
    let mut server = Server::new();
    server.audited = false;
    let stream = server.welcomed("a");
    for n in 0..=WINDOWS {
        server.commit("rooms", &format!("r{n}"), n.into());
    }
    // The bound of each is another document.
    for limit in 1..=WINDOWS {
        let window = Window {
            field: "n".to_owned(),
            limit,
            ..Window::default()
        };
        let wanted = want(&format!("w{limit}"), "rooms").snapshot(Bytes::new());
        server.send_subscribe(stream, wanted.window(window));
    }
    server.run_until_idle();
    server.take(stream);
    let last = i64::from(WINDOWS);
    for (document, n, expected) in [
        // Beyond all bounds before and after.
        ("r200", Some(last + 5), (0, 0)),
        ("new", Some(last + 6), (0, 0)),
        // Within those of the last ten, and then moved within them.
        ("new", Some(last - 10), (10, 0)),
        ("r199", Some(last - 11), (10, 0)),
        // Out of the last five, and then gone from the rest.
        ("r195", Some(last + 7), (0, 5)),
        ("new", None, (0, 10)),
        ("new", None, (0, 0)),
    ] {
        let before = server.hub.stats().counters;
        match n {
            Some(n) => server.commit("rooms", document, n),
            None => server.commit_delete("rooms", document),
        };
        server.run_until_idle();
        server.take(stream);
        let after = server.hub.stats().counters;
        let left = after.left - before.left;
        let told = after.delivered_ids - before.delivered_ids;
        assert_eq!((told - left, left), expected, "{document} {n:?}");
        assert_eq!(after.matched - before.matched, told, "{document} {n:?}");
        let cost = after.match_cost - before.match_cost;
        assert!(cost < 20 + 2 * told, "{document} {n:?}: {cost}");
    }
    server.assert_frees_everything();
}

#[test]
fn a_change_costs_the_live_sets_that_it_touches() {
    const SETS: i64 = 10_000;
    let mut server = Server::new();
    server.audited = false;
    let stream = server.welcomed("a");
    server.commit("rooms", "r", 0);
    for n in 0..SETS {
        let set = want(&format!("s{n}"), "rooms").filter("n", "==", Kind::IntValue(n));
        server.send_subscribe(stream, set.snapshot(Bytes::new()));
    }
    server.run_until_idle();
    server.take(stream);
    let before = server.hub.stats().counters;
    for n in 1..=100 {
        server.commit("rooms", "r", n);
        let touched = take_effects(&mut server, stream);
        assert_eq!(touched, ["r changed by 1", "r left by 1"]);
    }
    let after = server.hub.stats().counters;
    assert_eq!(
        (
            after.left - before.left,
            after.deliveries - before.deliveries
        ),
        (100, 200)
    );
    let cost = after.match_cost - before.match_cost;
    assert!(cost < 100 * 16, "{cost}");
}
