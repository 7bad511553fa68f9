//! Registrations: accepted, refused and replaced.

use std::time::Duration;

use steadfast_wire::fodc::RegisterAgentRequest;
use tokio::time::timeout;
use tonic::Code;

use crate::{
    agent::{Agent, TIMEOUT, dial, end_of, metric, ours, pod, seed},
    agents_online, complete, config, containing, eventually, get, start, start_with,
};

#[tokio::test]
async fn both_dialects_register_and_heartbeats_get_no_response() {
    let proxy = start().await;
    let mut pod = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let seed = Agent::register(&proxy, seed("10.0.0.1", 17912, "liaison")).await;
    assert_eq!(pod.heartbeat_seconds, 10);
    assert_eq!((pod.id.len(), seed.id.len()), (36, 36));
    assert_ne!(pod.id, seed.id);
    assert_eq!(pod.profile, None);
    pod.heartbeats
        .send(RegisterAgentRequest::default())
        .await
        .unwrap();
    let agents = containing(&proxy, "/agents", "\"heartbeats\":1").await;
    let agents = agents.json();
    assert_eq!(agents.as_array().unwrap().len(), 2);
    let health = get(&proxy, "/health").await.json();
    assert_eq!(health["agents_online"], 2);
    assert_eq!(health["status"], "healthy");
    let (closed, _) = tokio::sync::mpsc::channel(1);
    drop(std::mem::replace(&mut pod.heartbeats, closed));
    assert_eq!(end_of(&mut pod.registration).await.code(), Code::Ok);
    agents_online(&proxy, 1).await;
}

#[tokio::test]
async fn heartbeats_of_profile_agents_are_acknowledged() {
    let proxy = start().await;
    let mut agent = Agent::register(&proxy, ours("db-0", "one")).await;
    for _ in 0..3 {
        let heartbeat = RegisterAgentRequest::default();
        agent.heartbeats.send(heartbeat).await.unwrap();
        let response = timeout(TIMEOUT, agent.registration.message())
            .await
            .unwrap();
        let response = response.unwrap().expect("the stream is open");
        assert_eq!(
            (response.success, response.agent_id),
            (true, agent.id.clone())
        );
    }
}

#[tokio::test]
async fn empty_first_message_is_rejected_and_the_proxy_survives() {
    let proxy = start().await;
    let (response, status) = Agent::refused(&proxy, RegisterAgentRequest::default()).await;
    assert!(
        response.message.contains("node role cannot be empty"),
        "{response:?}"
    );
    assert_eq!(response.agent_id, "");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, response.message.as_str())
    );
    let nameless = RegisterAgentRequest {
        node_role: "ROLE_DATA".to_owned(),
        ..RegisterAgentRequest::default()
    };
    let (response, _) = Agent::refused(&proxy, nameless).await;
    assert!(
        response.message.contains("pod name cannot be empty"),
        "{response:?}"
    );
    Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
}

#[tokio::test]
async fn full_registry_rejects_until_an_agent_leaves() {
    let mut config = config();
    config.max_agents = 1;
    let proxy = start_with(config).await;
    let first = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let (response, status) = Agent::refused(&proxy, pod("db-1", "ROLE_DATA")).await;
    assert!(response.message.contains("(1)"), "{response:?}");
    assert_eq!(status.code(), Code::Unknown);
    // The same one again, before the proxy can know that its old connection is dead.
    let again = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    drop((first, again));
    agents_online(&proxy, 0).await;
    Agent::register(&proxy, pod("db-1", "ROLE_DATA")).await;
}

#[tokio::test]
async fn agent_is_missing_until_its_metrics_stream_opens() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let started = tokio::time::Instant::now();
    let early = get(&proxy, "/metrics").await;
    assert_eq!(early.status, 200);
    let samples: Vec<_> = early
        .body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(samples, ["steadfast_proxy_page_agents_missing 1"]);
    assert_eq!(early.missing(), Some("1; db-0=no stream"));
    assert!(
        started.elapsed() < Duration::from_millis(1_900),
        "nobody is waited for"
    );
    let _metrics = agent.responding(vec![metric("up", &[], 1.0)]).await;
    let soon = complete(&proxy, "/metrics").await;
    assert!(soon.body.contains("up{"), "{soon:?}");
}

