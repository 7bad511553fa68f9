//! A server with a policy file, on real sockets.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use steadfast_access::NewToken;
use steadfast_streamer::server::{
    PullerOptions, Security, Server, ServerOptions, operations::Operations,
};
use steadfast_wire::{
    puller::{self, puller_service_client::PullerServiceClient},
    streamer::{
        Authenticate, GatewayMessage, Hello, RefusalCode, StreamerMessage, SubscribeRequest,
        gateway_message::Payload as Request, streamer_message::Payload as Response,
        streamer_service_client::StreamerServiceClient,
    },
};
use support::{channel, publishing::Publishing, request, serve, soon, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming, metadata::MetadataValue};

/// A server with a policy in a directory of its own.
struct Served {
    server: Server,
    path: PathBuf,
    _folder: tempfile::TempDir,
    tokens: Vec<(&'static str, NewToken)>,
}

const GRANTS: &str = r#"
[[grants]]
role = "customer"
databases = ["default"]
collections = ["orders"]
actions = ["subscribe"]
filter = ["owner == $sub"]
[[grants]]
role = "feeder"
databases = ["default"]
collections = ["orders", "secrets"]
actions = ["publish", "subscribe"]
[[grants]]
role = "operator"
actions = ["admin"]
[[members]]
roles = ["customer"]
principals = ["token:alice", "token:bob"]
[[members]]
roles = ["feeder"]
principals = ["token:feeder"]
[[members]]
roles = ["operator"]
principals = ["token:root"]
"#;

/// The longest time until a change of the file acts. The promise is one second, of which the file takes half:
/// `net/access` tests that in virtual time. The other one is for a machine that runs other tests.
const ACTS_WITHIN: Duration = Duration::from_secs(2);

impl Served {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        let names = ["alice", "bob", "feeder", "root"];
        let tokens = names
            .map(|name| (name, NewToken::generate().unwrap()))
            .to_vec();
        fs::write(&path, policy(&tokens, GRANTS)).unwrap();
        let mut options = ServerOptions::default();
        options.access = Some(path.clone());
        Self {
            server: serve(options).await,
            path,
            _folder: folder,
            tokens,
        }
    }

    fn token(&self, name: &str) -> String {
        let (_, token) = self.tokens.iter().find(|(of, _)| *of == name).unwrap();
        format!("Bearer {}", token.reveal())
    }

    async fn call(&self, authorization: &[&str]) -> Result<Stream, Status> {
        let (requests, outbound) = mpsc::unbounded_channel();
        let mut call = tonic::Request::new(UnboundedReceiverStream::new(outbound));
        for value in authorization {
            let value = MetadataValue::try_from(*value).unwrap();
            call.metadata_mut().append("authorization", value);
        }
        let mut client = StreamerServiceClient::new(channel(self.server.address()).await);
        let responses = soon(client.stream(call)).await?.into_inner();
        Ok(Stream {
            requests,
            responses,
        })
    }

    /// Opens a stream of the resume profile.
    async fn stream(&self, name: &str) -> Stream {
        let mut stream = self.call(&[&self.token(name)]).await.unwrap();
        stream.send(Request::Hello(Hello {
            version: 1,
            // Each stream is a session of its own: the older ones may still be open.
            session_id: NewToken::generate().unwrap().reveal().to_owned(),
            attempt: 1,
            ..Hello::default()
        }));
        assert!(matches!(
            stream.next().await,
            Ok(Some(Response::Welcome(_)))
        ));
        stream
    }

    async fn publisher(&self, name: &str) -> Result<Publishing, Status> {
        self.producer(name, "p").await
    }

    async fn producer(&self, name: &str, producer: &str) -> Result<Publishing, Status> {
        let authorization = self.token(name);
        Publishing::open(self.server.address(), &authorization, producer).await
    }
}

