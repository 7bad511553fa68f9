//! One attempt: from the dial to the last message, whatever it waits for, in one place to poll.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use steadfast_session::{End, Generation};

use crate::{
    outbound::{Outbound, Outbox},
    transport::{Call, Connection, Inbound, News, Seen, Tap},
};

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a stream woke the driver for.
#[derive(Debug)]
pub(crate) enum Wake {
    Dialled,
    Opened,
    Accepted,
    Received,
    Message(Bytes),
    Probed(bool),
    Ended(End),
}

/// The attempt the driver is busy with.
pub(crate) struct Stream<C: Connection> {
    pub(crate) generation: Generation,
    pub(crate) outbox: Option<Outbox>,
    pub(crate) connection: Option<C>,
    step: Step<C>,
    probe: Option<Boxed<bool>>,
    tap: Arc<Tap>,
    seen: Seen,
}

enum Step<C: Connection> {
    Dialling(Boxed<Result<C, End>>, Call, Option<Outbound>),
    Opening(Boxed<Result<C::Inbound, End>>),
    Open(C::Inbound),
    Over,
}

impl<C: Connection> Stream<C> {
    pub(crate) fn dial(
        generation: Generation,
        dial: impl Future<Output = Result<C, End>> + Send + 'static,
        call: Call,
        (outbox, outbound): (Outbox, Outbound),
    ) -> Self {
        Self {
            generation,
            outbox: Some(outbox),
            connection: None,
            step: Step::Dialling(Box::pin(dial), call, Some(outbound)),
            probe: None,
            tap: Arc::default(),
            seen: Seen::default(),
        }
    }

    /// Asks the peer for life; without a connection there is nobody to ask.
    pub(crate) fn probe(&mut self) {
        self.probe = Some(match &self.connection {
            Some(connection) => Box::pin(connection.probe()),
            None => Box::pin(std::future::ready(false)),
        });
    }

    /// The next thing to happen. While `held`, messages stay where they are; life, answers to
    /// probes and acceptance are still seen.
    pub(crate) fn poll_wake(&mut self, held: bool, cx: &mut Context<'_>) -> Poll<Wake> {
        if let Some(probe) = &mut self.probe
            && let Poll::Ready(alive) = probe.as_mut().poll(cx)
        {
            self.probe = None;
            return Poll::Ready(Wake::Probed(alive));
        }
        if let Poll::Ready(wake) = self.poll_step(held, cx) {
            return Poll::Ready(wake);
        }
        self.tap
            .poll_news(&mut self.seen, cx)
            .map(|news| match news {
                News::Accepted => Wake::Accepted,
                News::Received => Wake::Received,
            })
    }

    fn poll_step(&mut self, held: bool, cx: &mut Context<'_>) -> Poll<Wake> {
        let ended = |end| Poll::Ready((Step::Over, Wake::Ended(end)));
        let reached = match &mut self.step {
            Step::Dialling(dial, call, outbound) => match dial.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(end)) => ended(end),
                Poll::Ready(Ok(connection)) => {
                    let outbound = outbound.take().expect("a stream is dialled once");
                    let open = connection.open(call, outbound, Arc::clone(&self.tap));
                    self.connection = Some(connection);
                    Poll::Ready((Step::Opening(Box::pin(open)), Wake::Dialled))
                }
            },
            Step::Opening(open) => match open.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(end)) => ended(end),
                Poll::Ready(Ok(inbound)) => Poll::Ready((Step::Open(inbound), Wake::Opened)),
            },
            Step::Open(inbound) if !held => {
                return inbound.poll_next(cx).map(|next| match next {
                    Ok(message) => Wake::Message(message),
                    Err(end) => {
                        self.step = Step::Over;
                        Wake::Ended(end)
                    }
                });
            }
            Step::Open(_) | Step::Over => Poll::Pending,
        };
        reached.map(|(step, wake)| {
            self.step = step;
            wake
        })
    }
}
