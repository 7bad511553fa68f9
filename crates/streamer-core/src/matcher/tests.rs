//! The matcher: what it finds, what it looks at, and that it agrees with the naive reading.

mod properties;
mod reading;

use serde_json::{Value as Json, json};
use steadfast_wire::streamer::{self as wire, value::Kind};

use super::*;
use crate::filter::{
    Number,
    tests::{event, event_of, list, message, parse, text},
};

fn subscribe(matcher: &mut Matcher, key: u64, filters: &[wire::Filter]) {
    matcher.insert(
        SubscriptionKey(key),
        "default",
        "users",
        &parse(filters).unwrap(),
    );
}

fn matched(matcher: &Matcher, event: &Event) -> Vec<u64> {
    let mut out = Vec::new();
    matcher.matches(event, &mut out).unwrap();
    out.into_iter().map(|key| key.0).collect()
}

/// The groups that would be evaluated for a document.
fn candidates(matcher: &Matcher, fields: &Json) -> usize {
    matcher.start(&event(fields)).candidates()
}

fn users(matcher: &Matcher) -> &Collection {
    &matcher.collections[matcher.names["default"]["users"]]
}

#[test]
fn subscriptions_come_by_kind_and_then_as_registered() {
    let mut matcher = Matcher::new(7);
    subscribe(&mut matcher, 1, &[message("n", ">", Kind::IntValue(0))]);
    subscribe(&mut matcher, 2, &[]);
    subscribe(&mut matcher, 3, &[message("_id", "==", text("u1"))]);
    subscribe(&mut matcher, 4, &[message("n", "==", Kind::IntValue(1))]);
    subscribe(&mut matcher, 5, &[message("_id", "eq", text("u1"))]);
    subscribe(
        &mut matcher,
        6,
        &[message("n", "gt", Kind::DoubleValue(0.0))],
    );
    subscribe(&mut matcher, 7, &[]);
    subscribe(&mut matcher, 8, &[message("_id", "==", text("u2"))]);
    assert_eq!(
        matched(&matcher, &event(&json!({"n": 1}))),
        [3, 5, 2, 7, 1, 4, 6]
    );
}

#[test]
fn only_the_exact_database_and_collection_match() {
    let mut matcher = Matcher::new(7);
    for (key, database, collection) in [
        (1, "default", "users"),
        (2, "Default", "users"),
        (3, "default", "users/u1/posts"),
        (4, "default", ""),
        (5, "", "users"),
    ] {
        matcher.insert(SubscriptionKey(key), database, collection, &Filter::all());
    }
    assert_eq!(matched(&matcher, &event(&json!({}))), [1]);
}

#[test]
fn a_subscription_under_a_known_key_replaces_it() {
    let mut matcher = Matcher::new(7);
    subscribe(&mut matcher, 1, &[]);
    subscribe(&mut matcher, 2, &[]);
    subscribe(&mut matcher, 1, &[message("n", "==", Kind::IntValue(1))]);
    assert_eq!(matcher.len(), 2);
    assert_eq!(matched(&matcher, &event(&json!({"n": 1}))), [2, 1]);
    assert_eq!(matched(&matcher, &event(&json!({"n": 2}))), [2]);
}

#[test]
fn removing_returns_whether_it_was_there() {
    let mut matcher = Matcher::new(7);
    subscribe(
        &mut matcher,
        1,
        &[message("n", "in", list([Kind::IntValue(1), text("a")]))],
    );
    subscribe(&mut matcher, 2, &[message("_id", "==", text("u1"))]);
    subscribe(&mut matcher, 3, &[message("n", ">", Kind::IntValue(1))]);
    subscribe(&mut matcher, 4, &[]);
    for key in 1..=4 {
        assert!(matcher.remove(SubscriptionKey(key)));
        assert!(!matcher.remove(SubscriptionKey(key)));
    }
    assert!(matcher.is_empty());
    assert!(matcher.names.is_empty() && matcher.collections.is_empty());
}

