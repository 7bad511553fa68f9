//! The client: subscriptions to document changes that survive every loss of the connection.
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
mod error;
mod live_set;
mod live_window;
mod registry;
mod subscription;

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use steadfast::{
    CommandError, ConnectError, Link, Outage, dial::Servers, grpc, session::Status,
    transport::Connection,
};
use tokio::{runtime::Handle, sync::watch};

use self::registry::{CommandSender, Registry};
pub use self::{
    builder::{BuildError, Builder},
    error::{Ended, SubscribeError},
    live_set::LiveSet,
    live_window::LiveWindow,
    subscription::Subscription,
};
use steadfast_streamer_core::{
    Direction, Position, Window,
    client::{Command, Core, SubscribeOptions},
    filter::{FieldPath, Filter},
};

pub use steadfast_streamer_core::client::{
    Change, Counters, Gap, GapReason, Item, JsonFieldsError, JsonLines, Limits, LiveDocuments,
    LiveUpdate, Projection, Refusal, Resync, ResyncReason, Snapshot, Start, WindowDocuments,
    WindowUpdate, json_fields,
};

/// A client of a Streamer server. It reconnects and restores its subscriptions by itself.
///
/// Clones and every [`Subscription`] are handles of the same client and may be used from many tasks.
/// When the last handle is dropped, the client closes as [`Client::close`] does, in the background.
///
/// ```no_run
/// use steadfast_streamer::{Client, Filter};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder("127.0.0.1:9000").build()?;
/// client.connect().await?;
/// println!("connected to {:?}", client.server());
/// let rooms = client.subscribe("default", "rooms", Filter::all()).await?;
/// println!("subscribed at {:?}", rooms.position());
/// client.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Client<C: Connection = grpc::Connection> {
    inner: Arc<Inner<C>>,
}

struct Inner<C: Connection> {
    link: Link<Core, C>,
    registry: Arc<Registry>,
    runtime: Handle,
}

/// The server of the newest stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// The server's name for itself; empty without the resume profile.
    pub id: String,
    /// The newest position of its log when it greeted; `None` without the resume profile.
    pub head: Option<Position>,
}

/// A subscribe request. Awaiting it sends the request and resolves with the server's response.
///
/// # Cancel safety
///
/// Dropping the future cancels the subscription, whether the server has the request or not.
#[must_use = "the request is sent when it is awaited"]
pub struct Subscribe<C: Connection = grpc::Connection> {
    client: Client<C>,
    database: String,
    collection: String,
    filter: Filter,
    start: Start,
    options: SubscribeOptions,
}

/// A request for the first documents of an order, from [`Subscribe::order_by`].
#[must_use = "nothing is requested before `limit`"]
pub struct SubscribeOrdered<C: Connection = grpc::Connection> {
    subscribe: Subscribe<C>,
    window: Window,
}

