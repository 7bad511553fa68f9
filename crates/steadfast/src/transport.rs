//! The interface between a link and whatever carries its streams.
//!
//! A transport dials one connection at a time and never redials by itself: the link above decides
//! when to try again. [`crate::grpc`] has the one for gRPC; feature `testing` has one for tests.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use steadfast_session::End;

use crate::{
    metadata::{InvalidMetadata, Metadata},
    outbound::Outbound,
};

/// Makes connections.
pub trait Transport: Send + Sync + 'static {
    /// The connections it makes.
    type Connection: Connection;

    /// Dials once.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the dial and leaves no task or socket behind.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, End>> + Send + 'static;
}

/// A handle of one connection. Dropping the last clone kills the connection.
pub trait Connection: Clone + Send + Sync + 'static {
    /// The receiving half of a stream.
    type Inbound: Inbound;

    /// Opens a stream and resolves when the peer's headers arrive. Messages in `outbound` are sent
    /// without waiting for the headers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the stream.
    fn open(
        &self,
        call: &Call,
        outbound: Outbound,
        activity: Arc<StreamActivity>,
    ) -> impl Future<Output = Result<Self::Inbound, End>> + Send + 'static;

    /// Asks the peer for a sign of life. Resolves to true if the peer responded, with an error or
    /// without.
    fn probe(&self) -> impl Future<Output = bool> + Send + 'static;

    /// Cuts the connection and every stream on it at once, even if its send buffer is full.
    fn kill(&self);

    /// Returns true once the connection was killed or has broken.
    fn is_closed(&self) -> bool;

    /// Resolves when no task and no socket of the connection is left.
    fn closed(&self) -> impl Future<Output = ()> + Send + 'static;
}

/// The receiving half of a stream. Dropping it abandons the stream.
pub trait Inbound: Send + 'static {
    /// Polls for the next whole message, or for the end of the stream. Not called after an end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>>;
}

/// The method to call, and the metadata to call it with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The path of the method, `/package.Service/Method`.
    pub path: String,
    /// The metadata sent with the call.
    pub metadata: Metadata,
    /// The method takes one request: our half of the stream ends after the first message.
    pub single_request: bool,
}

impl Call {
    /// Creates a call of the method at `path`.
    ///
    /// ```
    /// let call = steadfast::transport::Call::new("/temperature.v1.Sensors/Watch")
    ///     .with_metadata("tenant", "north")?;
    /// assert_eq!(call.metadata.get("tenant"), Some("north"));
    /// # Ok::<(), steadfast::InvalidMetadata>(())
    /// ```
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            metadata: Metadata::new(),
            single_request: false,
        }
    }

    /// Marks the method as one that takes a single request. A Go server handles such a call only when
    /// our half of the stream has ended.
    #[must_use]
    pub fn with_single_request(mut self) -> Self {
        self.single_request = true;
        self
    }

    /// Adds one entry of metadata.
    ///
    /// # Errors
    ///
    /// Returns an error if gRPC cannot send the entry.
    pub fn with_metadata(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, InvalidMetadata> {
        self.metadata.push(name, value)?;
        Ok(self)
    }
}

/// The signs of life of one stream that are not whole messages: a transport reports them here, the
/// link takes them. There is one reader.
#[derive(Debug, Default)]
pub struct StreamActivity {
    acceptance: AtomicU8,
    received: AtomicBool,
    reader: AtomicWaker,
}

const UNTAKEN: u8 = 1;
const TAKEN: u8 = 2;

impl StreamActivity {
    /// Reports that the connection has sent the request. Later calls have no effect.
    pub fn request_accepted(&self) {
        // A transport may report it on every poll of the request's body. The exchange lets the
        // first report through, and `TAKEN` keeps later ones from being news.
        let first =
            self.acceptance
                .compare_exchange(0, UNTAKEN, Ordering::AcqRel, Ordering::Acquire);
        if first.is_ok() {
            self.reader.wake();
        }
    }

    /// Reports that bytes of the response arrived, even if they are only part of a message.
    pub fn bytes_received(&self) {
        self.received.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Wakes this task at the next report. Called before the reports are taken, so that none is
    /// missed in between.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }

    /// Returns true once, after the request was accepted.
    pub(crate) fn take_accepted(&self) -> bool {
        self.acceptance
            .compare_exchange(UNTAKEN, TAKEN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Returns true if bytes were received since the last call.
    pub(crate) fn take_received(&self) -> bool {
        self.received.swap(false, Ordering::AcqRel)
    }
}
