//! The way to a server for other parts of its process.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{future::IntoFuture as _, time::Duration};

use steadfast::{CallCredentials, LinkOptions, Metadata};
use steadfast_streamer::{
    Client, Entry, Filter, Publisher, client::SubscribeError, server::ServerOptions,
};
use support::{quick, serve, soon};

#[tokio::test]
async fn local_peer_may_do_everything_and_others_need_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    // Nobody may do anything.
    std::fs::write(&path, "").unwrap();
    let mut options = ServerOptions::default();
    options.access = Some(path.clone());
    options.local = true;
    let server = serve(options).await;
    let local = server.local().unwrap();
    let link = |credentials: CallCredentials| LinkOptions::from(quick()).credentials(credentials);
    let client = Client::builder(local.dialer())
        .link(link(local.credentials()))
        .build()
        .unwrap();
    let mut orders = soon(
        client
            .subscribe("db", "orders", Filter::all())
            .into_future(),
    )
    .await
    .unwrap();
    let publisher = Publisher::builder(local.dialer())
        .link(link(local.credentials()))
        .build()
        .unwrap();
    // The rules change meanwhile, and none of them is about it.
    std::fs::write(&path, "# still nobody\n").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let entry = Entry::upsert("db", "orders", "1", "{}");
    soon(publisher.publish(entry)).await.unwrap();
    let item = soon(orders.next()).await.unwrap().unwrap();
    assert_eq!(&*item.change().unwrap().document_id, "1");

    let wrong = Metadata::new().with("authorization", "Bearer guessed");
    for credentials in [CallCredentials::default(), wrong.unwrap().into()] {
        let mut config = quick();
        config.max_retries = 1;
        let link = LinkOptions::from(config).credentials(credentials);
        let stranger = Client::builder(local.dialer()).link(link).build().unwrap();
        let refused = soon(
            stranger
                .subscribe("db", "orders", Filter::all())
                .into_future(),
        )
        .await;
        assert!(
            matches!(refused, Err(SubscribeError::Stopped(_))),
            "{refused:?}"
        );
    }
}
