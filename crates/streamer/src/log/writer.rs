//! The writer: one thread that owns the log and commits the submissions of all publishers together.
//!
//! ```text
//! enqueue ──(capacity in entries and bytes)──> queue ──> writer thread: append, one durable step
//!                                                          │
//!                                         on_commit(events), in the order of their offsets
//!                                                          │
//!                                         outcomes to each submitter, capacity released
//! ```
//!
//! While one commit is being written, the next one is queued, so batches grow with the load. After a
//! commit of several requests, the thread waits a moment for as many: their submitters go on with their
//! next entries, and one commit of all costs less than a few small ones. Between
//! commits, and at least once a minute, the thread does a slice of the log's maintenance.
//!
//! While the disk is full, the thread looks at it once a second: no system tells when space is freed.
//! Submitters wait for what it finds ([`LogWriter::accepts`]).

mod queue;
mod thread;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::queue::{AppendRequest, Command};
use super::{DurationHistogram, Durations, Log, LogError, Outcome, Submission, with_sources};
use crate::Event;

/// Settings of a writer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WriterOptions {
    /// Number of entries at which a batch is committed. Default 1,024.
    pub max_batch_events: usize,
    /// Size at which a batch is committed, in bytes. Default 4 MiB.
    pub max_batch_bytes: usize,
    /// Maximum number of entries that are queued or being committed. Default 8,192.
    pub queue_events: usize,
    /// Maximum size of the entries that are queued or being committed, in bytes. Default 32 MiB.
    pub queue_bytes: usize,
    /// The clock for document times and retention, in Unix milliseconds. Default: the system's.
    pub clock: fn() -> i64,
}

/// A handle of a writer thread. Clones share the thread.
///
/// The queue is limited in entries and bytes; submitters wait for capacity. When the last handle is
/// dropped, the thread commits what is queued and ends.
#[derive(Clone, Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    queue: queue::Sender,
}

/// The reason why a submission has no outcome, or a writer did not shut down cleanly.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The writer was shut down before the entries were queued.
    #[error("the log accepts no more entries, it is shutting down")]
    Closed,
    /// The log failed, now or earlier. The entries may or may not be in it: reopen it, and submit
    /// them again with the same sequences.
    #[error("the log failed and must be reopened")]
    Failed(#[source] LogError),
    /// The disk is too full. None of the entries was appended; they may be submitted again.
    #[error("the log accepts no entries for now")]
    Full(#[source] LogError),
    /// The writer thread panicked.
    #[error("the log's writer panicked; reopen the log")]
    Stopped,
    /// The timeout of a shutdown passed. Queued entries may still be committed.
    #[error("the log's writer did not finish within {0:?}")]
    Busy(Duration),
}

/// The figures of a writer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterStats {
    /// The entries that are queued or being committed.
    pub queued_entries: usize,
    /// The size of these entries, in bytes.
    pub queued_bytes: usize,
    /// The durations of the commits, syncs included.
    pub commits: Durations,
    /// Entries are rejected because the disk is full.
    pub is_full: bool,
    /// The failure that stopped the writer.
    pub failure: Option<String>,
}

/// Queued entries. Resolves to their outcomes when they are durable.
///
/// Dropping it does not remove the entries from the queue.
#[must_use = "the outcomes tell which entries are in the log"]
#[derive(Debug)]
pub struct PendingCommit {
    outcomes: oneshot::Receiver<Result<Vec<Outcome>, WriteError>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    capacity: QueueCapacity,
    failure: OnceLock<LogError>,
    panicked: AtomicBool,
    /// The durations of the commits.
    commits: DurationHistogram,
    /// The disk was too full for a commit, and is still too full for the smallest request of it.
    is_full: watch::Sender<bool>,
    /// Cancelled when the thread has closed the log. Unlike a join, a wait for it can time out, and
    /// several callers can wait.
    done: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The capacity of the queue.
#[derive(Debug)]
struct QueueCapacity {
    events: Arc<Semaphore>,
    events_max: u32,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

/// The capacity that one request occupies. Released on drop.
#[derive(Debug)]
struct QueuePermit {
    _events: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            max_batch_events: 1_024,
            max_batch_bytes: 4 << 20,
            queue_events: 8_192,
            queue_bytes: 32 << 20,
            clock: unix_ms,
        }
    }
}

