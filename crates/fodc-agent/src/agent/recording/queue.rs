//! The queue of messages to the recording thread.

use std::sync::Arc;

use bytes::Bytes;
use steadfast_exposition::Format;
use steadfast_recorder::{Reader, Stats, SyncJobs, SyncOutcomes};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::spawn_blocking,
};

use crate::{
    agent::status::StatusSnapshot,
    scrape::{PageSink, ScrapeOutcome},
};

/// The bytes of all endpoints' pages that may wait for the recording thread. It parses about a
/// gigabyte per second; what arrives while it waits for a disk stays in the sockets.
const WAITING_BYTES: usize = 1 << 20;

/// A message to the recording thread. `endpoint` is an index into the configuration.
#[derive(Debug)]
pub(super) enum Message {
    /// A page begins.
    Begin { endpoint: usize, format: Format },
    /// The next piece of the page.
    Piece {
        endpoint: usize,
        bytes: Bytes,
        /// The capacity that the piece takes in the queue; dropped with the message.
        _permit: OwnedSemaphorePermit,
    },
    /// The scrape has ended.
    Finish {
        endpoint: usize,
        outcome: ScrapeOutcome,
        recorded: oneshot::Sender<()>,
    },
    /// A request for the work that makes the record durable.
    BeginSync {
        reply: oneshot::Sender<Option<SyncJobs>>,
    },
    /// The result of that work.
    FinishSync(SyncOutcomes),
    /// A request for the current record.
    Snapshot(oneshot::Sender<Snapshot>),
}

/// The record and the status at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) reader: Reader,
    pub(crate) stats: Stats,
    /// The statistics of each endpoint's part of the record.
    pub(crate) endpoint_stats: Vec<Stats>,
    pub(crate) status: StatusSnapshot,
}

/// A handle that takes snapshots of the record. It does not keep the recording thread alive.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotHandle(mpsc::WeakUnboundedSender<Message>);

/// The error of a snapshot after recording has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("recording has ended")]
pub(crate) struct RecordingEnded;

impl SnapshotHandle {
    /// Returns the current record with every scrape that has finished.
    ///
    /// # Errors
    ///
    /// After recording has ended.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, RecordingEnded> {
        self.request()?.await.map_err(|_| RecordingEnded)
    }

    /// Does the same as [`SnapshotHandle::snapshot`] on a thread that may block.
    ///
    /// # Panics
    ///
    /// In an asynchronous task.
    pub(crate) fn blocking_snapshot(&self) -> Result<Snapshot, RecordingEnded> {
        self.request()?.blocking_recv().map_err(|_| RecordingEnded)
    }

    fn request(&self) -> Result<oneshot::Receiver<Snapshot>, RecordingEnded> {
        let (reply, snapshot) = oneshot::channel();
        // A strong sender here would keep the thread alive after the agent has stopped.
        let messages = self.0.upgrade().ok_or(RecordingEnded)?;
        messages
            .send(Message::Snapshot(reply))
            .map_err(|_| RecordingEnded)?;
        Ok(snapshot)
    }
}

/// One endpoint's end of the queue.
///
/// Pieces wait for capacity in bytes. Of the other messages there is at most one per endpoint and
/// kind, so the queue is bounded.
#[derive(Clone, Debug)]
pub(crate) struct RecordingQueue {
    endpoint: usize,
    messages: mpsc::UnboundedSender<Message>,
    capacity: Arc<Semaphore>,
}

/// Creates the queue and its receiver.
pub(super) fn queue() -> (RecordingQueue, mpsc::UnboundedReceiver<Message>) {
    let (messages, received) = mpsc::unbounded_channel();
    let queue = RecordingQueue {
        endpoint: 0,
        messages,
        capacity: Arc::new(Semaphore::new(WAITING_BYTES)),
    };
    (queue, received)
}

impl RecordingQueue {
    /// Returns the end of an endpoint.
    pub(super) fn for_endpoint(&self, endpoint: usize) -> Self {
        Self {
            endpoint,
            ..self.clone()
        }
    }

    pub(super) fn snapshot_handle(&self) -> SnapshotHandle {
        SnapshotHandle(self.messages.downgrade())
    }

    /// Makes the record durable on a thread of its own. Recording continues meanwhile.
    ///
    /// # Cancel safety
    ///
    /// None: if the future is dropped, the record does not learn the result.
    pub(super) async fn sync(&self) {
        let (reply, job) = oneshot::channel();
        if self.messages.send(Message::BeginSync { reply }).is_err() {
            return;
        }
        let Ok(Some(job)) = job.await else { return };
        if let Ok(outcomes) = spawn_blocking(move || job.run()).await {
            self.messages.send(Message::FinishSync(outcomes)).ok();
        }
    }
}

/// Messages to a thread that has ended are dropped: the agent reports that end by itself.
impl PageSink for RecordingQueue {
    fn begin(&mut self, format: Format) {
        let endpoint = self.endpoint;
        self.messages.send(Message::Begin { endpoint, format }).ok();
    }

    async fn piece(&mut self, bytes: Bytes) {
        // A piece larger than the whole capacity could otherwise never be sent.
        let size = bytes.len().min(WAITING_BYTES) as u32;
        // Permits are given in the order of the requests, so that no endpoint waits for ever.
        let permit = Arc::clone(&self.capacity).acquire_many_owned(size).await;
        let message = Message::Piece {
            endpoint: self.endpoint,
            bytes,
            _permit: permit.expect("the semaphore is never closed"),
        };
        self.messages.send(message).ok();
    }

    fn waiting_bytes(&self) -> usize {
        WAITING_BYTES.saturating_sub(self.capacity.available_permits())
    }

    async fn finish(&mut self, outcome: ScrapeOutcome) {
        let (recorded, done) = oneshot::channel();
        let message = Message::Finish {
            endpoint: self.endpoint,
            outcome,
            recorded,
        };
        if self.messages.send(message).is_ok() {
            // So that at most one of these messages per endpoint waits.
            done.await.ok();
        }
    }
}
