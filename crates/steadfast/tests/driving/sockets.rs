//! The driver on real sockets.

use std::net::SocketAddr;

use futures_util::{StreamExt as _, stream};
use steadfast::{
    grpc::{Connection, Grpc},
    session::Advice,
};
use steadfast_chaos::{Direction, Fault, Reach};
use tokio::time::{Instant, sleep};

use super::*;
use crate::support::{
    note::{After, note},
    server::{self, Responses, Server},
};

const MOMENT: Duration = Duration::from_millis(10);
const HEARTBEAT: u64 = 0;

/// Settings with short delays, and no activity timeout that a busy machine could exceed.
fn quick() -> Config {
    let mut config = Config::default();
    config.initial_backoff = MOMENT * 2;
    config.max_backoff = MOMENT * 10;
    config.heartbeat_interval = Some(MOMENT * 10);
    config.activity_timeout = None;
    config
}

/// Starts a link whose heartbeats an echoing server returns.
fn start(addr: SocketAddr, config: Config) -> Running<Connection> {
    let protocol = Notes {
        heartbeat: Some(note(HEARTBEAT)),
        ..Notes::sending(1)
    };
    let running = Running::idle(Grpc::new(addr.into()), options(config), protocol);
    running.link.start().unwrap();
    running
}

/// Waits for the next event, without returned heartbeats.
async fn next(running: &mut Running<Connection>) -> NoteEvent {
    let event = async {
        loop {
            let event = running.next().await;
            if event != NoteEvent::Note(note(HEARTBEAT)) {
                return event;
            }
        }
    };
    within("an event", event).await
}

#[tokio::test]
async fn client_started_before_server_connects_later() {
    let server = Server::start(server::echo);
    let proxy = server.proxy();
    let refused = proxy.inject(Fault::Refuse, Reach::Everything);
    let mut running = start(proxy.addr(), quick());
    running
        .until("several attempts", |status| {
            status.consecutive_failures >= 4
        })
        .await;
    assert_eq!(running.link.status().state, State::Connecting);
    drop(refused);
    running.live(1).await;
    while next(&mut running).await != NoteEvent::Note(note(1)) {}
}

#[tokio::test]
async fn black_holed_connection_is_replaced_within_activity_timeout() {
    let activity_timeout = MOMENT * 60;
    let server = Server::start(server::echo);
    let proxy = server.proxy();
    let mut config = quick();
    config.activity_timeout = Some(activity_timeout);
    let mut running = start(proxy.addr(), config);
    running.live(1).await;
    assert_eq!(next(&mut running).await, NoteEvent::Note(note(1)));
    sleep(activity_timeout * 2).await;
    assert_eq!(
        running.link.status().failed_attempts,
        0,
        "its heartbeats are answered"
    );

    let _hole = proxy.inject(Fault::Blackhole(Direction::Both), Reach::Present);
    let holed = Instant::now();
    let lost = NoteEvent::Down(End::retry(Initiator::Peer, Reason::Silent));
    assert_eq!(next(&mut running).await, lost);
    running.live(2).await;
    let recovered = holed.elapsed();
    // One second for a busy machine; TCP itself gives up after a quarter of an hour.
    assert!(
        recovered < activity_timeout * 4 / 3 + MOMENT * 100,
        "{recovered:?}"
    );
    assert_eq!(next(&mut running).await, NoteEvent::Note(note(1)));
    let stats = proxy.stats();
    assert_eq!(
        (stats.accepted, stats.open),
        (2, 1),
        "the dead connection is closed"
    );
}

#[tokio::test]
async fn reader_far_behind_on_small_messages_keeps_connection() {
    // With the default windows h2 would end the connection at half of this (ENHANCE_YOUR_CALM).
    const NOTES: u64 = 25_000;
    let server = Server::start(|incoming| async move {
        let first = incoming.request.into_inner().message().await?;
        let after = first.unwrap().number;
        let notes = stream::iter(after + 1..=NOTES).map(|number| Ok(note(number)));
        Ok(notes.chain(stream::pending()).boxed() as Responses)
    });
    let mut notes = options(quick())
        .resume(talk(), Grpc::new(server.addr.into()), After::default())
        .unwrap();
    within("live", notes.link().connect()).await.unwrap();
    sleep(MOMENT * 100).await;
    for number in 1..=NOTES {
        let next = within("a note", notes.next()).await;
        assert_eq!(next, Some(Ok(note(number))));
    }
    let link = notes.link();
    assert_eq!(
        (
            link.status().streams_established,
            link.status().failed_attempts
        ),
        (1, 0)
    );
    assert!(link.counters().read_pauses > 0);
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn server_that_accepts_and_fails_meets_growing_backoff() {
    let server = Server::start(|_| async {
        let failed = tonic::Status::unavailable("the status message");
        Ok(stream::iter([Ok(note(1)), Err(failed)]).boxed() as Responses)
    });
    let mut running = start(server.addr, quick());
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(next(&mut running).await, NoteEvent::Note(note(1)));
        let failed = NoteEvent::Down(status(14, Advice::Retry));
        assert_eq!(next(&mut running).await, failed);
    }
    // 20, 40, 80 and 100 ms, each at least 0.8 of it.
    let taken = began.elapsed();
    assert!(taken >= MOMENT * 24 * 8 / 10, "{taken:?}");
    let status = running.link.status();
    assert!(
        status.consecutive_failures >= 5,
        "a short live stream does not reset the backoff"
    );
}

#[tokio::test]
async fn reconnect_on_sockets_keeps_healthy_and_replaces_dead() {
    let server = Server::start(server::echo);
    let proxy = server.proxy();
    let mut config = quick();
    config.probe_timeout = MOMENT * 150;
    let mut running = start(proxy.addr(), config);
    running.live(1).await;
    assert_eq!(next(&mut running).await, NoteEvent::Note(note(1)));
    within("an answer", running.link.reconnect()).await.unwrap();
    // The peer answers the probe with UNIMPLEMENTED, which is a sign of life.
    assert_eq!((proxy.stats().accepted, server.calls()), (1, 1));
    assert_eq!(running.link.status().streams_established, 1);

    let _hole = proxy.inject(Fault::Blackhole(Direction::Both), Reach::Present);
    within("an answer", running.link.reconnect()).await.unwrap();
    let lost = NoteEvent::Down(End::retry(Initiator::Peer, Reason::ProbeFailed));
    assert_eq!(next(&mut running).await, lost);
    assert_eq!((proxy.stats().accepted, server.calls()), (2, 2));
}
