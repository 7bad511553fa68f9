//! The counters that all tasks of a run share.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::time::Instant;

use super::outages::Outages;
use crate::clients::ConnectionEvent;

/// Counters of a run so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    /// The epoch of the newest acknowledgement: each start of a server has its own. 0 before the first.
    pub(crate) acknowledged_in: AtomicU64,
    pub(crate) delivered: AtomicU64,
    /// Sessions that are connected now.
    pub(crate) connected: AtomicUsize,
    outages: Mutex<Outages>,
}

impl Counters {
    pub(crate) fn outages(&self) -> MutexGuard<'_, Outages> {
        // Each update under the lock is a single call, so a panic elsewhere leaves no half of one.
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an observer of one session that counts its outages.
    pub(crate) fn observer(self: &Arc<Self>) -> impl FnMut(ConnectionEvent) + Send + 'static {
        let counters = Arc::clone(self);
        let mut lost_at = None;
        let mut connected = false;
        move |event| {
            let now = Instant::now();
            match event {
                ConnectionEvent::Connected => {
                    if !std::mem::replace(&mut connected, true) {
                        counters.connected.fetch_add(1, Ordering::Relaxed);
                    }
                    if let Some(lost) = lost_at.take() {
                        counters.outages().recovered(lost, now);
                    }
                }
                ConnectionEvent::Lost { .. } => {
                    if std::mem::replace(&mut connected, false) {
                        counters.connected.fetch_sub(1, Ordering::Relaxed);
                        counters.outages().lost();
                        lost_at = Some(now);
                    }
                }
            }
        }
    }
}
