//! Subscriptions that begin with the oldest event or at a time.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{
    future::IntoFuture as _,
    time::{Duration, SystemTime},
};

use steadfast_chaos::Proxy;
use steadfast_streamer::{
    Epoch, Filter, Item,
    client::{Client, SubscribeError, Subscription},
    log::{SegmentLog, StoreOptions},
    server::{Server, ServerOptions},
};
use support::{DATABASE, item, number, publish, quick, soon};
use tokio::net::TcpListener;

/// The numbers of the next changes, each of which must be a change.
async fn numbers(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        match item(subscription).await {
            Item::Change(change) => numbers.push(number(&change.document_id)),
            other => panic!("not a change: {other:?}"),
        }
    }
    numbers
}

/// A moment that no event shares its millisecond with.
async fn moment() -> SystemTime {
    tokio::time::sleep(Duration::from_millis(20)).await;
    let now = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    now
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_begin_with_the_oldest_event_or_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(directory.path(), &StoreOptions::new(Epoch(7))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(listener, Box::new(log), ServerOptions::default()).unwrap();
    let mut moments = vec![SystemTime::UNIX_EPOCH];
    for commit in 0..4 {
        let numbers = commit * 5..(commit + 1) * 5;
        publish(server.address(), "rooms", numbers, 10).await;
        moments.push(moment().await);
    }
    let proxy = Proxy::start(server.address()).unwrap();
    let client = Client::builder(proxy.addr().to_string());
    let client = client.link(quick()).build().unwrap();
    let rooms = || client.subscribe(DATABASE, "rooms", Filter::all());

    let mut oldest = soon(rooms().since_oldest().into_future()).await.unwrap();
    assert_eq!(numbers(&mut oldest, 20).await, (0..20).collect::<Vec<_>>());
    let mut subscriptions = vec![oldest];
    for (commits, moment) in moments.iter().enumerate() {
        let mut since = soon(rooms().since(*moment).into_future()).await.unwrap();
        let before = commits as u64 * 5;
        assert_eq!(since.position().map(|it| it.offset), Some(before));
        let expected: Vec<_> = (before..20).collect();
        assert_eq!(numbers(&mut since, expected.len()).await, expected);
        subscriptions.push(since);
    }
    let future = SystemTime::now() + Duration::from_secs(3_600);
    subscriptions.push(soon(rooms().since(future).into_future()).await.unwrap());

    // The requests are repeated on the next stream, where the same time would repeat changes.
    proxy.reset();
    publish(server.address(), "rooms", 20..25, 10).await;
    for subscription in &mut subscriptions {
        let received = numbers(subscription, 5).await;
        assert_eq!(received, (20..25).collect::<Vec<_>>());
    }
    assert!(
        client.link_counters().attempts > 1,
        "the cut hit the client"
    );
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_that_a_server_cannot_give_is_refused() {
    let server = support::serve_plainly().await;
    let refused = |outcome: Result<Subscription, SubscribeError>| match outcome {
        Err(SubscribeError::Refused(refusal)) if refusal.permanent => refusal.message,
        other => panic!("not refused: {other:?}"),
    };
    for (profile, words) in [(true, "but not both"), (false, "lacks the resume profile")] {
        let client = Client::builder(server.address().to_string()).offer_profile(profile);
        let client = client.build().unwrap();
        let mut subscribe = client.subscribe(DATABASE, "rooms", Filter::all());
        subscribe = subscribe.since(SystemTime::now());
        if profile {
            subscribe = subscribe.with_snapshot();
        }
        let message = refused(soon(subscribe.into_future()).await);
        assert!(message.contains(words), "{message}");
        client.close().await;
    }
}
