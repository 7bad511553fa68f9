//! An agent from its start to its end: its record outlives it, and nothing keeps it from leaving.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;

use std::{path::Path, time::Duration};

use agent_support::{
    LIMIT,
    cluster::start_proxy,
    config,
    exporter::{Exporter, page_response, silence},
    http, page_after, page_when, page_with, stop, value,
};
use steadfast::session::State;
use steadfast_chaos::{Fault, Reach};
use steadfast_fodc_agent::{Agent, StartError, Storage, UplinkConfig, identity::Identity};
use steadfast_fodc_proxy::Proxy;
use steadfast_recorder::{OpenError, Selector};
use tokio::time::{Instant, sleep};

/// Starts an agent whose record is in this directory.
async fn start_in(directory: &Path, exporter: &Exporter) -> Result<Agent, StartError> {
    let mut config = config([exporter.url()]);
    config.record = Storage::Directory(directory.to_owned());
    Agent::start(config).await
}

fn identity() -> Identity {
    Identity {
        role: "ROLE_DATA".to_owned(),
        pod_name: "db-0".to_owned(),
        ..Identity::default()
    }
}

/// Values of the metric `m`, as everything that is recorded has them.
async fn recorded(agent: &Agent) -> Vec<f64> {
    let reader = agent.reader().await.unwrap();
    let series = reader.window(&Selector::all().name("m"), i64::MIN..=i64::MAX);
    let samples = series.flat_map(|series| series.unwrap().samples);
    samples.map(|sample| sample.value).collect()
}

#[tokio::test]
async fn restarted_agent_continues_its_record() {
    let directory = tempfile::tempdir().unwrap();
    let exporter = Exporter::page("m 1\n");
    let agent = start_in(directory.path(), &exporter).await.unwrap();
    page_after(&agent, 3, &exporter).await;
    let before = recorded(&agent).await.len();
    stop(agent).await;

    // Until the endpoint has been read anew, what another agent saw is not shown as if it were now.
    exporter.set(silence());
    let agent = start_in(directory.path(), &exporter).await.unwrap();
    let page = page_when(&agent, "it is asked", |_| true).await;
    assert!(!page.contains("\nm "), "{page}");
    let kept = recorded(&agent).await;
    assert!(
        kept.len() >= before && kept.iter().all(|value| value.to_bits() == 1_f64.to_bits()),
        "{kept:?}"
    );
    assert!(agent.opened().newest.is_some() && agent.opened().damage.is_empty());
    stop(agent).await;

    exporter.set(page_response("m 2\n"));
    let agent = start_in(directory.path(), &exporter).await.unwrap();
    page_with(&agent, "\nm 2 ").await;
    let all = recorded(&agent).await;
    assert_eq!(
        (all.first(), all.last()),
        (Some(&1.0), Some(&2.0)),
        "{all:?}"
    );
    stop(agent).await;
}

