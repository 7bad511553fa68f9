//! The agent's connection to its proxy: registration, heartbeats and responses to queries.
//!
//! An uplink consists of several links. The *registration* opens the connection and sends heartbeats.
//! The *metrics stream* shares that connection, carries queries and responses, and is reopened on
//! its own; so does the stream of each configured source. Only the sessions of these links retry; there is no other reconnect loop.
//!
//! ```no_run
//! use steadfast_fodc_agent::{identity::Identity, uplink::{SampleStore, Uplink}};
//! use tokio::sync::watch;
//!
//! # async fn example(store: impl SampleStore) -> Result<(), Box<dyn std::error::Error>> {
//! let identity = watch::Sender::new(Identity {
//!     role: "ROLE_DATA".to_owned(),
//!     pod_name: "db-0".to_owned(),
//!     ..Identity::default()
//! });
//! let uplink = Uplink::builder("127.0.0.1:17912", identity.subscribe(), store).build()?;
//! uplink.start();
//! // … and when the agent stops:
//! uplink.disconnect().await;
//! uplink.close().await;
//! # Ok(())
//! # }
//! ```

mod builder;
mod counters;
mod message_limit;
mod metrics_stream;
mod query;
mod query_responder;
mod query_stream;
mod refusals;
mod registration;
mod response;
mod sample_store;
pub(crate) mod source;
mod source_stream;
mod supervisor;

use std::{fmt, sync::Arc, time::Duration};

use steadfast::{ConnectError, Link, Outage, dial::Servers, grpc, transport::Connection};
use steadfast_fodc_model::identity::Identity;
use steadfast_session::Status;
use tokio::{sync::watch, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{
    builder::{BuildFaults, Builder},
    counters::Counters,
    registration::Registered,
    sample_store::{SampleStore, Series, StoreError, Visit, Visitor},
};
use self::{
    counters::AtomicCounters,
    registration::{Command, Registration},
    supervisor::StreamStatus,
};
pub(crate) use self::{response::timestamp, source_stream::SourceStatus};

/// An agent's connection to its proxy.
///
/// It is connected once the proxy has accepted the registration with an id; the metrics stream has a
/// status of its own and delays nothing. Clones are handles of the same uplink. Dropping the last one
/// closes the uplink as [`Uplink::close`] does, without waiting.
pub struct Uplink<C: Connection = grpc::Connection> {
    inner: Arc<Inner<C>>,
}

struct Inner<C: Connection> {
    link: Link<Registration, C>,
    /// The identity as the caller wants it, valid or not.
    identity: watch::Receiver<Identity>,
    registered: Arc<watch::Sender<Option<Registered>>>,
    metrics: Arc<StreamStatus>,
    /// The streams of the configured sources.
    sources: Vec<SourceStatus>,
    counters: Arc<AtomicCounters>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

/// The time for streams to end on a connection that is already cut.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl Uplink {
    /// Returns a builder of an uplink to a proxy: its address as text, or a
    /// [`Dialer`](steadfast::dial::Dialer). The agent registers with the current `identity` and follows its changes; responses are read from `store`.
    #[must_use]
    pub fn builder(
        proxy: impl Into<Servers>,
        identity: watch::Receiver<Identity>,
        store: impl SampleStore,
    ) -> Builder {
        Builder::new(proxy.into(), identity, Arc::new(store))
    }
}

impl<C: Connection> Uplink<C> {
    /// Starts to register without waiting. It does nothing if started already or closed, and starts
    /// again after [`Uplink::disconnect`].
    pub fn start(&self) {
        self.pass_identity();
        // A closed link reports that to callers of `connect`.
        self.inner.link.start().ok();
    }

    /// Gives the link the identity as of now, ahead of the attempt that is asked for next. Otherwise the
    /// task that follows the identity could be late, and the releases ignore a role after the
    /// registration.
    fn pass_identity(&self) {
        // Borrowed until it is queued, so that it cannot come after a newer one.
        let now = self.inner.identity.borrow();
        if now.check().is_ok() {
            let command = Command::SetIdentity(Arc::new(now.clone()));
            // If the queue is full, the task that follows the identity waits for its place.
            self.inner.link.command(command).ok();
        }
    }

    /// Waits until the agent is registered, starting if necessary.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the result; the uplink continues.
    ///
    /// # Errors
    ///
    /// After three failed attempts, while the uplink continues to try; when it is disconnected or
    /// closed; when ten requests wait already.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.pass_identity();
        self.inner.link.connect().await
    }

    /// Probes the proxy, and registers again if it does not respond within 5 s.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the result; the uplink continues.
    ///
    /// # Errors
    ///
    /// As [`Uplink::connect`].
    pub async fn reconnect(&self) -> Result<(), ConnectError> {
        self.inner.link.reconnect().await
    }

    /// Ends the registration and the metrics stream in order, within 4 s. The uplink is then idle
    /// until [`Uplink::start`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops waiting; the streams still end.
    pub async fn disconnect(&self) {
        self.inner.link.leave().await;
        // The supervisor closes the metrics stream once it sees the registration end.
        let mut metrics = self.inner.metrics.subscribe();
        let ended = metrics.wait_for(Option::is_none);
        // The connection is cut by now, so a stream that is still there ends by itself.
        timeout(CLOSE_TIMEOUT, ended).await.ok();
    }

    /// Returns the streams of the configured sources.
    pub(crate) fn source_streams(&self) -> &[SourceStatus] {
        &self.inner.sources
    }

    /// Closes the uplink for good and waits, at most 2 s, until no task and no socket is left. Call
    /// [`Uplink::disconnect`] before to tell the proxy that the agent leaves.
    ///
    /// A thread that is stuck in the store is not waited for.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops waiting; the uplink still closes.
    pub async fn close(&self) {
        // The link first: its connection carries the metrics stream, which then ends by itself.
        self.inner.link.close().await;
        self.inner.cancel.cancel();
        timeout(CLOSE_TIMEOUT, self.inner.tasks.wait()).await.ok();
    }

    /// Returns the status of the registration.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.link.status()
    }

    /// Subscribes to the status of the registration. The newest value is complete by itself.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.inner.link.watch()
    }

    /// Subscribes to the current registration.
    #[must_use]
    pub fn registered(&self) -> watch::Receiver<Option<Registered>> {
        self.inner.registered.subscribe()
    }

    /// Returns the status of the metrics stream while the agent is registered.
    #[must_use]
    pub fn metrics_status(&self) -> Option<Status> {
        let metrics = self.inner.metrics.borrow().clone();
        metrics.map(|status| status.borrow().clone())
    }

    /// Returns the counters of the uplink.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.counters.snapshot()
    }

    /// Returns the counters of the registration's link: attempts, ends and their reasons.
    #[must_use]
    pub fn link_counters(&self) -> steadfast::Counters {
        self.inner.link.counters()
    }

    /// Returns the newest outages, at most 64, oldest first.
    #[must_use]
    pub fn outages(&self) -> Vec<Outage> {
        self.inner.link.outages()
    }
}

impl<C: Connection> Clone for Uplink<C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<C: Connection> fmt::Debug for Uplink<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink")
            .field("registration", &self.inner.link)
            .field("registered", &*self.inner.registered.borrow())
            .finish_non_exhaustive()
    }
}
