//! Entries published over connections that are cut: each is stored once, or the publisher reports
//! that it was not sent or that its fate is unknown.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::time::Duration;

use steadfast_chaos::{Direction, Fault, FaultGuard, Proxy, Reach};
use steadfast_streamer::{
    Epoch, Position,
    client::{Client, Item},
    filter::Filter,
    publisher::{Entry, Pending, PublishError, Publisher},
    server::{Server, ServerOptions},
};
use support::{DATABASE, item, number, quick, serve, serve_plainly, soon, until};
use tonic::Request;

/// A server, and a publisher that reaches it through a proxy.
struct Scene {
    server: Server,
    proxy: Proxy,
    publisher: Publisher,
}

impl Scene {
    /// Starts a publisher that has published `u0` through a proxy.
    async fn new() -> Self {
        let server = serve_plainly().await;
        let proxy = Proxy::start(server.address()).unwrap();
        let publisher = Publisher::builder(proxy.addr().to_string())
            .link(quick())
            .build()
            .unwrap();
        let scene = Self {
            server,
            proxy,
            publisher,
        };
        let first = scene.enqueue(0..1).await;
        scene.duplicates(first, 1).await;
        scene
    }

    async fn enqueue(&self, numbers: std::ops::Range<u64>) -> Vec<Pending> {
        let mut pending = Vec::new();
        for number in numbers {
            let entry = Entry::upsert(DATABASE, "rooms", format!("u{number}"), "{}");
            pending.push(soon(self.publisher.enqueue(entry)).await.unwrap());
        }
        pending
    }

    /// Waits until all entries are acknowledged, and returns the number of duplicates among them.
    async fn duplicates(&self, pending: Vec<Pending>, first_sequence: u64) -> usize {
        let mut duplicates = 0;
        for (sequence, pending) in (first_sequence..).zip(pending) {
            let published = soon(pending).await.unwrap();
            assert_eq!(published.sequence, sequence);
            duplicates += usize::from(published.position.is_none());
        }
        duplicates
    }

    /// Checks that the log holds exactly the first `documents` documents, each once, in order.
    async fn expect_stored(&self, documents: u64) {
        let client = Client::builder(self.server.address().to_string());
        let client = client.build().unwrap();
        let all = client.subscribe(DATABASE, "rooms", Filter::all());
        let beginning = Position::new(Epoch(7), 0);
        let mut all = soon(all.after(beginning).into_future()).await.unwrap();
        for expected in 0..documents {
            match item(&mut all).await {
                Item::Change(change) => {
                    assert_eq!(number(&change.document_id), expected);
                    assert_eq!(change.position.unwrap().offset, expected + 1);
                }
                other => panic!("{other:?}"),
            }
        }
        let head = self.server.stats().await.unwrap().counters.events;
        assert_eq!(head, documents, "no further events");
    }

    /// Swallows bytes in one direction until the guard is dropped.
    fn blackhole(&self, direction: Direction) -> FaultGuard {
        self.proxy
            .inject(Fault::Blackhole(direction), Reach::Present)
    }

    /// Waits until the proxy has swallowed bytes.
    async fn wait_for_swallowed_bytes(&self) {
        until("the proxy has swallowed bytes", || async {
            self.proxy.stats().held > 0
        })
        .await;
    }

