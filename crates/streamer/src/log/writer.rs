//! The one thread that writes to a log, and commits for everybody at once.
//!
//! ```text
//! enqueue ──(room for items and bytes)──> queue ──> writer thread: append, one durable step
//!                                                     │
//!                                    on_commit(events), in order of their offsets
//!                                                     │
//!                                    outcomes to each submitter, room given back
//! ```
//!
//! While a commit is on its way to the disk the next one gathers, so the batches grow with the load
//! by themselves. Between commits, and at least once a minute, the thread lets the log do a slice
//! of its maintenance.

mod thread;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Poll, ready},
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::thread::{Job, Message};
use super::{Log, LogError, Outcome, Submission};
use crate::Event;

/// How a writer gathers and commits.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WriterOptions {
    /// Entries after which a commit gathers no more. Default 1,024.
    pub max_batch_events: usize,
    /// Bytes after which a commit gathers no more. Default 4 MiB.
    pub max_batch_bytes: usize,
    /// How long a commit waits for company after its first entry. Default 0: it goes as soon as
    /// nothing else is queued, since others gather meanwhile. More makes fewer, larger commits out
    /// of a light load, and each submitter wait.
    pub max_wait: Duration,
    /// Entries that may be queued or committing. Default 8,192.
    pub queue_events: usize,
    /// Bytes that may be queued or committing. Default 32 MiB.
    pub queue_bytes: usize,
    /// Unix milliseconds, for the times of documents and for retention. Default: the system's clock.
    pub clock: fn() -> i64,
}

/// The handle of a writer thread; clones share it.
///
/// The queue is bounded in entries and bytes, and a submitter waits for room. When the last handle
/// is dropped, the thread commits what is queued and ends.
#[derive(Clone, Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Message>,
}

