//! The protocol of a publisher: it sends unacknowledged entries again, in order, on every new stream.

use std::collections::VecDeque;

use steadfast_session::{
    Authorization, Context, Detail, End, Generation, Initiator, Protocol, Reason, Renewal, Signal,
    Time,
};
use steadfast_wire::publisher::{
    Authenticate, Entry as WireEntry, Ping, PublishRequest, PublishResponse, PublisherHello,
    publish_request, publish_response,
};

use super::{Entry, PublishError, Published};
use crate::{Operation, convert::acknowledged_position};

/// A command of a handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Publishes an entry. Its sequence is one more than that of the entry before.
    Publish(Entry),
    /// Newer credentials for the stream, after [`Event::CredentialsDue`].
    Authenticate(Authorization),
}

/// An event of the core, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server greeted.
    Greeted {
        /// The newest sequence it knows of this producer; 0 if it knows none.
        last_sequence: u64,
    },
    /// The credentials of the stream expire soon. [`Command::Authenticate`] brings newer ones; the stream
    /// ends without. Emitted again until the server has accepted newer ones.
    CredentialsDue,
    /// The oldest pending entry is settled.
    Settled(Result<Published, PublishError>),
}

/// The protocol of a publisher. Its handle bounds the pending entries.
///
/// ```
/// use steadfast_session::{Context, Effect, Generation, Protocol, Time};
/// use steadfast_streamer_core::publisher::{Command, Core, Entry};
///
/// let mut core = Core::new("import", 1);
/// let mut offline = Context::new(false);
/// let entry = Entry::upsert("default", "users", "u1", r#"{"name":"Ada"}"#);
/// core.on_command(Time::ZERO, Command::Publish(entry), &mut offline);
/// assert!(offline.into_effects().is_empty(), "it waits for a server");
///
/// let mut stream = Context::new(true);
/// core.on_open(Time::ZERO, Generation(1), &mut stream);
/// assert!(matches!(stream.into_effects()[..], [Effect::Send(_)]), "only the hello");
/// ```
#[derive(Debug)]
pub struct Core {
    producer: String,
    next_sequence: u64,
    /// The entries without a response, oldest first; their sequences have no holes.
    pending: VecDeque<PendingEntry>,
    /// The number of pending entries that were sent on the current stream.
    sent: usize,
    /// The number of entries that the server accepts at a time; `None` before it greeted.
    window: Option<usize>,
    generation: Generation,
    /// Of the stream; not due without one.
    renewal: Renewal,
    /// The reason why the publisher stopped. It never starts again: an entry without a response may
    /// be committed at any later time, so that its sequence cannot be given to another one.
    stopped: Option<End>,
}

#[derive(Debug)]
struct PendingEntry {
    sequence: u64,
    entry: Entry,
    /// It was sent on some stream, so that a server may have it.
    was_sent: bool,
}

/// A response that breaks the protocol. It ends the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Violation {
    #[error("a second welcome")]
    SecondWelcome,
    #[error("a response before the welcome")]
    BeforeWelcome,
    #[error("a response to sequence {0}, which was not sent")]
    NotSent(u64),
}

type Cx = Context<PublishRequest, Event>;

impl Core {
    /// Creates a core for `producer` whose first entry has the sequence `first_sequence`.
    #[must_use]
    pub fn new(producer: impl Into<String>, first_sequence: u64) -> Self {
        Self {
            producer: producer.into(),
            // Sequences begin at 1; in a welcome 0 means that the producer is unknown.
            next_sequence: first_sequence.max(1),
            pending: VecDeque::new(),
            sent: 0,
            window: None,
            generation: Generation(0),
            renewal: Renewal::default(),
            stopped: None,
        }
    }

    /// Gives an entry the next sequence, and sends it if the window of the server allows.
    fn publish(&mut self, entry: Entry, cx: &mut Cx) {
        let sequence = self.next_sequence;
        // Counted even if the entry fails, so that sequences stay what the caller counts.
        self.next_sequence += 1;
        if let Some(end) = self.stopped.clone() {
            let not_sent = PublishError::NotSent { sequence, end };
            return cx.emit(Event::Settled(Err(not_sent)));
        }
        self.pending.push_back(PendingEntry {
            sequence,
            entry,
            was_sent: false,
        });
        if cx.is_open() {
            self.send_pending(cx);
        }
    }

    /// Sends pending entries up to the window of the server.
    fn send_pending(&mut self, cx: &mut Cx) {
        let Some(window) = self.window else { return };
        // The window counts unacknowledged entries, which are exactly the first `sent` of those
        // pending.
        while self.sent < self.pending.len().min(window) {
            let next = &mut self.pending[self.sent];
            next.was_sent = true;
            cx.send(request(publish_request::Payload::Entry(to_wire(next))));
            self.sent += 1;
        }
    }

    /// Removes the oldest pending entry, if its sequence is at most `sequence`, and returns its
    /// sequence.
    fn pop_through(&mut self, sequence: u64) -> Option<u64> {
        self.pending
            .front()
            .filter(|oldest| oldest.sequence <= sequence)?;
        // An entry of an older stream can be acknowledged before it is sent again on this one.
        self.sent = self.sent.saturating_sub(1);
        self.pending.pop_front().map(|oldest| oldest.sequence)
    }

