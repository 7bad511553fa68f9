//! The receiving task of one stream: it reads, hands over, and never waits for work or writing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::StreamExt as _;
use prost::Message as _;
use steadfast_wire::streamer::GatewayMessage;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{hub_task::HubHandle, outgoing::Outgoing};
use crate::hub::StreamId;

/// Bytes received on one stream that the hub has not looked at yet. Past that the stream ends: its
/// peer sends faster than anything can be answered.
const BACKLOG_BYTES: usize = 64 << 20;

/// What a message counts for besides its length.
const OVERHEAD: usize = 128;

/// A message the hub has not looked at yet. Dropping it makes room.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) message: GatewayMessage,
    weight: usize,
    backlog: Arc<AtomicUsize>,
}

impl Drop for Received {
    fn drop(&mut self) {
        self.backlog.fetch_sub(self.weight, Ordering::AcqRel);
    }
}

/// Reads until the peer ends its half, the stream breaks, or the hub has ended it.
pub(super) async fn receive(
    stream: StreamId,
    mut messages: Streaming<GatewayMessage>,
    hub: HubHandle,
    outgoing: Outgoing,
    over: CancellationToken,
) {
    let backlog = Arc::new(AtomicUsize::new(0));
    loop {
        let next = tokio::select! {
            biased;
            () = over.cancelled() => break,
            next = messages.next() => next,
        };
        match next {
            Some(Ok(message)) => {
                let weight = message.encoded_len() + OVERHEAD;
                if backlog.fetch_add(weight, Ordering::AcqRel) + weight > BACKLOG_BYTES {
                    outgoing.end(None, overrun(), false);
                    break;
                }
                let backlog = Arc::clone(&backlog);
                hub.received(
                    stream,
                    Received {
                        message,
                        weight,
                        backlog,
                    },
                );
            }
            Some(Err(status)) => {
                outgoing.end(None, refusal(&status), true);
                break;
            }
            None => break,
        }
    }
    hub.ended(stream);
}

fn overrun() -> Status {
    Status::resource_exhausted(format!(
        "more than {BACKLOG_BYTES} bytes of requests are waiting: send fewer at a time"
    ))
}

/// What a peer is told of a message that could not be read. When the transport failed nobody hears it.
fn refusal(status: &Status) -> Status {
    match status.code() {
        Code::OutOfRange => Status::resource_exhausted(status.message()),
        Code::Internal => {
            Status::invalid_argument(format!("malformed message: {}", status.message()))
        }
        _ => Status::cancelled("the stream broke"),
    }
}
