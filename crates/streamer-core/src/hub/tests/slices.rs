//! Matching in slices: counted in budget, never in time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use steadfast_wire::streamer::{Window, streamer_message::Payload, value::Kind};

use super::server::*;
use crate::{
    Previous,
    hub::{
        event_match::{EventMatch, MAX_IDS},
        window_index::{COST_PER_ORDER, WindowSearch},
        *,
    },
    matcher::CostProfile,
};

const FILTERS: u32 = 20_000;
const BURST: u64 = 4_000;

/// Commits without an audit or a step per event, as one burst.
pub(super) fn burst(server: &mut Server, collection: &str, n: i64, count: u64) {
    let head = server.log.len() as u64;
    let events: Vec<_> = (1..=count)
        .map(|step| event(head + step, collection, "d", n))
        .collect();
    server.log.extend(events.iter().map(Arc::clone));
    server.step(Input::Committed { events });
}

/// Returns a server with one stream of `FILTERS` subscriptions `n > i` in `heavy`, and one stream
/// that subscribes `light`.
fn server_with_heavy_filters() -> (Server, StreamId, StreamId) {
    let mut server = Server::new();
    server.audited = false;
    let (heavy, light) = (server.welcomed("heavy"), server.welcomed("light"));
    for i in 0..FILTERS {
        let wanted =
            want(&format!("sub-{i}"), "heavy").filter("n", ">", Kind::IntValue(i64::from(i)));
        server.send_subscribe(heavy, wanted);
    }
    server.subscribe(light, want("light", "light"));
    server.take(heavy);
    server.transport_takes_all(heavy);
    (server, heavy, light)
}

#[test]
fn burst_on_heavy_filters_delays_light_event_by_one_slice() {
    let (mut server, heavy, light) = server_with_heavy_filters();
    burst(&mut server, "heavy", i64::from(FILTERS / 2), BURST);
    let mut ids = BTreeMap::new();
    for round in 0..100 {
        let before = server.hub.stats().counters;
        let offset = server.commit("light", "d", 1);
        assert_eq!(server.offsets(light), [offset], "in the next slice");
        // Neither an ack nor a subscription needs a slice.
        server.heartbeat(light, round);
        assert!(server.subscribe(light, want("other", "other")).success);
        server.step(Input::Tick);
        let after = server.hub.stats().counters;
        assert_eq!(after.slices - before.slices, 2, "one per step");
        let cost = after.match_cost - before.match_cost;
        assert!(cost <= 4 * server.hub.limits().slice, "slices of {cost}");
        for (offset, delivered) in server.delivered(heavy) {
            assert!(
                delivered.len() <= MAX_IDS,
                "{} ids at once",
                delivered.len()
            );
            let newest = ids.last_key_value().map_or(1, |(newest, _)| *newest);
            assert!(
                (newest..=newest + 1).contains(&offset),
                "in the order of the log"
            );
            let all: &mut BTreeSet<String> = ids.entry(offset).or_default();
            for id in delivered {
                assert!(all.insert(id), "an id twice");
            }
        }
        server.transport_takes_all(light);
        server.transport_takes_all(heavy);
    }
    ids.pop_last();
    let expected = ids.len() as u64 + 1;
    assert!(expected > 50, "{expected} events in 200 slices");
    for (offset, ids) in ids {
        assert_eq!(ids.len(), FILTERS as usize / 2, "at {offset}");
    }
    let unmatched = server.hub.stats().gauges.unmatched as u64;
    assert!(
        (BURST - expected..=BURST - expected + 1).contains(&unmatched),
        "{unmatched} events are left"
    );
}

