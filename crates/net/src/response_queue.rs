//! The queue between the code that produces a response stream and the transport that sends it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_core::Stream;
use http::HeaderMap;
use http_body::{Body, Frame};
use tonic::{Code, Status};

/// The producer's end: queues messages and ends the stream. Clones share the queue.
///
/// No method waits. A producer that must not lose messages looks at [`ResponseQueue::take_dequeued`] and
/// stops before the queue is full.
#[derive(Debug)]
pub struct ResponseQueue<M>(Arc<Mutex<Queue<M>>>);

#[derive(Debug)]
struct Queue<M> {
    messages: VecDeque<(M, Amount)>,
    /// The sum of the costs of `messages`.
    queued: usize,
    capacity: usize,
    /// The status that follows the messages. Nothing is queued after it is set.
    end: Option<Status>,
    dequeued: Amount,
    reader: Option<Waker>,
}

/// The transport's end: a stream of messages, and for encoded messages a response body with
/// trailers. Dropping it ends the stream.
#[derive(Debug)]
pub struct Responses<M, O: Observer = ()> {
    queue: ResponseQueue<M>,
    observer: O,
    /// The status was returned.
    ended: bool,
}

/// A number of messages, and the sum of their costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// The number of messages.
    pub messages: usize,
    /// The sum of their costs.
    pub cost: usize,
}

/// The queue has no capacity for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// Receives word from the transport's end. Called by the task of the transport, which must not wait.
pub trait Observer: Send {
    /// Reacts to the first message taken since [`ResponseQueue::take_dequeued`] was called.
    fn on_dequeued(&self) {}

    /// Reacts to the end of the transport's interest: the call has ended, for whatever reason.
    fn on_dropped(&self) {}
}

impl Observer for () {}

impl<M> ResponseQueue<M> {
    /// Returns both ends of an empty queue. Messages whose costs add up to `capacity` fit; a cost is
    /// one, or a number of bytes, as the producer chooses.
    pub fn new<O: Observer>(capacity: usize, observer: O) -> (Self, Responses<M, O>) {
        let queue = Self(Arc::new(Mutex::new(Queue {
            messages: VecDeque::new(),
            queued: 0,
            capacity,
            end: None,
            dequeued: Amount::default(),
            reader: None,
        })));
        let responses = Responses {
            queue: queue.clone(),
            observer,
            ended: false,
        };
        (queue, responses)
    }

    /// Queues a message. After the end it is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`QueueFull`] if the message does not fit; it is dropped.
    pub fn push(&self, message: M, cost: usize) -> Result<(), QueueFull> {
        let messages = 1;
        let reader = self.push_batch(message, Amount { messages, cost })?;
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// Queues several messages in one piece. After the end they are dropped.
    ///
    /// Returns the waker of the transport if it waits. The caller wakes it after it has filled the other
    /// queues of a burst, so that a connection sends the burst together.
    ///
    /// # Errors
    ///
    /// Returns [`QueueFull`] if they do not fit; they are dropped.
    pub fn push_batch(&self, messages: M, amount: Amount) -> Result<Option<Waker>, QueueFull> {
        let mut queue = self.lock();
        // A producer may not know of the end yet; that is no fault of its own.
        if queue.end.is_some() {
            return Ok(None);
        }
        let queued = queue.queued.saturating_add(amount.cost);
        if queued > queue.capacity {
            return Err(QueueFull);
        }
        queue.queued = queued;
        queue.messages.push_back((messages, amount));
        // Taken, because a waker is good for one wake-up: the transport leaves another when it
        // waits.
        Ok(queue.reader.take())
    }

    /// Ends the stream with `status`. With `flush` the queued messages go out first, otherwise they
    /// are dropped. Then comes `last`, whatever the capacity, then the status. Only the first end counts.
    pub fn end(&self, last: Option<M>, status: Status, flush: bool) {
        let mut queue = self.lock();
        if queue.end.is_some() {
            return;
        }
        if !flush {
            // `queued` may stay as it is, because nothing is pushed after the end.
            queue.messages.clear();
        }
        // The last message costs nothing: it must fit into a full queue, and no producer waits for
        // it.
        let nothing = Amount::default();
        queue
            .messages
            .extend(last.map(|message| (message, nothing)));
        queue.end = Some(status);
        let reader = queue.reader.take();
        // The transport must not run into the lock.
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Drops what is still queued after `time`, because its peer does not read, and makes `status` the end. A
    /// stream that was ended with `flush` would otherwise keep its messages for as long as the peer likes.
    pub fn drop_unread_after(&self, time: Duration, status: Status)
    where
        M: Send + 'static,
    {
        if self.lock().messages.is_empty() {
            return;
        }
        // Not the queue itself, which would outlast the call by this time.
        let queue = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(queue) = queue.upgrade() {
                Self(queue).drop_unread(status);
            }
        });
    }