impl LogWriter {
    /// Starts the thread that owns `log`.
    ///
    /// The thread calls `on_commit` with the events of each commit, after they are durable and before
    /// their submitters get the outcomes. Over all calls, offsets increase without holes. The callback
    /// should return quickly, because every submitter waits for it.
    ///
    /// # Errors
    ///
    /// Returns an error if the system cannot start a thread.
    pub fn spawn(
        mut log: Box<dyn Log>,
        options: WriterOptions,
        on_commit: impl FnMut(&[Arc<Event>]) + Send + 'static,
    ) -> std::io::Result<Self> {
        log.maintain_in_background();
        let (queue, commands) = queue::queue();
        let shared = Arc::new(Shared {
            capacity: QueueCapacity::new(&options),
            failure: OnceLock::new(),
            panicked: AtomicBool::new(false),
            commits: DurationHistogram::default(),
            is_full: watch::Sender::new(false),
            done: CancellationToken::new(),
            thread: Mutex::new(None),
        });
        let writer = thread::Writer::new(log, options, on_commit, commands, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())?;
        *shared.thread() = Some(thread);
        Ok(Self { shared, queue })
    }

    /// Returns the figures of the writer.
    #[must_use]
    pub fn stats(&self) -> WriterStats {
        let Shared {
            capacity, commits, ..
        } = &*self.shared;
        let stopped = self.shared.panicked.load(Ordering::Acquire);
        let stopped = stopped.then_some(WriteError::Stopped);
        let failure = self.shared.failure().or(stopped);
        WriterStats {
            queued_entries: capacity.events_max as usize - capacity.events.available_permits(),
            queued_bytes: capacity.bytes_max as usize - capacity.bytes.available_permits(),
            commits: commits.snapshot(),
            is_full: *self.shared.is_full.borrow(),
            failure: failure.map(|error| with_sources(&error)),
        }
    }

    /// Waits for capacity and queues the entries. They are committed in one step, in the order in
    /// which these calls return.
    ///
    /// This is for a producer that continues while its entries are being committed. A producer must
    /// not make concurrent calls, or its sequences may be queued out of order. A batch larger than
    /// the queue waits until the queue is empty.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, nothing is queued.
    ///
    /// # Errors
    ///
    /// Returns a [`WriteError`] if nothing was queued.
    pub async fn enqueue(&self, batch: Vec<Submission>) -> Result<PendingCommit, WriteError> {
        let entries = batch.len();
        let bytes = batch.iter().map(Submission::weight).sum();
        // The only await: after it the request is queued at once, so a dropped future queues
        // nothing.
        let Some(permit) = self.shared.capacity.acquire(entries, bytes).await else {
            return Err(self.shared.closed_reason());
        };
        let (outcome_sender, outcomes) = oneshot::channel();
        let request = AppendRequest {
            entries,
            bytes,
            batch,
            outcomes: outcome_sender,
            _permit: permit,
        };
        self.queue
            .send(Command::Append(request))
            .map_err(|_| self.shared.closed_reason())?;
        Ok(PendingCommit {
            outcomes,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Commits the entries in one step, and returns one outcome for each, in order.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entries may or may not be appended. They can be submitted again
    /// with the same sequences.
    ///
    /// # Errors
    ///
    /// Returns [`WriteError::Full`] if none of them was appended, and any other [`WriteError`] if that
    /// is unknown.
    pub async fn submit(&self, batch: Vec<Submission>) -> Result<Vec<Outcome>, WriteError> {
        self.enqueue(batch).await?.await
    }

    /// Waits until entries may be accepted again, after [`WriteError::Full`].
    ///
    /// There is no deadline, because space may be freed at any time; the writer reports a full disk every
    /// minute. The end of the writer ends the wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    ///
    /// # Errors
    ///
    /// Returns a [`WriteError`] if the writer has ended.
    pub async fn accepts(&self) -> Result<(), WriteError> {
        let mut is_full = self.shared.is_full.subscribe();
        tokio::select! {
            () = self.shared.done.cancelled() => Err(self.shared.closed_reason()),
            // Never an error: `shared` has the sender.
            _ = is_full.wait_for(|is_full| !is_full) => Ok(()),
        }
    }

    /// Notes that a producer is connected. To be called at least every few minutes; a producer that is
    /// connected and idle is then never forgotten.
    pub fn touch(&self, producer: Arc<str>) {
        // Fails if the thread has ended, and with it the log.
        // Without a permit: publishers send one per five minutes, and capacity is for entries.
        self.queue.send(Command::Touch(producer)).ok();
    }

    /// Rejects new entries, commits the queued ones, closes the log and ends the thread.
    ///
    /// # Cancel safety
    ///
    /// The first poll closes the queue. Dropping the future after that only stops waiting.
    ///
    /// # Errors
    ///
    /// Returns [`WriteError::Failed`] or [`WriteError::Stopped`] if the log or the thread failed
    /// before, and [`WriteError::Busy`] after `timeout` (a hanging disk cannot be interrupted; shutdown
    /// may be called again, also by several callers at once).
    pub async fn shutdown(&self, timeout: Duration) -> Result<(), WriteError> {
        // Submitters that wait for capacity fail now, instead of after the last commit.
        self.shared.capacity.close();
        // Fails if the thread has ended, which is what it asks for.
        drop(self.queue.send(Command::Stop));
        // The thread cannot be interrupted in a system call, so only the wait for it is bounded.
        tokio::time::timeout(timeout, self.shared.done.cancelled())
            .await
            .map_err(|_elapsed| WriteError::Busy(timeout))?;
        // Does not block: after `done`, the thread only returns. A panic is recorded in `panicked`.
        if let Some(thread) = self.shared.thread().take() {
            thread.join().ok();
        }
        if self.shared.panicked.load(Ordering::Acquire) {
            return Err(WriteError::Stopped);
        }
        self.shared.failure().map_or(Ok(()), Err)
    }
}

impl Future for PendingCommit {
    type Output = Result<Vec<Outcome>, WriteError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.outcomes).poll(cx));
        // The sender is dropped only if the thread ends without handling the request.
        Poll::Ready(result.unwrap_or_else(|_| Err(self.shared.closed_reason())))
    }
}

