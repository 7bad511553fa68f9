//! Documents, changes and publishing over HTTP, on real sockets: what is received and stored exactly once.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use serde_json::{Value, json};
use steadfast_streamer::{Epoch, SegmentLog, StoreOptions};
use support::{
    Policy, World,
    http::{Open, Reply, request},
    soon, until,
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
            world.put(&format!("{round}-{n}"), &json!({"n": n})).await;
            world
                .put(&format!("not-{round}-{n}"), &json!({"n": -1}))
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
            .put(&format!("{n:03}"), &json!({"n": n, "big": big}))
            .await;
    }
    // Documents change while the body is on its way.
    let path = format!("{ORDERS}?filter=n%20%3C%201000");
    let mut open = Open::request(gateway, ("GET", &path), &[], "").await;
    let position = open.headers["steadfast-position"].clone();
    world.delete("orders", "000").await;
    world.put("001", &json!({"n": 1_000})).await;
    world.put("299", &json!({"n": 7})).await;
    world.put("300", &json!({"n": 8})).await;
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

/// The documents at a position, without a wait.
async fn documents_at(gateway: SocketAddr, query: &str, position: &Value) -> Reply {
    let position = position.as_str().unwrap();
    get(gateway, &format!("{ORDERS}?at={position}&wait=0{query}")).await
}

/// A log on disk, whose table of documents is written after seconds.
async fn log_on_disk(folder: &Path, epoch: u64) -> Box<SegmentLog> {
    let mut log = None;
    // The server before may still hold it.
    until("the log opens", || {
        log = SegmentLog::open(folder, &StoreOptions::new(Epoch(epoch))).ok();
        std::future::ready(log.is_some())
    })
    .await;
    Box::new(log.unwrap())
}

#[tokio::test]
async fn documents_at_a_position_have_everything_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::on(log_on_disk(folder.path(), 1).await, |_| {}).await;
    let gateway = world.gateway.address();
    let ids = |reply: &Reply| -> Vec<String> {
        let id = |it: &Value| format!("{} {}", it["id"].as_str().unwrap(), it["n"]);
        reply.lines().iter().map(id).collect()
    };
    let mut position = Value::Null;
    for n in 0..5 {
        let body = json!([{"id": "b", "n": n}, {"id": format!("a{n}"), "n": n}]);
        let posted = request(gateway, ("POST", ORDERS), &[], &body.to_string()).await;
        position = posted.json()["position"].clone();
        let read = documents_at(gateway, "", &position).await;
        let mut expected: Vec<_> = (0..=n).map(|n| format!("a{n} {n}")).collect();
        expected.push(format!("b {n}"));
        assert_eq!(ids(&read), expected);
        assert_eq!(
            read.headers["steadfast-position"],
            position.as_str().unwrap()
        );
    }
    let some = "&filter=n%20%3E%202";
    let read = documents_at(gateway, some, &position).await;
    assert_eq!(ids(&read), ["a3 3", "a4 4", "b 4"]);
    // One leaves the filter, one is deleted.
    let body = json!({"id": "a3", "n": 0}).to_string();
    request(gateway, ("POST", ORDERS), &[], &body).await;
    let delete = format!("{ORDERS}?op=delete");
    let deleted = request(gateway, ("POST", &delete), &[], "{\"id\":\"b\"}").await;
    let position = deleted.json()["position"].clone();
    let read = documents_at(gateway, some, &position).await;
    assert_eq!(ids(&read), ["a4 4"]);
    // After a restart the positions before are those of another term.
    drop(world);
    let world = World::on(log_on_disk(folder.path(), 2).await, |_| {}).await;
    let read = documents_at(world.gateway.address(), some, &position).await;
    assert_eq!(ids(&read), ["a4 4"]);
    assert!(read.headers["steadfast-position"].starts_with("0000000000000002-"));
}

#[tokio::test]
async fn many_documents_at_a_position_wait_for_their_table() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::on(log_on_disk(folder.path(), 1).await, |_| {}).await;
    let gateway = world.gateway.address();
    let mut position = Value::Null;
    for part in 0..2 {
        let lines = (0..6_000).map(|n| format!("{{\"id\":\"{part}-{n}\"}}\n"));
        let body = lines.collect::<String>();
        let posted = request(gateway, ("POST", ORDERS), &[], &body).await;
        position = posted.json()["position"].clone();
    }
    // The table may have been written already, if the machine is slow.
    let early = documents_at(gateway, "", &position).await;
    match early.status {
        200 => assert_eq!(early.lines().len(), 12_000),
        status => assert_eq!(status, 503, "{early:?}"),
    }
    let position = position.as_str().unwrap();
    let read = get(gateway, &format!("{ORDERS}?at={position}&wait=60")).await;
    assert_eq!(read.lines().len(), 12_000);
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
            .put(&n.to_string(), &json!({"price": 1.10, "n": n}))
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
    let world = World::guarded(&policy).await;
    let gateway = world.gateway.address();
    world.put("1", &json!({"owner": "bob"})).await;
    world.put("2", &json!({"owner": "alice"})).await;
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
