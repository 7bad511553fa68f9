//! A plain agent of each version of the original, with the streams that it has.

use serde_json::{Value, json};
use steadfast_wire::{
    banyandb::{common::v1::Metadata, database::v1::Node},
    fodc::{
        Call, ListComplete, PressureProfileRecord, RegisterAgentRequest, SchemaObjectFingerprint,
        SchemaRegistryGroup, StreamClusterTopologyRequest, StreamCrashDiagnosticsRequest,
        StreamLifecycleRequest, StreamPressureProfilesRequest, StreamPressureProfilesResponse,
        StreamSchemaRegistryRequest, Topology, stream_pressure_profiles_request::Payload,
        stream_pressure_profiles_response::Command,
    },
};

use crate::{
    agent::{Agent, Answering, answer, metric, pod, seed},
    complete, get,
    schema::on_node,
    start,
};

/// A version of the original agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Seed,
    V0_10_0,
    V0_10_1,
    V0_10_2,
    V0_10_3,
    Newest,
}

const VERSIONS: [Version; 6] = [
    Version::Seed,
    Version::V0_10_0,
    Version::V0_10_1,
    Version::V0_10_2,
    Version::V0_10_3,
    Version::Newest,
];

impl Version {
    fn registration(self, name: &str) -> RegisterAgentRequest {
        match self {
            Self::Seed => seed("10.0.0.1", 17_912, "liaison"),
            _ => pod(name, "ROLE_LIAISON"),
        }
    }

    /// Returns the lifecycle data with the fields that the version has.
    fn lifecycle(self, name: &str) -> StreamLifecycleRequest {
        let mut response = on_node("a", &[("group", "g", 1, 1)]);
        name.clone_into(&mut response.pod_name);
        let group = &mut response.lifecycle_data.get_or_insert_default().groups[0];
        if self >= Self::V0_10_3 {
            group.errors = vec!["slow disk".to_owned()];
        }
        if self < Self::Newest {
            group.schema_consistency = None;
        }
        response
    }

    /// Opens the streams that the version has, in its order.
    async fn open(self, agent: &Agent, name: &'static str) -> Vec<Answering> {
        let mut streams = Vec::new();
        if self >= Self::V0_10_0 {
            streams.push(answer!(agent, stream_cluster_topology, |query| {
                assert!(query.request_topology);
                vec![topology()]
            }));
        }
        if self >= Self::V0_10_1 {
            streams.push(answer!(agent, stream_lifecycle, move |query| {
                assert!(query.request_lifecycle);
                vec![self.lifecycle(name)]
            }));
        }
        if self >= Self::Newest {
            streams.push(answer!(agent, stream_crash_diagnostics, |query| {
                assert!(query.request_diagnostics);
                let artifact_dir = "1".to_owned();
                vec![StreamCrashDiagnosticsRequest {
                    artifact_dir,
                    ..Default::default()
                }]
            }));
            streams.push(answer!(agent, stream_pressure_profiles, profiles));
            streams.push(answer!(agent, stream_schema_registry, |query| {
                assert!(query.request_registry);
                registry().to_vec()
            }));
        }
        streams
    }
}

fn topology() -> StreamClusterTopologyRequest {
    let node = |name: &str| Node {
        metadata: Some(Metadata {
            name: name.to_owned(),
            ..Metadata::default()
        }),
        ..Node::default()
    };
    StreamClusterTopologyRequest {
        topology: Some(Topology {
            nodes: vec![node("a"), node("b")],
            calls: vec![Call {
                id: "a-b".to_owned(),
                source: "a".to_owned(),
                target: "b".to_owned(),
            }],
        }),
        ..StreamClusterTopologyRequest::default()
    }
}

fn profiles(query: StreamPressureProfilesResponse) -> Vec<StreamPressureProfilesRequest> {
    let Some(Command::ListProfiles(list)) = query.command else {
        return vec![];
    };
    let record = Payload::Record(PressureProfileRecord {
        profile_id: "p".to_owned(),
        ..PressureProfileRecord::default()
    });
    let request_id = list.request_id;
    let end = Payload::ListComplete(ListComplete { request_id });
    let messages = [record, end].map(Some);
    messages
        .map(|payload| StreamPressureProfilesRequest { payload })
        .to_vec()
}

