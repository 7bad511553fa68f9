//! Counters of a proxy and its connections.

use std::sync::atomic::{AtomicU64, Ordering};

/// The connections and bytes that a fault affected when it was injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// The number of open connections affected.
    pub connections: usize,
    /// Bytes read from one side of them and not yet passed to the other.
    pub held: u64,
}

/// The counters of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections open now.
    pub open: usize,
    /// Bytes passed to the server so far.
    pub to_server: u64,
    /// Bytes passed to clients so far.
    pub to_client: u64,
    /// Bytes read and not yet passed on, over all open connections.
    pub held: u64,
}

/// The counters of one direction, updated by its pump.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    passed: AtomicU64,
    held: AtomicU64,
}

impl Meter {
    /// Bytes passed on.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Bytes read and not passed on.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn add_read(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_passed(&self, bytes: u64) {
        self.passed.fetch_add(bytes, Ordering::Relaxed);
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}
