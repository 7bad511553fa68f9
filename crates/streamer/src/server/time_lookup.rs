//! Subscriptions that are to begin at a time.
//!
//! The hub reads nothing, so that the time is replaced by an offset before the hub sees the request.

use std::{fmt, pin::Pin, sync::Arc};

use steadfast_wire::streamer::{
    GatewayMessage, gateway_message::Payload, subscribe_request::Start,
};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::log::{LogReader, offset_of_time};

/// The maximum number of searches at a time, of all streams. Each is a few dozen reads of the disk, and
/// leaves the others to deliveries.
const SEARCHES: usize = 4;

/// The lookup of times in the log, for all streams of a server.
#[derive(Clone)]
pub(super) struct TimeLookup {
    reader: Arc<dyn LogReader>,
    permits: Arc<Semaphore>,
}

/// A message whose time is being looked up. Boxed, because every stream has a place for one.
pub(super) type Lookup = Pin<Box<dyn Future<Output = GatewayMessage> + Send>>;

/// Returns the time that is to be looked up for a message, Unix milliseconds.
pub(super) fn time_of(message: &GatewayMessage) -> Option<i64> {
    let Some(Payload::Subscribe(request)) = &message.payload else {
        return None;
    };
    match (request.start, &request.resume) {
        (Some(Start::StartTimeMs(time_ms)), None) => Some(time_ms),
        // With a position, the subscription continues there.
        _ => None,
    }
}

impl TimeLookup {
    pub(super) fn new(reader: Arc<dyn LogReader>) -> Self {
        Self {
            reader,
            permits: Arc::new(Semaphore::new(SEARCHES)),
        }
    }

    /// Begins to look up the time in a subscribe request.
    pub(super) fn begin(&self, message: GatewayMessage, time_ms: i64) -> Lookup {
        Box::pin(self.clone().resolve(message, time_ms))
    }

    /// Replaces the time by its offset. If the log cannot be searched, the time stays, and the hub refuses
    /// the request.
    async fn resolve(self, mut message: GatewayMessage, time_ms: i64) -> GatewayMessage {
        let permit = self.permits.acquire_owned().await;
        let reader = self.reader;
        let search = tokio::task::spawn_blocking(move || {
            // Held to the end of the search, also if its stream ends before.
            let _permit = permit;
            offset_of_time(&*reader, time_ms)
        });
        match (search.await, &mut message.payload) {
            (Ok(Ok(offset)), Some(Payload::Subscribe(request))) => {
                request.start = Some(Start::StartOffset(offset));
            }
            (Ok(Err(error)), _) => warn!(%error, time_ms, "the log cannot be searched for a time"),
            // A panic was reported where it happened.
            (Ok(Ok(_)) | Err(_), _) => {}
        }
        message
    }
}

impl fmt::Debug for TimeLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeLookup")
            .field("permits", &self.permits)
            .finish_non_exhaustive()
    }
}
