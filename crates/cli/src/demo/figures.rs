//! What all tasks of the demo count together.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::time::Instant;

use super::recovery::Outages;
use crate::wiring::Turn;

/// Shared by the tasks; read by the screen.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) acknowledged: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) connected: AtomicUsize,
    outages: Mutex<Outages>,
}

impl Figures {
    /// The lock is held for a few instructions at a time, and its content is whole at any of them.
    pub(crate) fn outages(&self) -> MutexGuard<'_, Outages> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An observer of one session, which follows its outages.
    pub(crate) fn observer(self: &Arc<Self>) -> impl FnMut(Turn) + Send + 'static {
        let figures = Arc::clone(self);
        let mut lost_at = None;
        let mut connected = false;
        move |turn| {
            let now = Instant::now();
            match turn {
                Turn::Connected => {
                    if !std::mem::replace(&mut connected, true) {
                        figures.connected.fetch_add(1, Ordering::Relaxed);
                    }
                    if let Some(lost) = lost_at.take() {
                        figures.outages().recovered(lost, now);
                    }
                }
                Turn::Lost { .. } => {
                    if std::mem::replace(&mut connected, false) {
                        figures.connected.fetch_sub(1, Ordering::Relaxed);
                        figures.outages().lost();
                        lost_at = Some(now);
                    }
                }
            }
        }
    }
}
