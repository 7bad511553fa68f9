//! Shared by the tests of the agent.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod cluster;
pub(crate) mod exporter;
pub(crate) mod http;
pub(crate) mod node;
pub(crate) mod pressure;
pub(crate) mod schema;

use std::time::Duration;

use exporter::Exporter;
use steadfast_fodc_agent::{Agent, Config, scrape::Endpoint};
use tokio::time::{Instant, sleep};

/// The time limit of a wait, long enough for a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Returns settings that scrape these pages five times a second, in memory and on a free port.
pub(crate) fn config<const N: usize>(urls: [String; N]) -> Config {
    let endpoints = urls.map(|url| Endpoint::new(&url).unwrap());
    let mut config = Config::new(endpoints.into());
    config.interval = Duration::from_millis(200);
    config.timeout = Some(Duration::from_secs(20));
    config.listen = Some("127.0.0.1:0".parse().unwrap());
    config
}

/// Starts an agent that scrapes these endpoints.
pub(crate) async fn start<const N: usize>(exporters: [&Exporter; N]) -> Agent {
    Agent::start(config(exporters.map(Exporter::url)))
        .await
        .unwrap()
}

/// Returns the agent's page of metrics once it contains the text.
pub(crate) async fn page_with(agent: &Agent, text: &str) -> String {
    page_when(agent, text, |page| page.contains(text)).await
}

/// Returns the agent's page of metrics after more than this number of further scrapes.
pub(crate) async fn page_after(agent: &Agent, scrapes: u64, of: &Exporter) -> String {
    let end = of.requests() + scrapes;
    page_when(agent, "it is scraped", |_| of.requests() > end).await
}

/// Returns the agent's page of metrics once it satisfies the condition.
pub(crate) async fn page_when(agent: &Agent, what: &str, holds: impl Fn(&str) -> bool) -> String {
    let address = agent.addresses().http.expect("the agent listens");
    let deadline = Instant::now() + LIMIT;
    loop {
        let page = http::get(address, "/metrics").await;
        assert_eq!(page.status, 200, "{}", page.text());
        let text = page.text();
        if holds(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "never: {what}\n{text}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the value of the first line of a page that begins with `line`.
pub(crate) fn value(page: &str, line: &str) -> Option<f64> {
    let line = page.lines().find(|candidate| candidate.starts_with(line))?;
    let rest = line.rsplit_once('}').map_or_else(
        || line.split_once(' ').map(|(_, rest)| rest),
        |(_, rest)| Some(rest),
    )?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Stops an agent in time.
pub(crate) async fn stop(agent: Agent) {
    let started = Instant::now();
    agent.stop(Duration::from_secs(5)).await.unwrap();
    assert!(started.elapsed() < LIMIT);
}
