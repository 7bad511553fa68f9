//! The comparison of the nodes' schema with the registry of a liaison.

use serde_json::{Value, json};
use steadfast_fodc_proxy::Proxy;
use steadfast_wire::fodc::{
    GroupLifecycleInfo, LifecycleData, NodeFingerprint, ObjectConsistency, SchemaConsistency,
    SchemaObjectFingerprint, SchemaRegistryGroup, StreamLifecycleRequest,
    StreamSchemaRegistryRequest,
};

use crate::{
    agent::{Agent, Answering, answer, metric, ours, pod},
    eventually, get, start,
};

const GAUGE: &str = "banyandb_fodc_schema_consistency_status";

/// Returns the response of a node whose group `g` has these objects: kind, name, cache and runtime.
pub(crate) fn on_node(node: &str, objects: &[(&str, &str, u64, u64)]) -> StreamLifecycleRequest {
    let objects = objects
        .iter()
        .map(|(kind, name, cache, runtime)| ObjectConsistency {
            kind: (*kind).to_owned(),
            name: (*name).to_owned(),
            registry_fingerprint: 0,
            node_fingerprints: vec![NodeFingerprint {
                node: node.to_owned(),
                cache_fingerprint: *cache,
                runtime_fingerprint: *runtime,
            }],
        });
    let schema = SchemaConsistency {
        objects: objects.collect(),
        ..SchemaConsistency::default()
    };
    StreamLifecycleRequest {
        lifecycle_data: Some(LifecycleData {
            groups: vec![GroupLifecycleInfo {
                name: "g".to_owned(),
                catalog: "CATALOG_STREAM".to_owned(),
                schema_consistency: Some(schema),
                ..GroupLifecycleInfo::default()
            }],
            reports: Vec::new(),
        }),
        ..StreamLifecycleRequest::default()
    }
}

/// Returns a chunk of the group `g`.
fn chunk(objects: &[(&str, &str, u64)]) -> StreamSchemaRegistryRequest {
    let objects = objects
        .iter()
        .map(|(kind, name, fingerprint)| SchemaObjectFingerprint {
            kind: (*kind).to_owned(),
            name: (*name).to_owned(),
            fingerprint: *fingerprint,
        });
    StreamSchemaRegistryRequest {
        group: Some(SchemaRegistryGroup {
            group: "g".to_owned(),
            objects: objects.collect(),
            error: String::new(),
        }),
        done: false,
    }
}

fn done() -> StreamSchemaRegistryRequest {
    StreamSchemaRegistryRequest {
        group: None,
        done: true,
    }
}

/// Registers a liaison whose registry has the group and the stream `s` with the fingerprint 7.
async fn liaison(proxy: &Proxy) -> (Agent, Answering) {
    let liaison = Agent::register(proxy, pod("liaison-0", "ROLE_LIAISON")).await;
    let registry = answer!(liaison, stream_schema_registry, |query| {
        assert!(query.request_registry);
        vec![
            chunk(&[("group", "g", 1)]),
            chunk(&[("stream", "s", 7)]),
            done(),
        ]
    });
    (liaison, registry)
}

fn schema(page: &Value) -> &Value {
    &page["groups"][0]["schema_consistency"]
}

#[tokio::test]
async fn schema_of_the_nodes_is_compared_with_a_liaisons_registry() {
    let proxy = start().await;
    let _liaison = liaison(&proxy).await;
    let node = Agent::register(&proxy, ours("db-0", "i")).await;
    // An orphan, and a stream that is not applied.
    let _node = answer!(node, stream_lifecycle, |_| vec![on_node(
        "a",
        &[
            ("group", "g", 1, 0),
            ("measure", "old", 5, 5),
            ("stream", "s", 7, 0)
        ]
    )]);
    assert!(
        !get(&proxy, "/metrics").await.body.contains(GAUGE),
        "no verdict yet"
    );
    let page = get(&proxy, "/cluster/lifecycle").await;
    // The liaison offers no lifecycle stream.
    assert_eq!(page.missing(), Some("1; liaison-0=no stream"));
    let mut expected = json!({
        "status": "CONSISTENCY_STATUS_UNKNOWN",
        "objects": [
            {"kind": "group", "name": "g", "registry_fingerprint": "1", "node_fingerprints":
                [{"node": "a", "cache_fingerprint": "1", "runtime_fingerprint": "0"}]},
            {"kind": "measure", "name": "old", "registry_fingerprint": "0", "node_fingerprints":
                [{"node": "a", "cache_fingerprint": "5", "runtime_fingerprint": "5"}]},
            {"kind": "stream", "name": "s", "registry_fingerprint": "7", "node_fingerprints":
                [{"node": "a", "cache_fingerprint": "7", "runtime_fingerprint": "0"}]},
        ],
        "issues": [
            {"kind": "measure", "name": "old", "node": "a", "type": "SCHEMA_ISSUE_TYPE_ORPHAN"},
            {"kind": "stream", "name": "s", "node": "a",
                "type": "SCHEMA_ISSUE_TYPE_RUNTIME_NOT_APPLIED"},
        ],
    });
    assert_eq!(*schema(&page.json()), expected);
    // A difference that is seen again counts.
    let page = get(&proxy, "/cluster/lifecycle").await.json();
    expected["status"] = json!("CONSISTENCY_STATUS_INCONSISTENT");
    assert_eq!(*schema(&page), expected);
    let metrics = get(&proxy, "/metrics").await.body;
    let gauge = format!("# TYPE {GAUGE} gauge\n{GAUGE}{{group=\"g\"}} 2\n");
    assert!(metrics.contains(&gauge), "{metrics}");
    assert!(metrics.contains(&format!("# HELP {GAUGE} ")), "{metrics}");
    for filtered in ["role=r", "pod_name=db-0", "name=m"] {
        let page = get(&proxy, &format!("/metrics?{filtered}")).await;
        assert!(!page.body.contains(GAUGE), "{filtered}");
    }
}

