//! The publisher: it stores entries in the log of a Streamer server, each once, across every reconnect.
//!
//! ```no_run
//! use steadfast_streamer::{Entry, Publisher};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let publisher = Publisher::builder("127.0.0.1:9000").build()?;
//! let entry = Entry::upsert("default", "users", "u1", r#"{"name":"Ada","age":36}"#);
//! let published = publisher.publish(entry).await?;
//! println!("durable at {:?}", published.position);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use steadfast::{
    ConnectError, Link, LinkOptions, RenewalRequests,
    dial::Servers,
    grpc::{self, Grpc, Options},
    session::{Ready, Status},
    transport::{Call, Connection},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use steadfast_streamer_core::publisher::{Command, Core, Event};

use crate::client::BuildError;
pub use steadfast_streamer_core::publisher::{Entry, PublishError, Published};

/// A publisher: stores entries in order, each once, across every reconnect. Clones share it.
///
/// At most [`Builder::max_entries`] entries and [`Builder::max_bytes`] bytes are pending at a time;
/// [`Publisher::publish`] and [`Publisher::enqueue`] wait for capacity.
///
/// After a fatal status, or after its last retry, a publisher fails every further entry. To continue,
/// build another one with the same producer that begins with the first unacknowledged sequence.
///
/// ```no_run
/// use steadfast_streamer::{Entry, Publisher};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let publisher = Publisher::builder("127.0.0.1:9000").producer("import").build()?;
/// let mut pending = Vec::new();
/// for number in 0..1_000 {
///     let entry = Entry::upsert("default", "users", format!("u{number}"), r#"{"age":36}"#);
///     pending.push(publisher.enqueue(entry).await?);
/// }
/// for entry in pending {
///     entry.await?;
/// }
/// publisher.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Publisher<C: Connection = grpc::Connection> {
    link: Link<Core, C>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    entries: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_bytes: usize,
    /// The lock is held while an entry is queued, so that waiters are in the order of sequences.
    waiters: Mutex<VecDeque<Waiter>>,
    last_sequence: watch::Sender<Option<u64>>,
}

#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<Result<Published, PublishError>>,
    _capacity: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// An entry on its way. Awaiting it returns whether the entry is durable.
///
/// # Cancel safety
///
/// Dropping it drops the result; the entry is published all the same.
#[derive(Debug)]
#[must_use = "the result says whether the entry is durable"]
pub struct Pending(oneshot::Receiver<Result<Published, PublishError>>);

/// Builds a [`Publisher`]. Every setting has a default; [`Builder::build`] checks them.
///
/// ```no_run
/// use steadfast_streamer::Publisher;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// // Continues behind the entries of an earlier process.
/// let stored = 42;
/// let publisher = Publisher::builder("127.0.0.1:9000")
///     .producer("import")
///     .first_sequence(stored + 1)
///     .build()?;
/// # publisher.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Builder {
    servers: Servers,
    producer: Option<String>,
    first_sequence: u64,
    link: LinkOptions,
    options: Options,
    max_entries: usize,
    max_bytes: usize,
}

const METHOD: &str = "/steadfast.streamer.v1.PublisherService/Publish";

impl Builder {
    /// Sets the name of the producer. Another process can continue under the same name. Default:
    /// random.
    #[must_use]
    pub fn producer(mut self, producer: impl Into<String>) -> Self {
        self.producer = Some(producer.into());
        self
    }

    /// Sets the sequence of the first entry. Default 1. Entries that a producer publishes again with
    /// the same sequences are stored once.
    #[must_use]
    pub fn first_sequence(mut self, sequence: u64) -> Self {
        self.first_sequence = sequence;
        self
    }

    /// Sets the options of the link: backoff, heartbeats, timeouts, the observer of its state. The
    /// ready level is always [`Ready::FirstMessage`].
    #[must_use]
    pub fn link(mut self, options: impl Into<LinkOptions>) -> Self {
        self.link = options.into();
        self
    }

    /// Sets the options of the connection.
    #[must_use]
    pub fn transport_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Sets the limit of pending entries. Default 4,096.
    #[must_use]
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.max_entries = entries.max(1);
        self
    }

    /// Sets the limit of pending bytes. A larger entry is pending alone. Default 16 MiB.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        // tokio takes a number of permits as `u32` at a time, and an entry may need all of them.
        self.max_bytes = bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        self
    }

    /// Starts the publisher on the current tokio runtime; it connects in the background.
    ///
    /// # Errors
    ///
    /// Returns an error if the address or a setting is invalid.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn build(self) -> Result<Publisher, BuildError> {
        let dialer = self.servers.dialer()?;
        let producer = self
            .producer
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let shared = Arc::new(Shared {
            entries: Arc::new(Semaphore::new(self.max_entries)),
            bytes: Arc::new(Semaphore::new(self.max_bytes)),
            max_bytes: self.max_bytes,
            waiters: Mutex::default(),
            last_sequence: watch::Sender::new(None),
        });
        let sink = Arc::clone(&shared);
        let (renewals, renewer) = RenewalRequests::new();
        let credentials = self.link.call_credentials().clone();
        let link = self
            .link
            .default_name("publisher")
            .configure(|config| config.ready = Ready::FirstMessage)
            // Above what can be pending: callers meet the limit of the publisher, by waiting,
            // before a stream is ended for too many unsent bytes. The rest is room for one entry
            // above `max_bytes`.
            .outbox_bytes(2 * self.max_bytes + (16 << 20))
            .spawn(
                Call::new(METHOD),
                Grpc::with_dialer(dialer).with_options(self.options),
                Core::new(producer, self.first_sequence),
                move |event| match event {
                    Event::CredentialsDue => renewals.request(),
                    Event::Greeted { last_sequence } => sink.on_greeted(last_sequence),
                    Event::Settled(result) => sink.on_settled(result),
                },
            )?;
        tokio::spawn(link.renew_credentials(renewer, credentials, Command::Authenticate));
        // Only a closed link fails to start, and this one is new.
        link.start().ok();
        Ok(Publisher { link, shared })
    }
}

