//! HTTP/2 peers written frame by frame: they grant any window, stop reading at any time, or write until
//! the peer stops reading.

use std::{net::SocketAddr, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::process::LIMIT;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The setting of the window that streams begin with.
const INITIAL_WINDOW: [u8; 2] = [0, 4];
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A complete frame.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()];
    [&head.concat(), payload].concat()
}

/// One gRPC message, which fits into a frame.
pub(crate) fn message(stream: u32, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    frame(
        DATA,
        0,
        stream,
        &[&[0], length.as_slice(), message].concat(),
    )
}

/// Returns settings with the streams' initial window, and a large window for the connection.
pub(crate) fn greeting(window: u32) -> Vec<u8> {
    let setting = [INITIAL_WINDOW.as_slice(), &window.to_be_bytes()].concat();
    let room = (1_u32 << 30).to_be_bytes();
    let frames = [
        frame(SETTINGS, 0, 0, &setting),
        frame(WINDOW_UPDATE, 0, 0, &room),
    ];
    frames.concat()
}

/// Returns a header field that uses no table.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// Returns the frame that opens a call.
pub(crate) fn call(stream: u32, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    // POST and http are in every table.
    let mut block = vec![0x83, 0x86];
    let path = format!("/banyandb.fodc.v1.FODCService/{method}");
    let usual = [
        (":path", path.as_str()),
        (":authority", "proxy"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in usual.iter().chain(more) {
        block.extend(literal(name, value));
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Returns the frame that opens a response.
pub(crate) fn accepted(stream: u32) -> Vec<u8> {
    // 0x88 is status 200.
    let block = [vec![0x88], literal("content-type", "application/grpc")];
    frame(HEADERS, END_HEADERS, stream, &block.concat())
}

/// Returns a response that is only a status.
pub(crate) fn unimplemented(stream: u32) -> Vec<u8> {
    let block = [
        vec![0x88],
        literal("content-type", "application/grpc"),
        literal("grpc-status", "12"),
    ];
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block.concat())
}

/// The next frame, unless the connection has ended; settings are acknowledged.
pub(crate) async fn next(socket: &mut TcpStream) -> Option<Frame> {
    loop {
        let mut head = [0; 9];
        timeout(LIMIT, socket.read_exact(&mut head))
            .await
            .expect("a frame in time")
            .ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await.ok()?;
        let came = Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        };
        if came.kind == SETTINGS {
            if came.flags & ACK == 0 {
                let taken = frame(SETTINGS, ACK, 0, &[]);
                socket.write_all(&taken).await.ok()?;
            }
            continue;
        }
        return Some(came);
    }
}

/// Sends pings and reads no acknowledgement until the peer stops reading, because its writes block.
pub(crate) async fn flood(socket: &mut TcpStream) {
    let pings = frame(PING, 0, 0, b"are you?").repeat(64);
    let end = Instant::now() + LIMIT;
    while timeout(Duration::from_secs(2), socket.write_all(&pings))
        .await
        .is_ok_and(|written| {
            written.expect("a slow peer stays connected");
            true
        })
    {
        assert!(
            Instant::now() < end,
            "the peer reads on although its responses are not read"
        );
    }
}

/// Returns the bytes in the send queue of the socket from `local` to `remote`.
fn held(local: SocketAddr, remote: SocketAddr) -> u64 {
    let port = |addr: SocketAddr| format!(":{:04X}", addr.port());
    let (from, to) = (port(local), port(remote));
    let look = || {
        let table = std::fs::read_to_string(Path::new("/proc/net/tcp")).unwrap();
        table.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let ours = words.next()?.ends_with(&from) && words.next()?.ends_with(&to);
            let queues = words.nth(1)?;
            let (sent, _) = queues.split_once(':')?;
            ours.then(|| u64::from_str_radix(sent, 16).unwrap())
        })
    };
    // The system may omit a socket while others come and go, but hardly five times in a row.
    let of = (0..5).find_map(|_| look());
    of.expect("a connection of this machine")
}

/// Waits until the send queue of that socket no longer changes, and returns its bytes.
pub(crate) async fn full(local: SocketAddr, remote: SocketAddr) -> u64 {
    let end = Instant::now() + LIMIT;
    let (mut before, mut since) = (0, Instant::now());
    // Longer than a heartbeat interval, because a heartbeat adds bytes.
    while since.elapsed() < Duration::from_millis(2_500) {
        let now = held(local, remote);
        if now == 0 || now != before {
            (before, since) = (now, Instant::now());
        }
        assert!(Instant::now() < end, "it never fills");
        sleep(Duration::from_millis(20)).await;
    }
    before
}
