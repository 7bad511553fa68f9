//! The classic protocol on real sockets, with clients that do what the TypeScript client does.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use support::{Client, Policy, World, soon, subscribe};
use tokio_tungstenite::tungstenite::{Error, Message};

fn orders() -> serde_json::Value {
    json!({"collection": "orders", "filters": []})
}

#[tokio::test]
async fn documents_of_events_have_all_fields_of_the_log() {
    let world = World::start().await;
    let mut client = world.client().await;
    client.subscribe("s", orders(), false).await;
    world
        .put("1", &json!({"price": 10, "big": 9_007_199_254_740_993_i64}))
        .await;
    let event = client.next().await;
    let delta = &event["payload"]["delta"];
    assert_eq!(event["payload"]["subId"], "s");
    assert_eq!(
        (&delta["type"], &delta["id"]),
        (&json!("create"), &json!("orders/1"))
    );
    let document = &delta["document"];
    assert_eq!(document["id"], "1");
    assert_eq!(document["collection"], "orders");
    assert_eq!(document["big"], 9_007_199_254_740_993_i64);
    assert_eq!(document["version"], 1);
    let timestamp = delta["timestamp"].as_i64().unwrap();
    assert!(timestamp > 1_700_000_000_000);
    for field in ["createdAt", "updatedAt"] {
        assert_eq!(document[field].as_i64(), Some(timestamp), "{field}");
    }
    world.put("1", &json!({"price": 11})).await;
    let update = client.next().await;
    assert_eq!(update["payload"]["delta"]["type"], "update");
    assert_eq!(update["payload"]["delta"]["document"]["version"], 2);
    world.delete("orders", "1").await;
    let delete = client.next().await;
    assert_eq!(delete["payload"]["delta"]["type"], "delete");
    assert_eq!(delete["payload"]["delta"]["document"]["deleted"], true);
}

#[tokio::test]
async fn documents_that_leave_a_filter_are_deleted_without_a_document() {
    let world = World::start().await;
    let mut client = world.client().await;
    let query = json!({"collection": "orders", "filters": [{"field": "n", "op": ">", "value": 5}]});
    client.subscribe("s", query, false).await;
    world.put("1", &json!({"n": 9})).await;
    assert_eq!(client.event().await, "create orders/1");
    world.put("1", &json!({"n": 2})).await;
    let left = client.next().await;
    let delta = &left["payload"]["delta"];
    assert_eq!(delta["type"], "delete");
    assert_eq!(delta.get("document"), None);
}

