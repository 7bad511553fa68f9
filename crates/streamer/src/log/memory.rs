//! A log in memory, for tests and simulations.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Bounds, DocumentKey, DocumentPage, DocumentQuery, Limits, Log, LogError, LogReader, Outcome,
    PRODUCER_LIFETIME_MS, ProducerState, Submission,
    age_clock::AgeClock,
    encoding::StoredProducer,
    ingest::{DocumentEvent, DocumentState},
    page::{PageBuilder, Row},
    plan::{CommitPlan, CommittedState},
};
use crate::{Epoch, Event, Terms};

/// A log that lives as long as its handles.
///
/// "Durable" means here that [`Self::reopen`] returns it. The log is deterministic, and grows until
/// it is trimmed: it has no retention.
#[derive(Debug)]
pub struct MemoryLog {
    limits: Limits,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    terms: Terms,
    contents: Mutex<Contents>,
}

#[derive(Clone, Debug, Default)]
struct Contents {
    /// The events after `first`, without holes.
    events: VecDeque<Arc<Event>>,
    first: u64,
    producers: BTreeMap<Arc<str>, StoredProducer>,
    clock: AgeClock,
    /// The last event of each document; outlives its copy in `events`.
    documents: BTreeMap<DocumentKey, DocumentEvent>,
}

impl MemoryLog {
    /// Creates an empty log with this epoch.
    #[must_use]
    pub fn with_epoch(epoch: Epoch) -> Self {
        Self::with_limits(epoch, Limits::default())
    }

    /// Creates an empty log with this epoch and these limits.
    #[must_use]
    pub fn with_limits(epoch: Epoch, limits: Limits) -> Self {
        Self::with_contents(Terms::new(epoch), limits, Contents::default())
    }

    /// Returns the log as a new process would find it if this one were killed now: with every
    /// commit, in a term of its own, and independent of this handle and its readers.
    #[must_use]
    pub fn reopen(&self) -> Self {
        let contents = self.shared.contents().clone();
        let Bounds { first, head } = contents.bounds();
        let mut terms = self.shared.terms.clone();
        // Not random, so that simulations repeat: the odd constant makes all ids of one log differ.
        let next = terms.current().0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        terms.begin(Epoch(next), first, head);
        Self::with_contents(terms, self.limits, contents)
    }

    fn with_contents(terms: Terms, limits: Limits, contents: Contents) -> Self {
        let contents = Mutex::new(contents);
        Self {
            limits,
            shared: Arc::new(Shared { terms, contents }),
        }
    }
}

impl Log for MemoryLog {
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        // Locked until the whole batch is in, so that readers see a commit entirely or not at all.
        let mut contents = self.shared.contents();
        let head = contents.bounds().head;
        let plan = CommitPlan::new(batch, head, now_ms, &self.limits, &mut *contents)?;
        let used_ms = contents.clock.now_ms(now_ms);
        for (name, state) in plan.producers {
            let producer = StoredProducer { state, used_ms };
            contents.producers.insert(name, producer);
        }
        for appended in plan.events {
            let key = DocumentKey::of(&appended.event);
            contents.events.push_back(Arc::clone(&appended.event));
            contents.documents.insert(key, appended);
        }
        Ok(plan.outcomes)
    }

    fn maintain(&mut self, now_ms: i64) -> Result<bool, LogError> {
        let mut contents = self.shared.contents();
        let now_ms = contents
            .clock
            // No time passes between steps: a reading of the monotonic clock would not replay.
            .advance(now_ms, Duration::ZERO, AgeClock::STEP_MS);
        let oldest = now_ms.saturating_sub(PRODUCER_LIFETIME_MS);
        contents
            .producers
            .retain(|_, producer| !producer.is_expired(oldest));
        Ok(false)
    }

    fn touch(&mut self, producer: &str, now_ms: i64) -> Result<(), LogError> {
        let mut contents = self.shared.contents();
        let used_ms = contents.clock.now_ms(now_ms);
        if let Some(producer) = contents.producers.get_mut(producer) {
            producer.used_ms = used_ms;
        }
        Ok(())
    }

    fn trim(&mut self, upto: u64) -> Result<(), LogError> {
        let mut contents = self.shared.contents();
        let Bounds { first, head } = contents.bounds();
        let upto = upto.min(head);
        if upto > first {
            contents.events.drain(..index(upto - first));
            contents.first = upto;
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::clone(&self.shared) as Arc<dyn LogReader>
    }
}

impl LogReader for Shared {
    fn terms(&self) -> Terms {
        self.terms.clone()
    }

    fn bounds(&self) -> Bounds {
        self.contents().bounds()
    }

    fn read(
        &self,
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Event>>, LogError> {
        let contents = self.contents();
        let Bounds { first, head } = contents.bounds();
        if after < first {
            return Err(LogError::Trimmed { after, first });
        }
        let mut page = PageBuilder::new(max_events, max_bytes);
        // `after` may be beyond the head.
        for event in contents.events.range(index(after.min(head) - first)..) {
            if page.is_full() {
                break;
            }
            page.push(Arc::clone(event));
        }
        Ok(page.into_events())
    }

    fn producer(&self, name: &str) -> Result<ProducerState, LogError> {
        CommittedState::producer(&mut *self.contents(), name)
    }

    fn documents(&self, query: DocumentQuery<'_>) -> Result<DocumentPage, LogError> {
        let contents = self.contents();
        let documents = contents.documents.range(query.range());
        let rows = documents.map(|(key, last)| {
            let row = if last.state.deleted {
                Row::Deleted
            } else {
                Row::Known(Arc::clone(&last.event))
            };
            Ok((key.clone(), move |_: &DocumentKey| Ok(row)))
        });
        let nowhere = |_| unreachable!("every row has its event");
        query.collect(contents.bounds().head, rows, nowhere)
    }
}

impl Shared {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        // No step that changes the contents can panic halfway, so they are whole even if poisoned.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn bounds(&self) -> Bounds {
        Bounds {
            first: self.first,
            head: self.first + self.events.len() as u64,
        }
    }
}

impl CommittedState for Contents {
    fn producer(&mut self, name: &str) -> Result<ProducerState, LogError> {
        let producer = self.producers.get(name);
        Ok(producer.map_or_else(ProducerState::default, |producer| producer.state.clone()))
    }

    fn document(&mut self, key: &DocumentKey) -> Result<Option<DocumentState>, LogError> {
        Ok(self.documents.get(key).map(|last| last.state))
    }
}

fn index(distance: u64) -> usize {
    usize::try_from(distance).expect("a distance between two events in memory is an index")
}
