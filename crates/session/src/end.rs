//! The end of a stream: its initiator, its reason, and the advice for the next attempt.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::one_line::OneLine;

/// The end of one attempt to hold a stream.
///
/// Callers match on [`End::reason`]. Its text is for people, and [`Error::source`] returns the error of
/// the transport, if there is one.
///
/// ```
/// use std::{error::Error as _, io};
/// use steadfast_session::{Detail, End, Initiator, Reason};
///
/// let reset = io::Error::from(io::ErrorKind::ConnectionReset);
/// let end = End::retry(Initiator::Network, Reason::Lost(Detail::from_error(reset)));
/// assert_eq!(end.to_string(), "connection lost: connection reset (ended by network)");
/// let source = end.source().and_then(|error| error.downcast_ref::<io::Error>());
/// assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::ConnectionReset));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// The side that ended the stream.
    pub initiator: Initiator,
    /// The event that ended it.
    pub reason: Reason,
    /// The advice for the next attempt. Set once, where the reason is set.
    pub advice: Advice,
}

/// The side that ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// This side.
    Local,
    /// The peer's application, by a status or an orderly end.
    Peer,
    /// The network between the two, or a process on the way.
    Network,
}

/// The reason of an end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Dialling and opening took longer than `open_timeout`.
    OpenTimeout,
    /// No greeting arrived within `greeting_timeout`.
    GreetingTimeout,
    /// No response to the restoration arrived within `restoring_timeout`.
    RestoringTimeout,
    /// Nothing was received for `activity_timeout`.
    Silent,
    /// Bytes arrived, but no heartbeat was acknowledged for `activity_timeout`.
    HeartbeatUnanswered,
    /// The peer did not answer a probe within `probe_timeout`.
    ProbeFailed,
    /// The credentials for the attempt could not be obtained.
    Credentials(Detail),
    /// The connection could not be established.
    Unreachable(Detail),
    /// The connection broke.
    Lost(Detail),
    /// The peer ended the stream in order.
    Finished,
    /// The peer ended the stream with a status.
    Status {
        /// The gRPC status code.
        code: i32,
        /// The peer's message.
        message: String,
    },
    /// One side broke the protocol.
    Protocol(Detail),
    /// A message of the peer exceeds the limit of this side.
    MessageTooLarge(Detail),
    /// The peer refused the session, with this message.
    Refused(String),
    /// The peer refused a part of the restoration for now, with this message.
    RestoreRefused(String),
    /// A newer attempt of the same session holds the stream.
    Fenced,
    /// The peer announced that it stops, with this message.
    Drained(String),
    /// The queue of unsent messages reached its limit.
    OutboxFull,
    /// The caller left.
    Left,
}

/// The text of a failure, and the error that caused it where there is one.
///
/// Two details are equal if their texts are: errors cannot be compared.
#[derive(Clone, Debug)]
pub struct Detail {
    text: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// The advice for the next attempt after an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Retry after the next delay of the backoff.
    Retry,
    /// Retry, but not before this time has passed; `None` stands for the longest backoff.
    Wait(Option<Duration>),
    /// Retry at once: the next dial leads to another server of the same round. The session takes this
    /// 15 times in a row; a further one is [`Advice::Retry`].
    NextServer,
    /// Obtain new credentials and retry. A second refusal in a row stops the session, unless
    /// [`Config::renews_credentials`](crate::Config::renews_credentials) is set.
    Refresh,
    /// Do not retry.
    Stop,
}

impl End {
    /// Creates an end.
    #[must_use]
    pub fn new(initiator: Initiator, reason: Reason, advice: Advice) -> Self {
        Self {
            initiator,
            reason,
            advice,
        }
    }

    /// Creates the end of a stream that the peer ended with a gRPC status.
    #[must_use]
    pub fn status(code: i32, message: impl Into<String>, advice: Advice) -> Self {
        let message = message.into();
        Self::new(Initiator::Peer, Reason::Status { code, message }, advice)
    }

    /// Creates an end to retry after.
    #[must_use]
    pub fn retry(initiator: Initiator, reason: Reason) -> Self {
        Self::new(initiator, reason, Advice::Retry)
    }

