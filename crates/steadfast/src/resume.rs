//! Resumption of any service's stream: send the requests again, from the position reached.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use futures_core::Stream;
use prost::Message;
use steadfast_session::{
    ConfigFaults, Context, End, Generation, Initiator, Protocol, Reason, Signal, Time,
};
use tokio::sync::mpsc;

use crate::{
    backpressure::Backpressure,
    link::{CommandError, Link},
    options::LinkOptions,
    transport::{Call, Connection, Transport},
};

/// The rules for resuming a stream of some service. A user of the library writes only this.
///
/// ```
/// use steadfast::{Observed, Resume};
/// # #[derive(Clone, Copy, PartialEq, prost::Message)]
/// # struct WatchRequest { #[prost(uint64, tag = "1")] after: u64 }
/// # #[derive(Clone, Copy, PartialEq, prost::Message)]
/// # struct Reading { #[prost(uint64, tag = "1")] sequence: u64 }
///
/// /// Watches readings, after the sequence number seen last.
/// struct Watch { after: u64 }
///
/// impl Resume for Watch {
///     type Request = WatchRequest;
///     type Response = Reading;
///
///     fn requests(&mut self) -> Vec<WatchRequest> {
///         vec![WatchRequest { after: self.after }]
///     }
///
///     fn observe(&mut self, reading: &Reading) -> Observed {
///         if reading.sequence <= self.after {
///             return Observed::Duplicate;
///         }
///         self.after = reading.sequence;
///         Observed::New
///     }
/// }
///
/// let mut watch = Watch { after: 0 };
/// assert_eq!(watch.observe(&Reading { sequence: 1 }), Observed::New);
/// assert_eq!(watch.requests(), [WatchRequest { after: 1 }]);
/// ```
pub trait Resume: Send + 'static {
    /// The message the client sends.
    type Request: Message + Send + 'static;
    /// The message the server sends.
    type Response: Message + Default + Send + 'static;

    /// Returns the requests to send first on every stream, with the position reached.
    fn requests(&mut self) -> Vec<Self::Request>;

    /// Inspects a response before the application receives it, in order. Store here the position to
    /// resume from.
    fn observe(&mut self, response: &Self::Response) -> Observed;

    /// Returns the message to send as a heartbeat; `None` sends nothing.
    fn heartbeat(&mut self) -> Option<Self::Request> {
        None
    }
}

/// The verdict of [`Resume::observe`] on a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Passed on to the application.
    New,
    /// Dropped, because the application has received it already.
    Duplicate,
    /// Passed on to the application, and the stream is replaced: [`Resume::requests`] is asked again,
    /// after the next delay of the backoff. For a peer that says it cannot continue from the position.
    Restart,
}

/// A stream of responses in order, across every reconnect, until it is closed.
pub struct Resumed<R: Resume, C: Connection> {
    events: mpsc::UnboundedReceiver<ResumeEvent<R::Response>>,
    backpressure: Arc<Backpressure>,
    link: Link<Resuming<R>, C>,
}

/// The protocol of a [`Resumed`] stream.
#[derive(Debug)]
pub struct Resuming<R> {
    resume: R,
}

/// An event of [`Resuming`].
#[derive(Debug)]
#[non_exhaustive]
pub enum ResumeEvent<T> {
    /// A new response.
    Response(T),
    /// The link stopped trying.
    Stopped(End),
}

impl LinkOptions {
    /// Spawns and starts a link that resumes a stream of any service.
    ///
    /// # Errors
    ///
    /// Returns every fault of the configuration at once.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn resume<R: Resume, T: Transport>(
        self,
        call: Call,
        transport: T,
        resume: R,
    ) -> Result<Resumed<R, T::Connection>, ConfigFaults> {
        let backpressure = Backpressure::new(self.max_queued_responses);
        // Unbounded, but reading pauses at the limit of `backpressure`.
        let (sender, events) = mpsc::unbounded_channel();
        let queued = Arc::clone(&backpressure);
        let sink = move |event| {
            queued.enqueued();
            if sender.send(event).is_err() {
                // Only handles of the link are left. Nobody will ever dequeue, and reading must go
                // on for the link to notice the end of the stream.
                queued.dequeued();
            }
        };
        let link = self.backpressure(Arc::clone(&backpressure)).spawn(
            call,
            transport,
            Resuming { resume },
            sink,
        )?;
        // Fails only if the runtime is shutting down; `next` then returns `None`.
        link.start().ok();
        Ok(Resumed {
            events,
            backpressure,
            link,
        })
    }
}

