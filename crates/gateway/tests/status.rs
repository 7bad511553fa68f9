//! The figures for the console.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use steadfast_gateway::StreamerStatus;
use steadfast_streamer::server::{Security, operations::Operations};
use support::{
    Policy, World,
    http::{Reply, request, request_as},
    listener,
};

/// Returns the status for the owner of a token.
async fn status(world: &World, token: Option<&str>) -> Reply {
    let what = ("GET", "/v1/status");
    request_as(world.gateway.address(), what, token, "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_sockets_rates_and_the_streamer() {
    let operations = Operations::start(listener().await, Security::default()).unwrap();
    let source = StreamerStatus::from(operations.status_reader());
    let world = World::with(|options| options.streamer_status = Some(source)).await;
    // The log of the Streamer is not open yet, as far as its listener for operations knows.
    let early = status(&world, None).await.json();
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
    let reply = status(&world, None).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/json");
    let body = reply.json();
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
        let body = status(&world, None).await.json();
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
    let body = status(&world, None).await.json();
    assert_eq!(body["gateway"]["sockets"].as_array().unwrap().len(), 100);
    assert_eq!(body["gateway"]["sockets"][0]["socket"], 103);
    assert_eq!(body["gateway"]["otherSockets"], 3);
    let problem = body["problem"].as_str().unwrap();
    assert!(problem.contains("--streamer-operations"), "{problem}");
}

#[tokio::test]
async fn status_is_for_administrators_if_there_is_a_policy() {
    let policy = Policy::new(&["alice", "operator"]);
    policy.write_with_admin(&[("alice", "reader")], &[("reader", "c", "")], "operator");
    let world = World::guarded(&policy).await;
    let alice = policy.token("alice");
    for (token, expected, code) in [
        (None, 401, "unauthenticated"),
        (Some("wrong"), 401, "unauthenticated"),
        (Some(&*alice), 403, "denied"),
    ] {
        let reply = status(&world, token).await;
        assert_eq!(reply.status, expected, "{token:?}");
        assert_eq!(reply.json()["error"]["code"], code);
    }
    let mut client = world.connect().await;
    client.authenticate(&alice).await;
    let reply = status(&world, Some(&policy.token("operator"))).await;
    assert_eq!(reply.status, 200);
    let socket = &reply.json()["gateway"]["sockets"][0];
    assert_eq!(socket["principal"], "token:alice");
}

#[tokio::test]
async fn gateway_on_loopback_refuses_pages_of_other_hosts() {
    let world = World::with(|options| {
        options.allow_origins = vec!["https://app.example".to_owned()];
        options.security.allow_hosts = vec!["console.example".to_owned()];
    });
    let world = world.await;
    for (host, status) in [
        ("evil.example", 403),
        ("localhost", 200),
        ("app.example:8080", 200),
        ("console.example", 200),
    ] {
        // The origin of a page at a name that was given an address of loopback is its own host.
        let headers = [("host", host), ("origin", &*format!("http://{host}"))];
        let address = world.gateway.address();
        let reply = request(address, ("GET", "/v1/status"), &headers, "").await;
        assert_eq!(reply.status, status, "{host}");
    }
}
