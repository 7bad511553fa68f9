//! Server-sent events of the classic protocol.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use serde_json::json;
use support::{Policy, World, read_until};

const BOTH: [&str; 2] = [
    "/realtime/sse?database=db&collection=orders",
    "/realtime/v1/databases/db/sse?collection=orders",
];

#[tokio::test]
async fn both_paths_serve_events_with_all_headers() {
    let world = World::start().await;
    for path in BOTH {
        let origin = format!("http://{}:3000", world.gateway.address().ip());
        let headers = format!("origin: {origin}\r\nauthorization: Bearer t\r\n");
        let (head, mut tcp) = world.get(path, &headers).await;
        let head = head.to_ascii_lowercase();
        for line in [
            "http/1.1 200 ok",
            "content-type: text/event-stream",
            "cache-control: no-cache",
            "vary: origin",
            "access-control-allow-credentials: true",
            &*format!("access-control-allow-origin: {origin}"),
        ] {
            assert!(head.contains(line), "{line} in {head}");
        }
        let begin = read_until(&mut tcp, "\n\n").await;
        assert!(begin.ends_with("\r\n: connected\n\n"), "{begin:?}");
        world.put("1", &json!({"text": "a\nb"})).await;
        let event = read_until(&mut tcp, "}\n\n").await;
        // The client takes the first line of data only, and events have no other field.
        let mut lines = event.lines().filter(|it| it.contains(": "));
        let line = lines.find(|it| it.starts_with("data: ")).unwrap();
        assert_eq!(lines.next(), None, "{event}");
        let message: serde_json::Value = serde_json::from_str(&line[6..]).unwrap();
        assert_eq!(message["payload"]["subId"], "default");
        assert_eq!(message["payload"]["delta"]["document"]["text"], "a\nb");
    }
}

#[tokio::test]
async fn unknown_parameters_are_named_in_a_header() {
    let world = World::start().await;
    for path in BOTH {
        let (head, _) = world.get(path, "").await;
        assert!(!head.to_ascii_lowercase().contains("warning:"), "{head}");
        for (name, named) in [
            ("filter", "filter"),
            ("a%22%0d%0ab%c3%a9", "a???b?"),
            (&"n".repeat(200), &"n".repeat(100)),
        ] {
            let (head, _) = world.get(&format!("{path}&{name}=1"), "").await;
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let line = format!("warning: 299 steadfast \"unknown parameter {named}\"\r\n");
            assert!(head.contains(&line), "{head}");
        }
    }
}

#[tokio::test]
async fn refusals_have_the_texts_of_the_original() {
    let policy = Policy::new(&["alice"]);
    policy.write(&[("alice", "r")], &[("r", "orders", "")], "");
    let world = World::guarded(&policy).await;
    let bearer = format!("authorization: Bearer {}\r\n", policy.token("alice"));
    for (path, headers, status, text) in [
        (BOTH[0], "", 401, "Authorization header required"),
        (
            BOTH[0],
            "authorization: Basic x\r\n",
            401,
            "Invalid authorization header format",
        ),
        (
            BOTH[1],
            "authorization: Bearer x\r\n",
            401,
            "Invalid or expired token",
        ),
        (
            "/realtime/sse?collection=orders",
            &*bearer,
            401,
            "database required",
        ),
        (
            "/realtime/sse?database=db",
            &*bearer,
            400,
            "collection required",
        ),
        (
            "/realtime/sse?database=db&collection=secrets",
            &*bearer,
            403,
            "failed to subscribe: you may not subscribe to this collection",
        ),
        (
            BOTH[0],
            "origin: https://evil.example\r\n",
            403,
            "origin not allowed",
        ),
    ] {
        let (head, mut tcp) = world.get(path, headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(read_until(&mut tcp, text).await, text);
    }
    let (head, _) = world.get(BOTH[1], &bearer).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[tokio::test]
async fn stream_lasts_longer_than_the_interval_of_heartbeats() {
    let world = World::start().await;
    let (_, mut tcp) = world.get(BOTH[0], "").await;
    // The original cut every stream at its first write after ten seconds.
    read_until(&mut tcp, ": heartbeat\n\n").await;
    world.put("1", &json!({})).await;
    read_until(&mut tcp, "orders/1\",").await;
}

#[tokio::test]
async fn names_of_databases_are_the_same_in_paths_and_messages() {
    let world = World::start().await;
    let name = "a b/\u{e4}";
    let (_, mut path) = world
        .get("/realtime/v1/databases/a%20b%2F%C3%A4/sse?collection=c", "")
        .await;
    let (_, mut query) = world
        .get("/realtime/sse?database=a+b/%C3%A4&collection=c", "")
        .await;
    let mut client = world.connect().await;
    let payload = json!({"token": "t", "database": name});
    client
        .send(json!({"id": "a", "type": "auth", "payload": payload}))
        .await;
    assert_eq!(client.next().await["type"], "auth_ack");
    client
        .subscribe("s", json!({"collection": "c"}), false)
        .await;
    let entry = steadfast_streamer::Entry::upsert(name, "c", "1", "{}");
    support::soon(world.publisher.publish(entry)).await.unwrap();
    assert_eq!(client.event().await, "create c/1");
    for stream in [&mut path, &mut query] {
        read_until(stream, "\"c/1\"").await;
    }
}
