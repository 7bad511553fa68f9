//! One attempt, from the dial to the last message, as one thing to poll.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use steadfast_session::{End, Generation};

use crate::{
    metadata::Metadata,
    outbound::{Outbound, Outbox},
    transport::{Call, Connection, Inbound, StreamActivity},
};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An event of a stream, for the driver.
#[derive(Debug)]
pub(crate) enum Wake {
    Dialled,
    Opened,
    /// The connection has sent the request.
    Accepted,
    /// Bytes arrived that are not a whole message yet.
    Received,
    Message(Bytes),
    /// The result of a probe: true if the peer responded.
    Probed(bool),
    Ended(End),
}

/// The newest attempt.
pub(crate) struct Stream<C: Connection> {
    pub(crate) generation: Generation,
    /// The sending half; `None` after the link has ended it.
    pub(crate) outbox: Option<Outbox>,
    pub(crate) connection: Option<C>,
    step: Step<C>,
    probe: Option<BoxFuture<bool>>,
    activity: Arc<StreamActivity>,
    /// What the call sent, which no text of the peer may show.
    sent: Metadata,
}

enum Step<C: Connection> {
    Dialling(
        BoxFuture<Result<(C, Metadata), End>>,
        Call,
        Option<Outbound>,
    ),
    Opening(BoxFuture<Result<C::Inbound, End>>),
    Open(C::Inbound),
    Ended,
}

impl<C: Connection> Stream<C> {
    pub(crate) fn dial(
        generation: Generation,
        dial: impl Future<Output = Result<(C, Metadata), End>> + Send + 'static,
        call: Call,
        (outbox, outbound): (Outbox, Outbound),
    ) -> Self {
        Self {
            generation,
            outbox: Some(outbox),
            connection: None,
            step: Step::Dialling(Box::pin(dial), call, Some(outbound)),
            probe: None,
            activity: Arc::default(),
            sent: Metadata::new(),
        }
    }

    /// Starts a probe. Without a connection it fails at once.
    pub(crate) fn probe(&mut self) {
        self.probe = Some(match &self.connection {
            Some(connection) => Box::pin(connection.probe()),
            None => Box::pin(std::future::ready(false)),
        });
    }

    /// Polls for the next event. While `read_paused`, messages stay in the connection; activity,
    /// probe results and acceptance are still returned.
    pub(crate) fn poll_wake(&mut self, read_paused: bool, cx: &mut Context<'_>) -> Poll<Wake> {
        // Before the messages: a busy stream must not delay the result that a caller waits for.
        if let Some(probe) = &mut self.probe
            && let Poll::Ready(alive) = probe.as_mut().poll(cx)
        {
            self.probe = None;
            return Poll::Ready(Wake::Probed(alive));
        }
        if let Poll::Ready(wake) = self.poll_step(read_paused, cx) {
            return Poll::Ready(wake);
        }
        // After the messages, which are stronger signs of life and make these superfluous.
        self.activity.register(cx);
        if self.activity.take_accepted() {
            Poll::Ready(Wake::Accepted)
        } else if self.activity.take_received() {
            Poll::Ready(Wake::Received)
        } else {
            Poll::Pending
        }
    }

    fn poll_step(&mut self, read_paused: bool, cx: &mut Context<'_>) -> Poll<Wake> {
        let (step, wake) = match &mut self.step {
            Step::Dialling(dial, call, outbound) => match ready!(dial.as_mut().poll(cx)) {
                Err(end) => (Step::Ended, Wake::Ended(end)),
                Ok((connection, metadata)) => {
                    call.metadata.merge(metadata);
                    self.sent = call.metadata.clone();
                    // Moved out, because the state is replaced only below. The call starts at once:
                    // messages that are queued by now go out with it.
                    let outbound = outbound.take().expect("a stream is dialled once");
                    let open = connection.open(call, outbound, Arc::clone(&self.activity));
                    self.connection = Some(connection);
                    (Step::Opening(Box::pin(open)), Wake::Dialled)
                }
            },
            Step::Opening(open) => match ready!(open.as_mut().poll(cx)) {
                Err(end) => (Step::Ended, Wake::Ended(self.sent.redacted(end))),
                Ok(inbound) => (Step::Open(inbound), Wake::Opened),
            },
            // While reading is paused the connection's window fills up, which is what holds the
            // peer back.
            Step::Open(inbound) if !read_paused => match ready!(inbound.poll_next(cx)) {
                Err(end) => (Step::Ended, Wake::Ended(self.sent.redacted(end))),
                Ok(message) => return Poll::Ready(Wake::Message(message)),
            },
            Step::Open(_) | Step::Ended => return Poll::Pending,
        };
        self.step = step;
        Poll::Ready(wake)
    }
}
