//! The handle of a link, and how one is made.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use steadfast_session::{
    Activity, Advice, Cause, CheckedConfig, Config, ConfigFaults, End, Endpoint, Protocol, Session,
    State, Status,
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Counters, Outage,
    driver::{Command, Driver, Parts, Policy, Record, Shown},
    gate::Gate,
    notice::{Notice, Notices},
    transport::{Call, Connection, Transport},
};

/// A handle of a running link. Clones are handles of the same one; when the last is dropped the
/// link closes as with [`Link::close`], without anybody waiting for it.
pub struct Link<P: Protocol, C> {
    inner: Arc<Inner<P::Command, C>>,
}

struct Inner<M, C> {
    commands: mpsc::UnboundedSender<Command<M>>,
    shown: Arc<Shown<C>>,
    requests: Semaphore,
    finished: CancellationToken,
    cancel: CancellationToken,
    _close_on_drop: DropGuard,
}

/// How a link is made.
pub struct Builder {
    name: Arc<str>,
    config: Config,
    call: Call,
    policy: Policy,
    outbox_bytes: usize,
    close_timeout: Duration,
    seed: Option<u64>,
    gate: Option<Arc<Gate>>,
    observer: Option<Box<dyn FnMut(Notice) + Send>>,
}

/// Why a request to connect was not fulfilled. The link itself goes on trying, unless it stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Attempts failed while the request waited.
    #[error("{attempts} attempts failed, the link goes on trying; the last: {last}")]
    Failed {
        /// How many.
        attempts: u64,
        /// How the last one ended.
        last: Cause,
    },
    /// The link stopped trying.
    #[error("the link stopped: {0}")]
    Stopped(Cause),
    /// The link is closed.
    #[error("the link is closed")]
    Closed,
    /// Too many requests are waiting already.
    #[error("{0} requests are waiting already")]
    Busy(usize),
}

/// The link is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link is closed")]
pub struct Closed;

/// Requests to connect or reconnect that may wait at a time.
const REQUESTS: usize = 10;

/// Failed attempts after which a waiting request is answered.
const REQUEST_ATTEMPTS: u64 = 3;

impl Builder {
    /// A link that opens `call`.
    #[must_use]
    pub fn new(call: Call) -> Self {
        Self {
            name: call.path.as_str().into(),
            config: Config::default(),
            call,
            policy: Box::new(|_| None),
            outbox_bytes: 64 << 20,
            close_timeout: Duration::from_secs(2),
            seed: None,
            gate: None,
            observer: None,
        }
    }

    /// The name in logs. Default: the path of the call.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How the session behaves.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Decides again what is to be done after an end; `None` leaves it as the transport advised.
    #[must_use]
    pub fn policy(mut self, policy: impl Fn(&End) -> Option<Advice> + Send + 'static) -> Self {
        self.policy = Box::new(policy);
        self
    }

    /// Unsent bytes at which a stream is given up, as one whose peer does not read. Default 64 MiB.
    #[must_use]
    pub fn outbox_bytes(mut self, limit: usize) -> Self {
        self.outbox_bytes = limit;
        self
    }

    /// Limit on the wait for tasks and sockets when closing. Default 2 s.
    #[must_use]
    pub fn close_timeout(mut self, limit: Duration) -> Self {
        self.close_timeout = limit;
        self
    }

    /// The seed of the jitter. Default: random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Holds reading back while the gate is shut.
    #[must_use]
    pub fn gate(mut self, gate: Arc<Gate>) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Is told of every transition, on a task of its own. It may call back into the handle.
    #[must_use]
    pub fn on_notice(mut self, observer: impl FnMut(Notice) + Send + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Starts the link on the current tokio runtime. It attempts nothing before
    /// [`Link::connect`] or [`Link::start`]. `sink` takes what the protocol tells; it must not block.
    ///
    /// # Errors
    ///
    /// Every fault of the configuration at once.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn spawn<P, T>(
        self,
        transport: T,
        protocol: P,
        sink: impl FnMut(P::Event) + Send + 'static,
    ) -> Result<Link<P, T::Connection>, ConfigFaults>
    where
        P: Protocol + Send + 'static,
        P::Send: Message + Send + 'static,
        P::Receive: Message + Default,
        P::Command: Send + 'static,
        P::Event: Send + 'static,
        T: Transport,
    {
        let config: CheckedConfig = self.config.check()?;
        let seed = self
            .seed
            .unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let session = Session::new(config, seed);
        let (commands, inbox) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let finished = CancellationToken::new();
        let shown = Arc::new(Shown {
            status: watch::Sender::new(session.status().clone()),
            connection: watch::Sender::new(None),
            record: std::sync::Mutex::new(Record::default()),
            unsent: Arc::default(),
        });
        let driver = Driver::new(Parts {
            name: self.name,
            endpoint: Endpoint::new(session, protocol),
            transport,
            call: self.call,
            policy: self.policy,
            outbox_bytes: self.outbox_bytes,
            close_timeout: self.close_timeout,
            gate: self.gate,
            notices: self.observer.map(Notices::to),
            sink: Box::new(sink),
            commands: inbox,
            shown: Arc::clone(&shown),
            cancel: cancel.clone(),
        });
        // The task's owner is the last handle: dropping it cancels, and `finished` is its join.
        let guard = finished.clone().drop_guard();
        tokio::spawn(async move {
            driver.run().await;
            drop(guard);
        });
        Ok(Link {
            inner: Arc::new(Inner {
                commands,
                shown,
                requests: Semaphore::new(REQUESTS),
                finished,
                cancel: cancel.clone(),
                _close_on_drop: cancel.drop_guard(),
            }),
        })
    }
}