#[test]
fn dropped_filter_leaves_one_on_a_look_alike_value() {
    let alike = [
        (Kind::BoolValue(true), json!(true)),
        (Kind::IntValue(1), json!(1)),
        (text("1"), json!("1")),
        (text("true"), json!("true")),
    ];
    for (dropped, (value, _)) in alike.iter().enumerate() {
        let mut matcher = Matcher::new(7);
        for (key, (value, _)) in (0..).zip(&alike) {
            subscribe(&mut matcher, key, &[message("f", "==", value.clone())]);
        }
        assert!(matcher.remove(SubscriptionKey(dropped as u64)));
        for (key, (_, field)) in alike.iter().enumerate() {
            let expected: &[u64] = if key == dropped { &[] } else { &[key as u64] };
            assert_eq!(
                matched(&matcher, &event(&json!({ "f": field }))),
                expected,
                "{field} after {value:?} was dropped"
            );
        }
    }
}

#[test]
fn equal_filters_share_one_group() {
    let mut matcher = Matcher::new(7);
    let n = |kind| message("n", "==", kind);
    let tag = |kinds: [Kind; 2]| message("tag", "in", list(kinds));
    let (one, a, b) = (Kind::IntValue(1), text("a"), text("b"));
    subscribe(
        &mut matcher,
        1,
        &[n(one.clone()), tag([a.clone(), b.clone()])],
    );
    subscribe(
        &mut matcher,
        2,
        &[tag([b.clone(), a.clone()]), n(Kind::DoubleValue(1.0))],
    );
    subscribe(&mut matcher, 3, &[n(one.clone()), n(one), tag([a, b])]);
    assert_eq!(users(&matcher).groups.len(), 1);
    assert_eq!(
        matched(&matcher, &event(&json!({"n": 1, "tag": "b"}))),
        [1, 2, 3]
    );
    assert!(
        matcher.remove(SubscriptionKey(1)),
        "the one whose filter the group was made of"
    );
    assert_eq!(
        matched(&matcher, &event(&json!({"n": 1, "tag": "b"}))),
        [2, 3]
    );
}

#[test]
fn filter_of_a_subscription_is_looked_up_in_any_form() {
    let mut matcher = Matcher::new(7);
    let (a, b) = (
        message("n.a", "==", Kind::IntValue(1)),
        message("tag", "in", list([text("a"), text("b")])),
    );
    let document = [message("id", "==", text("1"))];
    subscribe(&mut matcher, 1, &[a.clone(), b.clone()]);
    subscribe(&mut matcher, 2, &document);
    subscribe(&mut matcher, 3, &[]);
    subscribe(&mut matcher, 4, std::slice::from_ref(&b));
    let has = |key, filters: &[wire::Filter]| {
        let filter = parse(filters).unwrap();
        matcher.has_filter(SubscriptionKey(key), ("default", "users"), &filter)
    };
    let reordered = message("tag", "in", list([text("b"), text("a"), text("b")]));
    let same = message("n.a", "==", Kind::DoubleValue(1.0));
    assert!(has(1, &[reordered.clone(), same.clone(), a.clone()]));
    assert!(has(2, &document));
    assert!(has(3, &[]));
    assert!(has(4, &[reordered]));
    for (key, filters) in [
        // That of another subscription.
        (1, &[b.clone()][..]),
        (3, &document),
        (2, &[]),
        (4, &[same]),
        // Of nobody: another document, a field that only leads to another one, an unknown field.
        (2, &[message("id", "==", text("2"))]),
        (1, &[message("n", "==", Kind::IntValue(1)), b.clone()]),
        (1, &[message("n.a.c", "==", Kind::IntValue(1)), b.clone()]),
        (1, &[message("other", "==", Kind::IntValue(1)), b]),
        // An unknown subscription.
        (5, &[]),
    ] {
        assert!(!has(key, filters), "{key} {filters:?}");
    }
    let elsewhere = [("default", "rooms"), ("other", "users")];
    for name in elsewhere {
        let filter = parse(&[]).unwrap();
        assert!(!matcher.has_filter(SubscriptionKey(3), name, &filter));
    }
}

