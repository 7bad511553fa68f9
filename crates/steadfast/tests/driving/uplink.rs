//! One connection with a registration that dialled it and data streams that borrow it, against a
//! peer that never speaks unasked.
#![cfg(feature = "grpc")]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use steadfast::{
    Link, LinkOptions, SharedConnection, SharedTransport,
    grpc::Grpc,
    session::{
        Advice, Cause, Config, End, Generation, Initiator, Liveness, Ready, Reason, Recovery, State,
    },
    testing::{Peer, ScriptedConnection, ScriptedTransport},
    transport::{Call, Connection, Transport},
};
use steadfast_chaos::{Direction, Fault, Reach};
use support::{
    note::{Note, NoteEvent, Notes, large, note, note_sink},
    server::{Answers, Incoming, Server, path},
    someday, until, within,
};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep, timeout},
};
use tonic::Status;

/// How an agent holds its registration: alive as long as the peer answers when asked.
fn registration(unit: Duration) -> Config {
    Config {
        ready: Ready::FirstMessage,
        liveness: Liveness::Probed,
        heartbeat_interval: Some(unit * 10),
        activity_timeout: Some(unit * 90),
        probe_timeout: unit * 25,
        recovery: Recovery::Spread(unit),
        initial_backoff: unit,
        max_backoff: unit * 30,
        stable_after: unit * 30,
        ..Config::default()
    }
}

/// How it holds a data stream: the connection's life is the registration's business.
fn data(unit: Duration) -> Config {
    Config {
        ready: Ready::Accepted,
        liveness: Liveness::Received,
        heartbeat_interval: None,
        activity_timeout: None,
        ..registration(unit)
    }
}

/// A link with what it told.
struct Held<C> {
    link: Link<Notes, C>,
    told: UnboundedReceiver<NoteEvent>,
}

impl<C: Connection> Held<C> {
    /// Starts a link of that method.
    fn start<T>(transport: T, config: Config, method: &str, protocol: Notes) -> Self
    where
        T: Transport<Connection = C>,
    {
        let (sink, told) = note_sink();
        let call = Call::new(path(method)).with_metadata("agent_id", "agent-7");
        let link = LinkOptions::new()
            .config(config)
            .spawn(call, transport, protocol, sink)
            .unwrap();
        link.start().unwrap();
        Self { link, told }
    }

    /// The connection of its live stream.
    async fn connection(&self) -> C {
        let mut connection = self.link.connection();
        let live = within("a connection", connection.wait_for(Option::is_some)).await;
        live.unwrap().clone().unwrap()
    }

    async fn live(&self) {
        let mut status = self.link.watch();
        until("live", &mut status, |status| {
            status.state == State::Connected
        })
        .await;
    }

    /// What it tells next.
    async fn next(&mut self) -> NoteEvent {
        let told = someday("something it tells", self.told.recv()).await;
        told.expect("the link is there")
    }

    /// The ends it tells until it stops.
    async fn stopped(&mut self) -> End {
        loop {
            if let NoteEvent::Stopped(end) = within("a stop", self.next()).await {
                return end;
            }
        }
    }
}

impl<C: Connection> Held<SharedConnection<C>> {
    fn borrow(connection: &C, unit: Duration, method: &str) -> Self {
        let transport = SharedTransport::new(connection.clone());
        Self::start(transport, data(unit), method, Notes::default())
    }
}

fn register<T: Transport>(transport: T, unit: Duration) -> Held<T::Connection> {
    let protocol = Notes {
        heartbeat: Some(note(0)),
        ..Notes::saying(1)
    };
    Held::start(transport, registration(unit), "Register", protocol)
}

/// A second of a real agent's life.
const SECOND: Duration = Duration::from_secs(1);