impl Client {
    /// Returns a builder of a client for these servers: addresses as text, separated by commas, or a
    /// [`Dialer`](steadfast::dial::Dialer).
    #[must_use]
    pub fn builder(servers: impl Into<Servers>) -> Builder {
        Builder::new(servers.into())
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

    /// Subscribes to the changes in a collection of a database that match the filter. The
    /// subscription begins with the next change, unless [`Subscribe::after`], [`Subscribe::since`] or
    /// [`Subscribe::since_oldest`] says otherwise.
    ///
    /// It may be awaited while there is no connection. The request is repeated on every stream until
    /// a server has responded.
    ///
    /// # Errors
    ///
    /// Returns an error if the server refuses the subscription, or if the client stops or is closed.
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
            options: SubscribeOptions::default(),
        }
    }

    /// Starts the client again after it stopped or left. Has no effect otherwise; a closed client
    /// stays closed.
    pub fn start(&self) {
        // A closed client must go on refusing subscriptions.
        if !self.inner.link.is_closed() {
            self.inner.registry.resume();
        }
        // A subscribe on a closed link fails, so that the error is not lost.
        self.inner.link.start().ok();
    }

    /// Waits until the client is connected and every wanted subscription is restored.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; the client keeps trying.
    ///
    /// # Errors
    ///
    /// Returns an error after three failed attempts, while the client keeps trying, or if the client
    /// stops.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        // Also after a stop: the registry accepts subscriptions again before the link starts.
        self.start();
        self.inner.link.connect().await
    }

    /// Probes the connection, and replaces it if the server does not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; the client keeps trying.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub async fn reconnect(&self) -> Result<(), ConnectError> {
        self.inner.registry.resume();
        self.inner.link.reconnect().await
    }

    /// Ends the stream in order, and every subscription with it. The client stays idle until
    /// [`Client::start`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; the client leaves all the same.
    pub async fn leave(&self) {
        self.inner.link.leave().await;
    }

    /// Closes the client for good and waits until no task and no socket is left, at most 2 s. Every
    /// subscription yields its queued items, then `None`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; the client closes all the same.
    pub async fn close(&self) {
        self.inner.link.close().await;
    }

    /// Returns the state of the connection and its reason.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.link.status()
    }

    /// Subscribes to the state. Each value is complete, so that a slow reader may skip values.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.inner.link.watch()
    }

    /// Returns the server of the newest stream; `None` before the first greeting and after the client
    /// stopped.
    #[must_use]
    pub fn server(&self) -> Option<Server> {
        self.inner.registry.server()
    }

    /// Returns the newest measured round-trip time of a heartbeat.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.inner.registry.rtt()
    }

    /// Returns the current counters of the client; the last known ones after it closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn counters(&self) -> Counters {
        // Subscribed before the command, so that its result counts as a change.
        let mut counters = self.inner.registry.counters();
        if self.inner.link.send_command(Command::Report).await.is_ok() {
            tokio::select! {
                _ = counters.changed() => {}
                () = self.inner.link.closed() => {}
            }
        }
        *counters.borrow()
    }

    /// Returns the counters of the link.
    #[must_use]
    pub fn link_counters(&self) -> steadfast::Counters {
        self.inner.link.counters()
    }

    /// Returns the newest outages with their parts, at most 64, oldest first.
    #[must_use]
    pub fn outages(&self) -> Vec<Outage> {
        self.inner.link.outages()
    }
}

impl<C: Connection> Subscribe<C> {
    /// Begins after a position, for example one that an earlier process stored, instead of now.
    pub fn after(mut self, position: Position) -> Self {
        self.start = Start::After(position);
        self
    }

    /// Begins with the oldest change that the server's log still has, instead of now. Changes before it
    /// are no gap: [`Subscription::position`] tells where the subscription began.
    ///
    /// Not with a snapshot, which shows the documents as they are now. Servers without the resume profile,
    /// or of an older version, refuse the subscription.
    pub fn since_oldest(mut self) -> Self {
        self.start = Start::Oldest;
        self
    }

    /// Begins with the first change whose [`Change::timestamp`] is this time or later, in milliseconds,
    /// instead of now; with the oldest one if the log no longer goes so far back.
    ///
    /// The server searches its log once. After an outage the subscription continues by position.
    /// Timestamps are readings of the server's clock. If that was set back, the subscription may begin
    /// early or late by as much; otherwise it begins exactly there. Refused as
    /// [`Subscribe::since_oldest`] is.
    pub fn since(mut self, time: SystemTime) -> Self {
        self.start = Start::AtTime(builder::unix_ms(time));
        self
    }

    /// Begins with the documents that exist and match: the items of a [`Snapshot`], then the changes after
    /// it. Another snapshot follows wherever changes are missing. With [`Subscribe::after`], the first one
    /// is sent only if the position is lost, or if the client may not see every document: what it could see
    /// when the position was stored is unknown.
    ///
    /// Documents that leave the filter are told, as with [`Subscribe::with_left`]. Servers without the resume
    /// profile, or of an older version, refuse the subscription.
    pub fn with_snapshot(mut self) -> Self {
        self.options.snapshot = true;
        self.options.left = true;
        self
    }

