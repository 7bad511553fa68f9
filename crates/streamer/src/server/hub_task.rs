//! The one task that steps the hub and performs what it asks for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use steadfast_session::Time;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::debug;

use super::{incoming::Received, outgoing::Outgoing};
use crate::{
    Event,
    hub::{Action, EndCode, EndStatus, Hub, Input, ReadFault, Stats, StreamId, Ticket},
    log::LogReader,
};

/// What reaches the hub. Bounded per stream: receipts by the stream's backlog, the rest by one each.
#[derive(Debug)]
enum Letter {
    Opened(StreamId, Outgoing, CancellationToken),
    Received(StreamId, Received),
    Taken(StreamId),
    Ended(StreamId),
    Read(Ticket, Result<Vec<Arc<Event>>, ReadFault>),
    Drain(Duration, String),
    Stats(oneshot::Sender<Stats>),
}

/// A handle of the hub's task.
#[derive(Clone, Debug)]
pub(super) struct HubHandle {
    letters: mpsc::UnboundedSender<Letter>,
    streams: Arc<AtomicU64>,
}

/// The way of commits to the hub. Bounded: a log that commits faster than the hub looks waits.
#[derive(Debug)]
pub(super) struct Commits(mpsc::Sender<Vec<Arc<Event>>>);

/// The task.
pub(super) struct HubTask {
    hub: Hub,
    reader: Arc<dyn LogReader>,
    handle: HubHandle,
    letters: mpsc::UnboundedReceiver<Letter>,
    commits: mpsc::Receiver<Vec<Arc<Event>>>,
    streams: BTreeMap<StreamId, Held>,
    started: Instant,
    deadline: Option<Time>,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Held {
    outgoing: Outgoing,
    over: CancellationToken,
}

/// Commits that may wait for the hub.
const COMMITS: usize = 16;

/// Letters looked at before commits and the clock have their turn.
const BATCH: usize = 256;

impl HubHandle {
    pub(super) fn next_stream(&self) -> StreamId {
        StreamId(self.streams.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns a token that is cancelled when the hub has ended the stream.
    pub(super) fn opened(&self, stream: StreamId, outgoing: Outgoing) -> CancellationToken {
        let over = CancellationToken::new();
        let letter = Letter::Opened(stream, outgoing, over.clone());
        if let Err(unheard) = self.letters.send(letter) {
            unheard.0.turn_away();
        }
        over
    }

    pub(super) fn received(&self, stream: StreamId, received: Received) {
        self.send(Letter::Received(stream, received));
    }

    pub(super) fn taken(&self, stream: StreamId) {
        self.send(Letter::Taken(stream));
    }

    pub(super) fn ended(&self, stream: StreamId) {
        self.send(Letter::Ended(stream));
    }

    pub(super) fn drain(&self, grace: Duration, reason: &str) {
        self.send(Letter::Drain(grace, reason.to_owned()));
    }

    pub(super) async fn stats(&self) -> Option<Stats> {
        let (tell, stats) = oneshot::channel();
        self.send(Letter::Stats(tell));
        stats.await.ok()
    }

    /// A hub that has stopped hears nothing; its streams were ended before.
    fn send(&self, letter: Letter) {
        self.letters.send(letter).ok();
    }
}

impl Letter {
    /// What a hub that has stopped does with it: nobody may wait for it for ever.
    fn turn_away(self) {
        match self {
            Self::Opened(_, outgoing, over) => Held { outgoing, over }.cut_short(),
            Self::Received(..)
            | Self::Taken(_)
            | Self::Ended(_)
            | Self::Read(..)
            | Self::Drain(..)
            | Self::Stats(_) => {}
        }
    }
}

impl Held {
    fn cut_short(self) {
        let stopped = Status::unavailable("the server has stopped");
        self.outgoing.end(None, stopped, true);
        self.over.cancel();
    }
}

impl Commits {
    /// Called on the log's own thread, which may wait.
    pub(super) fn tell(&self, events: &[Arc<Event>]) {
        self.0.blocking_send(events.to_vec()).ok();
    }
}

impl HubTask {
    pub(super) fn new(hub: Hub, reader: Arc<dyn LogReader>) -> (HubHandle, Self, Commits) {
        let (sender, letters) = mpsc::unbounded_channel();
        let (commit, commits) = mpsc::channel(COMMITS);
        let handle = HubHandle {
            letters: sender,
            streams: Arc::default(),
        };
        let task = Self {
            hub,
            reader,
            handle: handle.clone(),
            letters,
            commits,
            streams: BTreeMap::new(),
            started: Instant::now(),
            deadline: None,
            actions: Vec::new(),
        };
        (handle, task, Commits(commit))
    }

    /// Runs until it is stopped, or the log is, and says which. Dropped, it ends every stream that is
    /// left.
    pub(super) async fn run(mut self, stop: CancellationToken) -> &'static str {
        let mut letters = Vec::with_capacity(BATCH);
        loop {
            let due = self
                .deadline
                .map(|at| self.started + Duration::from_micros(at.as_micros()));
            let tick = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return "it was stopped",
                _ = self.letters.recv_many(&mut letters, BATCH) => {
                    for letter in letters.drain(..) {
                        self.open(letter);
                    }
                }
                events = self.commits.recv() => match events {
                    Some(events) => self.step(Input::Committed { events }),
                    // Streams to which nothing will ever come again look healthy from outside.
                    None => return "its log has stopped",
                },
                () = tick => {
                    // What came before the deadline is told before it, or a peer this task had no
                    // time for would be taken for a silent one.
                    for _ in 0..self.letters.len() {
                        match self.letters.try_recv() {
                            Ok(letter) => self.open(letter),
                            Err(_) => break,
                        }
                    }
                    self.step(Input::Tick);
                }
            }
        }
    }

