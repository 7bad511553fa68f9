//! Performs the actions of the endpoint.

use bytes::Bytes;
use prost::Message;
use steadfast_session::{
    End, Generation, Initiator, Protocol, Reason, Time, Transition, endpoint::Action,
};
use tracing::{debug, info};

use super::Driver;
use crate::{
    outbound,
    stream::Stream,
    transport::{Connection as _, Transport},
};

impl<P, T> Driver<P, T>
where
    P: Protocol,
    P::Send: Message,
    P::Receive: Message + Default,
    T: Transport,
{
    /// Performs one action. Returns the end of the stream that could not perform it.
    pub(super) fn perform(
        &mut self,
        now: Time,
        action: Action<P::Send, P::Event>,
    ) -> Option<(Generation, End)> {
        match action {
            Action::Open {
                generation,
                refresh,
            } => self.open(generation, refresh),
            Action::Send(generation, message) => return self.send(generation, &message),
            Action::Finish(generation) => {
                if let Some(stream) = self.stream_of(generation) {
                    // Dropping the sender ends the request's body once what is queued was sent.
                    stream.outbox = None;
                }
            }
            Action::Kill(generation) => self.kill(generation),
            Action::Probe(generation) => {
                self.parts.state.statistics().counters.probes += 1;
                if let Some(stream) = self.stream_of(generation) {
                    stream.probe();
                }
            }
            Action::Event(event) => (self.parts.sink)(event),
            Action::Up(generation) => self.on_up(now, generation),
            Action::Down(generation, end) => self.on_down(now, generation, &end),
            Action::Stopped(end) => {
                self.parts.state.statistics().outages.abandon();
                #[cfg(feature = "opentelemetry")]
                if let Some(spans) = &mut self.parts.spans {
                    spans.on_stopped(&end);
                }
                info!(link = %self.parts.name, %end, "stopped");
            }
            Action::Changed(transition) => self.on_transition(transition),
        }
        None
    }

    fn open(&mut self, generation: Generation, refresh: bool) {
        {
            let mut statistics = self.parts.state.statistics();
            statistics.counters.attempts += 1;
            statistics.outages.on_attempt();
        }
        debug!(link = %self.parts.name, generation = generation.0, refresh, "connecting");
        if refresh {
            self.parts.credentials.on_refused();
        }
        let credentials = self.parts.credentials.obtain();
        let connect = self.parts.transport.connect();
        // Not at the same time: without credentials a connection is of no use.
        let dial = async move {
            let credentials = credentials.await?;
            Ok((connect.await?, credentials))
        };
        // A queue per attempt: messages for an older stream mean nothing on this one.
        let queue = outbound::queue(self.parts.outbox_bytes, &self.parts.state.unsent);
        #[cfg_attr(not(feature = "opentelemetry"), expect(unused_mut))]
        let mut call = self.parts.call.clone();
        #[cfg(feature = "opentelemetry")]
        if let Some(spans) = &mut self.parts.spans {
            call.metadata
                .merge(spans.on_attempt(&self.parts.name, generation));
        }
        // The dial starts when the stream is first polled; nothing is awaited here.
        self.stream = Some(Stream::dial(generation, dial, call, queue));
        self.read_paused = false;
    }

    fn send(&mut self, generation: Generation, message: &P::Send) -> Option<(Generation, End)> {
        let is_last = self.parts.call.single_request;
        let stream = self.stream_of(generation)?;
        let outbox = stream.outbox.as_ref()?;
        // Encoded here and not by the transport, so that the limit on unsent bytes is exact.
        let bytes = Bytes::from(message.encode_to_vec());
        let length = bytes.len() as u64;
        if outbox.push(bytes).is_err() {
            // Dropping one message would leave a hole that neither side can see.
            return Some((generation, End::retry(Initiator::Local, Reason::OutboxFull)));
        }
        if is_last {
            stream.outbox = None;
        }
        let mut statistics = self.parts.state.statistics();
        statistics.counters.messages_out += 1;
        statistics.counters.bytes_out += length;
        None
    }

    fn kill(&mut self, generation: Generation) {
        if self.stream_of(generation).is_none() {
            return;
        }
        if let Some(connection) = self.stream.take().and_then(|stream| stream.connection) {
            connection.kill();
            // Its tasks end in the background. The next attempt does not wait for them, `close`
            // does.
            self.closing.push(Box::pin(connection.closed()));
        }
        // The application's queue may still be full. Reading pauses again once the next stream is
        // live.
        self.read_paused = false;
        self.parts
            .state
            .connection
            .send_if_modified(|connection| connection.take().is_some());
    }

    fn on_up(&mut self, now: Time, generation: Generation) {
        {
            let mut statistics = self.parts.state.statistics();
            statistics.counters.streams_established += 1;
            statistics.outages.on_up(now);
        }
        let connection = self
            .stream_of(generation)
            .and_then(|stream| stream.connection.clone());
        #[cfg(feature = "opentelemetry")]
        if let Some(spans) = &mut self.parts.spans {
            spans.on_live();
        }
        // Published only now: on a stream that is not live yet, the peer may not know this client.
        self.parts.state.connection.send_replace(connection);
    }

    fn on_down(&mut self, now: Time, generation: Generation, end: &End) {
        debug!(link = %self.parts.name, generation = generation.0, %end, "attempt ended");
        let mut statistics = self.parts.state.statistics();
        let ends = &mut statistics.counters.ends;
        *ends.entry(end.reason.label()).or_default() += 1;
        #[cfg(feature = "opentelemetry")]
        let outage_before = statistics.outages.began();
        statistics.outages.on_down(now, &end.reason);
        #[cfg(feature = "opentelemetry")]
        if let Some(spans) = &mut self.parts.spans {
            let began = statistics.outages.began();
            let silent_for = began
                .filter(|_| outage_before.is_none())
                .map(|began| now - began);
            spans.on_down(&self.parts.name, end, silent_for);
        }
    }

    fn on_transition(&mut self, transition: Transition) {
        info!(
            link = %self.parts.name,
            from = %transition.from,
            to = %transition.to,
            cause = %transition.cause,
            generation = transition.generation.0,
            "state"
        );
        if let Some(events) = &mut self.parts.state_events {
            events.send(transition);
        }
    }
}
