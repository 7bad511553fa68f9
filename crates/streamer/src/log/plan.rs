//! What a batch of submissions does to a log, worked out before anything is written.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    DocumentKey, Limits, LogError, Outcome, ProducerState, Submission,
    ingest::{DocumentState, Place, ingest, place},
};
use crate::{Event, Operation};

/// What a log can be asked while a batch is worked out.
pub(super) trait Known {
    /// What is known of a producer.
    fn producer(&mut self, name: &str) -> Result<ProducerState, LogError>;

    /// What is known of a document.
    fn document(&mut self, key: &DocumentKey) -> Result<Option<DocumentState>, LogError>;
}

/// An entry to be written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) event: Arc<Event>,
    pub(super) state: DocumentState,
}

/// Everything a batch changes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) entries: Vec<Entry>,
    /// New states of producers.
    pub(super) producers: BTreeMap<Arc<str>, ProducerState>,
    /// New states of documents.
    pub(super) documents: BTreeMap<DocumentKey, DocumentState>,
}

impl Plan {
    /// Works out what `batch` does to a log whose newest entry is `head`.
    pub(super) fn new(
        batch: Vec<Submission>,
        head: u64,
        now_ms: i64,
        limits: &Limits,
        known: &mut impl Known,
    ) -> Result<Self, LogError> {
        let mut plan = Self::default();
        plan.outcomes.reserve(batch.len());
        for submission in batch {
            let outcome = plan.take(submission, head, now_ms, limits, known)?;
            plan.outcomes.push(outcome);
        }
        Ok(plan)
    }

    /// Whether nothing is to be written.
    pub(super) fn changes_nothing(&self) -> bool {
        self.entries.is_empty() && self.producers.is_empty()
    }

    fn take(
        &mut self,
        submission: Submission,
        head: u64,
        now_ms: i64,
        limits: &Limits,
        known: &mut impl Known,
    ) -> Result<Outcome, LogError> {
        let mut producer = match self.producers.get(&submission.producer) {
            Some(producer) => producer.clone(),
            None => known.producer(&submission.producer)?,
        };
        let last = producer.last_sequence;
        match place(last, submission.sequence) {
            // A refusal that was lost on its way is told again; it must not look like an entry that
            // is in the log.
            Place::Taken => {
                let again = ingest(&submission, None, now_ms, limits);
                return Ok(again.map_or_else(Outcome::Refused, |_| Outcome::Duplicate));
            }
            Place::Jump => return Ok(Outcome::Jump { last }),
            Place::Next => {}
        }
        let key = DocumentKey {
            database: Arc::clone(&submission.database),
            collection: Arc::clone(&submission.collection),
            document_id: Arc::clone(&submission.document_id),
        };
        let document = match self.documents.get(&key) {
            Some(state) => Some(*state),
            None => known.document(&key)?,
        };
        let accepted = ingest(&submission, document.as_ref(), now_ms, limits);
        if (1..=limits.name_bytes).contains(&submission.producer.len()) {
            producer.last_sequence = submission.sequence;
            if let Some(origin) = submission.origin {
                producer.marker = Some(origin.marker);
            }
            self.producers.insert(submission.producer, producer);
        }
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(refused) => return Ok(Outcome::Refused(refused)),
        };
        let event = Arc::new(Event {
            offset: head + 1 + self.entries.len() as u64,
            database: submission.database,
            collection: submission.collection,
            document_id: submission.document_id,
            operation: accepted.operation,
            data: accepted.data,
            timestamp: now_ms,
        });
        let state = DocumentState {
            version: accepted.version,
            created_at: accepted.created_at,
            deleted: event.operation == Operation::Delete,
            offset: event.offset,
        };
        self.documents.insert(key, state);
        self.entries.push(Entry {
            event: Arc::clone(&event),
            state,
        });
        Ok(Outcome::Appended(event))
    }
}
