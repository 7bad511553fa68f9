//! Limits on the calls of one principal.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::{sleep, timeout},
};
use tonic::Code;

use super::{Guarded, POLICY};
use crate::{
    agent::{TIMEOUT, pod},
    config,
};

#[tokio::test]
async fn calls_of_the_agents_of_one_principal_are_limited() {
    let mut config = config();
    config.max_principal_calls = Some(3);
    let guarded = Guarded::start_with(&["db-0", "db-1", "reader"], POLICY, config).await;
    let agent = guarded.register("db-0", pod("db-0", "r")).await.unwrap();
    let open = async || {
        // On a connection of its own each: the limit is that of the principal.
        let (responses, request) = guarded.opening("db-0", &agent.id);
        let call = guarded.client().await.stream_metrics(request).await;
        call.map(|call| (responses, call))
    };
    let mut held = vec![open().await.unwrap(), open().await.unwrap()];
    let refused = open().await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let text = "you have 3 open calls, which is the limit of one principal; end some";
    assert_eq!(refused.message(), text);
    guarded.register("db-1", pod("db-1", "r")).await.unwrap();
    let page = guarded.get("/self-metrics", "reader").await;
    let line = "steadfast_proxy_refused_total{listener=\"agents\",reason=\"principal_calls\"} 1";
    assert!(page.has_line(line), "{}", page.body);
    held.pop();
    let again = async {
        while open().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TIMEOUT, again).await.unwrap();
}

#[tokio::test]
async fn requests_of_one_reader_leave_room_for_others() {
    let mut config = config();
    config.max_http_connections = 8;
    config.agent_deadline = Duration::from_secs(50);
    config.window_deadline = Duration::from_secs(50);
    let policy = POLICY.replace("[\"token:reader\"]", "[\"token:reader\", \"token:other\"]");
    let names = ["db-0", "reader", "other"];
    let guarded = Guarded::start_with(&names, &policy, config).await;
    let agent = guarded.register("db-0", pod("db-0", "r")).await.unwrap();
    // A stream on which no query is answered, so that windows stay open.
    let (_silent, request) = guarded.opening("db-0", &agent.id);
    let mut client = agent.client.clone();
    let _queries = client.stream_metrics(request).await.unwrap();
    let token = guarded.tokens["reader"].reveal();
    let mut open = Vec::new();
    for number in 0..4 {
        // From two addresses, each of which may have as many connections as a principal has requests.
        let socket = TcpSocket::new_v4().unwrap();
        let from = [127, 0, 0, 2 + number % 2];
        socket.bind((from, 0).into()).unwrap();
        let address = guarded.proxy.http_address();
        let mut socket = socket.connect(address).await.unwrap();
        let request = format!(
            "GET /metrics-windows?start_time=2026-01-01T00:00:00Z HTTP/1.1\r\nhost: localhost\r\n\
             authorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        socket.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        open.push(socket);
    }
    let refused = guarded.get("/agents", "reader").await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    let text = "you have 4 open calls, which is the limit of one principal; end some\n";
    assert_eq!(refused.body, text);
    let page = guarded.get("/self-metrics", "other").await;
    let line = "steadfast_proxy_refused_total{listener=\"http\",reason=\"principal_calls\"} 1";
    assert!(page.has_line(line), "{}", page.body);
    // What a reader has left does not count any more.
    drop(open);
    let again = async {
        while guarded.get("/agents", "reader").await.status != 200 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TIMEOUT, again).await.unwrap();
}
