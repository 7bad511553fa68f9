//! A server that stops and starts again on the same directory and port.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{net::SocketAddr, path::Path, time::Duration};

use steadfast_streamer::{
    Epoch, Position,
    client::{Client, Item, Subscription},
    filter::Filter,
    log::{SegmentLog, StoreOptions},
    publisher::{Entry, Publisher},
    server::{Server, ServerOptions},
};
use support::{DATABASE, item, number, quick, soon, until};
use tokio::net::TcpListener;

const EPOCH: Epoch = Epoch(0x5eed);

/// Serves the log in the directory as soon as the previous server has released it and the port.
async fn serve(directory: &Path, address: SocketAddr) -> Server {
    let log = std::cell::Cell::new(None);
    until("the log is free", || async {
        log.set(SegmentLog::open(directory, &StoreOptions::new(EPOCH)).ok());
        let opened = log.take();
        let free = opened.is_some();
        log.set(opened);
        free
    })
    .await;
    let listener = std::cell::Cell::new(None);
    until("the port is free", || async {
        let bound = TcpListener::bind(address).await.ok();
        let free = bound.is_some();
        listener.set(bound);
        free
    })
    .await;
    let (log, listener) = (log.take().unwrap(), listener.take().unwrap());
    Server::start(listener, Box::new(log), ServerOptions::default()).unwrap()
}

/// Checks that the next change is of this document, at its position.
async fn expect(subscription: &mut Subscription, expected: u64) {
    match item(subscription).await {
        Item::Change(change) => {
            assert_eq!(number(&change.document_id), expected);
            let position = Position::new(EPOCH, expected + 1);
            assert_eq!(change.position, Some(position));
        }
        other => panic!("{other:?} instead of document {expected}"),
    }
}

/// Stops the server three times while entries are acknowledged, in flight and enqueued.
async fn survives(stop: impl AsyncFn(Server)) {
    const ROUND: u64 = 200;
    let directory = tempfile::tempdir().unwrap();
    let mut server = serve(directory.path(), "127.0.0.1:0".parse().unwrap()).await;
    let address = server.address();
    let client = Client::builder(address.to_string()).link(quick());
    let client = client.build().unwrap();
    let all = client.subscribe(DATABASE, "rooms", Filter::all());
    let mut all = soon(all.into_future()).await.unwrap();
    let publisher = Publisher::builder(address.to_string()).link(quick());
    let publisher = publisher.build().unwrap();
    let enqueue = async |numbers: std::ops::Range<u64>| {
        let mut pending = Vec::new();
        for number in numbers {
            let entry = Entry::upsert(DATABASE, "rooms", format!("u{number}"), "{}");
            pending.push(soon(publisher.enqueue(entry)).await.unwrap());
        }
        pending
    };
    for round in 0..3 {
        let first = round * ROUND;
        // Some are acknowledged, some are in flight, some are enqueued while there is no server.
        for pending in enqueue(first..first + 50).await {
            soon(pending).await.unwrap();
        }
        let mut pending = enqueue(first + 50..first + 150).await;
        for expected in first..first + 25 {
            expect(&mut all, expected).await;
        }
        stop(server).await;
        pending.extend(enqueue(first + 150..first + ROUND).await);
        server = serve(directory.path(), address).await;
        for pending in pending {
            soon(pending).await.unwrap();
        }
        for expected in first + 25..first + ROUND {
            expect(&mut all, expected).await;
        }
    }
    let attempts = client.link_counters().attempts;
    assert!(attempts > 3, "attempts after three cuts: {attempts}");
    // A later subscription finds everything.
    let late = client.subscribe(DATABASE, "rooms", Filter::all());
    let late = late.after(Position::new(EPOCH, 0)).into_future();
    let mut late = soon(late).await.unwrap();
    for expected in 0..3 * ROUND {
        expect(&mut late, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_server_restarts_without_loss() {
    survives(async |server| drop(server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_server_restarts_without_loss() {
    survives(async |server: Server| {
        let grace = Duration::from_secs(2);
        soon(server.drain(grace, "update")).await.unwrap();
    })
    .await;
}
