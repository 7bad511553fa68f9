//! The intake: commits the changes of a remote Puller to the log.
//!
//! ```text
//!   Puller ──> Link ──(bounded queue)──> batch ──> LogWriter: changes and marker in one commit
//! ```
//!
//! One batch is committed at a time. While that waits, for other publishers or for space on the disk, the
//! queue fills up, the link stops reading, and the Puller keeps the rest.

mod document_lookup;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use steadfast::{
    Backpressure, CallCredentials, Link, LinkOptions,
    dial::Dialer,
    grpc::{self, Connection, Grpc},
    session::{Advice, Config, ConfigFaults, End, Ready, Reason, Status},
    transport::Call,
};
use steadfast_streamer_core::puller::{
    Dropped, Loss, Marker, SourceChange,
    intake::{Intake, Lost, Received},
    transform,
};
use steadfast_wire::puller::PullerEvent;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::document_lookup::DocumentLookup;
use super::hub_handle::HubHandle;
use crate::log::{
    LogReader, LogWriter, Origin, Outcome, ProducerState, Submission, WriteError, with_sources,
};

/// The prefix of the producers that a server writes as itself. Publishers cannot use it.
pub(super) const RESERVED_PREFIX: &str = "steadfast/";

/// The producer of the intake.
pub(super) const PRODUCER: &str = "steadfast/puller";

/// Maximum number of messages of a batch.
const BATCH: usize = 256;

/// Size at which a batch is complete, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// The unit of the queue: a message counts one, and one more for each such part of its length.
const QUEUE_UNIT: usize = 64 << 10;

/// The units that are queued while reading goes on: 256 small messages, or 16 MiB.
const QUEUE_UNITS: usize = 256;

/// The largest message. A document of `MongoDB` has 16 MiB at most, and grows as JSON; the default of
/// 4 MiB would end the stream at the same message again and again (PC3).
const MESSAGE_BYTES: usize = 64 << 20;

const METHOD: &str = "/syntrix.puller.v1.PullerService/Subscribe";

/// Settings of an intake.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PullerOptions {
    /// The way to the Puller.
    pub dialer: Dialer,
    /// Settings of the session: backoff, and the silence after which the Puller counts as dead. A Puller
    /// sends a heartbeat every 30 seconds by default.
    pub session: Config,
    /// The metadata of every call.
    pub credentials: CallCredentials,
}

impl PullerOptions {
    /// Returns the default settings for the Puller that `dialer` leads to.
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            session: Config::default(),
            credentials: CallCredentials::default(),
        }
    }
}

/// What an intake has done since the server started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullerCounters {
    /// Changes that were appended to the log.
    pub appended: u64,
    /// Changes that are none of a document, by reason.
    pub dropped: BTreeMap<Dropped, u64>,
    /// Changes that the log refuses, such as documents that are too large.
    pub refused: u64,
    /// Times at which the Puller had lost changes; subscribers get a resync.
    pub losses: u64,
    /// The intake waits for space on the disk.
    pub waits_for_space: bool,
}

/// The status of an intake.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PullerStatus {
    /// The status of the link to the Puller.
    pub link: Status,
    /// What the intake has done.
    pub counters: PullerCounters,
}

/// A handle of a running intake.
#[derive(Debug)]
pub(super) struct IntakeHandle {
    link: Arc<Link<Intake, Connection>>,
    counters: watch::Receiver<PullerCounters>,
}

/// What the intake works with.
pub(super) struct Log {
    pub(super) writer: LogWriter,
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) hub: HubHandle,
    /// The consumer id of the intake, without the number of the attempt.
    pub(super) consumer: String,
}

/// The task of an intake.
pub(super) struct IntakeTask {
    link: Arc<Link<Intake, Connection>>,
    received: mpsc::UnboundedReceiver<Received>,
    backpressure: Arc<Backpressure>,
    /// What was received and belongs to the next batch.
    next: Option<Received>,
    log: Log,
    documents: DocumentLookup,
    marker: Marker,
    last_sequence: u64,
    counters: watch::Sender<PullerCounters>,
}

/// Messages that are committed together.
#[derive(Default)]
struct Batch {
    /// Changes may be missing before the first message.
    lost: Option<Lost>,
    events: Vec<PullerEvent>,
}

/// The marker of a log, and the position before which the log's source had lost changes.
pub(super) fn stored_marker(state: &ProducerState, head: u64) -> (Marker, Option<u64>) {
    let Some(encoded) = &state.marker else {
        return (Marker::default(), None);
    };
    let mut marker = Marker::decode(encoded).unwrap_or_else(|error| {
        // Everything that the Puller holds is read again, and everybody is told.
        warn!(%error, "the position in the Puller is lost");
        let mut marker = Marker::default();
        marker.loss = Some(Loss::Pending);
        marker
    });
    let before = marker.loss.map(|loss| match loss {
        // The position is lost, or an older version of the server ended before it told who was connected.
        Loss::Pending => head + 1,
        Loss::Before(offset) => offset,
    });
    // Told by the start of this server, and not once more with the next event.
    marker.loss = before.map(Loss::Before);
    (marker, before)
}

