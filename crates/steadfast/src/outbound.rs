//! The queue of messages that the connection has not taken yet.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::{Notify, mpsc};

/// The messages to send on one stream, read by the transport. Ends when the link ends its half.
#[derive(Debug)]
pub struct Outbound {
    queue: mpsc::UnboundedReceiver<Queued>,
}

/// The sender of an [`Outbound`], owned by the driver.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<Queued>,
    unsent: Arc<Unsent>,
    limit: usize,
}

/// The number of bytes that wait for the connection.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    bytes: AtomicUsize,
    decreased: Notify,
    /// The sum over all streams of the link; `None` in the sum itself.
    total: Option<Arc<Unsent>>,
}

/// A queued message. It counts as unsent until it is dropped, whether it was sent or discarded.
#[derive(Debug)]
struct Queued {
    message: Bytes,
    weight: usize,
    unsent: Arc<Unsent>,
}

/// The error of a push that would exceed the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The bytes each message counts for beside its own: its frame header and its entry in the queue.
/// Without them a flood of empty messages would have no bound.
const OVERHEAD: usize = 32;

/// Creates a queue of at most `limit` bytes that also counts towards `total`.
pub(crate) fn queue(limit: usize, total: &Arc<Unsent>) -> (Outbox, Outbound) {
    // Bounded in bytes by `Outbox::push`; a bound in messages would say nothing about memory.
    let (sender, queue) = mpsc::unbounded_channel();
    let unsent = Arc::new(Unsent {
        total: Some(Arc::clone(total)),
        ..Unsent::default()
    });
    let outbox = Outbox {
        queue: sender,
        unsent,
        limit,
    };
    (outbox, Outbound { queue })
}

impl Outbox {
    /// Queues a message. If the receiver is gone the message is discarded, because the end of the
    /// stream is already on its way to the driver.
    pub(crate) fn push(&self, message: Bytes) -> Result<(), Full> {
        // Only the driver adds, and every other thread only subtracts, so the sum cannot grow
        // between this check and the addition.
        let weight = message.len() + OVERHEAD;
        if self.unsent.now() + weight > self.limit {
            return Err(Full);
        }
        self.unsent.add(weight);
        let queued = Queued {
            message,
            weight,
            unsent: Arc::clone(&self.unsent),
        };
        self.queue.send(queued).ok();
        Ok(())
    }
}

impl Unsent {
    fn now(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    fn add(&self, weight: usize) {
        self.bytes.fetch_add(weight, Ordering::AcqRel);
        if let Some(total) = &self.total {
            total.add(weight);
        }
    }

    fn subtract(&self, weight: usize) {
        self.bytes.fetch_sub(weight, Ordering::AcqRel);
        // All of them: waiters have different limits, so waking one may wake the wrong one.
        self.decreased.notify_waiters();
        if let Some(total) = &self.total {
            total.subtract(weight);
        }
    }

    /// Resolves when at most `bytes` wait.
    pub(crate) async fn at_most(&self, bytes: usize) {
        loop {
            // Created before the check: `notify_waiters` wakes only futures that exist already.
            let decreased = self.decreased.notified();
            if self.now() <= bytes {
                return;
            }
            decreased.await;
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.unsent.subtract(self.weight);
    }
}

impl Stream for Outbound {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let next = self.queue.poll_recv(cx);
        // Taken: the clone of a message that has one owner would allocate.
        next.map(|queued| queued.map(|mut queued| std::mem::take(&mut queued.message)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn queue_is_bounded_in_bytes_and_frees_them_when_read() {
        let (outbox, mut outbound) = queue(100, &Arc::default());
        assert_eq!(outbox.push(Bytes::from_static(&[1; 60])), Ok(()));
        assert_eq!(outbox.push(Bytes::new()), Err(Full));
        assert_eq!(outbound.next().await.map(|message| message.len()), Some(60));
        assert_eq!(outbox.push(Bytes::new()), Ok(()));
        drop(outbox);
        assert_eq!(outbound.next().await, Some(Bytes::new()));
        assert_eq!(outbound.next().await, None);
    }

    #[tokio::test]
    async fn waiter_resumes_when_messages_are_sent_or_discarded() {
        let total = Arc::default();
        let (first, mut outbound) = queue(1_000, &total);
        first.push(Bytes::from_static(&[1; 60])).unwrap();
        first.push(Bytes::from_static(&[1; 60])).unwrap();
        let (second, discarded) = queue(1_000, &total);
        second.push(Bytes::from_static(&[1; 60])).unwrap();
        let mut waiter = std::pin::pin!(total.at_most(2 * OVERHEAD));
        assert!(futures_util::poll!(&mut waiter).is_pending());
        outbound.next().await;
        drop(discarded);
        assert!(
            futures_util::poll!(&mut waiter).is_pending(),
            "one message is left"
        );
        outbound.next().await;
        waiter.await;
        // A message pushed after the receiver is gone does not count.
        second.push(Bytes::from_static(&[1; 60])).unwrap();
        total.at_most(0).await;
    }
}
