use serde_json::{Value, json};
use steadfast_wire::{
    banyandb::{
        common::v1::{IntervalRule, LifecycleStage, ResourceOpts},
        database::v1::{DataInfo, SegmentInfo, ShardInfo},
    },
    fodc::{LifecycleData, NodeFingerprint, ObjectConsistency, SchemaConsistency},
};

use super::*;
use crate::{lanes::Message, samples::MemoryBudget};

fn identity(name: &str) -> Arc<Identity> {
    Arc::new(Identity::of_pod(name, "r"))
}

/// Returns what agents with these names report; one without data has not responded.
fn collected(registered: usize, reports: Vec<(&str, Option<LifecycleData>)>) -> Lifecycles {
    let budget = MemoryBudget::new(1 << 20);
    let mut all = Lifecycles {
        registered,
        missing: Missing::new(reports.len()),
        ..Lifecycles::default()
    };
    for (name, data) in reports {
        let result = match data {
            None => Err(QueryError::Late),
            Some(data) => Ok(vec![Message {
                body: StreamLifecycleRequest {
                    pod_name: name.to_owned(),
                    lifecycle_data: Some(data),
                    ..StreamLifecycleRequest::default()
                },
                reservation: budget.empty_reservation(),
            }]),
        };
        all.add(StreamResponse {
            agent: AgentId::new(name),
            identity: identity(name),
            result,
        });
    }
    all
}

fn page(all: Lifecycles) -> String {
    String::from_utf8(all.json(&mut SchemaHistory::default())).unwrap()
}

fn group(name: &str) -> GroupLifecycleInfo {
    GroupLifecycleInfo {
        name: name.to_owned(),
        catalog: "CATALOG_STREAM".to_owned(),
        ..GroupLifecycleInfo::default()
    }
}

fn groups(groups: Vec<GroupLifecycleInfo>) -> LifecycleData {
    LifecycleData {
        groups,
        ..LifecycleData::default()
    }
}

#[test]
fn lifecycle_has_the_json_of_the_releases() {
    let data = LifecycleData {
        reports: vec![LifecycleReport {
            filename: "2026-03-01.json".to_owned(),
            report_json: "{}".to_owned(),
        }],
        groups: vec![group("g")],
    };
    // Byte by byte: order, nulls and empty lists are part of the shape.
    assert_eq!(
        page(collected(1, vec![("db-0", Some(data))])),
        "{\"agent_summary\":{\"total\":1,\"requested\":1,\"responded\":1,\"not_responded\":0},\
         \"groups\":[{\"name\":\"g\",\"catalog\":\"CATALOG_STREAM\",\"resource_opts\":null,\
         \"data_info\":[],\"errors\":[],\"schema_consistency\":null}],\
         \"lifecycle_statuses\":[{\"pod_name\":\"db-0\",\"reports\":[{\"filename\":\
         \"2026-03-01.json\",\"report_json\":\"{}\"}]}]}\n"
    );
}

#[test]
fn protobuf_values_have_the_json_of_protojson() {
    let info = GroupLifecycleInfo {
        resource_opts: Some(ResourceOpts {
            shard_num: 2,
            ttl: Some(IntervalRule { unit: 2, num: 7 }),
            stages: vec![LifecycleStage {
                name: "warm".to_owned(),
                ..LifecycleStage::default()
            }],
            ..ResourceOpts::default()
        }),
        data_info: vec![DataInfo {
            segment_info: vec![SegmentInfo {
                segment_id: "s".to_owned(),
                shard_info: vec![ShardInfo {
                    data_count: i64::MAX,
                    ..ShardInfo::default()
                }],
                ..SegmentInfo::default()
            }],
            data_size_bytes: -1,
            ..DataInfo::default()
        }],
        ..group("g")
    };
    let text = page(collected(1, vec![("db-0", Some(groups(vec![info])))]));
    let page: Value = serde_json::from_str(&text).unwrap();
    let group = &page["groups"][0];
    assert_eq!(
        group["resource_opts"],
        json!({
            "shard_num": 2,
            "segment_interval": null,
            "ttl": {"unit": "UNIT_DAY", "num": 7},
            "stages": [{
                "name": "warm", "shard_num": 0, "segment_interval": null, "ttl": null,
                "node_selector": "", "close": false, "replicas": 0,
            }],
            "default_stages": [],
            "replicas": 0,
        })
    );
    assert_eq!(
        group["data_info"],
        json!([{
            "node": null,
            "segment_info": [{
                "segment_id": "s", "time_range_start": "", "time_range_end": "",
                "shard_info": [{
                    "shard_id": 0, "data_count": "9223372036854775807", "data_size_bytes": "0",
                    "part_count": "0", "inverted_index_info": null, "sidx_info": null,
                    "file_part_count": "0",
                }],
                "series_index_info": null,
            }],
            "data_size_bytes": "-1",
        }])
    );
}

