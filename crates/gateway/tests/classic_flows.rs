//! The flows of the existing TypeScript client, from its first message to its last, on real sockets.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use support::{Client, Policy, World};

/// The client's subscribe message: both flags are always there.
fn subscribe(id: &str, query: &Value, include_data: bool) -> Value {
    let payload = json!({"query": query, "includeData": include_data, "sendSnapshot": false});
    json!({"id": id, "type": "subscribe", "payload": payload})
}

fn auth(id: &str, token: &str, database: &str) -> Value {
    json!({"id": id, "type": "auth", "payload": {"token": token, "database": database}})
}

fn orders() -> Value {
    json!({"collection": "orders", "filters": []})
}

/// Does the same as the client when its socket opens: its subscriptions are sent before the acknowledgement of its token and
/// again after it. A repetition before the first response has no acknowledgement of its own.
async fn open(client: &mut Client, subscriptions: &[Value]) {
    client.send(auth("auth-init", "t", "db")).await;
    for subscription in subscriptions {
        client.send(subscription.clone()).await;
    }
    assert_eq!(
        client.next().await,
        json!({"id": "auth-init", "type": "auth_ack"})
    );
    for subscription in subscriptions {
        client.send(subscription.clone()).await;
    }
    for _ in subscriptions {
        assert_eq!(client.next().await["type"], "subscribe_ack");
    }
}

/// Returns the ids of the documents in the events up to `orders/end`, by subscription.
async fn received(client: &mut Client, subscriptions: usize) -> BTreeMap<String, Vec<String>> {
    let mut received: BTreeMap<_, Vec<String>> = BTreeMap::new();
    let mut ended = 0;
    while ended < subscriptions {
        let message = client.next().await;
        match &*message["type"].as_str().unwrap().to_owned() {
            "event" => {
                let id = message["payload"]["delta"]["id"].as_str().unwrap();
                let id = id.strip_prefix("orders/").unwrap().to_owned();
                ended += usize::from(id == "end");
                let subscription = message["payload"]["subId"].as_str().unwrap();
                received
                    .entry(subscription.to_owned())
                    .or_default()
                    .push(id);
            }
            "subscribe_ack" => {}
            other => panic!("{other}: {message}"),
        }
    }
    received
}

#[tokio::test]
async fn insert_is_one_event_at_each_of_a_thousand_sockets() {
    // Two descriptors for each, and the limit of a shell may be 1,024.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit
        .maximum
        .map_or(limit.current, |max| Some(max.min(8_192)));
    setrlimit(Resource::Nofile, limit).unwrap();
    // All of them have one address.
    let world = World::with(|options| options.request_rate = None).await;
    let mut clients = Vec::new();
    for _ in 0..1_000 {
        let mut client = world.connect().await;
        open(&mut client, &[subscribe("sub-1", &orders(), true)]).await;
        clients.push(client);
    }
    for id in ["1", "2", "end"] {
        world.put(id, &json!({"n": 1})).await;
    }
    for client in &mut clients {
        assert_eq!(received(client, 1).await["sub-1"], ["1", "2", "end"]);
    }
}

#[tokio::test]
async fn refused_token_is_refreshed_and_every_subscription_repeated() {
    let policy = Policy::new(&["alice"]);
    policy.write(&[("alice", "r")], &[("r", "orders", "")], "");
    let world = World::guarded(&policy).await;
    let mut client = world.connect().await;
    let subscriptions = ["sub-1", "sub-2"].map(|id| subscribe(id, &orders(), true));
    client.send(auth("auth-init", "expired", "db")).await;
    for subscription in &subscriptions {
        client.send(subscription.clone()).await;
    }
    for id in ["auth-init", "sub-1", "sub-2"] {
        let error = client.next().await;
        assert_eq!(
            (&error["id"], &error["type"]),
            (&json!(id), &json!("error"))
        );
        assert_eq!(error["payload"]["code"], "unauthorized");
        // By this word the client refreshes its token.
        assert!(
            error["payload"]["message"]
                .as_str()
                .unwrap()
                .contains("unauthor")
        );
    }
    client
        .send(auth("auth-retry", &policy.token("alice"), "db"))
        .await;
    assert_eq!(
        client.next().await,
        json!({"id": "auth-retry", "type": "auth_ack"})
    );
    for subscription in &subscriptions {
        client.send(subscription.clone()).await;
    }
    for id in ["sub-1", "sub-2"] {
        assert_eq!(
            client.next().await,
            json!({"id": id, "type": "subscribe_ack"})
        );
    }
    let unsubscribe =
        json!({"id": "unsub-sub-2", "type": "unsubscribe", "payload": {"id": "sub-2"}});
    client.send(unsubscribe).await;
    assert_eq!(
        client.next().await,
        json!({"id": "unsub-sub-2", "type": "unsubscribe_ack"})
    );
    world.put("1", &json!({})).await;
    world.put("end", &json!({})).await;
    assert_eq!(
        received(&mut client, 1).await,
        BTreeMap::from([("sub-1".into(), vec!["1".into(), "end".into()])])
    );
}

