//! Between the metrics stream and the record: one question at a time, each answered once.
//!
//! Reading the record blocks, so it is done on a thread that may; what it makes comes here part by
//! part, no faster than the proxy takes it. The registration has a driver of its own and notices
//! nothing of all this.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use steadfast::{Gate, Link, transport::Connection};
use steadfast_session::Generation;
use steadfast_wire::fodc::StreamMetricsResponse;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    answer::{self, Outcome, Outlet, Task},
    limits::MessageBytes,
    metrics::{Command, Encoded, Metrics},
    question::Question,
    responder::Responder,
    tally::Tally,
};
use steadfast_fodc_model::identity::Identity;

/// Limits of one answer in time. The shortest patience of a proxy is 5 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// From then on nothing more is looked for.
    pub(crate) hurry: Duration,
    /// From then on nothing more is written.
    pub(crate) over: Duration,
    /// Then the record is waited for no longer, and an answer without it goes.
    pub(crate) without: Duration,
    /// How long the proxy may take to make room for the next message.
    pub(crate) room: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            hurry: Duration::from_secs(2),
            over: Duration::from_secs(4),
            without: Duration::from_millis(4_500),
            room: Duration::from_secs(30),
        }
    }
}

/// Parts of an answer that are made ahead of what the connection has taken.
const PARTS_AHEAD: usize = 1;

/// Bytes that may wait for the connection when the next message is queued.
const UNSENT_MAX: usize = 64 << 10;

/// What an answerer hears of its stream.
pub(crate) struct Inbox {
    pub(crate) questions: mpsc::UnboundedReceiver<(Generation, StreamMetricsResponse)>,
    /// What became of the newest message; there is never more than one outstanding.
    pub(crate) taken: mpsc::UnboundedReceiver<bool>,
    /// The stream that is open.
    pub(crate) stream: watch::Receiver<Option<Generation>>,
}

/// What does not change from question to question.
pub(crate) struct Answerer<C: Connection> {
    pub(crate) link: Link<Metrics, C>,
    pub(crate) inbox: Inbox,
    pub(crate) responder: Arc<dyn Responder>,
    pub(crate) identity: watch::Receiver<Arc<Identity>>,
    /// What the proxy takes in one message, as far as is known now.
    pub(crate) message_bytes: Arc<MessageBytes>,
    /// Finds out whether a proxy that does not say it takes more. Asked when something does not fit.
    pub(crate) version: Option<BoxFuture<'static, Option<usize>>>,
    pub(crate) profile: bool,
    pub(crate) patience: Patience,
    pub(crate) clock: Clock,
    pub(crate) tally: Arc<Tally>,
    /// Counts the questions that wait.
    pub(crate) gate: Arc<Gate>,
    /// Reads for the newest answer.
    pub(crate) thread: Option<JoinHandle<Outcome>>,
}

/// Unix milliseconds.
pub(crate) type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The reading of the record for one answer.
struct Reading {
    parts: mpsc::Receiver<Part>,
    haste: Haste,
}

/// A part of an answer.
enum Part {
    Earlier(Bytes),
    Last { message: Bytes, cut: bool },
}

/// What became of an answer.
enum Passed {
    /// It is on its way, to the last part.
    On,
    /// It was cut, and the proxy takes more than was thought: it is to be made again.
    Larger,
}

/// Why an answer ended early.
#[derive(Debug)]
enum Early {
    /// The stream that asked is gone.
    Gone,
    /// The proxy does not take what it asked for.
    NotTaken,
}

