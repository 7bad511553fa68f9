//! Publishers: each has one entry in flight and submits it again until it is acknowledged.

use std::sync::Arc;

use steadfast_streamer::log::{DocumentKey, Submission};

use crate::payload::Payload;

/// A publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) number: u64,
    name: Arc<str>,
    pub(crate) sequence: u64,
    pub(crate) in_flight: Option<Entry>,
    pub(crate) acknowledged: Vec<Payload>,
}

/// An entry that is not acknowledged yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) payload: Payload,
    /// The entry must be submitted, or submitted again.
    pub(crate) needs_submission: bool,
}

impl Publisher {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            name: format!("publisher-{number}").into(),
            sequence: 0,
            in_flight: None,
            acknowledged: Vec::new(),
        }
    }

    pub(crate) fn create_entry(&mut self, value: u64) {
        self.sequence += 1;
        let payload = Payload {
            publisher: self.number,
            sequence: self.sequence,
            value,
        };
        self.in_flight = Some(Entry {
            payload,
            needs_submission: true,
        });
    }

    pub(crate) fn submission(&self, payload: Payload) -> Submission {
        let document = DocumentKey::new("default", payload.collection(), payload.id());
        let producer = Arc::clone(&self.name);
        Submission::new(producer, payload.sequence, document, payload.to_json())
    }

    /// Handles the acknowledgement of an entry.
    pub(crate) fn acknowledge(&mut self, payload: Payload) {
        if self.in_flight.is_some_and(|entry| entry.payload == payload) {
            self.in_flight = None;
            self.acknowledged.push(payload);
        }
    }

    /// Handles the loss of the submission or of its acknowledgement.
    pub(crate) fn mark_lost(&mut self) {
        if let Some(entry) = &mut self.in_flight {
            entry.needs_submission = true;
        }
    }
}
