//! Limits of a listener, over real sockets: frames by hand, and the client of h2.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use steadfast_net::{
    Listener, ListenerOptions, OpenConnections, Refusal, RequestBody, RequestRate, Tasks,
    UnfinishedLimits, http1, http2,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};

/// The time limit of a single wait. It only ends tests that would hang.
const SOON: Duration = Duration::from_secs(30);

/// The deadline for the first request in these tests.
const FIRST: Duration = Duration::from_millis(500);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The path with a response of one large chunk.
const LARGE: &str = "/large";
const LARGE_BYTES: usize = 8 << 20;
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

struct Server {
    address: SocketAddr,
    connections: OpenConnections,
    tasks: Tasks,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    Http1,
    Http2,
}

/// Starts a server that reads each request to its end and answers with its length, or with a large chunk.
async fn serve(version: Version, options: ListenerOptions, idle_timeout: Duration) -> Server {
    let tasks = Tasks::new();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = Listener::new(tcp, options, &tasks).unwrap();
    let (address, connections) = (listener.address(), listener.connections());
    let scope = tasks.clone();
    let http2 = http2::Options {
        stream_window: 64 << 10,
        short_frames: false,
        connection_window: 8 << 20,
        max_calls: 1_000,
        idle_timeout,
        ping: None,
    };
    tasks.spawn(listener.serve(move |socket| {
        let service = service_fn(|request: Request<RequestBody>| async {
            if request.uri().path() == LARGE {
                let body = Bytes::from(vec![0; LARGE_BYTES]);
                return Ok(Response::new(Full::new(body)));
            }
            let read = request.into_body().collect().await;
            let text = read.map_or_else(
                |error| error.to_string(),
                |read| read.to_bytes().len().to_string(),
            );
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        });
        let (scope, http2) = (scope.clone(), http2.clone());
        async move {
            match version {
                Version::Http1 => http1::serve(socket, service, SOON, &scope).await,
                Version::Http2 => http2::serve(socket, service, &http2, &scope).await,
            }
        }
    }));
    Server {
        address,
        connections,
        tasks,
    }
}

fn options() -> ListenerOptions {
    ListenerOptions {
        first_request_timeout: FIRST,
        ..ListenerOptions::default()
    }
}

/// Connects and sends.
async fn connect(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    socket
}

/// Waits until the peer closes the connection, and returns how long it took.
async fn closed(mut socket: TcpStream) -> Duration {
    let (started, mut received) = (Instant::now(), Vec::new());
    // A reset is an end as well.
    let ended = timeout(SOON, socket.read_to_end(&mut received)).await;
    ended.expect("an end in time").ok();
    started.elapsed()
}

