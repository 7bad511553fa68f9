//! The handle of a link.

use std::{error::Error, fmt, sync::Arc};

use prost::Message;
use steadfast_session::{
    Activity, Authorization, Cause, ConfigFaults, Endpoint, Protocol, Session, State, Status,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    CallCredentials, Counters, Outage, Renewer,
    credentials::LinkCredentials,
    driver::{Command, Driver, Parts, SharedState, Statistics},
    options::{self, LinkOptions},
    state_event::StateEvents,
    transport::{Call, Connection, Transport},
};

/// A handle of a running link.
///
/// Clones are handles of the same link. Dropping the last one closes the link as [`Link::close`]
/// does, without waiting for it.
///
/// ```no_run
/// use steadfast::{Link, session::{Protocol, State}, transport::Connection};
///
/// # async fn example<P, C>(link: Link<P, C>) -> Result<(), Box<dyn std::error::Error>>
/// # where P: Protocol, C: Connection {
/// // Fails after a few attempts, while the link keeps trying.
/// if let Err(error) = link.connect().await {
///     println!("not yet: {error}");
/// }
/// let mut status = link.watch();
/// while status.changed().await.is_ok() {
///     let status = status.borrow_and_update();
///     println!("{}: {}", status.state, status.cause);
///     if status.state == State::Disconnected {
///         break;
///     }
/// }
/// link.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Link<P: Protocol, C> {
    inner: Arc<Inner<P::Command, C>>,
}

struct Inner<M, C> {
    commands: mpsc::UnboundedSender<Command<M>>,
    /// A permit per protocol command that may be queued. It travels with the command.
    command_permits: Arc<Semaphore>,
    max_commands: usize,
    /// A permit per call of `connect` or `reconnect` that may wait.
    requests: Semaphore,
    max_requests: usize,
    request_attempts: u64,
    state: Arc<SharedState<C>>,
    finished: CancellationToken,
    cancel: CancellationToken,
    _close_on_drop: DropGuard,
}

/// The error of a request to connect. The link keeps trying unless it stopped or is closed.
///
/// Its text names the last failure, and [`Error::source`] is what caused that, such as the error of
/// a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// Attempts failed while the request waited.
    Failed {
        /// The number of failed attempts.
        attempts: u64,
        /// The end of the last attempt.
        last: Cause,
    },
    /// The link stopped trying.
    Stopped(Cause),
    /// The link is closed.
    Closed,
    /// The limit of waiting requests, [`LinkOptions::max_requests`], is reached.
    Busy(usize),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { attempts, last } => write!(
                f,
                "{attempts} attempts failed, the link keeps trying; last failure: {last}"
            ),
            Self::Stopped(cause) => write!(f, "the link stopped: {cause}"),
            Self::Closed => Closed.fmt(f),
            Self::Busy(limit) => write!(
                f,
                "{limit} requests to connect are waiting already (max_requests)"
            ),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Not the end itself: its text is part of this error's.
            Self::Failed { last: cause, .. } | Self::Stopped(cause) => match cause {
                Cause::Ended(end) => end.source(),
                Cause::Requested | Cause::Live | Cause::PeerDraining(_) => None,
            },
            Self::Closed | Self::Busy(_) => None,
        }
    }
}

/// The error of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The command queue holds its limit, [`LinkOptions::max_commands`].
    #[error("the command queue is full: {0} commands are waiting (max_commands)")]
    Full(usize),
    /// The link is closed.
    #[error("the link is closed")]
    Closed,
}

/// The error of a call on a closed link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link is closed")]
pub struct Closed;

impl From<Closed> for CommandError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// The capacity for one command. Dropping it gives the capacity back.
#[must_use = "it holds capacity of the command queue until it is used or dropped"]
pub struct CommandPermit<'a, P: Protocol, C: Connection> {
    link: &'a Link<P, C>,
    permit: OwnedSemaphorePermit,
}

impl<P: Protocol, C: Connection> CommandPermit<'_, P, C> {
    /// Sends the command. Never fails for lack of capacity.
    ///
    /// # Errors
    ///
    /// Returns an error if the link was closed meanwhile.
    pub fn send(self, command: P::Command) -> Result<(), Closed> {
        let Self { link, permit } = self;
        link.queue(Command::Protocol(command, permit))
    }
}

