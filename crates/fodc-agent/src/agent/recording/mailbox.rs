//! How pages get to the thread that records.

use std::sync::Arc;

use bytes::Bytes;
use steadfast_exposition::Format;
use steadfast_recorder::{Reader, Stats, SyncJobs, SyncOutcomes};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::spawn_blocking,
};

use crate::{
    agent::board::State,
    scrape::{Intake, Reading},
};

/// Bytes of pages that may wait for the recording thread, of all endpoints together. It takes about
/// a gigabyte a second; what arrives while it waits for a disk waits in the sockets.
const WAITING_BYTES: usize = 1 << 20;

/// What the recording thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// A page of an endpoint begins.
    Begin { endpoint: usize, format: Format },
    /// The next piece of the endpoint's page.
    Piece {
        endpoint: usize,
        bytes: Bytes,
        /// Its room; free again when the message is gone.
        _room: OwnedSemaphorePermit,
    },
    /// The reading of the endpoint is over.
    End {
        endpoint: usize,
        reading: Reading,
        done: oneshot::Sender<()>,
    },
    /// Hand out what has to be done to make the record durable.
    SyncJob {
        to: oneshot::Sender<Option<SyncJobs>>,
    },
    /// It was done.
    Synced { synced: SyncOutcomes },
    /// Hand out the record as it is now.
    Show { to: oneshot::Sender<Snapshot> },
}

/// The record as it was at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) reader: Reader,
    pub(crate) stats: Stats,
    /// What there is of each endpoint.
    pub(crate) shares: Vec<Stats>,
    /// What was known of endpoints and record at that moment.
    pub(crate) state: State,
}

/// Where the record can be seen. Does not keep the recording thread alive.
#[derive(Clone, Debug)]
pub(crate) struct Window(mpsc::WeakUnboundedSender<Message>);

impl Window {
    /// The record as it is now, with everything that had ended its reading before.
    ///
    /// # Errors
    ///
    /// When recording has ended.
    pub(crate) async fn look(&self) -> Result<Snapshot, Ended> {
        self.ask()?.await.map_err(|_| Ended)
    }

    /// The same for a thread that may block.
    ///
    /// # Panics
    ///
    /// In an asynchronous task.
    pub(crate) fn blocking_look(&self) -> Result<Snapshot, Ended> {
        self.ask()?.blocking_recv().map_err(|_| Ended)
    }

    fn ask(&self) -> Result<oneshot::Receiver<Snapshot>, Ended> {
        let (to, shown) = oneshot::channel();
        let messages = self.0.upgrade().ok_or(Ended)?;
        messages.send(Message::Show { to }).map_err(|_| Ended)?;
        Ok(shown)
    }
}

/// Recording has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("recording has ended")]
pub(crate) struct Ended;

/// One endpoint's way to the recording thread.
///
/// Pieces wait for room, so that everything that waits is bounded in bytes. The other messages wait
/// for their answer: there is at most one of an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    endpoint: usize,
    messages: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
}

/// The first mailbox, and what comes out of all of them.
pub(super) fn mailboxes() -> (Mailbox, mpsc::UnboundedReceiver<Message>) {
    let (messages, received) = mpsc::unbounded_channel();
    let mailbox = Mailbox {
        endpoint: 0,
        messages,
        room: Arc::new(Semaphore::new(WAITING_BYTES)),
    };
    (mailbox, received)
}

impl Mailbox {
    /// The mailbox of that endpoint.
    pub(super) fn of(&self, endpoint: usize) -> Self {
        Self {
            endpoint,
            ..self.clone()
        }
    }

    pub(super) fn window(&self) -> Window {
        Window(self.messages.downgrade())
    }

    /// Makes durable what stands in the record, on a thread of its own: recording goes on meanwhile.
    ///
    /// # Cancel safety
    ///
    /// None: dropped in the middle, the record does not learn what became of it.
    pub(super) async fn sync(&self) {
        let (to, job) = oneshot::channel();
        if self.messages.send(Message::SyncJob { to }).is_err() {
            return;
        }
        let Ok(Some(job)) = job.await else { return };
        if let Ok(synced) = spawn_blocking(move || job.run()).await {
            self.messages.send(Message::Synced { synced }).ok();
        }
    }

    /// Tells and waits for the answer. A thread that has ended answers nothing and is told nothing.
    async fn ask(&self, message: impl FnOnce(oneshot::Sender<()>) -> Message) {
        let (done, answered) = oneshot::channel();
        if self.messages.send(message(done)).is_ok() {
            answered.await.ok();
        }
    }
}

impl Intake for Mailbox {
    fn begin(&mut self, format: Format) {
        let endpoint = self.endpoint;
        self.messages.send(Message::Begin { endpoint, format }).ok();
    }

    async fn piece(&mut self, bytes: Bytes) {
        let size = bytes.len().min(WAITING_BYTES) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(size).await;
        let message = Message::Piece {
            endpoint: self.endpoint,
            bytes,
            _room: room.expect("the room is never closed"),
        };
        self.messages.send(message).ok();
    }

    fn waiting(&self) -> usize {
        WAITING_BYTES.saturating_sub(self.room.available_permits())
    }

    async fn end(&mut self, reading: Reading) {
        let endpoint = self.endpoint;
        self.ask(|done| Message::End {
            endpoint,
            reading,
            done,
        })
        .await;
    }
}
