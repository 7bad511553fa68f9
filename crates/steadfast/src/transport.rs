//! The smallest interface a transport must have: connect once, open streams, probe, kill.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use steadfast_session::End;

use crate::outbound::Outbound;

/// Makes connections.
pub trait Transport: Send + Sync + 'static {
    /// What it makes.
    type Connection: Connection;

    /// Dials once and returns one connection, which never dials again by itself. `refresh` asks for
    /// new credentials first. Dropping the future abandons the dial and leaves nothing behind.
    fn connect(
        &self,
        refresh: bool,
    ) -> impl Future<Output = Result<Self::Connection, End>> + Send + 'static;
}

/// One connection. Clones are handles of the same one; dropping the last one kills it.
pub trait Connection: Clone + Send + Sync + 'static {
    /// The receiving half of a stream.
    type Inbound: Inbound;

    /// Opens a stream and resolves when the peer's headers arrive. Whatever is in `outbound` goes
    /// out before that. Dropping the future abandons the stream.
    fn open(
        &self,
        call: &Call,
        outbound: Outbound,
        tap: Arc<Tap>,
    ) -> impl Future<Output = Result<Self::Inbound, End>> + Send + 'static;

    /// Asks the peer whether it lives: true when it made an answer, whatever it was.
    fn probe(&self) -> impl Future<Output = bool> + Send + 'static;

    /// Cuts the connection. Everything on it ends, a full send buffer notwithstanding.
    fn kill(&self);

    /// Whether it has been cut, or broke.
    fn is_dead(&self) -> bool;

    /// Resolves when no task and no socket of the connection is left.
    fn gone(&self) -> impl Future<Output = ()> + Send + 'static;
}

/// The receiving half of a stream. Dropping it abandons the stream.
pub trait Inbound: Send + 'static {
    /// The next whole message, or how the stream ended. Not called again after an end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>>;
}

/// What to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Path of the method, `/package.Service/Method`.
    pub path: String,
    /// Metadata sent with the call: names in lower case, values in ASCII.
    pub metadata: Vec<(String, String)>,
}

impl Call {
    /// A call of the method at `path`.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            metadata: Vec::new(),
        }
    }

    /// Adds metadata.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((name.into(), value.into()));
        self
    }
}

/// What a transport tells about a stream besides its messages.
#[derive(Debug, Default)]
pub struct Tap {
    accepted: AtomicBool,
    received: AtomicU64,
    reader: AtomicWaker,
}

/// News from a [`Tap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The connection has taken the request.
    Accepted,
    /// Bytes of the response arrived.
    Received,
}

/// What a reader of a [`Tap`] has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    accepted: bool,
    received: u64,
}

impl Tap {
    /// The connection has taken the request.
    pub fn accept(&self) {
        if !self.accepted.swap(true, Ordering::AcqRel) {
            self.reader.wake();
        }
    }

    /// Bytes of the response arrived, be it a part of a message.
    pub fn receive(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::AcqRel);
        self.reader.wake();
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// What happened since `seen`. There is one reader.
    pub(crate) fn poll_news(&self, seen: &mut Seen, cx: &mut Context<'_>) -> Poll<News> {
        self.reader.register(cx.waker());
        if !seen.accepted && self.accepted.load(Ordering::Acquire) {
            seen.accepted = true;
            return Poll::Ready(News::Accepted);
        }
        let received = self.received();
        if seen.received != received {
            seen.received = received;
            return Poll::Ready(News::Received);
        }
        Poll::Pending
    }
}
