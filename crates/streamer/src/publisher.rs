//! Publishing into a Streamer server, through every loss of the stream, once each.
//!
//! ```no_run
//! use steadfast_streamer::publisher::{Entry, Publisher};
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
    ConnectError, Link, LinkOptions,
    grpc::{self, Address, Grpc},
    session::{Ready, Status},
    transport::{Call, Connection},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use steadfast_streamer_core::publisher::{Command, Core, Event};

use crate::client::BuildError;
pub use steadfast_streamer_core::publisher::{Entry, PublishError, Published};

/// Publishes entries in order, each once, through every loss of the stream. Clones share it.
///
/// At most [`Builder::max_entries`] entries and [`Builder::max_bytes`] bytes are unanswered at a
/// time; more wait for room.
///
/// A publisher that has stopped for good, by a fatal status or after the retries it was given, says
/// so for every entry from then on. To go on, build another one with the same producer, beginning
/// with the first sequence that was not acknowledged.
pub struct Publisher<C: Connection = grpc::Connection> {
    link: Link<Core, C>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    entries: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_bytes: usize,
    /// Held while an entry is queued, so that waiters stand in the order of sequences.
    waiters: Mutex<VecDeque<Waiter>>,
    last_sequence: watch::Sender<Option<u64>>,
}

#[derive(Debug)]
struct Waiter {
    tell: oneshot::Sender<Result<Published, PublishError>>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// An entry on its way. Dropping it gives up the answer, not the entry.
#[derive(Debug)]
#[must_use = "the answer tells whether the entry is durable"]
pub struct Pending(oneshot::Receiver<Result<Published, PublishError>>);

/// How a [`Publisher`] is made.
#[derive(Debug)]
pub struct Builder {
    address: String,
    producer: Option<String>,
    first_sequence: u64,
    link: LinkOptions,
    max_entries: usize,
    max_bytes: usize,
}

const METHOD: &str = "/steadfast.streamer.v1.PublisherService/Publish";

impl Builder {
    /// Names the producer, so that another process can go on where this one ended. Default: random.
    #[must_use]
    pub fn producer(mut self, producer: impl Into<String>) -> Self {
        self.producer = Some(producer.into());
        self
    }

    /// Sequence of the first entry. Default 1. A producer that says again what it said before, with
    /// the same sequences, has each entry in the log once.
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

    /// Entries that may be unanswered. Default 4,096.
    #[must_use]
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.max_entries = entries.max(1);
        self
    }

    /// Bytes that may be unanswered; one larger entry goes alone. Default 16 MiB.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        self
    }

    /// Starts the publisher on the current tokio runtime; it connects in the background.
    ///
    /// # Errors
    ///
    /// What is wrong with the address or the settings.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build(self) -> Result<Publisher, BuildError> {
        let address: Address = self.address.parse()?;
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
        let link = self
            .link
            .default_name("publisher")
            .ready(Ready::FirstMessage)
            .outbox_bytes(2 * self.max_bytes + (16 << 20))
            .spawn(
                Call::new(METHOD),
                Grpc::new(address),
                Core::new(producer, self.first_sequence),
                move |event| sink.on_event(event),
            )?;
        link.start().ok();
        Ok(Publisher { link, shared })
    }
}

impl Publisher {
    /// A publisher to the server at `address`, `host:port`.
    #[must_use]
    pub fn builder(address: impl Into<String>) -> Builder {
        Builder {
            address: address.into(),
            producer: None,
            first_sequence: 1,
            link: LinkOptions::new(),
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
    /// Dropping the future before the entry had room leaves it out; after that it is published all
    /// the same. [`Publisher::enqueue`] tells the two apart.
    ///
    /// # Errors
    ///
    /// When the entry is refused, or the publisher stops before an answer.
    pub async fn publish(&self, entry: Entry) -> Result<Published, PublishError> {
        self.enqueue(entry).await?.await
    }

    /// Waits for room and puts the entry in its place. Entries are published in the order in which
    /// these calls return.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready leaves the entry out.
    ///
    /// # Errors
    ///
    /// When the publisher is closed.
    pub async fn enqueue(&self, entry: Entry) -> Result<Pending, PublishError> {
        let weight = entry.weight().min(self.shared.max_bytes);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let closed = |_| PublishError::Closed;
        let one = Arc::clone(&self.shared.entries)
            .acquire_owned()
            .await
            .map_err(closed)?;
        let bytes = Arc::clone(&self.shared.bytes)
            .acquire_many_owned(weight)
            .await
            .map_err(closed)?;
        let (tell, told) = oneshot::channel();
        let closed = |_| PublishError::Closed;
        // Reserved before the lock: a wait for capacity must not hold it.
        let permit = self.link.reserve_command().await.map_err(closed)?;
        let mut waiters = self.shared.waiters();
        permit.send(Command::Publish(entry)).map_err(closed)?;
        waiters.push_back(Waiter {
            tell,
            _room: (one, bytes),
        });
        Ok(Pending(told))
    }

    /// Waits for a live stream.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer; the publisher goes on.
    ///
    /// # Errors
    ///
    /// After three failed attempts, or when the publisher stops.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.link.connect().await
    }

    /// The newest sequence the server knew of this producer when it greeted last; waits for the
    /// first greeting. `None` when the publisher is closed.
    pub async fn last_sequence(&self) -> Option<u64> {
        let mut last = self.shared.last_sequence.subscribe();
        tokio::select! {
            known = last.wait_for(Option::is_some) => known.ok().and_then(|known| *known),
            () = self.link.closed() => None,
        }
    }

    /// The state of the publisher's stream.
    #[must_use]
    pub fn status(&self) -> Status {
        self.link.status()
    }

    /// Follows the state of the publisher's stream.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.link.watch()
    }

    /// Ends everything; what is not answered is answered with an error.
    pub async fn close(&self) {
        self.link.close().await;
        self.shared.entries.close();
        self.shared.bytes.close();
        self.shared.waiters().clear();
    }
}

impl Shared {
    fn waiters(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_event(&self, event: Event) {
        match event {
            Event::Greeted { last_sequence } => {
                self.last_sequence.send_replace(Some(last_sequence));
            }
            Event::Settled(result) => {
                let waiter = self.waiters().pop_front();
                if let Some(waiter) = waiter {
                    // Whoever gave up the answer does not want it.
                    waiter.tell.send(result).ok();
                }
            }
        }
    }
}

impl Future for Pending {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|told| told.unwrap_or(Err(PublishError::Closed)))
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
