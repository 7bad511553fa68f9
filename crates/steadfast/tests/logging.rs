//! Log lines. This test is alone in its binary: tracing caches which lines are enabled for all threads,
//! and tests without a subscriber would disable them for this one.
#![cfg(feature = "grpc")]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use steadfast::{
    LinkOptions,
    testing::{Peer, ScriptedTransport},
};
use support::{
    note::{Note, Notes, note_sink},
    server::talk,
    until, within,
};
use tokio::time::sleep;

/// Everything logged on this thread while it lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn transitions_and_outages_are_logged_without_payload() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let world = ScriptedTransport::new(async |peer: Peer| {
        peer.send_headers();
        peer.receive_until_end().await;
    });
    let (sink, _told) = note_sink();
    let link = LinkOptions::new()
        .name("orders")
        .spawn(talk(), world.clone(), Notes::sending(1), sink)
        .unwrap();
    within("live", link.connect()).await.unwrap();
    let secret = Note {
        number: 2,
        body: "a secret".into(),
    };
    link.command(secret).unwrap();
    sleep(Duration::from_secs(40)).await;
    world.connections()[0].cut();
    until("live again", &mut link.watch(), |status| {
        status.streams_established == 2
    })
    .await;
    link.close().await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let of = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    let transitions = link.status().transitions;
    assert_eq!(
        of(" INFO steadfast::driver::perform: state link=orders from="),
        5
    );
    assert_eq!(transitions, 5, "{log}");
    let lost = "from=connected to=reconnecting cause=connection lost: cut \
                (ended by network) generation=1";
    assert_eq!(of(lost), 1, "{log}");
    assert_eq!(
        of("recovered link=orders reason=lost outage_ms="),
        1,
        "{log}"
    );
    assert_eq!(
        of("stopped link=orders end=caller left (ended by us)"),
        1,
        "{log}"
    );
    assert_eq!(of("secret"), 0, "payloads are never logged: {log}");
}
