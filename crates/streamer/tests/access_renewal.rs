//! Tokens that expire while a stream is open, on real sockets.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{
    fs,
    future::IntoFuture as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use steadfast::{CredentialsError, LinkOptions, Metadata, session::State};
use steadfast_access::NewToken;
use steadfast_streamer::{
    Client, Entry, Filter, Publisher,
    server::{Server, ServerOptions},
};
use steadfast_wire::publisher::publish_response::Payload as Response;
use support::{DATABASE, publishing::Publishing, serve, serve_plainly, soon, until};
use tempfile::TempDir;
use tonic::Code;

const GRANTS: &str = r#"
[[grants]]
role = "customer"
databases = ["default"]
collections = ["orders"]
actions = ["subscribe"]
[[members]]
roles = ["customer"]
principals = ["token:alice"]
"#;

/// An issuer of JWTs, and a server that knows it.
struct Issued {
    server: Server,
    key: Ed25519KeyPair,
    _folder: TempDir,
}

/// Only the team `audit` publishes to `audit`.
const PUBLISHERS: &str = r#"
[jwt]
keys = "keys.json"
issuer = "i"
audience = "a"
[[grants]]
role = "writer"
databases = ["default"]
collections = ["orders"]
actions = ["publish"]
[[grants]]
role = "auditor"
databases = ["default"]
collections = ["audit"]
actions = ["publish"]
[[members]]
roles = ["writer"]
principals = ["jwt:*"]
[[members]]
roles = ["auditor"]
principals = ["jwt:*"]
claims = { team = "audit" }
"#;

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

