//! An agent whose metrics stream is refused, as its operator sees it: in the log, on `/readyz` and on
//! `/metrics`. One test, because the log belongs to the process.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;
mod uplink_support;

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use agent_support::{LIMIT, config, exporter::Exporter, http, page_with, stop};
use steadfast_fodc_agent::{Agent, UplinkConfig};
use tokio::time::{Instant, sleep};
use tonic::Code;
use uplink_support::{
    identity,
    server::{Behaviour, Dialect, Proxy},
};

/// Returns the number of lines of the log with both texts.
fn count(log: &Path, texts: [&str; 2]) -> usize {
    let log = fs::read_to_string(log).unwrap();
    let lines = log.lines();
    lines
        .filter(|line| texts.iter().all(|text| line.contains(text)))
        .count()
}

#[tokio::test]
async fn refused_metrics_stream_is_logged_and_shown() {
    const REASON: &str = "no metrics wanted here";
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(File::create(&log).unwrap());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();

    let proxy = Proxy::start(Behaviour {
        metrics_refusal: Some((Code::Internal, REASON)),
        ..Behaviour::of(Dialect::Newest)
    });
    let exporter = Exporter::page("m 1\n");
    let mut config = config([exporter.url()]);
    config.uplink = Some(UplinkConfig::new(proxy.addr.to_string(), identity()));
    let agent = Agent::start(config).await.unwrap();
    page_with(&agent, "\nm 1 ").await;
    let deadline = Instant::now() + LIMIT;
    while count(&log, ["stream ended again", REASON]) == 0 {
        assert!(Instant::now() < deadline, "never refused twice");
        sleep(Duration::from_millis(20)).await;
    }
    let warnings = count(&log, [" WARN ", REASON]);
    assert_eq!(warnings, 1, "one for all that say the same");
    let address = agent.addresses().http.unwrap();
    let ready = http::get(address, "/readyz").await;
    assert_eq!(ready.status, 200, "it records");
    let told = ready.text();
    assert!(
        told.starts_with("ready\nno metrics stream to the proxy: ") && told.contains(REASON),
        "{told}"
    );
    let page = http::get(address, "/metrics").await.text();
    for line in [
        "steadfast_agent_uplink_registered 1",
        "steadfast_agent_uplink_metrics_stream_open 0",
    ] {
        assert!(page.contains(&format!("\n{line}\n")), "{line}: {page}");
    }
    assert_eq!(proxy.log().registrations.len(), 1, "it stays registered");
    stop(agent).await;
}