#[tokio::test]
async fn equal_schema_is_consistent_at_once() {
    let proxy = start().await;
    let _liaison = liaison(&proxy).await;
    let node = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let _node = answer!(node, stream_lifecycle, |_| vec![on_node(
        "a",
        &[("group", "g", 1, 1), ("stream", "s", 7, 7)]
    )]);
    // It scrapes another proxy.
    let _metrics = node
        .responding(vec![metric(GAUGE, &[("group", "h")], 2.0)])
        .await;
    let page = get(&proxy, "/cluster/lifecycle").await.json();
    assert_eq!(schema(&page)["status"], "CONSISTENCY_STATUS_CONSISTENT");
    assert_eq!(schema(&page)["issues"], json!([]));
    let metrics = get(&proxy, "/metrics").await.body;
    assert!(
        metrics.contains(&format!("{GAUGE}{{group=\"g\"}} 1\n")),
        "{metrics}"
    );
    assert_eq!(metrics.matches(GAUGE).count(), 3, "one family: {metrics}");
}

#[tokio::test]
async fn two_quick_pages_do_not_count_cached_evidence_twice() {
    let proxy = start().await;
    let _liaison = liaison(&proxy).await;
    // An agent of the newest version keeps its evidence for ten minutes.
    let node = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let _node = answer!(node, stream_lifecycle, |_| vec![on_node(
        "a",
        &[("group", "g", 1, 1), ("stream", "s", 6, 6)]
    )]);
    for _ in 0..3 {
        let page = get(&proxy, "/cluster/lifecycle").await.json();
        assert_eq!(schema(&page)["status"], "CONSISTENCY_STATUS_UNKNOWN");
        assert_eq!(
            schema(&page)["issues"][0]["type"],
            "SCHEMA_ISSUE_TYPE_CACHE_STALE"
        );
    }
}

#[tokio::test]
async fn page_says_why_the_registry_is_not_known() {
    let proxy = start().await;
    let node = Agent::register(&proxy, ours("db-0", "i")).await;
    let _node = answer!(node, stream_lifecycle, |_| vec![on_node(
        "a",
        &[("group", "g", 1, 1)]
    )]);
    let page = get(&proxy, "/cluster/lifecycle").await;
    assert_eq!(
        page.missing(),
        Some("1; schema_registry=no agent with the role ROLE_LIAISON is online")
    );
    assert_eq!(schema(&page.json())["status"], "CONSISTENCY_STATUS_UNKNOWN");
    let liaison = Agent::register(&proxy, pod("liaison-0", "ROLE_LIAISON")).await;
    let failing = || StreamSchemaRegistryRequest {
        group: Some(SchemaRegistryGroup {
            error: "no leader".to_owned(),
            ..SchemaRegistryGroup::default()
        }),
        done: false,
    };
    let _registry = answer!(liaison, stream_schema_registry, move |_| vec![
        failing(),
        done()
    ]);
    let told = |page: &crate::http::Response| {
        let missing = page.missing().unwrap_or_default();
        missing.contains("liaison-0=schema registry: no leader")
    };
    let page = eventually(&proxy, "/cluster/lifecycle", told).await;
    assert_eq!(schema(&page.json())["status"], "CONSISTENCY_STATUS_UNKNOWN");
}

#[tokio::test]
async fn killed_liaison_costs_no_wait_for_its_registry() {
    let proxy = start().await;
    let node = Agent::register(&proxy, ours("db-0", "i")).await;
    let _node = answer!(node, stream_lifecycle, |_| vec![on_node(
        "a",
        &[("group", "g", 1, 1), ("stream", "s", 7, 7)]
    )]);
    let killed = Agent::register(&proxy, pod("liaison-9", "ROLE_LIAISON")).await;
    // Sends a part, and no more.
    let half = answer!(killed, stream_schema_registry, |_| vec![chunk(&[(
        "group", "g", 1
    )])]);
    let reading = get(&proxy, "/cluster/lifecycle");
    let killing = async {
        let received = "messages_total{stream=\"schema\"} 1";
        crate::containing(&proxy, "/self-metrics", received).await;
        let other = liaison(&proxy).await;
        drop((half, killed));
        other
    };
    // The one that registers meanwhile is not asked any more, as the page has begun.
    let (page, _other) = tokio::join!(reading, killing);
    let missing = page.missing().unwrap();
    assert!(
        missing.contains("liaison-9=schema registry: stream ended"),
        "{missing}"
    );
    let page = get(&proxy, "/cluster/lifecycle").await.json();
    assert_eq!(schema(&page)["status"], "CONSISTENCY_STATUS_CONSISTENT");
}
