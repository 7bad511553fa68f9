//! The task that steps the hub and performs its actions.

use std::{collections::BTreeMap, sync::Arc, task::Waker, time::Duration};

use steadfast_access::{Access, Refused};
use steadfast_net::{
    Amount,
    access::{AccessControl, KnownPeer},
};
use steadfast_session::Time;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::debug;

use super::{
    access,
    hub_handle::{BacklogShare, HubHandle, HubMessage, Received, StreamHandle, SurveyStep},
};
use crate::{
    Event,
    hub::{Action, EndCode, EndStatus, Hub, Input, ReadFault, StreamId, Survey},
    log::{DocumentKey, DocumentQuery, LogReader, complete_previous},
};

/// The sender of committed events to the hub. Its queue is bounded: a log that commits faster than
/// the hub handles has to wait.
#[derive(Debug)]
pub(super) struct CommitSender(mpsc::Sender<Vec<Arc<Event>>>);

/// The task of a hub.
pub(super) struct HubTask {
    hub: Hub,
    reader: Arc<dyn LogReader>,
    handle: HubHandle,
    access: AccessControl,
    messages: mpsc::UnboundedReceiver<HubMessage>,
    commits: mpsc::Receiver<Vec<Arc<Event>>>,
    /// Commits for which the states of documents before them are being read. Later ones wait.
    completing: Option<Vec<Arc<Event>>>,
    streams: BTreeMap<StreamId, StreamHandle>,
    /// Told when no stream is left.
    drained: Option<oneshot::Sender<()>>,
    started: Instant,
    deadline: Option<Time>,
    /// The newest event that the hub knows.
    head: watch::Sender<u64>,
    /// Inputs that the hub has not handled, of messages that are being handled together.
    inputs: Vec<Input>,
    /// The shares of these inputs in the backlogs of their streams.
    shares: Vec<BacklogShare>,
    /// An empty buffer, kept to save allocations.
    actions: Vec<Action>,
    /// The streams' transports that wait for messages of the current step.
    readers: Vec<Waker>,
}

/// The maximum number of commits queued for the hub.
const COMMITS: usize = 16;

/// The maximum number of messages handled before commits and the clock get their turn.
const BATCH: usize = 256;

/// The bytes of documents before events that are read for one input. They stay in memory with the events.
const PREVIOUS_BYTES: usize = 16 << 20;

/// The streams that are checked by changed rules in one message.
const RECHECK_SLICE: usize = 256;

/// The streams and subscriptions that are visited in one slice of a survey: some 100 µs.
const SURVEY_SLICE: usize = 1_024;

/// The time in which a peer has to read what is queued when its stream ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

impl CommitSender {
    /// Sends events to the hub and waits if its queue is full. Must run on a thread that may block.
    pub(super) fn send(&self, events: &[Arc<Event>]) {
        // Without a hub the log goes on: acknowledged entries are durable, and read after a
        // restart.
        self.0.blocking_send(events.to_vec()).ok();
    }
}

impl HubTask {
    pub(super) fn new(
        hub: Hub,
        reader: Arc<dyn LogReader>,
        access: AccessControl,
    ) -> (HubHandle, Self, CommitSender) {
        let (handle, messages) = HubHandle::new();
        // Apart from `messages`, because commits wait while the hub is busy and messages never do.
        let (commit_sender, commits) = mpsc::channel(COMMITS);
        let task = Self {
            head: watch::Sender::new(hub.head().offset),
            hub,
            reader,
            handle: handle.clone(),
            access,
            messages,
            commits,
            completing: None,
            streams: BTreeMap::new(),
            drained: None,
            started: Instant::now(),
            deadline: None,
            inputs: Vec::new(),
            shares: Vec::new(),
            actions: Vec::new(),
            readers: Vec::new(),
        };
        (handle, task, CommitSender(commit_sender))
    }

