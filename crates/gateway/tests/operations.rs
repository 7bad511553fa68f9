//! The listener for operations of a gateway.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use serde_json::json;
use steadfast_gateway::{Gateway, GatewayOptions, Operations};
use steadfast_net::Security;
use support::{
    Policy, World,
    http::{request, request_as},
    listener, subscribe, upstream,
};
use tokio::net::TcpListener;

/// Returns the status and the body of a page for the owner of a token.
async fn page(operations: &Operations, path: &str, token: Option<&str>) -> (u16, String) {
    let reply = request_as(operations.address(), ("GET", path), token, "").await;
    (reply.status, reply.body)
}

#[tokio::test]
async fn gateway_is_ready_while_it_has_a_streamer() {
    // Nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let options = GatewayOptions::new(upstream(address));
    let gateway = Gateway::start(listener().await, options).unwrap();
    let operations = Operations::start(listener().await, &gateway, Security::default()).unwrap();
    let (status, body) = page(&operations, "/readyz", None).await;
    assert_eq!(status, 503);
    assert!(body.starts_with("not connected to a Streamer: "), "{body}");
    assert_eq!(
        page(&operations, "/livez", None).await,
        (200, "alive\n".to_owned())
    );
    operations.stop().await;

    let world = World::start().await;
    let operations = Operations::start(listener().await, &world.gateway, Security::default());
    let operations = operations.unwrap();
    support::until("ready", || async {
        page(&operations, "/readyz", None).await == (200, "ready\n".to_owned())
    })
    .await;
}

#[tokio::test]
async fn figures_count_sockets_items_and_refusals_for_administrators() {
    let policy = Policy::new(&["alice", "operator"]);
    policy.write_with_admin(&[("alice", "r")], &[("r", "orders", "")], "operator");
    let world = World::guarded(&policy).await;
    let operations = Operations::start(listener().await, &world.gateway, Security::default());
    let operations = operations.unwrap();
    let mut client = world.connect().await;
    client.authenticate(&policy.token("alice")).await;
    client
        .subscribe("s", json!({"collection": "orders"}), false)
        .await;
    world.put("1", &json!({})).await;
    assert_eq!(client.event().await, "create orders/1");
    client
        .send(subscribe("t", json!({"collection": "secrets"}), false))
        .await;
    client.error().await;
    world.connect_with(&[], "?token=x").await.err().unwrap();
    for (principal, status) in [(None, 401), (Some("alice"), 403)] {
        let token = principal.map(|it| policy.token(it));
        let page = page(&operations, "/metrics", token.as_deref()).await;
        assert_eq!(page.0, status);
    }
    let token = policy.token("operator");
    let (status, metrics) = page(&operations, "/metrics", Some(&token)).await;
    assert_eq!(status, 200);
    for line in [
        "steadfast_gateway_sockets{protocol=\"classic\"} 1",
        "steadfast_gateway_subscriptions 1",
        "steadfast_gateway_items_total 1",
        "steadfast_gateway_refused_total{reason=\"query_token\"} 1",
        "steadfast_gateway_refused_total{reason=\"denied\"} 1",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} in {metrics}");
    }
    drop(client);
    support::until("the socket is gone", || async {
        let (_, metrics) = page(&operations, "/metrics", Some(&token)).await;
        metrics.contains("steadfast_gateway_sockets{protocol=\"classic\"} 0\n")
            && metrics.contains("steadfast_gateway_subscriptions 0\n")
    })
    .await;
}

#[tokio::test]
async fn operations_on_loopback_refuse_pages_of_other_hosts() {
    let world = World::start().await;
    let security = Security {
        allow_hosts: vec!["metrics.example".to_owned()],
        ..Security::default()
    };
    let operations = Operations::start(listener().await, &world.gateway, security).unwrap();
    for (host, status) in [
        ("evil.example", 421),
        ("localhost", 200),
        ("metrics.example", 200),
    ] {
        let (address, what) = (operations.address(), ("GET", "/metrics"));
        let reply = request(address, what, &[("host", host)], "").await;
        assert_eq!(reply.status, status, "{host}");
    }
}
