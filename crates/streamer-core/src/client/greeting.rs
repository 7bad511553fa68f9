//! The first and the last messages of a stream.

use std::time::Duration;

use steadfast_session::{Advice, End, Initiator, Reason, Signal};
use steadfast_wire::streamer as wire;

use super::{
    Config, Cx, Violation,
    violation::{required, unknown},
};
use crate::{Position, convert::millis_to_wire};

/// Returns the hello that offers the resume profile.
pub(super) fn hello(config: &Config, attempt: u64) -> wire::Hello {
    wire::Hello {
        version: PROFILE_VERSION,
        client_id: config.client_id.clone(),
        session_id: config.session_id.clone(),
        attempt,
        heartbeat_interval_ms: millis_to_wire(config.heartbeat_interval.unwrap_or_default()),
        secret: config.secret.0.clone().into(),
    }
}

/// Checks a welcome and returns the head of the peer's log.
pub(super) fn read_welcome(welcome: &wire::Welcome) -> Result<Position, Violation> {
    if welcome.version != PROFILE_VERSION {
        return Err(Violation::Version {
            peer: welcome.version,
            own: PROFILE_VERSION,
        });
    }
    Ok(required(welcome.head, "a welcome", "head position")?.into())
}

/// Signals the settings of a welcome to the session.
pub(super) fn apply_welcome(welcome: &wire::Welcome, cx: &mut Cx) {
    cx.signal(Signal::Greeted);
    // A plain peer may never acknowledge; one with the profile promises it.
    cx.signal(Signal::ExpectAcks);
    // Zero is protobuf's absent value: the server has no wish.
    if welcome.heartbeat_interval_ms > 0 {
        let interval = Duration::from_millis(welcome.heartbeat_interval_ms.into());
        cx.signal(Signal::HeartbeatInterval(interval));
    }
}

/// Returns the end that a final message announces. It says more than the status that follows it.
pub(super) fn read_final(last: wire::Final) -> Result<End, Violation> {
    let code = wire::FinalCode::try_from(last.code)
        .map_err(|_| unknown("a final message", "code", last.code))?;
    let status = match code {
        // A newer attempt of this very session holds the stream: to retry would fence that one.
        wire::FinalCode::Fenced => return Ok(End::stop(Initiator::Peer, Reason::Fenced)),
        wire::FinalCode::Drained => None,
        wire::FinalCode::Unspecified => Some(UNKNOWN),
        wire::FinalCode::Protocol => Some(INVALID_ARGUMENT),
        wire::FinalCode::Silent => Some(DEADLINE_EXCEEDED),
        wire::FinalCode::Evicted | wire::FinalCode::Limit => Some(RESOURCE_EXHAUSTED),
        wire::FinalCode::Storage | wire::FinalCode::Rights => Some(UNAVAILABLE),
        wire::FinalCode::Unauthenticated => Some(UNAUTHENTICATED),
    };
    let message = last.message;
    let reason = match status {
        None => Reason::Drained(message),
        Some(code) => Reason::Status { code, message },
    };
    let advice = match last.retry_after_ms {
        // The same credentials would be refused again.
        _ if code == wire::FinalCode::Unauthenticated => Advice::Refresh,
        0 => Advice::Retry,
        ms => Advice::Wait(Some(Duration::from_millis(ms.into()))),
    };
    Ok(End::new(Initiator::Peer, reason, advice))
}

/// The version of the profile that this client speaks.
const PROFILE_VERSION: u32 = 1;

// gRPC status codes. The core does not depend on a gRPC library.
const UNKNOWN: i32 = 2;
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;