impl<C: Connection> Answerer<C> {
    /// Answers until `cancel`; what is being read then is let go.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let asked = cancel
                .run_until_cancelled(self.inbox.questions.recv())
                .await;
            let Some((from, question)) = asked.flatten() else {
                return;
            };
            self.tally.questions.count();
            let answering = self.answer(from, &question);
            if cancel.run_until_cancelled(answering).await.is_none() {
                return;
            }
            self.gate.take();
        }
    }

    async fn answer(&mut self, from: Generation, asked: &StreamMetricsResponse) {
        if *self.inbox.stream.borrow_and_update() != Some(from) {
            return;
        }
        let began = Instant::now();
        let (question, fault) = Question::new(asked);
        let mut task = Task {
            question: Arc::new(question),
            identity: self.identity.borrow().clone(),
            message_bytes: self.message_bytes.now(),
            profile: self.profile,
            now: (self.clock)(),
        };
        if let Some(fault) = &fault {
            warn!(%fault, "a question can not be made out");
        }
        let sent = loop {
            if fault.is_some() || !self.is_free(began).await {
                break self.send(from, answer::nothing(&task)).await;
            }
            let reading = self.read(&task);
            match self.pass_on(from, &task, began, reading).await {
                Ok(Passed::On) => break Ok(()),
                Ok(Passed::Larger) => task.message_bytes = self.message_bytes.now(),
                Err(early) => break Err(early),
            }
        };
        match sent {
            Ok(()) => {
                self.tally.answers.count();
                self.is_free(began).await;
            }
            Err(Early::Gone) => debug!(generation = from.0, "the stream that asked is gone"),
            Err(Early::NotTaken) => {
                warn!(generation = from.0, "the proxy does not take its answer");
                // A closed link has no stream to end.
                self.link.command(Command::Abandon(from)).ok();
            }
        }
    }

    /// Whether the thread that read for the last answer is done. It is, unless the record is stuck;
    /// a second one would then only be stuck as well.
    async fn is_free(&mut self, began: Instant) -> bool {
        let Some(thread) = &mut self.thread else {
            return true;
        };
        let Ok(ended) = timeout_at(began + self.patience.over, thread).await else {
            warn!("the record still does not answer");
            self.tally.failed.count();
            return false;
        };
        self.thread = None;
        self.count(ended);
        true
    }

    fn read(&mut self, task: &Task) -> Reading {
        let (parts, made) = mpsc::channel(PARTS_AHEAD);
        let haste = Haste::default();
        let (task, responder) = (task.clone(), Arc::clone(&self.responder));
        let mut outlet = Parts {
            parts,
            haste: haste.clone(),
        };
        let thread = tokio::task::spawn_blocking(move || {
            answer::answer(&task, responder.as_ref(), &mut outlet)
        });
        self.thread = Some(thread);
        Reading { parts: made, haste }
    }

    /// Sends the parts as they come. Whatever happens to the reading, a last part goes.
    async fn pass_on(
        &mut self,
        from: Generation,
        task: &Task,
        began: Instant,
        mut reading: Reading,
    ) -> Result<Passed, Early> {
        let Patience {
            hurry,
            over,
            without,
            ..
        } = self.patience;
        loop {
            let part = tokio::select! {
                biased;
                _ = self.inbox.stream.wait_for(|stream| *stream != Some(from)) => {
                    return Err(Early::Gone);
                }
                part = reading.parts.recv() => part,
                () = sleep_until(began + hurry), if !reading.haste.is(HURRY) => {
                    reading.haste.make(HURRY);
                    continue;
                }
                () = sleep_until(began + over), if !reading.haste.is(OVER) => {
                    reading.haste.make(OVER);
                    continue;
                }
                () = sleep_until(began + without) => None,
            };
            match part {
                None => break,
                Some(Part::Earlier(message)) => self.send(from, message).await?,
                Some(Part::Last { cut: true, .. })
                    if began.elapsed() < hurry && self.takes_more().await =>
                {
                    return Ok(Passed::Larger);
                }
                Some(Part::Last { message, .. }) => {
                    self.send(from, message).await?;
                    return Ok(Passed::On);
                }
            }
        }
        self.send(from, answer::nothing(task)).await?;
        Ok(Passed::On)
    }

    /// Whether the proxy is found to take more than was thought. Found out once.
    async fn takes_more(&mut self) -> bool {
        let Some(version) = self.version.take() else {
            return false;
        };
        let found = version.await;
        found.is_some_and(|bytes| self.message_bytes.raise(bytes))
    }

    /// Counts how the reading for an answer went.
    fn count(&self, ended: Result<Outcome, JoinError>) {
        match ended {
            Ok(outcome) => {
                self.tally.samples.add(outcome.samples);
                if outcome.cut {
                    self.tally.cut.count();
                }
                if let Some(unreadable) = outcome.unreadable {
                    warn!(%unreadable, "an answer is not whole");
                    self.tally.failed.count();
                }
            }
            Err(error) => {
                warn!(%error, "the reading of the record broke off");
                self.tally.failed.count();
            }
        }
    }

    /// Queues a message when there is room for it and waits until it is queued.
    async fn send(&mut self, from: Generation, message: Bytes) -> Result<(), Early> {
        let room = timeout(self.patience.room, self.link.room(UNSENT_MAX));
        tokio::select! {
            biased;
            _ = self.inbox.stream.wait_for(|stream| *stream != Some(from)) => {
                return Err(Early::Gone);
            }
            room = room => room.map_err(|_| Early::NotTaken)?,
        }
        let answer = Command::Answer(from, Encoded(message));
        self.link.command(answer).map_err(|_| Early::Gone)?;
        match self.inbox.taken.recv().await {
            Some(true) => Ok(()),
            Some(false) | None => Err(Early::Gone),
        }
    }
}

/// There is no more time to look.
const HURRY: u8 = 1;
/// There is no more time.
const OVER: u8 = 2;

/// How much time is left, told to the thread that reads.
#[derive(Clone, Debug, Default)]
struct Haste(Arc<AtomicU8>);

impl Haste {
    fn is(&self, haste: u8) -> bool {
        self.0.load(Ordering::Acquire) >= haste
    }

    fn make(&self, haste: u8) {
        self.0.fetch_max(haste, Ordering::AcqRel);
    }
}

/// The reading thread's side of a [`Reading`]. When the other side is gone nobody wants the rest.
struct Parts {
    parts: mpsc::Sender<Part>,
    haste: Haste,
}

impl Outlet for Parts {
    fn part(&mut self, message: Bytes) -> ControlFlow<()> {
        match self.parts.blocking_send(Part::Earlier(message)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn last(&mut self, message: Bytes, cut: bool) {
        // Whoever does not want it any more has its own reasons.
        self.parts.blocking_send(Part::Last { message, cut }).ok();
    }

    fn hurries(&self) -> bool {
        self.haste.is(HURRY) || self.is_over()
    }

    fn is_over(&self) -> bool {
        self.haste.is(OVER) || self.parts.is_closed()
    }
}
