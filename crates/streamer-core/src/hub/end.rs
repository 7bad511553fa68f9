//! Why a stream ends: one cause, told as a status and, where it is understood, as a final message
//!

use std::time::Duration;

use steadfast_wire::streamer::{Final, FinalCode, StreamerMessage, streamer_message::Payload};

use super::Limits;

/// The status a stream ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndStatus {
    /// The kind.
    pub code: EndCode,
    /// For people; empty when all is well.
    pub text: String,
}

/// The gRPC statuses a stream can end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndCode {
    /// The peer ended it, or its connection did.
    Ok,
    /// The peer broke the protocol.
    InvalidArgument,
    /// A newer stream of the same session took over.
    Aborted,
    /// A limit.
    ResourceExhausted,
    /// The server stops, the peer fell silent, or the log failed.
    Unavailable,
    /// Changes that the peer should have got can not be had any more.
    DataLoss,
}

/// Why a stream ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cause {
    #[error("")]
    Finished,
    #[error("attempt {attempt} of this session is not newer than attempt {current}, which is here")]
    Late { attempt: u64, current: u64 },
    #[error("attempt {by} of this session took over")]
    Fenced { by: u64 },
    #[error(
        "{unsent} bytes are waiting to be sent, the limit outbound_bytes is {limit}: the peer asks but does not read"
    )]
    Unread { unsent: usize, limit: usize },
    #[error("nothing was taken for {0:?} although something was waiting: the peer does not read")]
    Stalled(Duration),
    #[error("a subscription is {lag} changes behind, the limit max_lag is {limit}")]
    Lagging { lag: u64, limit: u64 },
    #[error("the server has {limit} streams, which is the limit streams; try later")]
    Full { limit: usize },
    #[error("the server is stopping: {0}")]
    Drained(String),
    #[error(transparent)]
    Misuse(#[from] Misuse),
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Storage(String),
    #[error("changes that were to come next can not be delivered any more: {0}")]
    Lost(String),
}

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misuse {
    #[error("hello must be the first message of a stream, and the only hello")]
    HelloNotFirst,
    #[error("credit was sent on a stream that did not begin with hello")]
    CreditWithoutHello,
    #[error("hello must name a version from 1 up")]
    Version,
    #[error("hello must name a session of 1 to {limit} bytes")]
    Session { limit: usize },
    #[error("hello must name an attempt, counted from 1")]
    Attempt,
}

impl Cause {
    pub(super) fn status(&self) -> EndStatus {
        EndStatus {
            code: self.codes().0,
            text: self.to_string(),
        }
    }

    /// The last message to a profile peer; there is none when the peer ended the stream.
    pub(super) fn last(&self, limits: &Limits) -> Option<StreamerMessage> {
        let code = self.codes().1?;
        let retry_after = match self {
            Self::Full { .. } => limits.retry_after,
            Self::Drained(_) => limits.drain_retry_after,
            Self::Finished
            | Self::Late { .. }
            | Self::Fenced { .. }
            | Self::Unread { .. }
            | Self::Stalled(_)
            | Self::Lagging { .. }
            | Self::Misuse(_)
            | Self::Silent(_)
            | Self::Storage(_)
            | Self::Lost(_) => Duration::ZERO,
        };
        Some(StreamerMessage {
            payload: Some(Payload::Final(Final {
                code: code.into(),
                retry_after_ms: millis(retry_after),
                message: self.to_string(),
            })),
        })
    }

    /// Whether what is queued is worth sending before the end. It is not where the peer does not
    /// read, is not there, or will ask for it again on another stream.
    pub(super) fn flushes(&self) -> bool {
        match self {
            Self::Finished
            | Self::Full { .. }
            | Self::Late { .. }
            | Self::Misuse(_)
            | Self::Storage(_)
            | Self::Lost(_) => true,
            Self::Fenced { .. }
            | Self::Unread { .. }
            | Self::Stalled(_)
            | Self::Lagging { .. }
            | Self::Drained(_)
            | Self::Silent(_) => false,
        }
    }

    fn codes(&self) -> (EndCode, Option<FinalCode>) {
        match self {
            Self::Finished => (EndCode::Ok, None),
            Self::Late { .. } | Self::Fenced { .. } => (EndCode::Aborted, Some(FinalCode::Fenced)),
            Self::Unread { .. } | Self::Stalled(_) | Self::Lagging { .. } => {
                (EndCode::ResourceExhausted, Some(FinalCode::Evicted))
            }
            Self::Full { .. } => (EndCode::ResourceExhausted, Some(FinalCode::Limit)),
            Self::Drained(_) => (EndCode::Unavailable, Some(FinalCode::Drained)),
            Self::Misuse(_) => (EndCode::InvalidArgument, Some(FinalCode::Protocol)),
            Self::Silent(_) => (EndCode::Unavailable, Some(FinalCode::Silent)),
            Self::Storage(_) => (EndCode::Unavailable, Some(FinalCode::Storage)),
            Self::Lost(_) => (EndCode::DataLoss, Some(FinalCode::Storage)),
        }
    }
}

/// Whole milliseconds as the wire has them; the longest that fits if there are more.
pub(super) fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}
