//! SIGTERM while the peer reads nothing and all buffers are full: the socket, and the windows of HTTP/2.

use std::{net::SocketAddr, time::Duration};

use steadfast_chaos::{Fault, Reach};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::Instant,
};

use crate::{
    fodc::{Exporter, PROXY, Ready, agent, fetch, replay, start, until},
    frames::{
        DATA, HEADERS, PREFACE, accepted, call, flood, full, greeting, message, next, unimplemented,
    },
    process::{LIMIT, words},
};

/// The longest orderly stop, whatever the peers do.
const STOP: Duration = Duration::from_secs(5);

/// Heartbeats each second, so that there is always more to write.
const REGISTERED: &[u8] = b"\x08\x01\x18\x01\x22\x01a";
/// Everything since the beginning of 2026.
const EVERYTHING: &[u8] = b"\x0a\x06\x08\x80\xf2\xd6\xca\x06";
/// An agent with a role and a pod.
const WHO: &[u8] = b"\x0a\x09ROLE_DATA\x22\x02p0";

const REGISTRATION: u32 = 1;
const METRICS: u32 = 3;
/// The window of a stream unless the peer says otherwise.
const USUAL_WINDOW: u32 = 65_535;
const NO_WINDOW: u32 = (1 << 31) - 1;

/// A page of a megabyte.
fn large() -> String {
    let text = "x".repeat(2_000);
    let lines = (0..500).map(|number| format!("long{{id=\"{number}\",text=\"{text}\"}} 1\n"));
    lines.collect::<Vec<_>>().concat()
}

/// A listener with small receive buffers.
fn narrow() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(8).unwrap()
}

/// A plain proxy that registers the agent, queries it for everything again and again, and stops reading
/// at byte `until` of the response.
async fn deaf_proxy(listener: &TcpListener, window: u32, until: usize) -> TcpStream {
    // The agent may give up an attempt on a busy machine, but not every one.
    for _ in 0..20 {
        let (mut socket, _) = tokio::time::timeout(LIMIT, listener.accept())
            .await
            .expect("a connection in time")
            .unwrap();
        if deaf_to(&mut socket, window, until).await.is_some() {
            return socket;
        }
    }
    panic!("the agent never sends so much of a response");
}

async fn deaf_to(socket: &mut TcpStream, window: u32, until: usize) -> Option<()> {
    socket.write_all(&greeting(window)).await.ok()?;
    let mut preface = [0; PREFACE.len()];
    socket.read_exact(&mut preface).await.ok()?;
    assert_eq!(preface, PREFACE);
    let (mut registered, mut answer) = (false, 0);
    while answer < until {
        let frame = next(socket).await?;
        let said = match (frame.kind, frame.stream) {
            (DATA, REGISTRATION) if !registered => {
                registered = true;
                [accepted(REGISTRATION), message(REGISTRATION, REGISTERED)].concat()
            }
            (HEADERS, METRICS) => {
                let questions = message(METRICS, EVERYTHING).repeat(16);
                [accepted(METRICS), questions].concat()
            }
            (DATA, METRICS) => {
                answer += frame.payload.len();
                continue;
            }
            (HEADERS, other) if other > METRICS => unimplemented(other),
            _ => continue,
        };
        socket.write_all(&said).await.ok()?;
    }
    Some(())
}

/// Sends SIGTERM and returns the time until the end, which must be in order.
async fn leaves(ready: &mut Ready) -> Duration {
    let began = Instant::now();
    ready.signal("TERM");
    let status = tokio::time::timeout(LIMIT, ready.child.wait()).await;
    assert_eq!(status.expect("an end in time").unwrap().code(), Some(0));
    began.elapsed()
}

fn number(page: &str) -> Option<u64> {
    let line = page.lines().find(|line| line.starts_with("reads_total{"))?;
    line.split(' ').nth(1)?.parse().ok()
}

/// The flags of an agent of that proxy. A busy machine needs the long timeout to record every page. Without
/// profiles the metrics stream is the only one beside the registration.
fn flags(proxy: &str) -> String {
    format!(
        "--proxy-addr {proxy} --node-role ROLE_DATA --pod-name db-0 --scrape-timeout 10s \
         --pressure-profiler-enabled=false"
    )
}

