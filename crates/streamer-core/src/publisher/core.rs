//! The publisher's core: what is not acknowledged is said again, in order, on every new stream.

use std::collections::VecDeque;

use steadfast_session::{Context, End, Generation, Initiator, Protocol, Reason, Signal, Time};
use steadfast_wire::publisher::{
    Entry as WireEntry, Operation as WireOperation, Ping, PublishRequest, PublishResponse,
    PublisherHello, publish_request, publish_response,
};

use super::{Entry, PublishError, Published};
use crate::{Epoch, Operation, Position};

/// What a handle asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Publish an entry; its sequence is one more than that of the entry before.
    Publish(Entry),
}

/// What the core tells its handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The server greeted: the newest sequence it knows of this producer.
    Greeted {
        /// The sequence; 0 when it knows none.
        last_sequence: u64,
    },
    /// The oldest entry that was not answered is answered.
    Answered(Result<Published, PublishError>),
}

/// The protocol of a publisher. Bounded by its handle, which waits for room.
#[derive(Debug)]
pub struct Core {
    producer: String,
    next_sequence: u64,
    /// Not answered yet, oldest first; sequences without holes.
    unanswered: VecDeque<Unanswered>,
    /// How many of them were said on the current stream.
    said: usize,
    /// What the current stream's server takes at a time; `None` before it greeted.
    window: Option<usize>,
    /// Why the publisher stopped. It stays stopped: an entry whose fate is unknown may be committed
    /// at any later time, so that no other one can be given its sequence.
    stopped: Option<End>,
}

#[derive(Debug)]
struct Unanswered {
    sequence: u64,
    entry: Entry,
    /// Said on some stream, so that a server may have it.
    was_said: bool,
}

type Cx = Context<PublishRequest, Notice>;

impl Core {
    /// A core for `producer` whose first entry has the sequence `first_sequence`.
    #[must_use]
    pub fn new(producer: impl Into<String>, first_sequence: u64) -> Self {
        Self {
            producer: producer.into(),
            next_sequence: first_sequence.max(1),
            unanswered: VecDeque::new(),
            said: 0,
            window: None,
            stopped: None,
        }
    }

    fn say_more(&mut self, cx: &mut Cx) {
        let Some(window) = self.window else { return };
        while self.said < self.unanswered.len().min(window) {
            let next = &mut self.unanswered[self.said];
            next.was_said = true;
            cx.send(request(publish_request::Payload::Entry(to_wire(next))));
            self.said += 1;
        }
    }

    /// Takes the oldest unanswered entry out if it has the sequence.
    fn answer(&mut self, sequence: u64) -> Option<u64> {
        self.unanswered
            .front()
            .filter(|oldest| oldest.sequence <= sequence)?;
        self.said = self.said.saturating_sub(1);
        self.unanswered.pop_front().map(|oldest| oldest.sequence)
    }