impl LinkOptions {
    /// Spawns a link on the current tokio runtime. It stays idle until [`Link::connect`] or
    /// [`Link::start`]. `sink` receives the events of the protocol; it must not block.
    ///
    /// # Errors
    ///
    /// Returns every fault of the configuration at once.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn spawn<P, T>(
        self,
        call: Call,
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
        let seed = self.seed_or_random();
        let credentials = LinkCredentials::new(self.credentials);
        let mut config = self.config;
        // Set by the caller if the transport renews them.
        config.renews_credentials |= credentials.is_renewable();
        let renews_credentials = config.renews_credentials;
        let session = Session::new(config.check()?, seed);
        let retry_policy = options::combine(
            self.retry_policy,
            self.default_retry_policy,
            renews_credentials,
        );
        // Unbounded, because requests to connect or leave must never be lost. Commands of the
        // protocol are bounded by the permits that travel with them.
        let (commands, inbox) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let finished = CancellationToken::new();
        let state = Arc::new(SharedState::new(session.status().clone()));
        let name = self.name.unwrap_or_else(|| call.path.as_str().into());
        let driver = Driver::new(Parts {
            name: Arc::clone(&name),
            endpoint: Endpoint::new(session, protocol),
            transport,
            call,
            retry_policy,
            credentials,
            outbox_bytes: self.outbox_bytes,
            close_timeout: self.close_timeout,
            backpressure: self.backpressure,
            state_events: self.observer.map(StateEvents::spawn),
            sink: Box::new(sink),
            commands: inbox,
            state: Arc::clone(&state),
            cancel: cancel.clone(),
            #[cfg(feature = "opentelemetry")]
            spans: self.tracer.map(crate::spans::Spans::new),
        });
        #[cfg(feature = "metrics")]
        let export = crate::metrics::Export::new(self.metrics_interval, &name, &state);
        // The task is owned by the last handle: dropping it cancels the task, and `finished` is
        // cancelled when the task is gone, by a panic too.
        let guard = finished.clone().drop_guard();
        tokio::spawn(async move {
            #[cfg(feature = "metrics")]
            export.beside(driver.run()).await;
            #[cfg(not(feature = "metrics"))]
            driver.run().await;
            drop(guard);
        });
        Ok(Link {
            inner: Arc::new(Inner {
                commands,
                command_permits: Arc::new(Semaphore::new(self.max_commands)),
                max_commands: self.max_commands,
                requests: Semaphore::new(self.max_requests),
                max_requests: self.max_requests,
                request_attempts: self.request_attempts,
                state,
                finished,
                cancel: cancel.clone(),
                _close_on_drop: cancel.drop_guard(),
            }),
        })
    }
}

impl<P: Protocol, C: Connection> Link<P, C> {
    /// Sends a command to the protocol without waiting.
    ///
    /// The queue holds [`LinkOptions::max_commands`]. Bytes that commands cause to be sent are
    /// bounded by [`LinkOptions::outbox_bytes`].
    ///
    /// # Errors
    ///
    /// Returns [`CommandError::Full`] if the queue is full and [`CommandError::Closed`] if the link
    /// is closed.
    pub fn command(&self, command: P::Command) -> Result<(), CommandError> {
        Ok(self.try_reserve_command()?.send(command)?)
    }

