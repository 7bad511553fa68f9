//! The task of one endpoint.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Endpoint, ScrapeLimits,
    fetch::Fetcher,
    schedule::Schedule,
    sink::{PageSink, ScrapeOutcome},
};
use crate::clock::Clock;

/// Skipped ticks that are listed with their time; further ones are only counted. A machine that
/// slept for a night would otherwise list tens of thousands.
const SKIPPED_LISTED: u64 = 64;

/// Scrapes one endpoint at its ticks.
#[derive(Debug)]
pub(crate) struct Poller<S> {
    fetcher: Fetcher,
    schedule: Schedule,
    interval: Duration,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    start: Instant,
    sink: S,
}

impl<S: PageSink> Poller<S> {
    pub(crate) fn new(
        endpoint: Endpoint,
        interval: Duration,
        limits: ScrapeLimits,
        clock: Arc<dyn Clock>,
        sink: S,
    ) -> Self {
        let wall = Duration::from_millis(clock.now_ms().max(0) as u64);
        Self {
            fetcher: Fetcher::new(endpoint, limits),
            schedule: Schedule::new(interval, wall),
            interval,
            timeout: limits.timeout,
            clock,
            start: Instant::now(),
            sink,
        }
    }

    /// Scrapes until it is stopped. A scrape under way is then dropped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                sleep_until(self.start + self.schedule.next()).await;
                self.scrape().await;
            }
        })
        .await;
    }

    async fn scrape(&mut self) {
        // Before the request, as in Prometheus: the duration of a scrape does not move its samples.
        let time_ms = self.clock.now_ms();
        let began = Instant::now();
        let fetched = timeout(self.timeout, self.fetcher.fetch(&mut self.sink)).await;
        let page = fetched.unwrap_or_else(|_| Err(self.fetcher.timeout_error(&self.sink)));
        let duration = began.elapsed();
        // Before the outcome is recorded: missed ticks are recorded ahead of it (decision 34).
        let (skipped, skipped_count) = self.advance();
        let outcome = ScrapeOutcome {
            time_ms,
            duration,
            page,
            skipped,
            skipped_count,
        };
        self.sink.finish(outcome).await;
    }

    /// Advances to the next tick. Returns the times of the skipped ones, and their number.
    fn advance(&mut self) -> (Vec<i64>, u64) {
        let now = self.start.elapsed();
        let Some(skipped) = self.schedule.advance(now) else {
            return (Vec::new(), 0);
        };
        // Counted back from the current wall clock: it may have been set since the start.
        let wall = self.clock.now_ms();
        let times = (0..skipped.count.min(SKIPPED_LISTED))
            .map(|tick| {
                let at = skipped.first + self.interval * tick as u32;
                wall - now.saturating_sub(at).as_millis() as i64
            })
            .collect();
        (times, skipped.count)
    }
}
