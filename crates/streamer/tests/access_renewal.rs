//! A client whose tokens expire while its stream is open, on real sockets.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{fs, future::IntoFuture as _, sync::Mutex, time::Duration};

use steadfast::{CredentialsError, LinkOptions, Metadata, session::State};
use steadfast_access::NewToken;
use steadfast_streamer::{Client, Filter, server::ServerOptions};
use support::{serve, soon};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_outlives_its_tokens_on_one_stream() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    let [first, second] = [(); 2].map(|()| NewToken::generate().unwrap());
    let expires = jiff::Timestamp::now() + Duration::from_secs(8);
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
    let orders = client.subscribe(support::DATABASE, "orders", Filter::all());
    let _orders = soon(orders.into_future()).await.unwrap();
    support::until("the renewal", || async {
        client.counters().await.renewals == 1
    })
    .await;
    assert!(
        jiff::Timestamp::now() < expires,
        "before the first token expires"
    );
    // The server would have ended the stream by now, and the source has no third token.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(client.counters().await.renewals, 1);
    assert_eq!(client.outages().len(), 0);
    assert_eq!(client.status().state, State::Connected);
    server.drain(Duration::from_secs(1), "test").await.unwrap();
}
