//! Messages that are begun and never finished.

use std::{fs, future::poll_fn, time::Duration};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::process::{LIMIT, Server, publish};

const CALLS: usize = 250;
const MESSAGE: usize = 4 << 20;
/// The limit of one connection on unfinished messages, and its windows, with what an allocator keeps. All of
/// the messages would be 1,000 MiB.
const MEMORY: usize = 128 << 20;

/// Returns the most memory that a process has had.
fn peak(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() << 10
}

/// Begins a message and sends all of it but the last byte, unless the server ends the call or takes nothing.
/// Returns the number of bytes and the call, which stays open.
async fn begin(
    calls: SendRequest<Bytes>,
    uri: String,
) -> (usize, (ResponseFuture, h2::SendStream<Bytes>)) {
    let request = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let mut calls = calls.ready().await.unwrap();
    let opened = calls.send_request(request.body(()).unwrap(), false);
    let (response, mut body) = opened.unwrap();
    let head = [&[0][..], &(MESSAGE as u32).to_be_bytes()].concat();
    body.send_data(head.into(), false).unwrap();
    let (chunk, mut sent) = (Bytes::from(vec![0; 16 << 10]), 0);
    while sent < MESSAGE - 1 {
        body.reserve_capacity(chunk.len().min(MESSAGE - 1 - sent));
        let capacity = timeout(Duration::from_secs(5), poll_fn(|cx| body.poll_capacity(cx)));
        let Ok(Some(Ok(capacity))) = capacity.await else {
            break;
        };
        let length = capacity.min(chunk.len()).min(MESSAGE - 1 - sent);
        if body.send_data(chunk.slice(..length), false).is_err() {
            break;
        }
        sent += length;
    }
    (sent, (response, body))
}

#[tokio::test]
async fn unfinished_messages_of_one_connection_cost_little_memory() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "127.0.0.1:0").await;
    let pid = server.child.id().unwrap();
    let before = peak(pid);
    let tcp = TcpStream::connect(server.addr).await.unwrap();
    let (calls, connection) = h2::client::handshake(tcp).await.unwrap();
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let uri = format!(
        "http://{}/syntrix.streamer.v1.StreamerService/Stream",
        server.addr
    );
    let begun: Vec<_> = (0..CALLS)
        .map(|_| tokio::spawn(begin(calls.clone(), uri.clone())))
        .collect();
    let (mut total, mut open) = (0, Vec::new());
    for call in begun {
        let (sent, call) = timeout(LIMIT, call).await.unwrap().unwrap();
        total += sent;
        open.push(call);
    }
    let cost = peak(pid) - before;
    // More than a connection may hold, so that some were ended.
    assert!(total > 64 << 20, "only {total} bytes were taken");
    assert!(cost < MEMORY, "{cost} bytes for {total}");
    // The server still takes messages of others.
    let flags = format!("-d db -c c --addr {}", server.addr);
    publish(&flags, "{\"id\":\"a\"}\n").await;
}
