//! A stream on which the proxy queries the agent, other than the metrics stream.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use steadfast_wire::decoded_size::MessageType;
use tokio::time::timeout;
use tonic::Status;

use super::{
    Call,
    idle::{StreamGuard, hold_unknown},
};
use crate::{
    frames::Piece,
    lanes::{Delivery, LaneKind, Message, QueryError, READER_TIMEOUT},
    registry::AgentId,
    samples::Reservation,
    state::State,
};

/// A stream of one agent that queries are sent on. Dropping it fails the query that is outstanding on
/// it.
struct OpenWire<'a, K: LaneKind> {
    state: &'a State,
    id: &'a AgentId,
    generation: u64,
    status: String,
    /// The type of the agent's messages.
    message: MessageType,
    kind: std::marker::PhantomData<K>,
}

/// One message may take this share of the memory for all.
const DECODED_SHARE: usize = 2;

/// The length above which a message is decoded on a thread of its own: the other streams of the agent's
/// connection do not wait for it.
const LENGTH_DECODED_HERE: usize = 256 << 10;

/// The reason why a message is not passed on.
#[derive(Debug)]
enum Undecoded {
    Malformed,
    Refused(QueryError),
}

impl<K: LaneKind> Drop for OpenWire<'_, K> {
    fn drop(&mut self) {
        if let Some(wire) = self.state.agents().wire::<K>(self.id) {
            wire.close(self.generation, &self.status);
        }
    }
}

/// The bytes of a message that is being received.
#[derive(Debug, Default)]
struct Buffer {
    bytes: BytesMut,
    /// Memory for the message; `None` if nobody waits for it or the budget is exhausted. It is then
    /// read and dropped.
    reservation: Option<Reservation>,
}

pub(super) async fn run<K: LaneKind>(call: &mut Call, id: &AgentId) -> Status {
    let state = Arc::clone(&call.state);
    let Some(end) = state.agents().open_stream(id, K::METHOD) else {
        return hold_unknown(call).await;
    };
    let _open = StreamGuard::new(&state, id, K::METHOD);
    let outbound = call.outbound.clone();
    let opened = state.agents().open_wire::<K>(id, outbound);
    // The agent may have been forgotten between the two locks.
    let Some(generation) = opened else {
        return hold_unknown(call).await;
    };
    let mut wire = OpenWire::<K> {
        state: &state,
        id,
        generation,
        status: "the proxy stops".to_owned(),
        message: MessageType::named(&format!("banyandb.fodc.v1.{}Request", K::METHOD))
            .expect("the types of requests are named after their methods"),
        kind: std::marker::PhantomData,
    };
    let status = tokio::select! {
        biased;
        // First: what arrives with the end of the registration does not count any more.
        () = end.cancelled() => {
            state.end_status(|| Status::aborted("the registration has ended"))
        }
        status = wire.receive(call) => status,
    };
    wire.status = match status.message() {
        "" => "by the agent".to_owned(),
        text => text.to_owned(),
    };
    status
}

