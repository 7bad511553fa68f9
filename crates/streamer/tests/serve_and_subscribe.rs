//! The whole way of one event over real sockets: published, durable, matched, delivered.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

use std::{future::IntoFuture as _, time::Duration};

use steadfast_chaos::Proxy;
use steadfast_streamer::{
    Epoch, Operation,
    client::{Client, Item},
    filter::Filter,
    log::MemoryLog,
    publisher::{Entry, PublishError, Publisher},
    server::{Server, ServerOptions},
};
use tokio::{net::TcpListener, time::timeout};

const SOON: Duration = Duration::from_secs(10);

async fn serve(log: MemoryLog) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::start(listener, Box::new(log), ServerOptions::default()).unwrap()
}

fn quick() -> steadfast::session::Config {
    let mut config = steadfast::session::Config::default();
    config.initial_backoff = Duration::from_millis(50);
    config.max_backoff = Duration::from_millis(500);
    config.heartbeat_interval = Some(Duration::from_millis(200));
    config.activity_timeout = Some(Duration::from_millis(800));
    config.open_timeout = Duration::from_secs(2);
    config
}

async fn change(subscription: &mut steadfast_streamer::client::Subscription) -> (u64, String) {
    let item = timeout(SOON, subscription.next())
        .await
        .expect("an item in time");
    match item {
        Some(Ok(Item::Change(change))) => (
            change.position.unwrap().offset,
            change.document_id.to_string(),
        ),
        other => panic!("expected a change, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_finds_its_way_through_a_filter() {
    let server = serve(MemoryLog::with_epoch(Epoch(7))).await;
    let address = server.address().to_string();
    let client = Client::builder(&address).build().unwrap();
    let adults = Filter::from_text(["age >= 18"]).unwrap();
    let mut adults = timeout(SOON, client.subscribe("default", "users", adults))
        .await
        .unwrap()
        .unwrap();
    let publisher = Publisher::builder(&address).build().unwrap();
    for (id, age) in [("a", 17), ("b", 18), ("c", 40)] {
        let entry = Entry::upsert("default", "users", id, format!(r#"{{"age":{age}}}"#));
        timeout(SOON, publisher.publish(entry))
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(change(&mut adults).await, (2, "b".to_owned()));
    assert_eq!(change(&mut adults).await, (3, "c".to_owned()));
    server
        .drain(Duration::from_millis(200), "the test is over")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_and_repeat_nothing() {
    let server = serve(MemoryLog::with_epoch(Epoch(9))).await;
    let proxy = Proxy::start(server.address()).unwrap();
    let address = proxy.addr().to_string();
    let client = Client::builder(&address).link(quick()).build().unwrap();
    let all = client.subscribe("default", "users", Filter::all());
    let mut all = timeout(SOON, all).await.unwrap().unwrap();
    let publisher = Publisher::builder(&address).link(quick()).build().unwrap();
    let mut pending = Vec::new();
    for number in 0..300 {
        let entry = Entry::upsert("default", "users", format!("u{number}"), "{}");
        pending.push(publisher.enqueue(entry).await.unwrap());
        if number % 100 == 50 {
            proxy.reset();
        }
    }
    for pending in pending {
        timeout(SOON, pending).await.unwrap().unwrap();
    }
    for number in 0..300 {
        assert_eq!(change(&mut all).await, (number + 1, format!("u{number}")));
    }
    assert!(
        client.link_counters().attempts > 1,
        "the cuts hit the subscriber"
    );
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_of_a_quiet_subscription_is_known_at_once() {
    let server = serve(MemoryLog::with_epoch(Epoch(9))).await;
    let proxy = Proxy::start(server.address()).unwrap();
    let client = Client::builder(proxy.addr().to_string()).build().unwrap();
    let quiet = client.subscribe("default", "quiet", Filter::all());
    let _quiet = timeout(SOON, quiet).await.unwrap().unwrap();
    let publisher = Publisher::builder(server.address().to_string())
        .build()
        .unwrap();
    for number in 0..3 {
        let entry = Entry::upsert("default", "users", format!("u{number}"), "{}");
        timeout(SOON, publisher.publish(entry))
            .await
            .unwrap()
            .unwrap();
    }
    proxy.reset();
    let mut status = client.watch();
    let restored = status.wait_for(|status| status.streams_established == 2);
    timeout(SOON, restored).await.unwrap().unwrap();
    // The default heartbeat interval is 30 s, and servers send progress every 10 s.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(client.outages().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_client_with_1000_subscriptions_loses_no_burst() {
    let server = serve(MemoryLog::with_epoch(Epoch(9))).await;
    let address = server.address().to_string();
    let client = Client::builder(&address)
        .offer_profile(false)
        .build()
        .unwrap();
    let mut subscriptions = Vec::new();
    for number in 0..1_000 {
        let subscribe = client.subscribe("default", format!("c{number}"), Filter::all());
        subscriptions.push(tokio::spawn(subscribe.into_future()));
    }
    let publisher = Publisher::builder(&address).build().unwrap();
    let mut handles = Vec::new();
    for subscription in subscriptions {
        handles.push(timeout(SOON, subscription).await.unwrap().unwrap().unwrap());
    }
    let mut seventh = handles.swap_remove(7);
    let large = format!(r#"{{"padding":"{}"}}"#, "x".repeat(10_000));
    let mut pending = Vec::new();
    for number in 0..200 {
        let data = if number < 2 { large.as_str() } else { "{}" };
        let entry = Entry::upsert("default", "c7", format!("u{number}"), data.to_owned());
        pending.push(publisher.enqueue(entry).await.unwrap());
    }
    for pending in pending {
        timeout(SOON, pending).await.unwrap().unwrap();
    }
    for number in 0..200 {
        match timeout(SOON, seventh.next())
            .await
            .expect("an item in time")
        {
            Some(Ok(Item::Change(change))) => {
                assert_eq!(*change.document_id, *format!("u{number}"));
            }
            other => panic!("expected a change, got {other:?}"),
        }
    }
    assert_eq!(client.counters().await.overflowed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_entry_is_told_and_the_next_one_is_taken() {
    let server = serve(MemoryLog::with_epoch(Epoch(1))).await;
    let publisher = Publisher::builder(server.address().to_string())
        .build()
        .unwrap();
    let bad = Entry::upsert("default", "users", "u", "[1]");
    let error = timeout(SOON, publisher.publish(bad))
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(error, PublishError::Refused { sequence: 1, .. }),
        "{error:?}"
    );
    let good = Entry::upsert("default", "users", "u", "{}");
    let receipt = timeout(SOON, publisher.publish(good))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((receipt.sequence, receipt.position.unwrap().offset), (2, 1));
    publisher.close().await;
    let error = publisher
        .publish(Entry::delete("default", "users", "u"))
        .await
        .unwrap_err();
    assert_eq!(error, PublishError::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_reaches_the_subscription_of_the_document() {
    let server = serve(MemoryLog::with_epoch(Epoch(1))).await;
    let address = server.address().to_string();
    let client = Client::builder(&address).build().unwrap();
    let one = Filter::from_text([r#"_id == "u1""#]).unwrap();
    let mut one = timeout(SOON, client.subscribe("default", "users", one))
        .await
        .unwrap()
        .unwrap();
    let publisher = Publisher::builder(&address).build().unwrap();
    for entry in [
        Entry::upsert("default", "users", "u1", r#"{"n":1}"#),
        Entry::upsert("default", "users", "u2", r#"{"n":1}"#),
        Entry::delete("default", "users", "u1"),
    ] {
        timeout(SOON, publisher.publish(entry))
            .await
            .unwrap()
            .unwrap();
    }
    let operations = [Operation::Insert, Operation::Delete];
    for operation in operations {
        match timeout(SOON, one.next()).await.unwrap() {
            Some(Ok(Item::Change(change))) => assert_eq!(change.operation, operation),
            other => panic!("{other:?}"),
        }
    }
}
