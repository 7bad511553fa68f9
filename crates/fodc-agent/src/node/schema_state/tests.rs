use proptest::prelude::*;
use prost::Message as _;
use steadfast_wire::banyandb::{
    common::v1::Metadata,
    database::v1::{GroupStateTrailer, Node, SchemaPayload, SchemaRuleTable},
};

use super::*;

/// An encoded object with this name.
fn object(name: &str) -> Vec<u8> {
    let node = Node {
        metadata: Some(Metadata {
            group: "g".to_owned(),
            name: name.to_owned(),
            ..Metadata::default()
        }),
        ..Node::default()
    };
    node.encode_to_vec()
}

fn body(name: &str, rules: &[u32]) -> SchemaBody {
    SchemaBody {
        payload: Some(SchemaPayload {
            value: object(name).into(),
            ..SchemaPayload::default()
        }),
        bound_index_rule_refs: rules.to_vec(),
    }
}

fn snapshot(name: &str, cache: Option<SchemaBody>, runtime: Option<SchemaBody>) -> Event {
    Event::Object(ObjectSnapshot {
        group: "g".to_owned(),
        kind: "stream".to_owned(),
        name: name.to_owned(),
        cache,
        runtime,
    })
}

fn rules(names: &[&str]) -> Event {
    Event::RuleTable(SchemaRuleTable {
        group: "g".to_owned(),
        rules: names.iter().map(|name| object(name).into()).collect(),
    })
}

fn trailer(objects: u32) -> Event {
    Event::Trailer(GroupStateTrailer {
        group: "g".to_owned(),
        node: "n".to_owned(),
        object_count: objects,
        errors: vec!["from the node".to_owned()],
    })
}

fn state(events: impl IntoIterator<Item = Event>) -> GroupState {
    let mut reading = Reading::default();
    for event in events {
        let event = Some(event);
        reading
            .take(StreamGroupSchemaStateResponse { event })
            .unwrap();
    }
    reading.finish().remove("g").unwrap_or_default()
}

#[test]
fn object_has_the_fingerprints_of_cache_and_runtime() {
    let events = [
        rules(&["r0"]),
        rules(&["r1"]),
        snapshot("a", Some(body("a", &[1, 0])), None),
        trailer(1),
    ];
    let state = state(events);
    assert_eq!(state.errors, ["from the node"]);
    let [found] = &*state.objects else {
        panic!("{state:?}")
    };
    let node = &found.node_fingerprints[0];
    let [first, second] = ["r0", "r1"].map(|name| fingerprint::hash(&object(name)));
    let rules = [("g/r0".to_owned(), first), ("g/r1".to_owned(), second)];
    let expected = fingerprint::fingerprint(fingerprint::hash(&object("a")), rules);
    assert_eq!((found.kind.as_str(), found.name.as_str()), ("stream", "a"));
    assert_eq!(
        (node.node.as_str(), node.cache_fingerprint),
        ("n", expected)
    );
    assert_eq!(node.runtime_fingerprint, 0, "it is not applied");
}

#[test]
fn torn_stream_has_an_error_and_no_objects() {
    let one = || snapshot("a", Some(body("a", &[])), None);
    for (events, text) in [
        (vec![one(), trailer(2)], "torn stream: 1 of 2 objects"),
        (vec![one()], "torn stream: no trailer after 1 objects"),
        (
            vec![snapshot("a", Some(body("a", &[0])), None), trailer(1)],
            "torn stream: a reference to a missing index rule",
        ),
    ] {
        let state = state(events);
        assert_eq!(
            (state.objects, state.errors),
            (vec![], vec![text.to_owned()])
        );
    }
}

#[test]
fn endless_state_is_refused() {
    let mut reading = Reading::default();
    let names = vec!["r"; OBJECTS_MAX];
    let table = StreamGroupSchemaStateResponse {
        event: Some(rules(&names)),
    };
    reading.take(table.clone()).unwrap();
    assert!(reading.take(table).is_err());
}

fn event() -> impl Strategy<Value = Event> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let parts = || prop::option::of((name(), prop::collection::vec(0_u32..4, 0..3)));
    let made = |parts: Option<(&str, Vec<u32>)>| parts.map(|(name, refs)| body(name, &refs));
    prop_oneof![
        (name(), parts(), parts()).prop_map(move |(name, cache, runtime)| snapshot(
            name,
            made(cache),
            made(runtime)
        )),
        prop::collection::vec(name(), 0..3).prop_map(|names| rules(&names)),
        (0_u32..6).prop_map(trailer),
    ]
}

proptest! {
    /// In whatever order a node sends events: every object of a complete group is there once, and a
    /// group that is not complete has none.
    #[test]
    fn states_in_any_order_are_whole_or_torn(events in prop::collection::vec(event(), 0..12)) {
        let objects = events.iter().filter(|event| matches!(event, Event::Object(_))).count();
        let last = events.iter().rev().find_map(|event| match event {
            Event::Trailer(trailer) => Some(trailer.object_count as usize),
            Event::Object(_) | Event::RuleTable(_) => None,
        });
        let state = state(events);
        let is_torn = state.errors.iter().any(|error| error.starts_with("torn stream"));
        prop_assert!(state.objects.len() <= objects);
        prop_assert!(!is_torn || state.objects.is_empty());
        if last != Some(objects) && (last.is_some() || objects > 0) {
            prop_assert!(is_torn);
        }
    }
}
