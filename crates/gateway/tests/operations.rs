//! The listener for operations of a gateway.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use serde_json::json;
use steadfast_gateway::{Gateway, GatewayOptions, Operations};
use steadfast_net::Security;
use support::{Policy, World, listener, read_until, soon, subscribe, upstream};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

/// Returns the status and the body of a page.
async fn page(operations: &Operations, path: &str, headers: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(operations.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let head = read_until(&mut tcp, "\r\n\r\n").await;
    let mut body = String::new();
    let reading = tokio::io::AsyncReadExt::read_to_string(&mut tcp, &mut body);
    soon(reading).await.unwrap();
    (head[9..12].parse().unwrap(), body)
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
    let (status, body) = page(&operations, "/readyz", "").await;
    assert_eq!(status, 503);
    assert!(body.starts_with("not connected to a Streamer: "), "{body}");
    assert_eq!(
        page(&operations, "/livez", "").await,
        (200, "alive\n".to_owned())
    );
    operations.stop().await;

    let world = World::start().await;
    let operations = Operations::start(listener().await, &world.gateway, Security::default());
    let operations = operations.unwrap();
    support::until("ready", || async {
        page(&operations, "/readyz", "").await == (200, "ready\n".to_owned())
    })
    .await;
}

#[tokio::test]
async fn figures_count_sockets_items_and_refusals_for_administrators() {
    let policy = Policy::new(&["alice", "operator"]);
    policy.write_with_admin(&[("alice", "r")], &[("r", "orders", "")], "operator");
    let path = policy.path();
    let world = World::with(|options| options.access = Some(path)).await;
    let operations = Operations::start(listener().await, &world.gateway, Security::default());
    let operations = operations.unwrap();
    let mut client = world.connect().await;
    client.authenticate(&policy.token("alice")).await;
    client
        .subscribe("s", json!({"collection": "orders"}), false)
        .await;
    world.publish("orders", "1", &json!({})).await;
    assert_eq!(client.event().await, "create orders/1");
    client
        .send(subscribe("t", json!({"collection": "secrets"}), false))
        .await;
    client.error().await;
    world.connect_with(&[], "?token=x").await.err().unwrap();
    for (principal, status) in [(None, 401), (Some("alice"), 403)] {
        let header = principal.map_or_else(String::new, |it| {
            format!("authorization: Bearer {}\r\n", policy.token(it))
        });
        assert_eq!(page(&operations, "/metrics", &header).await.0, status);
    }
    let header = format!("authorization: Bearer {}\r\n", policy.token("operator"));
    let (status, metrics) = page(&operations, "/metrics", &header).await;
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
        let (_, metrics) = page(&operations, "/metrics", &header).await;
        metrics.contains("steadfast_gateway_sockets{protocol=\"classic\"} 0\n")
            && metrics.contains("steadfast_gateway_subscriptions 0\n")
    })
    .await;
}
