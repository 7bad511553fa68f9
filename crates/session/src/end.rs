//! Why a stream ended: who, what, and what to do next.

use std::{fmt, time::Duration};

/// The end of one attempt to hold a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Who ended it.
    pub initiator: Initiator,
    /// What happened.
    pub reason: Reason,
    /// What to do next. Made once, where the reason is made.
    pub advice: Advice,
}

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// This side.
    Local,
    /// The peer's application, which answered with a status or an orderly end.
    Peer,
    /// Whatever lies between.
    Network,
}

/// What ended a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Dialling and opening took longer than `open_timeout`.
    OpenTimeout,
    /// No greeting within `greeting_timeout`.
    GreetingTimeout,
    /// No answer to the restoration within `restoring_timeout`.
    RestoringTimeout,
    /// Nothing was received for `activity_timeout`.
    Silent,
    /// Bytes came, but no heartbeat was acknowledged for `activity_timeout`.
    HeartbeatUnanswered,
    /// The peer did not answer a probe within `probe_timeout`.
    ProbeFailed,
    /// The connection could not be made.
    Unreachable(String),
    /// The connection broke.
    Lost(String),
    /// The peer ended the stream in order.
    Finished,
    /// The peer ended the stream with a status.
    Status {
        /// gRPC status code.
        code: i32,
        /// The peer's text.
        message: String,
    },
    /// The peer broke the protocol.
    Protocol(String),
    /// The peer answered, and its answer was no.
    Refused(String),
    /// Something that was restored was refused for now.
    RestoreRefused(String),
    /// A newer attempt of the same session holds the stream.
    Fenced,
    /// The peer announced that it stops.
    Drained(String),
    /// Our queue of unsent messages reached its limit.
    OutboxFull,
    /// The caller left.
    Left,
}

/// What to do after an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Try again after the backoff's next delay.
    Retry,
    /// Try again, but not before this time has passed; `None` means the longest backoff.
    Wait(Option<Duration>),
    /// Obtain new credentials, then try again; a second refusal in a row stops.
    Refresh,
    /// Do not try again.
    Stop,
}

impl End {
    /// An end to retry after, by `by`.
    #[must_use]
    pub fn retry(initiator: Initiator, reason: Reason) -> Self {
        Self {
            initiator,
            reason,
            advice: Advice::Retry,
        }
    }

    /// An end after which nothing is tried again.
    #[must_use]
    pub fn stop(initiator: Initiator, reason: Reason) -> Self {
        Self {
            initiator,
            reason,
            advice: Advice::Stop,
        }
    }
}

impl Reason {
    /// A short fixed name, fit for a metric label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::OpenTimeout => "open_timeout",
            Self::GreetingTimeout => "greeting_timeout",
            Self::RestoringTimeout => "restoring_timeout",
            Self::Silent => "silent",
            Self::HeartbeatUnanswered => "heartbeat_unanswered",
            Self::ProbeFailed => "probe_failed",
            Self::Unreachable(_) => "unreachable",
            Self::Lost(_) => "lost",
            Self::Finished => "finished",
            Self::Status { .. } => "status",
            Self::Protocol(_) => "protocol",
            Self::Refused(_) => "refused",
            Self::RestoreRefused(_) => "restore_refused",
            Self::Fenced => "fenced",
            Self::Drained(_) => "drained",
            Self::OutboxFull => "outbox_full",
            Self::Left => "left",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenTimeout => f.write_str("the stream did not open in time"),
            Self::GreetingTimeout => f.write_str("the peer did not greet in time"),
            Self::RestoringTimeout => f.write_str("the restoration was not answered in time"),
            Self::Silent => f.write_str("the peer fell silent"),
            Self::HeartbeatUnanswered => f.write_str("the peer stopped answering heartbeats"),
            Self::ProbeFailed => f.write_str("the peer did not answer a probe"),
            Self::Unreachable(why) => write!(f, "the peer can not be reached: {why}"),
            Self::Lost(why) => write!(f, "the connection was lost: {why}"),
            Self::Finished => f.write_str("the peer ended the stream"),
            Self::Status { code, message } => {
                write!(f, "the peer ended the stream with status {code}: {message}")
            }
            Self::Protocol(what) => write!(f, "the peer broke the protocol: {what}"),
            Self::Refused(why) => write!(f, "the peer refused: {why}"),
            Self::RestoreRefused(why) => write!(f, "the restoration was refused: {why}"),
            Self::Fenced => f.write_str("a newer attempt of this session took over"),
            Self::Drained(why) => write!(f, "the peer is stopping: {why}"),
            Self::OutboxFull => f.write_str("too many unsent messages"),
            Self::Left => f.write_str("the caller left"),
        }
    }
}

impl fmt::Display for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "us",
            Self::Peer => "peer",
            Self::Network => "network",
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (ended by {})", self.reason, self.initiator)
    }
}

impl std::error::Error for End {}
