//! Faults on real sockets and the ends they are classified as.

use std::{error::Error, net::SocketAddr};

use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use steadfast::{
    dial::{DialErrors, Step},
    grpc::{Grpc, Options},
    session::Advice,
};
use steadfast_chaos::{Direction, Fault, Reach};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::sleep,
};
use tonic::{Code, Status, body::Body, metadata::MetadataValue};

use super::*;
use crate::support::{
    note::{large, note},
    server::{self, Responses, Server},
    sockets,
};

/// The initiator of an end, the label of its reason, and its advice.
type Verdict = (Initiator, &'static str, Advice);

const LOST: Verdict = (Initiator::Network, "lost", Advice::Retry);
const UNREACHABLE: Verdict = (Initiator::Network, "unreachable", Advice::Retry);
const OPEN_TIMEOUT: Verdict = (Initiator::Network, "open_timeout", Advice::Retry);

/// Settings with an open timeout that a test can wait for.
fn short_open_timeout() -> Config {
    let mut config = Config::default();
    config.open_timeout = Duration::from_millis(400);
    config
}

/// Opens a stream, runs `act` once it is live, and returns its end.
async fn end_after(address: &str, act: impl FnOnce()) -> End {
    end_with(Config::default(), address, act).await
}

async fn end_with(config: Config, address: &str, act: impl FnOnce()) -> End {
    let mut connection = Options::default();
    connection.max_message_bytes = 1_000;
    let transport = Grpc::new(address.parse().unwrap()).with_options(connection);
    let mut running = Running::start(transport, config);
    let mut act = Some(act);
    let end = within("an end", async {
        let mut status = running.link.watch();
        loop {
            tokio::select! {
                biased;
                end = running.down() => return end,
                status = status.wait_for(|status| status.streams_established > 0), if act.is_some() => {
                    status.unwrap();
                    act.take().expect("checked before")();
                }
            }
        }
    });
    let end = end.await;
    let counters = running.link.counters();
    assert_eq!(counters.ends.get(end.reason.label()), Some(&1));
    within("closed", running.link.close()).await;
    end
}

async fn end_at(address: SocketAddr) -> End {
    end_after(&address.to_string(), || {}).await
}

fn verdict(end: &End) -> Verdict {
    (end.initiator, end.reason.label(), end.advice)
}

fn text(end: &End) -> &str {
    match &end.reason {
        Reason::Unreachable(text)
        | Reason::Lost(text)
        | Reason::Protocol(text)
        | Reason::MessageTooLarge(text) => text.as_str(),
        other => panic!("no text: {other}"),
    }
}

#[tokio::test]
async fn refused_connection_is_unreachable() {
    let end = end_at(sockets::nobody()).await;
    assert_eq!(verdict(&end), UNREACHABLE);
    assert!(text(&end).contains("Connection refused"), "{end}");
}

#[tokio::test]
async fn connect_error_leads_to_the_error_of_the_socket() {
    let mut config = Config::default();
    config.max_retries = 1;
    let nobody = sockets::nobody();
    let transport = Grpc::new(nobody.into());
    let running = Running::idle(transport, options(config), Notes::default());
    let error = within("an answer", running.link.connect())
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Stopped(_)), "{error:?}");
    let failures: &DialErrors = error.source().and_then(<dyn Error>::downcast_ref).unwrap();
    let [failure] = failures.errors() else {
        panic!("{failures}");
    };
    assert_eq!((failure.step, failure.peer), (Step::Connect, Some(nobody)));
    let source = failure.source().and_then(<dyn Error>::downcast_ref);
    let kind = source.map(std::io::Error::kind);
    assert_eq!(kind, Some(std::io::ErrorKind::ConnectionRefused), "{error}");
}

#[tokio::test]
async fn unresolvable_name_is_unreachable_and_named() {
    let end = end_after("no..such..host:1", || {}).await;
    assert_eq!(verdict(&end), UNREACHABLE);
    assert!(text(&end).starts_with("no..such..host:1: "), "{end}");
}

#[tokio::test]
async fn unanswered_syn_ends_at_open_timeout() {
    let hole = sockets::Unreachable::start().await;
    let end = end_with(short_open_timeout(), &hole.addr.to_string(), || {}).await;
    assert_eq!(verdict(&end), OPEN_TIMEOUT);
}

#[tokio::test]
async fn withheld_headers_end_at_open_timeout() {
    let server = Server::start(|_| std::future::pending());
    let end = end_with(short_open_timeout(), &server.addr.to_string(), || {}).await;
    assert_eq!(verdict(&end), OPEN_TIMEOUT);
}

