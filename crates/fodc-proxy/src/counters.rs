//! Counters of what happened since the start.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

/// The proxy's counters, as `/self-metrics` shows them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) registrations: Counter,
    pub(super) refused: Counter,
    pub(super) replaced: Counter,
    pub(super) forgotten: Counter,
    pub(super) heartbeats: Counter,
    pub(super) requests: Counter,
    pub(super) response_parts: Counter,
    pub(super) samples: Counter,
    pub(super) rejected: Counter,
    pub(super) ignored_messages: Counter,
    pub(super) unknown_agents: Counter,
    pub(super) panics: Counter,
}

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
