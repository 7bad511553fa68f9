//! Publishers that remember each entry and whether the server acknowledged it.

use std::{
    fmt::Write as _,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use steadfast::session::Status;
use tokio::{select, sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{counters::Counters, judge::Sent};
use crate::{
    clients::{PublishOutcome, Publisher},
    document::Document,
    feed::Pace,
};

/// The entries of one publisher, in order.
pub(crate) trait Entries: Send + 'static {
    /// Returns the next entry, not acknowledged yet; `None` at the end. Cancel safe.
    fn next(&mut self) -> impl Future<Output = anyhow::Result<Option<Sent>>> + Send;
}

/// The running publishers.
#[derive(Debug)]
pub(crate) struct Publishers {
    counters: Arc<Counters>,
    tasks: JoinSet<anyhow::Result<Vec<Sent>>>,
    /// The state of each publisher's stream.
    statuses: Vec<watch::Receiver<Status>>,
    stop: CancellationToken,
}

/// Entries of one publisher that may wait for their acknowledgement.
const IN_FLIGHT: usize = 512;
/// Longest wait for outstanding acknowledgements at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

impl Publishers {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        Self {
            counters: Arc::clone(counters),
            tasks: JoinSet::new(),
            statuses: Vec::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Starts a publisher that writes `rate` entries a second until it is stopped.
    pub(crate) fn start(&mut self, publisher: Publisher, entries: impl Entries, rate: NonZeroU32) {
        self.statuses.push(publisher.watch());
        let writer = Writer {
            publisher,
            sent: Vec::new(),
            counters: Arc::clone(&self.counters),
        };
        let pace = Pace::new(Some(rate));
        self.tasks
            .spawn(writer.run(entries, pace, self.stop.clone()));
    }

    /// Returns the error of a publisher that has given up. The others go on, so that it would be found by
    /// [`Self::stop`] only.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => {
                ended.context("a publisher's task")??;
                bail!("a publisher ended by itself")
            }
        }
    }

    /// Describes what was sent and acknowledged, and the state of each publisher.
    pub(crate) fn describe(&self) -> String {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (sent, acknowledged) = (load(&self.counters.sent), load(&self.counters.acknowledged));
        let mut text = format!("{sent} entries sent, {acknowledged} acknowledged");
        for (number, status) in self.statuses.iter().enumerate() {
            let status = status.borrow();
            write!(text, "; publisher {number}: {}", *status)
                .expect("writing to a string cannot fail");
        }
        text
    }

    /// Stops writing, waits for outstanding acknowledgements, and returns all entries.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Vec<Sent>> {
        self.stop.cancel();
        let mut sent = Vec::new();
        while let Some(joined) = self.tasks.join_next().await {
            sent.extend(joined.context("a publisher's task")??);
        }
        Ok(sent)
    }
}

struct Writer {
    publisher: Publisher,
    sent: Vec<Sent>,
    counters: Arc<Counters>,
}

impl Writer {
    async fn run(
        mut self,
        mut entries: impl Entries,
        mut pace: Pace,
        stop: CancellationToken,
    ) -> anyhow::Result<Vec<Sent>> {
        let mut waiting = FuturesUnordered::new();
        loop {
            select! {
                () = stop.cancelled() => break,
                Some(outcome) = waiting.next(), if !waiting.is_empty() => self.on_outcome(outcome)?,
                () = pace.wait(), if waiting.len() < IN_FLIGHT => {
                    let Some(sent) = entries.next().await? else {
                        // A source that ends early does not end the run early.
                        stop.cancelled().await;
                        break;
                    };
                    let at = self.sent.len();
                    let fields = sent.document.as_object().cloned().unwrap_or_default();
                    let document = Document {
                        op: sent.operation(),
                        ..Document::new(sent.id.clone(), fields)
                    };
                    let pending =
                        self.publisher.publish(sent.database, sent.collection, &document).await?;
                    waiting.push(async move { (at, pending.outcome().await) });
                    self.sent.push(sent);
                    self.counters.sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let flush = async {
            while let Some(outcome) = waiting.next().await {
                self.on_outcome(outcome)?;
            }
            anyhow::Ok(())
        };
        // The report lists what is still unacknowledged after the timeout.
        if let Ok(flushed) = timeout(FLUSH_TIMEOUT, flush).await {
            flushed?;
        }
        drop(waiting);
        self.publisher.close().await;
        Ok(self.sent)
    }

    fn on_outcome(
        &mut self,
        (at, outcome): (usize, anyhow::Result<PublishOutcome>),
    ) -> anyhow::Result<()> {
        match outcome? {
            PublishOutcome::Durable(published) => {
                if let Some(position) = published.position {
                    let epoch = &self.counters.acknowledged_in;
                    epoch.store(position.epoch.0, Ordering::Relaxed);
                }
                self.sent[at].acknowledged = true;
                self.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            PublishOutcome::Refused(reason) => bail!("{} was refused: {reason}", self.sent[at].id),
        }
    }
}
