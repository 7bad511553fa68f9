//! The source of the Streamer's status.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use serde_json::value::RawValue;
use steadfast_streamer::server::operations::StatusReader;

/// Reads the status of the Streamer: JSON, or the reason why there is none.
#[derive(Clone)]
pub struct StreamerStatus(Arc<ReadStatus>);

type ReadStatus =
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<Box<RawValue>, String>> + Send>> + Send + Sync;

impl StreamerStatus {
    /// Returns the status, or the reason why there is none.
    pub(crate) async fn read(&self) -> Result<Box<RawValue>, String> {
        (self.0)().await
    }

    /// Reads it with a function of the program. It must have a deadline of its own.
    pub fn new<F>(read: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Box<RawValue>, String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(read())))
    }
}

impl From<StatusReader> for StreamerStatus {
    /// Reads that of a Streamer in the same process.
    fn from(reader: StatusReader) -> Self {
        Self::new(move || {
            let reader = reader.clone();
            async move {
                let report = reader.read().await?;
                serde_json::value::to_raw_value(&report).map_err(|error| error.to_string())
            }
        })
    }
}

impl fmt::Debug for StreamerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamerStatus").finish_non_exhaustive()
    }
}
