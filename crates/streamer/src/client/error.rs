//! The errors of subscriptions.

use steadfast::session::{End, Reason};
use steadfast_streamer_core::client::Refusal;

/// The error of a subscribe request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The server refused the subscription.
    #[error(transparent)]
    Refused(Refusal),
    /// The client stopped. It can be started again.
    #[error("the client stopped")]
    Stopped(#[source] End),
    /// The client is closed, or was left and not started again.
    #[error("the client is closed, or was left")]
    Closed,
}

impl SubscribeError {
    pub(super) fn stopped(end: End) -> Self {
        if end.reason == Reason::Left {
            Self::Closed
        } else {
            Self::Stopped(end)
        }
    }
}

/// The reason of the end of a subscription that its owner did not end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The server refused the subscription.
    #[error(transparent)]
    Refused(Refusal),
    /// The client gave up: the server fenced it, or too many attempts failed.
    #[error("the client stopped")]
    Stopped(#[source] End),
}
