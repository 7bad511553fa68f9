//! Why a gRPC call ended, in one exhaustive place.
//!
//! A status code alone does not tell: a killed server arrives as UNKNOWN, a panicking handler as
//! CANCELLED, an oversized message as `OUT_OF_RANGE`. What tells is the status' source: a status that
//! the peer made has none.

use std::{error::Error, time::Duration};

use steadfast_session::{Advice, Detail, End, Initiator, Reason};
use tonic::{Code, Status};

/// What the server wants a client to wait before the next call (gRFC A6), milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// How tonic begins the status it makes itself for a message over the size limit.
const TOO_LARGE: &str = "Error, decoded message length too large";

/// How tonic begins the status it makes itself for a stream that stopped without one: a handler
/// that panicked, or somebody between who cut it.
const CUT_SHORT: &str = "protocol error: missing grpc-status trailer";

/// Why the call ended, and what to do.
pub(super) fn end(status: &Status) -> End {
    if is_too_large(status) {
        let what = format!("{}; raise max_message_bytes", status.message());
        End::stop(Initiator::Local, Reason::Protocol(what.into()))
    } else if is_made_by_peer(status) {
        by_peer(status)
    } else {
        by_network(status)
    }
}

/// Whether the peer's application, or a proxy in its stead, made the status.
pub(super) fn is_made_by_peer(status: &Status) -> bool {
    let made_by_tonic =
        is_too_large(status) || is_bare(status, Code::Unknown) && starts(status, CUT_SHORT);
    status.source().is_none() && !made_by_tonic
}

fn is_too_large(status: &Status) -> bool {
    is_bare(status, Code::OutOfRange) && starts(status, TOO_LARGE)
}

/// Whether it has that code and came without metadata, as those do that tonic makes.
fn is_bare(status: &Status, code: Code) -> bool {
    status.code() == code && status.metadata().is_empty()
}

fn starts(status: &Status, beginning: &str) -> bool {
    status.message().starts_with(beginning)
}

fn by_network(status: &Status) -> End {
    End {
        initiator: Initiator::Network,
        reason: Reason::Lost(Detail::new(
            layers(status.message().to_owned(), status.source()),
            status.clone(),
        )),
        // The longest delay for a peer whose HTTP/2 wants calm, or it is met again.
        advice: if wants_calm(status) {
            Advice::Wait(None)
        } else {
            Advice::Retry
        },
    }
}

/// Looks for the HTTP/2 error itself: whether tonic translates it depends on the features that some
/// other crate of the program asked of it.
fn wants_calm(status: &Status) -> bool {
    std::iter::successors(status.source(), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<h2::Error>())
        .any(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

fn by_peer(status: &Status) -> End {
    let code = status.code();
    let reason = match code {
        Code::Ok => Reason::Finished,
        _ => Reason::Status {
            code: code.into(),
            message: status.message().to_owned(),
        },
    };
    let advice = match pushback(status) {
        Some(Pushback::Wait(span)) => Advice::Wait(Some(span)),
        Some(Pushback::Never) => Advice::Stop,
        None => advice(code),
    };
    End {
        initiator: Initiator::Peer,
        reason,
        advice,
    }
}

/// What a status of the peer means for the next attempt.
fn advice(code: Code) -> Advice {
    match code {
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => Advice::Retry,
        Code::ResourceExhausted => Advice::Wait(None),
        Code::Unauthenticated => Advice::Refresh,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss => Advice::Stop,
    }
}

enum Pushback {
    Wait(Duration),
    Never,
}

/// A value that is no number, or a negative one, means: do not retry (gRFC A6).
fn pushback(status: &Status) -> Option<Pushback> {
    let value = status.metadata().get(PUSHBACK)?;
    let wait = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    Some(wait.map_or(Pushback::Never, |millis| {
        Pushback::Wait(Duration::from_millis(millis))
    }))
}

/// An error and everything below it, each layer once.
pub(super) fn chain(error: &dyn Error) -> String {
    layers(error.to_string(), error.source())
}

fn layers(mut text: String, mut next: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = next {
        let layer = error.to_string();
        if !text.contains(&layer) {
            text.push_str(": ");
            text.push_str(&layer);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
