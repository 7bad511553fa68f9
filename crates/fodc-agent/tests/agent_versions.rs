//! An agent with every source, and plain proxies of each version of the original in turn.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;
mod uplink_support;

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use agent_support::{
    cluster::settings,
    exporter::Exporter,
    node::{StubNode, node},
    page_with,
    pressure::{memory_page, pprof, profiler},
    schema::{fill_registry, schema},
    stop,
};
use steadfast_fodc_agent::{Agent, Config};
use steadfast_wire::{
    banyandb::database::v1::Role,
    fodc::{
        FetchPressureProfile, GroupLifecycleInfo, ListProfiles, PressureProfileRecord,
        StreamClusterTopologyResponse, StreamCrashDiagnosticsResponse, StreamLifecycleResponse,
        StreamPressureProfilesResponse, StreamSchemaRegistryResponse,
        stream_pressure_profiles_request::Payload, stream_pressure_profiles_response::Command,
    },
};
use uplink_support::{
    latest,
    server::{Behaviour, Dialect, Proxy},
};

/// The newest report, and one that together with it exceeds the message limit of the releases.
const REPORTS: [(&str, usize); 2] = [("2026-03-02.json", 2), ("2026-03-01.json", 9 << 19)];

/// Starts a node with a registry, a group and its schema.
async fn start_node() -> StubNode {
    let stub = StubNode::start(node("a", &[Role::Liaison], &[])).await;
    let mut state = stub.state();
    state.tables = vec![("data", vec![node("b", &[Role::Data], &[])])];
    state.groups = Some(vec![GroupLifecycleInfo {
        name: "g".to_owned(),
        catalog: "CATALOG_STREAM".to_owned(),
        ..GroupLifecycleInfo::default()
    }]);
    state.schema = Some(schema("content"));
    fill_registry(&mut state);
    drop(state);
    stub
}

