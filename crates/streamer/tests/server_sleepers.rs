//! Applications that read nothing for a minute while changes arrive. HTTP/2 closes the connection of a
//! reader that falls behind on small messages; here it must stay open, and every lost change must be
//! reported.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use steadfast_streamer::{
    client::{Client, GapReason, Item, Subscription},
    filter::{Condition, Filter, Op},
    publisher::{Entry, Pending, Publisher},
    server::Server,
};
use steadfast_wire::streamer::{
    gateway_message::Payload as Request, streamer_message::Payload as Response,
};
use support::{DATABASE, frames::Frames, item, number, quick, request, serve_plainly, soon};

/// Time for which the applications read nothing.
const SLEEP: Duration = Duration::from_secs(60);

/// Number of changed documents. A case with many subscriptions has one for each.
const DOCUMENTS: u64 = 1_000;

/// Maximum growth of the process, which holds the server, the log and eight clients: about 40 MiB of
/// changes in the log, and for each client 8 MiB in its queue and 2 MiB in flight.
const GROWTH_BYTES: u64 = 256 << 20;

/// Changes of one size.
#[derive(Clone, Copy, Debug)]
struct Load {
    collection: &'static str,
    padding: usize,
    changes: u64,
}

const LOADS: [Load; 2] = [
    Load {
        collection: "small",
        padding: 0,
        changes: 20_000,
    },
    Load {
        collection: "large",
        padding: 4_000,
        changes: 3_000,
    },
];

/// One sleeping application.
struct Sleeper {
    name: String,
    load: Load,
    profile: bool,
    client: Client,
    subscriptions: Vec<Subscription>,
}

impl Sleeper {
    async fn new(server: &Server, load: Load, many: bool, profile: bool) -> Self {
        let mut config = quick();
        config.heartbeat_interval = Some(Duration::from_secs(5));
        config.activity_timeout = Some(Duration::from_secs(20));
        let client = Client::builder(server.address().to_string())
            .link(config)
            .offer_profile(profile);
        let client = client.build().unwrap();
        let filters = if many {
            let document = |id| Condition::new("_id", Op::Eq, format!("u{id}"));
            (0..DOCUMENTS)
                .map(|id| Filter::new([document(id)]).unwrap())
                .collect()
        } else {
            vec![Filter::all()]
        };
        let subscribing = filters.into_iter().map(|filter| {
            let subscribe = client.subscribe(DATABASE, load.collection, filter);
            subscribe.into_future()
        });
        let subscriptions = soon(try_join_all(subscribing)).await.unwrap();
        let count = subscriptions.len();
        Self {
            name: format!("{} × {count}, profile {profile}", load.collection),
            load,
            profile,
            client,
            subscriptions,
        }
    }

    /// Receives everything. Each change must arrive or be counted as dropped.
    async fn wake(mut self) -> String {
        let begun = Instant::now();
        let each = self.load.changes / self.subscriptions.len() as u64;
        let step = if self.subscriptions.len() > 1 {
            DOCUMENTS
        } else {
            1
        };
        let mut lost = 0;
        for (first, subscription) in (0..).zip(&mut self.subscriptions) {
            let (mut next, mut seen) = (first, 0);
            let mut dropped = 0;
            while seen + dropped < each {
                match item(subscription).await {
                    Item::Change(change) => {
                        let number = sequence(&change.data);
                        assert!(number >= next, "{}: {number} after {next}", self.name);
                        if self.profile {
                            assert_eq!(number, next, "{}: a change is missing", self.name);
                        }
                        next = number + step;
                        seen += 1;
                    }
                    Item::Gap(gap) if !self.profile => match gap.reason {
                        GapReason::Overflow { dropped: more } => dropped += more,
                        other => panic!("{}: {other:?}", self.name),
                    },
                    other => panic!("{}: {other:?}", self.name),
                }
            }
            assert_eq!(seen + dropped, each, "{}: too many changes", self.name);
            lost += dropped;
        }
        let is_fast = self.profile || each < self.load.changes;
        assert!(is_fast || lost > 0, "{}: no change was dropped", self.name);
        let attempts = self.client.link_counters().attempts;
        assert_eq!(attempts, 1, "{}: the connection was lost", self.name);
        let outages = self.client.outages();
        assert!(outages.is_empty(), "{}: {outages:?}", self.name);
        let took = begun.elapsed();
        format!(
            "{}: {lost} reported as dropped, received in {took:?}",
            self.name
        )
    }
}