    /// Reserves capacity in the command queue without waiting.
    ///
    /// # Errors
    ///
    /// As [`Link::command`].
    pub fn try_reserve_command(&self) -> Result<CommandPermit<'_, P, C>, CommandError> {
        if self.is_closed() {
            return Err(CommandError::Closed);
        }
        match Arc::clone(&self.inner.command_permits).try_acquire_owned() {
            Ok(permit) => Ok(CommandPermit { link: self, permit }),
            Err(_) => Err(CommandError::Full(self.inner.max_commands)),
        }
    }

    /// Waits for capacity in the command queue.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    ///
    /// # Errors
    ///
    /// Returns an error if the link is closed.
    pub async fn reserve_command(&self) -> Result<CommandPermit<'_, P, C>, Closed> {
        let permits = Arc::clone(&self.inner.command_permits);
        tokio::select! {
            // A permit that is free must not hide that nobody will use it.
            biased;
            () = self.inner.finished.cancelled() => Err(Closed),
            permit = permits.acquire_owned() => {
                let permit = permit.map_err(|_| Closed)?;
                Ok(CommandPermit { link: self, permit })
            }
        }
    }

    /// Sends a command to the protocol, after waiting for capacity in the command queue.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it resolves may leave the command out.
    ///
    /// # Errors
    ///
    /// Returns an error if the link is closed.
    pub async fn send_command(&self, command: P::Command) -> Result<(), Closed> {
        self.reserve_command().await?.send(command)
    }

    /// Serves the requests of the protocol for newer credentials: asks the source, and passes what it returns
    /// on as a command. Ends when the last requester or the link is gone, and keeps no link open.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the service; the credentials of the stream are then not renewed.
    pub fn renew_credentials(
        &self,
        mut renewer: Renewer,
        credentials: CallCredentials,
        command: fn(Authorization) -> P::Command,
    ) -> impl Future<Output = ()> + use<P, C> {
        let permits = Arc::clone(&self.inner.command_permits);
        let inner = Arc::downgrade(&self.inner);
        async move {
            while let Some(authorization) = renewer.next(&credentials).await {
                // Waits, because the queue of a busy protocol may always be full. When the link is gone, its
                // commands are dropped with their permits.
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                    return;
                };
                let Some(inner) = inner.upgrade() else {
                    return;
                };
                let command = Command::Protocol(command(authorization), permit);
                // Fails on a link that is closed, and then the next request is the last one.
                inner.commands.send(command).ok();
            }
        }
    }

    /// Starts to work towards a live stream, without waiting for it. Has no effect if started.
    ///
    /// # Errors
    ///
    /// Returns an error if the link is closed.
    pub fn start(&self) -> Result<(), Closed> {
        self.queue(Command::Connect)
    }

    /// Waits for a live stream, after starting the link if needed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; the link keeps trying.
    ///
    /// # Errors
    ///
    /// Returns an error after [`LinkOptions::request_attempts`] failed attempts, if the link stops
    /// or closes, or if too many requests wait already.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.request(Command::Connect, |before, now| {
            now.activity == Activity::Live || now.streams_established > before.streams_established
        })
        .await
    }

    /// Probes the live stream. If the peer responds, the stream is kept with everything on it;
    /// otherwise it is replaced. Without a live stream this is [`Link::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; the link keeps trying.
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

    /// Ends the stream in order. The link then stays idle until it is started again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; the link leaves all the same.
    pub async fn leave(&self) {
        if self.queue(Command::Leave).is_err() {
            return;
        }
        let mut status = self.watch();
        let left = status.wait_for(|status| status.state == State::Disconnected);
        tokio::select! {
            _ = left => {}
            () = self.inner.finished.cancelled() => {}
        }
    }

    /// Closes the link for good and waits until no task and no socket of it is left, or until the
    /// close timeout has passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; the link closes all the same.
    pub async fn close(&self) {
        self.inner.cancel.cancel();
        self.inner.finished.cancelled().await;
    }

    /// Returns true if the link is closed or closing.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.cancel.is_cancelled()
    }

    /// Waits until the link is closed and its task has ended.
    pub async fn closed(&self) {
        self.inner.finished.cancelled().await;
    }

    /// Returns the current status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.state.status.borrow().clone()
    }

    /// Subscribes to the status. A slow reader skips values, but each value is complete and lists
    /// the most recent transitions.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.inner.state.status.subscribe()
    }

    /// Subscribes to the connection of the live stream, on which a [`crate::SharedTransport`] opens
    /// further streams. `None` while no stream is live.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Option<C>> {
        self.inner.state.connection.subscribe()
    }

    /// Waits until at most `bytes` of the sent messages are not yet taken by the connection. Each
    /// message counts 32 bytes more than its length. The end of a stream discards its messages, so
    /// it ends the wait too. There is no timeout.
    ///
    /// A sender of large data waits here between its messages to bound the memory they take.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn unsent_at_most(&self, bytes: usize) {
        self.inner.state.unsent.at_most(bytes).await;
    }

    /// Returns the totals since the link was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.statistics().counters.clone()
    }

    /// Returns the most recent outages, at most 64, oldest first.
    #[must_use]
    pub fn outages(&self) -> Vec<Outage> {
        self.statistics().outages.recent().cloned().collect()
    }

    fn statistics(&self) -> std::sync::MutexGuard<'_, Statistics> {
        self.inner.state.statistics()
    }

    // Requests to start or leave carry no data and the driver takes them without waiting, so only
    // protocol commands are counted against the capacity. One queue keeps all of them in order.
    fn queue(&self, command: Command<P::Command>) -> Result<(), Closed> {
        if self.is_closed() {
            return Err(Closed);
        }
        self.inner.commands.send(command).map_err(|_| Closed)
    }

    /// Sends `command` and waits until the status satisfies `fulfilled(before, now)`. It only
    /// observes: cancelling it changes nothing in the driver.
    async fn request(
        &self,
        command: Command<P::Command>,
        fulfilled: impl Fn(&Status, &Status) -> bool,
    ) -> Result<(), ConnectError> {
        let _waiting = self
            .inner
            .requests
            .try_acquire()
            .map_err(|_| ConnectError::Busy(self.inner.max_requests))?;
        let mut status = self.watch();
        // Taken before the command is queued, so that every change that the command causes is seen.
        let before = status.borrow_and_update().clone();
        self.queue(command).map_err(|Closed| ConnectError::Closed)?;
        // The driver does not change its status for a request that is fulfilled already, so there
        // would be no change to wait for.
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
            // The status can tell before `finished` does: closing waits for sockets, which no
            // caller of this needs.
            if now.activity == Activity::Closed {
                return Err(ConnectError::Closed);
            }
            // A link that was idle is disconnected until it has taken the command; only a later
            // transition to disconnected means that it stopped.
            if now.state == State::Disconnected && now.transitions > before.transitions {
                return Err(ConnectError::Stopped(now.cause.clone()));
            }
            // Counted per request: attempts that failed before it say nothing about its own
            // chances.
            let attempts = now.failed_attempts - before.failed_attempts;
            if attempts >= self.inner.request_attempts {
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
        let status = self.inner.state.status.borrow();
        f.debug_struct("Link")
            .field("state", &status.state)
            .field("generation", &status.generation)
            .finish_non_exhaustive()
    }
}

impl<P: Protocol, C: Connection> fmt::Debug for CommandPermit<'_, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandPermit").finish_non_exhaustive()
    }
}
