//! Subscriptions that are to begin at a time.
//!
//! The hub reads nothing, so that the time is replaced by an offset before the hub sees the request.

use std::{fmt, pin::Pin, sync::Arc};

use steadfast_wire::streamer::{
    GatewayMessage, gateway_message::Payload, subscribe_request::Start,
};
use tokio::sync::{Semaphore, watch};
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
    /// The newest event that the hub knows.
    head: watch::Receiver<u64>,
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
    pub(super) fn new(reader: Arc<dyn LogReader>, head: watch::Receiver<u64>) -> Self {
        Self {
            reader,
            permits: Arc::new(Semaphore::new(SEARCHES)),
            head,
        }
    }

    /// Begins to look up the time in a subscribe request.
    pub(super) fn begin(&self, message: GatewayMessage, time_ms: i64) -> Lookup {
        Box::pin(self.clone().resolve(message, time_ms))
    }

    /// Replaces the time by its offset. If the log cannot be searched, the time stays, and the hub refuses
    /// the request.
    async fn resolve(mut self, mut message: GatewayMessage, time_ms: i64) -> GatewayMessage {
        let permit = self.permits.acquire_owned().await;
        let reader = self.reader;
        let search = tokio::task::spawn_blocking(move || {
            // Held to the end of the search, also if its stream ends before.
            let _permit = permit;
            offset_of_time(&*reader, time_ms)
        });
        match (search.await, &mut message.payload) {
            (Ok(Ok(offset)), Some(Payload::Subscribe(request))) => {
                // The log is ahead of the hub, which would begin at its own head, with events before the
                // time. It takes what is committed or stops; the end of the stream ends the wait, too.
                self.head.wait_for(|head| *head >= offset).await.ok();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steadfast_wire::streamer::SubscribeRequest;

    use super::*;
    use crate::log::{DocumentKey, Log as _, MemoryLog, Submission};

    #[tokio::test(start_paused = true)]
    async fn lookup_waits_until_the_hub_knows_the_events_before() {
        let mut log = MemoryLog::with_epoch(crate::Epoch(7));
        for time_ms in 1..=3 {
            let document = DocumentKey::new("default", "rooms", "r1");
            let producer = Arc::from("p");
            let entry = Submission::new(producer, time_ms, document, "{}".to_owned());
            log.append(vec![entry], time_ms.cast_signed()).unwrap();
        }
        let (head, known) = watch::channel(0);
        let times = TimeLookup::new(log.reader(), known);
        let message = GatewayMessage {
            payload: Some(Payload::Subscribe(SubscribeRequest {
                start: Some(Start::StartTimeMs(3)),
                ..SubscribeRequest::default()
            })),
        };
        let mut lookup = times.begin(message, 3);
        for offset in [0, 1] {
            head.send_replace(offset);
            let waited = tokio::time::timeout(Duration::from_mins(1), &mut lookup).await;
            assert!(waited.is_err(), "the hub knows {offset}");
        }
        head.send_replace(2);
        let Some(Payload::Subscribe(found)) = lookup.await.payload else {
            panic!("a subscribe request stays one");
        };
        assert_eq!(found.start, Some(Start::StartOffset(2)));
    }
}
