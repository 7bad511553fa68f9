//! Rights on open sockets, also while they change.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{
    task::Poll,
    time::{Duration, Instant},
};

use serde_json::json;
use steadfast_gateway::{
    rights::Rights,
    subscription::{Event, Request},
    upstream::Upstream,
};
use steadfast_streamer::{Filter, Item, client::Snapshot};
use support::{Policy, World, auth, subscribe};

/// The longest time until a change of the file acts, with a margin for a busy machine.
const ACTS_WITHIN: Duration = Duration::from_secs(5);

fn orders() -> serde_json::Value {
    json!({"collection": "orders"})
}

#[tokio::test]
async fn token_sees_its_documents_and_no_other_database() {
    let policy = Policy::new(&["alice", "bob"]);
    policy.write(
        &[("alice", "r"), ("bob", "r")],
        &[("r", "orders", "owner == $sub")],
        "",
    );
    let world = World::guarded(&policy).await;
    let mut client = world.connect().await;
    client.send(auth("wrong")).await;
    let text = client.error().await;
    // The client refreshes its token only if the text says so.
    assert!(text.contains("unauthorized"), "{text}");
    client.authenticate(&policy.token("alice")).await;
    client.subscribe("s", orders(), true).await;
    assert_eq!(client.next().await["type"], "snapshot");
    world.put("1", &json!({"owner": "bob"})).await;
    world.put("2", &json!({"owner": "alice"})).await;
    assert_eq!(client.event().await, "create orders/2");
    let mut foreign = world.connect().await;
    foreign.send(json!({"id": "a", "type": "auth", "payload": {"token": policy.token("bob"), "database": "other"}})).await;
    assert_eq!(foreign.next().await["type"], "auth_ack");
    foreign.send(subscribe("s", orders(), false)).await;
    let denied = "Subscribe failed: subscribe failed: you may not subscribe to this collection";
    assert_eq!(foreign.error().await, denied);
}

#[tokio::test]
async fn revoked_token_ends_open_subscriptions() {
    let policy = Policy::new(&["alice", "bob"]);
    policy.write(&[("alice", "r")], &[("r", "orders", "")], "");
    let world = World::guarded(&policy).await;
    let mut client = world.connect().await;
    client.authenticate(&policy.token("alice")).await;
    client.subscribe("s", orders(), false).await;
    let (bob, path) = (policy.token("bob"), policy.path());
    let only_bob = std::fs::read_to_string(&path).unwrap();
    let at = only_bob.rfind("[[tokens]]").unwrap();
    std::fs::write(&path, &only_bob[at..]).unwrap();
    let started = Instant::now();
    let text = client.error().await;
    assert!(text.contains("unauthorized"), "{text}");
    assert!(started.elapsed() < ACTS_WITHIN, "{:?}", started.elapsed());
    world.put("1", &json!({})).await;
    // The socket stays, for newer credentials, and shows nothing until then.
    client.send(subscribe("s", orders(), false)).await;
    assert_eq!(client.error().await, "unauthorized: auth required");
    client.authenticate(&bob).await;
}

#[tokio::test]
async fn document_that_may_not_be_seen_any_more_is_deleted() {
    let policy = Policy::new(&["alice"]);
    policy.write(&[("alice", "r")], &[("r", "orders", "")], "");
    let world = World::guarded(&policy).await;
    let mut client = world.connect().await;
    client.authenticate(&policy.token("alice")).await;
    client.subscribe("s", orders(), false).await;
    world.put("1", &json!({"owner": "bob"})).await;
    assert_eq!(client.event().await, "create orders/1");
    policy.write(&[("alice", "r")], &[("r", "orders", "owner == $sub")], "");
    // Until the rules act, changes are events; after that, a delete without the document.
    let started = Instant::now();
    loop {
        world.put("1", &json!({"owner": "bob", "secret": 1})).await;
        let message = client.next().await;
        let delta = &message["payload"]["delta"];
        assert_eq!(delta["id"], "orders/1");
        if delta["type"] == "delete" {
            assert_eq!(delta.get("document"), None);
            break;
        }
        assert!(started.elapsed() < ACTS_WITHIN);
    }
    world.put("2", &json!({"owner": "alice"})).await;
    assert_eq!(client.event().await, "create orders/2");
}

