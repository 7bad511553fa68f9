//! Documents, changes and publishing over HTTP, on real sockets: what is received and stored exactly once.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use support::{
    Policy, World,
    http::{Open, Reply, request},
    soon,
};
use tokio::time::sleep;

const ORDERS: &str = "/v1/databases/db/collections/orders";

async fn get(gateway: SocketAddr, path: &str) -> Reply {
    request(gateway, ("GET", path), &[], "").await
}

/// Asks for events after the last id, as a browser does.
async fn events(gateway: SocketAddr, query: &str, last: Option<&str>) -> Open {
    let path = format!("{ORDERS}/changes{query}");
    let mut headers = vec![("accept", "text/event-stream")];
    headers.extend(last.map(|last| ("last-event-id", last)));
    let open = Open::request(gateway, ("GET", &path), &headers, "").await;
    assert_eq!(open.status, 200);
    open
}

/// Returns the ids of the changes of a collection, from the beginning of the log.
async fn log(gateway: SocketAddr) -> Vec<String> {
    let mut position = "0000000000000007-0".to_owned();
    let mut ids = Vec::new();
    loop {
        let path = format!("{ORDERS}/changes?from={position}&wait=1&limit=1000");
        let reply = get(gateway, &path).await.json();
        let items = reply["items"].as_array().unwrap().clone();
        if items.is_empty() {
            return ids;
        }
        ids.extend(items.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
        position = reply["position"].as_str().unwrap().into();
    }
}

#[tokio::test]
async fn events_continue_by_their_last_id_exactly_once() {
    let mut world = World::start().await;
    let mut last: Option<String> = None;
    let mut seen = Vec::new();
    for round in 0..4 {
        // The query is that of the first connection: what the header says is newer.
        let mut open = events(
            world.gateway.address(),
            "?filter=n%20%3E=%200",
            last.as_deref(),
        )
        .await;
        let first = open.event().await.unwrap();
        assert!(first.other[0].starts_with("retry: "), "{first:?}");
        // The position is known before the first item.
        let begin = open.event().await.unwrap();
        last = begin.id.or(last);
        for n in 0..6 {
            world
                .publish("orders", &format!("{round}-{n}"), &json!({"n": n}))
                .await;
            world
                .publish("orders", &format!("not-{round}-{n}"), &json!({"n": -1}))
                .await;
        }
        while seen.len() < round * 6 + 3 {
            let event = open.event().await.unwrap();
            last = event.id.or(last);
            let ids = event
                .data
                .iter()
                .map(|it| it["id"].as_str().unwrap().to_owned());
            seen.extend(ids);
        }
        let next = world.another_gateway().await;
        drop(std::mem::replace(&mut world.gateway, next));
        // Taken before the connection was lost, and told with ids.
        while let Some(event) = open.event().await {
            last = event.id.or(last);
            let ids = event
                .data
                .iter()
                .map(|it| it["id"].as_str().unwrap().to_owned());
            seen.extend(ids);
        }
    }
    let mut open = events(
        world.gateway.address(),
        "?filter=n%20%3E=%200",
        last.as_deref(),
    )
    .await;
    while seen.len() < 24 {
        let event = open.event().await.unwrap();
        seen.extend(
            event
                .data
                .iter()
                .map(|it| it["id"].as_str().unwrap().to_owned()),
        );
    }
    let expected = (0..4).flat_map(|round| (0..6).map(move |n| format!("{round}-{n}")));
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn snapshot_and_changes_after_its_position_are_the_state() {
    let world = World::start().await;
    let gateway = world.gateway.address();
    let big = "x".repeat(500);
    for n in 0..300 {
        world
            .publish("orders", &format!("{n:03}"), &json!({"n": n, "big": big}))
            .await;
    }
    // Documents change while the body is on its way.
    let path = format!("{ORDERS}?filter=n%20%3C%201000");
    let mut open = Open::request(gateway, ("GET", &path), &[], "").await;
    let position = open.headers["steadfast-position"].clone();
    world.delete("orders", "000").await;
    world.publish("orders", "001", &json!({"n": 1_000})).await;
    world.publish("orders", "299", &json!({"n": 7})).await;
    world.publish("orders", "300", &json!({"n": 8})).await;
    while open.read().await {}
    let mut state = BTreeMap::new();
    for line in open.take_text().lines() {
        let document: Value = serde_json::from_str(line).unwrap();
        state.insert(
            document["id"].as_str().unwrap().to_owned(),
            document["n"].clone(),
        );
    }
    let path =
        format!("{ORDERS}/changes?filter=n%20%3C%201000&left=true&from={position}&limit=1000");
    let changes = get(gateway, &path).await.json();
    for item in changes["items"].as_array().unwrap() {
        let id = item["id"].as_str().unwrap().to_owned();
        if item["type"] == "left" || item["op"] == "delete" {
            state.remove(&id);
        } else {
            state.insert(id, item["data"]["n"].clone());
        }
    }
    let mut expected: BTreeMap<_, _> = (2..299).map(|n| (format!("{n:03}"), json!(n))).collect();
    expected.extend([("299".to_owned(), json!(7)), ("300".to_owned(), json!(8))]);
    assert_eq!(state, expected);
}

#[tokio::test]
async fn poll_returns_at_the_first_item_and_misses_none() {
    let world = World::start().await;
    let gateway = world.gateway.address();
    let newest = get(gateway, &format!("{ORDERS}/changes")).await.json();
    assert_eq!(newest["items"], json!([]));
    let mut position = newest["position"].as_str().unwrap().to_owned();
    let empty = get(gateway, &format!("{ORDERS}/changes?from={position}&wait=0"))
        .await
        .json();
    assert_eq!(empty["items"], json!([]));
    let mut seen = Vec::new();
    for n in 0..30 {
        let path = format!("{ORDERS}/changes?from={position}&wait=60&limit=2");
        let asked = tokio::spawn(async move { get(gateway, &path).await });
        if n % 3 == 0 {
            sleep(Duration::from_millis(20)).await;
        }
        world
            .publish("orders", &n.to_string(), &json!({"price": 1.10, "n": n}))
            .await;
        let reply = soon(asked).await.unwrap();
        assert!(reply.body.contains("\"price\":1.1"), "{}", reply.body);
        let reply = reply.json();
        let items = reply["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()));
        seen.extend(items.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
        position = reply["position"].as_str().unwrap().into();
    }
    assert_eq!(seen, (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn repeated_request_is_stored_once_whatever_was_killed() {
    let mut world = World::start().await;
    let lines = (0..2_000).map(|n| format!("{{\"id\":\"{n}\",\"n\":1.10}}\n"));
    let body = lines.collect::<Vec<_>>().concat();
    let headers = [("idempotency-key", "order-7")];
    // Cut at other moments each time: before, while and after the documents are stored.
    for after in [0, 5, 20, 60, 150] {
        let gateway = world.gateway.address();
        let sent = body.clone();
        let asked = tokio::spawn(async move {
            Open::try_request(gateway, ("POST", ORDERS), &headers, &sent).await
        });
        sleep(Duration::from_millis(after)).await;
        let next = world.another_gateway().await;
        drop(std::mem::replace(&mut world.gateway, next));
        soon(asked).await.ok();
    }
    let reply = request(world.gateway.address(), ("POST", ORDERS), &headers, &body).await;
    assert_eq!(
        (reply.status, &reply.json()["published"]),
        (200, &json!(2_000))
    );
    let again = request(world.gateway.address(), ("POST", ORDERS), &headers, &body).await;
    assert_eq!(
        again.json(),
        json!({"published": 2_000}),
        "without a position: all were there"
    );
    let expected: Vec<_> = (0..2_000).map(|n| n.to_string()).collect();
    assert_eq!(log(world.gateway.address()).await, expected);
    // Without a key, and with another one, it is another request.
    let one = "{\"id\":\"0\"}";
    for headers in [&[][..], &[("idempotency-key", "order-8")]] {
        let reply = request(world.gateway.address(), ("POST", ORDERS), headers, one).await;
        assert!(reply.json()["position"].is_string());
    }
    assert_eq!(log(world.gateway.address()).await.len(), 2_002);
}

#[tokio::test]
async fn token_reads_and_writes_what_it_may_and_no_more() {
    let policy = Policy::new(&["alice"]);
    policy.write(&[("alice", "r")], &[("r", "orders", "owner == $sub")], "");
    let path = policy.path();
    let world = World::with(|options| options.access = Some(path)).await;
    let gateway = world.gateway.address();
    world.publish("orders", "1", &json!({"owner": "bob"})).await;
    world
        .publish("orders", "2", &json!({"owner": "alice"}))
        .await;
    let bearer = format!("Bearer {}", policy.token("alice"));
    let headers = [("authorization", &*bearer)];
    let read = request(gateway, ("GET", ORDERS), &headers, "").await;
    let ids: Vec<_> = read.lines().iter().map(|it| it["id"].clone()).collect();
    assert_eq!(ids, ["2"]);
    let path = format!("{ORDERS}/changes?from=0000000000000007-0");
    let changes = request(gateway, ("GET", &path), &headers, "").await.json();
    let items = changes["items"].as_array().unwrap();
    assert_eq!(
        items.iter().map(|it| it["id"].clone()).collect::<Vec<_>>(),
        ["2"]
    );
    let denied = request(gateway, ("POST", ORDERS), &headers, "{\"id\":\"3\"}").await;
    assert_eq!(
        (denied.status, &denied.json()["error"]["code"]),
        (403, &json!("denied"))
    );
    let other = request(
        gateway,
        ("GET", "/v1/databases/db/collections/other"),
        &headers,
        "",
    )
    .await;
    assert_eq!(other.status, 403);
}
