use steadfast_wire::banyandb::{common::v1::Metadata, database::v1::RouteTable};
use tonic::{Code, Status};

use super::*;

fn node(name: &str) -> Node {
    Node {
        metadata: Some(Metadata {
            name: name.to_owned(),
            ..Metadata::default()
        }),
        ..Node::default()
    }
}

fn tables(tables: &[(&str, &[&str])]) -> GetClusterStateResponse {
    let tables = tables.iter().map(|(kind, names)| {
        let registered = names.iter().map(|name| node(name)).collect();
        let table = RouteTable {
            registered,
            ..RouteTable::default()
        };
        ((*kind).to_owned(), table)
    });
    GetClusterStateResponse {
        route_tables: tables.collect(),
    }
}

fn failed<T>(code: Code) -> Result<T, NodeError> {
    Err(NodeError::Status {
        address: SocketAddr::from(([127, 0, 0, 1], 17_912)),
        status: Box::new(Status::new(code, "text")),
    })
}

/// Merges, and returns the names of the nodes, with `*` for those with the pod's label, and the ids of
/// the calls.
fn merged(answers: Vec<Answers>) -> (Vec<String>, Vec<String>, usize) {
    let (topology, errors) = merge(answers, "db-0");
    let nodes = topology.nodes.iter().map(|node| {
        let pod = node.labels.get(POD);
        assert!(pod.is_none_or(|pod| pod == "db-0"));
        format!("{}{}", name(node), if pod.is_some() { "*" } else { "" })
    });
    let calls = topology.calls.iter().map(|call| call.id.clone());
    (nodes.collect(), calls.collect(), errors.len())
}

#[test]
fn topology_is_the_own_node_and_calls_to_all_others() {
    let answers = Answers {
        own: Ok(node("b")),
        state: Ok(tables(&[("data", &["a", "b"]), ("property", &["a", "c"])])),
    };
    let (nodes, calls, errors) = merged(vec![answers]);
    assert_eq!(nodes, ["a", "b*", "c"], "the own node keeps its label");
    assert_eq!(calls, ["b-a", "b-c"], "one call for each other name");
    assert_eq!(errors, 0);
}

#[test]
fn topology_of_two_ports_has_both_own_nodes() {
    let first = Answers {
        own: Ok(node("a")),
        state: Ok(tables(&[("data", &["b"])])),
    };
    let second = Answers {
        own: Ok(node("b")),
        state: Ok(tables(&[("data", &["a"])])),
    };
    let (nodes, calls, errors) = merged(vec![first, second]);
    assert_eq!(nodes, ["a*", "b*"]);
    assert_eq!(
        (calls, errors),
        (vec!["a-b".to_owned(), "b-a".to_owned()], 0)
    );
}

#[test]
fn failures_leave_what_is_known() {
    for (own, state, expected) in [
        (Ok(node("a")), failed(Code::Unavailable), (vec!["a*"], 1)),
        (Ok(node("a")), failed(Code::Unimplemented), (vec!["a*"], 0)),
        (
            failed(Code::Internal),
            Ok(tables(&[("data", &["b"])])),
            (vec!["b"], 1),
        ),
        (failed(Code::Internal), failed(Code::Internal), (vec![], 2)),
    ] {
        let (nodes, calls, errors) = merged(vec![Answers { own, state }]);
        assert_eq!(
            (nodes.iter().map(String::as_str).collect(), errors),
            expected
        );
        assert!(calls.is_empty(), "no call without both ends");
    }
}