/// Confirms a registration and then says nothing; answers a data stream's first request, with
/// headers that come no earlier.
fn proxy(heartbeats: &Arc<AtomicU64>) -> ScriptedTransport {
    let heartbeats = Arc::clone(heartbeats);
    ScriptedTransport::new(move |mut peer: Peer| {
        let heartbeats = Arc::clone(&heartbeats);
        async move {
            assert_eq!(
                peer.call().metadata,
                [("agent_id".to_owned(), "agent-7".to_owned())]
            );
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
    let mut metrics = Held::borrow(&first, SECOND, "Metrics");
    let lifecycle = Held::borrow(&first, SECOND, "Lifecycle");
    metrics.live().await;
    lifecycle.live().await;
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
    // Each third of the activity timeout, and nothing more: a Go peer punishes what pesters it.
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
        panic!("the registration tells of its loss first")
    };
    assert_eq!(end, End::retry(Initiator::Peer, Reason::Silent));
    let found = holed.elapsed();
    assert!((SECOND * 60..=SECOND * 90).contains(&found), "{found:?}");

    let stopped = metrics.stopped().await;
    assert_eq!(
        (stopped.initiator, stopped.advice),
        (Initiator::Network, Advice::Stop)
    );
    assert_eq!(metrics.link.status().state, State::Disconnected);
    let second = registered.connection().await;
    assert_eq!(opened(&world)[3..], [(1, "Register".to_owned())]);
    let mut anew = Held::borrow(&second, SECOND, "Metrics");
    anew.live().await;
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

/// A proxy whose data streams do something, and which counts registrations.
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
    let mut metrics = Held::borrow(&wire, SECOND, "Metrics");
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
    let metrics = Held::borrow(&wire, SECOND, "Metrics");
    let mut diagnostics = Held::borrow(&wire, SECOND, "Diagnostics");
    assert_eq!(diagnostics.stopped().await, unimplemented());
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
    let mut metrics = Held::borrow(&wire, SECOND, "Metrics");
    metrics.live().await;
    within("closed", registered.link.close()).await;
    let why = "the shared connection has ended";
    let end = End::stop(Initiator::Network, Reason::Lost(why.into()));
    assert_eq!(metrics.stopped().await, end);
    let status = metrics.link.status();
    assert_eq!(
        (status.state, status.cause),
        (State::Disconnected, Cause::Ended(end))
    );
    assert_eq!(world.dials().len(), 1, "a borrower never dials");
}

#[tokio::test(start_paused = true)]
async fn close_on_shared_connection_leaves_other_links_alone() {
    let world = with_data(Peer::receive_until_end);
    let registered = register(world.clone(), SECOND);
    let wire: ScriptedConnection = registered.connection().await;
    let metrics = Held::borrow(&wire, SECOND, "Metrics");
    let lifecycle = Held::borrow(&wire, SECOND, "Lifecycle");
    metrics.live().await;
    lifecycle.live().await;
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
    let metrics = Held::borrow(&wire, SECOND, "Metrics");
    metrics.live().await;
    let before = wire.probes();
    within("an answer", metrics.link.reconnect()).await.unwrap();
    assert_eq!(metrics.link.status().generation, Generation(1));
    assert_eq!(wire.probes(), before + 1);

    let shared = metrics.connection().await;
    let mut lent_on = Held::borrow(&shared, SECOND, "Lifecycle");
    lent_on.live().await;
    wire.kill();
    assert_eq!(lent_on.stopped().await.initiator, Initiator::Network);
    let opened = opened(&world);
    let on_the_first = opened.iter().filter(|(on, _)| *on == 0).count();
    assert_eq!(on_the_first, 3, "each once: {opened:?}");
}

/// The same on real sockets, where a second takes 10 ms.
const TICK: Duration = Duration::from_millis(10);

async fn serve(incoming: Incoming) -> Result<Answers, Status> {
    let mut asked = incoming.request.into_inner();
    if incoming.method == "Register" {
        let confirmed = stream::iter(asked.message().await.transpose());
        return Ok(confirmed.chain(stream::pending()).boxed());
    }
    // No headers before the first request, as a Go proxy does it.
    let first = asked.message().await?;
    Ok(stream::iter(first.map(Ok)).chain(asked).boxed())
}

#[tokio::test]
async fn on_sockets_silence_is_no_loss_and_black_hole_is_found() {
    let server = Server::start(serve);
    let proxy = server.proxy();
    let transport = Grpc::new(proxy.addr().into());
    let mut registered = register(transport, TICK);
    let first = registered.connection().await;
    let mut metrics = Held::borrow(&first, TICK, "Metrics");
    metrics.live().await;
    let confirmed = within("the confirmation", registered.next()).await;
    assert_eq!(confirmed, NoteEvent::Note(note(1)));

    sleep(TICK * 90 * 2).await;
    assert_eq!(proxy.stats().accepted, 1);
    assert_eq!(registered.link.status().generation, Generation(1));
    assert_eq!(metrics.link.status().generation, Generation(1));
    metrics.link.command(note(5)).unwrap();
    assert_eq!(
        within("an answer", metrics.next()).await,
        NoteEvent::Note(note(5))
    );

    let hole = proxy.inject(Fault::Blackhole(Direction::Both), Reach::Present);
    let holed = Instant::now();
    let lost = within("the loss", registered.next()).await;
    assert_eq!(
        lost,
        NoteEvent::Down(End::retry(Initiator::Peer, Reason::Silent))
    );
    assert!(
        holed.elapsed() < TICK * 90 + SECOND,
        "and a second for a busy machine"
    );
    assert_eq!(metrics.stopped().await.initiator, Initiator::Network);
    let second = registered.connection().await;
    let mut anew = Held::borrow(&second, TICK, "Metrics");
    anew.live().await;
    anew.link.command(note(6)).unwrap();
    assert_eq!(
        within("an answer", anew.next()).await,
        NoteEvent::Note(note(6))
    );
    drop(hole);
    sleep(TICK * 20).await;
    assert_eq!(proxy.stats().accepted, 2, "one loss, one dial");
    assert_eq!(anew.link.status().generation, Generation(1));
}

#[tokio::test]
async fn closed_stream_on_shared_connection_ends_at_unreading_peer() {
    let held = Arc::new(());
    let holding = Arc::clone(&held);
    let server = Server::start(move |incoming| {
        let unread = (incoming.request, Arc::clone(&holding));
        let registering = incoming.method == "Register";
        async move {
            let confirmed = stream::iter(registering.then(|| Ok(note(1))));
            let rest = stream::once(async move {
                let _unread = unread;
                std::future::pending().await
            });
            Ok(confirmed.chain(rest).boxed() as Answers)
        }
    });
    let registered = register(Grpc::new(server.addr.into()), TICK);
    let connection = registered.connection().await;
    let metrics = Held::borrow(&connection, TICK, "Metrics");
    metrics.live().await;
    // More than the peer's window: the rest waits on our side, and would for ever.
    for number in 0..64 {
        metrics.link.command(large(number, 64 << 10)).unwrap();
    }
    let holders = async |wanted: usize| {
        while Arc::strong_count(&held) != 2 + wanted {
            sleep(Duration::from_millis(2)).await;
        }
    };
    within("both calls at the peer", holders(2)).await;
    sleep(TICK * 5).await;
    within("closed", metrics.link.close()).await;
    within("the end of the call at the peer", holders(1)).await;
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