    /// Waits until the log has committed this many events.
    async fn wait_for_events(&self, events: u64) {
        until("the events are durable", || async {
            self.server.stats().await.unwrap().counters.events == events
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_enqueued_offline_are_stored_once() {
    let scene = Scene::new().await;
    let refused = scene.proxy.inject(Fault::Refuse, Reach::Later);
    scene.proxy.reset();
    let pending = scene.enqueue(1..101).await;
    drop(refused);
    assert_eq!(scene.duplicates(pending, 2).await, 0);
    scene.expect_stored(101).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_lost_on_their_way_are_stored_once() {
    let scene = Scene::new().await;
    let hole = scene.blackhole(Direction::ToServer);
    let pending = scene.enqueue(1..101).await;
    scene.wait_for_swallowed_bytes().await;
    drop(hole);
    assert_eq!(scene.duplicates(pending, 2).await, 0);
    scene.expect_stored(101).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_with_a_lost_acknowledgement_are_stored_once() {
    let scene = Scene::new().await;
    let hole = scene.blackhole(Direction::ToClient);
    let pending = scene.enqueue(1..101).await;
    scene.wait_for_events(101).await;
    scene.wait_for_swallowed_bytes().await;
    drop(hole);
    assert_eq!(scene.duplicates(pending, 2).await, 100);
    scene.expect_stored(101).await;
    assert_eq!(soon(scene.publisher.last_sequence()).await, Some(101));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_refusal_is_reported_again() {
    let scene = Scene::new().await;
    let hole = scene.blackhole(Direction::ToClient);
    let bad = Entry::upsert(DATABASE, "rooms", "u9", "[]");
    let bad = soon(scene.publisher.enqueue(bad)).await.unwrap();
    let good = scene.enqueue(1..2).await;
    scene.wait_for_events(2).await;
    drop(hole);
    let error = soon(bad).await.unwrap_err();
    assert!(
        matches!(error, PublishError::Refused { sequence: 2, .. }),
        "{error:?}"
    );
    assert_eq!(scene.duplicates(good, 3).await, 1);
    scene.expect_stored(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_reports_which_entries_may_be_stored() {
    let scene = Scene::new().await;
    let _hole = scene.blackhole(Direction::ToServer);
    // Larger than any heartbeat or window update that the proxy may swallow before it.
    let body = format!(r#"{{"text": "{}"}}"#, "x".repeat(16 << 10));
    let entry = Entry::upsert(DATABASE, "rooms", "u1", body);
    let sent = [soon(scene.publisher.enqueue(entry)).await.unwrap()];
    until("the proxy has swallowed the entry", || async {
        scene.proxy.stats().held > 16 << 10
    })
    .await;
    scene.publisher.close().await;
    for pending in sent {
        let error = soon(pending).await.unwrap_err();
        assert!(
            matches!(error, PublishError::Unknown { sequence: 2, .. }),
            "{error:?}"
        );
    }

    let refused = scene.proxy.inject(Fault::Refuse, Reach::Later);
    let publisher = Publisher::builder(scene.proxy.addr().to_string());
    let publisher = publisher.link(quick()).build().unwrap();
    let entry = Entry::upsert(DATABASE, "rooms", "u1", "{}");
    let never = soon(publisher.enqueue(entry)).await.unwrap();
    assert!(
        soon(publisher.connect()).await.is_err(),
        "the proxy refuses the connection"
    );
    publisher.close().await;
    let error = soon(never).await.unwrap_err();
    assert!(
        matches!(error, PublishError::NotSent { sequence: 1, .. }),
        "{error:?}"
    );
    drop(refused);
    scene.expect_stored(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_publisher_continues_for_the_same_producer() {
    let server = serve_plainly().await;
    let build = |first| {
        Publisher::builder(server.address().to_string())
            .producer("p")
            .first_sequence(first)
            .build()
            .unwrap()
    };
    let entry = |number: u64| Entry::upsert(DATABASE, "rooms", format!("u{number}"), "{}");
    let first = build(1);
    for number in 0..3 {
        soon(first.publish(entry(number))).await.unwrap();
    }
    first.close().await;
    // It does not know if the third entry was acknowledged, and resends it.
    let second = build(3);
    assert_eq!(soon(second.last_sequence()).await, Some(3));
    assert_eq!(soon(second.publish(entry(2))).await.unwrap().position, None);
    let fourth = soon(second.publish(entry(3))).await.unwrap();
    assert_eq!(fourth.position, Some(Position::new(Epoch(7), 4)));
    second.close().await;
    // A jump in the sequence ends the publisher.
    let third = build(9);
    let error = soon(third.publish(entry(9)));
    let error = tokio::time::timeout(Duration::from_secs(20), error).await;
    match error {
        Ok(Err(PublishError::Unknown { sequence: 9, end })) => {
            assert!(end.to_string().contains("begin again with 5"), "{end}");
        }
        other => panic!("{other:?}"),
    }
    let error = soon(third.publish(entry(10))).await.unwrap_err();
    assert!(
        matches!(error, PublishError::NotSent { sequence: 10, .. }),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_entries_keep_to_the_window_and_all_arrive() {
    let mut options = ServerOptions::default();
    options.publisher_in_flight = 3;
    let server = serve(options).await;
    support::publish(server.address(), "rooms", 0..500, 10).await;
    // An entry is acknowledged when it is durable; the hub may count it a moment later.
    until("the hub has counted every event", || async {
        server.stats().await.unwrap().counters.events == 500
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocol_violation_of_a_publisher_is_explained() {
    use steadfast_wire::publisher::{
        Entry, PublishRequest, PublisherHello, publish_request::Payload,
        publisher_service_client::PublisherServiceClient,
    };

    let server = serve_plainly().await;
    let channel = support::channel(server.address()).await;
    let hello = |producer: &str| {
        Payload::Hello(PublisherHello {
            producer_id: producer.to_owned(),
        })
    };
    let entry = Payload::Entry(Entry {
        sequence: 1,
        operation: 3,
        ..Entry::default()
    });
    for (payloads, expected) in [
        (vec![entry.clone()], "the first message must be hello"),
        (vec![hello("")], "producer_id has 0 bytes"),
        (vec![hello(&"p".repeat(257))], "producer_id has 257 bytes"),
        (vec![hello("steadfast/puller")], "are reserved"),
        (vec![hello("p"), hello("p")], "hello must be the first"),
        (vec![hello("p"), entry], "3 is not an operation"),
    ] {
        let mut client = PublisherServiceClient::new(channel.clone());
        let payloads = payloads.into_iter().map(Some);
        let requests = payloads.map(|payload| PublishRequest { payload });
        let requests: Vec<_> = requests.collect();
        let call = client.publish(Request::new(tokio_stream::iter(requests)));
        let mut answers = soon(call).await.unwrap().into_inner();
        let status = loop {
            match soon(answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("no status for {expected}"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(expected), "{status}");
    }
}