/// Every status that is not OK, with its advice.
const STATUSES: [(Code, Advice); 16] = [
    (Code::Cancelled, Advice::Retry),
    (Code::Unknown, Advice::Retry),
    (Code::InvalidArgument, Advice::Stop),
    (Code::DeadlineExceeded, Advice::Retry),
    (Code::NotFound, Advice::Stop),
    (Code::AlreadyExists, Advice::Stop),
    (Code::PermissionDenied, Advice::Stop),
    (Code::ResourceExhausted, Advice::Wait(None)),
    (Code::FailedPrecondition, Advice::Stop),
    (Code::Aborted, Advice::Retry),
    (Code::OutOfRange, Advice::Stop),
    (Code::Unimplemented, Advice::Stop),
    (Code::Internal, Advice::Retry),
    (Code::Unavailable, Advice::Retry),
    (Code::DataLoss, Advice::Stop),
    (Code::Unauthenticated, Advice::Refresh),
];

fn by_status(code: Code, advice: Advice) -> End {
    status(code.into(), advice)
}

/// Starts a server that fails every call with `status`, instead of headers or after one message.
fn failing(at_open: bool, status: Status) -> Server {
    Server::start(move |_| {
        let status = status.clone();
        async move {
            if at_open {
                return Err(status);
            }
            Ok(stream::iter([Ok(note(1)), Err(status)]).boxed() as Responses)
        }
    })
}

#[tokio::test]
async fn status_is_by_peer_for_every_code() {
    for (code, advice) in STATUSES {
        for at_open in [true, false] {
            let server = failing(at_open, Status::new(code, "the status message"));
            assert_eq!(end_at(server.addr).await, by_status(code, advice));
        }
    }
}

#[tokio::test]
async fn pushback_is_honored_at_open_and_mid_stream() {
    for (value, advice) in [
        ("0", Advice::Wait(Some(Duration::ZERO))),
        ("2500", Advice::Wait(Some(Duration::from_millis(2_500)))),
        ("-1", Advice::Stop),
        ("later", Advice::Stop),
    ] {
        for at_open in [true, false] {
            let mut status = Status::unavailable("the status message");
            let metadata = status.metadata_mut();
            metadata.insert("grpc-retry-pushback-ms", MetadataValue::from_static(value));
            let end = end_at(failing(at_open, status).addr).await;
            assert_eq!(end, by_status(Code::Unavailable, advice), "{value}");
        }
    }
}

#[tokio::test]
async fn orderly_end_is_retried() {
    let server = Server::start(|_| async { Ok(stream::iter([Ok(note(1))]).boxed() as Responses) });
    let end = end_at(server.addr).await;
    assert_eq!(end, End::retry(Initiator::Peer, Reason::Finished));
}

#[tokio::test]
async fn panic_in_server_handler_is_a_loss() {
    let at_open = Server::start(|_| async { panic!("on purpose, before the headers") });
    assert_eq!(verdict(&end_at(at_open.addr).await), LOST);
    let mid_stream = Server::start(|_| async {
        let answers = stream::iter(0_u64..2).then(|number| async move {
            assert_eq!(number, 0, "on purpose, after the first message");
            Ok(note(number))
        });
        Ok(answers.boxed() as Responses)
    });
    assert_eq!(verdict(&end_at(mid_stream.addr).await), LOST);
}

#[tokio::test]
async fn message_over_limit_names_the_setting_to_raise() {
    let server = Server::start(|_| async {
        let answers = stream::iter([Ok(note(1)), Ok(large(2, 2_000))]);
        Ok(answers.chain(stream::pending()).boxed() as Responses)
    });
    let end = end_at(server.addr).await;
    let expected = (Initiator::Local, "message_too_large", Advice::Stop);
    assert_eq!(verdict(&end), expected);
    assert!(text(&end).contains("the limit is: 1000 bytes"), "{end}");
    assert!(text(&end).contains("raise max_message_bytes"), "{end}");
}

#[tokio::test]
async fn undecodable_message_is_a_protocol_violation() {
    let server = Server::answering(|| {
        // A frame of one byte that is no message: field 0 does not exist.
        let frame: &[u8] = &[0, 0, 0, 0, 1, 0];
        let body = Body::new(http_body_util::Full::from(frame).map_err(|never| match never {}));
        http::Response::builder()
            .header("content-type", "application/grpc")
            .body(body)
            .unwrap()
    });
    let end = end_at(server.addr).await;
    assert_eq!(verdict(&end), (Initiator::Peer, "protocol", Advice::Retry));
    assert!(text(&end).contains("cannot decode a message"), "{end}");
}

#[tokio::test]
async fn socket_reset_and_fin_are_losses() {
    for reset in [true, false] {
        let server = Server::start(server::silent);
        let proxy = server.proxy();
        let address = proxy.addr().to_string();
        let end = end_after(&address, || {
            let hit = if reset { proxy.reset() } else { proxy.close() };
            assert_eq!(hit.connections, 1);
        });
        assert_eq!(verdict(&end.await), LOST, "reset: {reset}");
    }
}

#[tokio::test]
async fn killed_server_is_a_loss() {
    let server = Server::start(server::silent);
    let address = server.addr.to_string();
    let end = end_after(&address, || {
        server.kill();
    });
    assert_eq!(verdict(&end.await), LOST);
}

