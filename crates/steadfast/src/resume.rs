//! A protocol for streams that are not ours: say again what was said, from where one was.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use futures_core::Stream;
use prost::Message;
use steadfast_session::{ConfigFaults, Context, End, Generation, Protocol, Signal, Time};
use tokio::sync::mpsc;

use crate::{
    gate::Gate,
    link::{Builder, Closed, Link},
    transport::Transport,
};

/// How a stream of some service is resumed. This is all a user of the library has to write.
pub trait Resume: Send + 'static {
    /// What the client sends.
    type Request: Message + Send + 'static;
    /// What the server sends.
    type Response: Message + Default + Send + 'static;

    /// What is said at the beginning of every stream: the wishes, from where one was.
    fn requests(&mut self) -> Vec<Self::Request>;

    /// Sees every response, in order, before the application gets it: the place to remember from
    /// where to go on. False drops it, as one that was seen before.
    fn observe(&mut self, response: &Self::Response) -> bool;

    /// What is sent when a heartbeat is due; `None` sends nothing.
    fn heartbeat(&mut self) -> Option<Self::Request> {
        None
    }
}

/// A stream that goes on: the responses in order, across every reconnect, until it is closed.
pub struct Resumed<R: Resume, C: crate::transport::Connection> {
    responses: mpsc::UnboundedReceiver<Told<R::Response>>,
    gate: Arc<Gate>,
    link: Link<Resuming<R>, C>,
}

/// The protocol behind [`Resumed`].
#[derive(Debug)]
pub struct Resuming<R> {
    resume: R,
}

/// What [`Resuming`] tells.
#[derive(Debug)]
pub enum Told<T> {
    /// A response.
    Response(T),
    /// The link stopped.
    Stopped(End),
}

/// Responses that wait for the application before reading is held back.
const QUEUE: usize = 256;

impl Builder {
    /// Starts a link that resumes a stream of some service, and connects it.
    ///
    /// # Errors
    ///
    /// Every fault of the configuration at once.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn resume<R: Resume, T: Transport>(
        self,
        transport: T,
        resume: R,
    ) -> Result<Resumed<R, T::Connection>, ConfigFaults> {
        let gate = Gate::new(QUEUE);
        let (sender, responses) = mpsc::unbounded_channel();
        let entry = Arc::clone(&gate);
        let link =
            self.gate(Arc::clone(&gate))
                .spawn(transport, Resuming { resume }, move |told| {
                    entry.put();
                    if sender.send(told).is_err() {
                        // Only handles of the link are left; nothing waits for anybody to take it.
                        entry.take();
                    }
                })?;
        link.start().ok();
        Ok(Resumed {
            responses,
            gate,
            link,
        })
    }
}

impl<R: Resume, C: crate::transport::Connection> Resumed<R, C> {
    /// The next response; `None` after [`Link::close`], an error once when the link gave up.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// How the link ended, when it will not try again.
    pub async fn next(&mut self) -> Option<Result<R::Response, End>> {
        std::future::poll_fn(|cx| self.poll_response(cx)).await
    }

    /// Sends a request on the live stream. It is lost if the stream is lost before the peer got
    /// it: wishes that must survive belong into [`Resume::requests`].
    ///
    /// # Errors
    ///
    /// When the link is closed.
    pub fn send(&self, request: R::Request) -> Result<(), Closed> {
        self.link.command(request)
    }

    /// The link below: its state, counters, outages; connect, leave and close.
    #[must_use]
    pub fn link(&self) -> &Link<Resuming<R>, C> {
        &self.link
    }

    fn poll_response(
        &mut self,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<R::Response, End>>> {
        let told = std::task::ready!(self.responses.poll_recv(cx));
        if told.is_some() {
            self.gate.take();
        }
        Poll::Ready(told.map(|told| match told {
            Told::Response(response) => Ok(response),
            Told::Stopped(end) => Err(end),
        }))
    }
}

impl<R: Resume, C: crate::transport::Connection> Stream for Resumed<R, C> {
    type Item = Result<R::Response, End>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_response(cx)
    }
}

impl<R: Resume> Protocol for Resuming<R> {
    type Send = R::Request;
    type Receive = R::Response;
    type Command = R::Request;
    type Event = Told<R::Response>;

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
        cx.signal(Signal::Greeted);
        cx.signal(Signal::Restored);
        if self.resume.observe(&message) {
            cx.emit(Told::Response(message));
        }
    }

    fn on_command(
        &mut self,
        _: Time,
        command: Self::Command,
        cx: &mut Context<Self::Send, Self::Event>,
    ) {
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
        if end.reason != steadfast_session::Reason::Left {
            cx.emit(Told::Stopped(end.clone()));
        }
    }
}

impl<R: Resume, C: crate::transport::Connection> fmt::Debug for Resumed<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumed")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