    /// Creates an end that is not retried.
    #[must_use]
    pub fn stop(initiator: Initiator, reason: Reason) -> Self {
        Self::new(initiator, reason, Advice::Stop)
    }
}

impl End {
    /// Returns true if the peer ended the stream in order: without a fault of either side, as a server
    /// does that is replaced.
    pub(crate) fn is_orderly(&self) -> bool {
        const UNAVAILABLE: i32 = 14;
        self.initiator == Initiator::Peer
            && match &self.reason {
                Reason::Finished | Reason::Drained(_) => true,
                Reason::Status { code, .. } => *code == UNAVAILABLE,
                _ => false,
            }
    }
}

impl Reason {
    /// Returns a short fixed name for metric labels.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::OpenTimeout => "open_timeout",
            Self::GreetingTimeout => "greeting_timeout",
            Self::RestoringTimeout => "restoring_timeout",
            Self::Silent => "silent",
            Self::HeartbeatUnanswered => "heartbeat_unanswered",
            Self::ProbeFailed => "probe_failed",
            Self::Credentials(_) => "credentials",
            Self::Unreachable(_) => "unreachable",
            Self::Lost(_) => "lost",
            Self::Finished => "finished",
            Self::Status { .. } => "status",
            Self::Protocol(_) => "protocol",
            Self::MessageTooLarge(_) => "message_too_large",
            Self::Refused(_) => "refused",
            Self::RestoreRefused(_) => "restore_refused",
            Self::Fenced => "fenced",
            Self::Drained(_) => "drained",
            Self::OutboxFull => "outbox_full",
            Self::Left => "left",
        }
    }
}

impl Detail {
    /// Creates a detail with the text of `error` and the error as its source.
    #[must_use]
    pub fn from_error(error: impl Error + Send + Sync + 'static) -> Self {
        Self::new(error.to_string(), error)
    }

    /// Creates a detail with a text of its own and `source` as its source.
    #[must_use]
    pub fn new(text: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            text: text.into(),
            source: Some(Arc::new(source)),
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Self { text, source: None }
    }
}

impl From<&str> for Detail {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl PartialEq for Detail {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Detail {}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OneLine(&self.text).fmt(f)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenTimeout => f.write_str("stream did not open in time"),
            Self::GreetingTimeout => f.write_str("peer did not greet in time"),
            Self::RestoringTimeout => f.write_str("peer did not answer the restoration in time"),
            Self::Silent => f.write_str("peer fell silent"),
            Self::HeartbeatUnanswered => f.write_str("peer stopped acknowledging heartbeats"),
            Self::ProbeFailed => f.write_str("peer did not answer a probe"),
            Self::Credentials(detail) => write!(f, "cannot obtain credentials: {detail}"),
            Self::Unreachable(detail) => write!(f, "cannot reach the peer: {detail}"),
            Self::Lost(detail) => write!(f, "connection lost: {detail}"),
            Self::Finished => f.write_str("peer ended the stream"),
            Self::Status { code, message } => {
                let message = OneLine(message);
                write!(f, "peer ended the stream with status {code}: {message}")
            }
            Self::Protocol(detail) => write!(f, "protocol error: {detail}"),
            Self::MessageTooLarge(detail) => write!(f, "message too large: {detail}"),
            Self::Refused(message) => write!(f, "peer refused the session: {}", OneLine(message)),
            Self::RestoreRefused(message) => {
                write!(f, "peer refused the restoration: {}", OneLine(message))
            }
            Self::Fenced => f.write_str("a newer attempt of this session took over"),
            Self::Drained(message) => write!(f, "peer is draining: {}", OneLine(message)),
            Self::OutboxFull => f.write_str("too many unsent messages"),
            Self::Left => f.write_str("caller left"),
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

impl Error for End {
    /// Returns the error behind the reason, if the reason has a [`Detail`] with one.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let (Reason::Credentials(detail)
        | Reason::Unreachable(detail)
        | Reason::Lost(detail)
        | Reason::Protocol(detail)
        | Reason::MessageTooLarge(detail)) = &self.reason
        else {
            return None;
        };
        detail.source.as_deref().map(|error| error as _)
    }
}
