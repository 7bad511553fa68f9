//! The ways in which a message of a peer breaks the protocol.

use super::received::Malformed;
use crate::Position;

/// A message that breaks the protocol. It ends the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("{message} has no {field}")]
    Missing {
        message: &'static str,
        field: &'static str,
    },
    #[error("{message} has the unknown {field} {value}")]
    Unknown {
        message: &'static str,
        field: &'static str,
        value: i32,
    },
    #[error("cannot decode a delivery: {0}")]
    Malformed(#[from] Malformed),
    #[error("event {event_id:?} has the unknown operation {operation}")]
    UnknownOperation { event_id: String, operation: i32 },
    #[error("a welcome without a hello")]
    UnexpectedWelcome,
    #[error("a welcome after the first heartbeat's acknowledgement")]
    LateWelcome,
    #[error("a second welcome")]
    SecondWelcome,
    #[error("a welcome to version {peer} of the resume profile; this client speaks {own}")]
    Version { peer: u32, own: u32 },
    #[error("the delivery at {at} has {ids} subscriptions and {previous} previous positions")]
    UnpairedIds {
        at: Position,
        ids: usize,
        previous: usize,
    },
    #[error("the delivery at {at} says that {previous} was sent before it")]
    PreviousNotBefore { at: Position, previous: u64 },
    #[error("the delivery at {at} to {wire_id} exceeds its credit")]
    CreditExceeded { at: Position, wire_id: String },
    #[error("the delivery at {at} to {wire_id}, which follows another log")]
    OtherEpoch { at: Position, wire_id: String },
    #[error("progress to {to} for {wire_id}, which is at {at}")]
    ProgressOfOtherEpoch {
        to: Position,
        at: Position,
        wire_id: String,
    },
    #[error("documents for {wire_id}, which awaits none")]
    UnexpectedDocuments { wire_id: String },
    #[error("a resync, but no position was requested")]
    UnrequestedResync,
    #[error("a resync and its response name different positions")]
    ResyncMismatch,
    #[error("a resync from {from} back to {to}")]
    ResyncBackwards { from: Position, to: Position },
    #[error("the peer dropped subscriptions of a living stream without notice")]
    Evicted,
}

/// Returns the field, or the violation that it is missing.
pub(super) fn required<T>(
    value: Option<T>,
    message: &'static str,
    field: &'static str,
) -> Result<T, Violation> {
    value.ok_or(Violation::Missing { message, field })
}

/// Returns the violation that the field has a value that this version does not know.
pub(super) fn unknown(message: &'static str, field: &'static str, value: i32) -> Violation {
    Violation::Unknown {
        message,
        field,
        value,
    }
}
