//! Who is taken, who is refused, and how both are told.

use std::time::Duration;

use steadfast_wire::fodc::{AgentProfile, RegisterAgentRequest};
use tonic::Code;

use crate::{
    agent::{Agent, dial, end_of, metric, pod, seed},
    complete, config, eventually, http, start,
};

#[tokio::test]
async fn both_dialects_register_and_heartbeats_get_no_answer() {
    let proxy = start().await;
    let mut pod = Agent::register(proxy.grpc_address(), pod("db-0", "ROLE_DATA")).await;
    let seed = Agent::register(proxy.grpc_address(), seed("10.0.0.1", 17912, "liaison")).await;
    assert_eq!(pod.heartbeat_seconds, 10);
    assert_eq!((pod.id.len(), seed.id.len()), (36, 36));
    assert_ne!(pod.id, seed.id);
    assert_eq!(pod.profile, None);
    pod.heartbeats
        .send(RegisterAgentRequest::default())
        .await
        .unwrap();
    let agents = eventually(&proxy, "/agents", |agents| {
        agents.body.contains("\"heartbeats\":1")
    })
    .await;
    let agents = agents.json();
    assert_eq!(agents.as_array().unwrap().len(), 2);
    let health = http::get(proxy.http_address(), "/health").await.json();
    assert_eq!(health["agents_online"], 2);
    assert_eq!(health["status"], "healthy");
    let Agent {
        heartbeats,
        registration,
        ..
    } = &mut pod;
    let (closed, _) = tokio::sync::mpsc::channel(1);
    drop(std::mem::replace(heartbeats, closed));
    assert_eq!(end_of(registration).await.code(), Code::Ok);
    eventually(&proxy, "/health", |health| {
        health.json()["agents_online"] == 1
    })
    .await;
}

#[tokio::test]
async fn fodc_f9_an_empty_first_message_is_refused_and_the_proxy_lives() {
    let proxy = start().await;
    let client = dial(proxy.grpc_address()).await;
    let refused = Agent::try_register(client, RegisterAgentRequest::default()).await;
    let Err((answer, status)) = refused else {
        panic!("an agent without a name was taken")
    };
    assert!(
        answer.message.contains("node role cannot be empty"),
        "{answer:?}"
    );
    assert_eq!(answer.agent_id, "");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, answer.message.as_str())
    );
    let nameless = RegisterAgentRequest {
        node_role: "ROLE_DATA".to_owned(),
        ..RegisterAgentRequest::default()
    };
    let client = dial(proxy.grpc_address()).await;
    let Err((answer, _)) = Agent::try_register(client, nameless).await else {
        panic!("an agent without a name was taken")
    };
    assert!(
        answer.message.contains("pod name cannot be empty"),
        "{answer:?}"
    );
    Agent::register(proxy.grpc_address(), pod("db-0", "ROLE_DATA")).await;
}

#[tokio::test]
async fn a_full_registry_says_so_and_takes_the_next_when_one_leaves() {
    let mut config = config();
    config.max_agents = 1;
    let proxy = steadfast_fodc_proxy::Proxy::start(config).await.unwrap();
    let first = Agent::register(proxy.grpc_address(), pod("db-0", "ROLE_DATA")).await;
    let client = dial(proxy.grpc_address()).await;
    let Err((answer, status)) = Agent::try_register(client, pod("db-1", "ROLE_DATA")).await else {
        panic!("two agents were taken")
    };
    assert!(answer.message.contains("(1)"), "{answer:?}");
    assert_eq!(status.code(), Code::Unknown);
    // The same one again, before the proxy can know that its old connection is dead.
    let again = Agent::register(proxy.grpc_address(), pod("db-0", "ROLE_DATA")).await;
    drop((first, again));
    eventually(&proxy, "/health", |health| {
        health.json()["agents_online"] == 0
    })
    .await;
    Agent::register(proxy.grpc_address(), pod("db-1", "ROLE_DATA")).await;
}

#[tokio::test]
async fn fodc_f28_an_agent_without_a_metrics_stream_yet_is_missing_and_soon_present() {
    let proxy = start().await;
    let agent = Agent::register(proxy.grpc_address(), pod("db-0", "ROLE_DATA")).await;
    let started = tokio::time::Instant::now();
    let early = http::get(proxy.http_address(), "/metrics").await;
    assert_eq!((early.status, early.body.as_str()), (200, ""));
    assert_eq!(
        early.header("x-steadfast-missing"),
        Some("1; db-0=no stream")
    );
    assert!(
        started.elapsed() < Duration::from_millis(1_900),
        "nobody is waited for"
    );
    let _metrics = agent.answering(vec![metric("up", &[], 1.0)]).await;
    let soon = complete(&proxy, "/metrics").await;
    assert!(soon.body.contains("up{"), "{soon:?}");
}

