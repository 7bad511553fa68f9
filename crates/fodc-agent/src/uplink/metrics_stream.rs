//! The protocol of the metrics stream: queries arrive, and each response goes out on the stream of its query.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType},
};
use steadfast_session::{Context, End, Generation, Initiator, Protocol, Reason, Time};
use steadfast_wire::fodc::StreamMetricsResponse;

/// An encoded `StreamMetricsRequest`.
///
/// Responses are encoded on a thread that may block; the driver of the stream only forwards them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncodedRequest(pub(crate) Bytes);

/// An event of the metrics stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A query arrived on this stream.
    Query(Generation, StreamMetricsResponse),
    /// The result of the newest [`Command::Respond`]: true if the message was queued, false if the
    /// stream of the query is gone.
    Queued(bool),
    /// The open stream. Queries of any other stream are void.
    Stream(Option<Generation>),
    /// The end of the stream.
    Ended(End),
}

/// A command of the responder.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Sends a message if that stream is still open.
    Respond(Generation, EncodedRequest),
    /// Ends that stream because the proxy does not accept its responses.
    Abandon(Generation),
}

/// The protocol of the metrics stream.
#[derive(Debug, Default)]
pub(crate) struct MetricsProtocol {
    /// The open stream.
    generation: Option<Generation>,
}

impl MetricsProtocol {
    fn is_open(&self, generation: Generation, cx: &Context<EncodedRequest, Event>) -> bool {
        cx.is_open() && self.generation == Some(generation)
    }

    fn on_gone(&mut self, cx: &mut Context<EncodedRequest, Event>) {
        // The responder stops waiting for this stream, and its queued queries are void.
        self.generation = None;
        cx.emit(Event::Stream(None));
    }
}

impl Protocol for MetricsProtocol {
    type Send = EncodedRequest;
    type Receive = StreamMetricsResponse;
    type Command = Command;
    type Event = Event;

    fn on_open(
        &mut self,
        _now: Time,
        generation: Generation,
        cx: &mut Context<EncodedRequest, Event>,
    ) {
        self.generation = Some(generation);
        cx.emit(Event::Stream(Some(generation)));
    }

    fn on_message(
        &mut self,
        _now: Time,
        query: StreamMetricsResponse,
        cx: &mut Context<EncodedRequest, Event>,
    ) {
        if let Some(generation) = self.generation {
            cx.emit(Event::Query(generation, query));
        }
    }

    fn on_command(
        &mut self,
        _now: Time,
        command: Command,
        cx: &mut Context<EncodedRequest, Event>,
    ) {
        match command {
            Command::Respond(generation, response) => {
                // A response to a query of an older stream must not reach a newer one: a plain proxy
                // matches responses to queries by order (O6).
                let open = self.is_open(generation, cx);
                if open {
                    cx.send(response);
                }
                // The responder waits for this before it sends the next part.
                cx.emit(Event::Queued(open));
            }
            Command::Abandon(generation) => {
                if self.is_open(generation, cx) {
                    // A new stream starts with an empty outbox and a fresh flow-control window.
                    cx.fail(End::retry(Initiator::Peer, Reason::OutboxFull));
                }
            }
        }
    }

    /// Does nothing: only the registration sends heartbeats.
    fn on_heartbeat(&mut self, _now: Time, _cx: &mut Context<EncodedRequest, Event>) {}

    fn on_down(&mut self, _now: Time, end: &End, cx: &mut Context<EncodedRequest, Event>) {
        self.on_gone(cx);
        cx.emit(Event::Ended(end.clone()));
    }

    fn on_stop(&mut self, _now: Time, _end: &End, cx: &mut Context<EncodedRequest, Event>) {
        // If there was a stream, `on_down` has reported its end.
        self.on_gone(cx);
    }
}

impl Message for EncodedRequest {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    /// Skips the field: this type is only encoded.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }
}

#[cfg(test)]
mod tests;
