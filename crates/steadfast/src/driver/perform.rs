//! What the machine asks for, done.

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
    /// Performs one action. A failure to do so is the end of the stream it concerns.
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
                    stream.outbox = None;
                }
            }
            Action::Kill(generation) => self.kill(generation),
            Action::Probe(generation) => {
                self.record().counters.probes += 1;
                if let Some(stream) = self.stream_of(generation) {
                    stream.probe();
                }
            }
            Action::Event(event) => (self.parts.sink)(event),
            Action::Up(generation) => self.up(now, generation),
            Action::Down(generation, end) => self.down(now, generation, &end),
            Action::Stopped(end) => {
                self.record().outages.abandon();
                info!(link = %self.parts.name, %end, "stopped");
            }
            Action::Changed(transition) => self.changed(transition),
        }
        None
    }

    fn open(&mut self, generation: Generation, refresh: bool) {
        {
            let mut record = self.record();
            record.counters.attempts += 1;
            record.outages.attempt();
        }
        debug!(link = %self.parts.name, generation = generation.0, refresh, "attempt");
        let dial = self.parts.transport.connect(refresh);
        let queue = outbound::queue(self.parts.outbox_bytes, &self.parts.shown.unsent);
        self.stream = Some(Stream::dial(
            generation,
            dial,
            self.parts.call.clone(),
            queue,
        ));
        self.held = false;
    }

    fn send(&mut self, generation: Generation, message: &P::Send) -> Option<(Generation, End)> {
        let outbox = self.stream_of(generation)?.outbox.as_ref()?;
        let bytes = Bytes::from(message.encode_to_vec());
        let length = bytes.len() as u64;
        if outbox.push(bytes).is_err() {
            return Some((generation, End::retry(Initiator::Local, Reason::OutboxFull)));
        }
        let mut record = self.record();
        record.counters.messages_out += 1;
        record.counters.bytes_out += length;
        None
    }

    fn kill(&mut self, generation: Generation) {
        if self.stream_of(generation).is_none() {
            return;
        }
        if let Some(connection) = self.stream.take().and_then(|stream| stream.connection) {
            connection.kill();
            self.departing.push(Box::pin(connection.gone()));
        }
        self.held = false;
        self.parts
            .shown
            .connection
            .send_if_modified(|shown| shown.take().is_some());
    }

    fn up(&mut self, now: Time, generation: Generation) {
        {
            let mut record = self.record();
            record.counters.lives += 1;
            record.outages.up(now);
        }
        let connection = self
            .stream_of(generation)
            .and_then(|stream| stream.connection.clone());
        self.parts.shown.connection.send_replace(connection);
    }

    fn down(&mut self, now: Time, generation: Generation, end: &End) {
        debug!(link = %self.parts.name, generation = generation.0, %end, "attempt ended");
        let mut record = self.record();
        *record.counters.ends.entry(end.reason.label()).or_default() += 1;
        record.outages.down(now, &end.reason);
    }

    fn changed(&mut self, transition: Transition) {
        info!(
            link = %self.parts.name,
            from = %transition.from,
            to = %transition.to,
            cause = %transition.cause,
            generation = transition.generation.0,
            "state"
        );
        if let Some(notices) = &mut self.parts.notices {
            notices.tell(transition);
        }
    }
}