impl<P: Protocol, C: Connection> Link<P, C> {
    /// Asks the protocol for something. What is asked after [`Link::close`] is not heard.
    ///
    /// Never waits. The driver takes commands without ever waiting either, and what they make it send is
    /// bounded by [`Builder::outbox_bytes`]; a protocol whose commands can come faster than they are worked
    /// off bounds them in its handle, as the Streamer's publisher does.
    ///
    /// # Errors
    ///
    /// When the link is closed.
    pub fn command(&self, command: P::Command) -> Result<(), Closed> {
        self.tell(Command::Protocol(command))
    }

    /// Begins to work towards a live stream, without waiting for it. Harmless when begun already.
    ///
    /// # Errors
    ///
    /// When the link is closed.
    pub fn start(&self) -> Result<(), Closed> {
        self.tell(Command::Connect)
    }

    /// Waits for a live stream, working towards one if the link does not yet.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer; the link goes on.
    ///
    /// # Errors
    ///
    /// After three failed attempts, when the link stops, or when ten requests wait already.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.request(Command::Connect, |before, now| {
            now.activity == Activity::Live || now.streams_established > before.streams_established
        })
        .await
    }

    /// Probes the live stream and keeps it, with everything on it, when the peer answers; replaces
    /// it otherwise. Without a live stream it is [`Link::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer; the link goes on.
    ///
    /// # Errors
    ///
    /// As [`Link::connect`].
    pub async fn reconnect(&self) -> Result<(), ConnectError> {
        self.request(Command::Reconnect, |before, now| {
            now.streams_established > before.streams_established
                || now.probes_answered > before.probes_answered
        })
        .await
    }

    /// Ends the stream in order and attempts nothing afterwards, until asked to connect again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the wait, not the leaving.
    pub async fn leave(&self) {
        if self.tell(Command::Leave).is_err() {
            return;
        }
        let mut status = self.watch();
        let left = status.wait_for(|status| status.state == State::Disconnected);
        tokio::select! {
            _ = left => {}
            () = self.inner.finished.cancelled() => {}
        }
    }

    /// Ends everything for good and waits until no task and no socket is left, at most the close
    /// timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the wait, not the closing.
    pub async fn close(&self) {
        self.inner.cancel.cancel();
        self.inner.finished.cancelled().await;
    }

    /// Whether the link is closed, or closing.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.cancel.is_cancelled()
    }

    /// Resolves when the link is closed and nothing of it is left.
    pub async fn closed(&self) {
        self.inner.finished.cancelled().await;
    }

    /// The status now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.shown.status.borrow().clone()
    }

    /// Follows the status. The newest value tells the whole; none is lost to a slow observer but
    /// those that a newer one has replaced.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.inner.shown.status.subscribe()
    }

    /// Follows the connection of the live stream, to borrow streams on it.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Option<C>> {
        self.inner.shown.connection.subscribe()
    }

    /// Waits until at most `bytes` of what was sent still wait to be taken by the connection, 32 of
    /// them counted for each message. Whoever has more to send than one wants to hold in memory
    /// waits here between the pieces; the end of a stream makes room as well. It sets no limit in time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn room(&self, bytes: usize) {
        self.inner.shown.unsent.at_most(bytes).await;
    }

    /// What the link has done.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.record().counters.clone()
    }

    /// The newest outages, at most 64, oldest first.
    #[must_use]
    pub fn outages(&self) -> Vec<Outage> {
        self.record().outages.recent().cloned().collect()
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.inner
            .shown
            .record
            .lock()
            .expect("nothing panics while it holds the record")
    }

    fn tell(&self, command: Command<P::Command>) -> Result<(), Closed> {
        if self.is_closed() {
            return Err(Closed);
        }
        self.inner.commands.send(command).map_err(|_| Closed)
    }

    /// Observes the one loop: it never changes what the loop would do after the request.
    async fn request(
        &self,
        command: Command<P::Command>,
        fulfilled: impl Fn(&Status, &Status) -> bool,
    ) -> Result<(), ConnectError> {
        let _waiting = self
            .inner
            .requests
            .try_acquire()
            .map_err(|_| ConnectError::Busy(REQUESTS))?;
        let mut status = self.watch();
        let before = status.borrow_and_update().clone();
        self.tell(command).map_err(|Closed| ConnectError::Closed)?;
        if before.activity == Activity::Live && fulfilled(&before, &before) {
            return Ok(());
        }
        loop {
            tokio::select! {
                biased;
                () = self.inner.finished.cancelled() => return Err(ConnectError::Closed),
                changed = status.changed() => changed.map_err(|_| ConnectError::Closed)?,
            }
            let now = status.borrow_and_update();
            if fulfilled(&before, &now) {
                return Ok(());
            }
            if now.activity == Activity::Closed {
                return Err(ConnectError::Closed);
            }
            if now.state == State::Disconnected && now.transitions > before.transitions {
                return Err(ConnectError::Stopped(now.cause.clone()));
            }
            let attempts = now.failed_attempts - before.failed_attempts;
            if attempts >= REQUEST_ATTEMPTS {
                return Err(ConnectError::Failed {
                    attempts,
                    last: now.cause.clone(),
                });
            }
        }
    }
}

impl<P: Protocol, C> Clone for Link<P, C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<P: Protocol, C> fmt::Debug for Link<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.inner.shown.status.borrow();
        f.debug_struct("Link")
            .field("state", &status.state)
            .field("generation", &status.generation)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("call", &self.call)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