impl Shared {
    fn thread(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> Option<WriteError> {
        self.failure.get().cloned().map(WriteError::Failed)
    }

    /// Records the failure of the log, and closes the queue. Returns the error.
    fn fail(&self, error: LogError) -> LogError {
        // Before the queue is closed: a submitter that the closing wakes asks for the reason at
        // once.
        let error = self.failure.get_or_init(|| error).clone();
        self.capacity.close();
        error
    }

    /// Returns the reason why the queue is closed.
    fn closed_reason(&self) -> WriteError {
        match self.failure() {
            Some(failure) => failure,
            // A panic leaves no error to report, so it has a flag of its own.
            None if self.panicked.load(Ordering::Acquire) => WriteError::Stopped,
            None => WriteError::Closed,
        }
    }
}

impl QueueCapacity {
    fn new(options: &WriterOptions) -> Self {
        // At most tokio's `Semaphore::MAX_PERMITS`, which is `usize::MAX >> 3`.
        let permits = |count: usize| u32::try_from(count.max(1)).unwrap_or(u32::MAX >> 3);
        let (events_max, bytes_max) = (permits(options.queue_events), permits(options.queue_bytes));
        Self {
            events: Arc::new(Semaphore::new(events_max as usize)),
            events_max,
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
        }
    }

    /// Waits for capacity. Returns `None` if the queue is closed.
    async fn acquire(&self, entries: usize, bytes: usize) -> Option<QueuePermit> {
        // A batch larger than the queue takes all of it; otherwise it would wait forever.
        let share = |count: usize, max: u32| u32::try_from(count).map_or(max, |it| it.min(max));
        let events = share(entries, self.events_max);
        let bytes = share(bytes, self.bytes_max);
        // tokio's semaphores are fair: a large batch is not overtaken forever by small ones.
        let events = Arc::clone(&self.events).acquire_many_owned(events);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes);
        // Always in this order, so that two submitters cannot wait for each other.
        Some(QueuePermit {
            _events: events.await.ok()?,
            _bytes: bytes.await.ok()?,
        })
    }

    fn close(&self) {
        self.events.close();
        self.bytes.close();
    }
}

/// Returns the system's time in Unix milliseconds.
fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 reads as 0, which the age clock takes for a jump back.
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests;