    /// Returns the newest event that the hub knows.
    pub(super) fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Runs until `stop` is cancelled or the log stops, and returns which. Dropping the future ends
    /// every stream.
    pub(super) async fn run(mut self, stop: CancellationToken) -> &'static str {
        let mut messages = Vec::with_capacity(BATCH);
        loop {
            let tick = wait_until(self.started, self.deadline);
            tokio::select! {
                () = stop.cancelled() => return "it was stopped",
                // Never 0 messages: this task has a sender itself, so that the channel cannot be
                // closed.
                _ = self.messages.recv_many(&mut messages, BATCH) => {
                    self.on_messages(messages.drain(..));
                }
                // Otherwise they stay in the channel, and at its bound the log's writer waits.
                events = self.commits.recv(), if self.accepts_commits() => match events {
                    Some(events) => self.on_committed(events),
                    // Without a log no event comes, and to peers the streams would look healthy.
                    None => return "its log has stopped",
                },
                () = tick => {
                    // Messages received before the deadline are handled before it. Otherwise a peer
                    // would look silent because this task was busy.
                    // As many as are queued now: more may arrive for as long as they are handled.
                    for _ in 0..self.messages.len().div_ceil(BATCH) {
                        let queued = std::iter::from_fn(|| self.messages.try_recv().ok());
                        messages.extend(queued.take(BATCH));
                        self.on_messages(messages.drain(..));
                    }
                    self.step(Input::Tick);
                    // The tick may have matched a slice of events, and the next one may be due at
                    // once: give the tasks that send and receive their turn.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn accepts_commits(&self) -> bool {
        self.completing.is_none() && self.hub.accepts_commits()
    }

    fn on_committed(&mut self, events: Vec<Arc<Event>>) {
        if events.iter().any(|event| self.hub.wants_previous(event)) {
            self.completing = Some(events.clone());
            self.complete(events, |events| Input::Committed { events });
        } else {
            self.step(Input::Committed { events });
        }
    }

    /// Reads the states of documents before events, and passes the input on then.
    fn complete(
        &self,
        mut events: Vec<Arc<Event>>,
        input: impl FnOnce(Vec<Arc<Event>>) -> Input + Send + 'static,
    ) {
        let wanted: Vec<_> = events
            .iter()
            .map(|event| self.hub.wants_previous(event))
            .collect();
        let (reader, handle) = (Arc::clone(&self.reader), self.handle.clone());
        // Not awaited, as other reads: messages and the clock go on meanwhile.
        tokio::task::spawn_blocking(move || {
            complete_previous(&*reader, &mut events, &wanted, PREVIOUS_BYTES);
            handle.send(HubMessage::Completed(input(events)));
        });
    }

    /// Handles messages in their order. What peers have sent together is answered together: a restoration
    /// would otherwise allocate, and wake its transport, for each subscription.
    fn on_messages(&mut self, messages: impl Iterator<Item = HubMessage>) {
        for message in messages {
            let is_input = matches!(message, HubMessage::Received(..) | HubMessage::Dequeued(_));
            if !is_input {
                self.step_inputs();
            }
            self.on_message(message);
        }
        self.step_inputs();
    }

    fn on_message(&mut self, message: HubMessage) {
        match message {
            HubMessage::Opened(stream, handle) => {
                let known = handle.known.clone();
                // Before the step, which may already end the stream or send on it.
                self.streams.insert(stream, handle);
                self.step(Input::Opened { stream });
                if let Some(known) = known {
                    // The rules may have changed since it was identified.
                    let checked = self.access.recheck(known);
                    self.authorize(stream, checked, false);
                }
            }
            HubMessage::Authorized(stream, known, _share) => {
                let checked = self.access.recheck(known);
                self.authorize(stream, checked, true);
            }
            HubMessage::Revoked(stream, reason) => self.step(Input::Revoked { stream, reason }),
            HubMessage::AccessChanged(access, from) => self.recheck(access, from),
            HubMessage::Received(stream, Received { message, share }) => {
                self.inputs.push(Input::Message { stream, message });
                self.shares.push(share);
            }
            HubMessage::Dequeued(stream) => {
                if let Some(handle) = self.streams.get(&stream) {
                    // Everything since the last time: the transport reports only the first of
                    // several.
                    let dequeued = handle.queue.take_dequeued();
                    self.inputs.push(Input::Sent {
                        stream,
                        bytes: dequeued.cost,
                        messages: dequeued.messages,
                    });
                }
            }
            HubMessage::Ended(stream) => self.step(Input::Ended { stream }),
            HubMessage::ReadDone(read, Ok(events))
                if events.iter().any(|event| self.hub.wants_previous(event)) =>
            {
                self.complete(events, move |events| Input::ReadDone {
                    read,
                    result: Ok(events),
                });
            }
            HubMessage::ReadDone(read, result) => self.step(Input::ReadDone { read, result }),
            HubMessage::Completed(input) => {
                if let Input::Committed { .. } = input {
                    self.completing = None;
                }
                self.step(input);
            }
            HubMessage::Lost(before) => self.step(Input::Lost { before }),
            HubMessage::LostNext(sender) => {
                // No position is later than the hub's head, also while later commits are queued.
                let before = self.hub.head().offset + 1;
                self.step(Input::Lost { before });
                sender.send(before).ok();
            }
            HubMessage::DocumentsRead(read, result) => {
                self.step(Input::DocumentsRead { read, result });
            }
            HubMessage::Drain(grace, reason, drained) => {
                // The log commits before the publisher gets its acknowledgement: events that were
                // acknowledged before the drain are in this queue and are still delivered.
                // Without the states before them, whose read may take longer than the drain.
                if let Some(events) = self.completing.take() {
                    self.step(Input::Committed { events });
                }
                for _ in 0..self.commits.len() {
                    match self.commits.try_recv() {
                        Ok(events) => self.step(Input::Committed { events }),
                        Err(_) => break,
                    }
                }
                let deadline = self.now() + grace;
                self.step(Input::Drain { deadline, reason });
                self.drained = Some(drained);
                self.check_drained();
            }
            HubMessage::Stats(sender) => {
                sender.send(self.hub.stats()).ok();
            }
            HubMessage::Survey(survey, sender) => {
                sender.send(self.survey(survey)).ok();
            }
        }
    }

    /// Tells the hub what the peer of a stream may do, or that it may do nothing any more.
    fn authorize(&mut self, stream: StreamId, known: Result<KnownPeer, Refused>, answers: bool) {
        let now = self.now();
        let Some(handle) = self.streams.get_mut(&stream) else {
            return;
        };
        match known {
            Ok(known) => {
                let access = access::on_stream(&known, now);
                handle.known = Some(known);
                self.step(Input::Authorized {
                    stream,
                    access,
                    answers,
                });
            }
            Err(cause) => {
                let reason = cause.public().to_owned();
                self.step(Input::Revoked { stream, reason });
            }
        }
    }

    /// Checks some streams by the rules in force, and leaves the others to later messages.
    fn recheck(&mut self, access: Arc<Access>, from: StreamId) {
        let ids: Vec<_> = self
            .streams
            .range(from..)
            .map(|(id, _)| *id)
            .take(RECHECK_SLICE)
            .collect();
        for stream in &ids {
            let known = self
                .streams
                .get(stream)
                .and_then(|handle| handle.known.clone());
            if let Some(known) = known {
                self.authorize(*stream, known.recheck(&access), false);
            }
        }
        if let Some(StreamId(last)) = ids.last().filter(|_| ids.len() == RECHECK_SLICE) {
            let next = HubMessage::AccessChanged(access, StreamId(last + 1));
            self.handle.send(next);
        }
    }

    fn survey(&self, mut survey: Box<Survey>) -> SurveyStep {
        let is_done = self.hub.survey(&mut survey, SURVEY_SLICE);
        let slowest = survey.slowest.iter().filter(|_| is_done);
        let peer = |id| Some((id, self.streams.get(&id)?.peer?));
        let peers = slowest.filter_map(|it| peer(it.stream)).collect();
        SurveyStep {
            survey,
            is_done,
            peers,
        }
    }

    fn step(&mut self, input: Input) {
        self.inputs.push(input);
        self.step_inputs();
    }

    /// Steps the hub with the inputs that are queued.
    fn step_inputs(&mut self) {
        if self.inputs.is_empty() {
            return;
        }
        let now = self.now();
        let mut actions = std::mem::take(&mut self.actions);
        self.deadline = self.hub.step_all(now, self.inputs.drain(..), &mut actions);
        self.shares.clear();
        let head = self.hub.head().offset;
        self.head
            .send_if_modified(|known| std::mem::replace(known, head) != head);
        for action in actions.drain(..) {
            self.perform(action);
        }
        self.actions = actions;
        // Only now: a transport that is woken between two messages sends them one by one.
        for reader in self.readers.drain(..) {
            reader.wake();
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Send {
                stream,
                frames,
                messages,
            } => {
                if let Some(handle) = self.streams.get(&stream) {
                    let cost = frames.len();
                    let reader = handle.queue.push_batch(frames, Amount { messages, cost });
                    // The queue has no bound of its own, so that this cannot fail.
                    self.readers.extend(reader.ok().flatten());
                }
            }
            Action::End {
                stream,
                last,
                status,
                flush,
            } => {
                if let Some(handle) = self.streams.remove(&stream) {
                    debug!(stream = stream.0, code = ?status.code, cause = %status.text, "stream ended");
                    handle.queue.end(last, to_status(status), flush);
                    if flush {
                        // The hub does not know the stream any more, so that nothing else ends it.
                        let queue = &handle.queue;
                        queue.drop_unread_after(FLUSH_TIMEOUT, unread());
                    }
                    // The receiving task then stops. The hub ignores the end that it reports.
                    handle.ended.cancel();
                    self.check_drained();
                }
            }
            Action::Read {
                read,
                after,
                max_events,
                max_bytes,
            } => {
                let (reader, handle) = (Arc::clone(&self.reader), self.handle.clone());
                // Not awaited: the hub goes on meanwhile, and limits the number of reads
                // (`Limits::reads`).
                tokio::task::spawn_blocking(move || {
                    let result = reader
                        .read(after, max_events, max_bytes)
                        .map_err(ReadFault::from);
                    handle.send(HubMessage::ReadDone(read, result));
                });
            }
            Action::ReadDocuments {
                read,
                database,
                collection,
                after,
                max_documents,
                max_bytes,
            } => {
                let (reader, handle) = (Arc::clone(&self.reader), self.handle.clone());
                tokio::task::spawn_blocking(move || {
                    let after = after.map(|id| {
                        DocumentKey::new(Arc::clone(&database), Arc::clone(&collection), id)
                    });
                    let query = DocumentQuery {
                        database: &database,
                        collection: Some(&collection),
                        after: after.as_ref(),
                        max_documents,
                        max_bytes,
                    };
                    let page = reader.documents(query);
                    let result = page.map(Into::into).map_err(ReadFault::from);
                    handle.send(HubMessage::DocumentsRead(read, result));
                });
            }
        }
    }

    fn check_drained(&mut self) {
        if self.streams.is_empty()
            && let Some(drained) = self.drained.take()
        {
            drained.send(()).ok();
        }
    }

    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Waits until a deadline, without a detour through the timer if it has passed.
async fn wait_until(started: Instant, deadline: Option<Time>) {
    match deadline.map(|at| started + Duration::from_micros(at.as_micros())) {
        Some(due) if due <= Instant::now() => {}
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Ends every stream, also when the task panics, and rejects later ones.
impl Drop for HubTask {
    fn drop(&mut self) {
        // First, so that whoever opens a stream now is rejected by its own send.
        self.messages.close();
        // Streams in the queue are not in `streams` yet.
        while let Ok(message) = self.messages.try_recv() {
            message.reject();
        }
        for handle in std::mem::take(&mut self.streams).into_values() {
            handle.abort();
        }
    }
}

fn unread() -> Status {
    Status::resource_exhausted(format!(
        "the last messages were not read within {FLUSH_TIMEOUT:?} after the end of the stream"
    ))
}

fn to_status(status: EndStatus) -> Status {
    let code = match status.code {
        EndCode::Ok => Code::Ok,
        EndCode::InvalidArgument => Code::InvalidArgument,
        EndCode::Aborted => Code::Aborted,
        EndCode::Unauthenticated => Code::Unauthenticated,
        EndCode::ResourceExhausted => Code::ResourceExhausted,
        EndCode::Unavailable => Code::Unavailable,
        EndCode::DataLoss => Code::DataLoss,
    };
    Status::new(code, status.text)
}
