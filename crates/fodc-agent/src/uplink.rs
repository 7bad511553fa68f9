//! From the agent up to the proxy: registration, heartbeats, answers.
//!
//! Two links and nothing beside them. The *registration* dials, and everything hangs on it; the
//! *metrics stream* borrows its connection and begins again alone. There is no second loop that tries
//! again anywhere, and nobody here sleeps.
//!
//! ```no_run
//! use steadfast_fodc_agent::{identity::Identity, uplink::{Responder, Uplink}};
//! use tokio::sync::watch;
//!
//! # async fn example(record: impl Responder) -> Result<(), Box<dyn std::error::Error>> {
//! let identity = watch::Sender::new(Identity {
//!     role: "ROLE_DATA".to_owned(),
//!     pod_name: "db-0".to_owned(),
//!     ..Identity::default()
//! });
//! let uplink = Uplink::builder("127.0.0.1:17912", identity.subscribe(), record).build()?;
//! uplink.start();
//! // … and when the agent stops:
//! uplink.disconnect().await;
//! uplink.close().await;
//! # Ok(())
//! # }
//! ```

mod answer;
mod answerer;
mod builder;
mod limits;
mod metrics;
mod question;
mod registration;
mod responder;
mod supervisor;
mod tally;

use std::{fmt, sync::Arc, time::Duration};

use steadfast::{ConnectError, Link, Outage, grpc, transport::Connection};
use steadfast_session::Status;
use tokio::{sync::watch, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{
    builder::{BuildFaults, Builder},
    registration::Registered,
    responder::{Responder, Series, Unreadable, Visitor, Wanted},
    tally::Counters,
};
use self::{registration::Registration, supervisor::Shown, tally::Tally};
use steadfast_fodc_model::identity::Identity;

/// An agent's connection to its proxy.
///
/// Connected means that the proxy answered the registration with success and an id; the metrics stream
/// has a state of its own and gates nothing. Clones are handles of the same uplink; when the last one is
/// dropped it closes as with [`Uplink::close`], without anybody waiting for it.
pub struct Uplink<C: Connection = grpc::Connection> {
    inner: Arc<Inner<C>>,
}

struct Inner<C: Connection> {
    link: Link<Registration, C>,
    registered: Arc<watch::Sender<Option<Registered>>>,
    metrics: Arc<Shown>,
    tally: Arc<Tally>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

/// For the end of the streams on a connection that is cut already.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl Uplink {
    /// An uplink to the proxy at `address`, `host:port`, of the agent that `identity` says now and
    /// later, answering from `responder`.
    #[must_use]
    pub fn builder(
        address: impl Into<String>,
        identity: watch::Receiver<Identity>,
        responder: impl Responder,
    ) -> Builder {
        Builder::new(address.into(), identity, Arc::new(responder))
    }
}

impl<C: Connection> Uplink<C> {
    /// Begins to work towards a registration, without waiting for it. Harmless when begun already;
    /// after [`Uplink::disconnect`] it begins anew. A closed uplink stays closed.
    pub fn start(&self) {
        // A closed link says so to whoever waits for it.
        self.inner.link.start().ok();
    }

    /// Waits until the agent is registered, working towards it if nobody does yet.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer; the uplink goes on.
    ///
    /// # Errors
    ///
    /// After three failed attempts, while the uplink goes on trying; when it is disconnected or closed;
    /// when ten requests wait already.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.inner.link.connect().await
    }

    /// Keeps the registration, and everything on it, if the proxy answers a probe within 5 s;
    /// registers anew otherwise.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer; the uplink goes on.
    ///
    /// # Errors
    ///
    /// As [`Uplink::connect`].
    pub async fn reconnect(&self) -> Result<(), ConnectError> {
        self.inner.link.reconnect().await
    }

    /// Ends the registration in order, and the metrics stream with it, 4 s at most. Nothing is attempted
    /// until [`Uplink::start`]. Harmless when there is nothing to end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the wait, not the ending.
    pub async fn disconnect(&self) {
        self.inner.link.leave().await;
        let mut metrics = self.inner.metrics.subscribe();
        let ended = metrics.wait_for(Option::is_none);
        // What is still ending is on a connection that is cut, and ends by itself.
        timeout(CLOSE_TIMEOUT, ended).await.ok();
    }

    /// Ends everything at once and for good, and waits until no task and no socket is left, 2 s at most. A
    /// proxy that is to be told that the agent leaves is told by [`Uplink::disconnect`] before.
    ///
    /// A thread that is stuck in the record is not waited for.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the wait, not the closing.
    pub async fn close(&self) {
        self.inner.link.close().await;
        self.inner.cancel.cancel();
        timeout(CLOSE_TIMEOUT, self.inner.tasks.wait()).await.ok();
    }

    /// The state of the registration and why it is so.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.link.status()
    }

    /// Follows the state of the registration; the newest value tells the whole.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.inner.link.watch()
    }

    /// Follows the registration that holds.
    #[must_use]
    pub fn registered(&self) -> watch::Receiver<Option<Registered>> {
        self.inner.registered.subscribe()
    }

    /// The state of the metrics stream, while a registration holds.
    #[must_use]
    pub fn metrics_status(&self) -> Option<Status> {
        let metrics = self.inner.metrics.borrow().clone();
        metrics.map(|status| status.borrow().clone())
    }

    /// What the uplink counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.tally.now()
    }

    /// What the registration's link counted: attempts, ends and their reasons.
    #[must_use]
    pub fn link_counters(&self) -> steadfast::Counters {
        self.inner.link.counters()
    }

    /// The newest outages and what they consisted of, at most 64, oldest first.
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