    fn receive(&mut self, message: PublishResponse, cx: &mut Cx) -> Result<(), String> {
        use publish_response::Payload;

        match (message.payload, self.window) {
            (Some(Payload::Welcome(welcome)), None) => {
                self.window = Some(welcome.max_in_flight.max(1) as usize);
                cx.emit(Notice::Greeted {
                    last_sequence: welcome.last_sequence,
                });
                cx.signal(Signal::Greeted);
                self.say_more(cx);
            }
            (Some(Payload::Welcome(_)), Some(_)) => return Err("a second welcome".to_owned()),
            (Some(Payload::Pong(_)), _) => cx.signal(Signal::HeartbeatAcked),
            (Some(Payload::Ack(_) | Payload::Refused(_)), None) => {
                return Err("an answer before the welcome".to_owned());
            }
            (Some(Payload::Ack(ack)), Some(_)) => {
                self.check_sequence(ack.sequence)?;
                let position =
                    (ack.offset > 0).then(|| Position::new(Epoch(ack.epoch), ack.offset));
                while let Some(sequence) = self.answer(ack.sequence) {
                    cx.emit(Notice::Answered(Ok(Published { sequence, position })));
                }
                self.say_more(cx);
            }
            (Some(Payload::Refused(refused)), Some(_)) => {
                self.check_sequence(refused.sequence)?;
                self.on_refused(refused.sequence, &refused.message, cx);
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// An entry in the middle of a commit is told before the others of it are acknowledged.
    fn on_refused(&mut self, sequence: u64, message: &str, cx: &mut Cx) {
        while let Some(answered) = self.answer(sequence) {
            cx.emit(Notice::Answered(if answered == sequence {
                Err(PublishError::Refused {
                    sequence,
                    message: message.to_owned(),
                })
            } else {
                Ok(Published {
                    sequence: answered,
                    position: None,
                })
            }));
        }
        self.say_more(cx);
    }

    /// Answers about what was answered before are harmless: an acknowledgement follows the refusal
    /// of the last entry of its commit. One about what was not sent on this stream is not.
    fn check_sequence(&self, sequence: u64) -> Result<(), String> {
        let oldest = self.unanswered.front();
        let first = oldest.map_or(self.next_sequence, |oldest| oldest.sequence);
        if sequence >= first + self.said as u64 {
            return Err(format!("sequence {sequence} was answered and not sent"));
        }
        Ok(())
    }
}

impl Protocol for Core {
    type Send = PublishRequest;
    type Receive = PublishResponse;
    type Command = Command;
    type Event = Notice;

    fn on_open(&mut self, _: Time, _: Generation, cx: &mut Cx) {
        self.said = 0;
        self.window = None;
        if let Some(end) = &self.stopped {
            return cx.fail(End::stop(end.initiator, end.reason.clone()));
        }
        let hello = PublisherHello {
            producer_id: self.producer.clone(),
        };
        cx.send(request(publish_request::Payload::Hello(hello)));
    }

    fn on_message(&mut self, _: Time, message: PublishResponse, cx: &mut Cx) {
        if let Err(what) = self.receive(message, cx) {
            cx.fail(End::retry(Initiator::Peer, Reason::Protocol(what.into())));
        }
    }

    fn on_command(&mut self, _: Time, command: Command, cx: &mut Cx) {
        let Command::Publish(entry) = command;
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        if let Some(end) = self.stopped.clone() {
            let not_sent = PublishError::NotSent { sequence, end };
            return cx.emit(Notice::Answered(Err(not_sent)));
        }
        self.unanswered.push_back(Unanswered {
            sequence,
            entry,
            was_said: false,
        });
        if cx.is_open() {
            self.say_more(cx);
        }
    }

    fn on_heartbeat(&mut self, now: Time, cx: &mut Cx) {
        let timestamp = (now.as_micros() / 1_000).cast_signed();
        cx.send(request(publish_request::Payload::Ping(Ping { timestamp })));
    }

    fn on_down(&mut self, _: Time, _: &End, _: &mut Cx) {
        self.said = 0;
        self.window = None;
    }

    fn on_stop(&mut self, _: Time, end: &End, cx: &mut Cx) {
        self.stopped = Some(end.clone());
        for Unanswered {
            sequence, was_said, ..
        } in self.unanswered.drain(..)
        {
            let end = end.clone();
            cx.emit(Notice::Answered(Err(if was_said {
                PublishError::Unknown { sequence, end }
            } else {
                PublishError::NotSent { sequence, end }
            })));
        }
    }

    /// What was not answered has been said again when the server has greeted.
    fn caught_up(&self) -> bool {
        self.window.is_some()
    }
}

fn request(payload: publish_request::Payload) -> PublishRequest {
    PublishRequest {
        payload: Some(payload),
    }
}

fn to_wire(unanswered: &Unanswered) -> WireEntry {
    let entry = &unanswered.entry;
    let operation = match entry.operation {
        None => WireOperation::Unspecified,
        Some(Operation::Insert) => WireOperation::Insert,
        Some(Operation::Update) => WireOperation::Update,
        Some(Operation::Delete) => WireOperation::Delete,
    };
    WireEntry {
        sequence: unanswered.sequence,
        database: entry.database.clone(),
        collection: entry.collection.clone(),
        document_id: entry.document_id.clone(),
        operation: operation.into(),
        data: entry.data.clone(),
    }
}

#[cfg(test)]
mod tests;
