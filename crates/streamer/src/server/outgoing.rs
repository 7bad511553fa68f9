//! The queue of one stream's messages to its peer.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use steadfast_wire::streamer::StreamerMessage;
use tonic::Status;

use super::hub_task::HubHandle;
use crate::hub::StreamId;

/// The hub's end: it puts messages in and ends the stream. Bounded by the hub, which counts what is
/// in it and stops delivering long before it ends a stream that only asks.
#[derive(Clone, Debug)]
pub(super) struct Outgoing(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<(StreamerMessage, usize)>,
    end: Option<Status>,
    /// Bytes and messages taken that the hub has not been told of.
    taken: (usize, usize),
    reader: Option<Waker>,
}

/// The transport's end: the response body. Dropping it ends the stream.
#[derive(Debug)]
pub(super) struct Responses {
    queue: Outgoing,
    stream: StreamId,
    hub: HubHandle,
    over: bool,
}

impl Outgoing {
    pub(super) fn new(stream: StreamId, hub: HubHandle) -> (Self, Responses) {
        let queue = Self(Arc::default());
        let responses = Responses {
            queue: queue.clone(),
            stream,
            hub,
            over: false,
        };
        (queue, responses)
    }

    pub(super) fn push(&self, message: StreamerMessage, bytes: usize) {
        let mut queue = self.lock();
        if queue.end.is_none() {
            queue.messages.push_back((message, bytes));
        }
        wake(queue);
    }

    /// Nothing follows. What is queued goes out before when it is to be flushed, else it is thrown
    /// away; then the last message, then the status.
    pub(super) fn end(&self, last: Option<StreamerMessage>, status: Status, flush: bool) {
        let mut queue = self.lock();
        if queue.end.is_some() {
            return;
        }
        if !flush {
            queue.messages.clear();
        }
        queue.messages.extend(last.map(|message| (message, 0)));
        queue.end = Some(status);
        wake(queue);
    }

    /// What the transport has taken since the last call.
    pub(super) fn taken(&self) -> (usize, usize) {
        std::mem::take(&mut self.lock().taken)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(mut queue: MutexGuard<'_, Queue>) {
    let reader = queue.reader.take();
    drop(queue);
    if let Some(reader) = reader {
        reader.wake();
    }
}

impl Stream for Responses {
    type Item = Result<StreamerMessage, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let mut queue = this.queue.lock();
        if let Some((message, bytes)) = queue.messages.pop_front() {
            let untold = queue.taken != (0, 0);
            queue.taken.0 += bytes;
            queue.taken.1 += 1;
            drop(queue);
            if !untold {
                this.hub.taken(this.stream);
            }
            return Poll::Ready(Some(Ok(message)));
        }
        if let Some(status) = &queue.end {
            let status = status.clone();
            drop(queue);
            this.over = true;
            let failed = status.code() != tonic::Code::Ok;
            return Poll::Ready(failed.then_some(Err(status)));
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.hub.ended(self.stream);
    }
}
