//! The schema of one group, in the registry and in the memory of a node.

use bytes::Bytes;
use prost::Message as _;
use steadfast_wire::banyandb::{
    common::v1::Metadata,
    database::v1::{
        Catalog, Group, GroupStateTrailer, IndexRuleBinding, Node, ObjectSnapshot, SchemaBody,
        SchemaPayload, SchemaRuleTable, Subject, stream_group_schema_state_response::Event,
    },
};

use super::node::State;

/// The metadata of an object of the group `g`. Its revision tells where it is from.
fn metadata(name: &str, revision: i64) -> Metadata {
    Metadata {
        group: "g".to_owned(),
        name: name.to_owned(),
        mod_revision: revision,
        ..Metadata::default()
    }
}

/// An object whose type does not matter: its metadata, and another field.
pub(crate) fn object(name: &str, content: &str, revision: i64) -> Bytes {
    let object = Node {
        metadata: Some(metadata(name, revision)),
        grpc_address: content.to_owned(),
        ..Node::default()
    };
    object.encode_to_vec().into()
}

fn group(revision: i64) -> Bytes {
    let group = Group {
        metadata: Some(Metadata {
            name: "g".to_owned(),
            mod_revision: revision,
            ..Metadata::default()
        }),
        catalog: Catalog::Stream.into(),
    };
    group.encode_to_vec().into()
}

fn binding(rules: &[&str], catalog: Catalog, name: &str) -> Bytes {
    let binding = IndexRuleBinding {
        metadata: Some(metadata("b", 0)),
        rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        subject: Some(Subject {
            catalog: catalog.into(),
            name: name.to_owned(),
        }),
    };
    binding.encode_to_vec().into()
}

/// Gives a liaison the registry of the group `g`, with a stream to which two rules are bound.
pub(crate) fn fill_registry(state: &mut State) {
    state.registry = [
        (("Group", ""), vec![group(5)]),
        (
            ("IndexRule", "g"),
            ["x", "y", "z"].map(|rule| object(rule, "rule", 5)).into(),
        ),
        (
            ("IndexRuleBinding", "g"),
            vec![
                // Of the one that was deleted nothing is left.
                binding(&["y", "x", "deleted"], Catalog::Stream, "s"),
                binding(&["x"], Catalog::Stream, "s"),
                binding(&["z"], Catalog::Measure, "s"),
            ],
        ),
        (
            ("Stream", "g"),
            vec![object("s", "content", 5), object("t", "content", 5)],
        ),
        (("Measure", "g"), vec![object("m", "of another catalog", 5)]),
    ]
    .into();
}

fn body(value: &Bytes, rules: &[u32]) -> SchemaBody {
    SchemaBody {
        payload: Some(SchemaPayload {
            type_url: String::new(),
            value: value.clone(),
        }),
        bound_index_rule_refs: rules.to_vec(),
    }
}

/// Returns the schema in memory of a node, as [`fill_registry`] has it, with this content of `s`.
pub(crate) fn schema(content: &str) -> Vec<Event> {
    let rules = ["x", "y", "z"].map(|rule| object(rule, "rule", 9));
    let mut objects = vec![("group", "g", group(9), vec![])];
    objects.extend(
        ["x", "y", "z"]
            .iter()
            .zip(&rules)
            .map(|(name, rule)| ("indexRule", *name, rule.clone(), vec![])),
    );
    objects.push(("stream", "s", object("s", content, 9), vec![1, 0]));
    objects.push(("stream", "t", object("t", "content", 9), vec![]));
    let count = u32::try_from(objects.len()).unwrap();
    let table = SchemaRuleTable {
        group: "g".to_owned(),
        rules: rules.to_vec(),
    };
    let objects = objects.into_iter().map(|(kind, name, value, rules)| {
        Event::Object(ObjectSnapshot {
            group: "g".to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            cache: Some(body(&value, &rules)),
            runtime: Some(body(&value, &rules)),
        })
    });
    let trailer = GroupStateTrailer {
        group: "g".to_owned(),
        node: "data".to_owned(),
        object_count: count,
        errors: Vec::new(),
    };
    let tables = [Event::RuleTable(table)].into_iter();
    tables
        .chain(objects)
        .chain([Event::Trailer(trailer)])
        .collect()
}