    fn open(&mut self, letter: Letter) {
        match letter {
            Letter::Opened(stream, outgoing, over) => {
                self.streams.insert(stream, Held { outgoing, over });
                self.step(Input::Opened { stream });
            }
            Letter::Received(stream, mut received) => {
                let message = std::mem::take(&mut received.message);
                self.step(Input::Message { stream, message });
            }
            Letter::Taken(stream) => {
                if let Some(held) = self.streams.get(&stream) {
                    let (bytes, messages) = held.outgoing.taken();
                    self.step(Input::Sent {
                        stream,
                        bytes,
                        messages,
                    });
                }
            }
            Letter::Ended(stream) => self.step(Input::Ended { stream }),
            Letter::Read(ticket, result) => self.step(Input::ReadDone { ticket, result }),
            Letter::Drain(grace, reason) => {
                // A commit is on its way to the hub before its publisher hears of it: what was
                // acknowledged before the drain is still delivered.
                for _ in 0..self.commits.len() {
                    match self.commits.try_recv() {
                        Ok(events) => self.step(Input::Committed { events }),
                        Err(_) => break,
                    }
                }
                let deadline = self.now() + grace;
                self.step(Input::Drain { deadline, reason });
            }
            Letter::Stats(tell) => {
                tell.send(self.hub.stats()).ok();
            }
        }
    }

    fn step(&mut self, input: Input) {
        let now = self.now();
        let mut actions = std::mem::take(&mut self.actions);
        self.deadline = self.hub.step(now, input, &mut actions);
        for action in actions.drain(..) {
            self.perform(action);
        }
        self.actions = actions;
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Send {
                stream,
                message,
                bytes,
            } => {
                if let Some(held) = self.streams.get(&stream) {
                    held.outgoing.push(message, bytes);
                }
            }
            Action::End {
                stream,
                last,
                status,
                flush,
            } => {
                if let Some(held) = self.streams.remove(&stream) {
                    debug!(stream = stream.0, code = ?status.code, why = %status.text, "stream ended");
                    held.outgoing.end(last, to_status(status), flush);
                    held.over.cancel();
                }
            }
            Action::Read {
                ticket,
                after,
                max_events,
                max_bytes,
            } => {
                let (reader, handle) = (Arc::clone(&self.reader), self.handle.clone());
                tokio::task::spawn_blocking(move || {
                    let result = reader
                        .read(after, max_events, max_bytes)
                        .map_err(ReadFault::from);
                    handle.send(Letter::Read(ticket, result));
                });
            }
        }
    }

    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// However the task ends, by a panic too, its streams end and later ones do not begin.
impl Drop for HubTask {
    fn drop(&mut self) {
        self.letters.close();
        while let Ok(letter) = self.letters.try_recv() {
            letter.turn_away();
        }
        for held in std::mem::take(&mut self.streams).into_values() {
            held.cut_short();
        }
    }
}

fn to_status(status: EndStatus) -> Status {
    let code = match status.code {
        EndCode::Ok => Code::Ok,
        EndCode::InvalidArgument => Code::InvalidArgument,
        EndCode::Aborted => Code::Aborted,
        EndCode::ResourceExhausted => Code::ResourceExhausted,
        EndCode::Unavailable => Code::Unavailable,
        EndCode::DataLoss => Code::DataLoss,
    };
    Status::new(code, status.text)
}