#[tokio::test]
async fn dropped_agent_releases_its_record() {
    let directory = tempfile::tempdir().unwrap();
    let exporter = Exporter::page("m 1\n");
    let agent = start_in(directory.path(), &exporter).await.unwrap();
    page_after(&agent, 3, &exporter).await;
    let second = start_in(directory.path(), &exporter).await;
    let text = second.unwrap_err();
    assert!(
        matches!(text, StartError::Record(OpenError::Locked { .. })),
        "{text}"
    );
    let before = recorded(&agent).await.len();
    drop(agent);
    let deadline = Instant::now() + LIMIT;
    let agent = loop {
        match start_in(directory.path(), &exporter).await {
            Ok(agent) => break agent,
            Err(StartError::Record(OpenError::Locked { .. })) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(Instant::now() < deadline, "the record is never let go");
        sleep(Duration::from_millis(20)).await;
    };
    assert!(recorded(&agent).await.len() >= before);
    stop(agent).await;
}

#[tokio::test]
async fn agent_works_while_its_proxy_is_away() {
    let exporter = Exporter::page("m 1\n");
    let mut config = config([exporter.url()]);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    config.uplink = Some(UplinkConfig::new(address, identity()));
    let agent = Agent::start(config).await.unwrap();
    page_with(&agent, "\nm 1 ").await;
    assert_ne!(agent.uplink_state().unwrap().state, State::Connected);
    assert_eq!(agent.unready(), None);
    let address = agent.addresses().http.unwrap();
    let ready = http::get(address, "/readyz").await;
    assert_eq!(ready.status, 200, "it records");
    let text = ready.text();
    assert!(
        text.starts_with("ready\nnot registered with the proxy: "),
        "{text}"
    );
    let page = http::get(address, "/metrics").await.text();
    assert!(
        page.contains("\nsteadfast_agent_uplink_registered 0\n"),
        "{page}"
    );
    stop(agent).await;
}

#[tokio::test]
async fn loss_of_the_proxy_is_shown() {
    let exporter = Exporter::page("m 1\n");
    let (agent, _between, proxy) = registered(&exporter).await;
    let address = agent.addresses().http.unwrap();
    let deadline = Instant::now() + LIMIT;
    while http::get(address, "/readyz").await.text() != "ready\n" {
        assert!(Instant::now() < deadline, "never connected");
        sleep(Duration::from_millis(20)).await;
    }
    let page = http::get(address, "/metrics").await.text();
    for line in [
        "steadfast_agent_uplink_registered 1",
        "steadfast_agent_uplink_metrics_stream_open 1",
        "steadfast_agent_uplink_registrations_total 1",
    ] {
        assert!(page.contains(&format!("\n{line}\n")), "{line}: {page}");
    }
    proxy.drain(Duration::from_millis(100)).await;
    while http::get(address, "/readyz").await.text() == "ready\n" {
        assert!(Instant::now() < deadline, "never told");
        sleep(Duration::from_millis(20)).await;
    }
    stop(agent).await;
}

/// An agent that is registered with a proxy of ours, through something that can break.
async fn registered(exporter: &Exporter) -> (Agent, steadfast_chaos::Proxy, Proxy) {
    let proxy = start_proxy().await;
    let between = steadfast_chaos::Proxy::start(proxy.grpc_address()).unwrap();
    let mut config = config([exporter.url()]);
    let uplink = UplinkConfig::new(between.addr().to_string(), identity());
    config.uplink = Some(uplink);
    let agent = Agent::start(config).await.unwrap();
    let deadline = Instant::now() + LIMIT;
    while agent.uplink_state().unwrap().state != State::Connected {
        assert!(Instant::now() < deadline, "never registered");
        sleep(Duration::from_millis(20)).await;
    }
    (agent, between, proxy)
}

async fn proxy_page(proxy: &Proxy, holds: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let page = http::get(proxy.http_address(), "/metrics").await.text();
        if holds(&page) {
            return page;
        }
        assert!(Instant::now() < deadline, "never shown:\n{page}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_shows_what_the_agent_recorded_under_its_identity() {
    let exporter = Exporter::page("# HELP m Some.\n# TYPE m counter\nm{a=\"1\"} 7\ngone 1\n");
    let (agent, _between, proxy) = registered(&exporter).await;
    let page = proxy_page(&proxy, |page| page.contains("\nm{")).await;
    assert!(
        page.contains("# HELP m Some.\n# TYPE m counter\n"),
        "{page}"
    );
    let line = page.lines().find(|line| line.starts_with("m{")).unwrap();
    for label in ["a=\"1\"", "node_role=\"ROLE_DATA\"", "pod_name=\"db-0\""] {
        assert!(line.contains(label), "{label}: {line}");
    }
    assert_eq!(value(&page, "m{"), Some(7.0));
    assert!(page.contains("\nup{"), "{page}");
    exporter.set(page_response("m{a=\"1\"} 8\n"));
    proxy_page(&proxy, |page| {
        !page.contains("\ngone{") && value(page, "m{") == Some(8.0)
    })
    .await;
    agent
        .set_identity(Identity {
            role: "ROLE_LIAISON".to_owned(),
            ..identity()
        })
        .unwrap();
    proxy_page(&proxy, |page| page.contains("node_role=\"ROLE_LIAISON\"")).await;
    stop(agent).await;
    proxy.drain(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_proxy_does_not_delay_disconnect() {
    let exporter = Exporter::page("m 1\n");
    let (agent, between, proxy) = registered(&exporter).await;
    proxy_page(&proxy, |page| page.contains("\nm{")).await;
    let _frozen = between.inject(Fault::Freeze, Reach::Everything);
    page_after(&agent, 2, &exporter).await;
    let started = Instant::now();
    agent.stop(Duration::from_secs(5)).await.unwrap();
    let took = started.elapsed();
    assert!(
        took < Duration::from_secs(15),
        "{took:?}, even on a busy machine"
    );
    proxy.drain(Duration::from_secs(1)).await;
}