/// Returns the number in a change.
fn sequence(data: &[u8]) -> u64 {
    let document: serde_json::Value = serde_json::from_slice(data).unwrap();
    document["n"].as_u64().unwrap()
}

/// Publishes a load at an even rate.
async fn publish(server: std::net::SocketAddr, load: Load, over: Duration) {
    const STEPS: u64 = 100;
    let publisher = Publisher::builder(server.to_string()).build().unwrap();
    let padding = "x".repeat(load.padding);
    let mut ticks = tokio::time::interval(over / u32::try_from(STEPS).unwrap());
    for step in 0..STEPS {
        ticks.tick().await;
        let mut pending: Vec<Pending> = Vec::new();
        let batch = load.changes / STEPS;
        for number in step * batch..(step + 1) * batch {
            let document = format!("u{}", number % DOCUMENTS);
            let data = format!(r#"{{"n":{number},"p":"{padding}"}}"#);
            let entry = Entry::upsert(DATABASE, load.collection, document, data);
            pending.push(soon(publisher.enqueue(entry)).await.unwrap());
        }
        for pending in pending {
            soon(pending).await.unwrap();
        }
    }
}

/// Returns the resident memory of the process, in bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_applications_keep_connections_for_a_minute() {
    let server = serve_plainly().await;
    let mut sleepers = Vec::new();
    for load in LOADS {
        for many in [false, true] {
            for profile in [true, false] {
                sleepers.push(Sleeper::new(&server, load, many, profile).await);
            }
        }
    }
    let before = resident();
    let begun = Instant::now();
    let publishing = LOADS.map(|load| {
        let address = server.address();
        // In the last quarter, nothing more is published.
        tokio::spawn(async move { publish(address, load, SLEEP * 3 / 4).await })
    });
    for publishing in publishing {
        publishing.await.unwrap();
    }
    println!("published after {:?}", begun.elapsed());
    tokio::time::sleep(SLEEP.saturating_sub(begun.elapsed())).await;
    if let (Some(before), Some(asleep)) = (before, resident()) {
        let growth = asleep.saturating_sub(before);
        println!("grown from {} by {} MiB", before >> 20, growth >> 20);
        assert!(growth < GROWTH_BYTES, "grown by {} MiB", growth >> 20);
    }
    let gauges = server.stats().await.unwrap().gauges;
    println!("the server holds {gauges:?}");
    assert!(gauges.queued_bytes < 16 << 20, "{gauges:?}");
    assert!(gauges.behind > 0, "no subscription is behind: {gauges:?}");
    let waking = sleepers.into_iter().map(|it| tokio::spawn(it.wake()));
    for report in try_join_all(waking).await.unwrap() {
        println!("{report}");
    }
    assert_eq!(server.stats().await.unwrap().counters.opened, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_peer_that_pauses_reading_gets_everything() {
    const EVENTS: u64 = 20_000;
    let server = serve_plainly().await;
    let mut peer = Frames::open(server.address()).await;
    peer.send(Request::Subscribe(request("a", "rooms", Vec::new())));
    assert!(matches!(peer.next().await, Response::SubscribeResponse(_)));
    support::publish(server.address(), "rooms", 0..EVENTS, 0).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let gauges = server.stats().await.unwrap().gauges;
    assert!(gauges.queued_bytes < 2 << 20, "{gauges:?}");
    for expected in 0..EVENTS {
        match peer.next().await {
            Response::Delivery(delivery) => {
                let event = delivery.event.unwrap();
                assert_eq!(number(&event.document_id), expected);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(peer.is_connected());
}
