//! Connections that say nothing, on every listener, and a server without descriptors.

use std::{
    fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::{
    fodc::{self, Exporter},
    frames::{self, PREFACE, greeting},
    process::{LIMIT, Server, Subscription, next, publish, run, steadfast, words},
    streamer::send,
    tls::start,
};

/// The deadline for the first request, and what a busy machine adds to it.
const SILENCE: Duration = Duration::from_secs(10);
const BUSY: Duration = Duration::from_secs(5);

/// HEADERS of call 1 that never end: POST, http.
const OPEN_HEADERS: &[u8] = &[0, 0, 2, 1, 0, 0, 0, 0, 1, 0x83, 0x86];

/// Waits until the peer closes a connection on which this was sent, and returns how long it took.
async fn closed(address: SocketAddr, begun: Vec<u8>) -> Duration {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(&begun).await.unwrap();
    let (started, mut received) = (Instant::now(), Vec::new());
    // A reset is an end as well.
    let ended = timeout(LIMIT, socket.read_to_end(&mut received)).await;
    ended.expect("an end in time").ok();
    started.elapsed()
}

#[tokio::test]
async fn silence_on_every_listener_ends_within_ten_seconds() {
    let (data, record) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let flags = words("--listen 127.0.0.1:0 --operations 127.0.0.1:0");
    let mut server = Server::start_with(data.path(), &flags).await;
    let operations = next(&mut server.out).await.unwrap();
    let operations = operations.strip_prefix("operations ").unwrap();
    let proxy = "fodc proxy --grpc-listen-addr 127.0.0.1:0 --http-listen-addr 127.0.0.1:0";
    let proxy = fodc::start(&words(proxy)).await;
    let exporter = Exporter::with(String::new()).await;
    let agent = fodc::agent(exporter.port, record.path(), &[]).await;
    let (certificates, secure_data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let out = certificates.path().to_str().unwrap();
    run(&words(&format!("cert dev --out {out}")), None).await;
    let tls = format!("--tls-cert {out}/server.pem --tls-key {out}/server.key");
    let flags = format!("--listen 127.0.0.1:0 --operations 127.0.0.1:0 {tls}");
    let mut secure = Server::start_with(secure_data.path(), &words(&flags)).await;
    let secure_operations = next(&mut secure.out).await.unwrap();
    let secure_operations = secure_operations.strip_prefix("operations ").unwrap();
    // Nothing, and the head of a hello that never ends.
    let hello = [Vec::new(), vec![22, 3, 1, 1, 0, 1]];
    let http2 = [
        Vec::new(),
        PREFACE[..12].to_vec(),
        [PREFACE, &greeting(1 << 20)].concat(),
        [PREFACE, &greeting(1 << 20), OPEN_HEADERS].concat(),
    ];
    let http1 = [Vec::new(), b"GET / HTTP/1.1\r\nHost: a".to_vec()];
    let mut silent = Vec::new();
    for (address, all) in [
        (server.addr, &http2[..]),
        (proxy.addresses[0], &http2),
        (proxy.addresses[1], &http1),
        (operations.parse().unwrap(), &http1),
        (agent.addresses[0], &http1),
        (secure.addr, &hello),
        (secure_operations.parse().unwrap(), &hello),
    ] {
        for begun in all {
            let closing = tokio::spawn(closed(address, begun.clone()));
            silent.push((address, begun.clone(), closing));
        }
    }
    for (address, begun, closing) in silent {
        let took = closing.await.unwrap();
        assert!(took <= SILENCE + BUSY, "{address}, {begun:?}: {took:?}");
    }
}

/// Asserts that only the owner may use what is in a directory, and the directory.
fn assert_private(directory: &Path) {
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        if metadata.is_dir() {
            assert_private(&path);
        }
        let mode = metadata.permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        files += 1;
    }
    assert!(files > 0, "{} is empty", directory.display());
}

#[tokio::test]
async fn files_of_servers_are_for_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let (data, record) = (
        directory.path().join("data"),
        directory.path().join("record"),
    );
    let server = Server::start(&data, "127.0.0.1:0").await;
    publish(
        &format!("-d db -c c --addr {}", server.addr),
        "{\"id\":\"a\"}\n",
    )
    .await;
    let exporter = Exporter::with(String::new()).await;
    let agent = fodc::agent(exporter.port, &record, &[]).await;
    while !fodc::fetch(agent.addresses[0], "/metrics")
        .await
        .contains("reads_total")
    {
        sleep(Duration::from_millis(100)).await;
    }
    assert_private(directory.path());
    drop((server, agent));
}

/// Returns the processor time of a process, in hundredths of a second.
fn processor_time(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // The name of the program, in parentheses, may contain blanks.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    [fields[11], fields[12]]
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .iter()
        .sum()
}

