//! Sets of documents that are kept up to date over restarts of the server.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

use steadfast_streamer::{
    Direction, Epoch,
    client::{Client, Item, LiveSet, LiveWindow, Snapshot, SubscribeError, Subscription},
    filter::{FieldPath, Filter},
    log::{SegmentLog, StoreOptions},
    publisher::{Entry, Publisher},
    server::{Server, ServerOptions},
};
use support::{DATABASE, item, publish, quick, serve_plainly, soon};
use tokio::net::TcpListener;

/// Serves the log in the directory as soon as the previous server has released it and the port.
async fn serve(directory: &Path, address: SocketAddr) -> Server {
    serve_log(Epoch(1), directory, address).await
}

async fn serve_log(epoch: Epoch, directory: &Path, address: SocketAddr) -> Server {
    for _ in 0..1_000 {
        let log = SegmentLog::open(directory, &StoreOptions::new(epoch));
        if let (Ok(log), Ok(listener)) = (log, TcpListener::bind(address).await) {
            return Server::start(listener, Box::new(log), ServerOptions::default()).unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the log or the port is never free");
}

/// Returns the documents of a set with the field `n`.
fn held(set: &LiveSet) -> BTreeMap<String, u64> {
    let number = |data: &[u8]| {
        let json: serde_json::Value = serde_json::from_slice(data).unwrap();
        json["n"].as_u64().unwrap()
    };
    let documents = set.documents().iter();
    documents
        .map(|it| (it.document_id.to_string(), number(&it.data)))
        .collect()
}

/// Applies updates until the set equals what is expected and no snapshot is in progress.
async fn equals(set: &mut LiveSet, expected: &BTreeMap<String, u64>) {
    while !set.documents().is_whole() || held(set) != *expected {
        soon(set.next()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_set_equals_the_documents_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = serve(directory.path(), "127.0.0.1:0".parse().unwrap()).await;
    let address = server.address();
    publish(address, "rooms", 0..3_000, 20).await;
    // From here on the documents are in the table, and not only in the log.
    drop(server);
    server = serve(directory.path(), address).await;

    let client = Client::builder(address.to_string())
        .link(quick())
        .build()
        .unwrap();
    let filter = Filter::from_text(["n >= 1000", "n < 2000"]).unwrap();
    let set = client.subscribe(DATABASE, "rooms", filter).live_set();
    let mut set = soon(set).await.unwrap();
    let mut expected: BTreeMap<_, _> = (1_000..2_000).map(|n| (format!("u{n}"), n)).collect();
    equals(&mut set, &expected).await;

    let publisher = Publisher::builder(address.to_string())
        .link(quick())
        .build()
        .unwrap();
    for round in 0..3_u64 {
        // Documents enter, change, leave by a change, and leave by a deletion.
        for n in [1_100 + round, 2_500 + round, 1_200 + round, 1_300 + round] {
            let id = format!("u{n}");
            let entry = match n {
                1_100..1_200 => {
                    expected.insert(id.clone(), 1_999);
                    Entry::upsert(DATABASE, "rooms", id, r#"{"n":1999}"#)
                }
                1_200..1_300 => {
                    expected.remove(&id);
                    Entry::upsert(DATABASE, "rooms", id, r#"{"n":7}"#)
                }
                1_300..1_400 => {
                    expected.remove(&id);
                    Entry::delete(DATABASE, "rooms", id)
                }
                _ => {
                    expected.insert(id.clone(), 1_500);
                    Entry::upsert(DATABASE, "rooms", id, r#"{"n":1500}"#)
                }
            };
            soon(soon(publisher.enqueue(entry)).await.unwrap())
                .await
                .unwrap();
        }
        drop(server);
        server = serve(directory.path(), address).await;
        // The set is behind until its client is connected again.
        expected.insert(format!("u{}", 2_600 + round), 1_600);
        let entry = Entry::upsert(
            DATABASE,
            "rooms",
            format!("u{}", 2_600 + round),
            r#"{"n":1600}"#,
        );
        soon(soon(publisher.enqueue(entry)).await.unwrap())
            .await
            .unwrap();
        equals(&mut set, &expected).await;
    }
    assert!(client.link_counters().attempts > 3);
    assert_eq!(client.counters().await.snapshots, 1, "positions are kept");
    publisher.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_position_brings_a_new_snapshot_and_no_half_of_one() {
    let [first, second] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let server = serve(first.path(), "127.0.0.1:0".parse().unwrap()).await;
    let address = server.address();
    publish(address, "rooms", 0..100, 20).await;
    let client = Client::builder(address.to_string())
        .link(quick())
        .build()
        .unwrap();
    let set = client
        .subscribe(DATABASE, "rooms", Filter::all())
        .live_set();
    let mut set = soon(set).await.unwrap();
    let before = (0..100).map(|n| (format!("u{n}"), n)).collect();
    equals(&mut set, &before).await;
    drop(server);

    // Another log in the place of the first: no position of it is known.
    let other = serve_log(Epoch(2), second.path(), "127.0.0.1:0".parse().unwrap()).await;
    publish(other.address(), "rooms", 500..900, 20).await;
    drop(other);
    let _server = serve_log(Epoch(2), second.path(), address).await;
    let after: BTreeMap<_, _> = (500..900).map(|n| (format!("u{n}"), n)).collect();
    loop {
        soon(set.next()).await.unwrap().unwrap();
        let now = held(&set);
        let mixed = now != before && !now.keys().all(|id| after.contains_key(id));
        assert!(!mixed, "a mixture of {} documents", now.len());
        if now == after {
            break;
        }
    }
    assert_eq!(client.counters().await.snapshots, 2);
}

#[tokio::test]
async fn the_items_of_a_snapshot_come_before_the_changes() {
    let server = serve_plainly().await;
    publish(server.address(), "rooms", 0..5, 0).await;
    let client = Client::builder(server.address().to_string())
        .build()
        .unwrap();
    let subscribe = client
        .subscribe(DATABASE, "rooms", Filter::all())
        .with_snapshot();
    let mut rooms = soon(subscribe.into_future()).await.unwrap();
    let follows = match item(&mut rooms).await {
        Item::Snapshot(Snapshot::Begin { follows }) => follows,
        other => panic!("{other:?} instead of the beginning"),
    };
    assert_eq!(
        follows.offset, 5,
        "no change after it is missing in the documents"
    );
    for n in 0..5 {
        match item(&mut rooms).await {
            Item::Snapshot(Snapshot::Document(document)) => {
                assert_eq!(*document.document_id, format!("u{n}"));
            }
            other => panic!("{other:?} instead of a document"),
        }
        assert_eq!(rooms.position(), None, "a half is no state to resume from");
    }
    match item(&mut rooms).await {
        Item::Snapshot(Snapshot::End(at)) => assert_eq!(rooms.position(), Some(at)),
        other => panic!("{other:?} instead of the end"),
    }
    publish(server.address(), "rooms", 5..6, 0).await;
    assert!(matches!(item(&mut rooms).await, Item::Change(_)));
}

#[tokio::test]
async fn a_peer_without_the_profile_refuses_snapshots() {
    let server = serve_plainly().await;
    let client = Client::builder(server.address().to_string())
        .offer_profile(false)
        .build()
        .unwrap();
    for subscribe in [
        client
            .subscribe(DATABASE, "rooms", Filter::all())
            .with_snapshot(),
        client
            .subscribe(DATABASE, "rooms", Filter::all())
            .with_left(),
    ] {
        match soon(subscribe.into_future()).await {
            Err(SubscribeError::Refused(refusal)) => {
                assert!(
                    refusal.permanent && refusal.message.contains("resume profile"),
                    "{refusal}"
                );
            }
            other => panic!("{other:?} instead of a refusal"),
        }
    }
    // Other subscriptions are served.
    let other = client.subscribe(DATABASE, "rooms", Filter::all());
    let other = soon(other.into_future()).await;
    assert!(other.is_ok());
}

/// Returns the ids of the documents shown, in order.
fn shown(window: &LiveWindow) -> Vec<String> {
    let documents = window.documents().iter();
    documents.map(|it| it.document_id.to_string()).collect()
}

/// Applies updates until the window shows what is expected.
async fn shows(window: &mut LiveWindow, expected: &[&str]) {
    while !window.documents().is_whole() || shown(window) != expected {
        soon(window.next()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_shows_the_first_documents_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = serve(directory.path(), "127.0.0.1:0".parse().unwrap()).await;
    let address = server.address();
    publish(address, "rooms", 0..2_000, 20).await;
    let client = Client::builder(address.to_string())
        .link(quick())
        .build()
        .unwrap();
    let filter = Filter::from_text(["n < 1500"]).unwrap();
    let rooms = client.subscribe(DATABASE, "rooms", filter);
    let window = rooms.order_by("n", Direction::Descending).limit(3);
    let mut window = soon(window).await.unwrap();
    shows(&mut window, &["u1499", "u1498", "u1497"]).await;
    let kept = window.documents().kept();
    assert_eq!(kept, 3 + 16, "the server sent more than the window");

    let publisher = Publisher::builder(address.to_string())
        .link(quick())
        .build()
        .unwrap();
    // More documents leave than are kept in reserve, one after another.
    for n in (1_470..1_500).rev() {
        let id = format!("u{n}");
        let entry = if n % 2 == 0 {
            Entry::delete(DATABASE, "rooms", id)
        } else {
            Entry::upsert(DATABASE, "rooms", id, r#"{"n":1600}"#)
        };
        soon(soon(publisher.enqueue(entry)).await.unwrap())
            .await
            .unwrap();
        if n == 1_480 {
            drop(server);
            server = serve(directory.path(), address).await;
        }
    }
    shows(&mut window, &["u1469", "u1468", "u1467"]).await;
    // One moves to the front, and a new one is second.
    for (id, n) in [("u7", 1_499.5), ("new", 1_499.25)] {
        let entry = Entry::upsert(DATABASE, "rooms", id, format!(r#"{{"n":{n}}}"#));
        soon(soon(publisher.enqueue(entry)).await.unwrap())
            .await
            .unwrap();
    }
    shows(&mut window, &["u7", "new", "u1469"]).await;
    assert!(window.position().is_some());
    assert!(client.counters().await.snapshots > 1, "it was filled again");
    publisher.close().await;
    drop(server);
}

/// Returns which documents the next items say have changed or left.
async fn told(rooms: &mut Subscription, items: usize) -> Vec<String> {
    let mut told = Vec::new();
    while told.len() < items {
        told.push(match item(rooms).await {
            Item::Left(change) => format!("{} left", change.document_id),
            Item::Change(change) => format!("{} changed", change.document_id),
            other => panic!("{other:?}"),
        });
    }
    told
}

/// Flips a bit of a text in a segment of the log.
fn damage(directory: &Path, text: &str) {
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let mut content = fs::read(&path).unwrap();
        let mut windows = content.windows(text.len());
        let found = windows.position(|it| it == text.as_bytes());
        if let Some(at) = found.filter(|_| path.extension() == Some("seg".as_ref())) {
            content[at] ^= 1;
            return fs::write(&path, content).unwrap();
        }
    }
    panic!("{text} is in no segment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_whose_change_is_lost_is_told_to_have_left() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), "127.0.0.1:0".parse().unwrap()).await;
    let address = server.address();
    // In the index at once; the next ones after ten seconds.
    publish(address, "rooms", 0..1, 0).await;
    publish(address, "rooms", 1..5, 0).await;
    drop(server);
    while SegmentLog::open(directory.path(), &StoreOptions::new(Epoch(2))).is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    damage(directory.path(), "\"n\":2");
    let server = serve_log(Epoch(3), directory.path(), address).await;
    let client = Client::builder(address.to_string()).build().unwrap();
    let filter = Filter::from_text(["n < 3"]).unwrap();
    let subscribe = client.subscribe(DATABASE, "rooms", filter).with_left();
    let mut rooms = soon(subscribe.into_future()).await.unwrap();
    let publisher = Publisher::builder(address.to_string()).build().unwrap();
    // The last known change of u4 did not match; that of u2 is lost.
    for (id, n) in [("u4", 9), ("u2", 8), ("u4", 1)] {
        let entry = Entry::upsert(DATABASE, "rooms", id, format!(r#"{{"n":{n}}}"#));
        soon(publisher.publish(entry)).await.unwrap();
    }
    assert_eq!(told(&mut rooms, 2).await, ["u2 left", "u4 changed"]);
    publisher.close().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_and_keys_with_dots_select_and_order_documents() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), "127.0.0.1:0".parse().unwrap()).await;
    let address = server.address();
    let publisher = Publisher::builder(address.to_string()).build().unwrap();
    for (id, data) in [
        ("mine", r#"{"owner":"me","meta":{"v.1":5}}"#),
        ("yours", r#"{"owner":"you","meta":{"v.1":7}}"#),
        ("nobody's", r#"{"owner":null,"meta":{"v.1":6}}"#),
        ("unknown", r#"{"meta":{"v.1":6}}"#),
        ("nested", r#"{"owner":"me","meta":{"v":{"1":6}}}"#),
    ] {
        let entry = Entry::upsert(DATABASE, "rooms", id, data);
        soon(soon(publisher.enqueue(entry)).await.unwrap())
            .await
            .unwrap();
    }
    let client = Client::builder(address.to_string()).build().unwrap();
    let key = r#"meta."v.1""#;
    for (filter, expected) in [
        ("owner != null", &["yours", "mine"][..]),
        ("owner == null", &["nobody's"]),
        (r#"owner in ["you", null]"#, &["yours", "nobody's"]),
    ] {
        let filter = Filter::from_text([filter, &format!("{key} >= 5")]).unwrap();
        let rooms = client.subscribe(DATABASE, "rooms", filter);
        let path: FieldPath = key.parse().unwrap();
        let window = rooms.order_by(path, Direction::Descending).limit(3);
        let mut window = soon(window).await.unwrap();
        shows(&mut window, expected).await;
    }
    publisher.close().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_never_matched_are_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), "127.0.0.1:0".parse().unwrap()).await;
    let address = server.address();
    publish(address, "rooms", 0..5, 0).await;
    let client = Client::builder(address.to_string()).build().unwrap();
    let filter = Filter::from_text(["n < 3"]).unwrap();
    let subscribe = client.subscribe(DATABASE, "rooms", filter).with_left();
    let mut rooms = soon(subscribe.into_future()).await.unwrap();
    let publisher = Publisher::builder(address.to_string()).build().unwrap();
    let mut pending = Vec::new();
    for (id, n) in [("u4", 9), ("u1", 7), ("u4", 8), ("u0", 6), ("u4", 2)] {
        let entry = Entry::upsert(DATABASE, "rooms", id, format!(r#"{{"n":{n}}}"#));
        pending.push(soon(publisher.enqueue(entry)).await.unwrap());
    }
    let deleted = Entry::delete(DATABASE, "rooms", "u2");
    pending.push(soon(publisher.enqueue(deleted)).await.unwrap());
    for pending in pending {
        soon(pending).await.unwrap();
    }
    let told = told(&mut rooms, 4).await;
    assert_eq!(told, ["u1 left", "u0 left", "u4 changed", "u2 left"]);
    publisher.close().await;
    drop(server);
}
