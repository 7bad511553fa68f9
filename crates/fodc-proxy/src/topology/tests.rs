use serde_json::{Value, json};

use super::*;
use crate::{lanes::Message, samples::MemoryBudget};

fn node(name: &str) -> Node {
    Node {
        metadata: Some(Metadata {
            name: name.to_owned(),
            ..Metadata::default()
        }),
        ..Node::default()
    }
}

fn labelled(name: &str, pod: &str) -> Node {
    Node {
        labels: BTreeMap::from([(POD.to_owned(), pod.to_owned())]),
        ..node(name)
    }
}

/// Returns the cluster that agents with these names report, in this order of arrival.
fn cluster(memory: usize, reports: &[(&str, Vec<Node>)]) -> Cluster {
    let budget = MemoryBudget::new(memory);
    let mut cluster = Cluster::new(reports.len(), budget.empty_reservation());
    for (name, nodes) in reports {
        let topology = steadfast_wire::fodc::Topology {
            nodes: nodes.clone(),
            calls: Vec::new(),
        };
        let body = StreamClusterTopologyRequest {
            topology: Some(topology),
            ..StreamClusterTopologyRequest::default()
        };
        cluster.add(StreamResponse {
            agent: AgentId::new(name),
            identity: Arc::new(Identity::of_pod(name, "r")),
            result: Ok(vec![Message {
                body,
                reservation: budget.empty_reservation(),
            }]),
        });
    }
    cluster
}

fn text(cluster: &Cluster, agents: &HashMap<String, NodeAgent>) -> String {
    String::from_utf8(cluster.json(agents)).unwrap()
}

#[test]
fn empty_topology_has_both_arrays() {
    let text = text(&cluster(1_000, &[]), &HashMap::new());
    assert_eq!(text, "{\"nodes\":[],\"calls\":[]}\n");
}

#[test]
fn node_has_the_json_of_the_releases() {
    let full = Node {
        metadata: Some(Metadata {
            group: "g".to_owned(),
            name: "db-0:17912".to_owned(),
            id: 1,
            create_revision: 2,
            mod_revision: 3,
        }),
        roles: vec![Role::Data.into(), 99],
        grpc_address: "db-0:17912".to_owned(),
        http_address: "<a&b>".to_owned(),
        created_at: Some(Timestamp {
            seconds: 1_767_225_600,
            nanos: 0,
        }),
        labels: BTreeMap::from([
            (POD.to_owned(), "db-0".to_owned()),
            ("type".to_owned(), "hot".to_owned()),
        ]),
        property_repair_gossip_grpc_address: "r".to_owned(),
        property_schema_grpc_address: "s".to_owned(),
        property_schema_gossip_grpc_address: "t".to_owned(),
    };
    let agent = NodeAgent {
        is_online: false,
        last_heartbeat: crate::time::UnixNanos::from_millis(1_772_352_000_500),
    };
    let agents = HashMap::from([("db-0".to_owned(), agent)]);
    let text = text(&cluster(100_000, &[("db-0", vec![full])]), &agents);
    // Byte by byte: order, zero values and Go's escapes are part of the shape.
    assert_eq!(
        text,
        "{\"nodes\":[{\"metadata\":{\"group\":\"g\",\"name\":\"db-0:17912\",\"id\":1,\
         \"create_revision\":2,\"mod_revision\":3},\"grpc_address\":\"db-0:17912\",\
         \"http_address\":\"\\u003ca\\u0026b\\u003e\",\"created_at\":{\"seconds\":1767225600},\
         \"labels\":{\"pod_name\":\"db-0\",\"type\":\"hot\"},\
         \"property_repair_gossip_grpc_address\":\"r\",\"property_schema_grpc_address\":\"s\",\
         \"property_schema_gossip_grpc_address\":\"t\",\"status\":\"unconnected\",\
         \"last_heartbeat\":\"2026-03-01T08:00:00.5Z\",\"roles\":[\"ROLE_DATA\",\"99\"]}],\
         \"calls\":[]}\n"
    );
}

#[test]
fn zero_values_of_a_node_are_left_out() {
    let bare = Node {
        created_at: Some(Timestamp::default()),
        ..node("a")
    };
    let text = text(&cluster(100_000, &[("x", vec![bare])]), &HashMap::new());
    let page: Value = serde_json::from_str(&text).unwrap();
    let expected = json!([{"metadata": {"name": "a"}, "created_at": {}, "roles": []}]);
    assert_eq!(page["nodes"], expected);
}

#[test]
fn merge_does_not_depend_on_the_order_of_arrival() {
    let first = ("x", vec![labelled("a", "db-0"), node("b")]);
    let second = ("y", vec![node("a"), labelled("b", "db-1")]);
    let there = cluster(100_000, &[first.clone(), second.clone()]);
    let back = cluster(100_000, &[second, first]);
    let none = HashMap::new();
    assert_eq!(text(&there, &none), text(&back, &none));
    assert_eq!(text(&there, &none).matches("pod_name").count(), 2);
}

#[test]
fn nodes_without_memory_are_missing_and_said_to_be() {
    let many: Vec<Node> = (0..100)
        .map(|number| node(&format!("node-{number}")))
        .collect();
    let mut full = cluster(1_000, &[("x", many)]);
    assert!(full.nodes.len() < 100, "{}", full.nodes.len());
    assert_eq!(full.missing.text().as_deref(), Some("1; x=no room"));
}

#[test]
fn error_of_an_agent_is_listed_and_its_nodes_are_shown() {
    let mut cluster = cluster(100_000, &[("x", vec![node("a")])]);
    let identity = Identity::of_pod("y", "r");
    let message = StreamClusterTopologyRequest {
        error: "cannot connect, sorry".to_owned(),
        ..StreamClusterTopologyRequest::default()
    };
    cluster.add_message(&AgentId::new("y"), &identity, message);
    assert_eq!(cluster.nodes.len(), 1);
    let missing = cluster.missing.text();
    assert_eq!(missing.as_deref(), Some("1; y=cannot connect_ sorry"));
}
