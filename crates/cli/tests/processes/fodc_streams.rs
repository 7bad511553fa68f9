//! The six other streams as processes: a database node with scripted services, the agent, the proxy.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use serde_json::{Value, json};
use steadfast_wire::{
    banyandb::{
        common::v1::ResourceOpts,
        database::v1::{DataInfo, Role},
    },
    fodc::GroupLifecycleInfo,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    fodc::{Exporter, PROXY, Ready, agent, start, terminate, until},
    node::{StubNode, node},
    process::{LIMIT, words},
    schema::{fill_registry, schema},
};

const PANIC: &str = r#"{"component":"measure","panicValue":"boom","goroutineStack":"main",
    "occurredAt":"2026-03-01T08:00:00Z","recovered":true,"processMetadata":{"pid":"7"},
    "breadcrumbs":[{"time":"2026-03-01T07:59:59Z","stage":"flush","component":"shard",
    "fields":{"part":"3"}}]}"#;

/// A node that is a liaison, an exporter under memory pressure, and the directories of an agent.
struct Database {
    node: StubNode,
    exporter: Exporter,
    profiler: Exporter,
    temp: TempDir,
}

impl Database {
    /// Starts a database whose profiles have this text.
    async fn start(profile: String) -> Self {
        let node = StubNode::start(node("a:17912", &[Role::Liaison], &[("type", "hot")])).await;
        {
            let mut state = node.state();
            fill_registry(&mut state);
            state.schema = Some(schema("content"));
            state.tables = vec![(
                "data",
                vec![crate::node::node("b:17912", &[Role::Data], &[])],
            )];
            state.groups = Some(vec![GroupLifecycleInfo {
                name: "g".to_owned(),
                catalog: "CATALOG_STREAM".to_owned(),
                resource_opts: Some(ResourceOpts {
                    shard_num: 2,
                    ..ResourceOpts::default()
                }),
                data_info: vec![DataInfo {
                    data_size_bytes: 1 << 40,
                    ..DataInfo::default()
                }],
                errors: vec!["slow disk".to_owned()],
                schema_consistency: None,
            }]);
        }
        let memory = "process_resident_memory_bytes 800\n\
                      banyandb_memory_protector_cgroup_limit_bytes 1000\n";
        let temp = tempfile::tempdir().unwrap();
        for folder in ["reports", "crashes/1", "profiles"] {
            fs::create_dir_all(temp.path().join(folder)).unwrap();
        }
        fs::write(temp.path().join("crashes/1/panic.json"), PANIC).unwrap();
        fs::write(temp.path().join("crashes/1/core.txt"), "core").unwrap();
        fs::write(temp.path().join("reports/2026-03-01.json"), "{\"moved\":1}").unwrap();
        Self {
            node,
            exporter: Exporter::with(memory.to_owned()).await,
            profiler: Exporter::with(profile).await,
            temp,
        }
    }

    fn path(&self, name: &str) -> String {
        self.temp.path().join(name).display().to_string()
    }

    /// Starts the agent with all of its sources. The memory of the database is 80 % of its limit: a
    /// capture is due below that trigger.
    async fn agent(&self, proxy: SocketAddr, trigger_percent: u32) -> Ready {
        let port = self.node.address.port();
        let line = format!(
            "--proxy-addr {proxy} --pod-name db-0 --cluster-state-ports {port} \
             --lifecycle-port {port} --schema-registry-port {port} --lifecycle-report-dir {} \
             --crash-source-dir {} --pressure-profiler-enabled=true \
             --pressure-profiler-trigger-percent {trigger_percent} \
             --pressure-profiler-pprof-port {} --pressure-profiler-dir {} \
             --reconnect-interval 200ms",
            self.path("reports"),
            self.path("crashes"),
            self.profiler.port,
            self.path("profiles"),
        );
        let record = self.temp.path().join("record");
        agent(self.exporter.port, &record, &words(&line)).await
    }

    /// Returns the id and the size of the one profile that was captured.
    async fn profile(&self) -> (String, usize) {
        let folder = self.temp.path().join("profiles");
        until("a capture is complete", async || {
            let entry = fs::read_dir(&folder).unwrap().next()?.unwrap();
            entry.path().join("meta.json").exists().then_some(())?;
            let heap = fs::metadata(entry.path().join("heap.pprof")).unwrap().len();
            Some((entry.file_name().into_string().unwrap(), heap as usize))
        })
        .await
    }