/// Why nothing can be said of a submission, or a writer did not end well.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The writer was shut down, and this was not queued.
    #[error("the log takes no more entries, it is shutting down")]
    Closed,
    /// The log failed, now or earlier. Whether these entries are in it shows when it is opened
    /// anew: submit them again with the same sequences.
    #[error("the log failed and must be opened anew")]
    Failed(#[source] Arc<LogError>),
    /// The disk is too full. None of these entries was taken; they may be submitted again, and are
    /// taken as soon as there is room.
    #[error("the log takes no entries for now")]
    Full(#[source] Arc<LogError>),
    /// The writer thread panicked.
    #[error("the log's writer stopped unexpectedly; open the log anew")]
    Stopped,
    /// The deadline of a shutdown passed. What is queued may still be committed.
    #[error("the log's writer was still busy when the deadline of {0:?} passed")]
    Busy(Duration),
}

/// Entries in the queue of a writer. Resolves to their outcomes when they are durable.
///
/// Dropping it does not take the entries back.
#[must_use = "the outcomes tell which entries are in the log"]
#[derive(Debug)]
pub struct PendingCommit {
    outcomes: oneshot::Receiver<Result<Vec<Outcome>, WriteError>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    room: Room,
    failure: OnceLock<Arc<LogError>>,
    panicked: AtomicBool,
    ending: Mutex<Ending>,
}

/// Room in the queue.
#[derive(Debug)]
struct Room {
    events: Arc<Semaphore>,
    events_max: u32,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

/// Room taken by a job, given back when it is dropped.
#[derive(Debug)]
struct Taken {
    _events: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// The thread, and the word that it is done with the log.
#[derive(Debug)]
struct Ending {
    thread: Option<JoinHandle<()>>,
    done: Option<oneshot::Receiver<()>>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            max_batch_events: 1_024,
            max_batch_bytes: 4 << 20,
            max_wait: Duration::ZERO,
            queue_events: 8_192,
            queue_bytes: 32 << 20,
            clock: unix_ms,
        }
    }
}

impl LogWriter {
    /// Starts the thread that owns `log`.
    ///
    /// `on_commit` is called on that thread with the events of each commit, after they are durable
    /// and before their submitters hear of them; over all calls offsets rise without holes. It
    /// should be quick: everybody waits for it.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn spawn(
        log: Box<dyn Log>,
        options: WriterOptions,
        on_commit: impl FnMut(&[Arc<Event>]) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel();
        let (done, is_done) = oneshot::channel();
        let shared = Arc::new(Shared {
            room: Room::new(&options),
            failure: OnceLock::new(),
            panicked: AtomicBool::new(false),
            ending: Mutex::new(Ending {
                thread: None,
                done: Some(is_done),
            }),
        });
        let writer = thread::Writer::new(log, options, on_commit, jobs, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(done))?;
        shared.ending().thread = Some(thread);
        Ok(Self { shared, queue })
    }

    /// Waits for room, and puts the entries into the queue. They are committed in the order in
    /// which these calls return, and all in one commit.
    ///
    /// This is for a producer that goes on while its entries are on their way. Calls of one
    /// producer must be made one after the other, or their sequences may arrive out of order.
    /// More entries than fit into the queue wait until it is empty.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready leaves nothing in the queue.
    ///
    /// # Errors
    ///
    /// [`WriteError`] when nothing was queued.
    pub async fn enqueue(&self, batch: Vec<Submission>) -> Result<PendingCommit, WriteError> {
        let room = self.shared.room.take(&batch).await;
        let Some(room) = room else {
            return Err(self.shared.reason());
        };
        let (tell, outcomes) = oneshot::channel();
        let job = Job { batch, tell, room };
        self.queue
            .send(Message::Job(job))
            .map_err(|_| self.shared.reason())?;
        Ok(PendingCommit {
            outcomes,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Commits the entries, all in one step, and tells what became of each, in order.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may or may not leave the entries out of the log. With the same sequences
    /// they can be submitted again.
    ///
    /// # Errors
    ///
    /// [`WriteError::Full`] when none of them was taken, any other [`WriteError`] when nothing can be
    /// said of them.
    pub async fn submit(&self, batch: Vec<Submission>) -> Result<Vec<Outcome>, WriteError> {
        self.enqueue(batch).await?.await
    }

    /// Takes no more entries, commits those that are queued, closes the log and ends the thread.
    ///
    /// # Cancel safety
    ///
    /// The first poll closes the queue; dropping the future after it gives up the waiting only.
    ///
    /// # Errors
    ///
    /// [`WriteError::Failed`] and [`WriteError::Stopped`] when the log or the thread failed before,
    /// [`WriteError::Busy`] when `deadline` passes: a disk that hangs can not be interrupted.
    /// [`WriteError::Closed`] when another call waits for the same.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), WriteError> {
        self.shared.room.close();
        // The thread takes everything that is queued before this; if it is gone, it needs no word.
        drop(self.queue.send(Message::Stop));
        let Some(mut done) = self.shared.ending().done.take() else {
            return Err(self.shared.failure().unwrap_or(WriteError::Closed));
        };
        if tokio::time::timeout(deadline, &mut done).await.is_err() {
            self.shared.ending().done = Some(done);
            return Err(WriteError::Busy(deadline));
        }
        let thread = self.shared.ending().thread.take();
        // It has nothing left to do but to return.
        let panicked = thread.is_some_and(|thread| thread.join().is_err());
        if panicked {
            return Err(WriteError::Stopped);
        }
        self.shared.failure().map_or(Ok(()), Err)
    }
}

impl Future for PendingCommit {
    type Output = Result<Vec<Outcome>, WriteError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = ready!(Pin::new(&mut self.outcomes).poll(cx));
        // Untold means the thread ended without looking at the job.
        Poll::Ready(told.unwrap_or_else(|_| Err(self.shared.reason())))
    }
}

impl Shared {
    fn ending(&self) -> std::sync::MutexGuard<'_, Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> Option<WriteError> {
        self.failure.get().cloned().map(WriteError::Failed)
    }

    /// Remembers why the log failed, and lets nobody queue any more.
    fn fail(&self, error: LogError) -> Arc<LogError> {
        let error = Arc::clone(self.failure.get_or_init(|| Arc::new(error)));
        self.room.close();
        error
    }

    /// Why the writer takes nothing.
    fn reason(&self) -> WriteError {
        match self.failure() {
            Some(failure) => failure,
            None if self.panicked.load(Ordering::Acquire) => WriteError::Stopped,
            None => WriteError::Closed,
        }
    }
}

impl Room {
    fn new(options: &WriterOptions) -> Self {
        let permits = |count: usize| u32::try_from(count.max(1)).unwrap_or(u32::MAX >> 3);
        let (events_max, bytes_max) = (permits(options.queue_events), permits(options.queue_bytes));
        Self {
            events: Arc::new(Semaphore::new(events_max as usize)),
            events_max,
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
        }
    }

    /// `None` when the queue is closed.
    async fn take(&self, batch: &[Submission]) -> Option<Taken> {
        let bytes: usize = batch.iter().map(Submission::weight).sum();
        let share = |count: usize, max: u32| u32::try_from(count).map_or(max, |it| it.min(max));
        let events = share(batch.len(), self.events_max);
        let bytes = share(bytes, self.bytes_max);
        let events = Arc::clone(&self.events).acquire_many_owned(events);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes);
        Some(Taken {
            _events: events.await.ok()?,
            _bytes: bytes.await.ok()?,
        })
    }

    fn close(&self) {
        self.events.close();
        self.bytes.close();
    }
}

/// The system's clock, Unix milliseconds.
fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests;
