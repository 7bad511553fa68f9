//! Requests over HTTP whose rights end while they last, their limits, and the form of every refusal.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::json;
use steadfast_gateway::{Gateway, GatewayOptions};
use support::{
    Policy, World,
    http::{Open, request},
    listener, read_until, soon, until, upstream,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

const ORDERS: &str = "/v1/databases/db/collections/orders";

/// Sends the head of a request to publish, and returns once the gateway waits for the body.
async fn begin_to_publish(gateway: SocketAddr, token: &str, bytes: usize) -> TcpStream {
    let mut tcp = TcpStream::connect(gateway).await.unwrap();
    let head = format!(
        "POST {ORDERS} HTTP/1.1\r\nhost: {gateway}\r\nauthorization: Bearer {token}\r\n\
         expect: 100-continue\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n"
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    let continues = read_until(&mut tcp, "\r\n\r\n").await;
    assert!(continues.starts_with("HTTP/1.1 100 "), "{continues}");
    tcp
}

#[tokio::test]
async fn rights_to_publish_must_last_until_the_body_is_there() {
    let grants = [("r", "orders", "")];
    for (remaining, status) in [("alice", "403"), ("bob", "401")] {
        let policy = Policy::new(&["alice", "bob"]);
        policy.write(&[("alice", "r"), ("bob", "r")], &grants, "");
        let before = fs::read_to_string(policy.path()).unwrap();
        let publishes = before.replace("'subscribe'", "'publish'");
        fs::write(policy.path(), &publishes).unwrap();
        let world = World::guarded(&policy).await;
        let gateway = world.gateway.address();
        let (alice, bob) = (policy.token("alice"), policy.token("bob"));
        let body = r#"{"id":"1"}"#;
        let mut tcp = begin_to_publish(gateway, &alice, body.len()).await;
        let after = if remaining == "alice" {
            before
        } else {
            // Without the first token, which is that of Alice.
            publishes[publishes.rfind("[[tokens]]").unwrap()..].replace("'publish'", "'subscribe'")
        };
        fs::write(policy.path(), after).unwrap();
        // Bob has lost the same right, so that his refusal tells that the rules are in force.
        let bearer = format!("Bearer {bob}");
        let headers = [("authorization", &*bearer)];
        until("the rules are in force", async || {
            let reply = request(gateway, ("POST", ORDERS), &headers, body).await;
            reply.status == 403
        })
        .await;
        tcp.write_all(body.as_bytes()).await.unwrap();
        let mut response = String::new();
        soon(tcp.read_to_string(&mut response)).await.unwrap();
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{response}"
        );
    }
}

#[tokio::test]
async fn polls_and_documents_end_when_the_token_expires() {
    let world = World::start().await;
    let big = "x".repeat(500_000);
    for n in 0..40 {
        world.put(&n.to_string(), &json!({"big": big})).await;
    }
    // A gateway of its own, because the documents take longer than a short token lasts.
    let lifetime = Duration::from_secs(5);
    let policy = Policy::new(&["alice"]);
    let (started, until) = (Instant::now(), jiff::Timestamp::now() + lifetime);
    policy.write(
        &[("alice", "r")],
        &[("r", "orders", "")],
        &format!("expires = {until}"),
    );
    let mut options = GatewayOptions::new(upstream(world.server.address()));
    options.access = Some(policy.path());
    let restricted = Gateway::start(listener().await, options).unwrap();
    let gateway = restricted.address();
    let bearer = format!("Bearer {}", policy.token("alice"));
    let headers = [("authorization", &*bearer)];
    let mut slow = Open::request(gateway, ("GET", ORDERS), &headers, "").await;
    assert_eq!(slow.status, 200);
    let newest = request(gateway, ("GET", &format!("{ORDERS}/changes")), &headers, "").await;
    let position = newest.json()["position"].as_str().unwrap().to_owned();
    let poll = format!("{ORDERS}/changes?from={position}&wait=60");
    let poll = request(gateway, ("GET", &poll), &headers, "").await;
    assert_eq!(
        (poll.status, &poll.json()["error"]["code"]),
        (401, &json!("unauthenticated"))
    );
    assert!(started.elapsed() < lifetime + Duration::from_secs(10));
    // What the kernel and the connection held already is less than the documents.
    sleep((started + lifetime).saturating_duration_since(Instant::now())).await;
    while slow.read().await {}
    let read = slow.take_text();
    assert!(read.len() < 40 * big.len(), "{}", read.len());
}

#[tokio::test]
async fn documents_and_polls_count_as_subscriptions_of_a_client() {
    let policy = Policy::new(&["alice", "bob"]);
    policy.write(&[("alice", "r"), ("bob", "r")], &[("r", "orders", "")], "");
    let path = policy.path();
    let world = World::with(|options| {
        options.access = Some(path);
        options.limits.subscriptions_per_principal = 1;
    })
    .await;
    let gateway = world.gateway.address();
    let [alice, bob] = ["alice", "bob"].map(|name| format!("Bearer {}", policy.token(name)));
    let changes = format!("{ORDERS}/changes");
    let of = async |bearer: &str, path: &str| {
        let headers = [("authorization", bearer)];
        request(gateway, ("GET", path), &headers, "").await
    };
    let newest = of(&alice, &changes).await;
    let position = newest.json()["position"].as_str().unwrap().to_owned();
    let waiting = format!("{changes}?from={position}&wait=60");
    let poll = {
        let (alice, waiting) = (alice.clone(), waiting.clone());
        tokio::spawn(async move {
            let headers = [("authorization", &*alice)];
            loop {
                // The permit may be that of the question below.
                let reply = request(gateway, ("GET", &waiting), &headers, "").await;
                if reply.status != 429 {
                    return reply;
                }
            }
        })
    };
    until("the poll holds its permit", async || {
        of(&alice, &changes).await.status == 429
    })
    .await;
    assert_eq!(of(&alice, ORDERS).await.status, 429);
    assert_eq!(of(&bob, ORDERS).await.status, 200);
    world.put("1", &json!({})).await;
    assert_eq!(soon(poll).await.unwrap().status, 200);
    // The permit comes back.
    assert_eq!(of(&alice, ORDERS).await.status, 200);
}

#[tokio::test]
async fn every_refusal_below_v1_is_json() {
    let world = World::start().await;
    let gateway = world.gateway.address();
    let foreign = [("origin", "https://foreign.example")];
    for (path, headers, status, code) in [
        ("/v1/databases/db/collections/%FF", &[][..], 400, "invalid"),
        (
            "/v1/databases/db/collections/%FF/changes",
            &[],
            400,
            "invalid",
        ),
        ("/v1/nothing", &[], 404, "invalid"),
        (ORDERS, &foreign, 403, "denied"),
        ("/v1/status?token=x", &[], 401, "unauthenticated"),
        (
            "/v1/openapi.json?access_token=x",
            &[],
            401,
            "unauthenticated",
        ),
        ("/v1/nothing?token=x", &[], 401, "unauthenticated"),
    ] {
        let reply = request(gateway, ("GET", path), headers, "").await;
        assert_eq!(reply.status, status, "{path}: {}", reply.body);
        assert_eq!(reply.headers["content-type"], "application/json", "{path}");
        let error = &reply.json()["error"];
        assert_eq!(error["code"], code, "{path}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{path}");
    }
    // The console and its like are for people.
    let reply = request(gateway, ("GET", "/nothing"), &[], "").await;
    assert_eq!(
        (reply.status, &*reply.body),
        (404, "there is nothing here\n")
    );
}
