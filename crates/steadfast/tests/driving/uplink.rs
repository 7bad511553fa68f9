//! One connection that a registration dials and data streams share, to a peer that sends nothing
//! unasked.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::{StreamExt as _, stream};
use steadfast::{
    SharedConnection, SharedTransport,
    grpc::Grpc,
    session::{Advice, Cause, Generation, Liveness, Ready, Recovery},
    transport::Call,
};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::support::{
    note::{large, note},
    server::{Responses, Server, path},
    until,
};

/// The settings of an agent's registration: the peer is alive as long as it answers probes.
fn registration(unit: Duration) -> Config {
    let mut config = Config::default();
    config.ready = Ready::FirstMessage;
    config.liveness = Liveness::Probed;
    config.heartbeat_interval = Some(unit * 10);
    config.activity_timeout = Some(unit * 90);
    config.probe_timeout = unit * 25;
    config.recovery = Recovery::Spread(unit);
    config.initial_backoff = unit;
    config.max_backoff = unit * 30;
    config.stable_after = unit * 30;
    config
}

/// The settings of a data stream, which leaves liveness to the registration.
fn data(unit: Duration) -> Config {
    let mut config = registration(unit);
    config.ready = Ready::Accepted;
    config.liveness = Liveness::Received;
    config.heartbeat_interval = None;
    config.activity_timeout = None;
    config
}

/// Starts a link that calls `method`.
fn start<T: Transport>(
    transport: T,
    config: Config,
    method: &str,
    protocol: Notes,
) -> Running<T::Connection> {
    let call = Call::new(path(method))
        .with_metadata("agent_id", "agent-7")
        .unwrap();
    let options = LinkOptions::from(config);
    let running = Running::spawn(call, transport, options, protocol);
    running.link.start().unwrap();
    running
}

fn register<T: Transport>(transport: T, unit: Duration) -> Running<T::Connection> {
    let protocol = Notes {
        heartbeat: Some(note(0)),
        ..Notes::sending(1)
    };
    start(transport, registration(unit), "Register", protocol)
}

/// Starts a data stream on the connection.
fn share<C: Connection>(
    connection: &C,
    unit: Duration,
    method: &str,
) -> Running<SharedConnection<C>> {
    let transport = SharedTransport::new(connection.clone());
    start(transport, data(unit), method, Notes::default())
}

