//! Classifies the end of a gRPC call.
//!
//! The status code alone is not enough: a killed server arrives as UNKNOWN, a panic in a handler as
//! CANCELLED, an oversized message as `OUT_OF_RANGE`. The source of the status decides: a status
//! sent by the peer has none.

use std::{error::Error, io, time::Duration};

use steadfast_session::{Advice, Detail, End, Initiator, Reason};
use tonic::{Code, Status};

/// The metadata with the delay that a server wants before the next call, in ms (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The beginning of the status that tonic makes for a message over the size limit.
const TOO_LARGE: &str = "Error, decoded message length too large";

/// The beginning of the status that tonic makes for a stream that stopped without one, because a
/// handler panicked or a proxy cut it.
const CUT_SHORT: &str = "protocol error: missing grpc-status trailer";

/// Returns the end that `status` means.
pub(super) fn end(status: &Status) -> End {
    // First, because tonic makes this status without a source, as if it came from the peer.
    if is_too_large(status) {
        let what = format!("{}; raise max_message_bytes", status.message());
        let detail = Detail::new(what, status.clone());
        End::stop(Initiator::Local, Reason::MessageTooLarge(detail))
    } else if is_made_by_peer(status) {
        by_peer(status)
    } else {
        by_network(status)
    }
}

/// Returns true if the peer, or a proxy on its behalf, made the status.
pub(super) fn is_made_by_peer(status: &Status) -> bool {
    let made_by_tonic =
        is_too_large(status) || is_bare(status, Code::Unknown) && starts(status, CUT_SHORT);
    status.source().is_none() && !made_by_tonic
}

fn is_too_large(status: &Status) -> bool {
    is_bare(status, Code::OutOfRange) && starts(status, TOO_LARGE)
}

/// Returns true if the status has that code and no metadata, as every status made by tonic.
fn is_bare(status: &Status, code: Code) -> bool {
    status.code() == code && status.metadata().is_empty()
}

fn starts(status: &Status, beginning: &str) -> bool {
    status.message().starts_with(beginning)
}

fn by_network(status: &Status) -> End {
    let reason = Reason::Lost(Detail::new(loss(status), status.clone()));
    let advice = if wants_calm(status) {
        // A client that returned sooner would be cut off for the same reason.
        Advice::Wait(None)
    } else {
        Advice::Retry
    };
    End::new(Initiator::Network, reason, advice)
}

// tonic translates this HTTP/2 error to a code only with certain features, which any other crate of
// the program may enable. So the error itself is looked for.
fn wants_calm(status: &Status) -> bool {
    sources(status)
        .filter_map(|error| error.downcast_ref::<h2::Error>())
        .any(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// Returns true if the call was dropped because its connection had ended.
pub(super) fn is_cancelled(status: &Status) -> bool {
    sources(status)
        .filter_map(|error| error.downcast_ref::<hyper::Error>())
        .any(|error| error.is_canceled() || error.is_closed())
}

/// Returns what to do about a connection that was lost before the response headers.
pub(super) fn remedy(status: &Status, encrypted: bool) -> &'static str {
    let known = sources(status).find_map(|error| {
        let h2 = error.downcast_ref::<h2::Error>();
        let reason = h2
            .filter(|error| !error.is_remote())
            .and_then(h2::Error::reason);
        // What another protocol sends is read as a frame that is too long or impossible.
        if let Some(h2::Reason::FRAME_SIZE_ERROR | h2::Reason::PROTOCOL_ERROR) = reason {
            return Some("the server does not speak HTTP/2 here: check the port, and try https://");
        }
        #[cfg(feature = "tls")]
        if let Some(error) = error.downcast_ref().or_else(|| h2?.get_io()) {
            return crate::tls::remedy(error);
        }
        None
    });
    known.unwrap_or(if encrypted {
        // Some servers, as those of grpcio, do not say so.
        "check whether the server requires a client certificate, and speaks HTTP/2 there"
    } else {
        "check the port, and whether the server speaks HTTP/2 there, or requires https:// or a client \
         certificate"
    })
}

/// Describes a loss by its cause alone. The layers between (tonic, hyper, h2) only say that an error
/// occurred below them.
fn loss(status: &Status) -> String {
    sources(status)
        .find_map(cause)
        // The innermost error is the most specific one, even if its type is unknown here.
        .or_else(|| sources(status).last().map(ToString::to_string))
        .unwrap_or_else(|| status.message().to_owned())
}

fn cause(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return Some(without_manual(error));
    }
    let error = error.downcast_ref::<h2::Error>()?;
    match (error.get_io(), error.reason()) {
        (Some(error), _) => Some(without_manual(error)),
        (None, Some(reason)) if error.is_remote() => {
            Some(format!("ended by the peer (h2: {})", reason.description()))
        }
        (None, Some(reason)) => Some(format!("h2: {}", reason.description())),
        (None, None) => None,
    }
}

/// Returns the text of an error without the address of rustls' manual, which is for programmers.
fn without_manual(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.find(": https://docs.rs/rustls") {
        text.truncate(end);
    }
    text
}

fn sources(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
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
    End::new(Initiator::Peer, reason, advice)
}

/// Returns the advice for a status of the peer.
fn advice(code: Code) -> Advice {
    match code {
        // Any of these may pass: servers, proxies and libraries send them for temporary faults.
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => Advice::Retry,
        Code::ResourceExhausted => Advice::Wait(None),
        Code::Unauthenticated => Advice::Refresh,
        // The same request would get the same response.
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

/// Reads the pushback. A value that is negative or not a number means: do not retry (gRFC A6).
fn pushback(status: &Status) -> Option<Pushback> {
    let value = status.metadata().get(PUSHBACK)?;
    let wait = value
        .to_str()
        .ok()
        // As unsigned: a negative number asks the client not to retry, as anything unreadable does.
        .and_then(|text| text.trim().parse::<u64>().ok());
    Some(wait.map_or(Pushback::Never, |millis| {
        Pushback::Wait(Duration::from_millis(millis))
    }))
}

/// Joins the texts of an error and its sources, each text once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for error in std::iter::successors(error.source(), |&error| error.source()) {
        let layer = error.to_string();
        // Some layers repeat the text of the one below.
        if !text.contains(&layer) {
            text.push_str(": ");
            text.push_str(&layer);
        }
    }
    text
}

#[cfg(test)]
mod tests;