impl IntakeTask {
    /// Connects to the Puller and continues after `marker`.
    ///
    /// # Errors
    ///
    /// Returns every fault of the settings at once.
    pub(super) fn start(
        options: PullerOptions,
        marker: Marker,
        last_sequence: u64,
        log: Log,
    ) -> Result<(IntakeHandle, Self), ConfigFaults> {
        let mut grpc_options = grpc::Options::default();
        grpc_options.max_message_bytes = MESSAGE_BYTES;
        let transport = Grpc::with_dialer(options.dialer).with_options(grpc_options);
        let backpressure = Backpressure::new(QUEUE_UNITS);
        // Unbounded, but reading pauses at the limit of `backpressure`.
        let (sender, received) = mpsc::unbounded_channel();
        let queued = Arc::clone(&backpressure);
        let sink = move |received: Received| {
            let units = queue_units(&received);
            (0..units).for_each(|_| queued.enqueued());
            // The task has ended, and closes the link.
            sender.send(received).ok();
        };
        let link = LinkOptions::from(options.session)
            .name("puller")
            .configure(|config| {
                // The request is the only message that a Puller takes.
                config.heartbeat_interval = None;
                // A Go server sends its headers with its first message, which may be a heartbeat.
                config.ready = Ready::Accepted;
            })
            .credentials(options.credentials)
            .default_retry_policy(advice)
            .backpressure(Arc::clone(&backpressure))
            .spawn(
                Call::new(METHOD).with_single_request(),
                transport,
                Intake::new(log.consumer.clone(), marker.clone()),
                sink,
            )?;
        // Fails only if the runtime is shutting down.
        link.start().ok();
        let link = Arc::new(link);
        let (counters, watched) = watch::channel(PullerCounters::default());
        let handle = IntakeHandle {
            link: Arc::clone(&link),
            counters: watched,
        };
        let task = Self {
            link,
            received,
            backpressure,
            next: None,
            documents: DocumentLookup::new(Arc::clone(&log.reader)),
            log,
            marker,
            last_sequence,
            counters,
        };
        Ok((handle, task))
    }

