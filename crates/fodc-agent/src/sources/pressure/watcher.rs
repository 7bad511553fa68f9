//! The task that watches the memory of the scraped processes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use steadfast_recorder::Selector;
use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    PressureProfiler,
    capture::{PressureCounters, capture},
    store::ProfileStore,
    trigger::{Decision, Reading, Trigger},
};
use crate::clock::Clock;

/// The memory of a process, as all client libraries of Prometheus name it.
const RSS: &str = "process_resident_memory_bytes";

/// The limit of a database node's memory.
const LIMIT: &str = "banyandb_memory_protector_cgroup_limit_bytes";

/// The shortest time between two looks: a capture takes longer than that.
const SHORTEST: Duration = Duration::from_secs(1);

/// The time between two looks for captures that are too old.
const AGED_EVERY: Duration = Duration::from_secs(60);

/// The newest values of a metric, by source.
pub(crate) type Values = BTreeMap<Arc<str>, f64>;

/// The source of the processes' memory.
pub(crate) trait MemorySource: Send + 'static {
    /// Returns the newest value of the metric that this selects, of each source that was scraped
    /// successfully; `None` if there will be none any more.
    fn newest(&self, selector: Selector) -> impl Future<Output = Option<Values>> + Send;
}

/// The task that captures profiles when memory is short.
#[derive(Debug)]
pub(crate) struct PressureWatcher<S> {
    settings: PressureProfiler,
    store: Arc<ProfileStore>,
    pub(crate) counters: Arc<PressureCounters>,
    source: S,
    /// The interval of scrapes.
    interval: Duration,
    clock: Arc<dyn Clock>,
}

impl<S: MemorySource> PressureWatcher<S> {
    pub(crate) fn new(
        settings: PressureProfiler,
        source: S,
        interval: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store: Arc::new(ProfileStore::new(&settings)),
            settings,
            counters: Arc::default(),
            source,
            interval,
            clock,
        }
    }

    /// Watches until it is stopped. A capture under way is then abandoned; the next start removes it.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(self) {
        self.tidy(ProfileStore::clean).await;
        let mut trigger = Trigger::new(self.settings.trigger_percent, self.settings.cooldown);
        let mut ticks = interval(self.interval.max(SHORTEST));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tidied = Instant::now();
        loop {
            ticks.tick().await;
            if tidied.elapsed() >= AGED_EVERY {
                tidied = Instant::now();
                self.tidy(|store, now| store.evict(None, now)).await;
            }
            let Some(readings) = self.readings().await else {
                return;
            };
            let counter = match trigger.decide(Instant::now(), &readings) {
                Decision::Below => continue,
                Decision::Cooldown => &self.counters.skipped,
                Decision::Capture(reading) => {
                    let threshold = trigger.threshold(reading.limit_bytes);
                    let now = self.clock.now_ms();
                    let (settings, store) = (&self.settings, &self.store);
                    if !capture(settings, store, &self.counters, reading, threshold, now).await {
                        continue;
                    }
                    &self.counters.captures
                }
            };
            PressureCounters::increment(counter);
        }
    }

    /// Returns the memory of each process whose limit is known.
    async fn readings(&self) -> Option<Vec<Reading>> {
        let rss = self.source.newest(Selector::all().name(RSS)).await?;
        let limits = self.source.newest(Selector::all().name(LIMIT)).await?;
        let readings = rss.iter().filter_map(|(source, rss)| {
            let limit = limits.get(source).map(|limit| bytes(*limit));
            Some(Reading {
                rss_bytes: bytes(*rss),
                limit_bytes: limit.or(self.settings.limit_bytes)?,
            })
        });
        Some(readings.collect())
    }

    async fn tidy(&self, work: impl FnOnce(&ProfileStore, jiff::Timestamp) + Send + 'static) {
        let store = Arc::clone(&self.store);
        let now = jiff::Timestamp::from_millisecond(self.clock.now_ms()).unwrap_or_default();
        // A panic there has been reported, and the next round tries again.
        spawn_blocking(move || work(&store, now)).await.ok();
    }
}

/// Returns the number that a metric means. Negative ones and NaN become 0.
fn bytes(value: f64) -> u64 {
    value as u64
}
