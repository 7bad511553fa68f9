//! The changes that a batch of submissions makes to a log, computed before anything is written.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    DocumentKey, Limits, LogError, Outcome, ProducerState, Submission,
    ingest::{DocumentEvent, DocumentState, Sequence, check_sequence, ingest},
};

/// The committed state that a plan starts from.
pub(super) trait CommittedState {
    /// Returns the state of a producer.
    fn producer(&mut self, name: &str) -> Result<ProducerState, LogError>;

    /// Returns the state of a document, or `None` if the log has never seen it.
    fn document(&mut self, key: &DocumentKey) -> Result<Option<DocumentState>, LogError>;
}

/// All changes of one commit.
#[derive(Debug, Default)]
pub(super) struct CommitPlan {
    /// One outcome per submission, in order.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) events: Vec<DocumentEvent>,
    /// The new states of producers.
    pub(super) producers: BTreeMap<Arc<str>, ProducerState>,
    /// The new states of documents.
    pub(super) documents: BTreeMap<DocumentKey, DocumentState>,
}

impl CommitPlan {
    /// Plans the commit of `batch` to a log with this `head`.
    pub(super) fn new(
        batch: Vec<Submission>,
        head: u64,
        now_ms: i64,
        limits: &Limits,
        committed: &mut impl CommittedState,
    ) -> Result<Self, LogError> {
        let mut plan = Self::default();
        plan.outcomes.reserve(batch.len());
        for submission in batch {
            let outcome = plan.add(submission, head, now_ms, limits, committed)?;
            plan.outcomes.push(outcome);
        }
        Ok(plan)
    }

    /// Returns `true` if nothing must be written.
    pub(super) fn is_empty(&self) -> bool {
        // A refused entry has no event, but its producer's sequence must be stored.
        self.events.is_empty() && self.producers.is_empty()
    }

    fn add(
        &mut self,
        submission: Submission,
        head: u64,
        now_ms: i64,
        limits: &Limits,
        committed: &mut impl CommittedState,
    ) -> Result<Outcome, LogError> {
        // The batch first: an earlier entry of it may be by the same producer.
        let mut producer = match self.producers.get(&submission.producer) {
            Some(producer) => producer.clone(),
            None => committed.producer(&submission.producer)?,
        };
        let last = producer.last_sequence;
        let offset = head + 1 + self.events.len() as u64;
        match check_sequence(last, submission.sequence) {
            // The first response may have been lost. A refused entry must be refused again, since
            // `Duplicate` would mean that it is in the log.
            Sequence::Committed => {
                let repeated = ingest(&submission, None, offset, now_ms, limits);
                return Ok(repeated.map_or_else(Outcome::Refused, |_| Outcome::Duplicate));
            }
            Sequence::Jump => return Ok(Outcome::Jump { last }),
            Sequence::Next => {}
        }
        let document = match self.documents.get(&submission.document) {
            Some(state) => Some(*state),
            None => committed.document(&submission.document)?,
        };
        let ingested = ingest(&submission, document.as_ref(), offset, now_ms, limits);
        // A name that cannot be stored has no sequence to record. Any other refused entry uses up its
        // sequence, so that one invalid entry does not block its producer forever.
        if (1..=limits.name_bytes).contains(&submission.producer.len()) {
            producer.last_sequence = submission.sequence;
            if let Some(origin) = submission.origin {
                producer.marker = Some(origin.marker);
            }
            self.producers.insert(submission.producer, producer);
        }
        Ok(match ingested {
            Err(refused) => Outcome::Refused(refused),
            Ok(appended) => {
                let event = Arc::clone(&appended.event);
                self.documents.insert(submission.document, appended.state);
                self.events.push(appended);
                Outcome::Appended(event)
            }
        })
    }
}