#[test]
fn different_filters_have_different_groups() {
    let mut matcher = Matcher::new(7);
    let several = [
        vec![message("a", "==", text("b"))],
        vec![message("a", "!=", text("b"))],
        vec![message("ab", "==", text(""))],
        vec![message("", "==", text("ab"))],
        vec![message("a", "==", Kind::IntValue(1))],
        vec![message("a", "==", Kind::DoubleValue(1.5))],
        vec![message("a", "==", Kind::BoolValue(true))],
        vec![message("a", "==", Kind::BoolValue(false))],
        vec![message("a", "==", list([text("a"), text("b")]))],
        vec![message("a", "==", list([text("b"), text("a")]))],
        vec![message("a", "==", list([list([text("a")]), text("b")]))],
        vec![message("a", "==", list([list([text("a"), text("b")])]))],
        vec![message("a", "in", list([text("ab")]))],
        vec![message("a", "in", list([text("a"), text("b")]))],
        vec![message("a", "==", text("x")), message("b", "==", text("y"))],
        vec![message("a", "==", text("xb\0sy"))],
        vec![message("a", ">", text("a")), message("a", "<", text("b"))],
    ];
    for (key, filters) in (1..).zip(&several) {
        subscribe(&mut matcher, key, filters);
    }
    assert_eq!(users(&matcher).groups.len(), several.len());
}

#[test]
fn filters_on_other_values_are_not_evaluated() {
    let mut matcher = Matcher::new(7);
    for key in 1..=1_000_i64 {
        let filters = [
            message("n", "==", Kind::IntValue(key)),
            message("x", ">", Kind::IntValue(0)),
        ];
        subscribe(&mut matcher, key.unsigned_abs(), &filters);
    }
    subscribe(
        &mut matcher,
        2_000,
        &[message("tag", "in", list([text("a"), text("b")]))],
    );
    subscribe(&mut matcher, 2_001, &[message("x", ">", Kind::IntValue(0))]);
    assert_eq!(candidates(&matcher, &json!({"n": 7.0, "x": 1})), 2);
    assert_eq!(candidates(&matcher, &json!({"n": "7", "tag": "b"})), 1);
    assert_eq!(candidates(&matcher, &json!({"tag": ["b"]})), 0);
    assert_eq!(
        matched(&matcher, &event(&json!({"n": 7.0, "x": 1}))),
        [7, 2_001]
    );
}

#[test]
fn a_long_in_is_evaluated_and_still_right() {
    let mut matcher = Matcher::new(7);
    let many = list((0..500).map(Kind::IntValue));
    subscribe(&mut matcher, 1, &[message("n", "in", many)]);
    assert_eq!(matched(&matcher, &event(&json!({"n": 499}))), [1]);
    assert!(matched(&matcher, &event(&json!({"n": 500}))).is_empty());
    assert_eq!(
        candidates(&matcher, &json!({"n": -1})),
        1,
        "it is not listed under its values"
    );
}

#[test]
fn filters_with_lists_for_values_are_found() {
    let mut matcher = Matcher::new(7);
    let pair = || list([Kind::IntValue(1), text("a")]);
    subscribe(
        &mut matcher,
        1,
        &[message("x", "in", list([Kind::IntValue(1), pair()]))],
    );
    subscribe(&mut matcher, 2, &[message("x", "==", pair())]);
    subscribe(&mut matcher, 3, &[message("x", "contains", pair())]);
    assert_eq!(matched(&matcher, &event(&json!({"x": [1, "a"]}))), [1, 2]);
    assert_eq!(matched(&matcher, &event(&json!({"x": [[1, "a"]]}))), [3]);
    assert_eq!(matched(&matcher, &event(&json!({"x": 1.0}))), [1]);
}

#[test]
fn the_last_subscription_of_a_filter_removes_its_group() {
    let mut matcher = Matcher::new(7);
    let filters = [
        vec![message("n", "==", Kind::IntValue(1))],
        vec![message("n", "==", Kind::DoubleValue(1.5))],
        vec![message("n", "in", list([text("a"), Kind::BoolValue(true)]))],
        vec![message("n", ">", Kind::IntValue(0))],
        vec![message("n", "<", text("b")), message("n", ">", text("a"))],
        vec![message("a.b", "!=", Kind::IntValue(0))],
        vec![message("a.b.c", "contains", text("x"))],
    ];
    subscribe(&mut matcher, 100, &[message("_id", "==", text("u1"))]);
    for (key, filters) in (1..).zip(&filters) {
        subscribe(&mut matcher, key, filters);
    }
    for key in (1..).take(filters.len()) {
        matcher.remove(SubscriptionKey(key));
    }
    assert!(users(&matcher).has_no_groups());
}