    /// Returns each page as the contract has it, without what differs from run to run.
    fn pages(&self, id: &str) -> [(&'static str, Value); 4] {
        let file = |kind: &str| {
            let path = Path::new(&self.path("profiles"))
                .join(id)
                .join(format!("{kind}.pprof"));
            json!({
                "type": kind, "filename": format!("{kind}.pprof"), "filepath": path,
                "format": "pprof", "size_bytes": fs::metadata(&path).unwrap().len(),
            })
        };
        let endpoint = format!("http://localhost:{}/debug/pprof/heap", self.profiler.port);
        [
            ("/cluster/topology", topology()),
            ("/cluster/lifecycle", lifecycle()),
            (
                "/diagnostics",
                json!([{
                    "pod_name": "db-0", "role": "ROLE_LIAISON", "artifact_dir": "1",
                    "source_endpoint": format!("file://{}", self.path("crashes")),
                    "files": ["core.txt", "panic.json"],
                    "panic_record": {
                        "component": "measure", "panic_value": "boom", "goroutine_stack": "main",
                        "occurred_at": "2026-03-01T08:00:00Z", "recovered": true,
                        "process_metadata": {"pid": "7"},
                        "breadcrumbs": [{
                            "occurred_at": "2026-03-01T07:59:59Z", "stage": "flush",
                            "component": "shard", "fields": {"part": "3"},
                        }],
                    },
                }]),
            ),
            (
                "/pressure-profiles",
                json!([{
                    "pod_name": "db-0", "role": "ROLE_LIAISON", "profile_id": id,
                    "source_endpoint": endpoint,
                    "rss_bytes": 800, "cgroup_limit_bytes": 1000, "threshold_bytes": 750,
                    "trigger_percent": 75, "profiles": [file("heap"), file("goroutine")],
                }]),
            ),
        ]
    }
}

fn topology() -> Value {
    json!({
        "nodes": [
            {"metadata": {"name": "a:17912"}, "labels": {"pod_name": "db-0", "type": "hot"},
                "status": "online", "roles": ["ROLE_LIAISON"]},
            {"metadata": {"name": "b:17912"}, "roles": ["ROLE_DATA"]},
        ],
        "calls": [{"id": "a:17912-b:17912", "target": "b:17912", "source": "a:17912"}],
    })
}

/// The fingerprints themselves are tested with the agent.
fn lifecycle() -> Value {
    let object = |kind: &str, name: &str| json!({"kind": kind, "name": name});
    json!({
        "agent_summary": {"total": 1, "requested": 1, "responded": 1, "not_responded": 0},
        "groups": [{
            "name": "g", "catalog": "CATALOG_STREAM",
            "resource_opts": {
                "shard_num": 2, "segment_interval": null, "ttl": null, "stages": [],
                "default_stages": [], "replicas": 0,
            },
            "data_info": [{"node": null, "segment_info": [], "data_size_bytes": "1099511627776"}],
            "errors": ["slow disk"],
            "schema_consistency": {
                "status": "CONSISTENCY_STATUS_CONSISTENT",
                "objects": [
                    object("group", "g"), object("indexRule", "x"), object("indexRule", "y"),
                    object("indexRule", "z"), object("stream", "s"), object("stream", "t"),
                ],
                "issues": [],
            },
        }],
        "lifecycle_statuses": [{"pod_name": "db-0", "reports": [
            {"filename": "2026-03-01.json", "report_json": "{\"moved\":1}"},
        ]}],
    })
}

/// Removes the fields that differ from run to run, wherever they are.
fn without_volatile(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in [
                "agent_id",
                "fetched_at",
                "captured_at",
                "last_heartbeat",
                "registry_fingerprint",
                "node_fingerprints",
            ] {
                fields.remove(name);
            }
            fields.values_mut().for_each(without_volatile);
        }
        Value::Array(values) => values.iter_mut().for_each(without_volatile),
        _ => {}
    }
}

/// Returns the status and the body of a page.
async fn get(server: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    let exchange = async {
        let mut socket = requested(server, path).await;
        let mut response = Vec::new();
        socket.read_to_end(&mut response).await.unwrap();
        response
    };
    let response = timeout(LIMIT, exchange).await.expect("a response in time");
    split(&response)
}

