//! The memory of responses that clients have not read yet.

use std::{convert::Infallible, sync::Arc};

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The memory that all responses share until they are sent. A client that does not read delays others
/// once it is exhausted, and costs no more.
#[derive(Clone, Debug)]
pub(super) struct UnreadMemory {
    free: Arc<Semaphore>,
    units: u32,
}

/// The bytes of one permit.
const UNIT: usize = 1 << 10;

/// The bytes that are passed on at once. The connection holds a few pieces beside this memory.
const PIECE: usize = 64 << 10;

impl UnreadMemory {
    pub(super) fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
        }
    }

    /// Waits for the memory of a response and returns its body, which holds it until it is sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the response.
    pub(super) async fn body(&self, response: Vec<u8>) -> Body {
        // A response longer than everything takes everything. The limit on its uncompressed bytes is as
        // long, so that this is an incompressible one.
        let units = u32::try_from(response.len().div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.free).acquire_many_owned(units.min(self.units));
        let permit = permit.await.expect("the semaphore is never closed");
        Body::from_stream(stream::unfold((Bytes::from(response), permit), next_piece))
    }
}

/// Copies the next piece, so that the last piece in a socket's queue does not hold all of the response.
async fn next_piece(
    (mut rest, permit): (Bytes, OwnedSemaphorePermit),
) -> Option<(Result<Bytes, Infallible>, (Bytes, OwnedSemaphorePermit))> {
    if rest.is_empty() {
        return None;
    }
    let piece = rest.copy_to_bytes(PIECE.min(rest.len()));
    Some((Ok(Bytes::copy_from_slice(&piece)), (rest, permit)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn unread_responses_share_a_bound() {
        let memory = UnreadMemory::new(1 << 20);
        let response = || (0..400 << 10).map(|n| n as u8).collect::<Vec<_>>();
        let first = memory.body(response()).await;
        let mut second = memory.body(response()).await;
        let mut third = Box::pin(memory.body(response()));
        let patience = Duration::from_secs(60);
        assert!(
            timeout(patience, &mut third).await.is_err(),
            "two are unread"
        );
        // A piece that is read frees nothing, because the rest is still there.
        second.frame().await.unwrap().unwrap();
        assert!(timeout(patience, &mut third).await.is_err());
        assert_eq!(first.collect().await.unwrap().to_bytes(), response());
        let third = timeout(patience, third).await.unwrap();
        drop(second);
        assert_eq!(third.collect().await.unwrap().to_bytes(), response());
        assert_eq!(memory.free.available_permits(), 1 << 10);
        let whole = memory.body(vec![7; 3 << 20]).await;
        assert_eq!(memory.free.available_permits(), 0);
        drop(whole);
        assert_eq!(memory.free.available_permits(), 1 << 10);
    }
}
