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
    agent::{Agent, PATIENCE, dial, end_of, metric, metrics, pod, with_id},
    complete, eventually, http, start,
};

#[tokio::test]
async fn all_seven_streams_are_accepted_at_once_and_held() {
    let proxy = start().await;
    let agent = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
    let _metrics = agent.answering(vec![metric("up", &[], 1.0)]).await;
    let mut client = agent.client.clone();
    macro_rules! open {
        ($method:ident, $message:ty) => {{
            let (sender, messages) = channel::<$message>(4);
            let call = client.$method(with_id(&agent.id, messages));
            let mut answers = timeout(PATIENCE, call).await.unwrap().unwrap().into_inner();
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
    let agents = eventually(&proxy, "/agents", |agents| {
        agents.body.contains("StreamSchemaRegistry")
    })
    .await;
    assert_eq!(agents.json()[0]["streams"].as_object().unwrap().len(), 6);
    let dropped = |own: &http::Answer| own.has_line("steadfast_proxy_messages_dropped_total 5");
    eventually(&proxy, "/self-metrics", dropped).await;
    assert!(complete(&proxy, "/metrics").await.body.contains("up{"));
    for held in [&topology.1, &lifecycle.1, &crash.1, &pressure.1, &schema.1] {
        assert!(!held.is_finished());
    }
    drop(topology.0);
    let end = timeout(PATIENCE, topology.1).await.unwrap().unwrap();
    assert_eq!(end.code(), Code::Ok, "its own end");
    drop(agent);
    for held in [lifecycle.1, crash.1, pressure.1, schema.1] {
        let end = timeout(PATIENCE, held).await.unwrap().unwrap();
        assert_ne!(end.code(), Code::Unimplemented, "{end}");
    }
}

#[tokio::test]
async fn fodc_f7_a_metrics_stream_that_ends_and_comes_again_serves_under_the_same_id() {
    let proxy = start().await;
    let agent = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
    for round in 1..=3 {
        let stream = agent
            .answering(vec![metric("up", &[], f64::from(round))])
            .await;
        let line = format!("up{{node_role=\"r\",pod_name=\"db-0\"}} {round}");
        eventually(&proxy, "/metrics", |answer| answer.has_line(&line)).await;
        stream.task.abort();
        drop(stream);
        let closed = |agents: &http::Answer| !agents.body.contains("StreamMetrics");
        let agents = eventually(&proxy, "/agents", closed).await.json();
        assert_eq!(agents[0]["agent_id"], agent.id.as_str());
        assert_eq!(agents[0]["status"], "online");
    }
}

#[tokio::test]
async fn fodc_f7_when_the_newer_of_two_metrics_streams_ends_the_other_is_asked_again() {
    let proxy = start().await;
    let agent = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
    let _stays = agent.answering(vec![metric("stays", &[], 1.0)]).await;
    complete(&proxy, "/metrics").await;
    let ends = agent.answering(vec![metric("ends", &[], 1.0)]).await;
    eventually(&proxy, "/metrics", |answer| answer.body.contains("ends{")).await;
    ends.task.abort();
    drop(ends);
    eventually(&proxy, "/metrics", |answer| answer.body.contains("stays{")).await;
}

#[tokio::test]
async fn a_newer_metrics_stream_with_the_same_id_is_asked_instead() {
    let proxy = start().await;
    let agent = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
    let old = agent.answering(vec![metric("old", &[], 1.0)]).await;
    complete(&proxy, "/metrics").await;
    let _new = agent.answering(vec![metric("new", &[], 1.0)]).await;
    eventually(&proxy, "/metrics", |answer| answer.body.contains("new{")).await;
    let before = old.asked();
    complete(&proxy, "/metrics").await;
    assert_eq!(old.asked(), before);
    assert!(
        !old.task.is_finished(),
        "a Go agent whose stream is ended tears down everything"
    );
}

#[tokio::test]
async fn without_an_id_a_stream_is_refused_and_with_an_unknown_one_it_is_held() {
    let proxy = start().await;
    let mut client = dial(proxy.grpc_address()).await;
    let (_open, messages) = channel::<StreamMetricsRequest>(1);
    let refused = client
        .stream_metrics(Request::new(ReceiverStream::new(messages)))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let stranger = metrics(client, "00000000-0000-0000-0000-000000000000", |_| {
        panic!("a stranger is asked")
    })
    .await;
    stranger
        .answers
        .send(StreamMetricsRequest::default())
        .await
        .unwrap();
    complete(&proxy, "/metrics").await;
    sleep(Duration::from_millis(100)).await;
    assert!(!stranger.task.is_finished());
    drop(stranger.answers);
}

#[tokio::test]
async fn fodc_o35_streams_and_registrations_that_end_leave_nothing_behind() {
    let proxy = start().await;
    let stranger = dial(proxy.grpc_address()).await;
    for _ in 0..50 {
        let agent = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
        let id = agent.id.clone();
        let stream = agent.answering(vec![]).await;
        drop((agent, stream));
        let late = metrics(stranger.clone(), &id, |_| crate::agent::Action::Nothing).await;
        late.task.abort();
        eventually(&proxy, "/health", |health| {
            health.json()["agents_online"] == 0
        })
        .await;
    }
    let agents = http::get(proxy.http_address(), "/agents").await.json();
    assert_eq!(agents.as_array().unwrap().len(), 1, "{agents}");
    assert_eq!(agents[0]["streams"], serde_json::json!({}));
}
