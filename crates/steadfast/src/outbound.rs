//! The queue of messages not yet taken by the connection.

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

/// The reading end, drained by the transport. It ends when the link has finished its half.
#[derive(Debug)]
pub struct Outbound {
    queue: mpsc::UnboundedReceiver<Queued>,
}

/// The writing end, owned by the driver alone.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<Queued>,
    unsent: Arc<Unsent>,
    limit: usize,
}

/// What waits to be taken by the connection, counted.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    bytes: AtomicUsize,
    less: Notify,
    /// The sum over all streams of the link, of which this is one.
    link: Option<Arc<Unsent>>,
}

/// A message in the queue. Wherever it ends, taken or thrown away, it is unsent no more.
#[derive(Debug)]
struct Queued {
    message: Bytes,
    unsent: Arc<Unsent>,
}

/// The queue holds as much as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// What an empty message counts for: its frame and its place in the queue.
const OVERHEAD: usize = 32;

/// A queue of at most `limit` bytes, one of those that `link` counts.
pub(crate) fn queue(limit: usize, link: &Arc<Unsent>) -> (Outbox, Outbound) {
    let (sender, queue) = mpsc::unbounded_channel();
    let unsent = Arc::new(Unsent {
        link: Some(Arc::clone(link)),
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
    /// Queues a message. A connection that is gone swallows it: its end is on the way.
    pub(crate) fn push(&self, message: Bytes) -> Result<(), Full> {
        if self.unsent.now() + weight(&message) > self.limit {
            return Err(Full);
        }
        self.unsent.add(weight(&message));
        let unsent = Arc::clone(&self.unsent);
        self.queue.send(Queued { message, unsent }).ok();
        Ok(())
    }
}

impl Unsent {
    fn now(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    fn add(&self, weight: usize) {
        self.bytes.fetch_add(weight, Ordering::AcqRel);
        if let Some(link) = &self.link {
            link.add(weight);
        }
    }

    fn subtract(&self, weight: usize) {
        self.bytes.fetch_sub(weight, Ordering::AcqRel);
        self.less.notify_waiters();
        if let Some(link) = &self.link {
            link.subtract(weight);
        }
    }

    /// Resolves when at most `bytes` wait.
    pub(crate) async fn at_most(&self, bytes: usize) {
        loop {
            let less = self.less.notified();
            if self.now() <= bytes {
                return;
            }
            less.await;
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.unsent.subtract(weight(&self.message));
    }
}

impl Stream for Outbound {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let next = self.queue.poll_recv(cx);
        next.map(|queued| queued.map(|queued| queued.message.clone()))
    }
}

fn weight(message: &Bytes) -> usize {
    message.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn the_queue_is_bounded_in_bytes_and_room_returns() {
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
    async fn whoever_waits_for_room_is_told_when_messages_are_taken_or_thrown_away() {
        let link = Arc::default();
        let (first, mut outbound) = queue(1_000, &link);
        first.push(Bytes::from_static(&[1; 60])).unwrap();
        first.push(Bytes::from_static(&[1; 60])).unwrap();
        let (second, thrown_away) = queue(1_000, &link);
        second.push(Bytes::from_static(&[1; 60])).unwrap();
        let mut room = std::pin::pin!(link.at_most(2 * OVERHEAD));
        assert!(futures_util::poll!(&mut room).is_pending());
        outbound.next().await;
        drop(thrown_away);
        assert!(futures_util::poll!(&mut room).is_pending(), "one is left");
        outbound.next().await;
        room.await;
        // What is pushed to a connection that is gone does not wait.
        second.push(Bytes::from_static(&[1; 60])).unwrap();
        link.at_most(0).await;
    }
}
