//! An agent with crash files and a pressure profiler, and our proxy.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;

use std::{fs, time::Duration};

use agent_support::{
    LIMIT,
    cluster::{json_when, start_proxy},
    config,
    exporter::Exporter,
    http, page_with,
    pressure::{memory_page, pprof, profiler},
    stop,
};
use serde_json::{Value, json};
use steadfast_fodc_agent::{Agent, Config, CrashPattern, UplinkConfig, identity::Identity};
use steadfast_fodc_proxy::Proxy;
use tokio::time::sleep;

/// Settings of an agent with a proxy.
fn config_with(proxy: &Proxy, exporter: &Exporter) -> Config {
    let mut config = config([exporter.url()]);
    let identity = Identity {
        role: "ROLE_DATA".to_owned(),
        pod_name: "db-0".to_owned(),
        ..Identity::default()
    };
    config.uplink = Some(UplinkConfig::new(
        proxy.grpc_address().to_string(),
        identity,
    ));
    config
}

fn len(page: &Value) -> usize {
    page.as_array().map_or(usize::MAX, Vec::len)
}

#[tokio::test]
async fn crashes_in_files_reach_the_page_of_the_proxy() {
    let (proxy, exporter) = (start_proxy().await, Exporter::page("m 1\n"));
    let temp = tempfile::tempdir().unwrap();
    let mut config = config_with(&proxy, &exporter);
    config.crashes.directory = Some(temp.path().join("panics"));
    let pattern = format!("{}/core.*", temp.path().display());
    config.crashes.files = vec![CrashPattern::new(&pattern).unwrap()];
    let agent = Agent::start(config).await.unwrap();
    // Known to have no crash, which the directory that does not exist yet is no reason against.
    json_when(proxy.http_address(), "/diagnostics", |page| len(page) == 0).await;

    fs::create_dir_all(temp.path().join("panics/1")).unwrap();
    let panic = r#"{"panicValue":"boom","occurredAt":"2026-03-01T08:00:00Z"}"#;
    fs::write(temp.path().join("panics/1/panic.json"), panic).unwrap();
    fs::write(temp.path().join("core.7"), [0; 8]).unwrap();
    let page = json_when(proxy.http_address(), "/diagnostics", |page| len(page) == 2).await;
    assert_eq!(page[0]["artifact_dir"], "1");
    assert_eq!(page[0]["panic_record"]["panic_value"], "boom");
    assert_eq!(
        page[0]["panic_record"]["occurred_at"],
        "2026-03-01T08:00:00Z"
    );
    assert_eq!(page[1]["files"], json!(["core.7"]));

    // The agent's own page has them in the shape of the original's.
    let own = json_when(agent.addresses().http.unwrap(), "/diagnostics", |_| true).await;
    let panic = own.as_array().unwrap().iter();
    let panic = panic.map(|crash| &crash["collection"]);
    let panic = panic
        .clone()
        .find(|crash| crash["artifactDir"] == "1")
        .unwrap();
    assert_eq!(panic["record"]["panicValue"], "boom");
    assert_eq!(panic["files"], json!(["panic.json"]));
    stop(agent).await;
}

#[tokio::test]
async fn profiles_are_captured_under_pressure_and_downloaded() {
    let (proxy, exporter, pprof) = (start_proxy().await, memory_page(750), pprof("200 OK"));
    let temp = tempfile::tempdir().unwrap();
    let mut config = config_with(&proxy, &exporter);
    config.pressure = Some(profiler(&pprof, temp.path()));
    let agent = Agent::start(config).await.unwrap();
    page_with(&agent, "fodc_agent_pressure_capture_total 1").await;
    let page = json_when(proxy.http_address(), "/pressure-profiles", |page| {
        len(page) == 1
    })
    .await;
    assert_eq!(page[0]["rss_bytes"], 750);
    assert_eq!(page[0]["threshold_bytes"], 750);
    let id = page[0]["profile_id"].as_str().unwrap();
    for (index, (kind, byte)) in [("heap", b'h'), ("goroutine", b'g')]
        .into_iter()
        .enumerate()
    {
        assert_eq!(page[0]["profiles"][index]["size_bytes"], 3 << 20);
        let path = format!("/pressure-profiles/db-0/{id}/{kind}");
        let file = http::get(proxy.http_address(), &path).await;
        assert_eq!(file.status, 200, "{kind}");
        assert!(
            file.body == vec![byte; 3 << 20],
            "{kind}: {} bytes",
            file.body.len()
        );
    }
    // The cooldown holds, however often the page is scraped.
    page_with(&agent, "fodc_agent_pressure_skipped_cooldown_total 2").await;
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    stop(agent).await;
}

#[tokio::test]
async fn profile_that_cannot_be_fetched_leaves_nothing_behind() {
    let (exporter, pprof) = (memory_page(1000), pprof("404 Not Found"));
    let temp = tempfile::tempdir().unwrap();
    let mut config = config([exporter.url()]);
    config.pressure = Some(profiler(&pprof, temp.path()));
    let agent = Agent::start(config).await.unwrap();
    let page = page_with(&agent, "fodc_agent_pressure_failures_total 2").await;
    assert!(
        page.contains("fodc_agent_pressure_capture_total 0"),
        "{page}"
    );
    let gone = async {
        while fs::read_dir(temp.path()).unwrap().count() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    stop(agent).await;
}

#[tokio::test]
async fn process_without_a_limit_on_its_page_uses_the_configured_one() {
    let exporter = Exporter::page("process_resident_memory_bytes 80\n");
    let pprof = pprof("200 OK");
    let temp = tempfile::tempdir().unwrap();
    let mut config = config([exporter.url()]);
    let mut profiler = profiler(&pprof, temp.path());
    profiler.limit_bytes = Some(100);
    config.pressure = Some(profiler);
    let agent = Agent::start(config).await.unwrap();
    page_with(&agent, "fodc_agent_pressure_capture_total 1").await;
    stop(agent).await;
}

#[tokio::test]
async fn pages_without_a_configured_source_say_so() {
    let (proxy, exporter) = (start_proxy().await, Exporter::page("m 1\n"));
    let agent = Agent::start(config_with(&proxy, &exporter)).await.unwrap();
    json_when(proxy.http_address(), "/agents", |agents| len(agents) == 1).await;
    for (address, path, setting) in [
        (proxy.http_address(), "/diagnostics", "--crash-files"),
        (
            proxy.http_address(),
            "/pressure-profiles",
            "--pressure-profiler-enabled",
        ),
        (
            agent.addresses().http.unwrap(),
            "/diagnostics",
            "--crash-files",
        ),
    ] {
        let page = http::get(address, path).await;
        assert_eq!(page.status, 501, "{path}");
        assert!(page.text().contains(setting), "{}", page.text());
    }
    stop(agent).await;
}
