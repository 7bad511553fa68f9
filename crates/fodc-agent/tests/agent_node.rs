//! An agent beside a database node, with our proxy: the node's identity and topology.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;

use std::{net::SocketAddr, time::Duration};

use agent_support::{
    LIMIT, config,
    exporter::Exporter,
    http,
    node::{StubNode, free_address, node},
    stop,
};
use serde_json::{Value, json};
use steadfast_fodc_agent::{Agent, UplinkConfig, identity::Identity};
use steadfast_fodc_proxy::{self as proxy, Proxy};
use steadfast_wire::banyandb::database::v1::Role;
use tokio::time::{Instant, sleep};

async fn start_proxy() -> Proxy {
    let mut config = proxy::Config::default();
    config.grpc_listen = "127.0.0.1:0".parse().unwrap();
    config.http_listen = config.grpc_listen;
    Proxy::start(config).await.unwrap()
}

/// Starts an agent beside a node at this address, which asks it five times a second.
async fn agent_beside(address: SocketAddr, proxy: &Proxy, exporter: &Exporter) -> Agent {
    let mut config = config([exporter.url()]);
    config.uplink = Some(UplinkConfig {
        proxy: proxy.grpc_address().to_string(),
        identity: Identity {
            role: Identity::ROLE_UNKNOWN.to_owned(),
            pod_name: "db-0".to_owned(),
            ..Identity::default()
        },
        heartbeat_interval: Duration::from_secs(10),
        reconnect_interval: Duration::from_millis(100),
        reconnect_interval_max: None,
    });
    config.node.cluster_state = vec![address];
    config.node.cluster_state_interval = Duration::from_millis(200);
    Agent::start(config).await.unwrap()
}

/// Returns the proxy's page once it satisfies the condition.
async fn page_when(proxy: &Proxy, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let page = http::get(proxy.http_address(), path).await;
        let json = serde_json::from_slice(page.text().as_bytes()).unwrap_or(Value::Null);
        if holds(&json) {
            return json;
        }
        assert!(Instant::now() < deadline, "never: {path} {}", page.text());
        sleep(Duration::from_millis(20)).await;
    }
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
async fn node_that_comes_late_names_the_agent() {
    let proxy = start_proxy().await;
    let exporter = Exporter::page("m 1\n");
    let address = free_address().await;
    let agent = agent_beside(address, &proxy, &exporter).await;
    agent_support::page_with(&agent, "\nm 1").await;
    let _stub = StubNode::start_at(address, node("a", &[Role::Liaison], &[])).await;
    let found = |agents: &Value| agents[0]["role"] == "ROLE_LIAISON";
    page_when(&proxy, "/agents", found).await;
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
