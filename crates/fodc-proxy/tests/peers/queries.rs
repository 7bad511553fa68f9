//! Queries, and agents that misbehave.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::{
    agent::{Action, Agent, message, metric, pod},
    complete, config, containing, eventually, get, http, metrics_streams_close, missing, start,
    start_with,
};

#[tokio::test]
async fn unresponsive_agent_delays_one_page_and_empties_none() {
    let proxy = start().await;
    let good = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let _good = good.responding(vec![metric("up", &[], 1.0)]).await;
    complete(&proxy, "/metrics").await;
    let bad = Agent::register(&proxy, pod("db-1", "ROLE_DATA")).await;
    let bad = bad.metrics(|_| Action::Ignore).await;
    let first = missing(&proxy, "/metrics", "1; db-1=late").await;
    assert!(first.body.contains("pod_name=\"db-0\""), "{first:?}");
    assert!(
        first
            .body
            .starts_with("# Agents are missing on this page: 1; db-1=late\n")
            && first
                .body
                .contains("\nsteadfast_proxy_page_agents_missing 1\n"),
        "{first:?}"
    );
    let started = Instant::now();
    for _ in 0..10 {
        let next = get(&proxy, "/metrics").await;
        assert!(next.body.contains("pod_name=\"db-0\""), "{next:?}");
        assert_eq!(next.missing(), Some("1; db-1=silent"));
    }
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "each of ten has waited"
    );
    assert_eq!(bad.query_count(), 1, "no second query while one is owed");
    bad.responses
        .send(message(vec![metric("stale", &[], 1.0)]))
        .await
        .unwrap();
    containing(&proxy, "/agents", "\"discarded_answers\":1").await;
    let response = get(&proxy, "/metrics").await;
    assert_eq!(response.missing(), Some("1; db-1=late"), "waited for again");
    assert!(!response.body.contains("stale"));
}

#[tokio::test]
async fn concurrent_scrapes_each_have_every_agent() {
    let proxy = start().await;
    let mut agents = Vec::new();
    for number in 0..5 {
        let agent = Agent::register(&proxy, pod(&format!("db-{number}"), "r")).await;
        let slow = move |query: steadfast_wire::fodc::StreamMetricsResponse| {
            let name = if query.start_time.is_some() {
                "window"
            } else {
                "latest"
            };
            let samples = vec![metric(name, &[], 1.0)];
            Action::RespondLate(Duration::from_millis(30), message(samples))
        };
        let metrics = agent.metrics(slow).await;
        agents.push((agent, metrics));
    }
    complete(&proxy, "/metrics").await;
    let address = proxy.http_address();
    let mut scrapes = Vec::new();
    for number in 0..12 {
        let path = if number % 3 == 0 {
            "/metrics-windows?start_time=2026-01-01T00:00:00Z&end_time=2026-01-01T00:00:01Z"
        } else {
            "/metrics"
        };
        scrapes.push(tokio::spawn(async move {
            (path, http::get(address, path).await)
        }));
    }
    for scrape in scrapes {
        let (path, response) = scrape.await.unwrap();
        assert_eq!(response.missing(), None, "{path}");
        let (own, other) = if path == "/metrics" {
            ("latest", "window")
        } else {
            ("window", "latest")
        };
        assert_eq!(
            response.body.matches(own).count(),
            if own == "latest" { 6 } else { 5 },
            "{response:?}"
        );
        assert!(
            !response.body.contains(other),
            "the response to another query: {response:?}"
        );
    }
    for (_, metrics) in &agents {
        let overlapping = &metrics.overlapping;
        assert_eq!(overlapping.load(std::sync::atomic::Ordering::SeqCst), 0);
        assert!(metrics.query_count() <= 13, "equal queries are sent once");
    }
}

#[tokio::test]
async fn late_response_is_not_given_to_the_next_query() {
    let mut config = config();
    config.agent_deadline = Duration::from_millis(300);
    let proxy = start_with(config).await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let mut count = 0;
    let _metrics = agent
        .metrics(move |_| {
            count += 1;
            let response = message(vec![metric(&format!("answer_{count}"), &[], 1.0)]);
            if count == 1 {
                Action::RespondLate(Duration::from_millis(1_500), response)
            } else {
                Action::Respond(response)
            }
        })
        .await;
    missing(&proxy, "/metrics", "1; db-0=late").await;
    let response = complete(&proxy, "/metrics").await;
    assert!(response.body.contains("answer_2"), "{response:?}");
}

#[tokio::test]
async fn stream_without_a_response_ends_and_a_new_one_serves() {
    let mut config = config();
    config.agent_deadline = Duration::from_millis(100);
    config.window_deadline = Duration::from_millis(200);
    config.abandon_after = Duration::from_secs(1);
    let proxy = start_with(config).await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let mut silent = agent.metrics(|_| Action::Ignore).await;
    missing(&proxy, "/metrics", "1; db-0=late").await;
    let end = silent.end().await;
    assert_eq!(end.code(), Code::DeadlineExceeded, "{end}");
    let again = agent.responding(vec![metric("up", &[], 1.0)]).await;
    let response = complete(&proxy, "/metrics").await;
    assert!(response.body.contains("up{"), "{response:?}");
    assert!(
        again.query_count() >= 2,
        "a probe, that nobody waited for, and a query"
    );
}

#[tokio::test]
async fn oversized_message_ends_the_stream_as_resource_exhausted() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::fs::File::create(&log).unwrap());
    // The proxy runs on this thread as well.
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let mut config = config();
    config.max_message_bytes = 100_000;
    let proxy = start_with(config).await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let text = "x".repeat(200_000);
    let mut metrics = agent
        .responding(vec![metric("up", &[("text", &text)], 1.0)])
        .await;
    eventually(&proxy, "/metrics", |response| response.missing().is_some()).await;
    metrics_streams_close(&proxy).await;
    let end = metrics.end().await;
    assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
    let health = get(&proxy, "/health").await.json();
    assert_eq!(health["agents_online"], 1, "its registration stands");
    let log = std::fs::read_to_string(log).unwrap();
    let line = log.lines().find(|line| line.contains("exceeds the limit"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    for told in [" WARN ", "vs. 100000)", "--grpc-max-msg-size", &agent.id] {
        assert!(line.contains(told), "{told}: {line}");
    }
}

#[tokio::test]
async fn unrequested_messages_are_dropped_and_end_the_stream() {
    let proxy = start().await;
    let good = Agent::register(&proxy, pod("db-0", "r")).await;
    let _good = good.responding(vec![metric("up", &[], 1.0)]).await;
    let bad = Agent::register(&proxy, pod("db-1", "r")).await;
    let mut flood = bad.metrics(|_| Action::Ignore).await;
    for _ in 0..1_000 {
        let long = "x".repeat(10_000);
        let sent = flood
            .responses
            .send(message(vec![metric("flood", &[("text", &long)], 1.0)]))
            .await;
        if sent.is_err() {
            break;
        }
    }
    let end = flood.end().await;
    assert_ne!(end.code(), Code::Ok, "{end}");
    let response = get(&proxy, "/metrics").await;
    assert!(response.body.contains("db-0"), "{response:?}");
    assert!(!response.body.contains("flood"), "{response:?}");
}