impl Publisher {
    /// Returns a builder of a publisher to these servers: addresses as text, separated by commas, or a
    /// [`Dialer`](steadfast::dial::Dialer).
    #[must_use]
    pub fn builder(servers: impl Into<Servers>) -> Builder {
        Builder {
            servers: servers.into(),
            producer: None,
            first_sequence: 1,
            link: LinkOptions::new(),
            options: Options::default(),
            max_entries: 4_096,
            max_bytes: 16 << 20,
        }
    }
}

impl<C: Connection> Publisher<C> {
    /// Publishes an entry and waits until it is durable.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future while it waits for capacity omits the entry; later, the entry is published
    /// all the same. [`Publisher::enqueue`] separates the two.
    ///
    /// # Errors
    ///
    /// Returns an error if the server refuses the entry, or if the publisher stops before a response.
    pub async fn publish(&self, entry: Entry) -> Result<Published, PublishError> {
        self.enqueue(entry).await?.await
    }

    /// Waits for capacity and queues the entry. Entries are published in the order in which these
    /// calls return.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready omits the entry.
    ///
    /// # Errors
    ///
    /// Returns an error if the publisher is closed.
    pub async fn enqueue(&self, entry: Entry) -> Result<Pending, PublishError> {
        // A larger entry takes all permits and is pending alone; more permits than exist would
        // never come.
        let weight = entry.weight().min(self.shared.max_bytes);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let closed = |_| PublishError::Closed;
        let one = Arc::clone(&self.shared.entries)
            .acquire_owned()
            .await
            .map_err(closed)?;
        // Both semaphores are fair, and all callers take them in this order, so that entries keep
        // the order of calls and two callers cannot hold what the other needs.
        let bytes = Arc::clone(&self.shared.bytes)
            .acquire_many_owned(weight)
            .await
            .map_err(closed)?;
        let (sender, result) = oneshot::channel();
        let closed = |_| PublishError::Closed;
        // Before the lock, which must not be held during a wait.
        let permit = self.link.reserve_command().await.map_err(closed)?;
        let mut waiters = self.shared.waiters();
        permit.send(Command::Publish(entry)).map_err(closed)?;
        waiters.push_back(Waiter {
            sender,
            _capacity: (one, bytes),
        });
        Ok(Pending(result))
    }

    /// Waits for a live stream.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; the publisher keeps trying.
    ///
    /// # Errors
    ///
    /// Returns an error after three failed attempts, or if the publisher stops.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.link.connect().await
    }

    /// Waits for the first greeting and returns the newest sequence that the server knew of this
    /// producer in its last greeting. `None` if the publisher is closed.
    pub async fn last_sequence(&self) -> Option<u64> {
        let mut last = self.shared.last_sequence.subscribe();
        tokio::select! {
            known = last.wait_for(Option::is_some) => known.ok().and_then(|known| *known),
            () = self.link.closed() => None,
        }
    }

    /// Returns the state of the publisher's stream.
    #[must_use]
    pub fn status(&self) -> Status {
        self.link.status()
    }

    /// Subscribes to the state of the publisher's stream.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.link.watch()
    }

    /// Closes the publisher. Pending entries fail with an error that says whether they were sent.
    pub async fn close(&self) {
        self.link.close().await;
        // Wakes the callers that wait for capacity; they fail with `Closed`.
        self.shared.entries.close();
        self.shared.bytes.close();
        // The core has settled what it knew of. This drops the entries whose command it never
        // received.
        self.shared.waiters().clear();
    }
}

impl Shared {
    fn waiters(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_greeted(&self, last_sequence: u64) {
        self.last_sequence.send_replace(Some(last_sequence));
    }

    fn on_settled(&self, result: Result<Published, PublishError>) {
        let waiter = self.waiters().pop_front();
        if let Some(waiter) = waiter {
            // The caller may have dropped the result.
            waiter.sender.send(result).ok();
        }
    }
}

impl Future for Pending {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|result| result.unwrap_or(Err(PublishError::Closed)))
    }
}

impl<C: Connection> Clone for Publisher<C> {
    fn clone(&self) -> Self {
        Self {
            link: self.link.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<C: Connection> fmt::Debug for Publisher<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