#[test]
fn catch_up_on_heavy_filters_is_sliced_too() {
    let log = (1..=20)
        .map(|offset| event(offset, "heavy", "d", 10))
        .collect();
    let mut server = Server::with_log(log, Limits::default());
    server.audited = false;
    let (heavy, light) = (server.welcomed("heavy"), server.welcomed("light"));
    server.subscribe(light, want("light", "light"));
    for i in 0..FILTERS {
        let wanted =
            want(&format!("sub-{i}"), "heavy").filter("n", "!=", Kind::IntValue(i64::from(i)));
        server.send_subscribe(heavy, wanted.after(0));
    }
    server.transport_takes_all(heavy);
    while server.hub.stats().gauges.behind > 0 {
        let before = server.hub.stats().counters.match_cost;
        if server.hub.matching.is_empty() {
            server.complete_read(0);
        } else {
            server.step(Input::Tick);
        }
        let cost = server.hub.stats().counters.match_cost - before;
        let bound = server.hub.limits().slice + 2 * MAX_IDS as u64;
        assert!(cost <= bound, "a slice of {cost}");
        let offset = server.commit("light", "d", 1);
        assert_eq!(server.offsets(light), [offset]);
        server.transport_takes_all(light);
        server.transport_takes_all(heavy);
    }
    let received: usize = server
        .take(heavy)
        .into_iter()
        .map(|payload| match payload {
            Payload::Delivery(delivery) => delivery.subscription_ids.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(received, 20 * (FILTERS as usize - 1));
}

#[test]
fn catch_up_of_few_searches_a_long_list_once() {
    const TAGS: u64 = 20_000;
    const FEW: usize = 60;
    let tags: Vec<_> = (0..TAGS).map(|tag| format!("\"t{tag}\"")).collect();
    let data = Bytes::from(format!("{{\"tags\":[{}]}}", tags.join(",")));
    let with_tags = |offset| {
        let mut event = event(offset, "heavy", "d", 1);
        Arc::make_mut(&mut event).data = data.clone();
        event
    };
    let log = (1..=3).map(with_tags).collect();
    let mut server = Server::with_log(log, Limits::default());
    let stream = server.welcomed("heavy");
    for i in 0..FEW {
        let last = Kind::StringValue(format!("t{}", TAGS - 1));
        let wanted = want(&format!("sub-{i}"), "heavy").filter("tags", "contains", last);
        server.send_subscribe(stream, wanted.after(0));
    }
    server.transport_takes_all(stream);
    let before = server.hub.stats().counters.match_cost;
    while server.hub.stats().gauges.behind > 0 {
        if server.hub.matching.is_empty() {
            server.complete_read(0);
        } else {
            server.step(Input::Tick);
        }
        server.transport_takes_all(stream);
    }
    // Each element is counted, so that an event takes all of a slice that is for pages: half of it.
    let cost = server.hub.stats().counters.match_cost - before;
    assert_eq!(cost, 3 * (server.hub.limits().slice / 2));
    let received = server
        .take(stream)
        .into_iter()
        .map(|payload| match payload {
            Payload::Delivery(delivery) => delivery.subscription_ids.len(),
            _ => 0,
        });
    assert_eq!(received.sum::<usize>(), 3 * FEW);
}

/// Returns a request for the first document of `rooms` by a field.
fn want_first(id: &str, field: String) -> NewSubscription {
    let window = Window {
        field,
        limit: 1,
        ..Window::default()
    };
    want(id, "rooms").snapshot(Bytes::new()).window(window)
}

#[test]
fn windows_of_many_orders_are_searched_in_slices() {
    const ORDERS: usize = 10_000;
    let mut server = Server::new();
    server.audited = false;
    let (heavy, light) = (server.welcomed("heavy"), server.welcomed("light"));
    server.subscribe(light, want("light", "light"));
    for i in 0..ORDERS {
        server.send_subscribe(heavy, want_first(&format!("w{i}"), format!("f{i}")));
    }
    server.run_until_idle();
    server.take(heavy);

    // The collection is empty, so that each order has one window to be found.
    let windows = server.hub.subscriptions.windows();
    let mut change = Event::clone(&event(1, "rooms", "d", 1));
    change.previous = Previous::Nothing;
    let mut search = WindowSearch::start(&change, windows, &mut 0).expect("a search");
    let (mut found, mut is_done) = (Vec::new(), false);
    while !is_done {
        let before = found.len();
        is_done = search.run(windows, &mut 4_096, &mut found);
        let searched = found.len() - before;
        assert!(searched * COST_PER_ORDER <= 4_096, "{searched} at once");
    }
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), ORDERS);
    assert_eq!(found.len(), ORDERS, "one was found twice");

    server.commit("rooms", "d", 1);
    let mut slices = 1;
    while server.hub.stats().gauges.unmatched > 0 {
        let offset = server.commit("light", "d", 1);
        assert_eq!(server.offsets(light), [offset], "in the next slice");
        server.heartbeat(light, 1);
        server.transport_takes_all(light);
        server.transport_takes_all(heavy);
        slices += 1;
    }
    let least = (ORDERS * COST_PER_ORDER) as u64 / server.hub.limits().slice;
    assert!(slices >= least, "{slices} slices, not {least}");
    let received = server.delivered(heavy).into_iter();
    assert_eq!(received.map(|(_, ids)| ids.len()).sum::<usize>(), ORDERS);
    server.assert_frees_everything();
}

