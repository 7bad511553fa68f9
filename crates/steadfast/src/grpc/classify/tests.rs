use std::{fmt, sync::Arc};

use super::*;

const CODES: [Code; 17] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// A layer of errors as transports pile them up.
#[derive(Debug)]
struct Layer(&'static str, Option<Arc<dyn Error + Send + Sync>>);

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Layer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_ref().map(|below| &**below as _)
    }
}

fn pushed_back(code: Code, value: &str) -> Advice {
    let mut status = Status::new(code, "later");
    status
        .metadata_mut()
        .insert(PUSHBACK, value.parse().unwrap());
    end(&status).advice
}

/// A status of the transport's making.
fn of_transport(code: Code, source: impl Error + Send + Sync + 'static) -> Status {
    let mut status = Status::new(code, "h2 protocol error");
    status.set_source(Arc::new(source));
    status
}

#[test]
fn each_status_of_the_peer_has_its_advice() {
    use Advice::{Refresh, Retry, Stop, Wait};
    let advice = [
        Retry,      // OK
        Retry,      // CANCELLED
        Retry,      // UNKNOWN
        Stop,       // INVALID_ARGUMENT
        Retry,      // DEADLINE_EXCEEDED
        Stop,       // NOT_FOUND
        Stop,       // ALREADY_EXISTS
        Stop,       // PERMISSION_DENIED
        Wait(None), // RESOURCE_EXHAUSTED
        Stop,       // FAILED_PRECONDITION
        Retry,      // ABORTED
        Stop,       // OUT_OF_RANGE
        Stop,       // UNIMPLEMENTED
        Retry,      // INTERNAL
        Retry,      // UNAVAILABLE
        Stop,       // DATA_LOSS
        Refresh,    // UNAUTHENTICATED
    ];
    for (code, advice) in CODES.into_iter().zip(advice) {
        let reason = match code {
            Code::Ok => Reason::Finished,
            _ => Reason::Status {
                code: code.into(),
                message: "why".to_owned(),
            },
        };
        let expected = End::new(Initiator::Peer, reason, advice);
        assert_eq!(end(&Status::new(code, "why")), expected, "{code:?}");
    }
}

#[test]
fn pushback_overrides_advice_of_the_status() {
    let wait = |millis| Advice::Wait(Some(Duration::from_millis(millis)));
    for code in CODES {
        assert_eq!(pushed_back(code, "0"), wait(0), "{code:?}");
        assert_eq!(pushed_back(code, "1500"), wait(1_500), "{code:?}");
        // The session clamps it to the longest it would ever wait for a peer.
        assert_eq!(pushed_back(code, "18446744073709551615"), wait(u64::MAX));
    }
}

#[test]
fn negative_or_malformed_pushback_stops() {
    for value in ["-1", "soon", "", "1.5", "0x10", "18446744073709551616"] {
        for code in CODES {
            assert_eq!(pushed_back(code, value), Advice::Stop, "{value:?} {code:?}");
        }
    }
}

#[test]
fn status_made_by_transport_is_a_loss_for_every_code() {
    for code in CODES {
        let lost = Reason::Lost("connection reset".into());
        let ended = end(&of_transport(code, Layer("connection reset", None)));
        assert_eq!(ended, End::retry(Initiator::Network, lost), "{code:?}");
    }
}

#[test]
fn status_made_by_transport_is_not_a_response() {
    for code in CODES {
        assert!(!is_made_by_peer(&of_transport(code, Layer("broken", None))));
        assert!(is_made_by_peer(&Status::new(code, "broken")));
    }
}

#[test]
fn enhance_your_calm_waits_longest_at_any_depth_and_code() {
    for code in CODES {
        let calm = h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM);
        let deep = Layer("body", Some(Arc::new(calm)));
        assert_eq!(
            end(&of_transport(code, deep)).advice,
            Advice::Wait(None),
            "{code:?}"
        );
        let other = h2::Error::from(h2::Reason::INTERNAL_ERROR);
        assert_eq!(end(&of_transport(code, other)).advice, Advice::Retry);
    }
}

#[test]
fn message_over_limit_ends_locally_without_retry() {
    let status = Status::out_of_range(format!("{TOO_LARGE}: found 9, the limit is: 8"));
    let ended = end(&status);
    assert_eq!(
        (ended.initiator, ended.advice),
        (Initiator::Local, Advice::Stop)
    );
    assert!(
        matches!(&ended.reason, Reason::MessageTooLarge(what) if what.as_str().contains("max_message_bytes")),
        "{ended}"
    );
    assert!(!is_made_by_peer(&status));
    let of_peer = Status::out_of_range("the position is behind what is kept");
    assert_eq!(end(&of_peer).initiator, Initiator::Peer);
}

#[test]
fn stream_without_status_is_a_loss_not_a_response() {
    let status = Status::unknown(format!("{CUT_SHORT}, stream was terminated"));
    let ended = end(&status);
    assert_eq!(
        (ended.initiator, ended.advice),
        (Initiator::Network, Advice::Retry)
    );
    assert_eq!(ended.reason.label(), "lost");
    assert!(!is_made_by_peer(&status));
    assert_eq!(end(&Status::unknown("panicked")).initiator, Initiator::Peer);
}

#[test]
fn error_chain_names_each_layer_once() {
    let lowest = Layer("connection reset by peer", None);
    let middle = Layer("connection reset by peer", Some(Arc::new(lowest)));
    let error = Layer("transport error", Some(Arc::new(middle)));
    assert_eq!(chain(&error), "transport error: connection reset by peer");
}