#[tokio::test]
async fn several_grants_admit_what_one_of_them_admits() {
    let policy = Policy::new(&["alice"]);
    policy.write(
        &[("alice", "r"), ("alice", "t")],
        &[
            ("r", "orders", "owner == $sub"),
            ("t", "orders", "public == true"),
        ],
        "",
    );
    let world = World::guarded(&policy).await;
    world.put("hidden", &json!({"owner": "bob"})).await;
    world.put("own", &json!({"owner": "alice"})).await;
    let mut client = world.connect().await;
    client.authenticate(&policy.token("alice")).await;
    client.subscribe("s", orders(), true).await;
    let snapshot = client.next().await;
    let documents = snapshot["payload"]["documents"].as_array().unwrap();
    assert_eq!(documents.len(), 1);
    assert_eq!(documents[0]["id"], "own");
    // Of other documents not even the ids are told.
    for id in ["hidden", "secret"] {
        world.put(id, &json!({"owner": "bob"})).await;
    }
    world
        .put("shared", &json!({"owner": "bob", "public": true}))
        .await;
    assert_eq!(client.event().await, "create orders/shared");
    world.put("shared", &json!({"owner": "bob"})).await;
    assert_eq!(client.event().await, "delete orders/shared");
}

#[tokio::test]
async fn limits_of_a_principal_are_clear_refusals() {
    let policy = Policy::new(&["alice"]);
    policy.write(&[("alice", "r")], &[("r", "*", "")], "");
    let path = policy.path();
    let world = World::with(|options| {
        options.access = Some(path);
        options.limits.sockets_per_principal = 2;
        options.limits.subscriptions_per_socket = 2;
        options.limits.subscriptions_per_principal = 3;
    })
    .await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    for client in [&mut first, &mut second] {
        client.authenticate(&policy.token("alice")).await;
        client.subscribe("1", orders(), false).await;
    }
    first.subscribe("2", orders(), false).await;
    let failed = "Subscribe failed: subscribe failed: ";
    first.send(subscribe("3", orders(), false)).await;
    assert_eq!(
        first.error().await,
        format!("{failed}a socket may have 2 subscriptions")
    );
    second.send(subscribe("2", orders(), false)).await;
    let text = "a client may have 3 subscriptions on all its sockets";
    assert_eq!(second.error().await, format!("{failed}{text}"));
    let mut third = world.connect().await;
    third.send(auth(&policy.token("alice"))).await;
    assert!(
        third
            .error()
            .await
            .ends_with("this principal has too many sockets")
    );
    // The permits come back.
    drop(first);
    let started = Instant::now();
    loop {
        third.send(auth(&policy.token("alice"))).await;
        if third.next().await["type"] == "auth_ack" {
            break;
        }
        assert!(started.elapsed() < support::SOON);
    }
}

#[tokio::test]
async fn many_hidden_items_do_not_hold_up_other_tasks() {
    let policy = Policy::new(&["alice"]);
    policy.write(
        &[("alice", "r"), ("alice", "t")],
        &[
            ("r", "orders", "owner == $sub"),
            ("t", "orders", "public == true"),
        ],
        "",
    );
    let world = World::start().await;
    for id in 0..300 {
        let id = format!("hidden-{id:03}");
        world.put(&id, &json!({"owner": "bob"})).await;
    }
    world.put("own", &json!({"owner": "alice"})).await;
    let (rights, _) = Rights::load(Some(&policy.path())).unwrap();
    let peer = rights.identify_token(&policy.token("alice")).unwrap();
    let upstream = Upstream::start(support::upstream(world.server.address())).unwrap();
    let request = Request {
        snapshot: true,
        left: true,
        ..Request::changes("db".into(), "orders".into(), Filter::all())
    };
    let mut handle = upstream.open(request, &peer);
    for _ in 0..2 {
        // The acceptance, and the begin of the snapshot.
        handle.next().await;
    }
    // All documents are there.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = std::future::poll_fn(|cx| Poll::Ready(handle.poll_next(cx))).await;
    assert_eq!(first, Poll::Pending);
    let Event::Item(Item::Snapshot(Snapshot::Document(own))) = support::soon(handle.next()).await
    else {
        panic!("no document");
    };
    assert_eq!(&*own.document_id, "own");
}
