//! Attacks on an HTTP/2 listener, frame by frame, while another client is served.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use std::{
    convert::Infallible,
    future::Future,
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::service::service_fn;
use steadfast_net::{Listener, ListenerOptions, RequestBody, Tasks, http2};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// POST / of http.
const BLOCK: &[u8] = &[0x83, 0x84, 0x86];

const MAX_CALLS: u32 = 1_000;
/// Longer than any attack takes, except for those that only a deadline ends.
const DEADLINE: Duration = Duration::from_secs(3);
/// The memory that an attack may cost. The attacker's own buffers are part of it.
const MEMORY: usize = 20 << 20;
/// Frames of an attack that is not cut.
const FRAMES: u32 = 400_000;

struct Attack {
    name: &'static str,
    /// The frames before the repeated ones.
    begin: Vec<u8>,
    /// The frame with this number.
    frame: fn(u32) -> Vec<u8>,
    /// The attacker reads what it is sent.
    reads: bool,
    /// Something ends it.
    ends: bool,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()];
    [&head.concat(), payload].concat()
}

fn call(number: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags, 2 * number + 1, BLOCK)
}

/// Starts a server that sends a byte every few milliseconds to whom a call is open.
async fn serve(tasks: &Tasks) -> SocketAddr {
    let options = ListenerOptions {
        first_request_timeout: DEADLINE,
        // A relay in front of many clients would be one client. What is tested here is without it.
        request_rate: None,
        write_timeout: Some(DEADLINE),
        ..ListenerOptions::default()
    };
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = Listener::new(tcp, options, tasks).unwrap();
    let (address, scope) = (listener.address(), tasks.clone());
    let options = http2::Options {
        stream_window: 64 << 10,
        short_frames: true,
        connection_window: 8 << 20,
        max_calls: MAX_CALLS,
        idle_timeout: Duration::from_secs(60),
        ping: None,
    };
    tasks.spawn(listener.serve(move |socket| {
        let service = service_fn(|request: Request<RequestBody>| async {
            let mut body = request.into_body();
            let ticks = stream::unfold((), move |()| {
                // What is not read would fill a window, and would be another attack.
                let reading = async { while let Some(Ok(_)) = body.frame().await {} };
                reading.now_or_never();
                async move {
                    sleep(Duration::from_millis(5)).await;
                    let tick = Frame::data(Bytes::from_static(b"."));
                    Some((Ok::<_, Infallible>(tick), ()))
                }
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(Box::pin(ticks))))
        });
        http2::serve(socket, service, &options, &scope)
    }));
    address
}

/// Reads the stream of another client, and keeps the longest wait for a byte in milliseconds.
async fn victim(server: SocketAddr, longest: Arc<AtomicUsize>) {
    let socket = TcpStream::connect(server).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::post("http://server/").body(()).unwrap();
    let (response, _open) = client.send_request(request, false).unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut last = Instant::now();
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
        longest.fetch_max(last.elapsed().as_millis() as usize, Relaxed);
        last = Instant::now();
    }
    panic!("the stream of another client ended");
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() << 10
}

/// Attacks, and returns true if the server has ended the connection.
async fn attack(server: SocketAddr, attack: &Attack) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    // Small, so that the server's writes soon wait for an attacker that does not read.
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let socket = socket.connect(server).await.unwrap();
    let (mut reads, mut writes) = socket.into_split();
    let reading = attack.reads;
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if !reading {
                // Holds its half open and reads nothing.
                std::future::pending::<()>().await;
            }
            match reads.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    });
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &attack.begin].concat();
    writes.write_all(&begin).await.unwrap();
    let mut number = 0;
    let writing = async {
        while number < FRAMES {
            let frames: Vec<u8> = (number..number + 100).flat_map(attack.frame).collect();
            writes.write_all(&frames).await?;
            number += 100;
        }
        // Nothing more: now only a deadline can end it.
        loop {
            sleep(Duration::from_millis(100)).await;
            writes.write_all(&frame(PING, 0, 0, &[0; 8])).await?;
        }
    };
    let limit = if attack.ends { 10 } else { 2 } * DEADLINE;
    let written: Result<std::io::Result<Infallible>, _> = timeout(limit, writing).await;
    reader.abort();
    match written {
        Err(_elapsed) => false,
        Ok(ended) => {
            let kind = ended.unwrap_err().kind();
            let gone = matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
            assert!(gone, "{}: {kind}", attack.name);
            true
        }
    }
}

fn attacks() -> Vec<Attack> {
    let open = call(0, END_HEADERS);
    let attack = |name, begin: &[u8], frame, reads| Attack {
        name,
        begin: begin.to_vec(),
        frame,
        reads,
        ends: true,
    };
    let ping = |_| frame(PING, 0, 0, &[7; 8]);
    let settings = |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let reset = |number| {
        let stream = 2 * number + 1;
        [
            call(number, END_HEADERS),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat()
    };
    let continuation = |_| frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']);
    let empty_data = |_| frame(DATA, 0, 1, &[]);
    let zero_window = |_| frame(WINDOW_UPDATE, 0, 0, &[0; 4]);
    let more_calls = |number| call(number, END_HEADERS | END_STREAM);
    // No window for responses: INITIAL_WINDOW_SIZE is 0.
    let mut no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    no_window.extend((0..MAX_CALLS - 100).flat_map(more_calls));
    vec![
        attack("rapid reset", &[], reset, true),
        attack("rapid reset, unread", &[], reset, false),
        attack("CONTINUATION", &call(0, 0), continuation, true),
        attack("PING", &[], ping, true),
        attack("PING, unread, with a call", &open, ping, false),
        attack("SETTINGS", &[], settings, true),
        attack("SETTINGS, unread, with a call", &open, settings, false),
        attack("empty DATA", &open, empty_data, true),
        attack("WINDOW_UPDATE of zero", &open, zero_window, true),
        attack("more calls than allowed", &[], more_calls, true),
        // As many as it may have: that nothing of a response is wanted yet is no fault here.
        Attack {
            ends: false,
            ..attack("calls without windows", &no_window, |_| Vec::new(), true)
        },
    ]
}

/// Runs `during` and returns the longest wait of another client meanwhile, and the memory it cost.
async fn measured<T>(server: SocketAddr, during: impl Future<Output = T>) -> (T, usize, usize) {
    let longest = Arc::new(AtomicUsize::new(0));
    let other = tokio::spawn(victim(server, Arc::clone(&longest)));
    // It is served before the attack begins.
    while longest.load(Relaxed) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    longest.store(0, Relaxed);
    let before = resident();
    let peak = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&peak);
    let watching = tokio::spawn(async move {
        loop {
            seen.fetch_max(resident(), Relaxed);
            sleep(Duration::from_millis(10)).await;
        }
    });
    let value = during.await;
    watching.abort();
    assert!(!other.is_finished(), "the other client is no longer served");
    other.abort();
    let grown = peak.load(Relaxed).saturating_sub(before);
    (value, longest.load(Relaxed), grown)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attacker_is_cut_while_another_client_is_served() {
    let tasks = Tasks::new();
    let server = serve(&tasks).await;
    let mut failures = Vec::new();
    for row in attacks() {
        let (cut, waited, grown) = measured(server, attack(server, &row)).await;
        // Generous, because the attack and the server share the processors of a busy machine.
        if cut != row.ends || waited > 2_000 || grown > MEMORY {
            failures.push((row.name, cut, waited, grown));
        }
    }
    tasks.cut();
    assert!(failures.is_empty(), "{failures:?}");
}