    fn drop_unread(&self, status: Status) {
        let mut queue = self.lock();
        if queue.messages.is_empty() {
            return;
        }
        queue.messages = VecDeque::new();
        queue.end = Some(status);
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Returns what the transport has taken since the last call.
    #[must_use]
    pub fn take_dequeued(&self) -> Amount {
        std::mem::take(&mut self.lock().dequeued)
    }

    /// No code panics while it holds the lock, so that a poisoned queue is still whole.
    fn lock(&self) -> MutexGuard<'_, Queue<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Clone for ResponseQueue<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Queue<M> {
    fn pop(&mut self) -> Option<M> {
        let (message, amount) = self.messages.pop_front()?;
        self.queued = self.queued.saturating_sub(amount.cost);
        self.dequeued.cost += amount.cost;
        self.dequeued.messages += amount.messages;
        Some(message)
    }
}

impl Queue<Bytes> {
    /// Takes the bytes of one chunk: the first messages of a long piece, or pieces that fit. Only joined
    /// pieces are copied.
    ///
    /// What is taken counts as sent although the peer may have no window for it, hence the limit. A
    /// message is never cut: what follows it may be dropped by [`ResponseQueue::end`].
    fn pop_chunk(&mut self) -> Option<Bytes> {
        let (first, amount) = self.messages.front_mut()?;
        if first.len() > CHUNK {
            let taken = whole_messages(first);
            if taken.cost < first.len() {
                let part = first.split_to(taken.cost);
                amount.messages = amount.messages.saturating_sub(taken.messages);
                amount.cost = amount.cost.saturating_sub(taken.cost);
                self.queued = self.queued.saturating_sub(taken.cost);
                self.dequeued.messages += taken.messages;
                self.dequeued.cost += taken.cost;
                return Some(part);
            }
            return self.pop();
        }
        let (mut number, mut length) = (0, 0);
        for (message, _) in &self.messages {
            // A message larger than a chunk is passed on alone, without a copy.
            if number > 0 && length + message.len() > CHUNK {
                break;
            }
            number += 1;
            length += message.len();
        }
        if number == 1 {
            return self.pop();
        }
        let mut chunk = BytesMut::with_capacity(length);
        for _ in 0..number {
            chunk.put(self.pop()?);
        }
        Some(chunk.freeze())
    }
}

impl<M, O: Observer> Responses<M, O> {
    /// Returns what `take` takes from the queue, or the status that ends the stream.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Queue<M>) -> Option<M>,
    ) -> Poll<Result<M, Status>> {
        let mut queue = self.queue.lock();
        let first = queue.dequeued == Amount::default();
        if let Some(message) = take(&mut queue) {
            // Before the observer is called: it may use this queue.
            drop(queue);
            // Once is enough: the producer learns of later ones when it asks.
            if first {
                self.observer.on_dequeued();
            }
            return Poll::Ready(Ok(message));
        }
        // After the messages, so that the status never overtakes them.
        if let Some(status) = &queue.end {
            self.ended = true;
            return Poll::Ready(Err(status.clone()));
        }
        // Under the lock that found the queue empty, so that no message comes in between unnoticed.
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<M, O: Observer + Unpin> Stream for Responses<M, O> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.poll(cx, Queue::pop).map(|next| match next {
            // tonic sends OK itself when a stream of messages ends.
            Err(status) if status.code() == Code::Ok => None,
            next => Some(next),
        })
    }
}