/// Returns settings with all five sources, and intervals that show a storm within a second.
fn config(
    node: SocketAddr,
    proxy: SocketAddr,
    (exporter, pprof): (&Exporter, &Exporter),
    files: &Path,
) -> Config {
    let panics = files.join("panics/1");
    fs::create_dir_all(&panics).unwrap();
    fs::write(panics.join("panic.json"), r#"{"panicValue":"boom"}"#).unwrap();
    let reports = files.join("reports");
    fs::create_dir(&reports).unwrap();
    for (name, bytes) in REPORTS {
        fs::write(reports.join(name), "x".repeat(bytes)).unwrap();
    }
    let mut config = settings(node, proxy, exporter);
    config.uplink.as_mut().unwrap().heartbeat_interval = Duration::from_millis(100);
    config.node.lifecycle = Some(node);
    config.node.lifecycle_reports = Some(reports);
    config.node.schema_registry = Some(node);
    config.crashes.directory = Some(files.join("panics"));
    config.pressure = Some(profiler(pprof, &files.join("profiles")));
    config
}

#[tokio::test]
async fn each_proxy_version_gets_the_responses_that_it_asks_for() {
    let (stub, exporter, pprof) = (start_node().await, memory_page(750), pprof("200 OK"));
    let files = tempfile::tempdir().unwrap();
    let mut proxy = Proxy::start(Behaviour::of(Dialect::ALL[0]));
    let config = config(stub.address, proxy.addr, (&exporter, &pprof), files.path());
    let agent = Agent::start(config).await.unwrap();
    page_with(&agent, "fodc_agent_pressure_capture_total 1").await;

    // Upgrades, and one rollback: a stream that is gone is off again.
    let versions = Dialect::ALL.into_iter().chain([Dialect::V0_10_1]);
    for (restarts, version) in versions.enumerate() {
        if restarts > 0 {
            proxy = proxy.restart(Behaviour::of(version));
        }
        proxy
            .until("a registration", |log| log.registrations.len() > restarts)
            .await;
        assert_registration(&proxy, &stub, restarts).await;

        // Twice, on the same streams.
        for _ in 0..2 {
            proxy.query(latest()).await;
            let (_, response) = proxy.response().await;
            let mut metrics = response.metrics.into_iter();
            let rss = metrics.find(|metric| metric.name == "process_resident_memory_bytes");
            let rss = rss.unwrap();
            assert_eq!((rss.value, &*rss.labels["pod_name"]), (750.0, "db-0"));

            if version >= Dialect::V0_10_0 {
                assert_topology(&proxy).await;
            }
            if version >= Dialect::V0_10_1 {
                assert_lifecycle(&proxy, version).await;
            }
            if version >= Dialect::Newest {
                assert_crash(&proxy).await;
                let record = assert_list(&proxy).await;
                assert_download(&proxy, &record).await;
                assert_registry(&proxy).await;
            }
        }

        // A retry would come with the reconnect interval, which is as long as that of the heartbeats.
        let before = proxy.log().heartbeats;
        proxy
            .until("heartbeats", |log| log.heartbeats > before + 10)
            .await;
        assert_eq!(proxy.lanes.calls(), [1; 5], "{version:?}");
        let log = proxy.log();
        let counts = (log.registrations.len(), log.refusals, log.crashes);
        assert_eq!(counts, (restarts + 1, 0, 0), "{version:?}");
    }
    stop(agent).await;
}

/// Asserts that the role and the labels of the node are in the registration and in heartbeats, with the
/// name of the agent in both dialects.
async fn assert_registration(proxy: &Proxy, stub: &StubNode, restarts: usize) {
    let label = restarts.to_string();
    stub.state().node = node("a", &[Role::Liaison], &[("restarts", &label)]);
    proxy
        .until("the new label", |log| {
            log.last_heartbeat.labels.get("restarts") == Some(&label)
        })
        .await;
    let log = proxy.log();
    for request in [log.registrations.last().unwrap(), &log.last_heartbeat] {
        let address = request.primary_address.as_ref().unwrap();
        assert_eq!(
            (&*address.ip, &*request.pod_name, &*request.node_role),
            ("db-0", "db-0", "ROLE_LIAISON"),
            "{restarts}"
        );
    }
}

async fn assert_topology(proxy: &Proxy) {
    let request_topology = true;
    let query = StreamClusterTopologyResponse { request_topology };
    proxy.lanes.topology.query(query).await;
    let response = proxy.lanes.topology.response().await;
    let topology = response.topology.unwrap();
    let names = topology.nodes.iter();
    let names: Vec<_> = names
        .map(|node| &*node.metadata.as_ref().unwrap().name)
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(topology.nodes[0].labels["pod_name"], "db-0");
    assert_eq!(topology.calls[0].id, "a-b");
    assert_eq!(response.error, "", "no plain proxy reads it");
}

/// Asserts that the lifecycle has as many reports as fit a message of the version. Versions skip the
/// fields of the groups that they do not know.
async fn assert_lifecycle(proxy: &Proxy, version: Dialect) {
    let request_lifecycle = true;
    let query = StreamLifecycleResponse { request_lifecycle };
    proxy.lanes.lifecycle.query(query).await;
    let response = proxy.lanes.lifecycle.response().await;
    assert_eq!((&*response.pod_name, &*response.error), ("db-0", ""));
    let data = response.lifecycle_data.unwrap();
    let group = &data.groups[0];
    assert_eq!((&*group.name, &*group.catalog), ("g", "CATALOG_STREAM"));
    let schema = group.schema_consistency.as_ref().unwrap();
    assert_eq!((schema.status, schema.objects.len()), (0, 6));
    let reports = data.reports.iter();
    let reports: Vec<_> = reports
        .map(|report| (&*report.filename, report.report_json.len()))
        .collect();
    let fitting = if version >= Dialect::Newest { 2 } else { 1 };
    assert_eq!(reports, REPORTS[..fitting], "{version:?}");
}

/// Asserts that a crash comes without an end marker, which would be the response to the next query.
async fn assert_crash(proxy: &Proxy) {
    let request_diagnostics = true;
    let query = StreamCrashDiagnosticsResponse {
        request_diagnostics,
    };
    proxy.lanes.crashes.query(query).await;
    let crash = proxy.lanes.crashes.response().await;
    assert_eq!((&*crash.artifact_dir, crash.complete), ("1", false));
    assert_eq!(crash.panic_record.unwrap().panic_value, "boom");
}

async fn next_profile_message(proxy: &Proxy) -> Payload {
    proxy.lanes.profiles.response().await.payload.unwrap()
}

/// Asserts that the list of profiles ends with its request id, and returns the only record.
async fn assert_list(proxy: &Proxy) -> PressureProfileRecord {
    let list = ListProfiles {
        request_id: "list".to_owned(),
    };
    let command = Some(Command::ListProfiles(list));
    let query = StreamPressureProfilesResponse { command };
    proxy.lanes.profiles.query(query).await;
    let messages = [
        next_profile_message(proxy).await,
        next_profile_message(proxy).await,
    ];
    let [Payload::Record(record), Payload::ListComplete(complete)] = messages else {
        panic!("{messages:?}");
    };
    assert_eq!((record.rss_bytes, &*complete.request_id), (750, "list"));
    record
}

/// Asserts that a profile comes in chunks that name their request, up to the last one.
async fn assert_download(proxy: &Proxy, record: &PressureProfileRecord) {
    let heap = record.profiles.iter().find(|file| file.r#type == "heap");
    let command = Some(Command::FetchProfile(FetchPressureProfile {
        request_id: "fetch".to_owned(),
        profile_id: record.profile_id.clone(),
        r#type: "heap".to_owned(),
        filepath: heap.unwrap().filepath.clone(),
    }));
    let query = StreamPressureProfilesResponse { command };
    proxy.lanes.profiles.query(query).await;
    let mut lengths = Vec::new();
    loop {
        let Payload::Chunk(chunk) = next_profile_message(proxy).await else {
            panic!("not a chunk after {lengths:?}");
        };
        assert_eq!(
            (&*chunk.request_id, &*chunk.profile_id, &*chunk.r#type),
            ("fetch", &*record.profile_id, "heap")
        );
        assert_eq!(chunk.error, "");
        lengths.push(chunk.data.len());
        if chunk.last {
            break;
        }
    }
    assert_eq!(lengths, [1 << 20, 1 << 20, 1 << 20, 0]);
}

async fn assert_registry(proxy: &Proxy) {
    let request_registry = true;
    let query = StreamSchemaRegistryResponse { request_registry };
    proxy.lanes.schema.query(query).await;
    let message = proxy.lanes.schema.response().await;
    let group = message.group.unwrap();
    assert_eq!(
        (&*group.group, &*group.error, message.done),
        ("g", "", false)
    );
    let names: Vec<_> = group.objects.iter().map(|object| &*object.name).collect();
    assert_eq!(names, ["g", "x", "y", "z", "s", "t"]);
    let end = proxy.lanes.schema.response().await;
    assert_eq!((end.group, end.done), (None, true));
}
