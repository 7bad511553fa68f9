//! The examples against servers that behave as theirs do, through faults.
#![cfg(all(feature = "grpc", feature = "tls"))]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

#[path = "../examples/etcd_watch.rs"]
#[expect(dead_code, reason = "the example's own main, and what only it uses")]
mod etcd_watch;
#[path = "support/pki.rs"]
mod pki;
#[path = "../examples/pods_watch.rs"]
#[expect(dead_code, reason = "the example's own main, and what only it uses")]
mod pods_watch;
#[path = "../examples/secure_service.rs"]
#[expect(dead_code, reason = "the example's own main, and what only it uses")]
mod secure_service;

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use etcd_watch::etcd::{
    self, Event, KeyValue, ResponseHeader, WatchCreateRequest, WatchResponse,
    watch_request::RequestUnion, watch_server::WatchServer,
};
use futures_util::{Stream, StreamExt as _, stream};
use pods_watch::pods::{self, WatchEvent, pods_server::PodsServer, watch_event::Type};
use secure_service::meter::{self, Reading, meter_server::MeterServer};
use steadfast::{LinkOptions, grpc::Grpc};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// The longest that a test may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Returns options with short delays.
fn options() -> LinkOptions {
    LinkOptions::new().configure(|config| {
        config.initial_backoff = Duration::from_millis(10);
        config.max_backoff = Duration::from_millis(100);
    })
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A service that sends a prepared list of responses on each stream and notes what it was asked.
struct Script<A, T>(Arc<Mutex<State<A, T>>>);

struct State<A, T> {
    asked: Vec<A>,
    streams: VecDeque<Vec<T>>,
}

impl<A, T> Clone for Script<A, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Clone, T: Send + 'static> Script<A, T> {
    fn new(streams: impl IntoIterator<Item = Vec<T>>) -> Self {
        let streams = streams.into_iter().collect();
        let asked = Vec::new();
        Self(Arc::new(Mutex::new(State { asked, streams })))
    }

    /// Returns the responses of the next stream. It then breaks, unless it is the last one.
    fn responses(&self, asked: A) -> Response<Responses<T>> {
        let mut script = self.0.lock().unwrap();
        script.asked.push(asked);
        let responses = script.streams.pop_front().unwrap_or_default();
        let end = if script.streams.is_empty() {
            stream::pending().boxed()
        } else {
            stream::iter([Err(Status::unavailable("restarting"))]).boxed()
        };
        let responses = stream::iter(responses.into_iter().map(Ok));
        Response::new(Box::pin(responses.chain(end)))
    }

    fn asked(&self) -> Vec<A> {
        self.0.lock().unwrap().asked.clone()
    }
}

/// Serves on loopback until the test ends.
macro_rules! serve {
    ($service:expr) => {{
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service($service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }};
}

#[tonic::async_trait]
impl etcd::watch_server::Watch for Script<i64, WatchResponse> {
    type WatchStream = Responses<WatchResponse>;

    async fn watch(
        &self,
        requests: Request<Streaming<etcd::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first = requests.into_inner().message().await?.unwrap();
        let Some(RequestUnion::CreateRequest(create)) = first.request_union else {
            return Err(Status::invalid_argument("not a create request"));
        };
        Ok(self.responses(create.start_revision))
    }
}

fn header(revision: i64) -> WatchResponse {
    WatchResponse {
        header: Some(ResponseHeader { revision }),
        ..WatchResponse::default()
    }
}

fn created(revision: i64) -> WatchResponse {
    WatchResponse {
        created: true,
        ..header(revision)
    }
}

/// The changes of these revisions, in one response.
fn changes(revisions: &[i64]) -> WatchResponse {
    let event = |revision: &i64| Event {
        kv: Some(KeyValue {
            mod_revision: *revision,
            ..KeyValue::default()
        }),
        ..Event::default()
    };
    WatchResponse {
        events: revisions.iter().map(event).collect(),
        // As in etcd, later changes may have happened already.
        ..header(1_000)
    }
}

#[tokio::test]
async fn etcd_watch_continues_after_the_last_revision() {
    let compacted = WatchResponse {
        canceled: true,
        compact_revision: 40,
        ..header(50)
    };
    let script = Script::new([
        vec![created(6)],
        vec![created(8), changes(&[7, 9])],
        vec![created(20), header(15)],
        vec![created(50), compacted],
        vec![created(50), changes(&[41, 42])],
    ]);
    let server = serve!(WatchServer::new(script.clone()));
    let mut responses = etcd_watch::watch(
        options(),
        Grpc::new(server.into()),
        WatchCreateRequest::default(),
    )
    .unwrap();
    let mut seen = Vec::new();
    let mut lost_before = 0;
    while seen.last() != Some(&42) {
        let next = timeout(LIMIT, responses.next()).await.expect("in time");
        let response = next.unwrap().unwrap();
        lost_before = lost_before.max(response.compact_revision);
        let pairs = response.events.into_iter().filter_map(|event| event.kv);
        seen.extend(pairs.map(|pair| pair.mod_revision));
    }
    assert_eq!((seen, lost_before), (vec![7, 9, 41, 42], 40));
    assert_eq!(script.asked(), [0, 7, 10, 16, 40]);
}

#[tonic::async_trait]
impl pods::pods_server::Pods for Script<u64, WatchEvent> {
    type WatchStream = Responses<WatchEvent>;

    async fn watch(
        &self,
        request: Request<pods::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(self.responses(request.into_inner().resource_version))
    }
}

fn event(kind: Type, name: &str, resource_version: u64) -> WatchEvent {
    WatchEvent {
        r#type: kind.into(),
        name: name.to_owned(),
        resource_version,
    }
}

#[tokio::test]
async fn pods_are_listed_again_when_the_version_is_gone() {
    use Type::{Added, Bookmark, Deleted, Gone, Modified, Reset};
    let script = Script::new([
        // Broken in the middle of the list: its versions say nothing.
        vec![event(Reset, "", 9), event(Added, "a", 3)],
        vec![
            event(Reset, "", 9),
            event(Added, "a", 3),
            event(Added, "b", 5),
            event(Bookmark, "", 9),
            event(Modified, "b", 10),
        ],
        vec![event(Deleted, "a", 11)],
        vec![event(Gone, "", 0)],
        vec![
            event(Reset, "", 90),
            event(Added, "c", 80),
            event(Bookmark, "", 90),
            event(Added, "d", 91),
        ],
    ]);
    let server = serve!(PodsServer::new(script.clone()));
    let mut events = pods_watch::watch(options(), server.into()).unwrap();
    let mut pods = BTreeSet::new();
    while !pods.contains("d") {
        let next = timeout(LIMIT, events.next()).await.expect("in time");
        let event = next.unwrap().unwrap();
        match event.r#type() {
            Reset => pods.clear(),
            Added | Modified => drop(pods.insert(event.name)),
            Deleted => drop(pods.remove(&event.name)),
            Bookmark | Gone => {}
        }
    }
    assert_eq!(pods, BTreeSet::from(["c".to_owned(), "d".to_owned()]));
    assert_eq!(script.asked(), [0, 0, 10, 11, 0]);
}

