//! The subprotocol `steadfast.v1` on real sockets.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Policy, World, v1::V1};
use tokio::time::timeout;

fn subscribe(id: &str, more: &Value) -> Value {
    let mut message =
        json!({"type": "subscribe", "id": id, "database": "db", "collection": "orders"});
    let more = more.as_object().unwrap().clone();
    message.as_object_mut().unwrap().extend(more);
    message
}

#[tokio::test]
async fn positions_continue_at_a_restarted_and_at_another_gateway() {
    let mut world = World::start().await;
    let mut client = V1::open(world.gateway.address()).await;
    client.send(subscribe("s", &json!({}))).await;
    let mut position = client.next().await["position"].clone();
    let mut seen = Vec::new();
    for round in 0..3 {
        for n in 0..5 {
            let id = format!("{round}-{n}");
            world.put(&id, &json!({"n": n})).await;
            // Two of them are received, and the rest is published while nobody is connected.
            if n < 2 {
                let change = client.next_item().await;
                seen.push(change["id"].as_str().unwrap().to_owned());
                position = change["position"].clone();
            }
            if n == 1 {
                let next = world.another_gateway().await;
                drop(std::mem::replace(&mut world.gateway, next));
                assert_eq!(client.client.closed().await, None, "cut without a word");
            }
        }
        client = V1::open(world.gateway.address()).await;
        client
            .send(subscribe("s", &json!({"from": position})))
            .await;
        assert_eq!(client.next().await["position"], position);
        for _ in 2..5 {
            let change = client.next_item().await;
            seen.push(change["id"].as_str().unwrap().to_owned());
            position = change["position"].clone();
        }
    }
    let expected = (0..3).flat_map(|round| (0..5).map(move |n| format!("{round}-{n}")));
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn without_credit_what_follows_stays_in_the_log() {
    let world = World::start().await;
    let mut client = V1::open(world.gateway.address()).await;
    client.send(subscribe("s", &json!({"credit": 0}))).await;
    client.send(subscribe("other", &json!({}))).await;
    let position = client.next().await["position"].clone();
    assert_eq!(client.next().await["id"], "other");
    let padding = "x".repeat(1_000);
    for n in 0..200 {
        world
            .put(&n.to_string(), &json!({"n": n, "padding": padding}))
            .await;
    }
    for n in 0..200 {
        let item = client.next_item().await;
        assert_eq!(
            (&item["sub"], &item["data"]["n"]),
            (&json!("other"), &json!(n))
        );
    }
    client
        .send(json!({"type": "unsubscribe", "id": "other"}))
        .await;
    assert_eq!(client.next().await["type"], "unsubscribed");
    client
        .send(json!({"type": "credit", "id": "s", "messages": 3}))
        .await;
    for n in 0..3 {
        assert_eq!(client.next_item().await["data"]["n"], n);
    }
    let more = timeout(Duration::from_millis(300), client.next()).await;
    assert!(more.is_err(), "{more:?} beyond the credit");
    // The position that it holds is one of the log, at which any gateway continues.
    let other = world.another_gateway().await;
    let mut client = V1::open(other.address()).await;
    client
        .send(subscribe("s", &json!({"from": position, "credit": 200})))
        .await;
    assert_eq!(client.next().await["type"], "subscribed");
    for n in 0..200 {
        assert_eq!(client.next_item().await["data"]["n"], n);
    }
}

#[tokio::test]
async fn documents_come_first_and_changes_follow_them() {
    let world = World::start().await;
    for n in 0..3 {
        let data = json!({"n": n, "m": {"a": 1, "b": 2}});
        world.put(&n.to_string(), &data).await;
    }
    let mut client = V1::open(world.gateway.address()).await;
    let wanted = json!({"snapshot": true, "filters": ["n < 5"], "fields": ["n", "m.a"]});
    client.send(subscribe("s", &wanted)).await;
    let mut kinds = Vec::new();
    let mut documents = Vec::new();
    while kinds.last() != Some(&"snapshotEnd".to_owned()) {
        let message = client.next().await;
        kinds.push(message["type"].as_str().unwrap().to_owned());
        if message["type"] == "document" {
            assert_eq!(message["data"]["m"], json!({"a": 1}));
            documents.push(message["id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(documents, ["0", "1", "2"]);
    assert_eq!(kinds[..2], ["subscribed", "snapshotBegin"]);
    world.put("1", &json!({"n": 9})).await;
    let left = client.next_item().await;
    assert_eq!((&left["type"], &left["id"]), (&json!("left"), &json!("1")));
}

#[tokio::test]
async fn first_documents_of_an_order_are_kept() {
    let world = World::start().await;
    for n in [5, 1, 3] {
        world.put(&format!("o{n}"), &json!({"n": n})).await;
    }
    let mut client = V1::open(world.gateway.address()).await;
    let wanted = json!({"orderBy": {"field": "n", "descending": true}, "limit": 2});
    client.send(subscribe("w", &wanted)).await;
    let mut updates = Vec::new();
    let mut receive = async |count: usize| {
        while updates.len() < count {
            let message = client.next().await;
            let kind = message["type"].as_str().unwrap();
            // How often it is whole depends on the age of the table.
            if !["subscribed", "whole"].contains(&kind) {
                assert_eq!(message["sub"], "w");
                updates.push(format!("{kind} {} {}", message["id"], message["index"]));
            }
        }
        updates.clone()
    };
    receive(2).await;
    world.put("o7", &json!({"n": 7})).await;
    let expected = [
        "entered \"o5\" 0",
        "entered \"o3\" 1",
        "entered \"o7\" 0",
        "left \"o3\" 2",
    ];
    assert_eq!(receive(4).await, expected);
}

#[tokio::test]
async fn token_sees_its_documents_only() {
    let policy = Policy::new(&["alice", "bob"]);
    policy.write(
        &[("alice", "r"), ("bob", "r")],
        &[("r", "orders", "owner == $sub")],
        "",
    );
    let world = World::guarded(&policy).await;
    let mut alice = V1::open(world.gateway.address()).await;
    assert_eq!(alice.welcome["auth"], "required");
    alice.send(subscribe("s", &json!({}))).await;
    let refused = alice.next().await;
    assert_eq!(
        (&refused["type"], &refused["code"]),
        (&json!("refused"), &json!("denied"))
    );
    // Pipelined, in one frame.
    let auth = json!({"type": "auth", "token": policy.token("alice")});
    let foreign = json!({"type": "subscribe", "id": "f", "database": "db", "collection": "other"});
    alice
        .send(json!([auth, subscribe("s", &json!({})), foreign]))
        .await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(alice.next().await["type"].as_str().unwrap().to_owned());
    }
    kinds.sort_unstable();
    assert_eq!(kinds, ["authenticated", "refused", "subscribed"]);
    world.put("1", &json!({"owner": "bob"})).await;
    world.put("2", &json!({"owner": "alice"})).await;
    assert_eq!(alice.next_item().await["id"], "2");
    // Another principal must open another connection.
    alice
        .send(json!({"type": "auth", "token": policy.token("bob")}))
        .await;
    assert_eq!(alice.next().await["code"], "unauthenticated");
    assert_eq!(u16::from(alice.client.closed().await.unwrap().code), 4401);
}

#[tokio::test]
async fn cut_drops_the_connection_without_a_word() {
    let world = World::start().await;
    let mut client = V1::open(world.gateway.address()).await;
    client.send(json!({"type": "ping", "n": 1.50})).await;
    assert_eq!(client.next().await, json!({"type": "pong", "n": 1.50}));
    client.send(json!({"type": "cut"})).await;
    assert_eq!(client.client.closed().await, None);
}
