//! The listener for operations, over real sockets.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus_parse::{Scrape, Value};
use serde_json::Value as Json;
use steadfast_streamer::{
    Epoch, SegmentLog, StoreOptions,
    client::Client,
    filter::{Condition, Filter, Op},
    log::{LogError, MemoryLog},
    server::{Security, Server, ServerOptions, operations::Operations},
};
use steadfast_wire::streamer::{SubscribeRequest, gateway_message::Payload as Request};
use support::{DATABASE, FailingLog, Plain, SOON, publish, serve, serve_plainly, soon, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

async fn operations() -> Operations {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Operations::start(listener, Security::default()).unwrap()
}

/// Returns the status code and the body of a page.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    get_of_host(address, path, "localhost").await
}

async fn get_of_host(address: SocketAddr, path: &str, host: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    soon(socket.read_to_string(&mut response)).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

async fn metrics(operations: &Operations) -> Scrape {
    // Figures may be a tenth of a second old.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let (code, page) = get(operations.address(), "/metrics").await;
    assert_eq!(code, 200, "{page}");
    Scrape::parse(page.lines().map(|line| Ok(line.to_owned()))).unwrap()
}

async fn status(operations: &Operations) -> Json {
    tokio::time::sleep(Duration::from_millis(150)).await;
    let (code, body) = get(operations.address(), "/status").await;
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Returns the value of a metric without labels.
fn value(scrape: &Scrape, name: &str) -> f64 {
    let name = format!("steadfast_streamer_{name}");
    let sample = scrape.samples.iter().find(|it| it.metric == name);
    match &sample.unwrap_or_else(|| panic!("no {name}")).value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => *value,
        other => panic!("{name} is {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_what_the_server_did() {
    let data = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(data.path(), &StoreOptions::new(Epoch(7))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(listener, Box::new(log), ServerOptions::default()).unwrap();
    let operations = operations().await;
    operations.show(&server);
    let client = Client::builder(server.address().to_string())
        .build()
        .unwrap();
    let many = Filter::new([Condition::new("n", Op::Ge, 2)]).unwrap();
    let mut many = soon(async { client.subscribe(DATABASE, "c", many).await })
        .await
        .unwrap();
    let _all = soon(async { client.subscribe(DATABASE, "c", Filter::all()).await })
        .await
        .unwrap();
    publish(server.address(), "c", 0..5, 10).await;
    for _ in 0..3 {
        soon(many.next()).await.unwrap().unwrap();
    }
    let page = metrics(&operations).await;
    for (name, expected) in [
        ("entries_appended_total", 5.0),
        ("entries_received_total", 5.0),
        ("entries_refused_total", 0.0),
        ("events_total", 5.0),
        // The index finds the filter for three of the events, and the whole collection for all.
        ("candidate_filters_total", 8.0),
        ("matched_subscriptions_total", 8.0),
        ("delivered_subscriptions_total", 8.0),
        ("deliveries_total", 5.0),
        ("streams", 1.0),
        ("streams_profile", 1.0),
        ("subscriptions", 2.0),
        ("subscriptions_filter", 1.0),
        ("subscriptions_collection", 1.0),
        ("subscriptions_behind", 0.0),
        ("log_head_offset", 5.0),
        ("log_full", 0.0),
        ("connections_limit", 65_536.0),
    ] {
        assert!(
            (value(&page, name) - expected).abs() < 1e-9,
            "{name}: {}",
            value(&page, name)
        );
    }
    assert!(value(&page, "match_slices_total") >= 1.0);
    assert!(value(&page, "log_bytes") > 0.0);
    for name in ["log_sync_seconds", "log_commit_seconds"] {
        let name = format!("steadfast_streamer_{name}");
        let Some(Value::Histogram(buckets)) = page
            .samples
            .iter()
            .find(|it| it.metric == name)
            .map(|it| &it.value)
        else {
            panic!("no histogram {name}");
        };
        let last = buckets.last().unwrap();
        assert!(
            last.less_than.is_infinite() && last.count >= 1.0,
            "{buckets:?}"
        );
        assert!(buckets.is_sorted_by(|a, b| a.count <= b.count && a.less_than < b.less_than));
    }
    // Every metric has a help text, and each family stands once.
    let (_, text) = get(operations.address(), "/metrics").await;
    let kinds = text
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .count();
    let helps = text
        .lines()
        .filter(|line| line.starts_with("# HELP"))
        .count();
    assert_eq!(kinds, helps);
    operations.stop().await;
}

#[tokio::test]
async fn page_counts_what_its_own_listener_refused() {
    let server = serve(ServerOptions::default()).await;
    let operations = operations().await;
    operations.show(&server);
    let address = operations.address();
    // As many as one client may have, and one more.
    let mut held = Vec::new();
    for _ in 0..32 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let mut refused = TcpStream::connect(address).await.unwrap();
    assert_eq!(soon(refused.read(&mut [0])).await.unwrap_or(0), 0);
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (_, page) = get(address, "/metrics").await;
    let expected = "steadfast_streamer_operations_refused_total{reason=\"client_connections\"} 1\n";
    assert!(page.contains(expected), "{page}");
    operations.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_finds_the_slow_subscriber_and_the_expensive_filter() {
    let mut options = ServerOptions::default();
    options.limits.queue_messages = 1;
    let server = serve(options).await;
    let operations = operations().await;
    operations.show(&server);
    // Fifteen plain peers that read nothing more, so that each is behind.
    let mut silent = Vec::new();
    for n in 0..15 {
        let mut plain = Plain::connect(&server).await;
        let request = SubscribeRequest {
            subscription_id: format!("slow{n}"),
            database: DATABASE.to_owned(),
            collection: "c".to_owned(),
            ..SubscribeRequest::default()
        };
        plain.send(Request::Subscribe(request));
        soon(plain.responses.message()).await.unwrap();
        silent.push(plain);
    }
    let client = Client::builder(server.address().to_string())
        .build()
        .unwrap();
    let list: Vec<i64> = (1_000..1_500).collect();
    let expensive = Filter::new([Condition::new("n", Op::In, list)]).unwrap();
    let _expensive = soon(async { client.subscribe(DATABASE, "c", expensive).await })
        .await
        .unwrap();
    let cheap = Filter::new([Condition::new("n", Op::Ge, 0)]).unwrap();
    let _cheap = soon(async { client.subscribe(DATABASE, "c", cheap).await })
        .await
        .unwrap();
    publish(server.address(), "c", 0..300, 2_000).await;
    until("all peers are behind", async || {
        status(&operations).await["figures"]["subscriptions_behind"] == 15
    })
    .await;

    let report = status(&operations).await;
    assert_eq!(report["state"], "ready");
    let slowest = report["slowestStreams"].as_array().unwrap();
    assert_eq!(slowest.len(), 10, "the others are summed");
    let lags: Vec<u64> = slowest
        .iter()
        .map(|it| it["lag"].as_u64().unwrap())
        .collect();
    assert!(lags.is_sorted_by(|a, b| a >= b) && lags[9] > 0, "{lags:?}");
    let first = &slowest[0];
    assert!(first["slowest"]["id"].as_str().unwrap().starts_with("slow"));
    assert_eq!(first["slowest"]["collection"], "c");
    assert_eq!(first["kind"], "plain");
    assert!(
        first["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{first}"
    );
    assert!(first["queuedBytes"].as_u64().unwrap() > 0);
    assert_eq!(first["principal"], Json::Null);
    let others = &report["otherStreams"];
    assert_eq!(
        (&others["behind"], &others["streams"]),
        (&5.into(), &6.into())
    );
    assert!(others["lag"].as_u64().unwrap() > 0);
    let filter = &report["expensiveFilters"][0];
    assert!(
        filter["filter"].as_str().unwrap().starts_with("n in ["),
        "{filter}"
    );
    assert!(filter["costShare"].as_f64().unwrap() > 0.9);
    assert_eq!(
        (&filter["subscriptions"], &filter["matchShare"]),
        (&1.into(), &0.0.into())
    );

    let page = metrics(&operations).await;
    let lags = page
        .samples
        .iter()
        .filter(|it| it.metric.ends_with("_slow_stream_lag_events"));
    assert_eq!(lags.clone().count(), 11);
    assert!(
        lags.clone()
            .any(|it| it.labels.get("stream") == Some("others"))
    );
    let filters = page
        .samples
        .iter()
        .filter(|it| it.metric.ends_with("_filter_cost_ratio"));
    let share = |it: &prometheus_parse::Sample| match it.value {
        Value::Gauge(share) => share,
        _ => panic!("{it:?}"),
    };
    let dearest = filters
        .max_by(|a, b| share(a).total_cmp(&share(b)))
        .unwrap();
    assert!(dearest.labels.get("filter").unwrap().starts_with("n in ["));
    assert!(share(dearest) > 0.9, "{dearest:?}");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_says_why_not() {
    let operations = operations().await;
    let page = async |path: &str| get(operations.address(), path).await;
    let (code, text) = page("/readyz").await;
    assert_eq!(code, 503);
    assert!(text.contains("the log is being opened"), "{text}");
    assert_eq!(page("/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(page("/status").await.0, 503);

    let fails = Arc::new(AtomicBool::new(false));
    let start = async |failure: fn() -> LogError| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let log = FailingLog {
            log: MemoryLog::with_epoch(Epoch(7)),
            fails: Arc::clone(&fails),
            failure,
        };
        Server::start(listener, Box::new(log), ServerOptions::default()).unwrap()
    };
    let try_to_publish = async |server: &Server| {
        let publisher = steadfast_streamer::Publisher::builder(server.address().to_string());
        let publisher = publisher.build().unwrap();
        let entry = steadfast_streamer::Entry::upsert(DATABASE, "c", "a", "{}");
        let attempt = publisher.publish(entry);
        // It is sent again and again, and never taken.
        tokio::time::timeout(Duration::from_millis(500), attempt)
            .await
            .ok();
        publisher.close().await;
    };
    let server = start(|| LogError::Full { free: 1, needed: 2 }).await;
    operations.show(&server);
    assert_eq!(page("/readyz").await, (200, "ready\n".to_owned()));
    fails.store(true, Ordering::Relaxed);
    try_to_publish(&server).await;
    let (code, text) = page("/readyz").await;
    assert_eq!(code, 200, "subscribers are served");
    assert!(text.contains("the disk accepts no data"), "{text}");
    server.drain(Duration::ZERO, "a test").await.unwrap();
    let (code, text) = page("/readyz").await;
    assert!(code == 503 && text.contains("the server stops"), "{text}");
    assert_eq!(page("/livez").await.0, 200);

    let server = start(|| LogError::storage("the disk is gone")).await;
    operations.show(&server);
    try_to_publish(&server).await;
    until("the failure is seen", async || {
        page("/livez").await.0 == 503
    })
    .await;
    let (code, text) = page("/readyz").await;
    assert!(code == 503 && text.contains("the disk is gone"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_the_listener_are_only_those_that_it_lists() {
    let operations = operations().await;
    let server = serve_plainly().await;
    operations.show(&server);
    let (code, index) = get(operations.address(), "/").await;
    assert_eq!(code, 200);
    for line in index.lines() {
        let path = line.split(' ').next().unwrap();
        assert_eq!(get(operations.address(), path).await.0, 200, "{path}");
    }
    assert_eq!(get(operations.address(), "/metrics?top=5").await.0, 400);
    assert_eq!(get(operations.address(), "/other").await.0, 404);
    let address = operations.address();
    operations.stop().await;
    let refused = tokio::time::timeout(SOON, TcpStream::connect(address))
        .await
        .unwrap();
    assert!(refused.is_err(), "the listener is gone");
}

#[tokio::test]
async fn operations_on_loopback_refuse_pages_of_other_hosts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let security = Security {
        allow_hosts: vec!["metrics.example".to_owned()],
        ..Security::default()
    };
    let operations = Operations::start(listener, security).unwrap();
    for (host, code) in [
        ("evil.example", 421),
        ("localhost:9080", 200),
        ("127.0.0.1:9080", 200),
        ("metrics.example", 200),
    ] {
        let page = get_of_host(operations.address(), "/livez", host).await;
        assert_eq!(page.0, code, "{host}");
        assert_eq!(page.1.contains("--allow-host"), code == 421, "{}", page.1);
    }
}
