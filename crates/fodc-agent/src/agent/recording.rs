//! The recording thread, which owns the record.
//!
//! ```text
//!   poller ── pieces ──┐
//!   poller ── pieces ──┼──> queue (bounded in bytes) ──> parser and recorder, per endpoint
//!   every few seconds: sync ──┘
//! ```
//!
//! Each endpoint has a recorder of its own, and all of them share one budget: the churn of one does
//! not evict the whole history of another.
//!
//! The thread also parses the pages. The parser remembers the ids that the recorder gave its series,
//! so only the bytes of a page cross the thread border.

mod endpoint_recorder;
mod family_metadata;
mod health;
mod pending_series;
mod queue;
mod staged_page;
#[cfg(test)]
mod tests;
mod transition_log;

use std::{error::Error, sync::Arc, thread, time::Duration};

use steadfast_recorder::Recorders;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

pub(crate) use self::queue::{RecordingQueue, Snapshot, SnapshotHandle};
use self::{
    endpoint_recorder::EndpointRecorder,
    queue::{Message, queue},
};
use super::{
    StartError,
    config::Config,
    status::{AgentStatus, StatusSnapshot},
};
use crate::scrape::error_chain;

/// The least bytes of a line with a sample, for an estimate of the samples in a piece.
const LINE_BYTES: usize = 32;

/// About the samples that describe the health of one scrape.
const HEALTH_SAMPLES: usize = 32;

/// The handle of the recording thread. The thread ends when this and all queues are gone, after it
/// has recorded what they held and made it durable.
#[derive(Debug)]
pub(super) struct Recording {
    ended: mpsc::Sender<()>,
    record: SnapshotHandle,
    /// Keeps the thread alive, so that the record can be read after the last scrape.
    open: Option<RecordingQueue>,
}

impl Recording {
    /// Starts the thread and returns a queue for each endpoint.
    pub(super) fn start(
        mut recorders: Recorders,
        config: &Config,
        status: Arc<AgentStatus>,
    ) -> Result<(Self, Vec<RecordingQueue>), StartError> {
        let mut endpoints = Vec::with_capacity(config.endpoints.len());
        for endpoint in &config.endpoints {
            let url = endpoint.source();
            let id = recorders.recorder(&url)?;
            // Registering sources takes no capacity of other endpoints.
            let mut recorder = recorders.reserve(id, 0);
            let page = recorder.source(&url)?;
            let health = recorder.source(&endpoint.health_source())?;
            endpoints.push(EndpointRecorder::new(
                url,
                id,
                (page, health),
                config.page,
                config.honor_timestamps,
            ));
        }
        let (queue, messages) = queue();
        let (ended, end) = mpsc::channel(1);
        let thread = RecordingThread {
            recorders,
            endpoints,
            status,
        };
        // Not a task: parsing takes the processor for long, and writes block.
        thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || {
                thread.run(messages);
                // Not earlier: whoever waits for this relies on a record that is durable.
                drop(end);
            })?;
        let queues = (0..config.endpoints.len()).map(|endpoint| queue.for_endpoint(endpoint));
        let queues = queues.collect();
        let recording = Self {
            ended,
            record: queue.snapshot_handle(),
            open: Some(queue),
        };
        Ok((recording, queues))
    }

    pub(super) fn record(&self) -> SnapshotHandle {
        self.record.clone()
    }

    /// Ends the thread and waits until everything is recorded and durable.
    pub(super) async fn end(&mut self) {
        self.open = None;
        self.ended().await;
    }

    /// Waits until the thread has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub(super) async fn ended(&mut self) {
        // Nothing is ever sent: the receiver is dropped when the thread ends, also by a panic.
        self.ended.closed().await;
    }
}

/// Makes the record durable at an interval. A sync under way when it is stopped is completed.
pub(super) async fn sync_regularly(
    queue: RecordingQueue,
    every: Duration,
    stop: CancellationToken,
) {
    let mut ticks = interval(every);
    // A disk that needs longer than the interval is not synced without a pause.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is immediate, and there is nothing to sync yet.
    ticks.tick().await;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // Not cut off by `stop`: the record has to learn the result.
        queue.sync().await;
    }
}

struct RecordingThread {
    recorders: Recorders,
    endpoints: Vec<EndpointRecorder>,
    status: Arc<AgentStatus>,
}

impl RecordingThread {
    fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let status = Arc::clone(&self.status);
        let _mark_ended = MarkEnded(&status);
        while let Some(message) = messages.blocking_recv() {
            self.handle(message);
        }
        // All queues are gone, so nothing can follow: this is the end of the record.
        let synced = self.recorders.sync();
        self.on_write(synced);
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Begin { endpoint, format } => {
                let endpoint = &mut self.endpoints[endpoint];
                let mut recorder = self.recorders.reserve(endpoint.id, 0);
                endpoint.begin(&mut recorder, format);
            }
            Message::Piece {
                endpoint, bytes, ..
            } => {
                let endpoint = &mut self.endpoints[endpoint];
                // In the worst case every line of the piece is a new series.
                let series = bytes.len() / LINE_BYTES;
                let mut recorder = self.recorders.reserve(endpoint.id, series);
                endpoint.piece(&mut recorder, &bytes);
            }
            Message::Finish {
                endpoint: index,
                outcome,
                recorded,
            } => {
                let endpoint = &mut self.endpoints[index];
                let samples = endpoint.staged_samples() + HEALTH_SAMPLES;
                let mut recorder = self.recorders.reserve(endpoint.id, samples);
                let written = endpoint.finish(&mut recorder, outcome);
                // The status must be current before the poller goes on: `/readyz` reads it.
                drop(recorder);
                let now = endpoint.status().clone();
                self.status.update(|status| status.endpoints[index] = now);
                self.on_write(written);
                recorded.send(()).ok();
            }
            Message::Snapshot(reply) => {
                // Between two messages, so that a scrape is in the record and in the status, or in
                // neither.
                let snapshot = Snapshot {
                    reader: self.recorders.reader(),
                    stats: self.recorders.stats(),
                    endpoint_stats: (self.endpoints.iter())
                        .map(|endpoint| self.recorders.stats_of(endpoint.id))
                        .collect(),
                    status: self.status.snapshot(),
                };
                reply.send(snapshot).ok();
            }
            Message::BeginSync { reply } => {
                reply.send(self.recorders.begin_sync()).ok();
            }
            Message::FinishSync(outcomes) => {
                let synced = self.recorders.finish_sync(outcomes);
                self.on_write(synced);
            }
        }
    }

    /// Updates the status after a write or sync. A failure is logged once, and so is its end.
    fn on_write<E: Error>(&self, result: Result<(), E>) {
        let failure = result.err().map(|error| error_chain(&error));
        self.status.update(|StatusSnapshot { record, .. }| {
            match (&record.failing, &failure) {
                (None, Some(failure)) => error!(%failure, "record cannot be written"),
                (Some(_), None) => warn!("record is written again"),
                (Some(_), Some(_)) | (None, None) => {}
            }
            record.write_errors += u64::from(failure.is_some());
            record.failing = failure;
        });
    }
}

/// Sets the status to ended when the thread ends, also by a panic.
struct MarkEnded<'a>(&'a AgentStatus);

impl Drop for MarkEnded<'_> {
    fn drop(&mut self) {
        self.0.update(|status| status.ended = true);
    }
}