    /// Runs until `stop` is cancelled or the log fails; then closes the link.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let committed = tokio::select! {
                () = stop.cancelled() => break,
                committed = self.commit_next() => committed,
            };
            if let Err(error) = committed {
                warn!(
                    error = with_sources(&error),
                    "the intake from the Puller ends"
                );
                break;
            }
        }
        self.link.close().await;
    }

    async fn commit_next(&mut self) -> Result<(), WriteError> {
        match self.next_batch().await {
            Some(batch) => self.commit(batch).await,
            None => Err(WriteError::Closed),
        }
    }

    /// Returns what has arrived, or `None` if the link is closed.
    async fn next_batch(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        let first = match self.next.take() {
            Some(first) => first,
            None => self.received.recv().await?,
        };
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(received) = next {
            match received {
                // A loss is before everything else of its batch.
                Received::Lost(_) if batch.lost.is_some() || !batch.events.is_empty() => {
                    self.next = Some(received);
                    break;
                }
                Received::Lost(lost) => batch.lost = Some(lost),
                Received::Event(event) => {
                    bytes += size(&event);
                    batch.events.push(*event);
                }
            }
            if batch.events.len() >= BATCH || bytes >= BATCH_BYTES {
                break;
            }
            next = self.received.try_recv().ok();
        }
        Some(batch)
    }

    /// Commits the changes of a batch together with the marker after them.
    async fn commit(&mut self, batch: Batch) -> Result<(), WriteError> {
        let units: usize = batch.events.iter().map(|event| units_of(size(event))).sum();
        let units = units + usize::from(batch.lost.is_some());
        let mut marker = self.marker.clone();
        if let Some(lost) = &batch.lost {
            warn!(reason = %lost, "the Puller has lost changes; subscribers get a resync");
            self.counters.send_modify(|counters| counters.losses += 1);
            if let Lost::Refused { .. } = lost {
                marker = Marker::default();
            }
            // Before the commit: who received a change after the loss first would have a position that
            // does not show it.
            let before = self.log.hub.tell_loss().await.ok_or(WriteError::Closed)?;
            marker.loss = Some(Loss::Before(before));
        }
        let mut changes = Vec::new();
        for event in &batch.events {
            // The link has checked it: an event that has no place in the order ends its stream.
            marker.advance(event).ok();
            if let Some(change) = &event.change_event {
                match transform(change) {
                    Ok(change) => changes.push(change),
                    Err(reason) => self.count_dropped(reason),
                }
            }
        }
        let submissions = self.submissions(changes, &marker.encode()).await;
        let outcomes = self.submit(submissions).await?;
        self.settle(&outcomes);
        self.marker = marker;
        // Only now: what waits to be committed counts as queued.
        (0..units).for_each(|_| self.backpressure.dequeued());
        Ok(())
    }

    /// Returns the entries for changes whose document is known.
    async fn submissions(&mut self, changes: Vec<SourceChange>, marker: &Bytes) -> Vec<Submission> {
        let named = self.documents.name(changes).await;
        let mut submissions = Vec::with_capacity(named.len());
        for change in named {
            let (document, change) = match change {
                Ok(named) => named,
                Err(reason) => {
                    self.count_dropped(reason);
                    continue;
                }
            };
            let sequence = self.last_sequence + 1 + submissions.len() as u64;
            submissions.push(Submission {
                operation: Some(change.operation),
                origin: Some(Origin {
                    marker: marker.clone(),
                    version: change.version,
                    created_at: change.created_at,
                    updated_at: change.updated_at,
                    timestamp: change.timestamp,
                }),
                ..Submission::new(PRODUCER, sequence, document, change.data)
            });
        }
        submissions
    }

    /// Commits entries. Waits as long as the disk is full, until the log's writer finds space.
    async fn submit(&mut self, submissions: Vec<Submission>) -> Result<Vec<Outcome>, WriteError> {
        if submissions.is_empty() {
            // The marker goes with the next change. Until then the same messages would change nothing.
            return Ok(Vec::new());
        }
        loop {
            match self.log.writer.submit(submissions.clone()).await {
                Ok(outcomes) => {
                    if self.set_waiting(false) {
                        info!("there is space again, the intake from the Puller goes on");
                    }
                    return Ok(outcomes);
                }
                Err(error @ WriteError::Full(_)) => {
                    if !self.set_waiting(true) {
                        let error = with_sources(&error);
                        warn!(error, "the intake from the Puller waits for space");
                    }
                    self.log.writer.accepts().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Notes that the intake waits for space or does not. Returns what was noted before.
    fn set_waiting(&self, waits: bool) -> bool {
        let mut before = false;
        self.counters.send_if_modified(|counters| {
            before = std::mem::replace(&mut counters.waits_for_space, waits);
            before != waits
        });
        before
    }

    /// Counts what became of the entries.
    fn settle(&mut self, outcomes: &[Outcome]) {
        self.last_sequence += outcomes.len() as u64;
        let mut counters = self.counters.borrow().clone();
        for outcome in outcomes {
            match outcome {
                Outcome::Appended(_) => counters.appended += 1,
                Outcome::Refused(reason) => {
                    warn!(%reason, "the log refuses a change of the Puller");
                    counters.refused += 1;
                }
                // Nobody else has this producer, and its entries are committed in order.
                Outcome::Duplicate | Outcome::Jump { .. } => {
                    warn!(?outcome, "an entry of the Puller is out of sequence");
                    counters.refused += 1;
                }
            }
        }
        self.counters.send_replace(counters);
    }

    fn count_dropped(&self, reason: Dropped) {
        self.counters
            .send_modify(|counters| *counters.dropped.entry(reason).or_default() += 1);
    }
}

impl IntakeHandle {
    pub(super) fn status(&self) -> PullerStatus {
        PullerStatus {
            link: self.link.status(),
            counters: self.counters.borrow().clone(),
        }
    }
}

/// Retries after every end: what the Puller refuses now, another one may accept at its address.
fn advice(end: &End) -> Option<Advice> {
    const OUT_OF_RANGE: i32 = 11;
    // Also before the first stream, when the state of the link does not change. The delays of the link
    // bound how often it is said.
    if end.reason != Reason::Left {
        warn!(reason = %end.reason, "no changes from the Puller, trying again");
    }
    match (&end.reason, end.advice) {
        (Reason::Left, _) => None,
        // The next request has another marker.
        (Reason::Status { code, .. }, _) if *code == OUT_OF_RANGE => Some(Advice::Retry),
        (_, Advice::Stop | Advice::Refresh) => Some(Advice::Wait(None)),
        (_, Advice::Retry | Advice::NextServer | Advice::Wait(_)) => None,
    }
}

fn size(event: &PullerEvent) -> usize {
    let change = event.change_event.as_ref();
    change.map_or(0, |change| change.full_doc.len() + change.update_desc.len())
}

fn units_of(bytes: usize) -> usize {
    1 + bytes / QUEUE_UNIT
}

fn queue_units(received: &Received) -> usize {
    match received {
        Received::Event(event) => units_of(size(event)),
        Received::Lost(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untold_loss_is_told_once_by_the_next_start() {
        for (loss, before) in [
            (None, None),
            (Some(Loss::Pending), Some(11)),
            (Some(Loss::Before(7)), Some(7)),
        ] {
            let mut marker = Marker::default();
            marker.loss = loss;
            let state = ProducerState {
                last_sequence: 1,
                marker: Some(marker.encode()),
            };
            let (marker, told) = stored_marker(&state, 10);
            assert_eq!(told, before);
            assert_eq!(marker.loss, before.map(Loss::Before));
        }
        let damaged = ProducerState {
            last_sequence: 1,
            marker: Some(Bytes::from_static(b"\xff")),
        };
        assert_eq!(stored_marker(&damaged, 10).1, Some(11));
        assert_eq!(stored_marker(&ProducerState::default(), 10).1, None);
    }
}