impl<R: Resume, C: Connection> Resumed<R, C> {
    /// Returns the next response; `None` after [`Link::close`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// Returns the end of the last attempt, once, when the link stops trying.
    pub async fn next(&mut self) -> Option<Result<R::Response, End>> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Sends a request on the live stream. It is lost if the stream ends before the peer has
    /// received it; a request that must survive belongs in [`Resume::requests`].
    ///
    /// # Errors
    ///
    /// Returns an error if the command queue is full or the link is closed.
    pub fn send(&self, request: R::Request) -> Result<(), CommandError> {
        self.link.command(request)
    }

    /// Returns the link, for its state, counters and outages, and to leave or close it.
    #[must_use]
    pub fn link(&self) -> &Link<Resuming<R>, C> {
        &self.link
    }

    fn poll_event(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<Result<R::Response, End>>> {
        let event = std::task::ready!(self.events.poll_recv(cx));
        // The final error was counted when it was queued, so it is counted here as well.
        if event.is_some() {
            self.backpressure.dequeued();
        }
        Poll::Ready(event.map(|event| match event {
            ResumeEvent::Response(response) => Ok(response),
            ResumeEvent::Stopped(end) => Err(end),
        }))
    }
}

impl<R: Resume, C: Connection> Stream for Resumed<R, C> {
    type Item = Result<R::Response, End>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_event(cx)
    }
}

impl<R: Resume> Protocol for Resuming<R> {
    type Send = R::Request;
    type Receive = R::Response;
    type Command = R::Request;
    type Event = ResumeEvent<R::Response>;

    fn on_open(&mut self, _: Time, _: Generation, cx: &mut Context<Self::Send, Self::Event>) {
        for request in self.resume.requests() {
            cx.send(request);
        }
    }

    fn on_message(
        &mut self,
        _: Time,
        message: Self::Receive,
        cx: &mut Context<Self::Send, Self::Event>,
    ) {
        // The service has no greeting of its own: its first response proves that it works.
        cx.signal(Signal::Greeted);
        cx.signal(Signal::Restored);
        match self.resume.observe(&message) {
            Observed::New => cx.emit(ResumeEvent::Response(message)),
            Observed::Duplicate => {}
            Observed::Restart => {
                cx.emit(ResumeEvent::Response(message));
                let reason = Reason::RestoreRefused("cannot continue from the position".to_owned());
                cx.fail(End::retry(Initiator::Peer, reason));
            }
        }
    }

    fn on_command(
        &mut self,
        _: Time,
        command: Self::Command,
        cx: &mut Context<Self::Send, Self::Event>,
    ) {
        // Documented as lost: a request for the next stream belongs in `Resume::requests`.
        if cx.is_open() {
            cx.send(command);
        }
    }

    fn on_heartbeat(&mut self, _: Time, cx: &mut Context<Self::Send, Self::Event>) {
        if let Some(request) = self.resume.heartbeat() {
            cx.send(request);
        }
    }

    fn on_down(&mut self, _: Time, _: &End, _: &mut Context<Self::Send, Self::Event>) {}

    fn on_stop(&mut self, _: Time, end: &End, cx: &mut Context<Self::Send, Self::Event>) {
        // A stream that its owner has left ends with `None`, not with an error.
        if end.reason != Reason::Left {
            cx.emit(ResumeEvent::Stopped(end.clone()));
        }
    }
}

impl<R: Resume, C: Connection> fmt::Debug for Resumed<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumed")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
