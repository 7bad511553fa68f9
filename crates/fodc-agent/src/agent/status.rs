//! The status of the agent's endpoints and record.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;

/// The current status. The recording thread writes it.
#[derive(Debug)]
pub(super) struct AgentStatus(Mutex<StatusSnapshot>);

/// A copy of the status.
#[derive(Clone, Debug, Default)]
pub(super) struct StatusSnapshot {
    /// The endpoints in the order of the configuration.
    pub(super) endpoints: Vec<EndpointStatus>,
    pub(super) record: RecordStatus,
    /// The recording thread has ended.
    pub(super) ended: bool,
}

/// The status of one endpoint, with totals since the start. `/endpoints` serves it as JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct EndpointStatus {
    pub(super) url: String,
    /// The last scrape; `null` before the first.
    pub(super) last: Option<LastScrape>,
    /// Scrapes, including missed ones.
    pub(super) scrapes: u64,
    /// Missed scrapes by reason.
    pub(super) missed: BTreeMap<&'static str, u64>,
    /// Ticks that passed while a scrape was under way.
    pub(super) ticks_skipped: u64,
    /// Recorded samples.
    pub(super) samples: u64,
    /// Rejected lines by reason.
    pub(super) lines_rejected: BTreeMap<&'static str, u64>,
    /// Samples that were not recorded, by reason.
    pub(super) samples_refused: BTreeMap<&'static str, u64>,
    /// Timestamps on lines that were not kept.
    pub(super) timestamps_ignored: u64,
    /// The fault of the last rejected line.
    pub(super) last_rejected: Option<String>,
    /// The newest faults of rejected lines, each once, the newest last.
    pub(super) newest_rejected: VecDeque<String>,
}

/// The rejected lines that are kept of an endpoint.
pub(super) const REJECTED_KEPT: usize = 8;

/// One scrape of an endpoint.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LastScrape {
    /// Its beginning in Unix milliseconds.
    pub(super) time_ms: i64,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) duration: Duration,
    /// The reason if it was missed, `null` otherwise.
    pub(super) missed: Option<String>,
    /// The page was complete, although it may not be recorded.
    #[serde(skip)]
    pub(super) is_scraped: bool,
}

/// The status of the record.
#[derive(Clone, Debug, Default)]
pub(super) struct RecordStatus {
    /// Writes and syncs that failed.
    pub(super) write_errors: u64,
    /// The error of the last write or sync, if it failed.
    pub(super) failing: Option<String>,
}

impl AgentStatus {
    pub(super) fn new(urls: impl Iterator<Item = String>) -> Self {
        let endpoints = urls.map(|url| EndpointStatus {
            url,
            ..EndpointStatus::default()
        });
        Self(Mutex::new(StatusSnapshot {
            endpoints: endpoints.collect(),
            ..StatusSnapshot::default()
        }))
    }

    pub(super) fn snapshot(&self) -> StatusSnapshot {
        self.lock().clone()
    }

    pub(super) fn update<T>(&self, change: impl FnOnce(&mut StatusSnapshot) -> T) -> T {
        change(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, StatusSnapshot> {
        // Every change is a plain assignment, so a panic leaves no half of one behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StatusSnapshot {
    /// Returns the reason why the agent is not ready, or `None` if it is.
    pub(super) fn unready(&self) -> Option<String> {
        if self.ended {
            return Some("recording has ended".to_owned());
        }
        if let Some(failure) = &self.record.failing {
            return Some(format!("record cannot be written: {failure}"));
        }
        let waiting = self
            .endpoints
            .iter()
            // A missed scrape counts: an agent is ready although an endpoint is down.
            .filter(|endpoint| endpoint.last.is_none());
        match waiting.count() {
            0 => None,
            count => Some(format!("{count} endpoints have not been scraped yet")),
        }
    }
}

fn seconds<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}
