//! The writer thread: collects requests, commits them together, and sends the outcomes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    Shared, WriteError, WriterOptions,
    queue::{AppendRequest, Command, Received, Receiver},
};
use crate::{
    Event,
    log::{Log, LogError, Outcome, Submission, with_sources},
};

/// Interval of the maintenance of an idle log. Its retention may be late by this much.
const IDLE: Duration = Duration::from_secs(60);
/// Delay of the maintenance after the last commit. Longer than the 10 s after which pending documents
/// are written, so that an idle log has none.
const SETTLE: Duration = Duration::from_secs(11);

/// The longest wait for the submitters of the last commit, which is also at most half as long as that
/// commit: their next entries then delay nobody by much.
const GATHERING_MAX: Duration = Duration::from_micros(500);

/// Interval of the reports of a full disk. Publishers send again until there is space.
const FULL_INTERVAL: Duration = Duration::from_secs(60);

/// Interval at which the space on a full disk is checked.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Writer<F> {
    log: Box<dyn Log>,
    options: WriterOptions,
    on_commit: F,
    queue: Receiver,
    shared: Arc<Shared>,
    /// The time that the last commit took, and the number of requests that may come soon: if it was of several,
    /// as many, and those that were queued when it ended.
    last: (usize, Duration),
    /// [`Command::Stop`] was received, or all handles were dropped.
    stopping: bool,
    /// The requests of the commit in progress. Not a local variable: if the commit panics, they must
    /// be dropped after [`CloseOnDrop`] has recorded the panic, which their submitters then read.
    committing: Vec<AppendRequest>,
    /// The producer to touch after the commit in progress.
    touched: Option<Arc<str>>,
    /// From the first refusal until a commit succeeds for which there was space.
    full: Option<FullDisk>,
}

struct FullDisk {
    /// The size of the smallest request that was refused. `None` if there is space for it since.
    bytes: Option<usize>,
    /// The time of the first of these refusals, or of the last check after it.
    checked: Instant,
    /// The last time that this was reported.
    reported: Option<Instant>,
}