async fn requested(server: SocketAddr, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(server).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

fn split(response: &[u8]) -> (u16, Vec<u8>) {
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = response.split_at(end.expect("the end of a head") + 4);
    let status = String::from_utf8_lossy(&head[9..12]).parse().unwrap();
    (status, body.to_vec())
}

/// Waits until the proxy has each page as expected.
async fn all_pages(proxy: SocketAddr, pages: &[(&'static str, Value)]) {
    for (path, expected) in pages {
        let mut last = Value::Null;
        for _ in 0..300 {
            let (status, body) = get(proxy, path).await;
            last = serde_json::from_slice(&body).unwrap_or_else(|_| json!(status));
            without_volatile(&mut last);
            if last == *expected {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(last, *expected, "{path}");
    }
}

/// Starts a proxy on these ports, which are free.
async fn proxy_at(grpc: SocketAddr, http: SocketAddr) -> Ready {
    let line = format!("fodc proxy --grpc-listen-addr {grpc} --http-listen-addr {http}");
    start(&words(&line)).await
}

async fn free() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_as_in_the_contract_across_restarts_and_kills() {
    let database = Database::start(String::new()).await;
    let (grpc, http) = (free().await, free().await);
    let proxy = proxy_at(grpc, http).await;
    let mut agent = database.agent(grpc, 75).await;
    let (id, size) = database.profile().await;
    let pages = database.pages(&id);
    all_pages(http, &pages).await;
    let download = format!("/pressure-profiles/db-0/{id}/heap");
    let heap = fs::read(format!("{}/{id}/heap.pprof", database.path("profiles"))).unwrap();
    assert_eq!(heap.len(), size);
    assert_eq!(get(http, &download).await, (200, heap.clone()));
    let (_, metrics) = get(http, "/metrics").await;
    let gauge = "\nbanyandb_fodc_schema_consistency_status{group=\"g\"} 1\n";
    assert!(String::from_utf8(metrics).unwrap().contains(gauge));

    agent.child.kill().await.unwrap();
    // A crash outlives the agent that reported it; everything else goes with it.
    let (status, crashes) = get(http, "/diagnostics").await;
    let mut crashes: Value = serde_json::from_slice(&crashes).unwrap();
    without_volatile(&mut crashes);
    assert_eq!((status, &crashes), (200, &pages[2].1));
    // An agent that starts knows of no cooldown: it would capture again.
    let agent = database.agent(grpc, 90).await;
    all_pages(http, &pages).await;
    assert_eq!(get(http, &download).await, (200, heap.clone()));

    terminate(proxy).await;
    let proxy = proxy_at(grpc, http).await;
    all_pages(http, &pages).await;
    assert_eq!(get(http, &download).await, (200, heap));
    terminate(agent).await;
    terminate(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_without_a_source_says_so() {
    let exporter = Exporter::with(String::new()).await;
    let temp = tempfile::tempdir().unwrap();
    let proxy = start(&words(PROXY)).await;
    let (grpc, http) = (proxy.addresses[0], proxy.addresses[1]);
    // It is enabled by default.
    let line = format!(
        "--proxy-addr {grpc} --pod-name db-0 --node-role ROLE_DATA \
         --pressure-profiler-enabled=false"
    );
    let agent = agent(exporter.port, temp.path(), &words(&line)).await;
    until("the agent is registered", async || {
        let (_, agents) = get(http, "/agents").await;
        (agents.len() > 10).then_some(())
    })
    .await;
    for (path, expected, text) in [
        ("/cluster/topology", 501, "--cluster-state-ports"),
        (
            "/cluster/lifecycle",
            200,
            "\"error\":\"no agent offers lifecycle data: give the agents --lifecycle-port\"",
        ),
        ("/diagnostics", 501, "--crash-source-dir"),
        ("/pressure-profiles", 501, "--pressure-profiler-enabled"),
    ] {
        let (status, body) = get(http, path).await;
        let body = String::from_utf8(body).unwrap();
        assert_eq!(status, expected, "{path}");
        assert!(body.contains(text), "{path}: {body}");
    }
    let (status, _) = get(http, "/pressure-profiles/db-0/none/heap").await;
    assert_eq!(status, 404);
    terminate(agent).await;
    terminate(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_download_and_held_registry_delay_no_page() {
    // More than all buffers between the agent and the client hold.
    let database = Database::start("# x\n".repeat(6 << 20)).await;
    let proxy = start(&words(PROXY)).await;
    let (grpc, http) = (proxy.addresses[0], proxy.addresses[1]);
    let agent = database.agent(grpc, 75).await;
    let (id, size) = database.profile().await;
    let pages = database.pages(&id);
    all_pages(http, &pages).await;

    let mut download = requested(http, &format!("/pressure-profiles/db-0/{id}/heap")).await;
    let mut begun = vec![0; 1 << 10];
    download.read_exact(&mut begun).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let before = {
        let mut state = database.node.state();
        state.registry_gate = Some(Arc::clone(&gate));
        state.registry_calls
    };
    let held = tokio::spawn(async move { get(http, "/cluster/lifecycle").await });
    until("the registry is being read", async || {
        (database.node.state().registry_calls > before).then_some(())
    })
    .await;
    // None of these needs what is held.
    for _ in 0..3 {
        all_pages(http, &[pages[0].clone(), pages[2].clone()]).await;
        let (status, metrics) = get(http, "/metrics?pod_name=db-0").await;
        let metrics = String::from_utf8(metrics).unwrap();
        assert_eq!(status, 200);
        assert!(metrics.contains("jobs{"), "{metrics}");
    }
    assert!(!held.is_finished(), "the registry is still held");
    gate.add_permits(1_000);
    assert_eq!(held.await.unwrap().0, 200);
    let rest = timeout(LIMIT, download.read_to_end(&mut begun)).await;
    rest.expect("the rest in time").unwrap();
    assert_eq!(split(&begun).1.len(), size, "the whole file");
    terminate(agent).await;
    terminate(proxy).await;
}
