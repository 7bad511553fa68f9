//! The demo's subscribers: each client on a connection of its own, each delivery written down.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use steadfast_streamer::{Operation, filter::Filter};
use tokio::{
    select,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    figures::Figures,
    judge::{Ledger, Sent},
    workload,
};
use crate::wiring::{Dial, Item, Subscriber, Subscription};

/// The running subscribers.
#[derive(Debug)]
pub(crate) struct Subscribers {
    clients: Vec<Subscriber>,
    tasks: JoinSet<anyhow::Result<Written>>,
    /// What is wanted, and how much of it came, per subscription.
    progress: Vec<(Ledger, Arc<AtomicU64>)>,
    stop: CancellationToken,
}

/// What became of a subscription.
#[derive(Debug)]
struct Written {
    ledger: Ledger,
    gaps: u64,
}

/// How often it is looked whether everybody has everything.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// As long as things come nobody is given up, but not longer than this.
const CATCH_UP_MAX: Duration = Duration::from_secs(180);
/// Without anything for so long, nothing will come any more.
const CATCH_UP_IDLE: Duration = Duration::from_secs(20);
/// Time in which a duplicate that is still on its way arrives.
const QUIET: Duration = Duration::from_millis(300);

impl Subscribers {
    /// Opens the clients; all subscriptions are acknowledged when this returns.
    pub(crate) async fn start(
        plan: Vec<Vec<Ledger>>,
        addr: SocketAddr,
        figures: &Arc<Figures>,
    ) -> anyhow::Result<Self> {
        let mut subscribers = Self {
            clients: Vec::new(),
            tasks: JoinSet::new(),
            progress: Vec::new(),
            stop: CancellationToken::new(),
        };
        for ledgers in plan {
            let client = Subscriber::open(&Dial::impatient(addr), figures.observer())
                .context("open a subscriber")?;
            for ledger in ledgers {
                subscribers
                    .subscribe(&client, ledger, figures)
                    .await
                    .context("subscribe")?;
            }
            subscribers.clients.push(client);
        }
        Ok(subscribers)
    }

    async fn subscribe(
        &mut self,
        client: &Subscriber,
        ledger: Ledger,
        figures: &Arc<Figures>,
    ) -> anyhow::Result<()> {
        let filter = Filter::from_text(ledger.conditions.iter().map(ToString::to_string))?;
        let subscription = client
            .subscribe(ledger.database, ledger.collection, filter, None)
            .await?;
        let count = Arc::new(AtomicU64::new(0));
        self.progress.push((ledger.clone(), Arc::clone(&count)));
        let reader = Reader {
            subscription,
            ledger,
            count,
            figures: Arc::clone(figures),
        };
        self.tasks.spawn(reader.run(self.stop.clone()));
        Ok(())
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.progress.len()
    }

    /// Waits until every subscription has as much as it is owed, or nothing has come for a while.
    /// Gives how many subscriptions have less. Whether they have the right things is for the judge.
    pub(crate) async fn catch_up(&self, sent: &[Sent]) -> usize {
        let owed = |ledger: &Ledger| {
            let owed = sent
                .iter()
                .filter(|sent| sent.acknowledged && ledger.wants(sent));
            owed.count() as u64
        };
        let owed: Vec<(u64, &AtomicU64)> = self
            .progress
            .iter()
            .map(|(ledger, count)| (owed(ledger), &**count))
            .collect();
        let came = || {
            owed.iter()
                .map(|(_, count)| count.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        let behind = || {
            owed.iter()
                .filter(|(owed, count)| count.load(Ordering::Relaxed) < *owed)
                .count()
        };
        let limit = Instant::now() + CATCH_UP_MAX;
        let (mut newest, mut moved) = (came(), Instant::now());
        while behind() > 0 && moved.elapsed() < CATCH_UP_IDLE && Instant::now() < limit {
            sleep(LOOK_EVERY).await;
            let now = came();
            if now != newest {
                (newest, moved) = (now, Instant::now());
            }
        }
        sleep(QUIET).await;
        behind()
    }

    /// Ends the reading and gives what was received, and how many gaps were told.
    pub(crate) async fn stop(mut self) -> anyhow::Result<(Vec<Ledger>, u64)> {
        self.stop.cancel();
        let mut ledgers = Vec::new();
        let mut gaps = 0;
        while let Some(joined) = self.tasks.join_next().await {
            let written = joined.context("a subscriber's task")??;
            ledgers.push(written.ledger);
            gaps += written.gaps;
        }
        for client in self.clients {
            client.close().await;
        }
        Ok((ledgers, gaps))
    }
}

struct Reader {
    subscription: Subscription,
    ledger: Ledger,
    count: Arc<AtomicU64>,
    figures: Arc<Figures>,
}

impl Reader {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<Written> {
        let mut gaps = 0;
        loop {
            let item = select! {
                biased;
                item = self.subscription.next() => item,
                () = stop.cancelled() => break,
            };
            match item.transpose()? {
                None => anyhow::bail!("a subscription ended although nobody ended it"),
                Some(Item::Change(change)) => {
                    let deleted = change.operation == Operation::Delete;
                    let received = workload::read(&change.document_id, deleted, &change.data);
                    self.ledger.received.push(received);
                    self.count.fetch_add(1, Ordering::Relaxed);
                    self.figures.delivered.fetch_add(1, Ordering::Relaxed);
                }
                Some(other) => {
                    tracing::error!(item = ?other, "a subscription tells of missing changes");
                    gaps += 1;
                }
            }
        }
        Ok(Written {
            ledger: self.ledger,
            gaps,
        })
    }
}
