//! Publishers: each has one entry under way, and submits it again until it is acknowledged.

use std::sync::Arc;

use bytes::Bytes;
use steadfast_streamer::log::Submission;

use crate::subscription::Payload;

/// One producer.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) number: u64,
    name: Arc<str>,
    pub(crate) sequence: u64,
    pub(crate) under_way: Option<Entry>,
    pub(crate) acknowledged: Vec<Payload>,
}

/// An entry that is not acknowledged yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) payload: Payload,
    /// Whether it has to be submitted (again).
    pub(crate) idle: bool,
}

impl Publisher {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            name: format!("publisher-{number}").into(),
            sequence: 0,
            under_way: None,
            acknowledged: Vec::new(),
        }
    }

    pub(crate) fn begin(&mut self, value: u64) {
        self.sequence += 1;
        let payload = Payload {
            publisher: self.number,
            sequence: self.sequence,
            value,
        };
        self.under_way = Some(Entry {
            payload,
            idle: true,
        });
    }

    pub(crate) fn submission(&self, payload: Payload) -> Submission {
        Submission {
            producer: Arc::clone(&self.name),
            sequence: payload.sequence,
            database: "default".into(),
            collection: "things".into(),
            document_id: format!("d{}", payload.document()).into(),
            operation: None,
            data: Bytes::from(payload.to_json()),
            origin: None,
        }
    }

    /// The server said it has the entry.
    pub(crate) fn acknowledge(&mut self, payload: Payload) {
        if self.under_way.is_some_and(|entry| entry.payload == payload) {
            self.under_way = None;
            self.acknowledged.push(payload);
        }
    }

    /// The submission or its answer was lost.
    pub(crate) fn lose(&mut self) {
        if let Some(entry) = &mut self.under_way {
            entry.idle = true;
        }
    }
}
