//! The client as applications meet it: the core put onto a link.
//!
//! ```no_run
//! use steadfast_streamer::{Client, Filter, Item};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("127.0.0.1:9000").build()?;
//! let mut users = client.subscribe("default", "users", Filter::all()).await?;
//! while let Some(item) = users.next().await {
//!     match item? {
//!         Item::Change(change) => println!("{:?} {}", change.operation, change.document_id),
//!         // Changes may be missing: read again whatever was made of them.
//!         gap => println!("{gap:?}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod builder;
mod registry;
mod subscription;

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use steadfast::{
    CommandError, ConnectError, Link, Outage, grpc,
    session::{End, Reason, Status},
    transport::Connection,
};
use tokio::{runtime::Handle, sync::watch};

use self::registry::{CommandSender, Registry};
pub use self::{
    builder::{BuildError, Builder},
    subscription::{Ended, Subscription},
};
use steadfast_streamer_core::{
    Position,
    client::{Command, Core},
    filter::Filter,
};

pub use steadfast_streamer_core::client::{
    Change, Counters, Gap, GapReason, Item, Limits, Refusal, Resync, ResyncReason, Start,
};

/// A connection to a Streamer server that stays up, and subscriptions on it that stay right.
///
/// Clones are handles of the same client, and so is every [`Subscription`]; when the last of them is
/// dropped the client closes as with [`Client::close`], without anybody waiting for it. It may be
/// used from many tasks.
pub struct Client<C: Connection = grpc::Connection> {
    inner: Arc<Inner<C>>,
}

struct Inner<C: Connection> {
    link: Link<Core, C>,
    registry: Arc<Registry>,
    runtime: Handle,
}

/// The server at the other end of the newest stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// Its name for itself; empty with a plain peer.
    pub id: String,
    /// The newest place of its log when it greeted; `None` with a plain peer, which can not resume.
    pub head: Option<Position>,
}

/// A subscription on its way: await it.
///
/// # Cancel safety
///
/// Dropping the future cancels the subscription, wherever it is on its way.
#[must_use = "nothing is asked for before it is awaited"]
pub struct Subscribe<C: Connection = grpc::Connection> {
    client: Client<C>,
    database: String,
    collection: String,
    filter: Filter,
    start: Start,
}

/// Why there is no subscription.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The server refused it.
    #[error(transparent)]
    Refused(Refusal),
    /// The client stopped, before or meanwhile; it can be connected again.
    #[error("the client stopped: {0}")]
    Stopped(End),
    /// The client is closed, or was left and not started again.
    #[error("the client is closed, or was left")]
    Closed,
}

impl SubscribeError {
    fn stopped(end: End) -> Self {
        if end.reason == Reason::Left {
            Self::Closed
        } else {
            Self::Stopped(end)
        }
    }
}

impl Client {
    /// A client of the server at `address`, `host:port`.
    #[must_use]
    pub fn builder(address: impl Into<String>) -> Builder {
        Builder::new(address.into())
    }
}

impl<C: Connection> Client<C> {
    fn new(link: Link<Core, C>, registry: Arc<Registry>) -> Self {
        Self {
            inner: Arc::new(Inner {
                link,
                registry,
                runtime: Handle::current(),
            }),
        }
    }

    /// Asks for the changes in one collection of one database that the filter holds for. Await it
    /// as it is to begin with the next change, or say first where to begin, with
    /// [`Subscribe::after`].
    ///
    /// It may be awaited while there is no connection. It stays wanted through every loss of the
    /// stream and resolves when some server has answered.
    ///
    /// # Errors
    ///
    /// When the server refuses it, or the client is closed or gives up.
    pub fn subscribe(
        &self,
        database: impl Into<String>,
        collection: impl Into<String>,
        filter: Filter,
    ) -> Subscribe<C> {
        Subscribe {
            client: self.clone(),
            database: database.into(),
            collection: collection.into(),
            filter,
            start: Start::Now,
        }
    }

    /// Begins to connect again after the client stopped or was left. Harmless otherwise; a closed
    /// client stays closed.
    pub fn start(&self) {
        if !self.inner.link.is_closed() {
            self.inner.registry.resume();
        }
        // A closed link says so to whoever subscribes.
        self.inner.link.start().ok();
    }

