//! Agents beside a database node, with a proxy.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use steadfast_fodc_agent::{Config, UplinkConfig, identity::Identity};
use steadfast_fodc_proxy::{self as proxy, Proxy};
use tokio::time::{Instant, sleep};

use super::{LIMIT, config, exporter::Exporter, http};

pub(crate) async fn start_proxy() -> Proxy {
    let mut config = proxy::Config::default();
    config.grpc_listen = "127.0.0.1:0".parse().unwrap();
    config.http_listen = config.grpc_listen;
    Proxy::start(config).await.unwrap()
}

/// Returns the settings of an agent beside a node at this address, which asks it five times a second.
pub(crate) fn settings(address: SocketAddr, proxy: SocketAddr, exporter: &Exporter) -> Config {
    let mut config = config([exporter.url()]);
    let identity = Identity {
        role: Identity::ROLE_UNKNOWN.to_owned(),
        pod_name: "db-0".to_owned(),
        ..Identity::default()
    };
    let mut uplink = UplinkConfig::new(proxy.to_string(), identity);
    uplink.reconnect_interval = Duration::from_millis(100);
    config.uplink = Some(uplink);
    config.node.cluster_state = vec![address];
    config.node.cluster_state_interval = Duration::from_millis(200);
    config
}

/// Returns the proxy's page once it satisfies the condition.
pub(crate) async fn page_when(proxy: &Proxy, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    json_when(proxy.http_address(), path, holds).await
}

/// Returns a page once it satisfies the condition.
pub(crate) async fn json_when(
    address: SocketAddr,
    path: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let page = http::get(address, path).await;
        let json = serde_json::from_slice(&page.body).unwrap_or(Value::Null);
        if holds(&json) {
            return json;
        }
        assert!(Instant::now() < deadline, "never: {path} {}", page.text());
        sleep(Duration::from_millis(20)).await;
    }
}