/// Starts a server that may open 64 files and logs to a file.
async fn server_with_few_descriptors(data: &Path, log: &Path) -> Server {
    let binary = steadfast(&[]).as_std().get_program().to_owned();
    let mut command = tokio::process::Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -n 64; exec \"$0\" \"$@\" 2>\"$LOG\"")
        .arg(binary)
        .args(words(
            "streamer serve --listen 127.0.0.1:0 --operations 127.0.0.1:0",
        ))
        .arg("--data")
        .arg(data)
        .env("LOG", log)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    Server::spawn(command).await
}

#[tokio::test]
async fn server_without_descriptors_serves_whom_it_has_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("stderr");
    let mut server = server_with_few_descriptors(&directory.path().join("data"), &log).await;
    let operations = next(&mut server.out).await.unwrap();
    let operations = operations.strip_prefix("operations ").unwrap();
    let operations = operations.parse().unwrap();
    let peer = format!("--addr {} -d db -c c", server.addr);
    let mut subscription = Subscription::start(&words(&format!("streamer subscribe {peer}"))).await;
    let mut publisher = steadfast(&words(&format!("streamer publish {peer}")))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = publisher.stdin.take().unwrap();
    lines.write_all(b"{\"id\":\"before\"}\n").await.unwrap();
    let line = next(&mut subscription.out).await.unwrap();
    assert!(line.contains("before"), "{line}");

    let mut held = Vec::new();
    for number in 0..200 {
        // Several clients, each of which has fewer than one may have.
        let client = TcpSocket::new_v4().unwrap();
        let address = [127, 0, 0, 2 + number % 4];
        client.bind((address, 0).into()).unwrap();
        held.push(client.connect(server.addr).await.unwrap());
    }
    let id = server.child.id().unwrap();
    let (before, measured) = (processor_time(id), Instant::now());
    sleep(Duration::from_secs(2)).await;
    let percent = (processor_time(id) - before) as f64 / measured.elapsed().as_secs_f64();
    assert!(percent < 20.0, "{percent} % of a processor");
    lines.write_all(b"{\"id\":\"meanwhile\"}\n").await.unwrap();
    let line = next(&mut subscription.out).await.unwrap();
    assert!(line.contains("meanwhile"), "{line}");
    assert_eq!(fodc::fetch(operations, "/livez").await, "alive\n");
    let page = fodc::fetch(operations, "/metrics").await;
    let name = "steadfast_streamer_refused_total{reason=\"descriptors\"} ";
    let refused = page.lines().find_map(|line| line.strip_prefix(name));
    assert!(refused.unwrap().parse::<u64>().unwrap() > 100, "{page}");

    drop(held);
    let recovered = Instant::now();
    let mut received = [0; 9];
    loop {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        let greeted = socket
            .write_all(&[PREFACE, &greeting(1 << 20)].concat())
            .await;
        if greeted.is_ok() && socket.read_exact(&mut received).await.is_ok() {
            break;
        }
        assert!(
            recovered.elapsed() < Duration::from_secs(1),
            "it refuses still"
        );
        sleep(Duration::from_millis(20)).await;
    }
    let told = fs::read_to_string(&log).unwrap();
    let refusals = told.lines().filter(|line| line.contains("descriptors"));
    let refusals: Vec<&str> = refusals.collect();
    assert_eq!(refusals.len(), 1, "one line a minute: {refusals:?}");
}

#[tokio::test]
async fn frames_that_break_rules_do_not_fill_the_log() {
    const PING: u8 = 6;
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display();
    let line = format!("streamer serve --data {data} --listen 127.0.0.1:0 --gateway off");
    let (server, ready) = start(&line).await;
    let mut socket = TcpStream::connect(&ready[1]).await.unwrap();
    let ping = |flags| [&[0, 0, 8, PING, flags, 0, 0, 0, 0], &b"no ping!"[..]].concat();
    // Acknowledgements of pings that were never sent. The response to the ping after them says that all were read.
    let sent = [PREFACE, &greeting(0), &ping(1).repeat(2_000), &ping(0)].concat();
    socket.write_all(&sent).await.unwrap();
    while frames::next(&mut socket).await.unwrap().kind != PING {}
    send("TERM", &server);
    let ended = timeout(LIMIT, server.wait_with_output());
    let lines = String::from_utf8(ended.await.unwrap().unwrap().stderr).unwrap();
    assert!(lines.lines().count() < 10, "{lines}");
}

#[tokio::test]
async fn hangup_ends_no_server() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display();
    for line in [
        &*format!("streamer serve --data {data} --listen 127.0.0.1:0"),
        "gateway --streamer 127.0.0.1:1 --listen 127.0.0.1:0",
        "fodc proxy --grpc-listen-addr 127.0.0.1:0 --http-listen-addr 127.0.0.1:0",
        "fodc agent --in-memory --poll-metrics-ports 9 --prometheus-listen-addr 127.0.0.1:0",
    ] {
        let (mut server, _) = start(line).await;
        // Those who know it from other servers send it to have files read again.
        send("HUP", &server);
        send("TERM", &server);
        let status = timeout(LIMIT, server.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0), "{line}");
    }
}
