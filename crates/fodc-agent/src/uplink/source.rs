//! Sources: what the agent answers from, on streams other than the metrics stream.
//!
//! A kind is added in four steps: a [`StreamKind`] that implements [`SourceKind`] here, its field in [`Sources`], a
//! line in `SourceSpawner::spawn_all`, and a [`Source`] that `Agent::start` passes to the builder if it
//! is configured. The stream of a kind without a source is not opened, and the proxy says so. Each
//! stream is reopened by its own link; a source never waits before a retry and never sees a
//! stream.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
pub(crate) use steadfast_fodc_model::stream_kind::{
    Crashes, Lifecycle, Profiles, SchemaRegistry, StreamKind, Topology,
};
use tokio::sync::mpsc;

/// A kind of stream, as an agent serves it.
pub(crate) trait SourceKind: StreamKind {
    /// Time limit of a response, below that of the proxies.
    const TIME_LIMIT: Duration;
    /// Responses may exceed the limit of the releases, so that the proxy's version is probed.
    const MAY_BE_LONG: bool;
}

/// A source of responses on one kind of stream.
pub(crate) trait Source<K: SourceKind>: Send + Sync + 'static {
    /// Responds to one query, after the previous one. The response is complete when the future ends or
    /// drops `responses`. The future is dropped then, after [`SourceKind::TIME_LIMIT`], and
    /// when the stream of the query has ended.
    fn respond(&self, query: K::Query, responses: Responses<K>) -> BoxFuture<'_, ()>;
}

/// The configured sources.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    pub(crate) topology: Option<Arc<dyn Source<Topology>>>,
    pub(crate) lifecycle: Option<Arc<dyn Source<Lifecycle>>>,
    pub(crate) crashes: Option<Arc<dyn Source<Crashes>>>,
    pub(crate) profiles: Option<Arc<dyn Source<Profiles>>>,
    pub(crate) schema: Option<Arc<dyn Source<SchemaRegistry>>>,
}

/// Takes the messages of one response.
pub(crate) struct Responses<K> {
    messages: mpsc::Sender<Bytes>,
    /// The longest message that the proxy accepts, in bytes.
    max_bytes: usize,
    /// The proxy has the profile: it reads our own fields.
    pub(crate) has_profile: bool,
    kind: PhantomData<K>,
}

/// The reason why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSent {
    /// The proxy does not accept a message of this length.
    #[error("message of {bytes} bytes exceeds the limit of the proxy, {limit} bytes")]
    TooLong { bytes: usize, limit: usize },
    /// The stream of the query has ended.
    #[error("stream has ended")]
    StreamGone,
}

impl SourceKind for Topology {
    // The original proxy waits 10 s.
    const TIME_LIMIT: Duration = Duration::from_secs(7);
    const MAY_BE_LONG: bool = false;
}

impl SourceKind for Lifecycle {
    // The original proxy waits 50 s.
    const TIME_LIMIT: Duration = Duration::from_secs(48);
    const MAY_BE_LONG: bool = true;
}

impl SourceKind for Crashes {
    // The original proxy waits 2 s, and keeps what comes later for the next page.
    const TIME_LIMIT: Duration = Duration::from_secs(30);
    const MAY_BE_LONG: bool = false;
}

impl SourceKind for Profiles {
    // Proxies limit the wait for each chunk instead, and a client of theirs may be slow.
    const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);
    const MAY_BE_LONG: bool = false;
}

impl SourceKind for SchemaRegistry {
    // The original proxy waits 50 s.
    const TIME_LIMIT: Duration = Duration::from_secs(48);
    const MAY_BE_LONG: bool = false;
}

impl<K: StreamKind> Responses<K> {
    pub(crate) fn new(messages: mpsc::Sender<Bytes>, max_bytes: usize, has_profile: bool) -> Self {
        Self {
            messages,
            max_bytes,
            has_profile,
            kind: PhantomData,
        }
    }

    /// Returns the text of the field for errors, which plain proxies do not know: empty for them.
    pub(crate) fn error_text(&self, error: String) -> String {
        if self.has_profile {
            error
        } else {
            String::new()
        }
    }

    /// Sends a message once the previous one was taken.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may drop the message.
    pub(crate) async fn send(&self, message: &K::Response) -> Result<(), NotSent> {
        let (bytes, limit) = (prost::Message::encoded_len(message), self.max_bytes);
        if bytes > limit {
            return Err(NotSent::TooLong { bytes, limit });
        }
        let message = Bytes::from(prost::Message::encode_to_vec(message));
        let sent = self.messages.send(message).await;
        sent.map_err(|_| NotSent::StreamGone)
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("topology", &self.topology.is_some())
            .field("lifecycle", &self.lifecycle.is_some())
            .field("crashes", &self.crashes.is_some())
            .field("profiles", &self.profiles.is_some())
            .field("schema", &self.schema.is_some())
            .finish()
    }
}