#[test]
fn damaged_data_still_reaches_unfiltered_subscriptions() {
    let mut matcher = Matcher::new(7);
    subscribe(&mut matcher, 1, &[]);
    subscribe(&mut matcher, 2, &[message("_id", "==", text("u1"))]);
    let damaged = event_of("u1", "{");
    assert_eq!(
        matched(&matcher, &damaged),
        [2, 1],
        "there is no filter to evaluate"
    );
    subscribe(&mut matcher, 3, &[message("n", "==", Kind::IntValue(1))]);
    let mut out = Vec::new();
    assert!(matcher.matches(&damaged, &mut out).is_err());
    assert_eq!(out, [SubscriptionKey(2), SubscriptionKey(1)]);
}

#[test]
fn matches_are_appended() {
    let mut matcher = Matcher::new(7);
    subscribe(&mut matcher, 1, &[message("n", ">", Kind::IntValue(0))]);
    let mut out = vec![SubscriptionKey(9)];
    matcher.matches(&event(&json!({"n": 1})), &mut out).unwrap();
    assert_eq!(out, [SubscriptionKey(9), SubscriptionKey(1)]);
}

#[test]
fn the_shorter_posting_is_chosen_whatever_comes_first() {
    let mut matcher = Matcher::new(7);
    for key in 1..=1_000_i64 {
        let mut filters = [
            message("kind", "==", text("same")),
            message("n", "==", Kind::IntValue(key)),
        ];
        if key % 2 == 0 {
            filters.reverse();
        }
        subscribe(&mut matcher, key.unsigned_abs(), &filters);
    }
    let event = json!({"kind": "same", "n": 7});
    assert!(candidates(&matcher, &event) <= 2);
}

#[test]
fn ranges_are_found_through_their_ends() {
    let mut matcher = Matcher::new(7);
    let mut key = 0;
    for low in 0..1_000_i64 {
        for (from, to) in [(low, low + 2), (low - 500, low - 499)] {
            key += 1;
            let filters = [
                message("n", ">=", Kind::IntValue(from)),
                message("n", "<", Kind::IntValue(to)),
            ];
            subscribe(&mut matcher, key, &filters);
        }
    }
    // Two of the first kind and one of the second, and those whose end is the value itself.
    assert!(candidates(&matcher, &json!({"n": 100})) <= 6);
    assert_eq!(matched(&matcher, &event(&json!({"n": 100}))).len(), 3);
    assert_eq!(matched(&matcher, &event(&json!({"n": 100.5}))).len(), 3);
    assert_eq!(matched(&matcher, &event(&json!({"n": "100"}))).len(), 0);
}

#[test]
fn values_that_share_a_key_are_told_apart_in_ranges() {
    let big = (1_i64 << 53) + 1;
    let number = |n: i64| (Kind::IntValue(n), json!(n));
    let string = |s: &str| (text(s), json!(s));
    // Beyond a double, and with eight equal bytes at their beginning.
    for values in [
        [big - 1, big, big + 1].map(number),
        ["prefix-8-a", "prefix-8-b", "prefix-8-c"].map(string),
    ] {
        let mut matcher = Matcher::new(7);
        for (key, op) in (1..).zip([">", ">=", "<"]) {
            subscribe(&mut matcher, key, &[message("n", op, values[1].0.clone())]);
        }
        for ((_, value), expected) in values.iter().zip([&[3][..], &[2], &[1, 2]]) {
            assert_eq!(matched(&matcher, &event(&json!({ "n": value }))), expected);
        }
    }
}

#[test]
fn a_long_list_is_hashed_once_for_many_conditions() {
    let mut matcher = Matcher::new(7);
    let conditions: Vec<_> = (0..63)
        .map(|n| message("tags", "contains", Kind::IntValue(n)))
        .collect();
    for key in 1..=60 {
        let mut filters = conditions.clone();
        filters[0] = message("tags", "contains", Kind::IntValue(-i64::from(key as u8)));
        subscribe(&mut matcher, key, &filters);
    }
    let elements: Vec<i64> = (-60..170_000).collect();
    let event = event(&json!({ "tags": elements }));
    assert!(event.data.len() > 1_000_000);
    let mut matching = matcher.start(&event);
    let (mut budget, mut out) = (u64::MAX, Vec::new());
    assert!(matching.run(&matcher, &mut budget, &mut CostProfile::default(), &mut out));
    assert_eq!(out.len(), 60);
    let used = u64::MAX - budget;
    // Comparing each element with each value would be 643 million.
    assert!(used < 170_060 + 60 * 70, "used {used}");
}

