//! Plain peers against the server, over real sockets: one test for each defect of the replaced server
//! that needs a socket to be seen, and for the behaviour that such peers rely on.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use steadfast_chaos::{Direction, Fault, Proxy, Reach};
use steadfast_streamer::{
    hub::Gauges,
    publisher::{Entry, PublishError, Publisher},
    server::{Server, ServerOptions},
};
use steadfast_wire::streamer::{
    Filter, Value, gateway_message::Payload as Request, streamer_message::Payload as Response,
    value::Kind,
};
use support::{
    DATABASE, Plain, channel, number, publish, request, serve, serve_plainly, soon, until,
};
use tonic::Code;

/// More events than the queue of a stream and the windows below it can hold.
const MANY: u64 = 3_000;

/// Waits until the server holds no resources of a stream.
async fn free(server: &Server) {
    until("all resources are released", || async {
        server.stats().await.unwrap().gauges == Gauges::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_come_at_once_and_half_close_ends_the_call() {
    let server = serve_plainly().await;
    let begun = Instant::now();
    let mut peer = Plain::connect(&server).await;
    let headers = begun.elapsed();
    assert!(headers < Duration::from_secs(5), "{headers:?}");
    assert!(peer.subscribe("a", "rooms").await.success);
    let Plain {
        requests,
        mut responses,
    } = peer;
    drop(requests);
    assert_eq!(soon(responses.message()).await.unwrap(), None);
    let trailers = soon(responses.trailers()).await.unwrap();
    assert!(trailers.is_some(), "the status is OK");
    free(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_plain_stream_gets_everything_later() {
    let server = serve_plainly().await;
    let mut peer = Plain::connect(&server).await;
    assert!(peer.subscribe("a", "rooms").await.success);
    publish(server.address(), "rooms", 0..MANY, 1_000).await;
    let gauges = server.stats().await.unwrap().gauges;
    assert_eq!(gauges.behind, 1, "it must read from the log: {gauges:?}");
    assert!(gauges.queued_bytes < 2 << 20, "{gauges:?}");
    // It is still answered.
    peer.heartbeat(1);
    peer.request_subscribe("b", "elsewhere");
    let (mut numbers, mut acked, mut answered) = (Vec::new(), false, false);
    while numbers.len() < usize::try_from(MANY).unwrap() {
        match peer.next().await.unwrap().unwrap() {
            Response::Delivery(delivery) => {
                numbers.push(number(&delivery.event.unwrap().document_id));
            }
            Response::HeartbeatAck(ack) => acked = ack.timestamp == 1,
            Response::SubscribeResponse(response) => answered = response.success,
            other => panic!("{other:?}"),
        }
    }
    assert!(numbers.into_iter().eq(0..MANY), "each once, in order");
    assert!(acked && answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_stream_ends_with_a_real_status() {
    let mut options = ServerOptions::default();
    options.limits.stall_timeout = Duration::from_secs(1);
    let server = serve(options).await;
    let mut peer = Plain::connect(&server).await;
    assert!(peer.subscribe("a", "rooms").await.success);
    publish(server.address(), "rooms", 0..MANY, 1_000).await;
    until("the stream is evicted", || async {
        server.stats().await.unwrap().counters.evicted == 1
    })
    .await;
    peer.heartbeat(1);
    let status = peer.end().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(
        status.message().contains("the peer read nothing"),
        "{status}"
    );
    free(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_stream_delays_no_other() {
    let server = serve_plainly().await;
    let mut slow = Plain::connect(&server).await;
    let mut fast = Plain::connect(&server).await;
    assert!(slow.subscribe("slow", "rooms").await.success);
    assert!(fast.subscribe("fast", "users").await.success);
    publish(server.address(), "rooms", 0..MANY, 1_000).await;
    for round in 0..20 {
        let begun = Instant::now();
        publish(server.address(), "users", round..round + 1, 0).await;
        assert_eq!(fast.number().await, round);
        let late = begun.elapsed();
        assert!(late < Duration::from_secs(4), "{late:?} in round {round}");
        publish(
            server.address(),
            "rooms",
            MANY + round..MANY + round + 1,
            1_000,
        )
        .await;
    }
    assert_eq!(server.stats().await.unwrap().gauges.behind, 1);
    for expected in 0..MANY + 20 {
        assert_eq!(slow.number().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_continue_between_heartbeat_acks() {
    const EVENTS: u64 = 20_000;
    let server = serve_plainly().await;
    let mut peer = Plain::connect(&server).await;
    assert!(peer.subscribe("a", "rooms").await.success);
    let requests = peer.requests.clone();
    let beating = tokio::spawn(async move {
        for timestamp in 1.. {
            let heartbeat = steadfast_wire::streamer::Heartbeat {
                gateway_id: "g".to_owned(),
                timestamp,
            };
            let payload = Some(Request::Heartbeat(heartbeat));
            if requests
                .send(steadfast_wire::streamer::GatewayMessage { payload })
                .is_err()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let address = server.address();
    let publishing = tokio::spawn(async move { publish(address, "rooms", 0..EVENTS, 0).await });
    let (mut next, mut acked) = (0, 0);
    while next < EVENTS {
        match peer.next().await.unwrap().unwrap() {
            Response::Delivery(delivery) => {
                assert_eq!(number(&delivery.event.unwrap().document_id), next);
                next += 1;
            }
            Response::HeartbeatAck(ack) => {
                assert_eq!(ack.timestamp, acked + 1, "acks in order");
                acked = ack.timestamp;
            }
            other => panic!("{other:?}"),
        }
    }
    publishing.await.unwrap();
    assert!(acked > 1, "heartbeats were acknowledged in between");
    beating.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsubscribe_ignores_ids_of_other_streams() {
    let server = serve_plainly().await;
    let mut owner = Plain::connect(&server).await;
    let mut stranger = Plain::connect(&server).await;
    assert!(owner.subscribe("a", "rooms").await.success);
    stranger.unsubscribe("a");
    // Its response shows that the unsubscribe has been handled.
    assert!(stranger.subscribe("b", "users").await.success);
    publish(server.address(), "rooms", 0..1, 0).await;
    assert_eq!(owner.number().await, 0);
    owner.unsubscribe("a");
    assert!(owner.subscribe("c", "users").await.success);
    assert_eq!(server.stats().await.unwrap().gauges.subscriptions, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_stream_leaves_no_id_behind() {
    const STREAMS: u64 = 1_000;
    let server = serve_plainly().await;
    let channels = [
        channel(server.address()).await,
        channel(server.address()).await,
    ];
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(8);
    for stream in 0..STREAMS {
        let channel = channels[usize::try_from(stream % 2).unwrap()].clone();
        let peer = Plain::open(channel).await;
        peer.request_subscribe(&format!("id-{stream}"), "rooms");
        let wait = Duration::from_micros(random.random_range(0..600));
        let begun = Instant::now();
        while begun.elapsed() < wait {
            tokio::task::yield_now().await;
        }
        drop(peer);
    }
    free(&server).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.stats().await.unwrap().gauges, Gauges::default());
    let mut peer = Plain::connect(&server).await;
    for stream in 0..STREAMS {
        let response = peer.subscribe(&format!("id-{stream}"), "rooms").await;
        assert!(response.success, "{response:?}");
    }
    let stats = server.stats().await.unwrap();
    assert_eq!(
        stats.gauges.subscriptions,
        usize::try_from(STREAMS).unwrap()
    );
    assert_eq!(stats.counters.taken_over, 0, "every id was free");
    assert_eq!(stats.counters.opened, STREAMS + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_id_is_replaced_and_moves_to_a_newer_stream() {
    let server = serve_plainly().await;
    let mut older = Plain::connect(&server).await;
    assert!(older.subscribe("a", "rooms").await.success);
    assert!(older.subscribe("a", "rooms").await.success, "identical");
    assert!(older.subscribe("b", "rooms").await.success);
    publish(server.address(), "rooms", 0..1, 0).await;
    assert_eq!(older.delivery().await.subscription_ids, ["a", "b"]);
    let mut newer = Plain::connect(&server).await;
    assert!(newer.subscribe("a", "rooms").await.success);
    publish(server.address(), "rooms", 1..2, 0).await;
    assert_eq!(newer.delivery().await.subscription_ids, ["a"]);
    assert_eq!(older.delivery().await.subscription_ids, ["b"]);
    // The end of the older stream does not affect the newer one.
    drop(older);
    until("the older stream has ended", || async {
        server.stats().await.unwrap().gauges.streams == 1
    })
    .await;
    publish(server.address(), "rooms", 2..3, 0).await;
    assert_eq!(newer.number().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_deadline_frees_ids_of_a_vanished_peer() {
    let mut options = ServerOptions::default();
    options.limits.plain_silence = Duration::from_secs(2);
    let server = serve(options).await;
    let proxy = Proxy::start(server.address()).unwrap();
    let mut vanishing = Plain::open(channel(proxy.addr()).await).await;
    assert!(vanishing.subscribe("a", "rooms").await.success);
    vanishing.heartbeat(1);
    assert!(matches!(
        vanishing.next().await,
        Ok(Some(Response::HeartbeatAck(_)))
    ));
    let begun = Instant::now();
    let _hole = proxy.inject(Fault::Blackhole(Direction::Both), Reach::Present);
    free(&server).await;
    let found = begun.elapsed();
    assert!(
        (1..6).contains(&found.as_secs()),
        "freed after {found:?}, the limit is 2 s"
    );
    assert_eq!(server.stats().await.unwrap().counters.silent, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_find_a_vanished_peer_without_heartbeats() {
    let mut options = ServerOptions::default();
    options.ping_interval = Duration::from_millis(500);
    options.ping_timeout = Duration::from_secs(2);
    let server = serve(options).await;
    let proxy = Proxy::start(server.address()).unwrap();
    let mut quiet = Plain::connect(&server).await;
    let mut vanishing = Plain::open(channel(proxy.addr()).await).await;
    assert!(quiet.subscribe("b", "rooms").await.success);
    assert!(vanishing.subscribe("a", "rooms").await.success);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let gauges = server.stats().await.unwrap().gauges;
    assert_eq!(
        gauges.streams, 2,
        "silence alone ends no stream: {gauges:?}"
    );
    let _hole = proxy.inject(Fault::Blackhole(Direction::Both), Reach::Present);
    until("the vanished peer is found", || async {
        server.stats().await.unwrap().gauges.streams == 1
    })
    .await;
    publish(server.address(), "rooms", 0..1, 0).await;
    assert_eq!(quiet.number().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_documents_fit_a_delivery() {
    const NAMES: usize = "default".len() + "rooms".len() + "u0".len();
    let server = serve_plainly().await;
    let mut peer = Plain::connect(&server).await;
    assert!(peer.subscribe("a", "rooms").await.success);
    let publisher = Publisher::builder(server.address().to_string())
        .producer("p")
        .build()
        .unwrap();
    let object = |bytes: usize| format!(r#"{{"x":"{}"}}"#, "x".repeat(bytes - 8));
    let limit = (1 << 20) - NAMES - "p".len();
    let entry = |bytes| Entry::upsert(DATABASE, "rooms", "u0", object(bytes));
    soon(publisher.publish(entry(limit - 64))).await.unwrap();
    let event = peer.delivery().await.event.unwrap();
    let stamps = event.document_data.len() - (limit - 64);
    assert!((1..200).contains(&stamps), "{stamps} bytes were added");
    for bytes in [limit + 64, 3 << 20] {
        let error = soon(publisher.publish(entry(bytes))).await.unwrap_err();
        assert!(
            matches!(&error, PublishError::Refused { message, .. } if message.contains("1048576")),
            "{error}"
        );
    }
    soon(publisher.publish(entry(10))).await.unwrap();
    assert_eq!(peer.number().await, 0, "later entries are delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_beyond_2_to_the_53_arrive_exactly() {
    let server = serve_plainly().await;
    let mut peer = Plain::connect(&server).await;
    let exact = Filter {
        field: "n".to_owned(),
        op: "==".to_owned(),
        value: Some(Value {
            kind: Some(Kind::IntValue(9_007_199_254_740_993)),
        }),
        path: Vec::new(),
    };
    peer.send(Request::Subscribe(request("a", "rooms", vec![exact])));
    assert!(peer.response().await.success);
    let publisher = Publisher::builder(server.address().to_string()).build();
    let publisher = publisher.unwrap();
    for text in ["9007199254740992", "9007199254740993"] {
        let data = format!(r#"{{"n":{text},"m":1.0,"o":12345678901234567890123}}"#);
        let entry = Entry::upsert(DATABASE, "rooms", format!("u{text}"), data);
        soon(publisher.publish(entry)).await.unwrap();
    }
    let event = peer.delivery().await.event.unwrap();
    let document = std::str::from_utf8(&event.document_data).unwrap();
    for part in [
        r#""n":9007199254740993"#,
        r#""m":1.0"#,
        r#""o":12345678901234567890123"#,
    ] {
        assert!(document.contains(part), "{document}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_ends_plain_streams_promptly() {
    let server = serve_plainly().await;
    let address = server.address();
    let mut peer = Plain::connect(&server).await;
    let mut silent = Plain::connect(&server).await;
    assert!(peer.subscribe("a", "rooms").await.success);
    publish(address, "rooms", 0..10, 0).await;
    let begun = Instant::now();
    let grace = Duration::from_secs(30);
    let draining = tokio::spawn(async move { server.drain(grace, "maintenance").await });
    for expected in 0..10 {
        assert_eq!(
            peer.number().await,
            expected,
            "committed events are delivered"
        );
    }
    for peer in [&mut peer, &mut silent] {
        let status = peer.end().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("maintenance"), "{status}");
    }
    draining.await.unwrap().unwrap();
    let took = begun.elapsed();
    assert!(took < grace / 2, "it took {took:?}");
    let again = std::net::TcpListener::bind(address);
    assert!(again.is_ok(), "the port is free: {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_does_not_wait_for_dead_plain_connections() {
    let server = serve_plainly().await;
    let proxy = Proxy::start(server.address()).unwrap();
    let (mut idle, mut behind) = (
        Plain::open(channel(proxy.addr()).await).await,
        Plain::open(channel(proxy.addr()).await).await,
    );
    assert!(idle.subscribe("idle", "users").await.success);
    assert!(behind.subscribe("behind", "rooms").await.success);
    let _hole = proxy.inject(Fault::Blackhole(Direction::Both), Reach::Present);
    publish(server.address(), "rooms", 0..MANY, 1_000).await;
    let begun = Instant::now();
    let grace = Duration::from_secs(60);
    server.drain(grace, "maintenance").await.unwrap();
    let took = begun.elapsed();
    assert!(took < grace / 3, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_with_an_unreading_peer_ends_at_its_deadline() {
    let server = serve_plainly().await;
    let mut peer = Plain::connect(&server).await;
    assert!(peer.subscribe("a", "rooms").await.success);
    publish(server.address(), "rooms", 0..MANY, 1_000).await;
    let begun = Instant::now();
    let grace = Duration::from_secs(2);
    server.drain(grace, "maintenance").await.unwrap();
    let took = begun.elapsed();
    assert!(took >= grace && took < Duration::from_secs(8), "{took:?}");
    // It is cut: its full window leaves no room for a status.
    assert!(peer.end().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_spellings_are_accepted_and_refusals_keep_stream() {
    let server = serve_plainly().await;
    let mut peer = Plain::connect(&server).await;
    let filter = |op: &str| Filter {
        field: "n".to_owned(),
        op: op.to_owned(),
        value: Some(Value {
            kind: Some(Kind::IntValue(5)),
        }),
        path: Vec::new(),
    };
    for op in ["==", "eq", ">=", "gte"] {
        peer.send(Request::Subscribe(request(op, "rooms", vec![filter(op)])));
        let response = peer.response().await;
        assert_eq!((response.success, &*response.subscription_id), (true, op));
    }
    peer.send(Request::Subscribe(request(
        "bad",
        "rooms",
        vec![filter("~")],
    )));
    let response = peer.response().await;
    assert!(!response.success);
    assert!(
        response.error.contains("unsupported operator: ~"),
        "{}",
        response.error
    );
    peer.request_subscribe("", "elsewhere");
    let made = peer.response().await.subscription_id;
    assert_eq!(made.len(), 36, "{made} is a UUID");
    publish(server.address(), "rooms", 5..7, 0).await;
    let ids = peer.delivery().await.subscription_ids;
    assert_eq!(ids, ["==", "eq", ">=", "gte"]);
    let ids = peer.delivery().await.subscription_ids;
    assert_eq!(ids, [">=", "gte"]);
}
