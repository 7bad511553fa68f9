//! Pauses reading while the application's queue is full.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Counts the items queued for the application and pauses the link's reading at a limit.
///
/// The link reads again when the queue is below the limit. A protocol with credit per subscription
/// does not need it, because its peer stops sending.
///
/// ```
/// use steadfast::Backpressure;
///
/// let backpressure = Backpressure::new(100);
/// // In the sink, for each item it queues:
/// backpressure.enqueued();
/// // In the application, for each item it takes:
/// backpressure.dequeued();
/// ```
#[derive(Debug)]
pub struct Backpressure {
    queued: AtomicUsize,
    limit: usize,
    below_limit: Notify,
}

impl Backpressure {
    /// Pauses reading while `limit` items or more are queued. A limit of 0 counts as 1.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            queued: AtomicUsize::new(0),
            limit: limit.max(1),
            below_limit: Notify::new(),
        })
    }

    /// Counts an item that was queued.
    pub fn enqueued(&self) {
        self.queued.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts an item that was taken from the queue.
    pub fn dequeued(&self) {
        // `fetch_sub` returns the count before, so this wakes from the limit downwards.
        // `notify_one` keeps a permit if the driver is not waiting yet, so the wake-up is not lost.
        if self.queued.fetch_sub(1, Ordering::AcqRel) <= self.limit {
            self.below_limit.notify_one();
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queued.load(Ordering::Acquire) >= self.limit
    }

    /// Resolves when the queue is below its limit.
    pub(crate) async fn below_limit(&self) {
        while self.is_full() {
            self.below_limit.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn waiter_resumes_when_queue_falls_below_its_limit() {
        let backpressure = Backpressure::new(2);
        backpressure.enqueued();
        assert!(!backpressure.is_full());
        assert_eq!(backpressure.below_limit().now_or_never(), Some(()));
        backpressure.enqueued();
        backpressure.enqueued();
        assert!(backpressure.is_full());
        let mut below = Box::pin(backpressure.below_limit());
        backpressure.dequeued();
        assert_eq!(below.as_mut().now_or_never(), None, "still at the limit");
        backpressure.dequeued();
        assert_eq!(below.as_mut().now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn dequeue_before_anyone_waits_is_remembered() {
        let backpressure = Backpressure::new(0);
        backpressure.enqueued();
        let mut below = Box::pin(backpressure.below_limit());
        let full = below.as_mut().now_or_never();
        assert_eq!(full, None, "a limit of 0 lets one through");
        drop(below);
        backpressure.dequeued();
        assert_eq!(backpressure.below_limit().now_or_never(), Some(()));
    }
}