#[tokio::test]
async fn snapshot_obeys_the_query_and_has_no_deleted_documents() {
    let world = World::start().await;
    for n in 0..10 {
        world
            .put(&format!("o{n}"), &json!({"n": n, "even": n % 2 == 0}))
            .await;
    }
    world.delete("orders", "o8").await;
    let mut client = world.client().await;
    let filters = json!([{"field": "even", "op": "==", "value": true}]);
    for (changes, expected) in [
        (json!({}), &["o0", "o2", "o4", "o6"][..]),
        (json!({"limit": 2}), &["o0", "o2"]),
        (json!({"startAfter": "o2"}), &["o4", "o6"]),
        (
            json!({"orderBy": [{"field": "n", "direction": "desc"}], "limit": 3}),
            &["o6", "o4", "o2"],
        ),
        (
            json!({"orderBy": [{"field": "n", "direction": "desc"}], "startAfter": "o4"}),
            &["o2", "o0"],
        ),
        (json!({"showDeleted": true}), &["o0", "o2", "o4", "o6"]),
    ] {
        let mut query = json!({"collection": "orders", "filters": filters});
        query
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        client.subscribe("s", query, true).await;
        let snapshot = client.next().await;
        assert_eq!(
            (&snapshot["id"], &snapshot["type"]),
            (&json!("s"), &json!("snapshot"))
        );
        let documents = snapshot["payload"]["documents"].as_array().unwrap();
        let ids: Vec<_> = documents
            .iter()
            .map(|it| it["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected, "{changes}");
        assert!(documents.iter().all(|it| {
            let is_new = it["version"] == 1 && it["updatedAt"] == it["createdAt"];
            is_new && it["createdAt"].is_i64() && it["collection"] == "orders"
        }));
    }
}

#[tokio::test]
async fn snapshot_comes_before_the_events_that_follow_it() {
    let world = World::start().await;
    let publishing = async {
        for n in 0..200 {
            world.put(&format!("o{n}"), &json!({"n": n})).await;
        }
    };
    let subscribing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut client = world.client().await;
        client.subscribe("s", orders(), true).await;
        let snapshot = client.next().await;
        assert_eq!(snapshot["type"], "snapshot");
        let known = snapshot["payload"]["documents"].as_array().unwrap().len();
        for n in known..200 {
            assert_eq!(client.event().await, format!("create orders/o{n}"));
        }
    };
    tokio::join!(publishing, subscribing);
}

#[tokio::test]
async fn clients_that_come_and_go_leave_the_others_alone() {
    let world = World::start().await;
    let mut stable = world.client().await;
    stable.subscribe("s", orders(), false).await;
    let publishing = async {
        for n in 0..300 {
            world.put(&format!("o{n}"), &json!({"n": n})).await;
        }
    };
    let churning = async {
        for _ in 0..60 {
            let mut client = world.client().await;
            client.subscribe("s", orders(), false).await;
            drop(client);
        }
    };
    let reading = async {
        for n in 0..300 {
            assert_eq!(stable.event().await, format!("create orders/o{n}"));
        }
    };
    tokio::join!(publishing, churning, reading);
}

#[tokio::test]
async fn client_that_reads_nothing_delays_only_itself() {
    // It may read nothing for as long as a busy machine takes for the other one.
    let world = World::with(|options| options.write_timeout = support::SOON).await;
    let mut fast = world.client().await;
    fast.subscribe("s", orders(), false).await;
    let mut slow = world.client().await;
    slow.subscribe("s", orders(), false).await;
    let padding = "x".repeat(20_000);
    for n in 0..600 {
        let started = Instant::now();
        world
            .put(&format!("o{n}"), &json!({"padding": padding}))
            .await;
        assert_eq!(fast.event().await, format!("create orders/o{n}"));
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    // It loses nothing: the rest waits in the log.
    for n in 0..600 {
        assert_eq!(slow.event().await, format!("create orders/o{n}"));
    }
}

#[tokio::test]
async fn client_that_accepts_nothing_is_dropped_in_time() {
    let world = World::with(|options| options.write_timeout = Duration::from_millis(300)).await;
    let mut client = world.client().await;
    client.subscribe("s", orders(), false).await;
    let padding = "x".repeat(500_000);
    // More than the buffers of both sockets hold.
    for n in 0..40 {
        world
            .put(&format!("o{n}"), &json!({"padding": padding}))
            .await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reading = async {
        let mut events = 0;
        // What the buffers held, and then the end.
        while let Some(Ok(_)) = client.0.next().await {
            events += 1;
        }
        events
    };
    assert!(soon(reading).await < 40);
}

#[tokio::test]
async fn malformed_messages_have_an_answer() {
    let world = World::start().await;
    let mut client = world.connect().await;
    for (message, text) in [
        (
            subscribe("s", orders(), false),
            "unauthorized: auth required",
        ),
        (
            json!({"id": "u", "type": "unsubscribe"}),
            "unauthorized: auth required",
        ),
        (
            json!({"id": "a", "type": "auth", "payload": 7}),
            "invalid payload",
        ),
        (
            json!({"id": "a", "type": "auth", "payload": {"token": "t"}}),
            "database is required",
        ),
        (
            json!({"type": "hello"}),
            "there is no message of this type; there are auth, subscribe and unsubscribe",
        ),
        (json!([1]), "the message is not an object with a type"),
    ] {
        client.send(message.clone()).await;
        assert_eq!(client.error().await, text, "{message}");
    }
    client.authenticate("t").await;
    for (message, text) in [
        (
            json!({"id": "s", "type": "subscribe", "payload": 1}),
            "the payload of subscribe cannot be read",
        ),
        (
            json!({"type": "subscribe", "payload": {}}),
            "a subscribe message has an id",
        ),
        (
            json!({"id": "u", "type": "unsubscribe"}),
            "the payload of unsubscribe cannot be read",
        ),
        (
            subscribe(
                "s",
                json!({"collection": "c", "filters": [{"field": "a", "op": "~", "value": 1}]}),
                false,
            ),
            "Subscribe failed: subscribe failed: unsupported operator: ~",
        ),
    ] {
        client.send(message.clone()).await;
        assert_eq!(client.error().await, text, "{message}");
    }
    // The one refusal without a code.
    client
        .send(subscribe(
            "s",
            json!({"collection": "c", "filters": [{"field": "a", "op": "in", "value": 1}]}),
            false,
        ))
        .await;
    let refused = client.next().await;
    assert_eq!(refused["payload"].get("code"), None);
    assert!(
        refused["payload"]["message"]
            .as_str()
            .unwrap()
            .starts_with("Subscribe failed: subscribe failed: ")
    );
    client
        .send(json!({"id": "u", "type": "unsubscribe", "payload": {"id": "unknown"}}))
        .await;
    assert_eq!(
        client.next().await,
        json!({"id": "u", "type": "unsubscribe_ack"})
    );
}

#[tokio::test]
async fn nothing_follows_an_unsubscribe() {
    let world = World::start().await;
    let mut client = world.client().await;
    client.subscribe("s", orders(), false).await;
    client
        .subscribe("t", json!({"collection": "others"}), false)
        .await;
    client
        .send(json!({"id": "u", "type": "unsubscribe", "payload": {"id": "s"}}))
        .await;
    assert_eq!(client.next().await["type"], "unsubscribe_ack");
    world.put("1", &json!({})).await;
    world.publish("others", "1", &json!({})).await;
    assert_eq!(client.event().await, "create others/1");
}

#[tokio::test]
async fn frames_beyond_the_limit_close_with_1009() {
    let world = World::start().await;
    let mut client = world.client().await;
    let long = "x".repeat((64 << 10) + 1);
    soon(client.0.send(Message::text(long))).await.unwrap();
    let frame = client.closed().await.unwrap();
    assert_eq!(u16::from(frame.code), 1009);
}

#[tokio::test]
async fn handshakes_with_wrong_credentials_are_refused() {
    let world = World::with(|options| {
        options.allow_origins = vec!["https://app.example".to_owned()];
    })
    .await;
    let refusal = |result: Result<Client, Error>| match result {
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8(body).unwrap())
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    };
    for query in ["?token=secret", "?a=b&access_token=secret"] {
        let refused = refusal(world.connect_with(&[], query).await);
        assert_eq!(refused, (401, "Query token not allowed".to_owned()));
    }
    let malformed = world
        .connect_with(&[("authorization", "Basic abc")], "")
        .await;
    assert_eq!(
        refusal(malformed),
        (401, "Invalid authorization header format".to_owned())
    );
    let foreign = world
        .connect_with(&[("origin", "https://evil.example")], "")
        .await;
    assert_eq!(refusal(foreign), (403, "origin not allowed".to_owned()));
    let own = format!("http://{}:1", world.gateway.address().ip());
    for origin in [&*own, "https://app.example"] {
        world
            .connect_with(&[("origin", origin)], "?token=")
            .await
            .unwrap();
    }
    // A valid header is accepted, and does not replace the message.
    let mut client = world
        .connect_with(&[("authorization", "Bearer t")], "")
        .await
        .unwrap();
    client.send(subscribe("s", orders(), false)).await;
    assert_eq!(client.error().await, "unauthorized: auth required");
}

#[tokio::test]
async fn subscriptions_survive_the_loss_of_the_streamer() {
    let world = World::start().await;
    let mut client = world.client().await;
    client.subscribe("s", orders(), false).await;
    world.put("1", &json!({})).await;
    assert_eq!(client.event().await, "create orders/1");
    let address = world.server.address();
    let World {
        server, gateway, ..
    } = world;
    drop(server);
    // The new server has another log: changes are missing, and the client is told.
    let listener = loop {
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let log = Box::new(steadfast_streamer::MemoryLog::with_epoch(
        steadfast_streamer::Epoch(8),
    ));
    let server = steadfast_streamer::Server::start(
        listener,
        log,
        steadfast_streamer::ServerOptions::default(),
    );
    let publisher = steadfast_streamer::Publisher::builder(address.to_string())
        .build()
        .unwrap();
    let text = client.error().await;
    assert!(
        text.starts_with("changes may be missing in subscription s"),
        "{text}"
    );
    let entry = steadfast_streamer::Entry::upsert("db", "orders", "2", "{}");
    soon(publisher.publish(entry)).await.unwrap();
    assert_eq!(client.event().await, "create orders/2");
    drop((server, gateway));
}

#[tokio::test]
async fn streamer_that_never_answers_delays_no_other_request() {
    let world = World::with(|options| {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        options.upstream = support::upstream(silent.local_addr().unwrap());
        options.upstream.open_timeout = Duration::from_millis(300);
        std::mem::forget(silent);
    })
    .await;
    let mut client = world.client().await;
    client.send(subscribe("s", orders(), false)).await;
    client
        .send(json!({"id": "u", "type": "unsubscribe", "payload": {"id": "x"}}))
        .await;
    assert_eq!(client.next().await["type"], "unsubscribe_ack");
    // The client repeats its subscriptions on a new socket only.
    let frame = client.closed().await.unwrap();
    assert_eq!(u16::from(frame.code), 1013);
}

#[tokio::test]
async fn drain_closes_every_socket_with_1012() {
    let world = World::start().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = world.client().await;
        client.subscribe("s", orders(), false).await;
        clients.push(client);
    }
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (head, events) = world
            .get("/realtime/sse?database=db&collection=orders", "")
            .await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        streams.push(events);
    }
    let started = Instant::now();
    let draining = tokio::spawn(world.gateway.drain(Duration::from_secs(30)));
    for mut client in clients {
        let frame = client.closed().await.unwrap();
        assert_eq!(u16::from(frame.code), 1012);
    }
    let mut delays = BTreeSet::new();
    for mut events in streams {
        let rest = support::read_until(&mut events, "0\r\n\r\n").await;
        let delay = rest.split("retry: ").nth(1).unwrap();
        let delay: u64 = delay.split('\n').next().unwrap().parse().unwrap();
        assert!((1_000..=5_000).contains(&delay), "{rest}");
        delays.insert(delay);
    }
    assert_eq!(
        delays.len(),
        3,
        "clients would come back together: {delays:?}"
    );
    soon(draining).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn too_many_messages_close_with_1013() {
    let world = World::with(|options| options.limits.messages.burst = 20.try_into().unwrap()).await;
    let mut client = world.client().await;
    for _ in 0..200 {
        if client.0.send(Message::text("{}")).await.is_err() {
            break;
        }
    }
    let frame = client.closed().await.unwrap();
    assert_eq!(u16::from(frame.code), 1013);
}

#[tokio::test]
async fn unfinished_message_closes_with_1008_after_its_time() {
    let world = World::start().await;
    let mut client = world.connect().await;
    // The head of a frame of 100 bytes, and nothing of it.
    let half = [0x81, 0x80 | 0x64, 0, 0, 0, 0, b'x'];
    let started = Instant::now();
    tokio::io::AsyncWriteExt::write_all(client.0.get_mut(), &half)
        .await
        .unwrap();
    let frame = client.closed().await.unwrap();
    assert_eq!(u16::from(frame.code), 1008);
    assert!(started.elapsed() > Duration::from_secs(29));
}

#[tokio::test]
async fn pings_are_answered() {
    let world = World::start().await;
    let mut client = world.connect().await;
    client
        .0
        .send(Message::Ping(b"there"[..].into()))
        .await
        .unwrap();
    match soon(client.0.next()).await {
        Some(Ok(Message::Pong(payload))) => assert_eq!(&*payload, b"there"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn classic_handshake_declines_an_offer_of_compression() {
    let world = World::with(|options| options.compress = true).await;
    let headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
    let (head, _tcp) = world.get("/realtime/ws", headers).await;
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
}

#[tokio::test]
async fn missing_database_is_told_before_an_invalid_token() {
    let policy = Policy::new(&["alice"]);
    policy.write(&[("alice", "r")], &[("r", "orders", "")], "");
    let world = World::guarded(&policy).await;
    let mut client = world.connect().await;
    for (database, code, text) in [
        ("", "invalid_auth", "database is required"),
        ("db", "unauthorized", "unauthorized: "),
    ] {
        let payload = json!({"token": "forged", "database": database});
        client
            .send(json!({"id": "a", "type": "auth", "payload": payload}))
            .await;
        let error = client.next().await;
        assert_eq!(error["payload"]["code"], code, "{error}");
        let message = error["payload"]["message"].as_str().unwrap();
        assert!(message.starts_with(text), "{error}");
    }
}
