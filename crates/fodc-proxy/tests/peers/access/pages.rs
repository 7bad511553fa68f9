//! Who may read the pages of a proxy, and for how long.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Guarded, POLICY};
use crate::{
    agent::{TIMEOUT, pod},
    config,
};

#[tokio::test]
async fn pages_need_the_right_to_read_or_to_diagnose() {
    let guarded = Guarded::start(&["reader", "doctor", "db-0"]).await;
    let read = [
        "/metrics",
        "/metrics-windows",
        "/agents",
        "/self-metrics",
        "/cluster/topology",
    ];
    let diagnose = [
        "/cluster/lifecycle",
        "/diagnostics",
        "/pressure-profiles",
        "/pressure-profiles/db-0/1/heap",
    ];
    for path in read
        .into_iter()
        .chain(diagnose)
        .chain(["/nothing", "/metrics/"])
    {
        for (token, status) in [("", 403), ("stranger", 401), ("db-0", 403)] {
            let page = guarded.get(path, token).await;
            assert_eq!(page.status, status, "{path} {token:?}");
            assert!(page.body.len() < 80, "{path} {token:?}: {}", page.body);
        }
        for (token, pages) in [("reader", &read[..]), ("doctor", &diagnose[..])] {
            let status = guarded.get(path, token).await.status;
            let is_refused = matches!(status, 401 | 403);
            // Of the paths without a page, only a reader learns that they have none.
            let may_see = pages.contains(&path) || token == "reader" && !diagnose.contains(&path);
            assert_eq!(is_refused, !may_see, "{path} {token}: {status}");
        }
    }
    let refused = guarded.get("/metrics", "stranger").await;
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    for path in ["/livez", "/ready", "/readyz", "/health"] {
        assert_eq!(guarded.get(path, "").await.status, 200, "{path}");
    }
    let health = guarded.get("/health", "").await;
    assert_eq!(health.body, "{\"status\":\"healthy\"}\n");
    let health = guarded.get("/health", "reader").await;
    assert!(health.body.contains("agents_online"), "{}", health.body);
    let page = guarded.get("/self-metrics", "reader").await;
    let line = "steadfast_proxy_access_refused_total{listener=\"http\",reason=\"invalid\"} 12";
    assert!(page.has_line(line), "{}", page.body);
}

#[tokio::test]
async fn response_under_way_is_cut_with_its_right() {
    let mut config = config();
    config.window_deadline = Duration::from_secs(50);
    let guarded = Guarded::start_with(&["db-0", "reader"], POLICY, config).await;
    let agent = guarded.register("db-0", pod("db-0", "r")).await.unwrap();
    // A stream on which no query is answered, so that the window stays open.
    let (_silent, request) = guarded.opening("db-0", &agent.id);
    let mut client = agent.client.clone();
    let _queries = client.stream_metrics(request).await.unwrap();
    let mut socket = TcpStream::connect(guarded.proxy.http_address())
        .await
        .unwrap();
    let token = guarded.tokens["reader"].reveal();
    let request = format!(
        "GET /metrics-windows?start_time=2026-01-01T00:00:00Z HTTP/1.1\r\nhost: localhost\r\n\
         authorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = vec![0; 12];
    socket.read_exact(&mut response).await.unwrap();
    assert_eq!(response, b"HTTP/1.1 200");
    let entry = guarded.tokens["reader"].entry("reader");
    guarded.rewrite(|text| text.replace(&entry, ""));
    let read = timeout(TIMEOUT, socket.read_to_end(&mut response)).await;
    // A reset is a cut as well.
    read.expect("the response ends").ok();
    assert!(
        !response.ends_with(b"0\r\n\r\n"),
        "a response that looks complete"
    );
}
