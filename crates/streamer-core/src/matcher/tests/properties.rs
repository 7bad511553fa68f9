//! What holds for every sequence of inserts, removals and events.

use proptest::{collection::vec, prelude::*, sample::select};
use steadfast_wire::streamer as wire;

use super::{
    super::{
        ids::{Entry, GroupId},
        intervals::{Interval, Intervals},
        key_list::KeyList,
    },
    reading::any_data,
    *,
};
use crate::filter::tests::{naive, properties::any_filters};

/// One thing that happens to a matcher.
#[derive(Clone, Debug)]
enum Step {
    Subscribe(&'static str, Vec<wire::Filter>),
    /// Of the subscriptions there are, the one at this share of them.
    Unsubscribe(prop::sample::Index),
    Change(&'static str, &'static str, String),
}

fn any_step() -> impl Strategy<Value = Step> {
    let collection = || select(vec!["users", "posts"]);
    let id = select(vec!["u1", "u2", "a"]);
    prop_oneof![
        6 => (collection(), any_filters()).prop_map(|(of, filters)| Step::Subscribe(of, filters)),
        2 => any::<prop::sample::Index>().prop_map(Step::Unsubscribe),
        4 => (collection(), id, any_data()).prop_map(|(of, id, data)| Step::Change(of, id, data)),
    ]
}

/// As [`any_step`], on few values of one field, so that subscriptions share the lists of an index and
/// most removals leave others behind.
fn close_step() -> impl Strategy<Value = Step> {
    let number = || (0..4_i64).prop_map(Kind::IntValue);
    let op = || select(vec!["<", "<=", ">", ">=", "==", "!=", "contains"]);
    let condition = || (op(), number()).prop_map(|(op, value)| message("n", op, value));
    let either = vec(number(), 1..3).prop_map(|values| message("n", "in", list(values)));
    let filters = prop_oneof![
        6 => vec(condition(), 1..3),
        1 => either.prop_map(|filter| vec![filter]),
        1 => Just(vec![message("_id", "==", text("u1"))]),
        1 => Just(Vec::new()),
    ];
    let fields = prop_oneof![
        6 => (0..4).prop_map(|n| json!({ "n": n })),
        1 => vec(0..4, 0..3).prop_map(|n| json!({ "n": n })),
        1 => Just(json!({})),
    ];
    prop_oneof![
        4 => filters.prop_map(|filters| Step::Subscribe("users", filters)),
        3 => any::<prop::sample::Index>().prop_map(Step::Unsubscribe),
        3 => fields.prop_map(|data| Step::Change("users", "u1", data.to_string())),
    ]
}

/// How the filters choose, in the order in which the kinds are told.
fn kind(filters: &[wire::Filter]) -> u8 {
    match filters {
        [only]
            if (only.field == "_id" || only.path == ["_id"])
                && matches!(&*only.op, "==" | "eq") =>
        {
            0
        }
        [] => 1,
        _ => 2,
    }
}

proptest! {
    #[test]
    fn subscriptions_that_stay_between_slices_are_found_once(
        filters in vec(any_filters(), 1..40),
        more in vec(any_filters(), 0..10),
        gone in vec(any::<prop::sample::Index>(), 0..10),
        data in any_data(),
    ) {
        let mut matcher = Matcher::new(7);
        let mut stays = Vec::new();
        for (key, filters) in (1..).zip(&filters) {
            if let Ok(filter) = parse(filters) {
                matcher.insert(SubscriptionKey(key), "default", "users", &filter);
                stays.push((key, filters));
            }
        }
        let event = event_of("u1", data);
        let mut matching = matcher.start(&event);
        let mut out = Vec::new();
        let mut done = matching.run(&matcher, &mut 1, &mut CostProfile::default(), &mut out);
        for at in gone {
            if !stays.is_empty() {
                let (key, _) = stays.remove(at.index(stays.len()));
                matcher.remove(SubscriptionKey(key));
            }
        }
        for (key, filters) in (1_000..).zip(&more) {
            if let Ok(filter) = parse(filters) {
                matcher.insert(SubscriptionKey(key), "default", "users", &filter);
            }
        }
        while !done {
            done = matching.run(&matcher, &mut 1, &mut CostProfile::default(), &mut out);
        }
        for (key, filters) in stays {
            let times = out.iter().filter(|found| found.0 == key).count();
            let holds = naive::holds(filters, &event).unwrap();
            prop_assert_eq!(times, usize::from(holds), "{:?}", filters);
        }
    }

    #[test]
    fn intervals_are_found_as_asking_each_finds_them(
        steps in vec((any::<bool>(), 0_u64..50, 0_u64..50, 0_usize..4), 1..400),
        key in 0_u64..50,
    ) {
        let mut intervals = Intervals::default();
        let mut naive = std::collections::BTreeSet::new();
        for (at, (insert, low, high, group)) in steps.into_iter().enumerate() {
            let group = if insert { at } else { group };
            let entry = Entry::new(GroupId::new(group), false);
            let interval = Interval { low, high, entry };
            if insert {
                intervals.insert(interval);
                naive.insert(interval);
            } else if let Some(&one) = naive.iter().nth(group) {
                intervals.remove(one);
                naive.remove(&one);
            }
            prop_assert_eq!(intervals.len(), naive.len());
        }
        let mut found = Vec::new();
        intervals.containing(key, |interval| found.push(*interval));
        let expected: Vec<_> = naive.into_iter().filter(|it| it.low <= key && key <= it.high).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn key_list_is_copied_in_order_in_any_slices(
        steps in vec((0..4_u8, 0_u64..60), 1..120),
        left_out in vec(0_u64..60, 0..20),
        slice in 1..9_usize,
    ) {
        let mut keys = KeyList::default();
        let mut naive = std::collections::BTreeSet::new();
        for (step, key) in steps {
            let key = SubscriptionKey(key);
            if step == 0 {
                keys.remove(key);
                naive.remove(&key);
            } else {
                keys.insert(key);
                naive.insert(key);
            }
            prop_assert_eq!(keys.len(), naive.len());
        }
        let except: std::collections::BTreeSet<_> =
            left_out.into_iter().map(SubscriptionKey).collect();
        let mut copied = Vec::new();
        let mut next = Some(SubscriptionKey(0));
        while let Some(from) = next {
            let mut left = slice;
            next = keys.copy(from, except.iter().copied(), &mut left, &mut copied);
            prop_assert_eq!(left == 0 || next.is_none(), true, "a slice that stops early");
        }
        let expected: Vec<_> = naive.difference(&except).copied().collect();
        prop_assert_eq!(copied, expected);
    }

    #[test]
    fn a_matcher_agrees_with_evaluating_every_filter(
        steps in prop_oneof![vec(any_step(), 1..60), vec(close_step(), 1..90)],
    ) {
        let mut matcher = Matcher::new(7);
        let mut registered: Vec<(u64, &str, Vec<wire::Filter>)> = Vec::new();
        for (key, step) in (1..).zip(steps) {
            match step {
                Step::Subscribe(collection, filters) => {
                    if let Ok(filter) = parse(&filters) {
                        matcher.insert(SubscriptionKey(key), "default", collection, &filter);
                        registered.push((key, collection, filters));
                    }
                }
                Step::Unsubscribe(of) => {
                    if !registered.is_empty() {
                        let (key, ..) = registered.remove(of.index(registered.len()));
                        prop_assert!(matcher.remove(SubscriptionKey(key)));
                    }
                }
                Step::Change(collection, id, data) => {
                    let event = Event {
                        previous: crate::Previous::Unknown,
                        collection: Arc::from(collection),
                        ..event_of(id, data)
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
        prop_assert!(matcher.names.is_empty() && matcher.collections.is_empty());
    }
}
