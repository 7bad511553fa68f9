//! The thread's side: gathering jobs, committing them, telling what became of them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Shared, Taken, WriteError, WriterOptions};
use crate::{
    Event,
    log::{Log, LogError, Outcome, Submission},
};

/// How long the thread sleeps when there is nothing to do. Retention of an idle log is this late.
const IDLE: Duration = Duration::from_secs(60);
/// How soon after a commit an idle log is looked after.
const SETTLE: Duration = Duration::from_secs(11);

/// What the queue holds.
#[derive(Debug)]
pub(super) enum Message {
    Job(Job),
    /// Nothing comes after it.
    Stop,
}

/// Entries of one submitter.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: Vec<Submission>,
    pub(super) tell: oneshot::Sender<Result<Vec<Outcome>, WriteError>>,
    pub(super) room: Taken,
}

pub(super) struct Writer<F> {
    log: Box<dyn Log>,
    options: WriterOptions,
    on_commit: F,
    queue: Receiver<Message>,
    shared: Arc<Shared>,
    /// Whether [`Message::Stop`] was taken out of the queue.
    stopping: bool,
    /// Who waits for the commit that is on its way. Kept here, and not in the function that
    /// commits: should that panic, they must not be let go before it is known as the reason.
    waiting: Vec<Waiting>,
}

/// A submitter whose entries are in the commit that is on its way.
#[derive(Debug)]
struct Waiting {
    entries: usize,
    tell: oneshot::Sender<Result<Vec<Outcome>, WriteError>>,
    /// Given back with the rest.
    _room: Taken,
}

/// Jobs for one commit.
#[derive(Default)]
struct Gathered {
    jobs: Vec<Job>,
    events: usize,
    bytes: usize,
}

impl<F: FnMut(&[Arc<Event>])> Writer<F> {
    pub(super) fn new(
        log: Box<dyn Log>,
        options: WriterOptions,
        on_commit: F,
        queue: Receiver<Message>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            log,
            options,
            on_commit,
            queue,
            shared,
            stopping: false,
            waiting: Vec::new(),
        }
    }

    /// Works until it is stopped, forgotten, or the log fails.
    pub(super) fn run(mut self, done: oneshot::Sender<()>) {
        let closing = CloseOnDrop(Arc::clone(&self.shared));
        if let Err(error) = self.work() {
            tracing::error!(%error, "the log failed, its writer stops");
            while let Ok(message) = self.queue.try_recv() {
                match message {
                    Message::Job(job) => {
                        tell(job.tell, Err(WriteError::Failed(Arc::clone(&error))));
                    }
                    Message::Stop => {}
                }
            }
        }
        // The log is closed before anybody hears that the writer is done with it.
        drop(self);
        drop(closing);
        // Nobody listens when the writer was not shut down but forgotten.
        done.send(()).unwrap_or(());
    }

    fn work(&mut self) -> Result<(), Arc<LogError>> {
        let mut wait = Duration::ZERO;
        while !self.stopping {
            match self.queue.recv_timeout(wait) {
                Ok(Message::Job(job)) => {
                    let gathered = self.gather(job);
                    self.commit(gathered)?;
                    // Under load there is never a better time; one slice is short.
                    self.maintain()?;
                    wait = Duration::ZERO;
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => self.stopping = true,
                Err(RecvTimeoutError::Timeout) => {
                    wait = match (self.maintain()?, wait) {
                        (true, _) => Duration::ZERO,
                        (false, Duration::ZERO) => SETTLE,
                        (false, _) => IDLE,
                    };
                }
            }
        }
        Ok(())
    }

    /// Takes what else is there for the same commit, and waits for it as long as the options say.
    fn gather(&mut self, first: Job) -> Gathered {
        let deadline = Instant::now() + self.options.max_wait;
        let mut gathered = Gathered::default();
        gathered.push(first);
        while gathered.events < self.options.max_batch_events
            && gathered.bytes < self.options.max_batch_bytes
        {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.queue.recv_timeout(left) {
                Ok(Message::Job(job)) => gathered.push(job),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.stopping = true;
                    break;
                }
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        gathered
    }

    fn commit(&mut self, gathered: Gathered) -> Result<(), Arc<LogError>> {
        let mut batch = Vec::with_capacity(gathered.events);
        for job in gathered.jobs {
            self.waiting.push(Waiting {
                entries: job.batch.len(),
                tell: job.tell,
                _room: job.room,
            });
            batch.extend(job.batch);
        }
        let outcomes = match self.log.append(batch, (self.options.clock)()) {
            Ok(outcomes) => outcomes,
            Err(error @ LogError::Full { .. }) => {
                tracing::warn!(%error, "entries are refused");
                let error = Arc::new(error);
                for waiting in self.waiting.drain(..) {
                    tell(waiting.tell, Err(WriteError::Full(Arc::clone(&error))));
                }
                return Ok(());
            }
            Err(error) => {
                let error = self.shared.fail(error);
                for waiting in self.waiting.drain(..) {
                    tell(waiting.tell, Err(WriteError::Failed(Arc::clone(&error))));
                }
                return Err(error);
            }
        };
        let events: Vec<_> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Appended(event) => Some(Arc::clone(event)),
                Outcome::Duplicate | Outcome::Refused(_) | Outcome::Jump { .. } => None,
            })
            .collect();
        if !events.is_empty() {
            (self.on_commit)(&events);
        }
        let mut outcomes = VecDeque::from(outcomes);
        for waiting in self.waiting.drain(..) {
            let own = outcomes.drain(..waiting.entries).collect();
            tell(waiting.tell, Ok(own));
        }
        Ok(())
    }

    fn maintain(&mut self) -> Result<bool, Arc<LogError>> {
        let more = self.log.maintain((self.options.clock)());
        more.map_err(|error| self.shared.fail(error))
    }
}

impl Gathered {
    fn push(&mut self, job: Job) {
        self.events += job.batch.len();
        self.bytes += job.batch.iter().map(Submission::weight).sum::<usize>();
        self.jobs.push(job);
    }
}

/// Closes the queue when the thread ends, by a panic too: nobody may wait for room that nobody
/// gives back.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Release);
        }
        self.0.room.close();
    }
}

fn tell(
    submitter: oneshot::Sender<Result<Vec<Outcome>, WriteError>>,
    result: Result<Vec<Outcome>, WriteError>,
) {
    // A submitter that went away has its reasons; the entries are in the log anyway.
    drop(submitter.send(result));
}
