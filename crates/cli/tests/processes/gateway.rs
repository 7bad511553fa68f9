//! The gateway as its users meet it: with a server in one process, and in front of one.

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use crate::{
    process::{LIMIT, Server, next, publish, run, steadfast, words},
    streamer::send,
};

/// Returns the head and the body of a response, up to `end`.
async fn get(address: &str, path: &str, end: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut tcp = BufReader::new(tcp);
    let mut read = String::new();
    let reading = async {
        while !read.ends_with(end) {
            let byte = tcp.read_u8().await.unwrap();
            read.push(char::from(byte));
        }
    };
    timeout(LIMIT, reading).await.expect("a response in time");
    read
}

/// Returns the address in the line `open URL`.
async fn opened(server: &mut Server) -> String {
    loop {
        let line = next(&mut server.out).await.expect("the URL to open");
        if let Some(url) = line.strip_prefix("open http://") {
            return url.trim_end_matches('/').to_owned();
        }
    }
}

/// Checks that what is published at the server arrives at the gateway.
async fn check(server: &Server, gateway: &str) {
    let page = get(gateway, "/", "</html>").await;
    assert!(
        page.contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    let events = async {
        let path = "/realtime/sse?database=db&collection=orders";
        get(gateway, path, "\"orders/1\"").await
    };
    let publishing = async {
        // Again and again, until the stream is open.
        loop {
            publish(
                &format!("-d db -c orders --addr {}", server.addr),
                "{\"id\":\"1\"}\n",
            )
            .await;
        }
    };
    tokio::select! {
        read = events => assert!(read.contains(": connected\n\n"), "{read}"),
        () = publishing => {}
    }
}

#[tokio::test]
async fn server_without_settings_prints_a_url_that_serves_browsers() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let gateway = opened(&mut server).await;
    check(&server, &gateway).await;
}

#[tokio::test]
async fn gateway_in_front_of_a_server_outlives_its_restart() {
    let data = tempfile::tempdir().unwrap();
    let server =
        Server::start_with(data.path(), &words("--listen 127.0.0.1:0 --gateway off")).await;
    let line = format!(
        "gateway --streamer {} --listen 127.0.0.1:0 --operations 127.0.0.1:0",
        server.addr
    );
    let command: Command = steadfast(&words(&line));
    let mut gateway = Server::spawn(command).await;
    let address = opened(&mut gateway).await;
    check(&server, &address).await;
    let operations = next(&mut gateway.out).await.unwrap();
    let operations = operations.strip_prefix("operations ").unwrap().to_owned();
    let metrics = get(
        &operations,
        "/metrics",
        "steadfast_gateway_published_total 0",
    )
    .await;
    assert!(
        metrics.contains("steadfast_gateway_sockets_opened_total 1\n"),
        "{metrics}"
    );
    let (addr, mut child) = (server.addr, server.child);
    child.kill().await.unwrap();
    let server = Server::start_with(
        data.path(),
        &["--listen", &addr.to_string(), "--gateway", "off"],
    )
    .await;
    check(&server, &address).await;
    // An orderly end.
    send("TERM", &gateway.child);
    let status = timeout(LIMIT, gateway.child.wait()).await.unwrap().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn changes_before_and_after_kills_arrive_once_and_in_order() {
    let data = tempfile::tempdir().unwrap();
    let mut server =
        Server::start_with(data.path(), &words("--listen 127.0.0.1:0 --gateway off")).await;
    let addr = server.addr;
    let line = format!("gateway --streamer {addr} --listen 127.0.0.1:0");
    let mut gateway = Server::spawn(steadfast(&words(&line))).await;
    let address = opened(&mut gateway).await;
    let mut tcp = TcpStream::connect(&address).await.unwrap();
    let path = "/realtime/sse?database=db&collection=orders";
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut events = BufReader::new(tcp).lines();
    while next(&mut events).await.unwrap() != ": connected" {}
    for round in 0..3 {
        let lines = (0..20).fold(String::new(), |lines, n| {
            lines + &format!("{{\"id\":\"{}\"}}\n", 20 * round + n)
        });
        publish(&format!("-d db -c orders --addr {addr}"), &lines).await;
        // With SIGKILL, also before the events are sent.
        server.child.kill().await.unwrap();
        let listen = addr.to_string();
        server = Server::start_with(data.path(), &["--listen", &listen, "--gateway", "off"]).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 60 {
        let line = next(&mut events).await.unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            let message: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(message["type"], "event", "{message}");
            seen.push(message["payload"]["delta"]["id"].clone());
        }
    }
    let expected: Vec<_> = (0..60).map(|n| format!("orders/{n}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn plaintext_gateway_beyond_loopback_is_refused() {
    let ended = run(
        &words("gateway --listen 0.0.0.0:0 --max-socket-subscriptions 0"),
        None,
    )
    .await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("--listen: other machines can connect"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("--max-socket-subscriptions: it is 0"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn top_reads_a_gateway_and_its_server() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let gateway = opened(&mut server).await;
    publish(
        &format!("-d db -c c --addr {}", server.addr),
        "{\"id\":\"a\"}\n",
    )
    .await;
    let report = run(&words(&format!("top --gateway {gateway}")), None).await;
    assert_eq!(report.code, Some(0), "{report:?}");
    for expected in [
        "events after 0 up to 1",
        "gateway   ready",
        "0 sockets with 0 subscriptions",
        "newest sockets\nnone",
    ] {
        assert!(report.stdout.contains(expected), "{expected}: {report:?}");
    }
}

#[tokio::test]
async fn top_prints_what_a_gateway_has_without_its_server() {
    let line = "gateway --streamer 127.0.0.1:9 --listen 127.0.0.1:0";
    let mut gateway = Server::spawn(steadfast(&words(line))).await;
    let address = opened(&mut gateway).await;
    let report = run(&words(&format!("top --gateway {address}")), None).await;
    assert_eq!(report.code, Some(1), "{report:?}");
    for expected in [
        "server    no figures of it yet",
        "0 sockets with 0 subscriptions; 0/s items",
        "problem   ",
        "newest sockets\nnone",
    ] {
        assert!(report.stdout.contains(expected), "{expected}: {report:?}");
    }
}
