//! The metrics stream: requests go out, responses are decoded as they arrive.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tonic::Status;
use tracing::warn;

use super::{
    Call,
    idle::{StreamGuard, hold_unknown},
};
use crate::{
    decode::{DecodeError, Decoder},
    frames::{Piece, ReadError},
    query::ResponsePart,
    query_queue::StreamEnd,
    registry::{AgentId, Identity},
    samples::{Discard, SampleCollector, Samples},
    state::State,
    time::UnixNanos,
};

/// Takes the stream from the agent's entry when the handler ends, for whatever reason.
struct MetricsGuard<'a> {
    state: &'a State,
    id: &'a AgentId,
    generation: u64,
    end: StreamEnd,
}

impl Drop for MetricsGuard<'_> {
    fn drop(&mut self) {
        let mut agents = self.state.agents();
        let now = self.state.now();
        agents.close_metrics(now, self.id, self.generation, self.end);
    }
}

/// A message that is being received.
#[derive(Debug, Default)]
struct Message {
    decoder: Decoder,
    samples: Samples,
    bytes: usize,
    /// The agent's identity if somebody waits for the message; otherwise it is decoded and dropped.
    awaited: Option<Arc<Identity>>,
    received: Option<UnixNanos>,
    memory_exhausted: bool,
}

/// The shortest time between two reports of arriving bytes. They are a sign of life, and each report
/// locks all agents.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Hardly any sample takes fewer bytes of a message.
const SAMPLE_BYTES_MIN: usize = 32;

/// The number of samples for which capacity is reserved before they have arrived.
const RESERVED_SAMPLES_MAX: usize = 16 << 10;

pub(super) async fn run(call: &mut Call, id: &AgentId, method: &'static str) -> Status {
    let state = Arc::clone(&call.state);
    let Some(end) = state.agents().open_stream(id, method) else {
        return hold_unknown(call).await;
    };
    let _open = StreamGuard::new(&state, id, method);
    let outbound = call.outbound.clone();
    let opened = state.agents().open_metrics(state.now(), id, outbound);
    // The agent may have been forgotten between the two locks.
    let Some(generation) = opened else {
        return hold_unknown(call).await;
    };
    let mut guard = MetricsGuard {
        state: &state,
        id,
        generation,
        end: StreamEnd::Other,
    };
    tokio::select! {
        biased;
        // First: what arrives with the end of the registration does not count any more.
        () = end.cancelled() => {
            state.end_status(|| Status::aborted("the registration has ended"))
        }
        received = receive(call, &state, id, generation) => match received {
            Ok(status) => status,
            Err(error) => {
                guard.end = on_read_error(id, &error);
                error.into()
            }
        },
    }
}

/// Returns what the end of the reading says about the size of responses.
fn on_read_error(id: &AgentId, error: &ReadError) -> StreamEnd {
    match error {
        ReadError::TooLarge { .. } => {
            let reason = error.to_string();
            warn!(agent = %id, reason, "a response exceeds the limit; raise --grpc-max-msg-size");
            StreamEnd::TooLarge
        }
        ReadError::NoMemory(_) => {
            warn!(agent = %id, %error, "a metrics stream was ended");
            StreamEnd::NoMemory
        }
        ReadError::Broken(_) => StreamEnd::Other,
    }
}

/// Receives messages until the agent ends the stream, or one cannot be decoded.
async fn receive(
    call: &mut Call,
    state: &State,
    id: &AgentId,
    generation: u64,
) -> Result<Status, ReadError> {
    let mut message = Message::default();
    // Most responses have as many samples as the one before.
    let mut last_len = 0;
    let mut reported = Instant::now();
    loop {
        let Some(piece) = call.inbound.next().await? else {
            return Ok(Status::ok(""));
        };
        let decoded = match piece {
            Piece::Begin(bytes) => {
                message = Message::begin(state, id, generation, bytes);
                message.reserve(last_len);
                Ok(())
            }
            Piece::Data(data) => {
                if reported.elapsed() >= PROGRESS_INTERVAL {
                    reported = Instant::now();
                    state.agents().on_progress(state.now(), id, generation);
                }
                message.decode(state, &data)
            }
            Piece::End => {
                last_len = message.samples.len();
                std::mem::take(&mut message).finish(state, id, generation)
            }
        };
        if let Err(error) = decoded {
            // The status that gRPC libraries have for a message that they cannot decode.
            return Ok(Status::internal(error.to_string()));
        }
    }
}

impl Message {
    fn begin(state: &State, id: &AgentId, generation: u64, bytes: usize) -> Self {
        Self {
            bytes,
            // Decided here, because a query that comes later has to wait until this message is
            // complete.
            awaited: state.agents().awaited(id, generation),
            received: Some(UnixNanos::wall_clock()),
            ..Self::default()
        }
    }

    /// Reserves capacity for this many samples, but for no more than can follow.
    fn reserve(&mut self, samples: usize) {
        if self.awaited.is_some() {
            let fit = self.bytes / SAMPLE_BYTES_MIN;
            self.samples
                .reserve(samples.min(fit).min(RESERVED_SAMPLES_MAX));
        }
    }

    fn decode(&mut self, state: &State, data: &Bytes) -> Result<(), DecodeError> {
        let Some(identity) = &self.awaited else {
            // Decoded nevertheless: its id decides whether it completes the outstanding request.
            return self.decoder.decode(data, &mut Discard);
        };
        let mut collector = SampleCollector::new(
            &state.store.catalog,
            identity,
            &state.store.memory,
            &mut self.samples,
        );
        let decoded = self.decoder.decode(data, &mut collector);
        self.memory_exhausted |= collector.is_memory_exhausted();
        decoded
    }

    fn finish(mut self, state: &State, id: &AgentId, generation: u64) -> Result<(), DecodeError> {
        let envelope = self.decoder.finish()?;
        // As in the original: the time of a sample, else of its message, else of the proxy.
        self.samples
            .finish(envelope.at.or(self.received), &state.store.catalog);
        let part = ResponsePart {
            request_id: envelope.request_id,
            bytes: self.bytes,
            samples: self.samples.len(),
            more: envelope.more,
            from: envelope.from,
            data: self.samples,
        };
        state.on_part(id, generation, part, !self.memory_exhausted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_message_is_too_large() {
        let id = AgentId::new("agent");
        let of_listener = |status: Status| ReadError::of_body(Box::new(status));
        let long = ReadError::TooLarge {
            length: 200,
            limit: 100,
        };
        for (error, end) in [
            (long, StreamEnd::TooLarge),
            (
                of_listener(Status::resource_exhausted("too large together")),
                StreamEnd::NoMemory,
            ),
            (
                of_listener(Status::deadline_exceeded("not finished")),
                StreamEnd::Other,
            ),
            (ReadError::of_body("reset".into()), StreamEnd::Other),
        ] {
            assert_eq!(on_read_error(&id, &error), end, "{error}");
        }
    }
}
