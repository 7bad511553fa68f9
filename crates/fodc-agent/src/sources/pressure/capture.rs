//! Fetching profiles into the store.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp as Instant;
use steadfast_exposition::Format;
use steadfast_files::private;
use tokio::{task::spawn_blocking, time::timeout};
use tracing::{info, warn};

use super::{
    PressureProfiler,
    store::{Meta, ProfileStore, profile_id},
    trigger::Reading,
};
use crate::scrape::{Endpoint, Fetcher, PageSink, ScrapeLimits, ScrapeOutcome, error_chain};

/// The time limit for one profile. A heap of gigabytes takes seconds to write down.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest profile, in bytes.
const PROFILE_BYTES: u64 = 64 << 20;

/// What the profiler did since the start.
#[derive(Debug, Default)]
pub(crate) struct PressureCounters {
    /// Captures of at least one profile.
    pub(super) captures: AtomicU64,
    /// Readings above the threshold so soon after a capture that none was made.
    pub(super) skipped: AtomicU64,
    /// Profiles and captures that failed.
    pub(super) failures: AtomicU64,
}

impl PressureCounters {
    /// Returns the original's name of each counter, with its help and its value.
    pub(crate) fn all(&self) -> [(&'static str, &'static str, u64); 3] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            (
                "fodc_agent_pressure_capture_total",
                "Captures of profiles under memory pressure",
                value(&self.captures),
            ),
            (
                "fodc_agent_pressure_skipped_cooldown_total",
                "Readings above the threshold during the cooldown",
                value(&self.skipped),
            ),
            (
                "fodc_agent_pressure_failures_total",
                "Profiles that could not be captured",
                value(&self.failures),
            ),
        ]
    }

    pub(super) fn increment(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Captures every profile that can be fetched, and returns true if there is at least one.
pub(super) async fn capture(
    settings: &PressureProfiler,
    store: &Arc<ProfileStore>,
    counters: &PressureCounters,
    reading: Reading,
    threshold_bytes: u64,
    now_ms: i64,
) -> bool {
    let captured_at = Instant::from_millisecond(now_ms).unwrap_or_default();
    let meta = Meta {
        profile_id: profile_id(captured_at),
        captured_at,
        source_endpoint: settings.heap.source(),
        rss_bytes: reading.rss_bytes,
        cgroup_limit_bytes: reading.limit_bytes,
        trigger_percent: settings.trigger_percent,
        threshold_bytes,
    };
    let id = meta.profile_id.clone();
    let beginning = (Arc::clone(store), id.clone());
    let begun = blocking(move || beginning.0.begin(&beginning.1)).await;
    let folder = match begun {
        Ok(folder) => folder,
        Err(error) => {
            warn!(%error, "profiles cannot be stored");
            PressureCounters::increment(&counters.failures);
            return false;
        }
    };
    let mut profiles = 0;
    for (kind, page) in settings.pages() {
        match fetch(page, &folder.join(format!("{kind}.pprof"))).await {
            Ok(bytes) => {
                info!(id, kind, bytes, "memory is short: profile captured");
                profiles += 1;
            }
            Err(error) => {
                warn!(
                    id,
                    kind, error, "memory is short, but a profile cannot be captured"
                );
                PressureCounters::increment(&counters.failures);
            }
        }
    }
    let store = Arc::clone(store);
    let stored = blocking(move || {
        if profiles == 0 {
            store.abort(&id);
            return Ok(false);
        }
        store.commit(&meta).inspect_err(|_| store.abort(&id))?;
        Ok(true)
    });
    match stored.await {
        Ok(captured) => captured,
        Err(error) => {
            warn!(%error, "captured profiles cannot be stored");
            PressureCounters::increment(&counters.failures);
            false
        }
    }
}

/// Fetches one page into a file. A file that is not whole is removed.
async fn fetch(page: &Endpoint, path: &Path) -> Result<u64, String> {
    let limits = ScrapeLimits {
        timeout: TIMEOUT,
        body_bytes: PROFILE_BYTES,
    };
    let mut sink = FileSink(
        // Profiles show what a process holds in memory.
        blocking_path(path, |path| {
            private().write(true).create_new(true).open(path)
        })
        .await,
    );
    let mut fetcher = Fetcher::new(page.clone(), limits);
    let result = timeout(TIMEOUT, fetcher.fetch(&mut sink)).await;
    let result = match result {
        Err(_) => Err(fetcher.timeout_error(&sink).to_string()),
        Ok(Err(error)) => Err(error_chain(&error)),
        Ok(Ok(bytes)) => match &sink.0 {
            Ok(_) => Ok(bytes),
            Err(error) => Err(error.to_string()),
        },
    };
    if result.is_err() {
        blocking_path(path, fs::remove_file).await.ok();
    }
    result
}

async fn blocking_path<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_owned();
    blocking(move || work(path)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Writes a page into a file; after the first error, nothing more.
struct FileSink(io::Result<File>);

impl PageSink for FileSink {
    fn begin(&mut self, _format: Format) {}

    async fn piece(&mut self, piece: Bytes) {
        if let Ok(file) = &self.0 {
            let file = file.try_clone();
            let written = blocking(move || {
                let mut file = file?;
                file.write_all(&piece)?;
                Ok(file)
            });
            self.0 = written.await;
        }
    }

    fn waiting_bytes(&self) -> usize {
        0
    }

    async fn finish(&mut self, _outcome: ScrapeOutcome) {}
}
