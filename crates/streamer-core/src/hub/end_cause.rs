//! The causes for which a stream ends, each with its status and final message.

use std::time::Duration;

use steadfast_wire::streamer::{Final, FinalCode, StreamerMessage, streamer_message::Payload};

use super::Limits;
use crate::convert::millis_to_wire;

/// The status that a stream ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndStatus {
    /// The gRPC status code.
    pub code: EndCode,
    /// The message for people; empty if the code is [`EndCode::Ok`].
    pub text: String,
}

/// The gRPC status codes that a stream can end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndCode {
    /// The peer or its connection ended the stream.
    Ok,
    /// The peer broke the protocol.
    InvalidArgument,
    /// A newer stream of the same session took over.
    Aborted,
    /// The credentials of the peer are not valid any more.
    Unauthenticated,
    /// A limit was reached.
    ResourceExhausted,
    /// The server stops, the peer fell silent, or the log failed.
    Unavailable,
    /// Events that the peer has not received can no longer be read.
    DataLoss,
}

/// The cause of a stream's end. Its text goes to the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EndCause {
    #[error("")]
    Finished,
    #[error("attempt {attempt} of this session is not newer than the current attempt {current}")]
    StaleAttempt { attempt: u64, current: u64 },
    #[error("attempt {by} of this session took over")]
    Fenced { by: u64 },
    #[error(
        "{unsent} bytes are queued; the limit is {limit} (outbound_bytes): the peer sends requests but does not read responses"
    )]
    Unread { unsent: usize, limit: usize },
    #[error("the peer read nothing for {0:?} although messages were queued")]
    Stalled(Duration),
    #[error("a subscription is {lag} events behind; the limit is {limit} (max_lag)")]
    Lagging { lag: u64, limit: u64 },
    #[error("the server has {limit} streams, which is its limit (streams); try again later")]
    ServerFull { limit: usize },
    #[error("the server is stopping: {0}")]
    Drained(String),
    #[error("{0}")]
    Unauthenticated(String),
    #[error("what you may see of a collection has changed; subscribe again")]
    RightsChanged,
    #[error(transparent)]
    Misuse(#[from] Misuse),
    #[error("no message was received for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Storage(String),
    #[error("events were lost: {0}")]
    EventsLost(String),
}

/// A violation of the protocol by a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misuse {
    #[error("hello must be the first message of a stream, and the only hello")]
    HelloNotFirst,
    #[error("credit was sent on a stream that did not begin with hello")]
    CreditWithoutHello,
    #[error("hello must name a version of at least 1")]
    Version,
    #[error("hello must name a session of 1 to {limit} bytes")]
    Session { limit: usize },
    #[error("hello must name an attempt of at least 1")]
    Attempt,
}

impl EndCause {
    pub(super) fn status(&self) -> EndStatus {
        EndStatus {
            code: self.codes().0,
            text: self.to_string(),
        }
    }

    /// Returns the last message for a profile peer, or `None` if the peer ended the stream.
    pub(super) fn final_message(&self, limits: &Limits) -> Option<StreamerMessage> {
        let code = self.codes().1?;
        let retry_after = match self {
            // Spread by the client, so that not all of them return at once.
            Self::ServerFull { .. } => limits.retry_after,
            Self::Drained(_) => limits.drain_retry_after,
            Self::Finished
            | Self::StaleAttempt { .. }
            | Self::Fenced { .. }
            | Self::Unread { .. }
            | Self::Stalled(_)
            | Self::Lagging { .. }
            | Self::Unauthenticated(_)
            | Self::RightsChanged
            | Self::Misuse(_)
            | Self::Silent(_)
            | Self::Storage(_)
            | Self::EventsLost(_) => Duration::ZERO,
        };
        Some(StreamerMessage {
            payload: Some(Payload::Final(Final {
                code: code.into(),
                retry_after_ms: millis_to_wire(retry_after),
                message: self.to_string(),
            })),
        })
    }

    /// Returns true if queued messages are sent before the end.
    ///
    /// They are dropped if the peer does not read, is gone, may not have them any more, or will request
    /// them again on another stream.
    pub(super) fn flushes(&self) -> bool {
        match self {
            Self::Finished
            | Self::ServerFull { .. }
            | Self::StaleAttempt { .. }
            | Self::Misuse(_)
            | Self::Storage(_)
            | Self::EventsLost(_) => true,
            Self::Fenced { .. }
            | Self::Unread { .. }
            | Self::Stalled(_)
            | Self::Lagging { .. }
            | Self::Drained(_)
            | Self::Unauthenticated(_)
            | Self::RightsChanged
            | Self::Silent(_) => false,
        }
    }

    fn codes(&self) -> (EndCode, Option<FinalCode>) {
        match self {
            Self::Finished => (EndCode::Ok, None),
            Self::StaleAttempt { .. } | Self::Fenced { .. } => {
                (EndCode::Aborted, Some(FinalCode::Fenced))
            }
            Self::Unread { .. } | Self::Stalled(_) | Self::Lagging { .. } => {
                (EndCode::ResourceExhausted, Some(FinalCode::Evicted))
            }
            Self::ServerFull { .. } => (EndCode::ResourceExhausted, Some(FinalCode::Limit)),
            Self::Drained(_) => (EndCode::Unavailable, Some(FinalCode::Drained)),
            Self::Unauthenticated(_) => {
                (EndCode::Unauthenticated, Some(FinalCode::Unauthenticated))
            }
            Self::RightsChanged => (EndCode::Unavailable, Some(FinalCode::Rights)),
            Self::Misuse(_) => (EndCode::InvalidArgument, Some(FinalCode::Protocol)),
            Self::Silent(_) => (EndCode::Unavailable, Some(FinalCode::Silent)),
            Self::Storage(_) => (EndCode::Unavailable, Some(FinalCode::Storage)),
            Self::EventsLost(_) => (EndCode::DataLoss, Some(FinalCode::Storage)),
        }
    }
}
