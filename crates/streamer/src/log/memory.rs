//! A log in memory, for tests and simulations.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Bounds, DocumentKey, DocumentPage, Limits, Log, LogError, LogReader, Outcome,
    PRODUCER_LIFETIME_MS, ProducerState, Submission,
    ingest::DocumentState,
    page::Page,
    plan::{Known, Plan},
    record::StoredProducer,
};
use crate::{Epoch, Event};

/// A log that lives as long as its handles.
///
/// What `append` returned is "durable": [`Self::reopen`] has it, and nothing else. It is
/// deterministic, and grows until it is trimmed: there is no retention.
#[derive(Debug)]
pub struct MemoryLog {
    limits: Limits,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    epoch: Epoch,
    contents: Mutex<Contents>,
}

#[derive(Clone, Debug, Default)]
struct Contents {
    /// The events after `first`, without holes.
    events: VecDeque<Arc<Event>>,
    first: u64,
    producers: BTreeMap<Arc<str>, StoredProducer>,
    documents: BTreeMap<DocumentKey, (DocumentState, Arc<Event>)>,
}

impl MemoryLog {
    /// An empty log named `epoch`.
    #[must_use]
    pub fn with_epoch(epoch: Epoch) -> Self {
        Self::with_limits(epoch, Limits::default())
    }

    /// An empty log named `epoch` that takes entries up to `limits`.
    #[must_use]
    pub fn with_limits(epoch: Epoch, limits: Limits) -> Self {
        Self::holding(epoch, limits, Contents::default())
    }

    /// The log as a new process would find it after this one was killed: with everything that was
    /// committed, and independent of this handle and its readers.
    #[must_use]
    pub fn reopen(&self) -> Self {
        let contents = self.shared.contents().clone();
        Self::holding(self.shared.epoch, self.limits, contents)
    }

    fn holding(epoch: Epoch, limits: Limits, contents: Contents) -> Self {
        let contents = Mutex::new(contents);
        Self {
            limits,
            shared: Arc::new(Shared { epoch, contents }),
        }
    }
}

impl Log for MemoryLog {
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        let mut contents = self.shared.contents();
        let head = contents.bounds().head;
        let plan = Plan::new(batch, head, now_ms, &self.limits, &mut *contents)?;
        for (name, state) in plan.producers {
            let used_ms = now_ms;
            let producer = StoredProducer { state, used_ms };
            contents.producers.insert(name, producer);
        }
        for entry in plan.entries {
            let key = DocumentKey::of(&entry.event);
            contents.events.push_back(Arc::clone(&entry.event));
            contents.documents.insert(key, (entry.state, entry.event));
        }
        Ok(plan.outcomes)
    }

    fn maintain(&mut self, now_ms: i64) -> Result<bool, LogError> {
        let oldest = now_ms.saturating_sub(PRODUCER_LIFETIME_MS);
        let mut contents = self.shared.contents();
        contents
            .producers
            .retain(|_, producer| !producer.is_forgotten(oldest));
        Ok(false)
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
    fn epoch(&self) -> Epoch {
        self.epoch
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
        if after >= head {
            return Ok(Vec::new());
        }
        let mut page = Page::new(max_events, max_bytes);
        for event in contents.events.range(index(after - first)..) {
            if !page.has_room() {
                break;
            }
            page.push(Arc::clone(event));
        }
        Ok(page.into_events())
    }

    fn producer(&self, name: &str) -> Result<ProducerState, LogError> {
        Known::producer(&mut *self.contents(), name)
    }

    fn documents(
        &self,
        database: &str,
        collection: Option<&str>,
        after: Option<&DocumentKey>,
        max_documents: usize,
        max_bytes: usize,
    ) -> Result<DocumentPage, LogError> {
        let contents = self.contents();
        let start = after.map_or_else(
            || Bound::Included(DocumentKey::least(database, collection)),
            |key| Bound::Excluded(key.clone()),
        );
        let mut page = Page::new(max_documents.max(1), max_bytes);
        let mut seen = after;
        let mut next = None;
        for (key, (state, event)) in contents.documents.range((start, Bound::Unbounded)) {
            if !key.belongs_to(database, collection) {
                break;
            }
            if !page.has_room() {
                next = seen.cloned();
                break;
            }
            if !state.deleted {
                page.push(Arc::clone(event));
            }
            seen = Some(key);
        }
        Ok(DocumentPage {
            documents: page.into_events(),
            as_of: contents.bounds().head,
            next,
        })
    }
}

impl Shared {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Every change of the contents is made of steps that do not panic.
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

impl Known for Contents {
    fn producer(&mut self, name: &str) -> Result<ProducerState, LogError> {
        let producer = self.producers.get(name);
        Ok(producer.map_or_else(ProducerState::default, |producer| producer.state.clone()))
    }

    fn document(&mut self, key: &DocumentKey) -> Result<Option<DocumentState>, LogError> {
        Ok(self.documents.get(key).map(|(state, _)| *state))
    }
}

fn index(distance: u64) -> usize {
    usize::try_from(distance).expect("a distance between two events in memory is an index")
}
