//! The protocol of an intake: it requests the changes after its marker on every new stream.

use std::collections::BTreeSet;

use steadfast_session::{Context, Detail, End, Generation, Initiator, Protocol, Reason, Time};
use steadfast_wire::puller::{ChangeEvent, PullerEvent, SubscribeRequest};

use super::{InvalidMarker, Marker, Seen};

/// The protocol of an intake.
///
/// What it received it never passes on again, whatever the Puller repeats. The caller stores a
/// [`Marker`] of its own, advanced by what it was passed, with the changes that it covers, and begins
/// with that one after a restart.
#[derive(Clone, Debug)]
pub struct Intake {
    consumer: String,
    received: Marker,
    /// The backends whose last change this stream has not shown again. If a later one comes first, the
    /// Puller has forgotten those between.
    unproved: BTreeSet<String>,
}

/// What an intake received, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A change that was not received before, or a heartbeat that moves the marker.
    Event(Box<PullerEvent>),
    /// Changes before the next one may be missing.
    Lost(Lost),
}

/// The reason for which changes may be missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The Puller sent later changes and not the last one again.
    #[error("the Puller no longer holds the last change of backend {backend:?} that was received")]
    Forgotten {
        /// The name of the backend.
        backend: String,
    },
    /// The Puller has passed damaged changes: the marker is behind them.
    #[error("the Puller cannot read some of its changes: {message}")]
    Damaged {
        /// The Puller's message.
        message: String,
    },
    /// The Puller refused the marker. A new one begins with everything that it holds.
    #[error("the Puller refuses the marker: {message}")]
    Refused {
        /// The Puller's message.
        message: String,
    },
}

type Cx = Context<SubscribeRequest, Received>;

impl Intake {
    /// Creates an intake that continues after `marker`. `consumer` must be unique: a Puller may take two
    /// subscribers with one id for the same (P1).
    #[must_use]
    pub fn new(consumer: impl Into<String>, marker: Marker) -> Self {
        Self {
            consumer: consumer.into(),
            received: marker,
            unproved: BTreeSet::new(),
        }
    }

    fn on_event(&mut self, event: PullerEvent, cx: &mut Cx) -> Result<(), InvalidMarker> {
        let is_new = if let Some(change) = &event.change_event {
            let seen = self.received.relation(change)?;
            self.check_overlap(change, seen, cx);
            self.received.advance(&event)?;
            seen != Seen::Repeated
        } else {
            // A heartbeat that says nothing new takes no capacity of the queue.
            let before = self.received.clone();
            self.received.advance(&event)?;
            self.received != before
        };
        if is_new {
            cx.emit(Received::Event(Box::new(event)));
        }
        Ok(())
    }

    /// Notices that a Puller has forgotten changes: it was asked for the last one again, and a later one
    /// came first (P5).
    fn check_overlap(&mut self, change: &ChangeEvent, seen: Seen, cx: &mut Cx) {
        if self.unproved.remove(&change.backend) && seen == Seen::Later {
            let backend = change.backend.clone();
            cx.emit(Received::Lost(Lost::Forgotten { backend }));
        }
    }
}

impl Protocol for Intake {
    type Send = SubscribeRequest;
    type Receive = PullerEvent;
    type Command = ();
    type Event = Received;

    fn on_open(&mut self, _: Time, generation: Generation, cx: &mut Cx) {
        self.unproved = self.received.reached_backends();
        cx.send(SubscribeRequest {
            // Another id on each attempt: the end of the older stream at a Go server closes a younger
            // one of the same id (P1).
            consumer_id: format!("{}-{}", self.consumer, generation.0),
            after: self.received.request().to_string(),
            // Merged changes lose their backend and their kind (P6, P7).
            coalesce_on_catch_up: false,
        });
    }

    fn on_message(&mut self, _: Time, event: PullerEvent, cx: &mut Cx) {
        if let Err(error) = self.on_event(event, cx) {
            let reason = Reason::Protocol(Detail::from_error(error));
            cx.fail(End::retry(Initiator::Peer, reason));
        }
    }

    fn on_command(&mut self, _: Time, (): (), _: &mut Cx) {}

    fn on_heartbeat(&mut self, _: Time, _: &mut Cx) {}

    fn on_down(&mut self, _: Time, end: &End, cx: &mut Cx) {
        match lost_with(end) {
            Some(Lost::Refused { message }) if self.received != Marker::default() => {
                // Without what was received: what the Puller has now may be another history.
                self.received = Marker::default();
                cx.emit(Received::Lost(Lost::Refused { message }));
            }
            // Nothing was received yet, so that nothing is lost.
            None | Some(Lost::Refused { .. }) => {}
            Some(lost) => cx.emit(Received::Lost(lost)),
        }
    }

    fn on_stop(&mut self, _: Time, _: &End, _: &mut Cx) {}
}

/// Returns the loss that the Puller announced by the end of the stream.
fn lost_with(end: &End) -> Option<Lost> {
    const INVALID_ARGUMENT: i32 = 3;
    const OUT_OF_RANGE: i32 = 11;
    const DATA_LOSS: i32 = 15;
    match &end.reason {
        Reason::Status { code, message } if end.initiator == Initiator::Peer => match *code {
            DATA_LOSS => Some(Lost::Damaged {
                message: message.clone(),
            }),
            OUT_OF_RANGE => Some(Lost::Refused {
                message: message.clone(),
            }),
            INVALID_ARGUMENT if message.contains("marker") => Some(Lost::Refused {
                message: message.clone(),
            }),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