impl<K: LaneKind> OpenWire<'_, K> {
    async fn receive(&self, call: &mut Call) -> Status {
        let mut buffer = Buffer::default();
        loop {
            match call.inbound.next().await {
                Ok(Some(Piece::Begin(length))) => buffer = self.begin(length),
                Ok(Some(Piece::Data(data))) => buffer.extend(&data),
                Ok(Some(Piece::End)) => {
                    let taken = std::mem::take(&mut buffer);
                    // Boxed: its state would otherwise be part of every idle stream's.
                    if let Err(status) = Box::pin(self.finish(taken)).await {
                        return status;
                    }
                }
                Ok(None) => return Status::ok(""),
                Err(error) => return error.into(),
            }
        }
    }

    /// Reserves memory for a message, if somebody waits for it.
    fn begin(&self, length: usize) -> Buffer {
        let mut agents = self.state.agents();
        let Some(wire) = agents.wire::<K>(self.id) else {
            return Buffer::default();
        };
        // Decided here: a message that began before a query was sent does not respond to it.
        if !wire.is_waiting_on(self.generation) {
            return Buffer::default();
        }
        let budget = &self.state.stream_memory;
        let reservation = budget.reserve(length);
        if reservation.is_none() {
            let now = self.state.now();
            wire.fail(now, self.generation, QueryError::MemoryExhausted);
        }
        Buffer {
            bytes: BytesMut::new(),
            reservation,
        }
    }

    /// Passes a complete message on to the caller that waits for it.
    async fn finish(&self, buffer: Buffer) -> Result<(), Status> {
        let counters = &self.state.counters;
        let Some(reservation) = buffer.reservation else {
            counters.ignored_messages.add(1);
            return Ok(());
        };
        let bytes = buffer.bytes.freeze();
        let limit = self.state.config.stream_bytes / DECODED_SHARE;
        let decoded = decode::<K::Response>(self.message, bytes, reservation, limit).await;
        let (body, reservation) = match decoded {
            Ok(decoded) => decoded,
            Err(Undecoded::Malformed) => {
                return Err(Status::internal("the message cannot be decoded"));
            }
            Err(Undecoded::Refused(error)) => {
                let now = self.state.now();
                if let Some(wire) = self.state.agents().wire::<K>(self.id) {
                    wire.fail(now, self.generation, error);
                }
                return Ok(());
            }
        };
        let delivery = match self.state.agents().wire::<K>(self.id) {
            Some(wire) => wire.on_message(self.generation, &body),
            None => Delivery::Unrequested,
        };
        match delivery {
            Delivery::To(sender, is_last) => {
                counters.streams.of(K::NAME).messages.add(1);
                let message = Message { body, reservation };
                let sent = timeout(READER_TIMEOUT, sender.send(Ok((message, is_last)))).await;
                // A caller that is gone has released the stream already.
                if sent.is_err() {
                    drop(sender);
                    let now = self.state.now();
                    if let Some(wire) = self.state.agents().wire::<K>(self.id) {
                        wire.fail(now, self.generation, QueryError::Interrupted);
                    }
                }
            }
            Delivery::Abandoned => {}
            Delivery::Unrequested => counters.ignored_messages.add(1),
        }
        Ok(())
    }
}

/// Decodes a message. It may take `limit` bytes of memory, a hundred times its length, which are reserved
/// first.
async fn decode<M: prost::Message + Default + 'static>(
    message: MessageType,
    bytes: Bytes,
    mut reservation: Reservation,
    limit: usize,
) -> Result<(M, Reservation), Undecoded> {
    let length = bytes.len();
    // The reservation goes along: the stream may end in the meantime.
    let work = move || {
        let size = message.decoded_size(&bytes).ok_or(Undecoded::Malformed)?;
        if size > limit {
            let error = QueryError::TooLarge { bytes: size, limit };
            return Err(Undecoded::Refused(error));
        }
        // The bytes of the message are reserved, and are a part of it.
        if !reservation.grow(size.saturating_sub(reservation.bytes())) {
            return Err(Undecoded::Refused(QueryError::MemoryExhausted));
        }
        let body = M::decode(bytes).map_err(|_| Undecoded::Malformed)?;
        Ok((body, reservation))
    };
    if length <= LENGTH_DECODED_HERE {
        return work();
    }
    // Without a result the runtime ends, and the stream with it.
    let decoded = tokio::task::spawn_blocking(work).await;
    decoded.unwrap_or(Err(Undecoded::Malformed))
}

impl Buffer {
    fn extend(&mut self, data: &[u8]) {
        if self.reservation.is_some() {
            self.bytes.extend_from_slice(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::mpsc,
        task::{Context, Waker},
    };

    use prost::Message as _;
    use steadfast_wire::fodc::StreamClusterTopologyRequest;

    use super::*;
    use crate::samples::MemoryBudget;

    #[test]
    fn only_short_messages_are_decoded_in_the_task() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        runtime.block_on(decode_short_and_long());
    }

    async fn decode_short_and_long() {
        for (length, is_short) in [(10, true), (LENGTH_DECODED_HERE, false)] {
            let message = StreamClusterTopologyRequest {
                error: "x".repeat(length),
                ..StreamClusterTopologyRequest::default()
            };
            // The only thread is busy, so that nothing is decoded there before this task looks.
            let (free, busy) = mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || busy.recv());
            let budget = MemoryBudget::new(1 << 20);
            let mut decoding = pin!(decode::<StreamClusterTopologyRequest>(
                MessageType::named("banyandb.fodc.v1.StreamClusterTopologyRequest").unwrap(),
                message.encode_to_vec().into(),
                budget.empty_reservation(),
                1 << 20,
            ));
            let mut cx = Context::from_waker(Waker::noop());
            let polled = decoding.as_mut().poll(&mut cx);
            assert_eq!(polled.is_ready(), is_short, "{length} bytes");
            drop(free);
            if !is_short {
                let (body, reservation) = decoding.await.unwrap();
                assert_eq!(body, message);
                assert!(reservation.bytes() > length);
            }
        }
    }
}
