//! All seven streams: accepted at once, held, and ended one by one.

use std::time::Duration;

use steadfast_wire::fodc::{
    StreamClusterTopologyRequest, StreamCrashDiagnosticsRequest, StreamLifecycleRequest,
    StreamMetricsRequest, StreamPressureProfilesRequest, StreamSchemaRegistryRequest,
};
use tokio::{
    sync::mpsc::channel,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use crate::{
    agent::{Agent, TIMEOUT, dial, end_of, metric, metrics, pod, with_id},
    agents_online, complete, containing, eventually, get, http, metrics_streams_close, start,
};

#[tokio::test]
async fn all_seven_streams_are_accepted_and_held_open() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let _metrics = agent.responding(vec![metric("up", &[], 1.0)]).await;
    let mut client = agent.client.clone();
    macro_rules! open {
        ($method:ident, $message:ty) => {{
            let (sender, messages) = channel::<$message>(4);
            let call = client.$method(with_id(&agent.id, messages));
            let mut answers = timeout(TIMEOUT, call).await.unwrap().unwrap().into_inner();
            sender.send(<$message>::default()).await.unwrap();
            (
                sender,
                tokio::spawn(async move { end_of(&mut answers).await }),
            )
        }};
    }
    let topology = open!(stream_cluster_topology, StreamClusterTopologyRequest);
    let lifecycle = open!(stream_lifecycle, StreamLifecycleRequest);
    let crash = open!(stream_crash_diagnostics, StreamCrashDiagnosticsRequest);
    let pressure = open!(stream_pressure_profiles, StreamPressureProfilesRequest);
    let schema = open!(stream_schema_registry, StreamSchemaRegistryRequest);
    let agents = containing(&proxy, "/agents", "StreamSchemaRegistry").await;
    assert_eq!(agents.json()[0]["streams"].as_object().unwrap().len(), 6);
    let dropped = |own: &http::Response| own.has_line("steadfast_proxy_messages_dropped_total 5");
    eventually(&proxy, "/self-metrics", dropped).await;
    assert!(complete(&proxy, "/metrics").await.body.contains("up{"));
    for held in [&topology.1, &lifecycle.1, &crash.1, &pressure.1, &schema.1] {
        assert!(!held.is_finished());
    }
    drop(topology.0);
    let end = timeout(TIMEOUT, topology.1).await.unwrap().unwrap();
    assert_eq!(end.code(), Code::Ok, "its own end");
    drop(agent);
    for held in [lifecycle.1, crash.1, pressure.1, schema.1] {
        let end = timeout(TIMEOUT, held).await.unwrap().unwrap();
        assert_ne!(end.code(), Code::Unimplemented, "{end}");
    }
}

#[tokio::test]
async fn reopened_metrics_stream_serves_under_the_same_id() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    for round in 1..=3 {
        let stream = agent
            .responding(vec![metric("up", &[], f64::from(round))])
            .await;
        let line = format!("up{{node_role=\"r\",pod_name=\"db-0\"}} {round}");
        eventually(&proxy, "/metrics", |response| response.has_line(&line)).await;
        stream.task.abort();
        drop(stream);
        let agents = metrics_streams_close(&proxy).await.json();
        assert_eq!(agents[0]["agent_id"], agent.id.as_str());
        assert_eq!(agents[0]["status"], "online");
    }
}

#[tokio::test]
async fn superseded_stream_is_used_when_the_newer_one_ends() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let _stays = agent.responding(vec![metric("stays", &[], 1.0)]).await;
    complete(&proxy, "/metrics").await;
    let ends = agent.responding(vec![metric("ends", &[], 1.0)]).await;
    containing(&proxy, "/metrics", "ends{").await;
    ends.task.abort();
    drop(ends);
    containing(&proxy, "/metrics", "stays{").await;
}

#[tokio::test]
async fn newer_metrics_stream_supersedes_the_older() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let old = agent.responding(vec![metric("old", &[], 1.0)]).await;
    complete(&proxy, "/metrics").await;
    let _new = agent.responding(vec![metric("new", &[], 1.0)]).await;
    containing(&proxy, "/metrics", "new{").await;
    let before = old.query_count();
    complete(&proxy, "/metrics").await;
    assert_eq!(old.query_count(), before);
    assert!(
        !old.task.is_finished(),
        "a Go agent whose stream is ended tears down everything"
    );
}

#[tokio::test]
async fn id_that_passes_a_relay_in_its_other_spelling_is_taken() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let (_open, messages) = channel::<StreamMetricsRequest>(1);
    let mut request = Request::new(ReceiverStream::new(messages));
    request
        .metadata_mut()
        .insert("agent-id", agent.id.parse().unwrap());
    let _stream = agent.client.clone().stream_metrics(request).await.unwrap();
    containing(&proxy, "/agents", "\"StreamMetrics\":1").await;
}

#[tokio::test]
async fn stream_without_id_is_rejected_and_unknown_id_is_held() {
    let proxy = start().await;
    let mut client = dial(proxy.grpc_address()).await;
    let (_open, messages) = channel::<StreamMetricsRequest>(1);
    let refused = client
        .stream_metrics(Request::new(ReceiverStream::new(messages)))
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(
        refused.message().contains("underscores_in_headers"),
        "{refused}"
    );
    let unknown = metrics(client, "00000000-0000-0000-0000-000000000000", |_| {
        panic!("an unknown agent is queried")
    })
    .await;
    unknown
        .responses
        .send(StreamMetricsRequest::default())
        .await
        .unwrap();
    complete(&proxy, "/metrics").await;
    sleep(Duration::from_millis(100)).await;
    assert!(!unknown.task.is_finished());
    drop(unknown.responses);
}

#[tokio::test]
async fn ended_streams_and_registrations_leave_nothing_behind() {
    let proxy = start().await;
    let unknown = dial(proxy.grpc_address()).await;
    for _ in 0..50 {
        let agent = Agent::register(&proxy, pod("db-0", "r")).await;
        let id = agent.id.clone();
        let stream = agent.responding(vec![]).await;
        drop((agent, stream));
        let late = metrics(unknown.clone(), &id, |_| crate::agent::Action::Ignore).await;
        late.task.abort();
        agents_online(&proxy, 0).await;
    }
    let agents = get(&proxy, "/agents").await.json();
    assert_eq!(agents.as_array().unwrap().len(), 1, "{agents}");
    assert_eq!(agents[0]["streams"], serde_json::json!({}));
}