/// Returns the value of `authorization` with a token until a time in seconds.
fn jwt(key: &Ed25519KeyPair, subject: &str, team: &str, until: i64) -> String {
    let claims =
        format!(r#"{{"iss":"i","aud":"a","sub":"{subject}","exp":{until},"team":"{team}"}}"#);
    let header = encode(br#"{"alg":"EdDSA","kid":"k"}"#);
    let signed = format!("{header}.{}", encode(claims.as_bytes()));
    format!(
        "Bearer {signed}.{}",
        encode(key.sign(signed.as_bytes()).as_ref())
    )
}

impl Issued {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = Ed25519KeyPair::generate().unwrap();
        let keys = format!(
            r#"{{"keys":[{{"kty":"OKP","kid":"k","crv":"Ed25519","x":"{}"}}]}}"#,
            encode(key.public_key().as_ref())
        );
        fs::write(folder.path().join("keys.json"), keys).unwrap();
        let path = folder.path().join("access.toml");
        fs::write(&path, PUBLISHERS).unwrap();
        let mut options = ServerOptions::default();
        options.access = Some(path);
        Self {
            server: serve(options).await,
            key,
            _folder: folder,
        }
    }

    /// Returns the value of `authorization` of a feeder that is valid for long.
    fn token(&self, team: &str) -> String {
        jwt(&self.key, "feeder", team, now() + 600)
    }

    async fn open(&self, authorization: &str) -> Publishing {
        let opened = Publishing::open(self.server.address(), authorization, "p");
        opened.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_outlives_its_tokens_on_one_stream() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    let [first, second] = [(); 2].map(|()| NewToken::generate().unwrap());
    let expires = Timestamp::now() + Duration::from_secs(8);
    let entries = format!(
        "{}\nexpires = {expires}\n{}\n",
        first.entry("alice"),
        second.entry("alice")
    );
    fs::write(&path, entries + GRANTS).unwrap();
    let mut options = ServerOptions::default();
    options.access = Some(path);
    let server = serve(options).await;
    let tokens = Mutex::new([first, second].into_iter());
    let source = move |refused: bool| {
        assert!(!refused, "no credentials are refused");
        let token = tokens.lock().unwrap().next();
        async move {
            let token = token.ok_or(CredentialsError::Other("no more tokens".into()))?;
            Ok(Metadata::new().with("authorization", format!("Bearer {}", token.reveal()))?)
        }
    };
    let client = Client::builder(server.address().to_string())
        .link(LinkOptions::new().credentials(source))
        .build()
        .unwrap();
    let orders = client.subscribe(DATABASE, "orders", Filter::all());
    let _orders = soon(orders.into_future()).await.unwrap();
    until("the renewal", || async {
        client.counters().await.renewals == 1
    })
    .await;
    assert!(Timestamp::now() < expires, "before the first token expires");
    // The server would have ended the stream by now, and the source has no third token.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(client.counters().await.renewals, 1);
    assert_eq!(client.outages().len(), 0);
    assert_eq!(client.status().state, State::Connected);
    server.drain(Duration::from_secs(1), "test").await.unwrap();
}

/// The log has each entry once: each is acknowledged, none as a duplicate, and there are as many events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_outlives_its_tokens_on_one_stream() {
    let Issued {
        server,
        key,
        _folder,
    } = Issued::start().await;
    let expiries = Arc::new(Mutex::new(Vec::new()));
    let source = {
        let expiries = Arc::clone(&expiries);
        move |refused: bool| {
            assert!(!refused, "no credentials are refused");
            let until = now() + 6;
            expiries.lock().unwrap().push(until);
            let token = jwt(&key, "feeder", "", until);
            async move { Ok(Metadata::new().with("authorization", token)?) }
        }
    };
    let publisher = Publisher::builder(server.address().to_string())
        .link(LinkOptions::new().credentials(source))
        .build()
        .unwrap();
    let outlived = || {
        expiries
            .lock()
            .unwrap()
            .get(1)
            .is_some_and(|it| now() > *it)
    };
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    let mut count = 0;
    while !outlived() {
        pace.tick().await;
        let mut pending = Vec::new();
        for number in count..count + 16 {
            let entry = Entry::upsert(DATABASE, "orders", format!("u{number}"), "{}");
            pending.push(soon(publisher.enqueue(entry)).await.unwrap());
        }
        for entry in pending {
            let acknowledged = soon(entry).await.unwrap();
            assert_ne!(acknowledged.position, None, "{acknowledged:?}");
            count += 1;
        }
    }
    let status = publisher.status();
    assert_eq!((status.state, status.generation.0), (State::Connected, 1));
    assert_eq!(status.streams_established, 1);
    let stored = server.stats().await.unwrap().counters.events;
    assert_eq!(stored, count);
    publisher.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_credentials_decide_about_the_next_entry() {
    let issued = Issued::start().await;
    let mut feeder = issued.open(&issued.token("audit")).await;
    assert!((590_000..=600_000).contains(&feeder.expires_in_ms));
    feeder.publish("audit", "a", "{}").await.unwrap();
    // The entry does not wait for the answer.
    feeder.authenticate(&issued.token(""));
    feeder.enqueue("audit", "b", "{}");
    match feeder.next().await.unwrap() {
        Response::Authenticated(it) => assert!((590_000..=600_000).contains(&it.expires_in_ms)),
        other => panic!("{other:?}"),
    }
    let denied = feeder.next().await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    // More rights act at once as well.
    let mut feeder = issued.open(&issued.token("")).await;
    assert_eq!(feeder.last, 1);
    feeder.publish("orders", "a", "{}").await.unwrap();
    feeder.authenticate(&issued.token("audit"));
    feeder.enqueue("audit", "b", "{}");
    let answer = feeder.next().await;
    assert!(matches!(answer, Ok(Response::Authenticated(_))));
    assert!(matches!(feeder.next().await, Ok(Response::Ack(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_renewal_ends_the_stream_of_a_publisher() {
    let issued = Issued::start().await;
    let other = jwt(&issued.key, "other", "audit", now() + 600);
    let expired = jwt(&issued.key, "feeder", "audit", now() - 1);
    for (newer, text) in [
        (
            &*other,
            "the credentials are those of another principal now",
        ),
        (&expired, "the credentials have expired"),
        ("Bearer x", "the credentials are not valid"),
    ] {
        let feeder = issued.token("audit");
        let mut feeder = issued.open(&feeder).await;
        feeder.authenticate(newer);
        let end = feeder.next().await.unwrap_err();
        assert_eq!((end.code(), end.message()), (Code::Unauthenticated, text));
    }
    let feeder = issued.token("audit");
    let mut hurried = issued.open(&feeder).await;
    for _ in 0..4 {
        hurried.authenticate(&feeder);
    }
    for _ in 0..3 {
        let answer = hurried.next().await;
        assert!(matches!(answer, Ok(Response::Authenticated(_))));
    }
    let end = hurried.next().await.unwrap_err();
    assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_ends_when_its_newest_token_expires() {
    let issued = Issued::start().await;
    for newer in [None, Some(5)] {
        let began = now();
        let mut until = began + 3;
        let mut idle = issued.open(&jwt(&issued.key, "feeder", "", until)).await;
        assert!((1..=3_000).contains(&idle.expires_in_ms));
        if let Some(newer) = newer {
            until = began + newer;
            idle.authenticate(&jwt(&issued.key, "feeder", "", until));
            let answer = idle.next().await;
            assert!(matches!(answer, Ok(Response::Authenticated(_))));
        }
        let until = Timestamp::from_second(until).unwrap();
        let end = idle.next().await.unwrap_err();
        let late = Timestamp::now().duration_since(until).as_secs_f64();
        assert_eq!(
            (end.code(), end.message()),
            (Code::Unauthenticated, "the credentials have expired")
        );
        assert!((-0.1..1.0).contains(&late), "{late}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_policy_a_publisher_hears_of_no_credentials() {
    let server = serve_plainly().await;
    let opened = Publishing::open(server.address(), "Bearer any", "p");
    let mut publishing = opened.await.unwrap();
    assert_eq!(publishing.expires_in_ms, 0);
    for _ in 0..100 {
        publishing.authenticate("Bearer other");
    }
    publishing.publish("orders", "a", "{}").await.unwrap();
}