    fn receive(
        &mut self,
        now: Time,
        message: PublishResponse,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        use publish_response::Payload;

        match (message.payload, self.window) {
            (Some(Payload::Welcome(welcome)), None) => {
                // A window of zero would stop the publisher for ever, without an error.
                self.window = Some(welcome.max_in_flight.max(1) as usize);
                let stream = (&*self.producer, self.generation.0);
                self.renewal = Renewal::start(now, welcome.expires_in_ms, stream);
                cx.emit(Event::Greeted {
                    last_sequence: welcome.last_sequence,
                });
                cx.signal(Signal::Greeted);
                self.send_pending(cx);
            }
            (Some(Payload::Welcome(_)), Some(_)) => return Err(Violation::SecondWelcome),
            (Some(Payload::Pong(_)), _) => cx.signal(Signal::HeartbeatAcked),
            (Some(Payload::Ack(_) | Payload::Refused(_) | Payload::Authenticated(_)), None) => {
                return Err(Violation::BeforeWelcome);
            }
            (Some(Payload::Ack(ack)), Some(_)) => {
                self.check_sequence(ack.sequence)?;
                let position = acknowledged_position(&ack);
                // An acknowledgement covers every entry before it: the server commits in order.
                while let Some(sequence) = self.pop_through(ack.sequence) {
                    cx.emit(Event::Settled(Ok(Published { sequence, position })));
                }
                self.send_pending(cx);
            }
            (Some(Payload::Refused(refused)), Some(_)) => {
                self.check_sequence(refused.sequence)?;
                self.on_refused(refused.sequence, &refused.message, cx);
            }
            (Some(Payload::Authenticated(accepted)), Some(_)) => {
                self.renewal.on_authenticated(now, accepted.expires_in_ms);
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// Settles a refused entry. The server reports a refusal before it acknowledges the commit that
    /// the entry would have been part of, so that the entries before it are durable.
    fn on_refused(&mut self, sequence: u64, message: &str, cx: &mut Cx) {
        while let Some(settled) = self.pop_through(sequence) {
            cx.emit(Event::Settled(if settled == sequence {
                Err(PublishError::Refused {
                    sequence,
                    message: message.to_owned(),
                })
            } else {
                Ok(Published {
                    sequence: settled,
                    position: None,
                })
            }));
        }
        self.send_pending(cx);
    }

    /// Checks that an entry with this sequence was sent on this stream.
    ///
    /// A response to an entry that is settled already is harmless: an acknowledgement follows the
    /// refusal of the last entry of its commit.
    fn check_sequence(&self, sequence: u64) -> Result<(), Violation> {
        let oldest = self.pending.front();
        let first = oldest.map_or(self.next_sequence, |oldest| oldest.sequence);
        if sequence >= first + self.sent as u64 {
            return Err(Violation::NotSent(sequence));
        }
        Ok(())
    }
}

impl Protocol for Core {
    type Send = PublishRequest;
    type Receive = PublishResponse;
    type Command = Command;
    type Event = Event;

    fn on_open(&mut self, _: Time, generation: Generation, cx: &mut Cx) {
        self.generation = generation;
        self.sent = 0;
        self.window = None;
        // A start after a stop would reuse sequences that may be in the log.
        if let Some(end) = &self.stopped {
            return cx.fail(End::stop(end.initiator, end.reason.clone()));
        }
        let hello = PublisherHello {
            producer_id: self.producer.clone(),
        };
        cx.send(request(publish_request::Payload::Hello(hello)));
    }

    fn on_message(&mut self, now: Time, message: PublishResponse, cx: &mut Cx) {
        if let Err(violation) = self.receive(now, message, cx) {
            let reason = Reason::Protocol(Detail::from_error(violation));
            cx.fail(End::retry(Initiator::Peer, reason));
        }
    }

    fn on_command(&mut self, now: Time, command: Command, cx: &mut Cx) {
        match command {
            Command::Publish(entry) => self.publish(entry, cx),
            Command::Authenticate(Authorization(authorization)) => {
                // Those that come after their stream has ended are asked for again by the next one.
                if cx.is_open() && self.renewal.may_send(now) {
                    let newer = Authenticate { authorization };
                    cx.send(request(publish_request::Payload::Authenticate(newer)));
                }
            }
        }
    }

    fn on_heartbeat(&mut self, now: Time, cx: &mut Cx) {
        let timestamp = (now.as_micros() / 1_000).cast_signed();
        cx.send(request(publish_request::Payload::Ping(Ping { timestamp })));
    }

    fn on_down(&mut self, _: Time, _: &End, _: &mut Cx) {
        // What else is of the stream begins anew when the next one opens; until then nothing is sent.
        self.renewal = Renewal::default();
    }

    fn on_stop(&mut self, _: Time, end: &End, cx: &mut Cx) {
        self.renewal = Renewal::default();
        self.stopped = Some(end.clone());
        for entry in self.pending.drain(..) {
            let (sequence, end) = (entry.sequence, end.clone());
            // On any stream, not only the last: a server may have committed it and lost the
            // connection.
            cx.emit(Event::Settled(Err(if entry.was_sent {
                PublishError::Unknown { sequence, end }
            } else {
                PublishError::NotSent { sequence, end }
            })));
        }
    }

    /// Pending entries are sent again as soon as the server has greeted.
    fn caught_up(&self) -> bool {
        self.window.is_some()
    }

    fn deadline(&self) -> Option<Time> {
        self.renewal.deadline()
    }

    fn on_timer(&mut self, now: Time, cx: &mut Cx) {
        if self.renewal.on_timer(now) {
            cx.emit(Event::CredentialsDue);
        }
    }
}

fn request(payload: publish_request::Payload) -> PublishRequest {
    PublishRequest {
        payload: Some(payload),
    }
}

fn to_wire(pending: &PendingEntry) -> WireEntry {
    let entry = &pending.entry;
    WireEntry {
        sequence: pending.sequence,
        database: entry.database.clone(),
        collection: entry.collection.clone(),
        document_id: entry.document_id.clone(),
        operation: Operation::to_wire(entry.operation),
        data: entry.data.clone(),
    }
}

#[cfg(test)]
mod tests;
