//! A server whose log fails, and one that is dropped: all its streams end.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use steadfast_streamer::{
    Epoch,
    log::{LogError, MemoryLog},
    publisher::{Entry, Publisher},
    server::{Server, ServerOptions},
};
use steadfast_wire::streamer::gateway_message::Payload as Request;
use support::{
    DATABASE, FailingLog, Plain, frames::Frames, publish, quick, request, serve_plainly, soon,
    until,
};
use tokio::net::TcpListener;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_log_ends_streams_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let log = FailingLog {
        log: MemoryLog::with_epoch(Epoch(7)),
        fails: Arc::clone(&fails),
        failure: || LogError::storage("the disk is gone"),
    };
    let mut server = Server::start(listener, Box::new(log), ServerOptions::default()).unwrap();
    let mut peer = Plain::connect(&server).await;
    assert!(peer.subscribe("a", "rooms").await.success);
    publish(server.address(), "rooms", 0..1, 0).await;
    assert_eq!(peer.number().await, 0);

    fails.store(true, Ordering::Relaxed);
    let publisher = Publisher::builder(server.address().to_string());
    let publisher = publisher.link(quick()).build().unwrap();
    let entry = Entry::upsert(DATABASE, "rooms", "u1", "{}");
    let _pending = soon(publisher.enqueue(entry)).await.unwrap();
    let status = peer.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(soon(server.failed()).await, "its log has stopped");
    assert!(server.stats().await.is_none());
    publisher.close().await;
    // It can still be drained, and reports that the log did not close cleanly.
    let grace = std::time::Duration::from_secs(1);
    assert!(soon(server.drain(grace, "it failed")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_server_cuts_unreading_peers() {
    let server = serve_plainly().await;
    let mut peer = Frames::open(server.address()).await;
    let mut quiet = Plain::connect(&server).await;
    assert!(quiet.subscribe("b", "users").await.success);
    peer.send(Request::Subscribe(request("a", "rooms", Vec::new())));
    publish(server.address(), "rooms", 0..500, 1_000).await;
    assert!(server.stats().await.unwrap().gauges.queued_messages > 0);
    drop(server);
    until("its connection is cut", || async { !peer.is_connected() }).await;
    assert!(quiet.end().await.is_err());
}
