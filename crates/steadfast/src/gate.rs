//! Holds reading back while the application does not take what was received.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Counts what is queued for the application and stops the driver's reading at the limit.
///
/// A protocol with credit of its own needs no gate: its peer stops by itself, per subscription.
#[derive(Debug)]
pub struct Gate {
    queued: AtomicUsize,
    limit: usize,
    room: Notify,
}

impl Gate {
    /// A gate that shuts when `limit` items are queued.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            queued: AtomicUsize::new(0),
            limit: limit.max(1),
            room: Notify::new(),
        })
    }

    /// An item was queued for the application.
    pub fn put(&self) {
        self.queued.fetch_add(1, Ordering::AcqRel);
    }

    /// The application took an item.
    pub fn take(&self) {
        if self.queued.fetch_sub(1, Ordering::AcqRel) <= self.limit {
            self.room.notify_one();
        }
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.queued.load(Ordering::Acquire) >= self.limit
    }

    /// Resolves when there may be room again.
    pub(crate) async fn room(&self) {
        while self.is_shut() {
            self.room.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_gate_is_shut_at_its_limit_and_room_is_told_to_whoever_waits() {
        let gate = Gate::new(2);
        gate.put();
        assert!(!gate.is_shut());
        assert_eq!(gate.room().now_or_never(), Some(()));
        gate.put();
        gate.put();
        assert!(gate.is_shut());
        let mut room = Box::pin(gate.room());
        gate.take();
        assert_eq!(room.as_mut().now_or_never(), None, "still at the limit");
        gate.take();
        assert_eq!(room.as_mut().now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn room_made_before_anybody_waits_is_not_forgotten() {
        let gate = Gate::new(0);
        gate.put();
        let mut room = Box::pin(gate.room());
        assert_eq!(
            room.as_mut().now_or_never(),
            None,
            "a limit of 0 lets one through"
        );
        drop(room);
        gate.take();
        assert_eq!(gate.room().now_or_never(), Some(()));
    }
}
