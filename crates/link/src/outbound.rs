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
use tokio::sync::mpsc;

/// The reading end, drained by the transport. It ends when the link has finished its half.
#[derive(Debug)]
pub struct Outbound {
    queue: mpsc::UnboundedReceiver<Bytes>,
    bytes: Arc<AtomicUsize>,
}

/// The writing end, owned by the driver alone.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<Bytes>,
    bytes: Arc<AtomicUsize>,
    limit: usize,
}

/// The queue holds as much as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// What an empty message counts for: its frame and its place in the queue.
const OVERHEAD: usize = 32;

/// A queue of at most `limit` bytes.
pub(crate) fn queue(limit: usize) -> (Outbox, Outbound) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    (
        Outbox {
            queue: sender,
            bytes: Arc::clone(&bytes),
            limit,
        },
        Outbound {
            queue: receiver,
            bytes,
        },
    )
}

impl Outbox {
    /// Queues a message. A connection that is gone swallows it: its end is on the way.
    pub(crate) fn push(&self, message: Bytes) -> Result<(), Full> {
        let weight = message.len() + OVERHEAD;
        if self.bytes.load(Ordering::Acquire) + weight > self.limit {
            return Err(Full);
        }
        self.bytes.fetch_add(weight, Ordering::AcqRel);
        self.queue.send(message).ok();
        Ok(())
    }
}

impl Stream for Outbound {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let next = self.queue.poll_recv(cx);
        if let Poll::Ready(Some(message)) = &next {
            self.bytes
                .fetch_sub(message.len() + OVERHEAD, Ordering::AcqRel);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn the_queue_is_bounded_in_bytes_and_room_returns() {
        let (outbox, mut outbound) = queue(100);
        assert_eq!(outbox.push(Bytes::from_static(&[1; 60])), Ok(()));
        assert_eq!(outbox.push(Bytes::new()), Err(Full));
        assert_eq!(outbound.next().await.map(|message| message.len()), Some(60));
        assert_eq!(outbox.push(Bytes::new()), Ok(()));
        drop(outbox);
        assert_eq!(outbound.next().await, Some(Bytes::new()));
        assert_eq!(outbound.next().await, None);
    }
}