/// A proxy that confirms registrations and then sends nothing. It answers the first request of a data
/// stream, and sends its headers no earlier.
fn proxy(heartbeats: &Arc<AtomicU64>) -> ScriptedTransport {
    let heartbeats = Arc::clone(heartbeats);
    ScriptedTransport::new(move |mut peer: Peer| {
        let heartbeats = Arc::clone(&heartbeats);
        async move {
            assert_eq!(peer.call().metadata.get("agent_id"), Some("agent-7"));
            let registering = peer.method() == "Register";
            if let Some(first) = peer.receive::<Note>().await {
                peer.send_headers();
                peer.send(&first);
            }
            while peer.receive::<Note>().await.is_some() {
                heartbeats.fetch_add(u64::from(registering), Ordering::AcqRel);
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn probed_hour_of_silence_is_no_loss_and_black_hole_is_found() {
    let heartbeats = Arc::default();
    let world = proxy(&heartbeats);
    let mut registered = register(world.clone(), SECOND);
    let first = registered.connection().await;
    let mut metrics = share(&first, SECOND, "Metrics");
    let lifecycle = share(&first, SECOND, "Lifecycle");
    metrics.live(1).await;
    lifecycle.live(1).await;
    assert_eq!(registered.next().await, NoteEvent::Note(note(1)));

    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(world.dials().len(), 1);
    assert_eq!(
        opened(&world),
        [(0, "Register"), (0, "Metrics"), (0, "Lifecycle")].map(|(on, what)| (on, what.to_owned()))
    );
    assert_eq!(registered.link.status().generation, Generation(1));
    for data in [&metrics, &lifecycle] {
        let status = data.link.status();
        assert_eq!(
            (status.generation, status.state),
            (Generation(1), State::Connected)
        );
    }
    let beats = heartbeats.load(Ordering::Acquire);
    assert!((359..=360).contains(&beats), "{beats} heartbeats");
    // One per third of the activity timeout and no more: a Go peer ends connections with too many pings.
    let probes = first.probes();
    assert!((119..=120).contains(&probes), "{probes} probes");

    metrics.link.command(note(5)).unwrap();
    assert_eq!(
        metrics.next().await,
        NoteEvent::Note(note(5)),
        "after the hour"
    );

    let holed = Instant::now();
    first.black_hole();
    let NoteEvent::Down(end) = registered.next().await else {
        panic!("the loss of the registration comes first")
    };
    assert_eq!(end, End::retry(Initiator::Peer, Reason::Silent));
    let found = holed.elapsed();
    assert!((SECOND * 60..=SECOND * 90).contains(&found), "{found:?}");

    let stopped = within("a stop", metrics.stopped()).await;
    assert_eq!(
        (stopped.initiator, stopped.advice),
        (Initiator::Network, Advice::Stop)
    );
    assert_eq!(metrics.link.status().state, State::Disconnected);
    let second = registered.connection().await;
    assert_eq!(opened(&world)[3..], [(1, "Register".to_owned())]);
    let mut anew = share(&second, SECOND, "Metrics");
    anew.live(1).await;
    anew.link.command(note(6)).unwrap();
    assert_eq!(anew.next().await, NoteEvent::Note(note(6)));
    assert_eq!(opened(&world)[4..], [(1, "Metrics".to_owned())]);

    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.dials().len(), 2, "one loss, one dial");
    assert!(first.is_closed(), "the dead connection is gone");
}

#[tokio::test(start_paused = true)]
async fn peer_is_dead_an_activity_timeout_after_last_probe_response() {
    let world = proxy(&Arc::default());
    let mut registered = register(world.clone(), SECOND);
    let wire = registered.connection().await;
    registered.next().await;
    for _ in 0..7 {
        let before = registered.link.status().probes_answered;
        let mut status = registered.link.watch();
        timeout(
            SECOND * 31,
            status.wait_for(|status| status.probes_answered > before),
        )
        .await
        .expect("a probe each third of the activity timeout")
        .unwrap();
    }
    let last_life = Instant::now();
    wire.black_hole();
    assert!(matches!(registered.next().await, NoteEvent::Down(_)));
    let found = last_life.elapsed();
    assert!(
        (SECOND * 89..=SECOND * 91).contains(&found),
        "{found:?} after the last sign of life"
    );
}

/// A proxy that confirms registrations and runs `data` for every other stream.
fn with_data<F>(data: impl Fn(Peer) -> F + Send + Sync + 'static) -> ScriptedTransport
where
    F: Future<Output = ()> + Send + 'static,
{
    let data = Arc::new(data);
    ScriptedTransport::new(move |mut peer: Peer| {
        let data = Arc::clone(&data);
        async move {
            if peer.method() != "Register" {
                return data(peer).await;
            }
            if let Some(asked) = peer.receive::<Note>().await {
                peer.send_headers();
                peer.send(&asked);
            }
            peer.receive_until_end().await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn ended_data_stream_recovers_alone() {
    let world = with_data(|mut peer| async move {
        peer.send_headers();
        if let Some(asked) = peer.receive::<Note>().await {
            peer.send(&asked);
        }
    });
    let registered = register(world.clone(), SECOND);
    let wire = registered.connection().await;
    let mut metrics = share(&wire, SECOND, "Metrics");
    for generation in 1..=5 {
        let mut status = metrics.link.watch();
        let live = until("live again", &mut status, |status| {
            status.state == State::Connected && status.generation == Generation(generation)
        });
        live.await;
        metrics.link.command(note(generation)).unwrap();
        assert_eq!(metrics.next().await, NoteEvent::Note(note(generation)));
        assert_eq!(
            within("its end", metrics.next()).await,
            NoteEvent::Down(End::retry(Initiator::Peer, Reason::Finished))
        );
        sleep(SECOND * 40).await;
    }
    assert_eq!(world.dials().len(), 1);
    assert_eq!(registered.link.status().generation, Generation(1));
    assert_eq!(registered.link.counters().ends.len(), 0);
}

fn unimplemented() -> End {
    let reason = Reason::Status {
        code: 12,
        message: String::new(),
    };
    End::stop(Initiator::Peer, reason)
}

#[tokio::test(start_paused = true)]
async fn unimplemented_data_stream_stops_only_its_link() {
    let world = with_data(|peer| async move {
        if peer.method() == "Diagnostics" {
            peer.end(unimplemented());
        } else {
            peer.receive_until_end().await;
        }
    });
    let registered = register(world.clone(), SECOND);
    let wire = registered.connection().await;
    let metrics = share(&wire, SECOND, "Metrics");
    let mut diagnostics = share(&wire, SECOND, "Diagnostics");
    assert_eq!(
        within("a stop", diagnostics.stopped()).await,
        unimplemented()
    );
    sleep(Duration::from_secs(600)).await;
    let opened = opened(&world);
    let of = |method: &str| opened.iter().filter(|(_, what)| what == method).count();
    assert_eq!(
        (of("Diagnostics"), of("Metrics"), of("Register")),
        (1, 1, 1)
    );
    assert_eq!(metrics.link.status().state, State::Connected);
    assert_eq!(registered.link.status().state, State::Connected);
}

#[tokio::test(start_paused = true)]
async fn loss_of_shared_connection_stops_the_links_on_it() {
    let world = with_data(Peer::receive_until_end);
    let registered = register(world.clone(), SECOND);
    let wire = registered.connection().await;
    let mut metrics = share(&wire, SECOND, "Metrics");
    metrics.live(1).await;
    within("closed", registered.link.close()).await;
    let why = "the shared connection has ended";
    let end = End::stop(Initiator::Network, Reason::Lost(why.into()));
    assert_eq!(within("a stop", metrics.stopped()).await, end);
    let status = metrics.link.status();
    assert_eq!(
        (status.state, status.cause),
        (State::Disconnected, Cause::Ended(end))
    );
    assert_eq!(
        world.dials().len(),
        1,
        "a link on a shared connection never dials"
    );
}

#[tokio::test(start_paused = true)]
async fn close_on_shared_connection_leaves_other_links_alone() {
    let world = with_data(Peer::receive_until_end);
    let registered = register(world.clone(), SECOND);
    let wire: ScriptedConnection = registered.connection().await;
    let metrics = share(&wire, SECOND, "Metrics");
    let lifecycle = share(&wire, SECOND, "Lifecycle");
    metrics.live(1).await;
    lifecycle.live(1).await;
    within("closed", metrics.link.close()).await;
    sleep(SECOND * 200).await;
    assert!(!wire.is_closed());
    assert_eq!(lifecycle.link.status().generation, Generation(1));
    assert_eq!(registered.link.status().generation, Generation(1));
}

#[tokio::test(start_paused = true)]
async fn shared_connection_is_probed_and_can_be_shared_again() {
    let world = with_data(Peer::receive_until_end);
    let registered = register(world.clone(), SECOND);
    let wire = registered.connection().await;
    let metrics = share(&wire, SECOND, "Metrics");
    metrics.live(1).await;
    let before = wire.probes();
    within("an answer", metrics.link.reconnect()).await.unwrap();
    assert_eq!(metrics.link.status().generation, Generation(1));
    assert_eq!(wire.probes(), before + 1);

    let shared = metrics.connection().await;
    let mut second = share(&shared, SECOND, "Lifecycle");
    second.live(1).await;
    wire.kill();
    assert_eq!(
        within("a stop", second.stopped()).await.initiator,
        Initiator::Network
    );
    let opened = opened(&world);
    let on_the_first = opened.iter().filter(|(on, _)| *on == 0).count();
    assert_eq!(on_the_first, 3, "each once: {opened:?}");
}

/// The unit of time on real sockets.
const TICK: Duration = Duration::from_millis(10);

#[tokio::test]
async fn closed_stream_on_shared_connection_ends_at_unreading_peer() {
    let calls = Arc::new(());
    let counted = Arc::clone(&calls);
    let server = Server::start(move |incoming| {
        let unread = (incoming.request, Arc::clone(&counted));
        let registering = incoming.method == "Register";
        async move {
            let confirmed = stream::iter(registering.then(|| Ok(note(1))));
            let rest = stream::once(async move {
                let _unread = unread;
                std::future::pending().await
            });
            Ok(confirmed.chain(rest).boxed() as Responses)
        }
    });
    let registered = register(Grpc::new(server.addr.into()), TICK);
    let connection = registered.connection().await;
    let metrics = share(&connection, TICK, "Metrics");
    metrics.live(1).await;
    // More than the peer's window: the rest would wait on our side for ever.
    for number in 0..64 {
        metrics.link.command(large(number, 64 << 10)).unwrap();
    }
    // The test and the handler have a clone each, and every call at the peer one more.
    let open_calls = async |wanted: usize| {
        while Arc::strong_count(&calls) != 2 + wanted {
            sleep(Duration::from_millis(2)).await;
        }
    };
    within("both calls at the peer", open_calls(2)).await;
    sleep(TICK * 5).await;
    within("closed", metrics.link.close()).await;
    within("the end of the call at the peer", open_calls(1)).await;
    assert!(!connection.is_closed());
    assert_eq!(registered.link.status().generation, Generation(1));
}

/// The connection and the method of every stream.
fn opened(world: &ScriptedTransport) -> Vec<(usize, String)> {
    let method = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let streams = world.streams().into_iter();
    streams
        .map(|stream| (stream.connection, method(&stream.call.path)))
        .collect()
}
