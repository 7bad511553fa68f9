//! Ends of a link from every state, on real sockets: nothing is left, and nothing begins again.

use std::{any::Any, future, net::SocketAddr};

use futures_util::{StreamExt as _, stream};
use steadfast::{
    Backpressure,
    dial::Step,
    grpc::{Connection, Grpc},
    session::{Activity, Ready},
};
use steadfast_chaos::{Fault, Reach};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};
use tonic::Status;

use super::*;
#[cfg(feature = "tls")]
use crate::support::relay::{Front, Relay};
use crate::support::{
    note::{After, large, note},
    server::{self, Incoming, Responses, Server},
    sockets::{self, Unreachable, nobody, towards, until_towards},
    until,
};

/// The time limit of an end.
const BOUND: Duration = Duration::from_secs(2);
/// A time in which a loop that was not stopped would have made several attempts.
const QUIET: Duration = Duration::from_millis(200);

/// A link in some state.
struct Case {
    running: Running<Connection>,
    peer: SocketAddr,
    /// Sockets to the peer and tasks that are not the link's.
    sockets: usize,
    tasks: usize,
    server: Option<Server>,
    /// Holds the peer in its state.
    guard: Option<Box<dyn Any>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Close,
    Drop,
    Leave,
}

fn config() -> Config {
    let mut config = Config::default();
    config.initial_backoff = Duration::from_millis(50);
    config.max_backoff = Duration::from_millis(50);
    config.drain_timeout = Duration::from_millis(300);
    config
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

impl Case {
    fn new(peer: SocketAddr, options: LinkOptions) -> Self {
        Self::over(Grpc::new(peer.into()), peer, options)
    }

    fn over(transport: Grpc, peer: SocketAddr, options: LinkOptions) -> Self {
        let (sockets, tasks) = (towards(peer), tasks());
        Self {
            running: Running::idle(transport, options, Notes::sending(1)),
            peer,
            sockets,
            tasks,
            server: None,
            guard: None,
        }
    }

    /// Starts a link to the server.
    fn on(server: Server, options: LinkOptions) -> Self {
        let mut case = Self::new(server.addr, options);
        case.running.link.start().unwrap();
        case.server = Some(server);
        case
    }

    async fn until(self, activity: Activity) -> Self {
        self.running
            .until("the state", |status| status.activity == activity)
            .await;
        self
    }

    /// Ends the link and checks that nothing is left and nothing begins.
    async fn end(mut self, way: Way) {
        let calls = |server: &Option<Server>| server.as_ref().map_or(0, Server::calls);
        let before = calls(&self.server);
        let link = self.running.link;
        let idle = link.status().activity == Activity::Idle;
        let began = Instant::now();
        let mut driver = 0;
        let link = match way {
            Way::Close => {
                within("closed", link.close()).await;
                // The task of the link itself ends right after it reports its end.
                assert!(
                    tasks() <= self.tasks + 1,
                    "close waits for the tasks of a connection"
                );
                assert!(link.command(note(9)).is_err());
                Some(link)
            }
            Way::Leave => {
                within("left", link.leave()).await;
                assert_eq!(link.status().state, State::Disconnected);
                driver = 1;
                Some(link)
            }
            Way::Drop => {
                drop(link);
                None
            }
        };
        while tasks() != self.tasks + driver || towards(self.peer) != self.sockets {
            assert!(
                began.elapsed() < BOUND,
                "{} tasks and {} sockets more than before",
                tasks() - self.tasks,
                towards(self.peer) - self.sockets
            );
            sleep(Duration::from_millis(2)).await;
        }
        let quiet = Instant::now();
        while quiet.elapsed() < QUIET {
            assert_eq!(towards(self.peer), self.sockets, "a dial afterwards");
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(calls(&self.server), before, "a call afterwards");
        drop(link);
        let mut stops = 0;
        while let Some(event) = within("the last event", self.running.events.recv()).await {
            stops += u32::from(matches!(event, NoteEvent::Stopped(_)));
        }
        // Leaving stops the link before it is closed, unless it was idle already.
        let expected = if way == Way::Leave && !idle { 2 } else { 1 };
        assert_eq!(stops, expected, "reported stops");
        drop(self.guard);
    }
}

async fn each_way<F: Future<Output = Case>>(make: impl Fn() -> F) {
    for way in [Way::Close, Way::Drop, Way::Leave] {
        println!("{way:?}");
        make().await.end(way).await;
    }
}

#[tokio::test]
async fn ends_from_idle_leave_nothing() {
    each_way(async || {
        let server = Server::start(server::silent);
        let mut case = Case::new(server.addr, options(config()));
        case.server = Some(server);
        case
    })
    .await;
}

#[tokio::test]
async fn ends_from_dial_to_black_hole_leave_nothing() {
    each_way(async || {
        let hole = Unreachable::start().await;
        let mut case = Case::new(hole.addr, options(config()));
        case.running.link.start().unwrap();
        until_towards(hole.addr, hole.fillers + 1).await;
        case.guard = Some(Box::new(hole));
        case
    })
    .await;
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn ends_from_each_step_of_a_dial_leave_nothing() {
    for (step, sockets) in [
        (Step::Resolve, 0),
        (Step::Proxy, 1),
        (Step::Tls, 1),
        (Step::Headers, 1),
    ] {
        println!("{step:?}");
        each_way(async || {
            let mute = Relay::start(Front::Mute, nobody());
            let dialer = dialling::hanging_in(step, mute.addr);
            let transport = Grpc::with_dialer(dialer);
            let mut case = Case::over(transport, mute.addr, options(config()));
            case.running.link.start().unwrap();
            until_towards(mute.addr, sockets).await;
            case.guard = Some(Box::new(mute));
            case.until(Activity::Opening).await
        })
        .await;
    }
}

#[tokio::test]
async fn ends_from_opening_without_headers_leave_nothing() {
    each_way(async || {
        let server = Server::start(|_| future::pending());
        let case = Case::on(server, options(config()));
        while case.server.as_ref().unwrap().calls() == 0 {
            sleep(Duration::from_millis(2)).await;
        }
        case.until(Activity::Opening).await
    })
    .await;
}

#[tokio::test]
async fn ends_from_phases_of_a_stream_leave_nothing() {
    type Handler = fn(Incoming) -> future::Ready<Result<Responses, Status>>;
    let phases: [(Ready, Handler, Activity); 3] = [
        (Ready::FirstMessage, server::silent, Activity::Greeting),
        // The greeting comes back, and nothing completes the restoration.
        (Ready::Restored, server::echo, Activity::Restoring),
        (Ready::Headers, server::silent, Activity::Live),
    ];
    for (ready, handler, activity) in phases {
        println!("{activity:?}");
        each_way(async || {
            let mut config = config();
            config.ready = ready;
            let case = Case::on(Server::start(handler), options(config));
            case.until(activity).await
        })
        .await;
    }
}

#[tokio::test]
async fn ends_from_backoff_leave_nothing() {
    each_way(async || {
        let server = Server::start(|_| async { Err(Status::unavailable("not now")) });
        let case = Case::on(server, options(config()));
        case.running
            .until("the second backoff", |status| {
                status.activity == Activity::Backoff && status.consecutive_failures >= 2
            })
            .await;
        case
    })
    .await;
}

#[tokio::test]
async fn ends_while_reading_is_paused_leave_nothing() {
    each_way(async || {
        let backpressure = Backpressure::new(1);
        backpressure.enqueued();
        let options = options(config()).backpressure(backpressure);
        let server = Server::start(|_| async {
            let notes = stream::iter(1..).map(|number| Ok(large(number, 1_000)));
            Ok(notes.boxed() as Responses)
        });
        let case = Case::on(server, options);
        while case.running.link.counters().read_pauses == 0 {
            sleep(Duration::from_millis(2)).await;
        }
        case.until(Activity::Live).await
    })
    .await;
}

/// A live link that has queued more than the socket of its frozen peer takes.
async fn frozen() -> Case {
    // With windows this wide the buffers of the sockets are full first.
    let server = Server::with_windows(1 << 26, server::silent);
    let proxy = server.proxy();
    let mut case = Case::new(proxy.addr(), options(config()));
    case.running.link.start().unwrap();
    case.server = Some(server);
    let case = case.until(Activity::Live).await;
    let freeze = proxy.inject(Fault::Freeze, Reach::Everything);
    for number in 0..16 {
        case.running.link.command(large(number, 1 << 20)).unwrap();
    }
    let full = async {
        let mut before = 0;
        loop {
            sleep(Duration::from_millis(50)).await;
            let unsent = sockets::unsent(case.peer);
            if unsent > 0 && unsent == before {
                return;
            }
            before = unsent;
        }
    };
    within("a full send buffer", full).await;
    Case {
        guard: Some(Box::new((freeze, proxy))),
        ..case
    }
}

#[tokio::test]
async fn ends_with_frozen_peer_and_full_send_buffer_leave_nothing() {
    each_way(frozen).await;
}

/// A stream that resumes after the last note its consumer has seen.
fn resumed(peer: SocketAddr) -> steadfast::Resumed<After, Connection> {
    options(config())
        .resume(talk(), Grpc::new(peer.into()), After::default())
        .unwrap()
}

#[tokio::test]
async fn close_during_backoff_ends_resumed_stream() {
    let mut notes = resumed(nobody());
    let mut status = notes.link().watch();
    until("backoff", &mut status, |status| {
        status.activity == Activity::Backoff
    })
    .await;
    within("closed", notes.link().close()).await;
    assert_eq!(within("the end", notes.next()).await, None);
    assert_eq!(notes.link().connect().await, Err(ConnectError::Closed));
    assert!(notes.link().start().is_err() && notes.send(note(1)).is_err());
    assert!(notes.link().is_closed());
    within("closed already", notes.link().closed()).await;
    within("nothing to leave", notes.link().leave()).await;
}

#[tokio::test]
async fn close_with_frozen_peer_ends_waiting_consumer() {
    let server = Server::start(server::silent);
    let proxy = server.proxy();
    let mut notes = resumed(proxy.addr());
    let mut status = notes.link().watch();
    until("live", &mut status, |status| status.streams_established > 0).await;
    let _freeze = proxy.inject(Fault::Freeze, Reach::Everything);
    let link = notes.link().clone();
    let consumer = tokio::spawn(async move { notes.next().await });
    sleep(Duration::from_millis(50)).await;
    assert!(!consumer.is_finished());
    within("closed", link.close()).await;
    assert_eq!(within("the end", consumer).await.unwrap(), None);
}

#[tokio::test]
async fn close_of_one_handle_ends_waits_on_all_handles() {
    let before = tasks();
    let server = Server::start(|_| future::pending());
    let mut notes = resumed(server.addr);
    let other = notes.link().clone();
    let waiting = tokio::spawn(async move { other.connect().await });
    let consumer = tokio::spawn(async move {
        let link = notes.link().clone();
        let closing = async move {
            sleep(Duration::from_millis(50)).await;
            link.close().await;
        };
        tokio::join!(notes.next(), closing).0
    });
    assert_eq!(within("the end", consumer).await.unwrap(), None);
    let answer = within("an answer", waiting).await.unwrap();
    assert_eq!(answer, Err(ConnectError::Closed));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(tasks(), before);
}
