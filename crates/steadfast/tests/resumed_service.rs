//! The example through a killed server and a black hole. Its total is right only if each event came
//! once.
#![cfg(feature = "grpc")]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

#[path = "../examples/resume_watch.rs"]
#[expect(dead_code, reason = "the example's own main, and what only it uses")]
mod resume_watch;

use std::{cell::Cell, time::Duration};

use resume_watch::{
    meter::{Reading, WatchRequest},
    service::{Server, Store, value},
};
use steadfast::{LinkOptions, Observed, Resume, grpc::Grpc, session::Config, transport::Call};
use steadfast_chaos::{Direction, Fault, Proxy, Reach};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

const LIMIT: Duration = Duration::from_secs(10);

fn config() -> Config {
    let mut config = Config::default();
    config.initial_backoff = Duration::from_millis(20);
    config.max_backoff = Duration::from_millis(100);
    config.heartbeat_interval = None;
    config.activity_timeout = Some(Duration::from_millis(600));
    config
}

/// Breaks the service in three ways. Waits for new events after each.
async fn break_it(
    server: Server,
    proxy: &Proxy,
    store: Store,
    mut seen: watch::Receiver<u64>,
) -> Server {
    let mut more = async || {
        let enough = store.newest() + 50;
        seen.wait_for(|number| *number >= enough).await.unwrap();
    };
    more().await;
    let addr = server.addr;
    server.kill().await;
    sleep(Duration::from_millis(150)).await;
    let server = Server::start(addr, store.clone()).await.unwrap();
    more().await;

    let hole = proxy.inject(Fault::Blackhole(Direction::Both), Reach::Present);
    assert_eq!(hole.affected().connections, 1);
    more().await;
    drop(hole);

    assert_eq!(proxy.reset().connections, 1);
    more().await;
    server
}

#[tokio::test]
async fn example_counts_each_reading_once_through_all_faults() {
    let store = Store::growing(Duration::from_millis(4));
    let server = Server::start(([127, 0, 0, 1], 0).into(), store.clone())
        .await
        .unwrap();
    let proxy = Proxy::start(server.addr).unwrap();
    let (seen, seeing) = watch::channel(0);
    let mut total = 0;
    let mut last = 0;
    let broken = Cell::new(false);
    let following = resume_watch::follow(proxy.addr().into(), config(), |reading| {
        total += reading.value;
        last = reading.sequence;
        seen.send_replace(last);
        !broken.get()
    });
    let breaking = async {
        let server = break_it(server, &proxy, store, seeing).await;
        broken.set(true);
        server
    };
    let both = async { tokio::join!(following, breaking) };
    let (followed, server) = timeout(LIMIT, both).await.expect("all events in time");
    let outages = followed.unwrap();
    let of = |label: &str| {
        let reasons = outages.iter().map(|outage| outage.reason.label());
        reasons.filter(|reason| *reason == label).count()
    };
    assert!(of("lost") >= 2 && of("silent") >= 1, "{outages:?}");
    assert!(last >= 200);
    assert_eq!(total, (1..=last).map(value).sum::<u64>());
    server.kill().await;
}

/// As the example, but each stream begins at the newest reading.
struct FromNow(Store);

impl Resume for FromNow {
    type Request = WatchRequest;
    type Response = Reading;

    fn requests(&mut self) -> Vec<WatchRequest> {
        let after = self.0.newest();
        vec![WatchRequest { after }]
    }

    fn observe(&mut self, _: &Reading) -> Observed {
        Observed::New
    }
}

#[tokio::test]
async fn total_is_wrong_without_resumption() {
    let store = Store::growing(Duration::from_millis(4));
    let server = Server::start(([127, 0, 0, 1], 0).into(), store.clone())
        .await
        .unwrap();
    let addr = server.addr;
    let mut readings = LinkOptions::from(config())
        .resume(
            Call::new("/meter.v1.Meter/Watch"),
            Grpc::new(addr.into()),
            FromNow(store.clone()),
        )
        .unwrap();
    let (seen, mut seeing) = watch::channel(0);
    let counting = async {
        let mut numbers = Vec::new();
        while numbers.last() < Some(&200) {
            numbers.push(readings.next().await.unwrap().unwrap().sequence);
            seen.send_replace(numbers.len());
        }
        numbers
    };
    let restarting = async {
        seeing.wait_for(|seen| *seen >= 20).await.unwrap();
        server.kill().await;
        sleep(Duration::from_millis(100)).await;
        Server::start(addr, store).await.unwrap()
    };
    let both = async { tokio::join!(counting, restarting) };
    let (numbers, server) = timeout(LIMIT, both).await.expect("200 events in time");
    assert!(
        numbers.windows(2).any(|pair| pair[1] != pair[0] + 1),
        "readings made while the server was down are missing"
    );
    server.kill().await;
}

#[test]
fn user_part_of_example_is_under_thirty_lines() {
    let example = include_str!("../examples/resume_watch.rs");
    let lines: Vec<&str> = example
        .lines()
        .skip_while(|line| *line != "// begin user code")
        .skip(1)
        .take_while(|line| *line != "// end user code")
        .filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//"))
        .collect();
    assert!((15..30).contains(&lines.len()), "{} lines", lines.len());
    let whole = lines.join("\n");
    for part in ["impl Resume for", ".resume(", ".next().await"] {
        assert!(whole.contains(part), "{part} is part of it");
    }
}