/// A response body of framed gRPC messages, with the status as trailers. What is queued together is sent
/// together.
impl<O: Observer + Unpin> Body for Responses<Bytes, O> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.poll(cx, Queue::pop_chunk).map(|next| match next {
            Ok(message) => Some(Ok(Frame::data(message))),
            Err(status) => {
                let mut trailers = HeaderMap::with_capacity(2);
                // Also for OK: whoever sends a body of its own has to send `grpc-status` as well.
                let added = status.add_header(&mut trailers);
                Some(added.map(|()| Frame::trailers(trailers)))
            }
        })
    }
}

impl<M, O: Observer> Drop for Responses<M, O> {
    fn drop(&mut self) {
        self.observer.on_dropped();
    }
}

/// Returns the messages at the front that fit into one chunk, at least one, and their length as cost.
fn whole_messages(piece: &[u8]) -> Amount {
    let mut taken = Amount::default();
    while let Some(&[_, a, b, c, d]) = piece.get(taken.cost..taken.cost + HEAD) {
        let next = taken.cost + HEAD + u32::from_be_bytes([a, b, c, d]) as usize;
        if taken.messages > 0 && next > CHUNK {
            break;
        }
        taken.messages += 1;
        taken.cost = next.min(piece.len());
    }
    taken
}

/// The length of what gRPC puts before a message: a flag for compression, and the length.
const HEAD: usize = 5;

