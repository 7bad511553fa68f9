//! The demo's publishers: each writes at its pace and remembers what was acknowledged.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{select, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{figures::Figures, judge::Sent, workload::Author};
use crate::{
    document::Document,
    feed::Pace,
    wiring::{Dial, Publisher, Taken},
};

/// The running publishers.
#[derive(Debug)]
pub(crate) struct Publishers {
    tasks: JoinSet<anyhow::Result<Vec<Sent>>>,
    stop: CancellationToken,
}

/// Entries of one publisher that may wait for their acknowledgement.
const IN_FLIGHT: usize = 512;
/// How long what was written may take to be acknowledged after the faults are over.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

impl Publishers {
    /// Starts so many publishers that together write `rate` entries a second.
    pub(crate) fn start(
        count: u32,
        rate: NonZeroU32,
        seed: u64,
        addr: SocketAddr,
        figures: &Arc<Figures>,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let share = NonZeroU32::new(rate.get() / count.max(1)).unwrap_or(NonZeroU32::MIN);
            let producer = format!("demo-{number}");
            let publisher = Publisher::open(&Dial::impatient(addr), &producer, figures.observer())
                .context("open a publisher")?;
            let writer = Writer {
                author: Author::new(seed, number),
                publisher,
                pace: Pace::new(Some(share)),
                sent: Vec::new(),
                figures: Arc::clone(figures),
            };
            tasks.spawn(writer.run(stop.clone()));
        }
        Ok(Self { tasks, stop })
    }

    /// Ends the writing, waits for the outstanding acknowledgements, gives everything written.
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
    author: Author,
    publisher: Publisher,
    pace: Pace,
    sent: Vec<Sent>,
    figures: Arc<Figures>,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<Vec<Sent>> {
        let mut waiting = FuturesUnordered::new();
        loop {
            select! {
                () = stop.cancelled() => break,
                Some(answer) = waiting.next(), if !waiting.is_empty() => self.take(answer)?,
                () = self.pace.wait(), if waiting.len() < IN_FLIGHT => {
                    let at = self.sent.len();
                    let sent = self.author.write();
                    let fields = sent.document.as_object().cloned().unwrap_or_default();
                    let document = Document { id: sent.id.clone(), op: sent.action(), data: fields };
                    let pending =
                        self.publisher.publish(sent.database, sent.collection, &document).await?;
                    waiting.push(async move { (at, pending.taken().await) });
                    self.sent.push(sent);
                }
            }
        }
        let flush = async {
            while let Some(answer) = waiting.next().await {
                self.take(answer)?;
            }
            anyhow::Ok(())
        };
        // What is unanswered after that is reported as such by the judge.
        if let Ok(flushed) = timeout(FLUSH_TIMEOUT, flush).await {
            flushed?;
        }
        drop(waiting);
        self.publisher.close().await;
        Ok(self.sent)
    }

    fn take(&mut self, (at, answer): (usize, anyhow::Result<Taken>)) -> anyhow::Result<()> {
        match answer? {
            Taken::Durable(_) => {
                self.sent[at].acknowledged = true;
                self.figures.acknowledged.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Taken::Refused(reason) => anyhow::bail!("an entry of the demo was refused: {reason}"),
        }
    }
}