#[tokio::test]
async fn black_hole_in_either_direction_is_silence() {
    let activity_timeout = Duration::from_millis(600);
    for direction in [Direction::ToClient, Direction::ToServer, Direction::Both] {
        // The server returns every message, heartbeats too, so a hole in one direction silences it.
        let server = Server::start(server::echo);
        let proxy = server.proxy();
        let protocol = Notes {
            heartbeat: Some(note(0)),
            ..Notes::default()
        };
        let mut config = Config::default();
        config.heartbeat_interval = Some(Duration::from_millis(50));
        config.activity_timeout = Some(activity_timeout);
        let mut running = Running::idle(Grpc::new(proxy.addr().into()), options(config), protocol);
        within("live", running.link.connect()).await.unwrap();
        sleep(activity_timeout * 3 / 2).await;
        let failed = running.link.status().failed_attempts;
        assert_eq!(failed, 0, "its heartbeats are answered");

        let _hole = proxy.inject(Fault::Blackhole(direction), Reach::Everything);
        let end = within("an end", running.down()).await;
        let silent = End::retry(Initiator::Peer, Reason::Silent);
        assert_eq!(end, silent, "{direction:?}");
    }
}

/// Starts a peer that writes these bytes once it has read the beginning of a request.
async fn raw(response: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 16_384];
        assert!(socket.read(&mut buffer).await.unwrap() > 0);
        socket.write_all(response).await.unwrap();
        while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    addr
}

#[tokio::test]
async fn http1_response_is_a_loss() {
    let addr = raw(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(verdict(&end_at(addr).await), LOST);
}

/// An empty SETTINGS frame, then GOAWAY for everything (last stream 0) with this code.
macro_rules! goaway {
    ($code:literal) => {
        &[
            0, 0, 0, 4, 0, 0, 0, 0, 0, //
            0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, $code,
        ]
    };
}

#[tokio::test]
async fn goaway_is_a_loss_and_enhance_your_calm_waits_longest() {
    const NO_ERROR: &[u8] = goaway!(0);
    const ENHANCE_YOUR_CALM: &[u8] = goaway!(11);
    assert_eq!(verdict(&end_at(raw(NO_ERROR).await).await), LOST);
    assert_eq!(
        verdict(&end_at(raw(ENHANCE_YOUR_CALM).await).await),
        (Initiator::Network, "lost", Advice::Wait(None))
    );
}

#[tokio::test]
async fn http2_response_of_gateway_is_a_status_of_the_peer() {
    for (http, code, advice) in [
        (503, Code::Unavailable, Advice::Retry),
        (429, Code::Unavailable, Advice::Retry),
        (401, Code::Unauthenticated, Advice::Refresh),
        (404, Code::Unimplemented, Advice::Stop),
    ] {
        let server = Server::answering(move || {
            let response = http::Response::builder().status(http);
            response.body(Body::empty()).unwrap()
        });
        let end = end_at(server.addr).await;
        assert_eq!(
            (end.initiator, end.advice),
            (Initiator::Peer, advice),
            "{http}"
        );
        assert!(
            matches!(end.reason, Reason::Status { code: c, .. } if c == i32::from(code)),
            "{http}: {end}"
        );
    }
}

#[tokio::test]
async fn malformed_status_details_do_not_panic() {
    let status = || {
        let pairs = [
            ("grpc-status", "14"),
            ("grpc-message", "the status message"),
            ("grpc-status-details-bin", "???"),
        ];
        pairs.map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        })
    };
    for at_open in [true, false] {
        let server = Server::answering(move || {
            let response = http::Response::builder().header("content-type", "application/grpc");
            let trailers = http::HeaderMap::from_iter(status());
            if at_open {
                let mut response = response.body(Body::empty()).unwrap();
                response.headers_mut().extend(trailers);
                return response;
            }
            let frames = stream::iter([Ok::<_, Status>(http_body::Frame::trailers(trailers))]);
            let body = http_body_util::StreamBody::new(frames);
            response.body(Body::new(body)).unwrap()
        });
        let expected = by_status(Code::Unavailable, Advice::Retry);
        assert_eq!(end_at(server.addr).await, expected);
    }
}

#[tokio::test]
async fn invalid_call_ends_locally() {
    let server = Server::start(server::silent);
    let transport = Grpc::new(server.addr.into());
    let call = Call::new("not a path");
    let mut running = Running::spawn(
        call,
        transport,
        options(Config::default()),
        Notes::default(),
    );
    running.link.start().unwrap();
    let NoteEvent::Down(end) = within("an end", running.next()).await else {
        panic!("an end comes first");
    };
    assert_eq!(verdict(&end), (Initiator::Local, "protocol", Advice::Stop));
    assert!(text(&end).contains("is not a method path"), "{end}");
    assert_eq!(server.calls(), 0);
}
