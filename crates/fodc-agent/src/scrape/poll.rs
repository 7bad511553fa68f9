//! The task of one endpoint.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use steadfast_exposition::Format;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Endpoint, FetchLimits, Miss, fetch::Fetcher, schedule::Schedule};
use crate::agent::Clock;

/// Takes the pages of one endpoint, piece by piece.
pub(crate) trait Intake: Send {
    /// A page begins; whatever came of one before it, if that did not end, is void.
    fn begin(&mut self, format: Format);

    /// The next piece of the page. Resolves when there is room for it.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, the piece is not taken, and the page can not be ended well.
    fn piece(&mut self, piece: Bytes) -> impl Future<Output = ()> + Send;

    /// Bytes of pages, of all endpoints, that wait to be taken.
    fn waiting(&self) -> usize;

    /// The reading is over. Resolves when it stands in the record.
    fn end(&mut self, reading: Reading) -> impl Future<Output = ()> + Send;
}

/// What became of one reading.
#[derive(Debug)]
pub(crate) struct Reading {
    /// When it began, in milliseconds since 1970: the time of its samples.
    pub(crate) time_ms: i64,
    /// How long it took.
    pub(crate) duration: Duration,
    /// Bytes of the page, unpacked; or why there is none.
    pub(crate) page: Result<u64, Miss>,
    /// Ticks that passed meanwhile, in milliseconds since 1970; of very many the first.
    pub(crate) skipped: Vec<i64>,
    /// How many did.
    pub(crate) skipped_count: u64,
}

/// Skipped ticks that are named one by one; those after them are only counted.
const SKIPPED_NAMED: u64 = 64;

/// Reads one endpoint at its ticks.
#[derive(Debug)]
pub(crate) struct Poller<I> {
    fetcher: Fetcher,
    schedule: Schedule,
    interval: Duration,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    start: Instant,
    intake: I,
}

impl<I: Intake> Poller<I> {
    pub(crate) fn new(
        endpoint: Endpoint,
        interval: Duration,
        limits: FetchLimits,
        clock: Arc<dyn Clock>,
        intake: I,
    ) -> Self {
        let wall = Duration::from_millis(clock.now_ms().max(0) as u64);
        Self {
            fetcher: Fetcher::new(endpoint, limits),
            schedule: Schedule::new(interval, wall),
            interval,
            timeout: limits.timeout,
            clock,
            start: Instant::now(),
            intake,
        }
    }

    /// Reads until it is stopped, at once and whatever it waits for.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                sleep_until(self.start + self.schedule.next()).await;
                self.read().await;
            }
        })
        .await;
    }

    async fn read(&mut self) {
        let time_ms = self.clock.now_ms();
        let began = Instant::now();
        let fetched = timeout(self.timeout, self.fetcher.fetch(&mut self.intake)).await;
        let page = fetched.unwrap_or_else(|_| Err(self.fetcher.late(&self.intake)));
        let duration = began.elapsed();
        let (skipped, skipped_count) = self.move_on();
        let reading = Reading {
            time_ms,
            duration,
            page,
            skipped,
            skipped_count,
        };
        self.intake.end(reading).await;
    }

    /// Goes on to the next tick; tells which passed and how many.
    fn move_on(&mut self) -> (Vec<i64>, u64) {
        let now = self.start.elapsed();
        let Some(skipped) = self.schedule.advance(now) else {
            return (Vec::new(), 0);
        };
        let wall = self.clock.now_ms();
        let times = (0..skipped.count.min(SKIPPED_NAMED))
            .map(|tick| {
                let at = skipped.first + self.interval * tick as u32;
                wall - now.saturating_sub(at).as_millis() as i64
            })
            .collect();
        (times, skipped.count)
    }
}
