//! An agent beside a database node, with our proxy: the node's identity and topology.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;

use std::{net::SocketAddr, time::Duration};

use agent_support::{
    cluster::{page_when, settings, start_proxy},
    exporter::Exporter,
    http,
    node::{StubNode, free_address, node},
    stop,
};
use serde_json::{Value, json};
use steadfast_fodc_agent::Agent;
use steadfast_fodc_proxy::Proxy;
use steadfast_wire::{banyandb::database::v1::Role, fodc::GroupLifecycleInfo};
use tokio::time::sleep;

/// Starts an agent beside a node at this address, which asks it five times a second.
async fn agent_beside(address: SocketAddr, proxy: &Proxy, exporter: &Exporter) -> Agent {
    Agent::start(settings(address, proxy.grpc_address(), exporter))
        .await
        .unwrap()
}

#[tokio::test]
async fn agent_registers_with_the_identity_of_its_node() {
    let proxy = start_proxy().await;
    let exporter = Exporter::page("m 1\n");
    let stub = StubNode::start(node("a", &[Role::Meta, Role::Data], &[("type", "hot")])).await;
    let agent = agent_beside(stub.address, &proxy, &exporter).await;
    let agents = page_when(&proxy, "/agents", |agents| agents[0].is_object()).await;
    assert_eq!(
        agents[0]["role"], "ROLE_DATA",
        "from the first registration on"
    );
    assert_eq!(agents[0]["labels"], json!({"type": "hot"}));
    let id = agents[0]["agent_id"].clone();
    // A new label alone is a change, too (O16).
    stub.state().node = node("a", &[Role::Data], &[("type", "warm")]);
    let warm = |agents: &Value| agents[0]["labels"] == json!({"type": "warm"});
    let agents = page_when(&proxy, "/agents", warm).await;
    assert_eq!(agents[0]["agent_id"], id, "by a heartbeat");
    stop(agent).await;
}

#[tokio::test]
async fn first_port_with_a_role_counts() {
    let proxy = start_proxy().await;
    let exporter = Exporter::page("m 1\n");
    let mut stubs = Vec::new();
    for role in [Role::Meta, Role::Data, Role::Liaison] {
        stubs.push(StubNode::start(node("a", &[role], &[])).await);
    }
    let mut config = settings(stubs[0].address, proxy.grpc_address(), &exporter);
    config.node.cluster_state = stubs.iter().map(|stub| stub.address).collect();
    let agent = Agent::start(config).await.unwrap();
    for _ in 0..10 {
        let agents = page_when(&proxy, "/agents", |agents| agents[0].is_object()).await;
        assert_eq!(agents[0]["role"], "ROLE_DATA");
        sleep(Duration::from_millis(100)).await;
    }
    stop(agent).await;
}

#[tokio::test]
async fn node_that_comes_late_names_the_agent() {
    let proxy = start_proxy().await;
    let exporter = Exporter::page("m 1\n");
    let address = free_address().await;
    let agent = agent_beside(address, &proxy, &exporter).await;
    let began = jiff::Timestamp::now() - Duration::from_secs(60);
    agent_support::page_with(&agent, "\nm 1").await;
    let _stub = StubNode::start_at(address, node("a", &[Role::Liaison], &[])).await;
    let found = |agents: &Value| agents[0]["role"] == "ROLE_LIAISON";
    page_when(&proxy, "/agents", found).await;
    // Samples from before have the identity, too: labels are added when a query is responded to.
    let window = format!("/metrics-windows?start_time={began}");
    let has_samples = |series: &Value| series[0]["data"][0].is_object();
    let series = page_when(&proxy, &window, has_samples).await;
    for series in series.as_array().unwrap() {
        assert_eq!(series["labels"]["node_role"], "ROLE_LIAISON", "{series}");
    }
    stop(agent).await;
}

#[tokio::test]
async fn proxy_shows_the_topology_of_the_node() {
    let proxy = start_proxy().await;
    let exporter = Exporter::page("m 1\n");
    let stub = StubNode::start(node("a", &[Role::Data], &[("type", "hot")])).await;
    stub.state().tables = vec![(
        "data",
        vec![node("a", &[Role::Data], &[]), node("b", &[Role::Data], &[])],
    )];
    let agent = agent_beside(stub.address, &proxy, &exporter).await;
    let complete = |page: &Value| {
        page["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.len() == 2)
    };
    let page = page_when(&proxy, "/cluster/topology", complete).await;
    let mut own = page["nodes"][0].clone();
    own.as_object_mut()
        .unwrap()
        .remove("last_heartbeat")
        .unwrap();
    assert_eq!(
        own,
        json!({
            "metadata": {"name": "a"},
            "labels": {"pod_name": "db-0", "type": "hot"},
            "status": "online",
            "roles": ["ROLE_DATA"],
        })
    );
    assert_eq!(
        page["calls"],
        json!([{"id": "a-b", "target": "b", "source": "a"}])
    );
    drop(stub);
    // The agent's answer says why it is empty.
    let response = http::get(proxy.http_address(), "/cluster/topology").await;
    let missing = response.header("x-steadfast-missing").unwrap().to_owned();
    assert!(
        missing.contains("db-0=cannot connect to the node"),
        "{missing}"
    );
    stop(agent).await;
}

#[tokio::test]
async fn proxy_shows_the_lifecycle_of_the_node() {
    let proxy = start_proxy().await;
    let exporter = Exporter::page("m 1\n");
    let stub = StubNode::start(node("a", &[Role::Data], &[])).await;
    let reports = tempfile::tempdir().unwrap();
    std::fs::write(reports.path().join("2026-03-01.json"), "{}").unwrap();
    let mut config = settings(stub.address, proxy.grpc_address(), &exporter);
    config.node.lifecycle = Some(stub.address);
    config.node.lifecycle_reports = Some(reports.path().to_owned());
    let agent = Agent::start(config).await.unwrap();

    // A failure is answered, with what there is and the reason, and is not cached.
    let reported = |page: &Value| page["lifecycle_statuses"][0]["reports"][0].is_object();
    let page = page_when(&proxy, "/cluster/lifecycle", reported).await;
    assert_eq!(page["groups"], json!([]));
    let response = http::get(proxy.http_address(), "/cluster/lifecycle").await;
    let missing = response.header("x-steadfast-missing").unwrap().to_owned();
    assert!(
        missing.contains("the groups cannot be inspected"),
        "{missing}"
    );

    stub.state().groups = Some(vec![GroupLifecycleInfo {
        name: "g".to_owned(),
        ..GroupLifecycleInfo::default()
    }]);
    let found = |page: &Value| page["groups"][0]["name"] == "g";
    let page = page_when(&proxy, "/cluster/lifecycle", found).await;
    let schema = &page["groups"][0]["schema_consistency"];
    assert_eq!(schema["objects"][0]["name"], "s");
    assert_eq!(
        schema["objects"][0]["node_fingerprints"][0]["runtime_fingerprint"],
        "0"
    );
    assert_eq!(
        page["agent_summary"],
        json!({"total": 1, "requested": 1, "responded": 1, "not_responded": 0})
    );
    let inspected = stub.state().inspected;

    // The groups come from the cache; the schema is read anew, and here it is torn.
    stub.state().objects = 2;
    let torn = |page: &Value| page["groups"][0]["errors"] == json!(["torn stream: 1 of 2 objects"]);
    let page = page_when(&proxy, "/cluster/lifecycle", torn).await;
    assert_eq!(page["groups"][0]["schema_consistency"], Value::Null);
    assert_eq!(stub.state().inspected, inspected);
    stop(agent).await;
}
