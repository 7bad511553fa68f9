//! Messages that are short on the wire and huge in memory.

use steadfast_fodc_proxy::Proxy;
use steadfast_wire::fodc::{
    CrashPanicRecord, LifecycleData, ListComplete, PressureProfileRecord, SchemaRegistryGroup,
    StreamClusterTopologyRequest, StreamCrashDiagnosticsRequest, StreamLifecycleRequest,
    StreamPressureProfilesRequest, StreamPressureProfilesResponse, StreamSchemaRegistryRequest,
    Topology, stream_pressure_profiles_request::Payload,
    stream_pressure_profiles_response::Command,
};
use tokio::time::timeout;

use crate::{
    agent::{Agent, TIMEOUT, answer, ours, pod},
    config, get,
    http::Response,
    schema::on_node,
    start_with,
};

/// Returns empty elements: two bytes each on the wire, and more than a hundred in memory.
fn many<T: Default + Clone>() -> Vec<T> {
    vec![T::default(); 50_000]
}

async fn proxy() -> Proxy {
    let mut config = config();
    config.max_message_bytes = 4 << 20;
    config.stream_bytes = 8 << 20;
    start_with(config).await
}

/// Asserts that the page names the limit, and that the proxy holds nothing afterwards.
async fn refused(proxy: &Proxy, page: &Response) {
    let missing = page.missing().unwrap();
    assert!(
        missing.contains("bytes in memory exceeds the limit of 4194304"),
        "{missing}"
    );
    let released = |page: &Response| page.body.contains("\nsteadfast_proxy_stream_bytes 0\n");
    crate::eventually(proxy, "/self-metrics", released).await;
}

/// Returns `huge` first, and then an empty message.
fn first<Q, R: Default + Send + 'static>(huge: R) -> impl FnMut(Q) -> Vec<R> + Send + 'static {
    let mut responses = vec![R::default(), huge];
    move |_| responses.pop().into_iter().collect()
}

#[tokio::test]
async fn empty_nodes_are_refused_and_the_stream_goes_on() {
    let proxy = proxy().await;
    let agent = Agent::register(&proxy, ours("db-0", "i")).await;
    let huge = StreamClusterTopologyRequest {
        topology: Some(Topology {
            nodes: many(),
            ..Topology::default()
        }),
        ..Default::default()
    };
    let _stream = answer!(agent, stream_cluster_topology, first(huge));
    refused(&proxy, &get(&proxy, "/cluster/topology").await).await;
    let next = get(&proxy, "/cluster/topology").await;
    assert_eq!((next.status, next.missing()), (200, None));
}

#[tokio::test]
async fn empty_groups_are_refused_and_the_stream_goes_on() {
    let proxy = proxy().await;
    let agent = Agent::register(&proxy, ours("db-0", "i")).await;
    let huge = StreamLifecycleRequest {
        lifecycle_data: Some(LifecycleData {
            groups: many(),
            ..LifecycleData::default()
        }),
        ..Default::default()
    };
    let _stream = answer!(agent, stream_lifecycle, first(huge));
    refused(&proxy, &get(&proxy, "/cluster/lifecycle").await).await;
    let next = get(&proxy, "/cluster/lifecycle").await;
    assert_eq!((next.status, next.missing()), (200, None));
}

#[tokio::test]
async fn empty_schema_objects_are_refused() {
    let proxy = proxy().await;
    let agent = Agent::register(&proxy, pod("db-0", "ROLE_LIAISON")).await;
    let _lifecycle = answer!(agent, stream_lifecycle, |_| vec![on_node(
        "a",
        &[("group", "g", 1, 1)]
    )]);
    let huge = StreamSchemaRegistryRequest {
        group: Some(SchemaRegistryGroup {
            objects: many(),
            ..SchemaRegistryGroup::default()
        }),
        done: false,
    };
    let _schema = answer!(agent, stream_schema_registry, first(huge));
    refused(&proxy, &get(&proxy, "/cluster/lifecycle").await).await;
}

#[tokio::test]
async fn empty_breadcrumbs_are_refused() {
    let proxy = proxy().await;
    let agent = Agent::register(&proxy, ours("db-0", "i")).await;
    let huge = StreamCrashDiagnosticsRequest {
        artifact_dir: "a".to_owned(),
        panic_record: Some(CrashPanicRecord {
            breadcrumbs: many(),
            ..CrashPanicRecord::default()
        }),
        ..Default::default()
    };
    let _stream = answer!(agent, stream_crash_diagnostics, first(huge));
    let page = get(&proxy, "/diagnostics").await;
    assert_eq!(page.body, "[]\n");
    refused(&proxy, &page).await;
}

#[tokio::test]
async fn empty_profiles_are_refused() {
    let proxy = proxy().await;
    let agent = Agent::register(&proxy, ours("db-0", "i")).await;
    let script = |query: StreamPressureProfilesResponse| {
        let Some(Command::ListProfiles(list)) = query.command else {
            return vec![];
        };
        let huge = Payload::Record(PressureProfileRecord {
            profiles: many(),
            ..PressureProfileRecord::default()
        });
        let end = Payload::ListComplete(ListComplete {
            request_id: list.request_id,
        });
        [huge, end]
            .map(|payload| StreamPressureProfilesRequest {
                payload: Some(payload),
            })
            .to_vec()
    };
    let _stream = answer!(agent, stream_pressure_profiles, script);
    let page = get(&proxy, "/pressure-profiles").await;
    assert_eq!(page.body, "[]\n");
    refused(&proxy, &page).await;
}

#[tokio::test]
async fn endless_chunks_end_when_the_memory_is_taken() {
    let proxy = proxy().await;
    let agent = Agent::register(&proxy, pod("db-0", "ROLE_LIAISON")).await;
    let _lifecycle = answer!(agent, stream_lifecycle, |_| vec![on_node(
        "a",
        &[("group", "g", 1, 1)]
    )]);
    let chunk = |number: u32| StreamSchemaRegistryRequest {
        group: Some(SchemaRegistryGroup {
            group: format!("{number}{}", "x".repeat(1 << 20)),
            ..SchemaRegistryGroup::default()
        }),
        done: false,
    };
    let _schema = answer!(agent, stream_schema_registry, move |_| (0..10)
        .map(chunk)
        .collect());
    let page = timeout(TIMEOUT, get(&proxy, "/cluster/lifecycle"));
    let page = page.await.expect("before the time limit of the page");
    let missing = page.missing().unwrap();
    assert!(missing.contains("schema registry: no room"), "{missing}");
}
