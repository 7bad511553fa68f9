//! The proxy on real sockets, with scripted agents of every version.
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a test that can not go on shall say where; values pass through unchanged"
)]

mod agent;
mod answers;
mod asking;
mod http;
mod registration;
mod stopping;
mod streams;
mod windows;

use std::{net::SocketAddr, time::Duration};

use steadfast_fodc_proxy::{Config, Proxy};
use tokio::time::{Instant, sleep};

use crate::agent::PATIENCE;

/// Ports of the system's choice.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.grpc_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.http_listen = config.grpc_listen;
    config
}

pub(crate) async fn start() -> Proxy {
    Proxy::start(config()).await.unwrap()
}

/// Waits until `condition` holds for an answer to `path`.
pub(crate) async fn eventually(
    proxy: &Proxy,
    path: &str,
    mut condition: impl FnMut(&http::Answer) -> bool,
) -> http::Answer {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = http::get(proxy.http_address(), path).await;
        if condition(&answer) {
            return answer;
        }
        assert!(Instant::now() < until, "never: {path} {answer:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The answer to `path` once every agent has had its say.
pub(crate) async fn complete(proxy: &Proxy, path: &str) -> http::Answer {
    let all = |answer: &http::Answer| answer.header("x-steadfast-missing").is_none();
    eventually(proxy, path, all).await
}
