//! The uplink and our own proxy: what is recorded is what the proxy shows.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod uplink_support;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use steadfast::{LinkOptions, Metadata, session::Recovery};
use steadfast_access::NewToken;
use steadfast_fodc_agent::uplink::{Builder, Uplink};
use steadfast_fodc_proxy::{self as proxy, Proxy};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};
use uplink_support::{agent, connected, record::Regular, until, within};

/// A day in 2026: our proxy takes no times of 1970.
const BEGAN: i64 = 1_790_000_000;

fn record(series: usize, seconds: i64) -> Regular {
    Regular {
        series,
        seconds: (BEGAN, BEGAN + seconds),
        padding: 0,
    }
}

async fn proxy_at(grpc: SocketAddr) -> Proxy {
    proxy_with(grpc, None).await
}

async fn proxy_with(grpc: SocketAddr, access: Option<PathBuf>) -> Proxy {
    let start = async {
        loop {
            let mut config = proxy::Config::default();
            config.access.clone_from(&access);
            config.grpc_listen = grpc;
            config.http_listen = "127.0.0.1:0".parse().unwrap();
            // However busy the machine is, this is not about deadlines.
            config.agent_deadline = Duration::from_secs(20);
            config.window_deadline = Duration::from_secs(20);
            config.http_write_timeout = Duration::from_secs(40);
            match Proxy::start(config).await {
                Ok(proxy) => return proxy,
                // The one before is not gone yet.
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    within("a proxy", start).await
}

async fn proxy_anywhere() -> Proxy {
    proxy_at("127.0.0.1:0".parse().unwrap()).await
}

fn fast_uplink(proxy: &Proxy, record: Regular) -> Uplink {
    fast_builder(proxy, record).build().unwrap()
}

fn fast_builder(proxy: &Proxy, record: Regular) -> Builder {
    agent(proxy.grpc_address().to_string(), record)
        .reconnect_interval(Duration::from_millis(100))
        .clock(move || record.seconds.1 * 1_000)
        .response_timeout(Duration::from_secs(16))
        .tune(|mut config| {
            config.stable_after = Duration::from_millis(20);
            config.recovery = Recovery::Spread(Duration::from_millis(50));
            config
        })
}

/// The body of a response with that status, and whoever is said to be missing.
async fn fetch(proxy: &Proxy, path: &str) -> (String, Option<String>) {
    let mut socket = TcpStream::connect(proxy.http_address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    within("a response", socket.read_to_string(&mut response))
        .await
        .unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    let missing = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("x-steadfast-missing")
            .then(|| value.to_owned())
    });
    (body.to_owned(), missing)
}

/// Fetches until nobody is missing: a registration comes a moment before its metrics stream.
async fn whole(proxy: &Proxy, path: &str) -> String {
    let fetched = async {
        loop {
            let (body, missing) = fetch(proxy, path).await;
            if missing.is_none() {
                return body;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    within("a response that is whole", fetched).await
}

fn window_path(from: i64, to: i64) -> String {
    let at = |seconds: i64| {
        let time = rfc3339(seconds);
        time.replace(':', "%3A")
    };
    format!(
        "/metrics-windows?start_time={}&end_time={}",
        at(from),
        at(to)
    )
}

fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap().to_string()
}

/// Value by index of the series and time.
fn samples(body: &str) -> BTreeMap<(usize, String), f64> {
    let elements: Vec<serde_json::Value> = serde_json::from_str(body).unwrap();
    let mut samples = BTreeMap::new();
    for element in &elements {
        assert_eq!(element["pod_name"], "db-0");
        let index: usize = element["labels"]["index"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        for sample in element["data"].as_array().unwrap() {
            let time = sample["timestamp"].as_str().unwrap().to_owned();
            let value = sample["value"].as_f64().unwrap();
            assert_eq!(
                samples.insert((index, time), value),
                None,
                "sample sent twice"
            );
        }
    }
    samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_shows_the_latest_values_unchanged() {
    let proxy = proxy_anywhere().await;
    let uplink = fast_uplink(&proxy, record(3, 100));
    within("registered", uplink.connect()).await.unwrap();
    let registered = uplink.registered().borrow().clone().unwrap();
    assert!(registered.profile.is_some(), "it speaks our profile");
    let body = whole(&proxy, "/metrics").await;
    for index in 0..3 {
        let value = Regular::value(index, (BEGAN + 99) * 1_000);
        let line = format!("index=\"{index}\"");
        let found = body
            .lines()
            .find(|line_of_body| line_of_body.contains(&line))
            .unwrap();
        assert!(found.ends_with(&format!(" {value}")), "{found}");
        for stamp in [
            "pod_name=\"db-0\"",
            "node_role=\"ROLE_DATA\"",
            "node_type=\"hot\"",
        ] {
            assert!(found.contains(stamp), "{found}");
        }
    }
    assert!(body.contains("# TYPE regular_total counter"), "{body}");
    let nobody = whole(&proxy, "/metrics?role=ROLE_LIAISON").await;
    assert_eq!(nobody, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_windows_hold_exactly_the_record() {
    let proxy = proxy_anywhere().await;
    let uplink = fast_uplink(&proxy, record(5, 1_000));
    within("registered", uplink.connect()).await.unwrap();
    for (from, to, count) in [
        (100, 199, 100),
        (990, 1_200, 10),
        (0, 0, 1),
        (2_000, 3_000, 0),
    ] {
        let body = whole(&proxy, &window_path(BEGAN + from, BEGAN + to)).await;
        let samples = samples(&body);
        assert_eq!(samples.len(), 5 * count, "{from} to {to}");
        for second in from..from + i64::try_from(count).unwrap() {
            let time = rfc3339(BEGAN + second);
            for index in 0..5 {
                let value = Regular::value(index, (BEGAN + second) * 1_000);
                assert_eq!(samples[&(index, time.clone())].to_bits(), value.to_bits());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_larger_than_a_message_arrives_whole() {
    let proxy = proxy_anywhere().await;
    let record = record(200, 3_600);
    let uplink = fast_uplink(&proxy, record);
    within("registered", uplink.connect()).await.unwrap();
    let body = whole(&proxy, &window_path(BEGAN, BEGAN + 3_599)).await;
    let samples = samples(&body);
    assert_eq!(samples.len(), 200 * 3_600);
    let time = rfc3339(BEGAN + 1_800);
    let value = Regular::value(150, (BEGAN + 1_800) * 1_000);
    assert_eq!(samples[&(150, time)].to_bits(), value.to_bits());
    assert_eq!(uplink.counters().truncated, 0);
    assert_eq!(uplink.counters().registrations, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_restarted_ten_times_has_the_agent_each_time() {
    let mut proxy = proxy_anywhere().await;
    let uplink = fast_uplink(&proxy, record(2, 10));
    uplink.start();
    let mut restarts = 0;
    while restarts < 10 {
        within("registered", until(uplink.watch(), connected)).await;
        let body = whole(&proxy, "/metrics").await;
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        if lines.count() < 2 {
            // It was just lost and is about to know: that is no restart.
            continue;
        }
        restarts += 1;
        assert_eq!(proxy.census(), (1, 1), "{restarts}");
        let grpc = proxy.grpc_address();
        proxy.drain(Duration::from_millis(100)).await;
        proxy = proxy_at(grpc).await;
    }
    let counters = uplink.counters();
    assert!(counters.registrations <= 11, "{counters:?}");
    assert!(counters.registrations >= 10, "{counters:?}");
    assert_eq!(counters.refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_outlives_its_tokens_on_one_registration() {
    const VALID: Duration = Duration::from_secs(4);
    let tokens: Vec<NewToken> = (0..4).map(|_| NewToken::generate().unwrap()).collect();
    let (start, began) = (jiff::Timestamp::now(), Instant::now());
    let entries = (1..).zip(&tokens).map(|(number, token)| {
        let expires = start + VALID * number;
        format!("{}\nexpires = {expires}\n", token.entry("db-0"))
    });
    let policy = entries.collect::<String>()
        + "[[grants]]\nrole = 'agent'\nactions = ['register']\npods = ['$sub']\n\
           [[grants]]\nrole = 'reader'\nactions = ['read']\n\
           [[members]]\nroles = ['agent']\nprincipals = ['token:db-0']\n\
           [[members]]\nroles = ['reader']\nprincipals = ['anonymous']\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    std::fs::write(&path, policy).unwrap();
    let proxy = proxy_with("127.0.0.1:0".parse().unwrap(), Some(path)).await;
    // A source whose tokens are valid for three more seconds at least.
    let bearers: Vec<String> = tokens.iter().map(|it| it.reveal().to_owned()).collect();
    let source = move |_| {
        let elapsed = began.elapsed() + Duration::from_secs(3);
        let number = (elapsed.as_secs() / VALID.as_secs()) as usize;
        let bearer = bearers[number.min(bearers.len() - 1)].clone();
        async move { Ok(Metadata::new().with("authorization", format!("Bearer {bearer}"))?) }
    };
    let uplink = fast_builder(&proxy, record(2, 10))
        .link(LinkOptions::new().seed(7).credentials(source))
        .build()
        .unwrap();
    within("registered", uplink.connect()).await.unwrap();
    whole(&proxy, "/metrics").await;
    sleep((VALID * 3).saturating_sub(began.elapsed())).await;
    let page = whole(&proxy, "/metrics").await;
    assert!(page.contains("regular_total{"), "{page}");
    let counters = uplink.counters();
    assert!(counters.renewals >= 2, "{counters:?}");
    let opened = (counters.registrations, counters.metrics_streams);
    assert_eq!(opened, (1, 1), "{counters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_and_one_of_them_leaves() {
    let proxy = proxy_anywhere().await;
    let first = fast_uplink(&proxy, record(2, 10));
    let identity = steadfast_fodc_model::identity::Identity {
        pod_name: "db-1".to_owned(),
        ..uplink_support::identity()
    };
    let identity = tokio::sync::watch::Sender::new(identity);
    let address = proxy.grpc_address().to_string();
    let second = Uplink::builder(address, identity.subscribe(), record(2, 10))
        .build()
        .unwrap();
    within("registered", first.connect()).await.unwrap();
    within("registered", second.connect()).await.unwrap();
    let lines = |body: &str| body.lines().filter(|line| !line.starts_with('#')).count();
    let both = async {
        while lines(&whole(&proxy, "/metrics").await) != 4 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within("both", both).await;
    let pod = whole(&proxy, "/metrics?pod_name=db-1").await;
    assert_eq!(lines(&pod), 2);
    within("left", second.disconnect()).await;
    let one = async {
        while proxy.census().0 != 1 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within("one", one).await;
    let (body, missing) = fetch(&proxy, "/metrics").await;
    assert!(body.contains("\nsteadfast_proxy_page_agents_missing 1\n"));
    assert_eq!(lines(&body), 2 + 1);
    assert!(missing.unwrap().contains("db-1"), "and that is said");
}