#[test]
fn bound_found_during_a_search_misses_no_change() {
    for grows in [false, true] {
        let mut server = Server::new();
        let stream = server.welcomed("a");
        server.commit("rooms", "r1", 1);
        server.commit("rooms", "r2", 2);
        for field in ["n", "z"] {
            server.send_subscribe(stream, want_first(field, field.to_owned()));
        }
        server.run_until_idle();
        let subscriptions = &mut server.hub.subscriptions;
        let owner = server.hub.streams.get(stream).expect("a stream");
        let window = subscriptions.find_of(owner, "n").expect("a window").key();

        let mut change = Event::clone(&event(3, "rooms", "r3", 3));
        change.previous = Previous::Nothing;
        let mut profile = CostProfile::default();
        let mut budget = 1;
        let mut matching = EventMatch::start(&Arc::new(change), subscriptions, &mut budget);
        let is_done = matching.run(subscriptions, &mut budget, &mut profile);
        assert!(!is_done, "one order of two");
        if grows {
            subscriptions.update_window(window, |window| {
                window.restart();
                window.scanned_to(None);
            });
        }
        budget = 1_000;
        let is_done = matching.run(subscriptions, &mut budget, &mut profile);
        assert!(is_done);
        let found = matching.take_keys();
        assert_eq!(found.contains(&window), grows, "{found:?}");
    }
}

#[test]
fn subscription_in_the_place_of_a_candidate_is_not_its_match() {
    let mut server = Server::new();
    let stream = server.welcomed("a");
    let below = |id: &str, n| want(id, "rooms").filter("n", "<", Kind::IntValue(n));
    // It keeps the collection, to whose subscriptions the search goes on.
    server.subscribe(stream, below("stays", 0));
    for n in 2..12 {
        server.subscribe(stream, below(&format!("s{n}"), n));
    }
    let change = event(1, "rooms", "r1", 1);
    let mut profile = CostProfile::default();
    let mut budget = 1;
    let mut matching = EventMatch::start(&change, &server.hub.subscriptions, &mut budget);
    budget = 1;
    let is_done = matching.run(&server.hub.subscriptions, &mut budget, &mut profile);
    assert!(!is_done, "ten candidates at once");
    for n in 2..12 {
        server.unsubscribe(stream, &format!("s{n}"), 1);
    }
    server.take(stream);
    // None of these matches, and each takes a place that the search still has to visit.
    for n in -12..-2 {
        server.subscribe(stream, below(&format!("t{n}"), n));
    }
    budget = 1_000;
    assert!(matching.run(&server.hub.subscriptions, &mut budget, &mut profile));
    let subscriptions = &server.hub.subscriptions;
    let found = matching.take_keys();
    let later = found
        .iter()
        .filter(|key| subscriptions.get(**key).is_some());
    assert_eq!(later.count(), 0);
}

