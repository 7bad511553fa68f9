//! The proxy on real sockets, with scripted agents of every version.
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a test that cannot go on shows where; values pass through unchanged"
)]

mod access;
mod agent;
mod cluster;
mod diagnostics;
mod hostile;
mod http;
mod pages;
mod queries;
mod registration;
mod schema;
mod stopping;
mod streams;
mod versions;
mod windows;

use std::{net::SocketAddr, time::Duration};

use steadfast_fodc_proxy::{Config, Proxy};
use tokio::time::{Instant, sleep};

use crate::agent::TIMEOUT;

/// A configuration whose ports the system chooses.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.grpc_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.http_listen = config.grpc_listen;
    config
}

pub(crate) async fn start() -> Proxy {
    start_with(config()).await
}

pub(crate) async fn start_with(config: Config) -> Proxy {
    Proxy::start(config).await.unwrap()
}

/// Waits until `condition` holds for a response to `path`.
pub(crate) async fn eventually(
    proxy: &Proxy,
    path: &str,
    mut condition: impl FnMut(&http::Response) -> bool,
) -> http::Response {
    let until = Instant::now() + TIMEOUT;
    loop {
        let response = get(proxy, path).await;
        if condition(&response) {
            return response;
        }
        assert!(Instant::now() < until, "never: {path} {response:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the response to `path` once it contains the text.
pub(crate) async fn containing(proxy: &Proxy, path: &str, text: &str) -> http::Response {
    eventually(proxy, path, |response| response.body.contains(text)).await
}

/// Returns the response to `path` once these agents are missing.
pub(crate) async fn missing(proxy: &Proxy, path: &str, agents: &str) -> http::Response {
    eventually(proxy, path, |response| response.missing() == Some(agents)).await
}

/// Returns the response to `path` once no agent is missing.
pub(crate) async fn complete(proxy: &Proxy, path: &str) -> http::Response {
    eventually(proxy, path, |response| response.missing().is_none()).await
}

/// Waits until an agent has a metrics stream.
pub(crate) async fn metrics_stream_opens(proxy: &Proxy) {
    containing(proxy, "/agents", "StreamMetrics").await;
}

/// Waits until no agent has a metrics stream.
pub(crate) async fn metrics_streams_close(proxy: &Proxy) -> http::Response {
    let closed = |agents: &http::Response| !agents.body.contains("StreamMetrics");
    eventually(proxy, "/agents", closed).await
}

/// Waits until this many agents are online.
pub(crate) async fn agents_online(proxy: &Proxy, count: u64) {
    let reached = |health: &http::Response| health.json()["agents_online"] == count;
    eventually(proxy, "/health", reached).await;
}

pub(crate) async fn get(proxy: &Proxy, path: &str) -> http::Response {
    http::get(proxy.http_address(), path).await
}
