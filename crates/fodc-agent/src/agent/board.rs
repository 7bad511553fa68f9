//! What the agent knows about itself, for whoever asks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;

use super::views::View;

/// How the agent's endpoints and its record are. Written by the recording thread.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
}

/// See [`Board`].
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// In the order of the configuration.
    pub(super) endpoints: Vec<EndpointState>,
    pub(super) record: RecordState,
    /// The recording thread has ended.
    pub(super) ended: bool,
}

/// How one endpoint is, and what has happened with it since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct EndpointState {
    /// Its URL.
    pub(super) url: String,
    /// How the last reading ended; `null` before the first.
    pub(super) last: Option<LastReading>,
    /// Readings, the missed ones too.
    pub(super) scrapes: u64,
    /// Readings missed, by reason.
    pub(super) missed: BTreeMap<&'static str, u64>,
    /// Ticks that passed while a reading was under way.
    pub(super) ticks_skipped: u64,
    /// Samples recorded.
    pub(super) samples: u64,
    /// Lines not taken, by reason.
    pub(super) lines_rejected: BTreeMap<&'static str, u64>,
    /// Samples not recorded, by reason.
    pub(super) samples_refused: BTreeMap<&'static str, u64>,
    /// Timestamps on lines that were not kept.
    pub(super) timestamps_ignored: u64,
    /// What was wrong with the last line that was not taken.
    pub(super) last_rejected: Option<String>,
}

/// How one reading ended.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LastReading {
    /// When it began, in milliseconds since 1970.
    pub(super) time_ms: i64,
    /// How long it took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) duration: Duration,
    /// Why it was missed; `null` if it was not.
    pub(super) missed: Option<String>,
}

/// How the record is.
#[derive(Clone, Debug, Default)]
pub(super) struct RecordState {
    /// Scrapes that could not be written.
    pub(super) write_errors: u64,
    /// What the last write or sync said, if it failed.
    pub(super) failing: Option<String>,
}

impl Board {
    pub(super) fn new(urls: impl Iterator<Item = String>) -> Self {
        let endpoints = urls.map(|url| EndpointState {
            url,
            ..EndpointState::default()
        });
        Self {
            state: Mutex::new(State {
                endpoints: endpoints.collect(),
                ..State::default()
            }),
        }
    }

    /// Everything as it is now.
    pub(super) fn read(&self) -> State {
        self.lock().clone()
    }

    pub(super) fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a plain assignment; none can leave half of one behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether what the record has of a source's newest reading is what is there now. Before the
    /// first reading it is what another agent saw, and after one that was missed there is nothing.
    pub(super) fn shows(&self, view: &View) -> bool {
        let Some(endpoint) = view.endpoint else {
            return false;
        };
        let last = self.endpoints[endpoint].last.as_ref();
        last.is_some_and(|last| view.health || last.missed.is_none())
    }

    /// Why the agent does not do its work, if it does not.
    pub(super) fn unready(&self) -> Option<String> {
        if self.ended {
            return Some("recording has ended".to_owned());
        }
        if let Some(failure) = &self.record.failing {
            return Some(format!("the record can not be written: {failure}"));
        }
        let waiting = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.last.is_none());
        match waiting.count() {
            0 => None,
            count => Some(format!("{count} endpoints have not been read yet")),
        }
    }
}

fn seconds<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}
