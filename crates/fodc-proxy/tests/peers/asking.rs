//! Questions and answers, and agents that do not play along.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::{
    agent::{Action, Agent, PATIENCE, metric, pod, reply},
    complete, config, eventually, http, start,
};

#[tokio::test]
async fn fodc_o28_a_silent_agent_delays_one_answer_and_blanks_none() {
    let proxy = start().await;
    let good = Agent::register(proxy.grpc_address(), pod("db-0", "ROLE_DATA")).await;
    let _good = good.answering(vec![metric("up", &[], 1.0)]).await;
    complete(&proxy, "/metrics").await;
    let bad = Agent::register(proxy.grpc_address(), pod("db-1", "ROLE_DATA")).await;
    let bad = bad.metrics(|_| Action::Nothing).await;
    let late = |answer: &http::Answer| answer.header("x-steadfast-missing") == Some("1; db-1=late");
    let first = eventually(&proxy, "/metrics", late).await;
    assert!(first.body.contains("pod_name=\"db-0\""), "{first:?}");
    let started = Instant::now();
    for _ in 0..10 {
        let next = http::get(proxy.http_address(), "/metrics").await;
        assert!(next.body.contains("pod_name=\"db-0\""), "{next:?}");
        assert_eq!(next.header("x-steadfast-missing"), Some("1; db-1=silent"));
    }
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "each of ten has waited"
    );
    assert_eq!(bad.asked(), 1, "no second question while one is owed");
    bad.answers
        .send(reply(vec![metric("stale", &[], 1.0)]))
        .await
        .unwrap();
    let back = |answer: &http::Answer| answer.body.contains("\"discarded_answers\":1");
    eventually(&proxy, "/agents", back).await;
    let answer = http::get(proxy.http_address(), "/metrics").await;
    assert_eq!(
        answer.header("x-steadfast-missing"),
        Some("1; db-1=late"),
        "waited for again"
    );
    assert!(!answer.body.contains("stale"));
}

#[tokio::test]
async fn fodc_o26_fodc_o34_many_scrapes_at_once_each_have_every_agent() {
    let proxy = start().await;
    let mut agents = Vec::new();
    for number in 0..5 {
        let agent = Agent::register(proxy.grpc_address(), pod(&format!("db-{number}"), "r")).await;
        let slow = move |question: steadfast_wire::fodc::StreamMetricsResponse| {
            let name = if question.start_time.is_some() {
                "window"
            } else {
                "latest"
            };
            let samples = vec![metric(name, &[], 1.0)];
            Action::Late(Duration::from_millis(30), reply(samples))
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
        let (path, answer) = scrape.await.unwrap();
        assert_eq!(answer.header("x-steadfast-missing"), None, "{path}");
        let (own, other) = if path == "/metrics" {
            ("latest", "window")
        } else {
            ("window", "latest")
        };
        assert_eq!(
            answer.body.matches(own).count(),
            if own == "latest" { 6 } else { 5 },
            "{answer:?}"
        );
        assert!(
            !answer.body.contains(other),
            "the answer to another question: {answer:?}"
        );
    }
    for (_, metrics) in &agents {
        assert_eq!(
            metrics
                .overlapping
                .load(std::sync::atomic::Ordering::SeqCst),
            0
        );
        assert!(metrics.asked() <= 13, "equal questions are asked once");
    }
}

#[tokio::test]
async fn fodc_o27_the_answer_to_a_question_that_timed_out_is_not_the_next_ones() {
    let mut config = config();
    config.agent_deadline = Duration::from_millis(300);
    let proxy = steadfast_fodc_proxy::Proxy::start(config).await.unwrap();
    let agent = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
    let mut asked = 0;
    let _metrics = agent
        .metrics(move |_| {
            asked += 1;
            let answer = reply(vec![metric(&format!("answer_{asked}"), &[], 1.0)]);
            if asked == 1 {
                Action::Late(Duration::from_millis(1_500), answer)
            } else {
                Action::Answer(answer)
            }
        })
        .await;
    let late = |answer: &http::Answer| answer.header("x-steadfast-missing") == Some("1; db-0=late");
    eventually(&proxy, "/metrics", late).await;
    let answer = complete(&proxy, "/metrics").await;
    assert!(answer.body.contains("answer_2"), "{answer:?}");
}

#[tokio::test]
async fn a_stream_that_owes_too_long_is_ended_and_a_new_one_serves() {
    let mut config = config();
    config.agent_deadline = Duration::from_millis(100);
    config.window_deadline = Duration::from_millis(200);
    config.abandon_after = Duration::from_secs(1);
    let proxy = steadfast_fodc_proxy::Proxy::start(config).await.unwrap();
    let agent = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
    let silent = agent.metrics(|_| Action::Nothing).await;
    let late = |answer: &http::Answer| answer.header("x-steadfast-missing") == Some("1; db-0=late");
    eventually(&proxy, "/metrics", late).await;
    let end = tokio::time::timeout(PATIENCE, silent.task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(end.code(), Code::DeadlineExceeded, "{end}");
    let again = agent.answering(vec![metric("up", &[], 1.0)]).await;
    let answer = complete(&proxy, "/metrics").await;
    assert!(answer.body.contains("up{"), "{answer:?}");
    assert!(
        again.asked() >= 2,
        "a probe, that nobody waited for, and a question"
    );
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_stream_with_resource_exhausted() {
    let mut config = config();
    config.max_message_bytes = 100_000;
    let proxy = steadfast_fodc_proxy::Proxy::start(config).await.unwrap();
    let agent = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
    let long = "x".repeat(200_000);
    let metrics = agent
        .answering(vec![metric("up", &[("text", &long)], 1.0)])
        .await;
    let missing = |answer: &http::Answer| answer.header("x-steadfast-missing").is_some();
    eventually(&proxy, "/metrics", missing).await;
    eventually(&proxy, "/agents", |agents| {
        !agents.body.contains("StreamMetrics")
    })
    .await;
    let end = tokio::time::timeout(PATIENCE, metrics.task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
    let health = http::get(proxy.http_address(), "/health").await.json();
    assert_eq!(health["agents_online"], 1, "its registration stands");
}

#[tokio::test]
async fn an_agent_that_sends_unasked_is_read_dropped_and_at_last_ended() {
    let proxy = start().await;
    let good = Agent::register(proxy.grpc_address(), pod("db-0", "r")).await;
    let _good = good.answering(vec![metric("up", &[], 1.0)]).await;
    let bad = Agent::register(proxy.grpc_address(), pod("db-1", "r")).await;
    let flood = bad.metrics(|_| Action::Nothing).await;
    for _ in 0..1_000 {
        let long = "x".repeat(10_000);
        let sent = flood
            .answers
            .send(reply(vec![metric("flood", &[("text", &long)], 1.0)]))
            .await;
        if sent.is_err() {
            break;
        }
    }
    let end = tokio::time::timeout(PATIENCE, flood.task)
        .await
        .unwrap()
        .unwrap();
    assert_ne!(end.code(), Code::Ok, "{end}");
    let answer = http::get(proxy.http_address(), "/metrics").await;
    assert!(answer.body.contains("db-0"), "{answer:?}");
    assert!(!answer.body.contains("flood"), "{answer:?}");
}