#[tokio::test]
async fn fodc_f11_a_role_that_a_heartbeat_tells_later_is_asked_for_without_reconnecting() {
    let proxy = start().await;
    let agent = Agent::register(proxy.grpc_address(), pod("db-0", "ROLE_UNSPECIFIED")).await;
    let _metrics = agent.answering(vec![metric("up", &[], 1.0)]).await;
    complete(&proxy, "/metrics").await;
    let path = "/metrics?role=ROLE_LIAISON";
    assert_eq!(http::get(proxy.http_address(), path).await.body, "");
    agent
        .heartbeats
        .send(pod("db-0", "ROLE_LIAISON"))
        .await
        .unwrap();
    let line = "up{node_role=\"ROLE_LIAISON\",pod_name=\"db-0\"} 1";
    eventually(&proxy, path, |answer| answer.has_line(line)).await;
    agent
        .heartbeats
        .send(pod("db-0", "ROLE_UNSPECIFIED"))
        .await
        .unwrap();
    agent
        .heartbeats
        .send(RegisterAgentRequest::default())
        .await
        .unwrap();
    eventually(&proxy, "/agents", |agents| {
        agents.body.contains("\"heartbeats\":3")
    })
    .await;
    assert!(http::get(proxy.http_address(), path).await.has_line(line));
}

#[tokio::test]
async fn fodc_o36_two_agents_on_one_connection_are_two_agents() {
    let proxy = start().await;
    let client = dial(proxy.grpc_address()).await;
    let mut agents = Vec::new();
    for (name, value) in [("db-0", 1.0), ("db-1", 2.0)] {
        let registered = Agent::try_register(client.clone(), pod(name, "r")).await;
        let Ok(agent) = registered else {
            panic!("{name} was refused")
        };
        let metrics = agent.answering(vec![metric("up", &[], value)]).await;
        agents.push((agent, metrics));
    }
    let answer = complete(&proxy, "/metrics").await;
    assert!(
        answer.has_line("up{node_role=\"r\",pod_name=\"db-0\"} 1"),
        "{answer:?}"
    );
    assert!(
        answer.has_line("up{node_role=\"r\",pod_name=\"db-1\"} 2"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn fodc_o43_after_a_reconnection_the_agent_is_known_once_and_online() {
    let proxy = start().await;
    let old = Agent::register(proxy.grpc_address(), pod("db-0", "ROLE_DATA")).await;
    drop(old);
    eventually(&proxy, "/health", |health| {
        health.json()["agents_online"] == 0
    })
    .await;
    let new = Agent::register(proxy.grpc_address(), pod("db-0", "ROLE_DATA")).await;
    let agents = http::get(proxy.http_address(), "/agents").await.json();
    assert_eq!(agents.as_array().unwrap().len(), 1);
    assert_eq!(agents[0]["agent_id"], new.id.as_str());
    assert_eq!(agents[0]["status"], "online");
}

#[tokio::test]
async fn two_live_agents_of_one_name_are_both_kept_flagged_and_told_apart() {
    let proxy = start().await;
    let mut agents = Vec::new();
    for value in [1.0, 2.0] {
        let agent = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
        let metrics = agent.answering(vec![metric("up", &[], value)]).await;
        agents.push((agent, metrics));
    }
    let answer = complete(&proxy, "/metrics").await;
    for (number, (agent, _)) in agents.iter().enumerate() {
        let id = &agent.id;
        let value = number + 1;
        let line = format!("up{{agent_id=\"{id}\",node_role=\"r\",pod_name=\"db-0\"}} {value}");
        assert!(answer.has_line(&line), "{line} {answer:?}");
    }
    let flagged = http::get(proxy.http_address(), "/agents").await;
    assert_eq!(flagged.body.matches("\"duplicate\":true").count(), 2);
}

#[tokio::test]
async fn an_agent_of_ours_is_welcomed_with_the_profile_and_replaces_its_own_registration() {
    let proxy = start().await;
    let ours = RegisterAgentRequest {
        profile: Some(AgentProfile {
            version: 1,
            instance: "one process".to_owned(),
        }),
        ..pod("db-0", "ROLE_DATA")
    };
    let mut old = Agent::register(proxy.grpc_address(), ours.clone()).await;
    let new = Agent::register(proxy.grpc_address(), ours).await;
    let profile = new.profile.unwrap();
    assert_eq!((profile.version, profile.max_message_bytes), (1, 32 << 20));
    let end = end_of(&mut old.registration).await;
    assert_eq!(end.code(), Code::Unknown, "{end}");
    assert_eq!(
        http::get(proxy.http_address(), "/health").await.json()["agents_total"],
        1
    );
}
