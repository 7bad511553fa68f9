//! The figures for the console.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use steadfast_gateway::StreamerStatus;
use steadfast_streamer::server::{Security, operations::Operations};
use support::{Policy, World, listener};
use tokio::io::AsyncReadExt as _;

/// Returns the head of the response, and its body.
async fn status(world: &World, headers: &str) -> (String, Value) {
    let headers = format!("{headers}connection: close\r\n");
    let (head, mut tcp) = world.get("/v1/status", &headers).await;
    let mut body = String::new();
    support::soon(tcp.read_to_string(&mut body)).await.unwrap();
    (head, serde_json::from_str(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_sockets_rates_and_the_streamer() {
    let operations = Operations::start(listener().await, Security::default()).unwrap();
    let source = StreamerStatus::from(operations.status_reader());
    let world = World::with(|options| options.streamer_status = Some(source)).await;
    // The log of the Streamer is not open yet, as far as its listener for operations knows.
    let (_, early) = status(&world, "").await;
    assert_eq!(early["streamer"], Value::Null);
    assert_eq!(early["problem"], "starting: the log is being opened");
    operations.show(&world.server);

    let mut first = world.client().await;
    first
        .subscribe("s", json!({"collection": "c"}), false)
        .await;
    first
        .subscribe("t", json!({"collection": "d"}), false)
        .await;
    let _second = world.client().await;
    for id in ["1", "2", "3"] {
        world.publish("c", id, &json!({})).await;
        first.event().await;
    }
    let (head, body) = status(&world, "").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let gateway = &body["gateway"];
    let figures = &gateway["figures"];
    assert_eq!(
        (&gateway["state"], &gateway["otherSockets"]),
        (&json!("ready"), &json!(0))
    );
    assert_eq!(
        [
            &figures["sockets"],
            &figures["subscriptions"],
            &figures["items"]
        ],
        [2, 2, 3]
    );
    let socket = |index: usize, field: &str| &gateway["sockets"][index][field];
    let shown = |index| (socket(index, "subscriptions"), socket(index, "items"));
    // The newest is the first.
    assert_eq!(shown(0), (&json!(0), &json!(0)));
    assert_eq!(shown(1), (&json!(2), &json!(3)));
    assert_eq!(socket(1, "protocol"), "classic");
    assert_eq!(socket(1, "peer"), "127.0.0.1");
    let address = world.server.address().to_string();
    assert_eq!(body["streamer"]["address"], address);
    assert_eq!(body["streamer"]["log"]["head"], 3);
    assert_eq!(body["problem"], Value::Null);

    drop(first);
    let counted = async || {
        let (_, body) = status(&world, "").await;
        let open = body["gateway"]["sockets"].as_array().unwrap().len();
        let figures = &body["gateway"]["figures"];
        (
            open,
            figures["sockets"].clone(),
            figures["subscriptions"].clone(),
        )
    };
    support::soon(async {
        while counted().await != (1, json!(1), json!(0)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn sockets_beyond_a_hundred_are_counted() {
    let world = World::start().await;
    let mut open = Vec::new();
    for _ in 0..103 {
        open.push(world.connect().await);
    }
    let (_, body) = status(&world, "").await;
    assert_eq!(body["gateway"]["sockets"].as_array().unwrap().len(), 100);
    assert_eq!(body["gateway"]["sockets"][0]["socket"], 103);
    assert_eq!(body["gateway"]["otherSockets"], 3);
    let problem = body["problem"].as_str().unwrap();
    assert!(problem.contains("--streamer-operations"), "{problem}");
}

#[tokio::test]
async fn status_is_for_administrators_if_there_is_a_policy() {
    let policy = Policy::new(&["alice", "operator"]);
    let members = [("alice", "reader"), ("operator", "operator")];
    policy.write(&members, &[("reader", "c", "")], "");
    let file = std::fs::read_to_string(policy.path()).unwrap();
    let grant = "\n[[grants]]\nrole = 'operator'\nactions = ['admin']\n";
    std::fs::write(policy.path(), file + grant).unwrap();
    let world = World::with(|options| options.access = Some(policy.path())).await;
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let cases = [
        (String::new(), "HTTP/1.1 401", "unauthenticated"),
        (bearer("wrong"), "HTTP/1.1 401", "unauthenticated"),
        (bearer(&policy.token("alice")), "HTTP/1.1 403", "denied"),
    ];
    for (headers, expected, code) in cases {
        let (head, body) = status(&world, &headers).await;
        assert!(head.starts_with(expected), "{headers}: {head}");
        assert_eq!(body["error"]["code"], code);
    }
    let mut client = world.connect().await;
    client.authenticate(&policy.token("alice")).await;
    let (head, body) = status(&world, &bearer(&policy.token("operator"))).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let socket = &body["gateway"]["sockets"][0];
    assert_eq!(socket["principal"], "token:alice");
}