/// The largest chunk of several messages: two frames of HTTP/2.
const CHUNK: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{FutureExt as _, StreamExt as _};
    use http_body_util::BodyExt;

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Calls(Arc<[AtomicUsize; 2]>);

    impl Observer for Calls {
        fn on_dequeued(&self) {
            self.0[0].fetch_add(1, Ordering::Relaxed);
        }

        fn on_dropped(&self) {
            self.0[1].fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Calls {
        fn counts(&self) -> [usize; 2] {
            [&self.0[0], &self.0[1]].map(|count| count.load(Ordering::Relaxed))
        }
    }

    /// Returns everything that can be taken now, and the code of the end if it has come.
    fn take_all<O: Observer + Unpin>(
        responses: &mut Responses<u32, O>,
    ) -> (Vec<u32>, Option<Code>) {
        let mut messages = Vec::new();
        while let Some(next) = responses.next().now_or_never() {
            match next {
                Some(Ok(message)) => messages.push(message),
                Some(Err(status)) => return (messages, Some(status.code())),
                None => return (messages, Some(Code::Ok)),
            }
        }
        (messages, None)
    }

    #[test]
    fn messages_keep_their_order_and_are_counted_when_taken() {
        let calls = Calls::default();
        let (queue, mut responses) = ResponseQueue::new(30, calls.clone());
        for number in 0..3 {
            queue.push(number, 10).unwrap();
        }
        assert_eq!(queue.push(3, 1), Err(QueueFull));
        assert_eq!(queue.take_dequeued(), Amount::default());
        assert_eq!(take_all(&mut responses), (vec![0, 1, 2], None));
        assert_eq!(calls.counts(), [1, 0], "one call for three messages");
        let (messages, cost) = (3, 30);
        assert_eq!(queue.take_dequeued(), Amount { messages, cost });
        assert_eq!(queue.take_dequeued(), Amount::default(), "reported once");
        queue.push(3, 30).unwrap();
        drop(responses);
        assert_eq!(calls.counts(), [1, 1]);
    }

    #[test]
    fn end_follows_queued_messages_or_replaces_them() {
        let cases = [
            (true, Status::unavailable(""), vec![1, 9], Code::Unavailable),
            (false, Status::aborted(""), vec![9], Code::Aborted),
            (true, Status::ok(""), vec![1, 9], Code::Ok),
        ];
        for (flush, status, numbers, code) in cases {
            let (queue, mut responses) = ResponseQueue::new(1, ());
            queue.push(1, 1).unwrap();
            queue.end(Some(9), status, flush);
            queue.push(10, 1).unwrap();
            queue.end(None, Status::data_loss("the first end counts"), false);
            assert_eq!(take_all(&mut responses), (numbers, Some(code)));
            assert!(matches!(responses.next().now_or_never(), Some(None)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn flushed_messages_that_nobody_reads_are_dropped() {
        for (waits, messages, code) in [(29, vec![1, 9], Code::Ok), (31, vec![], Code::Aborted)] {
            let (queue, mut responses) = ResponseQueue::new(1, ());
            queue.push(1, 1).unwrap();
            queue.end(Some(9), Status::ok(""), true);
            queue.drop_unread_after(Duration::from_secs(30), Status::aborted(""));
            drop(queue);
            tokio::time::sleep(Duration::from_secs(waits)).await;
            assert_eq!(take_all(&mut responses), (messages, Some(code)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn queue_lasts_no_longer_than_its_call() {
        let (queue, responses) = ResponseQueue::new(1, ());
        let message = Arc::new(());
        queue.push(Arc::clone(&message), 1).unwrap();
        queue.end(None, Status::ok(""), true);
        queue.drop_unread_after(Duration::from_secs(30), Status::aborted(""));
        drop((queue, responses));
        assert_eq!(Arc::strong_count(&message), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_reader_is_woken_by_a_message_and_by_the_end() {
        let (queue, mut responses) = ResponseQueue::new(1, ());
        let reading = tokio::spawn(async move {
            let first = responses.next().await;
            (first.is_some(), responses.next().await.is_none())
        });
        tokio::task::yield_now().await;
        queue.push(1, 1).unwrap();
        tokio::task::yield_now().await;
        queue.end(None, Status::ok(""), true);
        assert_eq!(reading.await.unwrap(), (true, true));
    }

    #[test]
    fn body_joins_what_is_queued_into_chunks() {
        let calls = Calls::default();
        let (queue, mut responses) = ResponseQueue::new(usize::MAX, calls.clone());
        // The lengths of the messages of each piece.
        let half = CHUNK / 2;
        let pieces: [&[usize]; 6] = [
            &[10, 20],
            &[CHUNK - 30],
            &[5],
            &[half, half, half, 7],
            &[2 * CHUNK, 9],
            &[8],
        ];
        for lengths in pieces {
            let mut piece = Vec::new();
            for length in lengths {
                let content = length - HEAD;
                piece.push(0);
                piece.extend_from_slice(&u32::try_from(content).unwrap().to_be_bytes());
                piece.resize(piece.len() + content, 7);
            }
            let (messages, cost) = (lengths.len(), piece.len());
            let reader = queue.push_batch(Bytes::from(piece), Amount { messages, cost });
            assert!(matches!(reader, Ok(None)));
        }
        let mut chunks = Vec::new();
        while let Some(Some(Ok(frame))) = responses.frame().now_or_never() {
            chunks.push(frame.into_data().unwrap().len());
        }
        assert_eq!(chunks, [CHUNK, 5, CHUNK, half + 7, 2 * CHUNK, 9 + 8]);
        let messages = pieces.iter().map(|lengths| lengths.len()).sum();
        let cost = pieces.iter().flat_map(|lengths| lengths.iter()).sum();
        assert_eq!(queue.take_dequeued(), Amount { messages, cost });
        assert_eq!(calls.counts(), [1, 0]);
        let reader = queue.push_batch(Bytes::new(), Amount::default()).unwrap();
        assert!(reader.is_some(), "the transport waits");
    }

    #[tokio::test]
    async fn body_ends_with_the_status_as_trailers() {
        let (queue, responses) = ResponseQueue::new(1, ());
        queue.push(Bytes::from_static(b"frame"), 1).unwrap();
        queue.end(None, Status::aborted("fenced"), true);
        let body = BodyExt::collect(responses).await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "10");
        assert_eq!(body.to_bytes(), "frame");
    }
}