#[test]
fn a_slice_stops_at_its_budget_and_the_next_goes_on() {
    let mut matcher = Matcher::new(7);
    for key in 1..=1_000_u64 {
        let filters = [
            message("n", ">", Kind::IntValue(0)),
            message("m", "!=", Kind::IntValue(-key.cast_signed())),
        ];
        subscribe(&mut matcher, key, &filters);
    }
    let mut matching = matcher.start(&event(&json!({"n": 1, "m": 1})));
    let (mut slices, mut out) = (0, Vec::new());
    loop {
        slices += 1;
        let before = out.len();
        let done = matching.run(&matcher, &mut 90, &mut CostProfile::default(), &mut out);
        assert!(
            out.len() - before <= 31,
            "three for each: it and two conditions"
        );
        if done {
            break;
        }
    }
    assert_eq!(out.len(), 1_000);
    assert!((33..=40).contains(&slices), "{slices}");
}

/// Two numbers that have one hash as values of the first field of a matcher with the seed 7.
fn colliding(kind: condition::Kind) -> (i64, i64) {
    let mut matcher = Matcher::new(7);
    subscribe(&mut matcher, 1, &[message("x", "==", Kind::IntValue(0))]);
    let hasher = &users(&matcher).hasher;
    let mut known = HashMap::new();
    (0..)
        .find_map(|number: i64| {
            let scalar = condition::Scalar::Number(Number::Whole(number.into()));
            let hash = scalar.hash(ids::FieldId::new(1), kind, hasher);
            known.insert(hash, number).map(|other| (other, number))
        })
        .unwrap()
}

#[test]
fn values_of_one_hash_are_told_apart() {
    for (kind, op, any, wrap) in [
        (condition::Kind::Equals, "==", "in", false),
        (condition::Kind::Contains, "contains", "in", true),
    ] {
        let (a, b) = colliding(kind);
        let value = |number: i64| if wrap { json!([number]) } else { json!(number) };
        let one = |number: i64| [message("x", op, Kind::IntValue(number))];
        let both = [message(
            "x",
            any,
            list([Kind::IntValue(a), Kind::IntValue(b)]),
        )];
        // Each order of arrival: the first group of a posting is not always the same.
        for order in [[1, 2, 3], [2, 1, 3], [2, 3, 1], [3, 2, 1]] {
            let mut matcher = Matcher::new(7);
            // Keeps the field's id the first.
            subscribe(&mut matcher, 9, &one(-1));
            let before = users(&matcher).postings.hashes();
            for key in order {
                match key {
                    1 => subscribe(&mut matcher, 1, &one(a)),
                    2 if wrap => subscribe(&mut matcher, 2, &one(b)),
                    2 => subscribe(&mut matcher, 2, &both),
                    _ => subscribe(&mut matcher, 3, &one(b)),
                }
            }
            assert_eq!(users(&matcher).postings.hashes(), before + 1, "{op}");
            let of = |matcher: &Matcher, number| {
                let mut keys = matched(matcher, &event(&json!({ "x": value(number) })));
                keys.sort_unstable();
                keys
            };
            let with_a: &[u64] = if wrap { &[1] } else { &[1, 2] };
            assert_eq!(of(&matcher, a), with_a, "{op} {order:?}");
            assert_eq!(of(&matcher, b), [2, 3], "{op} {order:?}");
            matcher.remove(SubscriptionKey(order[0] as u64));
            for key in [1, 2, 3] {
                let found = of(&matcher, if key == 1 { a } else { b }).contains(&key);
                assert_eq!(found, key != order[0] as u64, "{op} {order:?} {key}");
            }
            for key in order {
                matcher.remove(SubscriptionKey(key as u64));
            }
            assert_eq!(users(&matcher).postings.hashes(), before, "{op}");
        }
    }
}