#[tokio::test]
async fn role_from_a_heartbeat_is_selectable_without_reconnecting() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "ROLE_UNSPECIFIED")).await;
    let _metrics = agent.responding(vec![metric("up", &[], 1.0)]).await;
    complete(&proxy, "/metrics").await;
    let path = "/metrics?role=ROLE_LIAISON";
    assert_eq!(get(&proxy, path).await.body, "");
    let resolved = pod("db-0", "ROLE_LIAISON");
    agent.heartbeats.send(resolved).await.unwrap();
    let line = "up{node_role=\"ROLE_LIAISON\",pod_name=\"db-0\"} 1";
    eventually(&proxy, path, |response| response.has_line(line)).await;
    for heartbeat in [
        pod("db-0", "ROLE_UNSPECIFIED"),
        RegisterAgentRequest::default(),
    ] {
        agent.heartbeats.send(heartbeat).await.unwrap();
    }
    containing(&proxy, "/agents", "\"heartbeats\":3").await;
    assert!(get(&proxy, path).await.has_line(line));
}

#[tokio::test]
async fn two_agents_may_share_a_connection() {
    let proxy = start().await;
    let client = dial(proxy.grpc_address()).await;
    let mut agents = Vec::new();
    for (name, value) in [("db-0", 1.0), ("db-1", 2.0)] {
        let registered = Agent::try_register(client.clone(), pod(name, "r")).await;
        let agent = registered.map_err(|(response, _)| response).unwrap();
        let metrics = agent.responding(vec![metric("up", &[], value)]).await;
        agents.push((agent, metrics));
    }
    let response = complete(&proxy, "/metrics").await;
    for (name, value) in [("db-0", 1), ("db-1", 2)] {
        let line = format!("up{{node_role=\"r\",pod_name=\"{name}\"}} {value}");
        assert!(response.has_line(&line), "{response:?}");
    }
}

#[tokio::test]
async fn reconnected_agent_is_known_once_and_online() {
    let proxy = start().await;
    let old = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    drop(old);
    agents_online(&proxy, 0).await;
    let new = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let agents = get(&proxy, "/agents").await.json();
    assert_eq!(agents.as_array().unwrap().len(), 1);
    assert_eq!(agents[0]["agent_id"], new.id.as_str());
    assert_eq!(agents[0]["status"], "online");
}

#[tokio::test]
async fn live_agents_of_one_name_are_kept_flagged_and_distinct() {
    let proxy = start().await;
    let mut agents = Vec::new();
    for value in [1.0, 2.0] {
        let agent = Agent::register(&proxy, pod("db-0", "r")).await;
        let metrics = agent.responding(vec![metric("up", &[], value)]).await;
        agents.push((agent, metrics));
    }
    let response = complete(&proxy, "/metrics").await;
    for (number, (agent, _)) in agents.iter().enumerate() {
        let id = &agent.id;
        let value = number + 1;
        let line = format!("up{{agent_id=\"{id}\",node_role=\"r\",pod_name=\"db-0\"}} {value}");
        assert!(response.has_line(&line), "{line} {response:?}");
    }
    let flagged = get(&proxy, "/agents").await;
    assert_eq!(flagged.body.matches("\"duplicate\":true").count(), 2);
}

#[tokio::test]
async fn profile_agent_gets_the_profile_and_replaces_itself() {
    let proxy = start().await;
    let mut old = Agent::register(&proxy, ours("db-0", "one process")).await;
    let new = Agent::register(&proxy, ours("db-0", "one process")).await;
    let profile = new.profile.unwrap();
    assert_eq!((profile.version, profile.max_message_bytes), (1, 32 << 20));
    let end = end_of(&mut old.registration).await;
    assert_eq!(end.code(), Code::Unknown, "{end}");
    assert_eq!(get(&proxy, "/health").await.json()["agents_total"], 1);
}
