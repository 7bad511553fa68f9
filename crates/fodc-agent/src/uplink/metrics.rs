//! What is said on the metrics stream: questions come, and each is answered on the stream that asked.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType},
};
use steadfast_session::{Context, End, Generation, Initiator, Protocol, Reason, Time};
use steadfast_wire::fodc::StreamMetricsResponse;

/// An encoded `StreamMetricsRequest`: answers are made where they may take their time, and the
/// driver of the stream only passes them on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoded(pub(crate) Bytes);

/// What the metrics stream tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A question came on this stream.
    Asked(Generation, StreamMetricsResponse),
    /// What became of the newest [`Command::Answer`]: true if it is on its way, false if the stream
    /// that asked is no more.
    Taken(bool),
    /// A stream begins, or is gone with its questions.
    Stream(Option<Generation>),
    /// How it ended.
    Ended(End),
}

/// What the answering side asks of it.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Send this, if that stream is still the one.
    Answer(Generation, Encoded),
    /// End that stream: the proxy does not take the answers it asked for.
    Abandon(Generation),
}

/// The protocol of the metrics stream.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    generation: Option<Generation>,
}

impl Metrics {
    fn is_on(&self, generation: Generation, cx: &Context<Encoded, Event>) -> bool {
        cx.is_open() && self.generation == Some(generation)
    }

    fn gone(&mut self, cx: &mut Context<Encoded, Event>) {
        self.generation = None;
        cx.emit(Event::Stream(None));
    }
}

impl Protocol for Metrics {
    type Send = Encoded;
    type Receive = StreamMetricsResponse;
    type Command = Command;
    type Event = Event;

    fn on_open(&mut self, _now: Time, generation: Generation, cx: &mut Context<Encoded, Event>) {
        self.generation = Some(generation);
        cx.emit(Event::Stream(Some(generation)));
    }

    fn on_message(
        &mut self,
        _now: Time,
        question: StreamMetricsResponse,
        cx: &mut Context<Encoded, Event>,
    ) {
        if let Some(generation) = self.generation {
            cx.emit(Event::Asked(generation, question));
        }
    }

    fn on_command(&mut self, _now: Time, command: Command, cx: &mut Context<Encoded, Event>) {
        match command {
            Command::Answer(generation, answer) => {
                let on_its_way = self.is_on(generation, cx);
                if on_its_way {
                    cx.send(answer);
                }
                cx.emit(Event::Taken(on_its_way));
            }
            Command::Abandon(generation) => {
                if self.is_on(generation, cx) {
                    cx.fail(End::retry(Initiator::Peer, Reason::OutboxFull));
                }
            }
        }
    }

    /// Only the registration beats.
    fn on_heartbeat(&mut self, _now: Time, _cx: &mut Context<Encoded, Event>) {}

    fn on_down(&mut self, _now: Time, end: &End, cx: &mut Context<Encoded, Event>) {
        self.gone(cx);
        cx.emit(Event::Ended(end.clone()));
    }

    fn on_stop(&mut self, _now: Time, _end: &End, cx: &mut Context<Encoded, Event>) {
        self.gone(cx);
    }
}

impl Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    /// Nothing is ever decoded into one.
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