fn policy(tokens: &[(&'static str, NewToken)], grants: &str) -> String {
    let entries = tokens.iter().map(|(name, token)| token.entry(name) + "\n");
    entries.collect::<String>() + grants
}

struct Stream {
    requests: mpsc::UnboundedSender<GatewayMessage>,
    responses: Streaming<StreamerMessage>,
}

impl Stream {
    fn send(&self, payload: Request) {
        let payload = Some(payload);
        self.requests.send(GatewayMessage { payload }).ok();
    }

    async fn next(&mut self) -> Result<Option<Response>, Status> {
        let message = soon(self.responses.message()).await?;
        Ok(message.map(|it| it.payload.unwrap()))
    }

    /// Subscribes to all that may be seen, from the oldest event on.
    async fn subscribe(&mut self, collection: &str) -> Result<(), (RefusalCode, String)> {
        self.send(Request::Subscribe(SubscribeRequest {
            credit_messages: 1_000,
            credit_bytes: 1_000_000,
            start: Some(steadfast_wire::streamer::subscribe_request::Start::StartOffset(0)),
            ..request(collection, collection, Vec::new())
        }));
        match self.next().await {
            Ok(Some(Response::SubscribeResponse(response))) if response.success => Ok(()),
            Ok(Some(Response::SubscribeResponse(it))) => Err((it.code(), it.error)),
            other => panic!("{other:?}"),
        }
    }

    async fn document(&mut self) -> String {
        loop {
            match self.next().await {
                Ok(Some(Response::Delivery(delivery))) => {
                    return delivery.event.unwrap().document_id;
                }
                Ok(Some(Response::Progress(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Returns the status that ends the stream.
    async fn end(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("no status"),
                Err(status) => return status,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_without_valid_credentials_are_refused_at_once() {
    let served = Served::start().await;
    let (alice, bob) = (served.token("alice"), served.token("bob"));
    let required = "credentials are required";
    let invalid = "the credentials are not valid";
    for (authorization, text) in [
        (&[][..], required),
        (&["Bearer wrong"], invalid),
        (&["Bearer a.b.c"], invalid),
        (&["Basic YTpi"], invalid),
        (&[&alice[..alice.len() - 1]], invalid),
        (&[&alice, &bob], invalid),
    ] {
        let status = served.call(authorization).await.err().unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, text)
        );
    }
    let mut puller = PullerServiceClient::new(channel(served.server.address()).await);
    let status = soon(puller.subscribe(puller::SubscribeRequest::default())).await;
    assert_eq!(status.unwrap_err().code(), Code::Unauthenticated);
    for (name, code) in [("alice", Some(Code::PermissionDenied)), ("root", None)] {
        let mut call = tonic::Request::new(puller::SubscribeRequest::default());
        let value = MetadataValue::try_from(served.token(name)).unwrap();
        call.metadata_mut().insert("authorization", value);
        let opened = soon(puller.subscribe(call)).await;
        assert_eq!(opened.err().map(|it| it.code()), code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn principals_see_their_own_documents() {
    let served = Served::start().await;
    let mut feeder = served.publisher("feeder").await.unwrap();
    for (document, owner) in [
        ("a1", "alice"),
        ("b1", "bob"),
        ("x", "' or 1"),
        ("a2", "alice"),
    ] {
        let data = format!("{{\"owner\":\"{owner}\"}}");
        feeder.publish("orders", document, &data).await.unwrap();
    }
    for (name, documents) in [
        ("alice", &["a1", "a2"][..]),
        ("bob", &["b1"]),
        ("feeder", &["a1", "b1", "x", "a2"]),
    ] {
        let mut stream = served.stream(name).await;
        stream.subscribe("orders").await.unwrap();
        for document in documents {
            assert_eq!(stream.document().await, *document, "{name}");
        }
    }
    let mut alice = served.stream("alice").await;
    for collection in ["secrets", "nowhere"] {
        let refused = alice.subscribe(collection).await.unwrap_err();
        let text = "you may not subscribe to this collection".to_owned();
        assert_eq!(refused, (RefusalCode::Denied, text), "{collection}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_is_checked_and_producers_belong_to_principals() {
    let mut served = Served::start().await;
    let mut feeder = served.publisher("feeder").await.unwrap();
    feeder.publish("orders", "a", "{}").await.unwrap();
    let denied = feeder.publish("other", "a", "{}").await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(served.publisher("feeder").await.unwrap().last, 1);
    // The same name of another principal is another producer.
    let mut alice = served.publisher("alice").await.unwrap();
    assert_eq!(alice.last, 0);
    let denied = alice.publish("orders", "a", "{}").await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    // A separator in an id must not make the name of another principal's producer.
    for producer in ["p\u{1f}q", "\n", "p\u{9f}"] {
        let refused = served.producer("alice", producer).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{producer:?}");
    }
    // A publisher whose token becomes that of another principal loses its stream.
    let mut renamed = served.publisher("feeder").await.unwrap();
    let valid = policy(&served.tokens, GRANTS);
    let other = valid.replace("\"feeder\"\nsha256", "\"bob\"\nsha256");
    assert_ne!(other, valid);
    fs::write(&served.path, other).unwrap();
    let status = renamed.next().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    fs::write(&served.path, valid).unwrap();
    tokio::time::sleep(ACTS_WITHIN).await;
    // An idle publisher whose token is removed loses its stream.
    let mut idle = served.publisher("feeder").await.unwrap();
    served.tokens.retain(|(name, _)| *name != "feeder");
    fs::write(&served.path, policy(&served.tokens, GRANTS)).unwrap();
    assert_eq!(idle.next().await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_policy_acts_on_open_streams() {
    let mut served = Served::start().await;
    let mut alice = served.stream("alice").await;
    alice.subscribe("orders").await.unwrap();
    let mut bob = served.stream("bob").await;
    bob.subscribe("orders").await.unwrap();
    // A file with a fault changes nothing.
    let valid = policy(&served.tokens, GRANTS);
    fs::write(&served.path, "[[grants]]").unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut feeder = served.publisher("feeder").await.unwrap();
    feeder
        .publish("orders", "a1", r#"{"owner":"alice"}"#)
        .await
        .unwrap();
    assert_eq!(alice.document().await, "a1");
    // Other rights: the client may come back at once.
    fs::write(
        &served.path,
        valid.replace("\"owner == $sub\"", "\"open == true\""),
    )
    .unwrap();
    let changed = Instant::now();
    let status = bob.end().await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(changed.elapsed() < ACTS_WITHIN, "{:?}", changed.elapsed());
    assert_eq!(alice.end().await.code(), Code::Unavailable);
    let mut alice = served.stream("alice").await;
    alice.subscribe("orders").await.unwrap();
    // The token is gone.
    served.tokens.retain(|(name, _)| *name != "alice");
    fs::write(&served.path, policy(&served.tokens, GRANTS)).unwrap();
    let removed = Instant::now();
    let status = alice.end().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(removed.elapsed() < ACTS_WITHIN, "{:?}", removed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_credentials_keep_a_stream_and_others_end_it() {
    let mut served = Served::start().await;
    let (second, third) = (NewToken::generate().unwrap(), NewToken::generate().unwrap());
    served
        .tokens
        .extend([("alice", second.clone()), ("bob", third.clone())]);
    fs::write(&served.path, policy(&served.tokens, GRANTS)).unwrap();
    let authenticate = |token: &NewToken| {
        let authorization = format!("Bearer {}", token.reveal());
        Request::Authenticate(Authenticate { authorization })
    };
    let mut alice = served.stream("alice").await;
    alice.subscribe("orders").await.unwrap();
    // Until the file is read, the newer token is unknown.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    alice.send(authenticate(&second));
    assert!(
        matches!(alice.next().await, Ok(Some(Response::Authenticated(it))) if it.expires_in_ms == 0)
    );
    // The first token no longer matters.
    let first = served
        .tokens
        .iter()
        .position(|(name, _)| *name == "alice")
        .unwrap();
    served.tokens.remove(first);
    fs::write(&served.path, policy(&served.tokens, GRANTS)).unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let mut feeder = served.publisher("feeder").await.unwrap();
    feeder
        .publish("orders", "a1", r#"{"owner":"alice"}"#)
        .await
        .unwrap();
    assert_eq!(alice.document().await, "a1");
    alice.send(authenticate(&third));
    let status = alice.end().await;
    assert_eq!(
        status.code(),
        Code::Unauthenticated,
        "another principal: {status}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hurried_credentials_end_the_stream() {
    let served = Served::start().await;
    let authorization = served.token("alice");
    let authenticate = || {
        let authorization = authorization.clone();
        Request::Authenticate(Authenticate { authorization })
    };
    let mut alice = served.stream("alice").await;
    for _ in 0..2 {
        alice.send(authenticate());
        assert!(matches!(
            alice.next().await,
            Ok(Some(Response::Authenticated(_)))
        ));
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    for _ in 0..1_000 {
        alice.send(authenticate());
    }
    let status = alice.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_is_followed_while_the_server_drains() {
    let mut served = Served::start().await;
    let mut alice = served.stream("alice").await;
    alice.subscribe("orders").await.unwrap();
    let draining = tokio::spawn(served.server.drain(Duration::from_secs(60), "test"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    served.tokens.retain(|(name, _)| *name != "alice");
    fs::write(&served.path, policy(&served.tokens, GRANTS)).unwrap();
    let changed = Instant::now();
    let status = alice.end().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(changed.elapsed() < ACTS_WITHIN, "{:?}", changed.elapsed());
    soon(draining).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_ends_when_its_token_expires() {
    let served = Served::start().await;
    let until = jiff::Timestamp::now() + Duration::from_secs(3);
    let expires = |(name, token): &(&'static str, NewToken)| match *name {
        "alice" => format!("{}\nexpires = {until}\n", token.entry(name)),
        _ => token.entry(name) + "\n",
    };
    let entries: String = served.tokens.iter().map(expires).collect();
    fs::write(&served.path, entries + GRANTS).unwrap();
    let mut alice = served.stream("alice").await;
    alice.subscribe("orders").await.unwrap();
    let status = alice.end().await;
    let late = jiff::Timestamp::now().duration_since(until);
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert_eq!(status.message(), "the credentials have expired");
    assert!(
        late.as_secs_f64() > -0.1 && late.as_secs_f64() < 1.0,
        "{late}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_for_administrators() {
    let served = Served::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let operations = Operations::start(listener, Security::default()).unwrap();
    operations.show(&served.server);
    for (path, name, status) in [
        ("/status", None, "401"),
        ("/metrics", None, "401"),
        ("/metrics", Some("alice"), "403"),
        ("/status", Some("root"), "200"),
        ("/metrics", Some("root"), "200"),
        ("/readyz", None, "200"),
        ("/livez", None, "200"),
    ] {
        let response = get(&operations, path, name.map(|it| served.token(it))).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{path} {name:?} {response}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_name_the_principal_of_a_slow_stream() {
    let served = Served::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let operations = Operations::start(listener, Security::default()).unwrap();
    operations.show(&served.server);
    let mut feeder = served.publisher("feeder").await.unwrap();
    for document in ["a1", "a2", "a3"] {
        let data = r#"{"owner":"alice"}"#;
        feeder.publish("orders", document, data).await.unwrap();
    }
    let mut alice = served.stream("alice").await;
    // The credit ends before the documents do.
    alice.send(Request::Subscribe(SubscribeRequest {
        credit_messages: 1,
        credit_bytes: 1_000_000,
        start: Some(steadfast_wire::streamer::subscribe_request::Start::StartOffset(0)),
        ..request("orders", "orders", Vec::new())
    }));
    assert!(alice.next().await.is_ok());
    assert_eq!(alice.document().await, "a1");
    for (path, expected) in [
        ("/status", r#""principal":"token:alice""#),
        ("/metrics", r#"principal="token:alice""#),
    ] {
        // Figures may be a tenth of a second old.
        until("alice is named", async || {
            let page = get(&operations, path, Some(served.token("root"))).await;
            page.contains(expected)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reasons_of_states_are_for_administrators() {
    let mut options = ServerOptions::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    let token = NewToken::generate().unwrap();
    fs::write(&path, policy(&[("root", token.clone())], GRANTS)).unwrap();
    options.access = Some(path);
    // Nobody listens there, which `/readyz` tells as a problem.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    let nobody = nobody.to_string();
    options.puller = Some(PullerOptions::new(nobody.parse().unwrap()));
    let server = serve(options).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let operations = Operations::start(listener, Security::default()).unwrap();
    operations.show(&server);
    let root = format!("Bearer {}", token.reveal());
    let full = get(&operations, "/readyz", Some(root)).await;
    assert!(
        full.contains("ready\nnot connected to the Puller"),
        "{full}"
    );
    for stranger in [None, Some("Bearer x".to_owned())] {
        let bare = get(&operations, "/readyz", stranger).await;
        assert!(bare.ends_with("\r\n\r\nready\n"), "{bare}");
    }
}

/// Returns the response of the listener for operations.
async fn get(operations: &Operations, path: &str, authorization: Option<String>) -> String {
    let mut socket = TcpStream::connect(operations.address()).await.unwrap();
    let token = authorization.map(|it| format!("authorization: {it}\r\n"));
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{}\r\n",
        token.unwrap_or_default()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    soon(socket.read_to_string(&mut response)).await.unwrap();
    response
}
