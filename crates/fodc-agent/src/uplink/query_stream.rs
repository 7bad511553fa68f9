//! The protocol of a stream on which the proxy queries: the metrics stream and the streams of sources. Queries
//! arrive, and each response goes out on the stream of its query.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType},
};
use steadfast::{Backpressure, Link, transport::Connection};
use steadfast_session::{Context, End, Generation, Initiator, Protocol, Reason, Time};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

/// An encoded response.
///
/// Responses are encoded by the task that responds, or on a thread that may block; the driver of the
/// stream only forwards them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncodedRequest(pub(crate) Bytes);

/// An event of a stream with queries `Q`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event<Q> {
    /// A query arrived on this stream.
    Query(Generation, Q),
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

/// The events of one stream, for the task that responds.
pub(crate) struct Inbox<Q> {
    pub(crate) queries: mpsc::UnboundedReceiver<(Generation, Q)>,
    /// The result of the newest message: queued, or its stream is gone. At most one is awaited.
    queued: mpsc::UnboundedReceiver<bool>,
    /// The open stream.
    pub(crate) stream: watch::Receiver<Option<Generation>>,
}

/// The reason why a response was not sent to its end.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The stream of the query is gone.
    StreamGone,
    /// The proxy did not accept a message in time.
    TimedOut,
}

/// Bytes that may be unsent when the next message is queued.
const UNSENT_MAX: usize = 64 << 10;

/// The protocol of a stream with queries `Q`.
#[derive(Debug)]
pub(crate) struct QueryProtocol<Q> {
    /// The open stream.
    generation: Option<Generation>,
    queries: PhantomData<Q>,
}

impl<Q> Default for QueryProtocol<Q> {
    fn default() -> Self {
        Self {
            generation: None,
            queries: PhantomData,
        }
    }
}

impl<Q> QueryProtocol<Q> {
    fn is_open(&self, generation: Generation, cx: &Context<EncodedRequest, Event<Q>>) -> bool {
        cx.is_open() && self.generation == Some(generation)
    }

    fn on_gone(&mut self, cx: &mut Context<EncodedRequest, Event<Q>>) {
        // The responder stops waiting for this stream, and its queued queries are void.
        self.generation = None;
        cx.emit(Event::Stream(None));
    }
}

impl<Q> Protocol for QueryProtocol<Q> {
    type Send = EncodedRequest;
    type Receive = Q;
    type Command = Command;
    type Event = Event<Q>;

    fn on_open(
        &mut self,
        _now: Time,
        generation: Generation,
        cx: &mut Context<EncodedRequest, Event<Q>>,
    ) {
        self.generation = Some(generation);
        cx.emit(Event::Stream(Some(generation)));
    }

    fn on_message(&mut self, _now: Time, query: Q, cx: &mut Context<EncodedRequest, Event<Q>>) {
        if let Some(generation) = self.generation {
            cx.emit(Event::Query(generation, query));
        }
    }

    fn on_command(
        &mut self,
        _now: Time,
        command: Command,
        cx: &mut Context<EncodedRequest, Event<Q>>,
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
    fn on_heartbeat(&mut self, _now: Time, _cx: &mut Context<EncodedRequest, Event<Q>>) {}

    fn on_down(&mut self, _now: Time, end: &End, cx: &mut Context<EncodedRequest, Event<Q>>) {
        self.on_gone(cx);
        cx.emit(Event::Ended(end.clone()));
    }

    fn on_stop(&mut self, _now: Time, _end: &End, cx: &mut Context<EncodedRequest, Event<Q>>) {
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

/// Creates the sink for a stream's events and the inbox in which the responder finds them. `on_stream`
/// observes each stream that opens, and its end.
pub(crate) fn channel<Q: Send + 'static>(
    backpressure: Arc<Backpressure>,
    mut on_stream: impl FnMut(Option<&End>) + Send + 'static,
) -> (impl FnMut(Event<Q>) + Send + 'static, Inbox<Q>) {
    let (queries, received_queries) = mpsc::unbounded_channel();
    let (queued, received_queued) = mpsc::unbounded_channel();
    let stream = watch::Sender::new(None);
    let inbox = Inbox {
        queries: received_queries,
        queued: received_queued,
        stream: stream.subscribe(),
    };
    // The receivers are gone only while the stream is being closed.
    let sink = move |event| match event {
        Event::Query(from, query) => {
            // Counted before it is passed on, because the responder may be done with it at once.
            backpressure.enqueued();
            queries.send((from, query)).ok();
        }
        Event::Queued(queued_now) => {
            queued.send(queued_now).ok();
        }
        Event::Stream(generation) => {
            if generation.is_some() {
                on_stream(None);
            }
            stream.send_replace(generation);
        }
        Event::Ended(end) => on_stream(Some(&end)),
    };
    (sink, inbox)
}

/// Waits until the link can take a message, for at most `limit`, and queues it.
pub(crate) async fn send<Q: Send + 'static, C: Connection>(
    link: &Link<QueryProtocol<Q>, C>,
    inbox: &mut Inbox<Q>,
    limit: Duration,
    from: Generation,
    message: Bytes,
) -> Result<(), SendError> {
    // Waiting for capacity first keeps the memory at one part, however slowly the proxy reads (O8).
    let capacity = timeout(limit, link.unsent_at_most(UNSENT_MAX));
    tokio::select! {
        biased;
        _ = inbox.stream.wait_for(|stream| *stream != Some(from)) => {
            return Err(SendError::StreamGone);
        }
        capacity = capacity => capacity.map_err(|_| SendError::TimedOut)?,
    }
    let command = Command::Respond(from, EncodedRequest(message));
    link.send_command(command)
        .await
        .map_err(|_| SendError::StreamGone)?;
    // Each message has one result, which is always awaited here: none of an earlier one is left.
    match inbox.queued.recv().await {
        Some(true) => Ok(()),
        Some(false) | None => Err(SendError::StreamGone),
    }
}

#[cfg(test)]
mod tests;