/// Ends an agent with a large record while `stuck` blocks its response.
async fn an_agent_leaves(stuck: impl AsyncFn(TcpListener) -> TcpStream) {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let exporter = Exporter::with(large()).await;
    let listener = narrow();
    let proxy = listener.local_addr().unwrap().to_string();
    let more = flags(&proxy);
    let mut agent = agent(exporter.port, &record, &words(&more)).await;
    until("there is more than an answer", async || {
        (replay(&record).await.len() >= 10).then_some(())
    })
    .await;

    let _proxy = stuck(listener).await;
    let before = replay(&record).await;
    let shown = until("the counter is on the page", async || {
        number(&fetch(agent.addresses[0], "/metrics").await)
    })
    .await;
    let took = leaves(&mut agent).await;
    assert!(took < STOP, "{took:?}");

    let after = replay(&record).await;
    assert!(before.iter().all(|(time, value)| after[time] == *value));
    let values: Vec<_> = after.values().copied().collect();
    assert!(values.is_sorted(), "{values:?}");
    assert!(
        *values.last().unwrap() >= shown,
        "{shown} had been recorded"
    );
}

#[tokio::test]
async fn sigterm_leaves_a_frozen_proxy_with_a_full_socket() {
    an_agent_leaves(async |listener| {
        let proxy = deaf_proxy(&listener, NO_WINDOW, 1).await;
        let agent = proxy.peer_addr().unwrap();
        let held = full(agent, proxy.local_addr().unwrap()).await;
        assert!(held > 4 << 10, "the socket holds {held} bytes");
        proxy
    })
    .await;
}

#[tokio::test]
async fn sigterm_leaves_a_frozen_proxy_with_all_buffers_full() {
    an_agent_leaves(async |listener| {
        // Capacity for the window, and for no byte more.
        let mut proxy = deaf_proxy(&listener, USUAL_WINDOW, USUAL_WINDOW as usize).await;
        flood(&mut proxy).await;
        let agent = proxy.peer_addr().unwrap();
        let held = full(agent, proxy.local_addr().unwrap()).await;
        assert!(held > 0, "the socket holds {held} bytes");
        proxy
    })
    .await;
}

/// A registered agent that reads nothing, and to which the proxy can write nothing more.
async fn deaf_agent(proxy: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut socket = socket.connect(proxy).await.unwrap();
    let began = [
        PREFACE.to_vec(),
        greeting(NO_WINDOW),
        call(REGISTRATION, "RegisterAgent", &[]),
        message(REGISTRATION, WHO),
    ];
    socket.write_all(&began.concat()).await.unwrap();
    let id = loop {
        let frame = next(&mut socket).await.expect("an answer");
        if frame.kind == DATA {
            // The id is the last field with its length.
            let text = String::from_utf8_lossy(&frame.payload).into_owned();
            let at = text.find("\"$").expect("an id of 36 letters");
            break text[at + 2..][..36].to_owned();
        }
    };
    let metrics = call(METRICS, "StreamMetrics", &[("agent_id", &id)]);
    socket.write_all(&metrics).await.unwrap();
    flood(&mut socket).await;
    let held = full(proxy, socket.local_addr().unwrap()).await;
    assert!(held > 0, "the socket holds {held} bytes");
    socket
}

#[tokio::test]
async fn sigterm_ends_a_proxy_with_frozen_agents_and_full_buffers() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let exporter = Exporter::with(large()).await;
    // Frozen agents must still count as agents when the proxy is told to stop.
    let patient = "--agent-heartbeat-timeout 5m --agent-cleanup-timeout 10m";
    let mut proxy = start(&words(&format!("{PROXY} {patient}"))).await;
    let (grpc, http) = (proxy.addresses[0], proxy.addresses[1]);
    let between = steadfast_chaos::Proxy::start(grpc).unwrap();
    let address = between.addr().to_string();
    let more = flags(&address);
    let mut agent = agent(exporter.port, &record, &words(&more)).await;
    until("the proxy has the large page", async || {
        let page = fetch(http, "/metrics?pod_name=db-0").await;
        page.contains("long{").then_some(())
    })
    .await;

    // An agent that is frozen in the middle of a response.
    let before = between.stats().to_server;
    let window = "/metrics-windows?start_time=2020-01-01T00:00:00Z&end_time=2100-01-01T00:00:00Z";
    let mut waiting = TcpStream::connect(http).await.unwrap();
    let request = format!("GET {window}&pod_name=db-0 HTTP/1.0\r\nhost: localhost\r\n\r\n");
    waiting.write_all(request.as_bytes()).await.unwrap();
    until("the answer has begun", async || {
        (between.stats().to_server > before + 1_000).then_some(())
    })
    .await;
    let frozen = between.inject(Fault::Freeze, Reach::Everything);
    agent.signal("STOP");
    // Agents to which nothing can be written.
    let deaf = tokio::join!(deaf_agent(grpc), deaf_agent(grpc), deaf_agent(grpc));

    let took = leaves(&mut proxy).await;
    assert!(took < STOP, "{took:?}");
    drop(deaf);
    // The frozen agent notices after it continues.
    agent.signal("CONT");
    drop(frozen);
    assert!(leaves(&mut agent).await < STOP);
}