#[tokio::test]
async fn events_obey_the_filters_and_neither_order_nor_limit() {
    let world = World::start().await;
    let filter = |op: &str, value: Value| json!([{"field": "n", "op": op, "value": value}]);
    let mut expected = BTreeMap::new();
    let mut subscriptions = Vec::new();
    // The last document satisfies every condition.
    for (op, value, ids) in [
        ("==", json!(7), &["7"][..]),
        ("!=", json!(5), &["6", "7"]),
        (">", json!(5.5), &["6", "7"]),
        (">=", json!(6), &["6", "7"]),
        ("<", json!(7.5), &["5", "6", "7"]),
        ("<=", json!(7), &["5", "6", "7"]),
        ("in", json!([5, 7]), &["5", "7"]),
    ] {
        let query = json!({"collection": "orders", "filters": filter(op, value)});
        subscriptions.push(subscribe(op, &query, true));
        expected.insert(op.to_owned(), ids.to_vec());
    }
    let tags = json!([{"field": "tags", "op": "contains", "value": "a"}]);
    subscriptions.push(subscribe(
        "contains",
        &json!({"collection": "orders", "filters": tags}),
        true,
    ));
    expected.insert("contains".to_owned(), vec!["5"]);
    let ordered = json!({
        "collection": "orders", "filters": [], "orderBy": [{"field": "n", "direction": "desc"}],
        "limit": 1, "startAfter": "6", "showDeleted": true,
    });
    subscriptions.push(subscribe("ordered", &ordered, true));
    expected.insert("ordered".to_owned(), vec!["5", "6", "7"]);
    let mut client = world.connect().await;
    open(&mut client, &subscriptions).await;
    for (n, tags) in [(5, json!(["a", "b"])), (6, json!(["b"])), (7, json!([]))] {
        world
            .put(&n.to_string(), &json!({"n": n, "tags": tags}))
            .await;
    }
    world.put("end", &json!({"n": 7, "tags": ["a"]})).await;
    for ids in expected.values_mut() {
        ids.push("end");
    }
    let received = received(&mut client, expected.len()).await;
    assert_eq!(format!("{received:?}"), format!("{expected:?}"));
}

#[tokio::test]
async fn repeated_auth_is_for_later_subscriptions() {
    let world = World::start().await;
    let mut client = world.connect().await;
    for (database, id) in [("db", "first"), ("other", "second")] {
        client.send(auth("again", "t", database)).await;
        assert_eq!(client.next().await["type"], "auth_ack");
        client.send(subscribe(id, &orders(), false)).await;
        assert_eq!(client.next().await["type"], "subscribe_ack");
    }
    for database in ["db", "other"] {
        let entry = steadfast_streamer::Entry::upsert(database, "orders", "end", "{\"n\":1}");
        support::soon(world.publisher.publish(entry)).await.unwrap();
    }
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let event = client.next().await;
        // Without `includeData` there is no document.
        assert_eq!(event["payload"]["delta"].get("document"), None, "{event}");
        // An event has no id of its own.
        assert_eq!(event.get("id"), None);
        seen.insert(event["payload"]["subId"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        seen,
        BTreeSet::from(["first".to_owned(), "second".to_owned()])
    );
}
