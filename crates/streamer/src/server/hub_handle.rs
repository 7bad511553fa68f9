//! The handle of the hub's task, and the messages that reach the task.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use steadfast_access::Access;
use steadfast_net::{ResponseQueue, access::KnownPeer};
use steadfast_wire::streamer::GatewayMessage;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    Event,
    hub::{DocumentPage, Input, ReadFault, ReadId, Stats, StreamId, Survey},
};

/// A message to the hub's task.
///
/// The queue needs no bound of its own: received messages are bounded per stream by their backlog,
/// and of the other kinds at most one per stream or read is queued.
#[derive(Debug)]
pub(super) enum HubMessage {
    Opened(StreamId, StreamHandle),
    /// The peer of a stream has sent newer credentials.
    Authorized(StreamId, KnownPeer, BacklogShare),
    /// The peer of a stream has sent credentials that are not valid, for this reason. Its last message.
    Revoked(StreamId, String),
    /// These rules are in force. Check the streams from this id on. At most one per change of the file
    /// or of the wall clock.
    AccessChanged(Arc<Access>, StreamId),
    Received(StreamId, Received),
    /// The transport took messages from the stream's queue.
    Dequeued(StreamId),
    Ended(StreamId),
    ReadDone(ReadId, Result<Vec<Arc<Event>>, ReadFault>),
    /// An input whose events have what was read of the states before them. At most one with commits.
    Completed(Input),
    /// The source of the log has lost changes before the event at this offset. One, at the start.
    Lost(u64),
    /// The source of the log has lost changes before its next event. Tell the offset that positions after
    /// the loss have at least. At most one, because the source waits for it.
    LostNext(oneshot::Sender<u64>),
    DocumentsRead(ReadId, Result<DocumentPage, ReadFault>),
    /// Drain for at most this long, for this reason, and tell when no stream is left.
    Drain(Duration, String, oneshot::Sender<()>),
    Stats(oneshot::Sender<Stats>),
    /// Continue a survey by one slice. At most one per caller that waits for it.
    Survey(Box<Survey>, oneshot::Sender<SurveyStep>),
}

/// The survey after one slice.
#[derive(Debug)]
pub(super) struct SurveyStep {
    pub(super) survey: Box<Survey>,
    pub(super) is_done: bool,
    /// At the end, the peers of the slowest streams.
    pub(super) peers: BTreeMap<StreamId, SocketAddr>,
}

/// The driver's side of one stream.
#[derive(Debug)]
pub(super) struct StreamHandle {
    pub(super) queue: ResponseQueue<Bytes>,
    /// Cancelled when the hub has ended the stream.
    pub(super) ended: CancellationToken,
    pub(super) peer: Option<SocketAddr>,
    /// `None` if everybody may do everything.
    pub(super) known: Option<KnownPeer>,
}

/// A message that the hub has not handled yet.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) message: GatewayMessage,
    pub(super) share: BacklogShare,
}

/// The share of a message in the backlog of its stream. Dropping it frees the share.
#[derive(Debug)]
pub(super) struct BacklogShare {
    weight: usize,
    backlog: Arc<AtomicUsize>,
}

/// A handle of the hub's task. A task that has stopped ignores all messages; it has ended its streams.
#[derive(Clone, Debug)]
pub(super) struct HubHandle {
    messages: mpsc::UnboundedSender<HubMessage>,
    next_stream: Arc<AtomicU64>,
}

impl HubHandle {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<HubMessage>) {
        let (messages, receiver) = mpsc::unbounded_channel();
        let handle = Self {
            messages,
            next_stream: Arc::default(),
        };
        (handle, receiver)
    }

    pub(super) fn next_stream(&self) -> StreamId {
        StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed))
    }

    /// Opens a stream and returns a token that is cancelled when the hub has ended it.
    pub(super) fn open(
        &self,
        stream: StreamId,
        queue: ResponseQueue<Bytes>,
        peer: Option<SocketAddr>,
        known: Option<KnownPeer>,
    ) -> CancellationToken {
        let ended = CancellationToken::new();
        let handle = StreamHandle {
            queue,
            ended: ended.clone(),
            peer,
            known,
        };
        if let Err(unsent) = self.messages.send(HubMessage::Opened(stream, handle)) {
            // The task has closed its queue. Without a status the peer would wait for its timeout.
            unsent.0.reject();
        }
        ended
    }

    /// Starts a drain. The receiver resolves when no stream is left or the task has stopped.
    pub(super) fn drain(&self, grace: Duration, reason: &str) -> oneshot::Receiver<()> {
        let (sender, drained) = oneshot::channel();
        self.send(HubMessage::Drain(grace, reason.to_owned(), sender));
        drained
    }

    /// Tells that the source of the log has lost changes. Events that are committed after this have
    /// positions from the returned offset on, and no subscriber receives them before it is told. `None` if
    /// the task has stopped.
    pub(super) async fn tell_loss(&self) -> Option<u64> {
        let (sender, before) = oneshot::channel();
        self.send(HubMessage::LostNext(sender));
        before.await.ok()
    }

    /// Returns the hub's metrics, or `None` if the task has stopped.
    pub(super) async fn stats(&self) -> Option<Stats> {
        let (sender, stats) = oneshot::channel();
        self.send(HubMessage::Stats(sender));
        stats.await.ok()
    }

    /// Looks at all streams and returns the survey with the peers of its slowest streams, or `None` if
    /// the task has stopped. The hub handles other messages between the slices.
    pub(super) async fn survey(
        &self,
        max_entries: usize,
    ) -> Option<(Survey, BTreeMap<StreamId, SocketAddr>)> {
        let mut survey = Box::new(Survey::new(max_entries));
        loop {
            let (sender, step) = oneshot::channel();
            self.send(HubMessage::Survey(survey, sender));
            let step = step.await.ok()?;
            if step.is_done {
                return Some((*step.survey, step.peers));
            }
            survey = step.survey;
        }
    }

    /// Returns true if the task has stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.messages.is_closed()
    }

    pub(super) fn send(&self, message: HubMessage) {
        self.messages.send(message).ok();
    }
}

impl HubMessage {
    /// Handles a message in place of a task that has stopped: no stream may wait for it forever.
    pub(super) fn reject(self) {
        match self {
            Self::Opened(_, stream) => stream.abort(),
            Self::Received(..)
            | Self::Authorized(..)
            | Self::Revoked(..)
            | Self::AccessChanged(..)
            | Self::Dequeued(_)
            | Self::Ended(_)
            | Self::ReadDone(..)
            | Self::Completed(_)
            | Self::DocumentsRead(..)
            | Self::Drain(..)
            | Self::Lost(_)
            | Self::LostNext(_)
            | Self::Stats(_)
            | Self::Survey(..) => {}
        }
    }
}

impl StreamHandle {
    /// Ends the stream because the hub's task has stopped.
    pub(super) fn abort(self) {
        let status = Status::unavailable("the server has stopped");
        self.queue.end(None, status, true);
        self.ended.cancel();
    }
}

impl BacklogShare {
    /// Adds a message of `weight` bytes to a stream's backlog. Returns `None` if it would exceed
    /// `limit`.
    pub(super) fn take(weight: usize, backlog: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let share = Self {
            weight,
            backlog: Arc::clone(backlog),
        };
        // Added first: a message that exceeds the limit takes its share back when it is dropped.
        let queued = backlog.fetch_add(weight, Ordering::AcqRel) + weight;
        (queued <= limit).then_some(share)
    }
}

impl Drop for BacklogShare {
    fn drop(&mut self) {
        self.backlog.fetch_sub(self.weight, Ordering::AcqRel);
    }
}
