//! Twenty thousand subscriptions restored at once, and other peers that send much before they read
//! anything. The tests assert that everything arrives; times are only printed.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use steadfast::session::State;
use steadfast_chaos::Proxy;
use steadfast_streamer::{
    client::{Client, Item},
    filter::Filter,
    publisher::{Entry, Publisher},
    server::Server,
};
use steadfast_wire::streamer::{
    Heartbeat, gateway_message::Payload as Request, streamer_message::Payload as Response,
};
use support::{DATABASE, Plain, frames::Frames, item, quick, request, serve_plainly, soon, until};
use tokio::time::timeout;

const SUBSCRIPTIONS: usize = 20_000;

/// Timeout of a whole storm, in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

async fn subscribed(server: &Server, count: usize) {
    let all = until("all are subscribed", || async {
        server.stats().await.unwrap().gauges.subscriptions == count
    });
    timeout(PATIENCE, all).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storm_restores_20000_subscriptions_without_loss() {
    let server = serve_plainly().await;
    let proxy = Proxy::start(server.address()).unwrap();
    let client = Client::builder(proxy.addr().to_string()).link(quick());
    let client = client.build().unwrap();
    let begun = Instant::now();
    let asked = (0..SUBSCRIPTIONS).map(|index| {
        let subscribe = client.subscribe(DATABASE, format!("c{index}"), Filter::all());
        subscribe.into_future()
    });
    let mut subscriptions = timeout(PATIENCE, try_join_all(asked))
        .await
        .expect("in time")
        .unwrap();
    println!("{SUBSCRIPTIONS} subscribed in {:?}", begun.elapsed());

    let publisher = Publisher::builder(server.address().to_string());
    let publisher = publisher.build().unwrap();
    let some = (0..SUBSCRIPTIONS).step_by(401);
    for round in 0..2 {
        let lives = client.link_counters().streams_established;
        let begun = Instant::now();
        proxy.reset();
        for index in some.clone() {
            let entry = Entry::upsert(DATABASE, format!("c{index}"), format!("u{round}"), "{}");
            soon(publisher.publish(entry)).await.unwrap();
        }
        let mut status = client.watch();
        let restored = async {
            while client.link_counters().streams_established == lives
                || client.status().state != State::Connected
            {
                status.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, restored).await.expect("in time");
        println!("{SUBSCRIPTIONS} restored in {:?}", begun.elapsed());
        for index in some.clone() {
            match item(&mut subscriptions[index]).await {
                Item::Change(change) => {
                    assert_eq!(*change.document_id, *format!("u{round}"));
                    assert_eq!(*change.collection, *format!("c{index}"));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // The last page of a catch-up may hold the last event, and then a subscription is live only after it.
    until("all subscriptions are live", || async {
        let gauges = server.stats().await.unwrap().gauges;
        (gauges.subscriptions, gauges.behind, gauges.streams) == (SUBSCRIPTIONS, 0, 1)
    })
    .await;
    assert_eq!(client.link_counters().attempts, 3, "one per cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_answers_20000_subscribes_of_an_unreading_peer() {
    let server = serve_plainly().await;
    let mut peer = Frames::open(server.address()).await;
    let begun = Instant::now();
    for index in 0..SUBSCRIPTIONS {
        let id = format!("subscription-{index:0>24}");
        let collection = format!("organisations/o1/rooms/r{index}/messages");
        peer.send(Request::Subscribe(request(&id, &collection, Vec::new())));
    }
    subscribed(&server, SUBSCRIPTIONS).await;
    let written = begun.elapsed();
    for index in 0..SUBSCRIPTIONS {
        match peer.next().await {
            Response::SubscribeResponse(response) => {
                let id = format!("subscription-{index:0>24}");
                assert_eq!((response.subscription_id, response.success), (id, true));
            }
            other => panic!("{other:?}"),
        }
    }
    println!(
        "{SUBSCRIPTIONS} subscribes taken in {written:?}, answers read after {:?}",
        begun.elapsed()
    );
    assert!(peer.is_connected());
    support::publish(
        server.address(),
        "organisations/o1/rooms/r7/messages",
        3..4,
        0,
    )
    .await;
    assert!(matches!(peer.next().await, Response::Delivery(_)));
    assert_eq!(server.stats().await.unwrap().counters.opened, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_answers_20000_subscribes_of_a_late_reader() {
    let server = serve_plainly().await;
    let mut peer = Plain::connect(&server).await;
    for index in 0..SUBSCRIPTIONS {
        peer.request_subscribe(&format!("subscription-{index}"), &format!("c{index}"));
    }
    subscribed(&server, SUBSCRIPTIONS).await;
    for index in 0..SUBSCRIPTIONS {
        let response = peer.response().await;
        let id = format!("subscription-{index}");
        assert_eq!((response.subscription_id, response.success), (id, true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_smallest_frames_cuts_no_connection() {
    const BEATS: i64 = 40_000;
    let server = serve_plainly().await;
    let mut peer = Frames::open(server.address()).await;
    for _ in 0..BEATS {
        peer.send(Request::Heartbeat(Heartbeat::default()));
    }
    for beat in 0..BEATS {
        let answer = peer.next().await;
        assert!(
            matches!(answer, Response::HeartbeatAck(_)),
            "{beat}: {answer:?}"
        );
    }
    assert!(peer.is_connected());
}