    /// Waits until the client is connected: every subscription that was wanted is answered.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer; the client goes on.
    ///
    /// # Errors
    ///
    /// After three failed attempts, while the client goes on trying, or when it stops.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.start();
        self.inner.link.connect().await
    }

    /// Keeps the connection if the server answers a probe, replaces it otherwise.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer; the client goes on.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub async fn reconnect(&self) -> Result<(), ConnectError> {
        self.inner.registry.resume();
        self.inner.link.reconnect().await
    }

    /// Ends the stream in order, and every subscription with it; nothing is attempted until
    /// [`Client::start`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the wait, not the leaving.
    pub async fn leave(&self) {
        self.inner.link.leave().await;
    }

    /// Ends everything for good, and waits until no task and no socket is left, 2 s at most. Every
    /// subscription yields what is queued, then `None`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the wait, not the closing.
    pub async fn close(&self) {
        self.inner.link.close().await;
    }

    /// The state of the connection and why it is so.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.link.status()
    }

    /// Follows the state; the newest value tells the whole.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.inner.link.watch()
    }

    /// The server at the other end of the newest stream; `None` before the first greeting and after
    /// the client stopped.
    #[must_use]
    pub fn server(&self) -> Option<Server> {
        self.inner.registry.server()
    }

    /// The newest measured round trip of a heartbeat.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.inner.registry.rtt()
    }

    /// What the client counted, brought up to date; after it is closed, as it last was.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn counters(&self) -> Counters {
        let mut counters = self.inner.registry.counters();
        if self.inner.link.send_command(Command::Report).await.is_ok() {
            tokio::select! {
                _ = counters.changed() => {}
                () = self.inner.link.closed() => {}
            }
        }
        *counters.borrow()
    }

    /// What the link below counted.
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

impl<C: Connection> Subscribe<C> {
    /// Begins after this place, for example one stored by an earlier process, instead of now.
    pub fn after(mut self, position: Position) -> Self {
        self.start = Start::After(position);
        self
    }

    async fn answered(self) -> Result<Subscription, SubscribeError> {
        let Inner { link, registry, .. } = &*self.client.inner;
        if link.is_closed() {
            return Err(SubscribeError::Closed);
        }
        let (id, slot) = registry.add().map_err(SubscribeError::stopped)?;
        let commands = Arc::clone(&self.client.inner) as Arc<dyn CommandSender>;
        // From here on a drop of the future cancels it.
        let subscription = Subscription::new(id, slot, Arc::clone(registry), commands);
        let command = Command::Subscribe {
            id,
            database: self.database,
            collection: self.collection,
            filter: self.filter,
            start: self.start,
        };
        let sent = link.send_command(command).await;
        sent.map_err(|_| SubscribeError::Closed)?;
        let answer = std::future::poll_fn(|cx| subscription.slot().poll_response(cx)).await;
        match answer {
            Ok(()) => Ok(subscription),
            Err(Some(Ended::Refused(refusal))) => Err(SubscribeError::Refused(refusal)),
            Err(Some(Ended::Stopped(end))) => Err(SubscribeError::stopped(end)),
            Err(None) => Err(SubscribeError::Closed),
        }
    }
}

impl<C: Connection> IntoFuture for Subscribe<C> {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.answered())
    }
}

impl<C: Connection> CommandSender for Inner<C> {
    fn send(self: Arc<Self>, command: Command) {
        let permit = match self.link.try_reserve_command() {
            Ok(permit) => permit,
            // Neither a drop nor a poll can wait, and both commands must arrive. At most one per
            // subscription and per change in flight waits here, because credit bounds the changes.
            Err(CommandError::Full(_)) => {
                let inner = Arc::clone(&self);
                self.runtime.spawn(async move {
                    inner.link.send_command(command).await.ok();
                });
                return;
            }
            // A closed link has forgotten every subscription.
            Err(_) => return,
        };
        permit.send(command).ok();
    }
}

impl<C: Connection> Clone for Client<C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<C: Connection> fmt::Debug for Client<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.link.fmt(f)
    }
}

impl<C: Connection> fmt::Debug for Subscribe<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe")
            .field("database", &self.database)
            .field("collection", &self.collection)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