impl<F: FnMut(&[Arc<Event>])> Writer<F> {
    pub(super) fn new(
        log: Box<dyn Log>,
        options: WriterOptions,
        on_commit: F,
        queue: Receiver,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            log,
            options,
            on_commit,
            queue,
            shared,
            last: (0, Duration::ZERO),
            stopping: false,
            committing: Vec::new(),
            touched: None,
            full: None,
        }
    }

    /// Runs until it is stopped, all handles are dropped, or the log fails.
    pub(super) fn run(mut self) {
        // Also after a panic.
        let done = self.shared.done.clone().drop_guard();
        let closing = CloseOnDrop(Arc::clone(&self.shared));
        if let Err(error) = self.run_until_stopped() {
            let cause = with_sources(&error);
            tracing::error!(error = cause, "the log failed, its writer stops");
            // Each gets the cause. Requests queued after this loop find it in `Shared` instead.
            while let Received::Command(command) = self.queue.receive(Duration::ZERO) {
                match command {
                    Command::Append(request) => {
                        request.respond(Err(WriteError::Failed(error.clone())));
                    }
                    Command::Touch(_) | Command::Stop => {}
                }
            }
        }
        // The log is closed before `done`, so that the caller of shutdown can reopen it.
        drop(self);
        drop(closing);
        drop(done);
    }

    fn run_until_stopped(&mut self) -> Result<(), LogError> {
        // The first wait does not wait: the log may have work left from before it was opened.
        let mut wait = Duration::ZERO;
        while !self.stopping {
            let mut due = self.log.maintenance_due().unwrap_or(wait);
            if self.full.as_ref().is_some_and(|full| full.bytes.is_some()) {
                // What is maintained may also free space.
                due = due.min(SPACE_INTERVAL);
            }
            match self.queue.receive(wait.min(due)) {
                Received::Command(Command::Append(request)) => {
                    let batch = self.collect(request);
                    self.commit(batch)?;
                    // Not only when idle: small entries may be accepted before large ones are.
                    self.check_space();
                    // The commit may be the first of this producer, and an unknown producer cannot
                    // be touched.
                    if let Some(producer) = self.touched.take() {
                        self.touch(&producer)?;
                    }
                    // Not only when idle: a log under constant load would never be trimmed.
                    self.maintain()?;
                    wait = Duration::ZERO;
                }
                Received::Command(Command::Touch(producer)) => self.touch(&producer)?,
                Received::Command(Command::Stop) | Received::Closed => self.stopping = true,
                // The rest of the wait begins anew: what it is for may be late.
                Received::Timeout if due < wait => {
                    self.maintain()?;
                    self.check_space();
                }
                Received::Timeout => {
                    wait = match (self.maintain()?, wait) {
                        (true, _) => Duration::ZERO,
                        // First the pending documents after a burst, then only what ages: an idle
                        // thread wakes rarely.
                        (false, Duration::ZERO) => SETTLE,
                        (false, _) => IDLE,
                    };
                }
            }
        }
        Ok(())
    }

    /// Collects a batch: `first`, and what is queued. Requests are never split, so the batch may exceed its
    /// limits by one request.
    fn collect(&mut self, first: AppendRequest) -> Vec<Submission> {
        let (expected, took) = self.last;
        if expected > 1 {
            let timeout = (took / 2).min(GATHERING_MAX);
            self.queue.wait_for(expected - 1, timeout);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(mut request) = next.take() {
            bytes += request.bytes;
            batch.append(&mut request.batch);
            self.committing.push(request);
            if batch.len() >= self.options.max_batch_events || bytes >= self.options.max_batch_bytes
            {
                break;
            }
            match self.queue.receive(Duration::ZERO) {
                Received::Command(Command::Append(request)) => next = Some(request),
                // After the commit, as in the queue.
                Received::Command(Command::Touch(producer)) => {
                    self.touched = Some(producer);
                    break;
                }
                Received::Command(Command::Stop) | Received::Closed => self.stopping = true,
                Received::Timeout => {}
            }
        }
        batch
    }

    fn commit(&mut self, batch: Vec<Submission>) -> Result<(), LogError> {
        let began = Instant::now();
        let outcomes = match self.log.append(batch, (self.options.clock)()) {
            Ok(outcomes) => outcomes,
            Err(error) if error.is_full() => {
                self.note_refusal(&error);
                // The thread goes on: reads and later commits work again when somebody frees space.
                self.reject(&WriteError::Full(error));
                return Ok(());
            }
            Err(error) => {
                // Recorded first: a submitter that gets the error may call again at once.
                let error = self.shared.fail(error);
                self.reject(&WriteError::Failed(error.clone()));
                return Err(error);
            }
        };
        self.shared.commits.add(began.elapsed());
        if self.full.take_if(|full| full.bytes.is_none()).is_some() {
            tracing::warn!("entries are accepted again");
        }
        let events: Vec<_> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Appended(event) => Some(Arc::clone(event)),
                Outcome::Duplicate | Outcome::Refused(_) | Outcome::Jump { .. } => None,
            })
            .collect();
        // Before the outcomes are sent: subscribers must not miss an event that was acknowledged.
        if !events.is_empty() {
            (self.on_commit)(&events);
        }
        let expected = match self.committing.len() {
            // One that goes on while its entries are committed would wait for itself.
            0 | 1 => 0,
            several => several + self.queue.len(),
        };
        self.last = (expected, began.elapsed());
        let mut outcomes = outcomes.into_iter();
        for request in self.committing.drain(..) {
            // The log returns one outcome per submission in order, so that counting suffices.
            let own = outcomes.by_ref().take(request.entries).collect();
            request.respond(Ok(own));
        }
        Ok(())
    }

    /// Notes that the disk is too full for the requests of the commit in progress.
    fn note_refusal(&mut self, error: &LogError) {
        let smallest = self.committing.iter().map(|request| request.bytes).min();
        let smallest = smallest.unwrap_or(0);
        let full = self.full.get_or_insert_with(|| FullDisk {
            bytes: None,
            checked: Instant::now(),
            reported: None,
        });
        if full.bytes.is_none() {
            full.checked = Instant::now();
        }
        full.bytes = Some(full.bytes.map_or(smallest, |bytes| bytes.min(smallest)));
        full.report(error);
        self.shared.is_full.send_replace(true);
    }

    /// Tells those who wait if something of what was refused would be accepted now.
    fn check_space(&mut self) {
        let Some(full) = &mut self.full else { return };
        let Some(bytes) = full.bytes else { return };
        // What only a write finds out, such as a quota, would otherwise be tried again at once.
        if full.checked.elapsed() < SPACE_INTERVAL {
            return;
        }
        full.checked = Instant::now();
        match self.log.check_space(bytes) {
            Ok(()) => {
                full.bytes = None;
                self.shared.is_full.send_replace(false);
            }
            Err(error) => full.report(&error),
        }
    }

    /// Fails the requests of the commit in progress.
    fn reject(&mut self, error: &WriteError) {
        for request in self.committing.drain(..) {
            request.respond(Err(error.clone()));
        }
    }

    fn touch(&mut self, producer: &str) -> Result<(), LogError> {
        let touched = self.log.touch(producer, (self.options.clock)());
        touched.map_err(|error| self.shared.fail(error))
    }

    fn maintain(&mut self) -> Result<bool, LogError> {
        let more = self.log.maintain((self.options.clock)());
        more.map_err(|error| self.shared.fail(error))
    }
}

impl FullDisk {
    /// Reports the full disk, unless that was done lately.
    fn report(&mut self, error: &LogError) {
        let reported = self.reported;
        if reported.is_none_or(|at| at.elapsed() >= FULL_INTERVAL) {
            self.reported = Some(Instant::now());
            tracing::warn!(error = with_sources(error), "entries are rejected");
        }
    }
}

/// Closes the queue when the thread ends, even by a panic. Otherwise submitters would wait forever
/// for capacity that is never released.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        // Before the close, as in `Shared::fail`: those who are woken by it ask for the reason.
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Release);
        }
        self.0.capacity.close();
    }
}
