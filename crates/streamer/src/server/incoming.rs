//! The task that receives the messages of one stream.

use std::sync::{Arc, atomic::AtomicUsize};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::OptionFuture};
use prost::Message as _;
use steadfast_net::{
    ResponseQueue,
    access::{AccessControl, NotRenewed, RenewalLimit},
};
use steadfast_wire::streamer::{GatewayMessage, gateway_message::Payload};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::debug;

use super::{
    hub_handle::{BacklogShare, HubHandle, HubMessage, Received},
    time_lookup::{Lookup, TimeLookup, time_of},
};
use crate::hub::StreamId;

/// The maximum size of the messages of one stream that the hub has not handled yet, in bytes. A peer
/// that exceeds it sends faster than anything can be answered.
const BACKLOG_BYTES: usize = 64 << 20;

/// The weight of a message besides its encoded length.
const OVERHEAD: usize = 128;

/// Receives until the peer ends its half, the stream breaks, or the hub has ended it. Never waits for
/// the hub or for sending; only the lookup of a time delays the messages behind it.
pub(super) async fn receive(
    stream: StreamId,
    mut messages: Streaming<GatewayMessage>,
    hub: HubHandle,
    times: TimeLookup,
    queue: ResponseQueue<Bytes>,
    access: AccessControl,
    ended: CancellationToken,
) {
    let backlog = Arc::new(AtomicUsize::new(0));
    let mut lookup: Option<Lookup> = None;
    let renewals = RenewalLimit::default();
    loop {
        let next = tokio::select! {
            // The end first: nothing more of an ended stream is passed on to the hub.
            biased;
            () = ended.cancelled() => break,
            Some(resolved) = OptionFuture::from(lookup.as_mut()) => {
                lookup = None;
                Some(Ok(resolved))
            }
            // Later messages may concern the same subscription, so that they keep their order.
            next = messages.next(), if lookup.is_none() => match next {
                Some(Ok(message)) => match time_of(&message) {
                    Some(time_ms) => {
                        lookup = Some(times.begin(message, time_ms));
                        continue;
                    }
                    None => Some(Ok(message)),
                },
                other => other,
            },
        };
        match next {
            Some(Ok(message)) => {
                let weight = message.encoded_len() + OVERHEAD;
                let Some(share) = BacklogShare::take(weight, &backlog, BACKLOG_BYTES) else {
                    // Without a flush: a peer that does not wait for responses may not read them
                    // either.
                    queue.end(None, backlog_exceeded(), false);
                    break;
                };
                let Some(Payload::Authenticate(newer)) =
                    message.payload.as_ref().filter(|_| access.is_restricted())
                else {
                    hub.send(HubMessage::Received(stream, Received { message, share }));
                    continue;
                };
                match renewals.identify(&access, &newer.authorization) {
                    Ok(Some(known)) => hub.send(HubMessage::Authorized(stream, known, share)),
                    Ok(None) => {}
                    Err(too_often @ NotRenewed::TooOften) => {
                        queue.end(None, too_often.status(), false);
                        break;
                    }
                    Err(NotRenewed::Refused(cause)) => {
                        debug!(%cause, "newer credentials refused");
                        hub.send(HubMessage::Revoked(stream, cause.public().to_owned()));
                        break;
                    }
                }
            }
            Some(Err(status)) => {
                // The queue first, so that the status is set before the hub hears of the end.
                queue.end(None, receive_failed(&status), true);
                break;
            }
            None => break,
        }
    }
    // Also after an end by the hub, which ignores a stream that it no longer has.
    hub.send(HubMessage::Ended(stream));
}

fn backlog_exceeded() -> Status {
    Status::resource_exhausted(format!(
        "more than {BACKLOG_BYTES} bytes of requests are queued; send fewer at a time"
    ))
}

/// Returns the status for a peer whose message could not be received. No one reads it if the transport
/// failed.
fn receive_failed(status: &Status) -> Status {
    match status.code() {
        // tonic's code for a message above the limit; other servers answer RESOURCE_EXHAUSTED.
        Code::OutOfRange => Status::resource_exhausted(status.message()),
        // The listener's codes for a message that was begun and not finished.
        code @ (Code::ResourceExhausted | Code::DeadlineExceeded) => {
            Status::new(code, status.message())
        }
        // tonic's code for a message that cannot be decoded, which is the fault of the peer here.
        Code::Internal => {
            Status::invalid_argument(format!("malformed message: {}", status.message()))
        }
        _ => Status::cancelled("the stream broke"),
    }
}
