//! Subscribers that remember each delivery.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use steadfast_streamer::{Operation, filter::Filter};
use tokio::{
    select,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    author,
    counters::Counters,
    judge::{Deliveries, Sent},
};
use crate::clients::{Begin, Change, Item, Subscriber, Subscription};

/// The running subscribers.
#[derive(Debug)]
pub(crate) struct Subscribers {
    counters: Arc<Counters>,
    clients: Vec<Subscriber>,
    tasks: JoinSet<anyhow::Result<Deliveries>>,
    /// Each subscription, and how many deliveries it has received.
    progress: Vec<(Deliveries, Arc<AtomicU64>)>,
    stop: CancellationToken,
}

const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait for all deliveries, while some arrive.
const CATCH_UP_MAX: Duration = Duration::from_secs(180);
/// After this time without a delivery, none is expected any more.
const CATCH_UP_IDLE: Duration = Duration::from_secs(20);
/// Time for a duplicate that is still on its way.
const QUIET: Duration = Duration::from_millis(300);

impl Subscribers {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        Self {
            counters: Arc::clone(counters),
            clients: Vec::new(),
            tasks: JoinSet::new(),
            progress: Vec::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Subscribes with one client and returns when the server has acknowledged all subscriptions.
    /// `on_change` sees each change after it has been counted.
    pub(crate) async fn start(
        &mut self,
        client: Subscriber,
        wanted: Vec<Deliveries>,
        on_change: impl FnMut(&Change) -> anyhow::Result<()> + Clone + Send + 'static,
    ) -> anyhow::Result<()> {
        for wanted in wanted {
            let filter = Filter::from_text(wanted.conditions.iter().map(ToString::to_string))?;
            let subscription = client
                .subscribe(wanted.database, wanted.collection, filter, Begin::default())
                .await?;
            let count = Arc::new(AtomicU64::new(0));
            self.progress.push((wanted.clone(), Arc::clone(&count)));
            let reader = Reader {
                subscription,
                deliveries: wanted,
                count,
                counters: Arc::clone(&self.counters),
            };
            self.tasks
                .spawn(reader.run(on_change.clone(), self.stop.clone()));
        }
        self.clients.push(client);
        Ok(())
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.progress.len()
    }

    /// Waits until every subscription has as many deliveries as it should, or none has arrived for a
    /// while. Returns the number of subscriptions with fewer. The judge looks at the content.
    pub(crate) async fn catch_up(&self, sent: &[Sent]) -> usize {
        let expected = |wanted: &Deliveries| {
            let expected = sent
                .iter()
                .filter(|sent| sent.acknowledged && wanted.wants(sent));
            expected.count() as u64
        };
        let expected: Vec<(u64, &AtomicU64)> = self
            .progress
            .iter()
            .map(|(wanted, count)| (expected(wanted), &**count))
            .collect();
        let received = || {
            expected
                .iter()
                .map(|(_, count)| count.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        let behind = || {
            let behind = expected
                .iter()
                .filter(|(expected, count)| count.load(Ordering::Relaxed) < *expected);
            behind.count()
        };
        let deadline = Instant::now() + CATCH_UP_MAX;
        let (mut newest, mut moved) = (received(), Instant::now());
        while behind() > 0 && moved.elapsed() < CATCH_UP_IDLE && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
            let now = received();
            if now != newest {
                (newest, moved) = (now, Instant::now());
            }
        }
        sleep(QUIET).await;
        behind()
    }

    /// Stops reading and returns what each subscription received.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Vec<Deliveries>> {
        self.stop.cancel();
        let mut deliveries = Vec::new();
        while let Some(joined) = self.tasks.join_next().await {
            deliveries.push(joined.context("a subscriber's task")??);
        }
        for client in self.clients {
            client.close().await;
        }
        Ok(deliveries)
    }
}

struct Reader {
    subscription: Subscription,
    deliveries: Deliveries,
    count: Arc<AtomicU64>,
    counters: Arc<Counters>,
}

impl Reader {
    async fn run(
        mut self,
        mut on_change: impl FnMut(&Change) -> anyhow::Result<()>,
        stop: CancellationToken,
    ) -> anyhow::Result<Deliveries> {
        loop {
            let item = select! {
                biased;
                // Deliveries that have arrived go first, so that stopping discards none.
                item = self.subscription.next() => item,
                () = stop.cancelled() => return Ok(self.deliveries),
            };
            match item.transpose()? {
                None => bail!("a subscription ended by itself"),
                Some(Item::Change(change)) => {
                    let deleted = change.operation == Operation::Delete;
                    let received = author::read(&change.document_id, deleted, &change.data);
                    self.deliveries.received.push(received);
                    self.count.fetch_add(1, Ordering::Relaxed);
                    self.counters.delivered.fetch_add(1, Ordering::Relaxed);
                    on_change(&change)?;
                }
                Some(other) => {
                    tracing::error!(item = ?other, "a subscription reports missing changes");
                    self.deliveries.gaps += 1;
                }
            }
        }
    }
}