#[test]
fn progress_never_passes_an_unmatched_event() {
    let limits = Limits {
        slice: 1,
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    let (stream, light) = (server.welcomed("s"), server.welcomed("t"));
    server.subscribe(stream, want("a", "rooms"));
    server.subscribe(stream, want("b", "users"));
    server.subscribe(light, want("c", "users"));
    burst(&mut server, "rooms", 1, 5);
    // The first event was matched by the step of the commit.
    let matched = server.hub.matching.matched(5);
    assert!(matched < 5, "everything was matched at once");
    let delivered = server.offsets(stream);
    assert!(delivered.len() as u64 <= matched + 1, "{delivered:?}");
    let progress = server.heartbeat(stream, 1).progress;
    assert!(progress.is_none_or(|it| it.position.unwrap().offset <= matched));
    let progress = server.heartbeat(light, 1).progress.expect("progress");
    assert_eq!(
        progress.position,
        Some(position(5)),
        "nothing is left for it"
    );
    let late = server.subscribe(light, want("d", "rooms"));
    assert_eq!(late.position, Some(position(5)));
    server.run_until_idle();
    assert_eq!(server.take(light), [], "it began after the burst");
    server.offsets(stream);
    let progress = server.heartbeat(stream, 2);
    assert_eq!(progress.progress.unwrap().position, Some(position(5)));
}

#[test]
fn drain_waits_until_earlier_events_are_matched() {
    let limits = Limits {
        slice: 1,
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    let stream = server.open();
    server.subscribe(stream, want("a", "rooms"));
    server.transport_takes_all(stream);
    burst(&mut server, "rooms", 1, 4);
    server.transport_takes_all(stream);
    let deadline = server.now + seconds(20);
    let reason = "an upgrade".to_owned();
    server.step(Input::Drain { deadline, reason });
    assert_eq!(server.code(stream), None, "events are left for it");
    while server.code(stream).is_none() {
        server.step(Input::Tick);
        server.transport_takes_all(stream);
    }
    assert_eq!(server.offsets(stream), [1, 2, 3, 4]);
    assert!(server.now < deadline);
}

#[test]
fn subscription_made_while_a_page_is_matched_misses_no_event() {
    let limits = Limits {
        slice: 1,
        ..Limits::default()
    };
    let mut partly = 0;
    // After each number of turns, in many of which an event is matched in part.
    for turns in 0.. {
        let mut server = Server::with_log(rooms(2), limits.clone());
        server.audited = false;
        let stream = server.welcomed("s");
        for i in 0..100 {
            let wanted = want(&format!("sub-{i}"), "rooms");
            let wanted = wanted.filter("n", "==", Kind::IntValue(1));
            let wanted = wanted.filter("n", "!=", Kind::IntValue(1 + i));
            server.send_subscribe(stream, wanted.after(0));
        }
        server.transport_takes_all(stream);
        server.complete_read(0);
        for _ in 0..turns {
            server.step(Input::Tick);
        }
        let mut rows = server.take(stream);
        rows.retain(|payload| matches!(payload, Payload::Delivery(_)));
        partly += usize::from(rows.is_empty());
        if server.hub.matching.is_empty() {
            break;
        }
        server.subscribe(stream, want("late", "rooms").after(0));
        server.run_until_idle();
        let late =
            |(offset, ids): (u64, Vec<String>)| ids.contains(&"late".to_owned()).then_some(offset);
        let rows = server.delivered(stream).into_iter();
        let offsets: Vec<_> = rows.filter_map(late).collect();
        assert_eq!(offsets, [1, 2], "after {turns} turns");
        assert_eq!(server.hub.stats().gauges.behind, 0);
    }
    assert!(partly > 5, "matched at once");
}

#[test]
fn credit_between_the_parts_of_an_event_loses_nothing() {
    const MANY: usize = 5 * MAX_IDS;
    let limits = Limits {
        slice: 4_000,
        tail_events: 1,
        ..Limits::default()
    };
    let mut server = Server::with_log(rooms(3), limits);
    server.audited = false;
    let stream = server.welcomed("s");
    server.send_subscribe(stream, want("poor", "rooms").after(0).credit(0, 1_000));
    for i in 0..MANY {
        server.send_subscribe(stream, want(&format!("sub-{i}"), "rooms").after(0));
    }
    server.take(stream);
    server.transport_takes_all(stream);
    let mut received = BTreeMap::<String, Vec<u64>>::new();
    let mut parts = 0;
    for round in 0.. {
        if !server.hub.matching.is_empty() {
            server.step(Input::Tick);
        } else if !server.reads.is_empty() {
            server.complete_read(0);
        } else {
            break;
        }
        // The page began without it, and its first event is delivered in part.
        if (1..5).contains(&parts) {
            server.credit(stream, "poor", 10, 1_000);
            server.send_subscribe(stream, want(&format!("late-{round}"), "rooms").after(0));
        }
        assert!(round < 1_000, "it never ends");
        server.transport_takes_all(stream);
        let mut messages = server.take(stream);
        messages.retain(|payload| matches!(payload, Payload::Delivery(_)));
        server.put_back(stream, messages);
        for (offset, ids) in server.delivered(stream) {
            parts += usize::from(offset == 1);
            for id in ids {
                received.entry(id).or_default().push(offset);
            }
        }
    }
    assert!(parts > 5, "{parts} parts");
    let late = received.keys().filter(|id| id.starts_with("late")).count();
    assert!(late > 1, "{late} were made between the parts");
    assert_eq!(received.len(), MANY + 1 + late);
    for (id, offsets) in received {
        assert_eq!(offsets, [1, 2, 3], "{id}");
    }
    server.hub.audit();
}

#[test]
fn loss_at_the_source_is_told_in_slices() {
    const MANY: usize = 20_000;
    let mut server = Server::new();
    server.audited = false;
    let (many, light) = (server.welcomed("many"), server.welcomed("light"));
    for i in 0..MANY {
        server.send_subscribe(many, want(&format!("sub-{i}"), "rooms"));
    }
    server.subscribe(light, want("light", "rooms"));
    server.take(many);
    server.transport_takes_all(many);
    burst(&mut server, "other", 1, 5);
    server.step(Input::Lost { before: 4 });
    let progress = server.heartbeat(light, 0).progress.expect("progress");
    assert_eq!(
        progress.position,
        Some(position(3)),
        "what is before the loss"
    );
    let mut told = BTreeMap::new();
    let mut slices = 1;
    loop {
        for payload in server.take(many) {
            let Payload::SubscribeResponse(response) = payload else {
                panic!("{payload:?} before all are told");
            };
            let at = response.position.expect("a position").offset;
            assert!(response.resync.is_some(), "{response:?}");
            let before = told.insert(response.subscription_id, at);
            assert_eq!(before, None, "told twice");
        }
        server.transport_takes_all(many);
        if told.len() == MANY {
            break;
        }
        // Neither an ack nor a subscription waits, and no progress hides the loss.
        let progress = server.heartbeat(light, slices).progress;
        assert!(progress.is_none_or(|it| it.position == Some(position(3))));
        let late = server.subscribe(light, want(&format!("late-{slices}"), "rooms"));
        assert!(late.success && late.resync.is_none());
        let before = server.hub.stats().counters.match_cost;
        server.commit("rooms", "r1", 1);
        let cost = server.hub.stats().counters.match_cost - before;
        assert!(cost <= server.hub.limits().slice, "a slice of {cost}");
        slices += 1;
    }
    assert!(slices >= 5, "{MANY} were told in {slices} slices");
    let head = server.log.len() as u64;
    assert_eq!(told.values().max(), Some(&head));
    let resyncs = server.take(light).into_iter().map(|payload| match payload {
        Payload::SubscribeResponse(response) => response.subscription_id,
        other => panic!("{other:?} before the loss was told"),
    });
    assert_eq!(resyncs.collect::<Vec<_>>(), ["light"]);
    server.run_until_idle();
    server.take(many);
    let mut received = BTreeMap::<_, Vec<_>>::new();
    for (offset, ids) in server.delivered(light) {
        for id in ids {
            received.entry(id).or_default().push(offset);
        }
    }
    assert_eq!(received.remove("light"), None, "the loss covers all events");
    let late: Vec<_> = received.into_values().map(|offsets| offsets[0]).collect();
    assert_eq!(late, (6..=head).collect::<Vec<_>>(), "nothing is missing");
}