#[test]
fn summary_explains_an_empty_page() {
    let without_stream = || {
        let mut all = collected(1, vec![]);
        all.missing = Missing::new(1);
        all.missing.add(&identity("x"), &QueryError::NoStream);
        all
    };
    for (all, error, counts) in [
        (collected(0, vec![]), "no agent is registered", [0, 0, 0, 0]),
        (
            without_stream(),
            "no agent offers lifecycle data: give the agents --lifecycle-port",
            [1, 0, 0, 0],
        ),
        (
            collected(2, vec![("x", None)]),
            "no agent has responded",
            [2, 1, 0, 1],
        ),
    ] {
        let page: Value = serde_json::from_str(&page(all)).unwrap();
        assert_eq!(page["error"], error);
        let summary = ["total", "requested", "responded", "not_responded"];
        assert_eq!(
            summary.map(|name| page["agent_summary"][name].as_u64().unwrap()),
            counts
        );
        assert_eq!(
            (&page["groups"], &page["lifecycle_statuses"]),
            (&json!([]), &json!([]))
        );
    }
    let partly = collected(2, vec![("x", None), ("y", Some(groups(vec![])))]);
    assert!(!page(partly).contains("\"error\""), "one has responded");
}

#[test]
fn errors_of_all_nodes_are_united_and_sorted() {
    let failing = |errors: &[&str]| GroupLifecycleInfo {
        errors: errors.iter().map(|error| (*error).to_owned()).collect(),
        ..group("g")
    };
    let all = collected(
        2,
        vec![
            ("x", Some(groups(vec![failing(&["b", "a"])]))),
            ("y", Some(groups(vec![failing(&["c", "a"]), group("f")]))),
        ],
    );
    let groups = all.into_groups(&mut SchemaHistory::default());
    assert_eq!(groups[0].name, "f", "sorted by name");
    assert_eq!(groups[1].errors, ["a", "b", "c"]);
}

#[test]
fn schema_of_all_nodes_is_united() {
    let on = |node: &str, fingerprint| GroupLifecycleInfo {
        schema_consistency: Some(SchemaConsistency {
            objects: vec![ObjectConsistency {
                kind: "stream".to_owned(),
                name: "s".to_owned(),
                registry_fingerprint: 0,
                node_fingerprints: vec![NodeFingerprint {
                    node: node.to_owned(),
                    cache_fingerprint: fingerprint,
                    runtime_fingerprint: fingerprint,
                }],
            }],
            ..SchemaConsistency::default()
        }),
        ..group("g")
    };
    let reports = vec![
        ("x", Some(groups(vec![on("node-b", 2)]))),
        ("y", Some(groups(vec![on("node-a", u64::MAX)]))),
    ];
    let page: Value = serde_json::from_str(&page(collected(2, reports))).unwrap();
    let schema = &page["groups"][0]["schema_consistency"];
    assert_eq!(
        schema["status"], "CONSISTENCY_STATUS_UNKNOWN",
        "no registry was read"
    );
    let nodes = &schema["objects"][0]["node_fingerprints"];
    assert_eq!(nodes[0]["node"], "node-a");
    assert_eq!(nodes[0]["cache_fingerprint"], u64::MAX.to_string());
    assert_eq!(nodes[1]["node"], "node-b");
}
