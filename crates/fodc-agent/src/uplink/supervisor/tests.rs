use std::{
    future::Future,
    sync::{Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use steadfast::{
    Outbound,
    transport::{Call, Connection, Inbound, StreamActivity},
};
use steadfast_session::{Config, Generation, Ready};
use tokio::time::sleep;

use super::*;
use crate::uplink::registration::{AGENT_ID, StreamKey};
use crate::{
    identity::Identity,
    uplink::{
        metrics_stream::MetricsStream,
        query_responder::{Responding, Timeouts},
        sample_store::{SampleStore, StoreError, Visitor},
    },
};

/// A connection that accepts streams, keeps them open, and remembers the agent id of each.
#[derive(Clone, Default)]
struct Quiet(Arc<Mutex<Streams>>);

#[derive(Default)]
struct Streams {
    opened: Vec<String>,
    open: usize,
}

impl Quiet {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap()
    }
}

/// An open stream.
struct Held(Quiet);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.streams().open -= 1;
    }
}

struct Silence;

impl Inbound for Silence {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        Poll::Pending
    }
}

impl Connection for Quiet {
    type Inbound = Silence;

    /// Accepts the stream but never sends a message.
    fn open(
        &self,
        call: &Call,
        outbound: Outbound,
        activity: Arc<StreamActivity>,
    ) -> impl Future<Output = Result<Silence, End>> + Send + 'static {
        let whose = call.metadata.get(AGENT_ID).unwrap().to_owned();
        let mut streams = self.streams();
        streams.opened.push(whose);
        streams.open += 1;
        drop(streams);
        let held = Held(self.clone());
        async move {
            activity.request_accepted();
            std::future::pending::<()>().await;
            drop((held, outbound));
            Ok(Silence)
        }
    }

    fn probe(&self) -> impl Future<Output = bool> + Send + 'static {
        std::future::ready(true)
    }

    fn kill(&self) {}

    fn is_closed(&self) -> bool {
        false
    }

    fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::ready(())
    }
}

struct Empty;

impl SampleStore for Empty {
    fn latest(&self, _: &mut dyn Visitor) -> Result<(), StoreError> {
        Ok(())
    }

    fn window(&self, _: i64, _: i64, _: &mut dyn Visitor) -> Result<(), StoreError> {
        Ok(())
    }
}

fn by(attempt: u64) -> Registered {
    Registered {
        agent_id: format!("agent-{attempt}"),
        generation: Generation(attempt),
        heartbeat_interval: None,
        profile: None,
        stream_key: StreamKey::default(),
    }
}

/// A running supervisor with its inputs.
struct Rig {
    registered: watch::Sender<Option<Registered>>,
    connection: watch::Sender<Option<Quiet>>,
    cancel: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    _identity: watch::Sender<Arc<Identity>>,
}

impl Rig {
    fn start() -> Self {
        let registered = watch::Sender::new(None);
        let connection = watch::Sender::new(None);
        let identity = watch::Sender::new(Arc::new(Identity::default()));
        let mut config = Config::default();
        config.ready = Ready::Accepted;
        config.heartbeat_interval = None;
        config.activity_timeout = None;
        let supervisor = Supervisor {
            registered: registered.subscribe(),
            connection: connection.subscribe(),
            opener: MetricsStream {
                config: config.check().unwrap(),
                credentials: CallCredentials::default(),
                responding: Responding {
                    store: Arc::new(Empty),
                    identity: identity.subscribe(),
                    message_bytes: None,
                    timeouts: Timeouts::default(),
                    clock: Arc::new(|| 0),
                    counters: Arc::default(),
                },
            },
            status: Arc::new(watch::Sender::new(None)),
        };
        let cancel = CancellationToken::new();
        let running = tokio::spawn(supervisor.run(cancel.clone()));
        Self {
            registered,
            connection,
            cancel,
            running,
            _identity: identity,
        }
    }

    /// Replaces connection and registration without giving the supervisor time to see the gap.
    fn replace(&self, attempt: u64) -> Quiet {
        let connection = Quiet::default();
        self.registered.send_replace(None);
        self.connection.send_replace(Some(connection.clone()));
        self.registered.send_replace(Some(by(attempt)));
        connection
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.running.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn unseen_new_registration_gets_its_own_stream() {
    let rig = Rig::start();
    let mut before = rig.replace(1);
    sleep(Duration::from_secs(5)).await;
    for attempt in 2..=20 {
        // Some registrations are gone before the supervisor runs.
        for brief in 0..attempt % 3 {
            let unseen = rig.replace(100 * attempt + brief);
            assert_eq!(unseen.streams().opened, [] as [String; 0]);
        }
        let now = rig.replace(attempt);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(now.streams().opened, [format!("agent-{attempt}")]);
        assert_eq!(now.streams().open, 1);
        assert_eq!(before.streams().open, 0, "what is over is let go");
        before = now;
    }
    rig.stop().await;
    assert_eq!(before.streams().open, 0);
}

#[tokio::test(start_paused = true)]
async fn metrics_stream_needs_registration_and_connection() {
    let rig = Rig::start();
    rig.registered.send_replace(Some(by(1)));
    sleep(Duration::from_secs(5)).await;
    let connection = Quiet::default();
    rig.connection.send_replace(Some(connection.clone()));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(connection.streams().opened, ["agent-1"]);
    rig.registered.send_replace(None);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(connection.streams().opened.len(), 1);
    assert_eq!(connection.streams().open, 0);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn same_end_is_logged_once_in_five_minutes() {
    let refused = |message: &str| {
        let reason = Reason::Status {
            code: 16,
            message: message.to_owned(),
        };
        End::retry(Initiator::Peer, reason)
    };
    let mut log = EndLog::new("metrics");
    assert!(log.is_news(&refused("no agent id")));
    assert!(!log.is_news(&refused("no agent id")));
    assert!(log.is_news(&refused("unknown agent")));
    tokio::time::advance(SAME_END_LOGGED_EVERY).await;
    assert!(
        log.is_news(&refused("unknown agent")),
        "it still has no metrics stream"
    );
}

#[test]
fn only_a_refused_length_is_too_long_and_retried() {
    for (code, message, is_long) in [
        (8, "grpc: received message larger than max (5 vs. 4)", true),
        (
            8,
            "grpc: received message after decompression larger than max 4",
            true,
        ),
        (
            8,
            "SERVER: Received message larger than max (5 vs. 4)",
            true,
        ),
        (8, "gRPC message exceeds maximum size 4: 5", true),
        (
            8,
            "Received message exceeds the maximum configured message size.",
            true,
        ),
        (8, "you make more calls than one principal may", false),
        (8, "you have 5000 open calls, which is the limit", false),
        (
            8,
            "the unfinished messages of all connections are too large together",
            false,
        ),
        (8, "the agent does not read", false),
        (8, "", false),
        (14, "received message larger than max (5 vs. 4)", false),
    ] {
        let end = End::status(code, message, Advice::Wait(None));
        assert_eq!(is_too_long(&end.reason), is_long, "{message}");
        let expected = is_long.then_some(Advice::Retry);
        assert_eq!(advice(&end), expected, "{message}");
    }
    let busy = Advice::Wait(Some(Duration::from_secs(9)));
    let pushed_back = End::status(8, "received message larger than max (5 vs. 4)", busy);
    assert_eq!(advice(&pushed_back), None, "the peer's own delay");
}