/// Waits until so many connections are open.
async fn open(server: &Server, count: usize) {
    let deadline = Instant::now() + SOON;
    while server.connections.count() != count {
        assert!(Instant::now() < deadline, "never {count} connections");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn client(server: &Server) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

fn request(kind: &str) -> Request<()> {
    let request = Request::post("http://server/path").header("content-type", kind);
    request.body(()).unwrap()
}

#[tokio::test]
async fn connection_without_a_request_is_closed_in_time() {
    // HEADERS of call 1 without the flag that ends them: POST, http.
    let open_headers = [SETTINGS, &[0, 0, 2, 1, 0, 0, 0, 0, 1, 0x83, 0x86]].concat();
    for (version, begun) in [
        (Version::Http1, Vec::new()),
        (Version::Http1, b"GET / HTTP/1.1\r\nHost: a".to_vec()),
        (Version::Http2, Vec::new()),
        (Version::Http2, PREFACE[..12].to_vec()),
        (Version::Http2, PREFACE.to_vec()),
        (Version::Http2, [PREFACE, SETTINGS].concat()),
        (Version::Http2, [PREFACE, &open_headers].concat()),
    ] {
        let server = serve(version, options(), SOON).await;
        let silent = connect(&server, &begun).await;
        let took = closed(silent).await;
        assert!(took >= FIRST * 9 / 10, "{begun:?}: {took:?}");
        let refused = server.connections.refusals().of(Refusal::Silent);
        assert_eq!(refused, 1, "{version:?} {begun:?}");
        open(&server, 0).await;
    }
}

#[tokio::test]
async fn header_a_byte_at_a_time_gives_no_more_time() {
    for (version, begun) in [
        (Version::Http1, b"GET / HTTP/1.1\r\n".to_vec()),
        (Version::Http2, [PREFACE, SETTINGS].concat()),
    ] {
        let server = serve(version, options(), SOON).await;
        let mut socket = connect(&server, &begun).await;
        let started = Instant::now();
        // A header, or a ping: each is complete and none is a request.
        let more: &[u8] = match version {
            Version::Http1 => b"a: b\r\n",
            Version::Http2 => &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        };
        // Writing fails once the peer has closed.
        while socket.write_all(more).await.is_ok() {
            assert!(started.elapsed() < SOON, "{version:?}");
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(server.connections.refusals().of(Refusal::Silent), 1);
    }
}

#[tokio::test]
async fn connection_with_a_call_stays_and_an_idle_one_gets_goaway() {
    let server = serve(Version::Http2, options(), 4 * FIRST).await;
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let mut connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let kind = "application/grpc";
    let (response, mut body) = client.send_request(request(kind), false).unwrap();
    // Longer than both deadlines, with the call open.
    let open = timeout(10 * FIRST, &mut connection).await;
    assert!(open.is_err(), "{open:?}");
    body.send_data(Bytes::new(), true).unwrap();
    let mut answer = response.await.unwrap().into_body();
    assert_eq!(answer.data().await.unwrap().unwrap(), "0");
    // A GOAWAY without an error ends the client's connection without one.
    timeout(SOON, connection).await.unwrap().unwrap().unwrap();
    assert_eq!(server.connections.refusals().of(Refusal::Silent), 0);
}

#[tokio::test]
async fn silent_connections_do_not_use_up_the_drain() {
    for version in [Version::Http1, Version::Http2] {
        let server = serve(version, ListenerOptions::default(), SOON).await;
        let (begun, request): (_, &[u8]) = match version {
            Version::Http1 => (b"GET / HTTP/1.1\r\n".to_vec(), b"\r\n"),
            // GET / of http, with all flags; :authority is not needed.
            Version::Http2 => (
                [PREFACE, SETTINGS].concat(),
                &[0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86],
            ),
        };
        let silent = connect(&server, &begun).await;
        // This one had a request and is silent since.
        let idle = connect(&server, &[begun.as_slice(), request].concat()).await;
        open(&server, 2).await;
        let started = Instant::now();
        server.tasks.drain(SOON).await;
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{version:?}: {took:?}");
        drop((silent, idle));
    }
}

#[tokio::test]
async fn drain_waits_for_the_request_under_way() {
    let server = serve(Version::Http2, options(), SOON).await;
    let mut client = client(&server).await;
    let kind = "application/grpc";
    let (response, mut body) = client.send_request(request(kind), false).unwrap();
    sleep(FIRST).await;
    let tasks = server.tasks.clone();
    let draining = tokio::spawn(async move { tasks.drain(SOON).await });
    // Longer than a connection without requests may stay.
    sleep(Duration::from_secs(3)).await;
    body.send_data(Bytes::from_static(&[0; 7]), true).unwrap();
    let mut answer = response.await.unwrap().into_body();
    assert_eq!(answer.data().await.unwrap().unwrap(), "7");
    draining.await.unwrap();
}

/// Reads a large response, with a pause longer than a connection without requests may stay.
async fn read_slowly(version: Version, server: &Server) -> usize {
    let socket = TcpSocket::new_v4().unwrap();
    // Small, so that the response does not fit into the buffers of the system.
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut socket = socket.connect(server.address).await.unwrap();
    if version == Version::Http1 {
        let request = format!("GET {LARGE} HTTP/1.1\r\nHost: a\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        // The head has come, and with it the chunk is under way.
        socket.read_exact(&mut [0; 100]).await.unwrap();
        server.tasks.start_drain();
        sleep(Duration::from_secs(3)).await;
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        return rest.len();
    }
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::get(format!("http://server{LARGE}")).body(());
    let (response, _) = client.send_request(request.unwrap(), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    server.tasks.start_drain();
    // The window is soon full, so that the server waits although it could write.
    sleep(Duration::from_secs(3)).await;
    let mut read = 0;
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
        read += length;
    }
    read
}

#[tokio::test]
async fn drain_waits_for_a_slow_reader_of_the_last_chunk() {
    for version in [Version::Http1, Version::Http2] {
        let server = serve(version, options(), SOON).await;
        let read = timeout(SOON, read_slowly(version, &server)).await.unwrap();
        let missing = LARGE_BYTES - read;
        // On HTTP/1 the first hundred bytes are the head and the beginning.
        assert!(missing < 100, "{version:?}: {missing} bytes are missing");
        open(&server, 0).await;
    }
}

#[tokio::test]
async fn unfinished_messages_of_all_connections_are_bounded() {
    const CONNECTIONS: usize = 4;
    const CALLS: usize = 250;
    const MESSAGE: usize = 60_000;
    let unfinished = UnfinishedLimits {
        connection_bytes: 1 << 20,
        all_bytes: 2 << 20,
        timeout: SOON,
    };
    let limits = ListenerOptions {
        unfinished,
        ..options()
    };
    let server = serve(Version::Http2, limits, SOON).await;
    let refusals = server.connections.refusals();
    let (mut calls, mut most) = (Vec::new(), 0);
    for _ in 0..CONNECTIONS {
        let mut client = client(&server).await;
        for _ in 0..CALLS {
            client = client.ready().await.unwrap();
            let call = client.send_request(request("application/grpc"), false);
            let (response, mut body) = call.unwrap();
            let mut begun = vec![0; MESSAGE];
            // One byte longer than what is sent.
            let length = u32::try_from(MESSAGE - 4).unwrap();
            begun[1..5].copy_from_slice(&length.to_be_bytes());
            body.send_data(begun.into(), false).unwrap();
            calls.push((response, body));
            most = most.max(server.connections.unfinished_bytes());
        }
        // The first one is alone until it has reached its own limit; later ones share the other.
        while refusals.of(Refusal::ConnectionUnfinished) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    let refused =
        || refusals.of(Refusal::ConnectionUnfinished) + refusals.of(Refusal::AllUnfinished);
    // All whose bytes do not fit.
    let expected = CONNECTIONS * CALLS - unfinished.all_bytes / MESSAGE - 1;
    let deadline = Instant::now() + SOON;
    while refused() < expected as u64 {
        most = most.max(server.connections.unfinished_bytes());
        assert!(Instant::now() < deadline, "only {} are refused", refused());
        sleep(Duration::from_millis(5)).await;
    }
    assert!(most <= unfinished.all_bytes, "{most} bytes");
    assert!(most > unfinished.connection_bytes / 2, "{most} bytes");
    assert!(refusals.of(Refusal::AllUnfinished) > 0);
}

#[tokio::test]
async fn requests_beyond_the_rate_learn_when_to_return() {
    let number = |n| NonZeroU32::new(n).unwrap();
    let limits = ListenerOptions {
        request_rate: Some(RequestRate {
            per_second: number(1),
            burst: number(2),
        }),
        ..options()
    };
    let server = serve(Version::Http2, limits, SOON).await;
    let mut client = client(&server).await;
    let mut refused = Vec::new();
    for kind in ["application/grpc", "text/plain"].repeat(4) {
        client = client.ready().await.unwrap();
        let (response, _) = client.send_request(request(kind), true).unwrap();
        let response = response.await.unwrap();
        let headers = response.headers();
        if let Some(status) = headers.get("grpc-status") {
            assert_eq!(status, "8");
            let pushback = headers["grpc-retry-pushback-ms"].to_str().unwrap();
            assert!((1..=1_000).contains(&pushback.parse::<u64>().unwrap()));
            refused.push(kind);
        } else if response.status() == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(headers["retry-after"], "1");
            refused.push(kind);
        } else {
            assert_eq!(response.status(), StatusCode::OK);
        }
    }
    assert!(refused.len() >= 4, "{refused:?}");
    assert!(refused.contains(&"application/grpc") && refused.contains(&"text/plain"));
    let counted = server.connections.refusals().of(Refusal::RequestRate);
    assert_eq!(counted, refused.len() as u64);
}

#[tokio::test]
async fn one_client_cannot_take_all_connections() {
    let limits = ListenerOptions {
        max_connections: 10,
        max_client_connections: 3,
        ..ListenerOptions::default()
    };
    let server = serve(Version::Http1, limits, SOON).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connect(&server, b"").await);
    }
    open(&server, 3).await;
    let took = closed(connect(&server, b"").await).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let refusals = server.connections.refusals();
    assert_eq!(refusals.of(Refusal::ClientConnections), 1);
    // Another address of this host is another client.
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = other.connect(server.address).await.unwrap();
    open(&server, 4).await;
    drop((other, held));
}
