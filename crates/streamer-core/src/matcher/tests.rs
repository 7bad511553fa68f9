use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value as Json, json};
use steadfast_wire::streamer::{self as wire, value::Kind};

use super::*;
use crate::filter::tests::{
    event, event_of, list, message, naive, parse,
    properties::{any_fields, any_filters},
    text,
};

fn subscribe(matcher: &mut Matcher, key: u64, filters: &[wire::Filter]) {
    matcher.insert(
        SubscriptionKey(key),
        "default",
        "users",
        parse(filters).unwrap(),
    );
}

fn matched(matcher: &Matcher, event: &Event) -> Vec<u64> {
    let mut out = Vec::new();
    matcher.matches(event, &mut out).unwrap();
    out.into_iter().map(|key| key.0).collect()
}

/// The groups that would be evaluated for a document.
fn candidates(matcher: &Matcher, fields: &Json) -> usize {
    let mut out = Vec::new();
    let event = event(fields);
    let index = &matcher.databases["default"]["users"].index;
    index.candidates(&Document::of(&event), &mut out).unwrap();
    out.len()
}

#[test]
fn subscriptions_come_by_kind_and_then_as_registered() {
    let mut matcher = Matcher::new();
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
fn only_the_exact_database_and_collection_are_concerned() {
    let mut matcher = Matcher::new();
    for (key, database, collection) in [
        (1, "default", "users"),
        (2, "Default", "users"),
        (3, "default", "users/u1/posts"),
        (4, "default", ""),
        (5, "", "users"),
    ] {
        matcher.insert(SubscriptionKey(key), database, collection, Filter::all());
    }
    assert_eq!(matched(&matcher, &event(&json!({}))), [1]);
}

#[test]
fn a_subscription_under_a_known_key_replaces_it() {
    let mut matcher = Matcher::new();
    subscribe(&mut matcher, 1, &[]);
    subscribe(&mut matcher, 2, &[]);
    subscribe(&mut matcher, 1, &[message("n", "==", Kind::IntValue(1))]);
    assert_eq!(matcher.len(), 2);
    assert_eq!(matched(&matcher, &event(&json!({"n": 1}))), [2, 1]);
    assert_eq!(matched(&matcher, &event(&json!({"n": 2}))), [2]);
}

#[test]
fn removing_tells_whether_there_was_something_and_leaves_nothing() {
    let mut matcher = Matcher::new();
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
    assert!(matcher.databases.is_empty());
}

#[test]
fn filters_that_ask_the_same_are_evaluated_once() {
    let mut matcher = Matcher::new();
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
    assert_eq!(matcher.databases["default"]["users"].groups.len(), 1);
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
fn filters_that_ask_differently_are_kept_apart() {
    let mut matcher = Matcher::new();
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
    assert_eq!(
        matcher.databases["default"]["users"].groups.len(),
        several.len()
    );
}

#[test]
fn s18_filters_on_other_values_are_not_evaluated() {
    let mut matcher = Matcher::new();
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
    assert_eq!(candidates(&matcher, &json!({"n": "7", "tag": "b"})), 2);
    assert_eq!(candidates(&matcher, &json!({"tag": ["b"]})), 1);
    assert_eq!(
        matched(&matcher, &event(&json!({"n": 7.0, "x": 1}))),
        [7, 2_001]
    );
}

#[test]
fn a_long_choice_is_evaluated_and_still_right() {
    let mut matcher = Matcher::new();
    let many = list((0..500).map(Kind::IntValue));
    subscribe(&mut matcher, 1, &[message("n", "in", many)]);
    assert_eq!(matched(&matcher, &event(&json!({"n": 499}))), [1]);
    assert!(matched(&matcher, &event(&json!({"n": 500}))).is_empty());
    assert_eq!(
        candidates(&matcher, &json!({})),
        1,
        "it is not entered under its values"
    );
}

#[test]
fn filters_with_lists_for_values_are_found() {
    let mut matcher = Matcher::new();
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
fn the_last_subscription_of_a_filter_takes_every_trace_of_it_along() {
    let mut matcher = Matcher::new();
    let filters = [
        vec![message("n", "==", Kind::IntValue(1))],
        vec![message("n", "==", Kind::DoubleValue(1.5))],
        vec![message("n", "in", list([text("a"), Kind::BoolValue(true)]))],
        vec![message("n", ">", Kind::IntValue(0))],
    ];
    subscribe(&mut matcher, 100, &[message("_id", "==", text("u1"))]);
    let before = format!("{:?}", matcher.databases["default"]["users"].index);
    for (key, filters) in (1..).zip(&filters) {
        subscribe(&mut matcher, key, filters);
    }
    for key in 1..=4 {
        matcher.remove(SubscriptionKey(key));
    }
    let users = &matcher.databases["default"]["users"];
    assert_eq!(format!("{:?}", users.index), before);
    assert!(users.groups.is_empty() && users.group_of_form.is_empty());
}

#[test]
fn damaged_data_still_reaches_those_who_need_none_of_it() {
    let mut matcher = Matcher::new();
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
fn what_the_caller_had_collected_stays_in_front() {
    let mut matcher = Matcher::new();
    subscribe(&mut matcher, 1, &[message("n", ">", Kind::IntValue(0))]);
    let mut out = vec![SubscriptionKey(9)];
    matcher.matches(&event(&json!({"n": 1})), &mut out).unwrap();
    assert_eq!(out, [SubscriptionKey(9), SubscriptionKey(1)]);
}

/// One thing that happens to a matcher.
#[derive(Clone, Debug)]
enum Step {
    Subscribe(&'static str, Vec<wire::Filter>),
    /// Of the subscriptions there are, the one at this share of them.
    Unsubscribe(prop::sample::Index),
    Change(&'static str, &'static str, Json),
}

fn any_step() -> impl Strategy<Value = Step> {
    let collection = || select(vec!["users", "posts"]);
    let id = select(vec!["u1", "u2", "a"]);
    prop_oneof![
        6 => (collection(), any_filters()).prop_map(|(of, filters)| Step::Subscribe(of, filters)),
        2 => any::<prop::sample::Index>().prop_map(Step::Unsubscribe),
        4 => (collection(), id, any_fields()).prop_map(|(of, id, fields)| Step::Change(of, id, fields)),
    ]
}

/// How the filters choose, in the order in which the kinds are told.
fn kind(filters: &[wire::Filter]) -> u8 {
    match filters {
        [only] if only.field == "_id" && matches!(&*only.op, "==" | "eq") => 0,
        [] => 1,
        _ => 2,
    }
}

proptest! {
    #[test]
    fn a_matcher_finds_what_asking_everybody_finds(steps in vec(any_step(), 1..60)) {
        let mut matcher = Matcher::new();
        let mut registered: Vec<(u64, &str, Vec<wire::Filter>)> = Vec::new();
        for (key, step) in (1..).zip(steps) {
            match step {
                Step::Subscribe(collection, filters) => {
                    if let Ok(filter) = parse(&filters) {
                        matcher.insert(SubscriptionKey(key), "default", collection, filter);
                        registered.push((key, collection, filters));
                    }
                }
                Step::Unsubscribe(of) => {
                    if !registered.is_empty() {
                        let (key, ..) = registered.remove(of.index(registered.len()));
                        prop_assert!(matcher.remove(SubscriptionKey(key)));
                    }
                }
                Step::Change(collection, id, fields) => {
                    let event = Event {
                        collection: Arc::from(collection),
                        ..event_of(id, fields.to_string())
                    };
                    let mut expected: Vec<_> = registered
                        .iter()
                        .filter(|(_, of, _)| *of == collection)
                        .filter(|(.., filters)| naive::holds(filters, &event).unwrap())
                        .map(|(key, _, filters)| (kind(filters), *key))
                        .collect();
                    expected.sort_unstable();
                    let expected: Vec<_> = expected.into_iter().map(|(_, key)| key).collect();
                    prop_assert_eq!(matched(&matcher, &event), expected);
                }
            }
            prop_assert_eq!(matcher.len(), registered.len());
        }
        for (key, ..) in registered {
            prop_assert!(matcher.remove(SubscriptionKey(key)));
        }
        prop_assert!(matcher.databases.is_empty());
    }
}