/// Sends the readings after the one asked for, up to a limit, and then breaks the stream.
#[derive(Clone)]
struct Readings(u64);

#[tonic::async_trait]
impl meter::meter_server::Meter for Readings {
    type WatchStream = Responses<Reading>;

    async fn watch(
        &self,
        requests: Request<Streaming<meter::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first = requests.into_inner().message().await?.unwrap();
        let reading = |sequence| Ok(Reading { sequence, value: 1 });
        let readings = stream::iter((first.after + 1..=self.0).map(reading));
        let end = stream::iter([Err(Status::unauthenticated("the token has expired"))]);
        Ok(Response::new(Box::pin(readings.chain(end))))
    }
}

/// Terminates TLS before the server at `plain`.
async fn with_tls(
    plain: SocketAddr,
    config: Arc<rustls::ServerConfig>,
) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(config);
    let relay = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(socket).await?;
                let mut server = TcpStream::connect(plain).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    (address, relay.abort_handle())
}

/// Serves readings to those who have the token, over TLS.
async fn secure(
    readings: u64,
    token: &'static str,
    config: Arc<rustls::ServerConfig>,
) -> (SocketAddr, AbortHandle) {
    let service = MeterServer::with_interceptor(Readings(readings), move |request: Request<()>| {
        let given = request.metadata().get("authorization");
        let expected = format!("Bearer {token}");
        if given.is_some_and(|given| given.as_bytes() == expected.as_bytes()) {
            Ok(request)
        } else {
            Err(Status::unauthenticated("unknown token"))
        }
    });
    with_tls(serve!(service), config).await
}

#[tokio::test]
async fn secure_service_survives_an_expired_token_and_a_lost_server() {
    let authority = pki::Authority::new("test");
    let files = pki::Files::new(&authority);
    let config = pki::server_config(&authority.server("localhost"), None);
    let token = files.path("token");
    std::fs::write(&token, "first\n").unwrap();
    let (one, accepting) = secure(3, "first", Arc::clone(&config)).await;
    let (two, _) = secure(6, "second", config).await;
    let servers = [one, two].map(|address| {
        let address = format!("https://localhost:{}", address.port());
        address.parse().unwrap()
    });
    let mut readings = secure_service::watch(
        options(),
        servers.to_vec(),
        files.path("ca.pem"),
        token.clone(),
    )
    .unwrap();
    for expected in 1..=6 {
        let next = timeout(LIMIT, readings.next()).await.expect("in time");
        assert_eq!(next.unwrap().unwrap().sequence, expected);
        if expected == 1 {
            // The next connection needs the other token, and the other server.
            std::fs::write(&token, "second\n").unwrap();
            accepting.abort();
        }
    }
}

#[test]
fn user_part_of_each_example_is_short() {
    for (name, example) in [
        ("etcd_watch", include_str!("../examples/etcd_watch.rs")),
        ("pods_watch", include_str!("../examples/pods_watch.rs")),
        (
            "secure_service",
            include_str!("../examples/secure_service.rs"),
        ),
    ] {
        let lines = example
            .lines()
            .skip_while(|line| *line != "// begin user code")
            .skip(1)
            .take_while(|line| *line != "// end user code")
            .filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//"));
        let lines = lines.count();
        assert!((20..30).contains(&lines), "{name}: {lines} lines");
    }
}
