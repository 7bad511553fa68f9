//! The tour's publisher.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{select, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::source::Source;
use crate::{
    demo::judge::Sent,
    document::Document,
    feed::Pace,
    wiring::{Publisher, Taken},
};

/// The running publisher.
pub(crate) struct Writer {
    task: AbortOnDropHandle<anyhow::Result<Vec<Sent>>>,
    stop: CancellationToken,
}

/// Documents that may wait for their acknowledgement.
const IN_FLIGHT: usize = 1_024;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(15);

impl Writer {
    /// Publishes at that rate; `newest` follows the number of the newest document.
    pub(crate) fn start(
        publisher: Publisher,
        source: Source,
        rate: NonZeroU32,
        newest: Arc<AtomicU64>,
    ) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(write(publisher, source, rate, newest, stop.clone()));
        Self {
            task: AbortOnDropHandle::new(task),
            stop,
        }
    }

    /// Ends the feed, waits for the acknowledgements, gives everything published.
    pub(crate) async fn stop(self) -> anyhow::Result<Vec<Sent>> {
        self.stop.cancel();
        self.task.await.context("the publisher's task")?
    }
}

async fn write(
    publisher: Publisher,
    mut source: Source,
    rate: NonZeroU32,
    newest: Arc<AtomicU64>,
    stop: CancellationToken,
) -> anyhow::Result<Vec<Sent>> {
    let mut pace = Pace::new(Some(rate));
    let mut all: Vec<Sent> = Vec::new();
    let mut waiting = FuturesUnordered::new();
    let flushed = |all: &mut Vec<Sent>, (at, taken): (usize, anyhow::Result<Taken>)| {
        match taken? {
            Taken::Durable(_) => all[at].acknowledged = true,
            Taken::Refused(reason) => bail!("{} was refused: {reason}", all[at].id),
        }
        Ok(())
    };
    loop {
        select! {
            () = stop.cancelled() => break,
            Some(answer) = waiting.next(), if !waiting.is_empty() => flushed(&mut all, answer)?,
            () = pace.wait(), if waiting.len() < IN_FLIGHT => {
                let Some(sent) = source.next().await? else { break };
                newest.store(sent.mark.sequence, Ordering::Relaxed);
                let data = sent.document.as_object().cloned().unwrap_or_default();
                let document = Document::new(sent.id.as_str(), data);
                let pending = publisher.publish(sent.database, sent.collection, &document).await?;
                let at = all.len();
                waiting.push(async move { (at, pending.taken().await) });
                all.push(sent);
            }
        }
    }
    // A source that ends early is no reason to end the tour early.
    stop.cancelled().await;
    let flush = async {
        while let Some(answer) = waiting.next().await {
            flushed(&mut all, answer)?;
        }
        anyhow::Ok(())
    };
    // What is not acknowledged by then is told by the account.
    if let Ok(flush) = timeout(FLUSH_TIMEOUT, flush).await {
        flush?;
    }
    drop(waiting);
    publisher.close().await;
    Ok(all)
}