fn registry() -> [StreamSchemaRegistryRequest; 2] {
    let group = SchemaRegistryGroup {
        group: "g".to_owned(),
        objects: vec![SchemaObjectFingerprint {
            kind: "group".to_owned(),
            name: "g".to_owned(),
            fingerprint: 1,
        }],
        error: String::new(),
    };
    [
        StreamSchemaRegistryRequest {
            group: Some(group),
            done: false,
        },
        StreamSchemaRegistryRequest {
            group: None,
            done: true,
        },
    ]
}

#[tokio::test]
async fn each_version_serves_the_pages_that_it_has_streams_for() {
    for version in VERSIONS {
        let proxy = start().await;
        let agent = Agent::register(&proxy, version.registration("db-0")).await;
        let _metrics = agent.responding(vec![metric("up", &[], 1.0)]).await;
        let _streams = version.open(&agent, "db-0").await;

        let page = get(&proxy, "/cluster/topology").await;
        if version < Version::V0_10_0 {
            assert_eq!(page.status, 501, "{version:?}");
        } else {
            let expected = json!({
                "nodes": [
                    {"metadata": {"name": "a"}, "roles": []},
                    {"metadata": {"name": "b"}, "roles": []},
                ],
                "calls": [{"id": "a-b", "target": "b", "source": "a"}],
            });
            assert_eq!(page.json(), expected, "{version:?}");
        }

        let page = get(&proxy, "/cluster/lifecycle").await.json();
        let asked = u64::from(version >= Version::V0_10_1);
        assert_eq!(
            page["agent_summary"],
            json!({"total": 1, "requested": asked, "responded": asked, "not_responded": 0}),
            "{version:?}"
        );
        let told = page["error"].as_str().unwrap_or_default();
        assert_eq!(told.contains("--lifecycle-port"), asked == 0, "{version:?}");
        assert_eq!(page["groups"], groups(version), "{version:?}");

        for (path, name, value) in [
            ("/diagnostics", "artifact_dir", "1"),
            ("/pressure-profiles", "profile_id", "p"),
        ] {
            let page = get(&proxy, path).await;
            if version < Version::Newest {
                assert_eq!(page.status, 501, "{version:?} {path}");
            } else {
                assert_eq!(page.json()[0][name], value, "{version:?} {path}");
            }
        }

        // Alive afterwards, under the same id.
        assert!(
            complete(&proxy, "/metrics").await.body.contains("up{"),
            "{version:?}"
        );
        let agents = get(&proxy, "/agents").await.json();
        assert_eq!(agents[0]["agent_id"], *agent.id, "{version:?}");
        assert_eq!(agents[0]["status"], "online", "{version:?}");
    }
}

/// Returns the groups that the page has of an agent of a version.
fn groups(version: Version) -> Value {
    if version < Version::V0_10_1 {
        return json!([]);
    }
    let errors = if version >= Version::V0_10_3 {
        json!(["slow disk"])
    } else {
        json!([])
    };
    let schema = if version < Version::Newest {
        Value::Null
    } else {
        json!({
            "status": "CONSISTENCY_STATUS_CONSISTENT",
            "objects": [{
                "kind": "group", "name": "g", "registry_fingerprint": "1", "node_fingerprints":
                    [{"node": "a", "cache_fingerprint": "1", "runtime_fingerprint": "1"}],
            }],
            "issues": [],
        })
    };
    json!([{
        "name": "g", "catalog": "CATALOG_STREAM", "resource_opts": null, "data_info": [],
        "errors": errors, "schema_consistency": schema,
    }])
}

#[tokio::test]
async fn agents_of_all_versions_together_lose_no_page() {
    let proxy = start().await;
    let names = ["s", "a", "b", "c", "d", "e"];
    let mut agents = Vec::new();
    for (version, name) in VERSIONS.into_iter().zip(names) {
        let agent = Agent::register(&proxy, version.registration(name)).await;
        let streams = version.open(&agent, name).await;
        agents.push((agent, streams));
    }
    let topology = get(&proxy, "/cluster/topology").await;
    assert_eq!(topology.missing(), Some("1; 10.0.0.1:17912=no stream"));
    assert_eq!(topology.json()["nodes"].as_array().unwrap().len(), 2);
    let lifecycle = get(&proxy, "/cluster/lifecycle").await.json();
    assert_eq!(
        lifecycle["agent_summary"],
        json!({"total": 6, "requested": 4, "responded": 4, "not_responded": 0})
    );
    assert_eq!(lifecycle["groups"], groups(Version::Newest));
    for path in ["/diagnostics", "/pressure-profiles"] {
        let page = get(&proxy, path).await;
        assert_eq!(page.json()[0]["pod_name"], "e", "{path}");
    }
}