    /// Tells when a document may have left the filter, as [`Item::Left`]. Servers without
    /// the resume profile, or of an older version, refuse the subscription.
    pub fn with_left(mut self) -> Self {
        self.options.left = true;
        self
    }

    /// Subscribes and keeps the documents that match in a [`LiveSet`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the subscription.
    ///
    /// # Errors
    ///
    /// As [`Client::subscribe`].
    pub async fn live_set(self) -> Result<LiveSet, SubscribeError> {
        // A set that began after a position would lack the documents before it.
        let subscribe = Self {
            start: Start::Now,
            ..self.with_snapshot()
        };
        subscribe.run().await.map(LiveSet::new)
    }

    /// Orders the documents that match by a field, for a window onto the first of them.
    ///
    /// The order is by kind of value: null and missing, false, true, numbers, texts by their bytes, lists,
    /// objects. Documents of equal value, all lists, and all objects are ordered by id, ascending in both
    /// directions.
    pub fn order_by(
        self,
        field: impl Into<FieldPath>,
        direction: Direction,
    ) -> SubscribeOrdered<C> {
        SubscribeOrdered {
            subscribe: self,
            window: Window::new(field, direction, 1),
        }
    }

    async fn run(self) -> Result<Subscription, SubscribeError> {
        let Inner { link, registry, .. } = &*self.client.inner;
        if link.is_closed() {
            return Err(SubscribeError::Closed);
        }
        // Before the command is sent: an event for the id must find its queue.
        let (id, slot) = registry.add().map_err(SubscribeError::stopped)?;
        let commands = Arc::clone(&self.client.inner) as Arc<dyn CommandSender>;
        // From here on, dropping the future drops the handle, which unsubscribes.
        let subscription = Subscription::new(id, slot, Arc::clone(registry), commands);
        let command = Command::Subscribe {
            id,
            database: self.database,
            collection: self.collection,
            filter: self.filter,
            start: self.start,
            options: self.options,
        };
        let sent = link.send_command(command).await;
        sent.map_err(|_| SubscribeError::Closed)?;
        let response = std::future::poll_fn(|cx| subscription.slot().poll_response(cx)).await;
        match response {
            Ok(()) => Ok(subscription),
            Err(Some(Ended::Refused(refusal))) => Err(SubscribeError::Refused(refusal)),
            Err(Some(Ended::Stopped(end))) => Err(SubscribeError::stopped(end)),
            Err(None) => Err(SubscribeError::Closed),
        }
    }
}

impl<C: Connection> SubscribeOrdered<C> {
    /// Subscribes and keeps the first documents in a [`LiveWindow`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the subscription.
    ///
    /// # Errors
    ///
    /// As [`Client::subscribe`]. A server refuses more documents than its limit, 2,048 with the reserve.
    pub async fn limit(self, documents: u32) -> Result<LiveWindow, SubscribeError> {
        let Self { subscribe, window } = self;
        let window = Window::new(window.field, window.direction, documents);
        let mut subscribe = Subscribe {
            start: Start::Now,
            ..subscribe.with_snapshot()
        };
        subscribe.options.window = Some(window.clone());
        let subscription = subscribe.run().await?;
        let documents = WindowDocuments::new(window);
        Ok(LiveWindow::new(subscription, documents))
    }
}

impl<C: Connection> IntoFuture for Subscribe<C> {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<C: Connection> CommandSender for Inner<C> {
    fn send(self: Arc<Self>, command: Command) {
        let permit = match self.link.try_reserve_command() {
            Ok(permit) => permit,
            // Neither a drop nor a poll can wait, and both commands must arrive. The tasks are
            // bounded: one per dropped subscription, and one per report of taken changes.
            Err(CommandError::Full(_)) => {
                let inner = Arc::clone(&self);
                self.runtime.spawn(async move {
                    inner.link.send_command(command).await.ok();
                });
                return;
            }
            // A closed link has no subscriptions.
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

impl<C: Connection> fmt::Debug for SubscribeOrdered<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscribeOrdered")
            .field("subscribe", &self.subscribe)
            .field("window", &self.window)
            .finish()
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
