//! Agents beside a liaison and a data node, with our proxy: the schema registry and the nodes' schema.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use agent_support::{
    LIMIT,
    cluster::{page_when, settings, start_proxy},
    exporter::Exporter,
    http,
    node::{StubNode, node},
    schema::{fill_registry, object, schema},
    stop,
};
use bytes::Bytes;
use serde_json::{Value, json};
use steadfast_fodc_agent::Agent;
use steadfast_fodc_proxy::Proxy;
use steadfast_wire::{
    banyandb::database::v1::{Node, Role},
    fodc::GroupLifecycleInfo,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use twox_hash::XxHash64;

/// A proxy, and an agent each beside a liaison and a data node.
struct Cluster {
    proxy: Proxy,
    liaison: StubNode,
    data: StubNode,
    agents: Vec<Agent>,
}

impl Cluster {
    async fn start() -> Self {
        let proxy = start_proxy().await;
        let exporter = Exporter::page("m 1\n");
        let liaison = StubNode::start(node("liaison", &[Role::Liaison], &[])).await;
        let data = StubNode::start(node("data", &[Role::Data], &[])).await;
        data.state().groups = Some(vec![GroupLifecycleInfo {
            name: "g".to_owned(),
            ..GroupLifecycleInfo::default()
        }]);
        data.state().schema = Some(schema("content"));
        fill_registry(&mut liaison.state());
        let start = async |address: SocketAddr, pod: &str, is_liaison: bool| {
            let mut config = settings(address, proxy.grpc_address(), &exporter);
            let identity = &mut config.uplink.as_mut().unwrap().identity;
            pod.clone_into(&mut identity.pod_name);
            config.node.schema_registry = is_liaison.then_some(address);
            config.node.lifecycle = (!is_liaison).then_some(address);
            Agent::start(config).await.unwrap()
        };
        let agents = vec![
            start(liaison.address, "liaison-0", true).await,
            start(data.address, "db-0", false).await,
        ];
        let registered = |page: &Value| page.as_array().is_some_and(|agents| agents.len() == 2);
        page_when(&proxy, "/agents", registered).await;
        Self {
            proxy,
            liaison,
            data,
            agents,
        }
    }

    async fn stop(self) {
        for agent in self.agents {
            stop(agent).await;
        }
    }

    /// Returns the verdict about the group once it has a status.
    async fn verdict(&self, status: &str) -> Value {
        let has_status = |page: &Value| page["groups"][0]["schema_consistency"]["status"] == status;
        let mut page = page_when(&self.proxy, "/cluster/lifecycle", has_status).await;
        page["groups"][0]["schema_consistency"].take()
    }

    /// Returns the header about what is missing once it contains a text.
    async fn missing(&self, path: &str, text: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let response = http::get(self.proxy.http_address(), path).await;
            let missing = response.header("x-steadfast-missing").unwrap_or_default();
            if missing.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "never: {text} {missing}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

const CONSISTENT: &str = "CONSISTENCY_STATUS_CONSISTENT";

fn xxh64(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

#[tokio::test]
async fn registry_and_node_agree_on_every_fingerprint() {
    let cluster = Cluster::start().await;
    let verdict = cluster.verdict(CONSISTENT).await;
    assert_eq!(verdict["issues"], json!([]));
    let objects = verdict["objects"].as_array().unwrap();
    let names: Vec<_> = objects
        .iter()
        .map(|object| object["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["g", "x", "y", "z", "s", "t"], "by kind and name");
    for object in objects {
        let of_node = &object["node_fingerprints"][0];
        assert_eq!(
            object["registry_fingerprint"], of_node["cache_fingerprint"],
            "{object}"
        );
    }
    // The stream, then its rules by name, each once, without revisions.
    let hash = |object: Bytes| xxh64(&object).to_le_bytes();
    let stream = hash(object("s", "content", 0));
    let rules = ["x", "y"].map(|rule| hash(object(rule, "rule", 0)));
    let expected = xxh64(&[stream, rules[0], rules[1]].concat());
    assert_eq!(objects[4]["registry_fingerprint"], expected.to_string());
    cluster.stop().await;
}

#[tokio::test]
async fn difference_that_passes_is_never_an_inconsistency() {
    let cluster = Cluster::start().await;
    cluster.verdict(CONSISTENT).await;
    cluster.data.state().schema = Some(schema("older"));
    let verdict = cluster.verdict("CONSISTENCY_STATUS_UNKNOWN").await;
    assert_eq!(
        verdict["issues"],
        json!([{
            "kind": "stream", "name": "s", "node": "data",
            "type": "SCHEMA_ISSUE_TYPE_CACHE_STALE",
        }])
    );
    cluster.data.state().schema = Some(schema("content"));
    let page = http::get(cluster.proxy.http_address(), "/cluster/lifecycle").await;
    assert!(page.text().contains(CONSISTENT), "{}", page.text());
    cluster.data.state().schema = Some(schema("older"));
    for status in ["UNKNOWN", "INCONSISTENT"] {
        let page = http::get(cluster.proxy.http_address(), "/cluster/lifecycle").await;
        assert!(
            page.text()
                .contains(&format!("CONSISTENCY_STATUS_{status}"))
        );
    }
    cluster.stop().await;
}

#[tokio::test]
async fn large_group_arrives_in_chunks_of_fifty() {
    let cluster = Cluster::start().await;
    cluster.verdict(CONSISTENT).await;
    let messages = async || {
        let own = http::get(cluster.proxy.http_address(), "/self-metrics")
            .await
            .text();
        let line = own
            .lines()
            .find(|line| line.contains("messages_total{stream=\"schema\"}"));
        line.unwrap()
            .split(' ')
            .next_back()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = messages().await;
    let streams = (0..146).map(|index| object(&format!("s{index}"), "content", 5));
    cluster
        .liaison
        .state()
        .registry
        .insert(("Stream", "g"), streams.collect());
    let page = http::get(cluster.proxy.http_address(), "/cluster/lifecycle").await;
    assert!(page.text().contains("\"s145\""));
    // 150 objects with the group and its rules, and the end.
    assert_eq!(messages().await - before, 4);
    cluster.stop().await;
}

#[tokio::test]
async fn failures_of_the_registry_are_told_and_nothing_is_compared() {
    let cluster = Cluster::start().await;
    cluster.verdict(CONSISTENT).await;
    let objects = cluster
        .liaison
        .state()
        .registry
        .insert(("Stream", "g"), vec![b"\x0a\xff"[..].into()]);
    cluster.verdict("CONSISTENCY_STATUS_UNKNOWN").await;
    cluster
        .liaison
        .state()
        .registry
        .insert(("Stream", "g"), objects.unwrap());
    cluster.verdict(CONSISTENT).await;
    cluster.liaison.state().registry.clear();
    let text = "liaison-0=schema registry: node at";
    cluster.missing("/cluster/lifecycle", text).await;
    cluster
        .missing("/cluster/lifecycle", "this node has no registry")
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn slow_registry_delays_no_other_page_and_no_agent() {
    let cluster = Cluster::start().await;
    cluster.verdict(CONSISTENT).await;
    let gate = Arc::new(Semaphore::new(0));
    let before = {
        let mut state = cluster.liaison.state();
        state.registry_gate = Some(Arc::clone(&gate));
        state.registry_calls
    };
    let proxy = cluster.proxy.http_address();
    let lifecycle = tokio::spawn(async move { http::get(proxy, "/cluster/lifecycle").await });
    while cluster.liaison.state().registry_calls == before {
        tokio::task::yield_now().await;
    }
    for path in [
        "/cluster/topology",
        "/metrics",
        "/agents",
        "/cluster/topology",
    ] {
        let page = http::get(proxy, path).await;
        assert_eq!(
            (page.status, page.header("x-steadfast-missing")),
            (200, None),
            "{path}"
        );
    }
    assert!(!lifecycle.is_finished(), "it waits for the registry");
    gate.add_permits(1_000);
    let page = lifecycle.await.unwrap();
    assert!(page.text().contains(CONSISTENT), "{}", page.text());
    cluster.stop().await;
}

#[tokio::test]
async fn empty_entries_of_a_node_are_refused_before_they_are_decoded() {
    let cluster = Cluster::start().await;
    cluster.verdict(CONSISTENT).await;
    let limit = "88 bytes in memory; the limit is 50331648";
    // Two bytes each on the wire.
    let objects = vec![Bytes::new(); 1_000_000];
    let streams = cluster
        .liaison
        .state()
        .registry
        .insert(("Stream", "g"), objects.clone());
    cluster.verdict("CONSISTENCY_STATUS_UNKNOWN").await;
    cluster
        .liaison
        .state()
        .registry
        .insert(("Stream", "g"), streams.unwrap());
    cluster
        .liaison
        .state()
        .registry
        .insert(("Group", ""), objects);
    cluster
        .missing(
            "/cluster/lifecycle",
            &format!("RegistryListResponse takes 640000{limit}"),
        )
        .await;
    cluster.data.state().tables = vec![("data", vec![Node::default(); 100_000])];
    cluster
        .missing(
            "/cluster/topology",
            "bytes in memory; the limit is 50331648",
        )
        .await;
    cluster.stop().await;
}
