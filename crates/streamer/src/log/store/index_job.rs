//! The transactions of the index. They may run on a thread beside the commits, because all that they write was
//! decided when they began.

use std::{collections::BTreeMap, sync::Arc, thread::JoinHandle};

use redb::{ReadableTable as _, WriteTransaction};

use super::{
    SegmentLog, Shared,
    disk::is_refused_open,
    engine::{
        self, APPLIED_UPTO, DOCUMENTS, FIRST, PRODUCERS, catch_panics, decode_producer, set_number,
        storage,
    },
    lost_changes::LostChanges,
    segments::Visited,
};
use crate::{
    Event,
    log::{
        Bounds, DocumentKey, LogError,
        encoding::{StoredDocument, StoredEvent, StoredProducer},
        ingest::DocumentState,
        with_sources,
    },
};

/// Maximum number of events trimmed, or producers removed, in one transaction.
///
/// More than the events of one commit, so that a writer that does one slice after each commit trims
/// faster than it appends.
pub(super) const SLICE: usize = 4_096;

/// One transaction of the index.
pub(super) struct IndexJob {
    shared: Arc<Shared>,
    /// `None` if the index stays behind.
    states: Option<States>,
    removal: Removal,
}

/// The part of the log up to an offset that the index does not have yet.
struct States {
    /// In the order of their keys.
    documents: Vec<(DocumentKey, DocumentState)>,
    producers: BTreeMap<Arc<str>, StoredProducer>,
    lost: LostChanges,
    upto: u64,
}

/// The rows that a transaction removes besides.
#[derive(Clone, Copy, Debug)]
pub(super) enum Removal {
    Nothing,
    /// The oldest events, up to an offset or to the first one that is not expired.
    Events {
        upto: u64,
        expiry: Option<Expiry>,
    },
    /// The producers that were used last before this time.
    Producers {
        oldest_ms: i64,
    },
}

/// The retention limits, and what they are compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    pub(super) age_max_ms: Option<i64>,
    pub(super) bytes_max: Option<u64>,
    /// The reading of the age clock.
    pub(super) now_ms: i64,
    /// The size of all records and rests of segments, the trimmed ones included.
    pub(super) bytes: u64,
}

/// The result of a transaction.
pub(super) struct Written {
    states: Option<States>,
    /// Number of rows that were written or removed.
    #[cfg(test)]
    rows: usize,
    /// More producers may be idle.
    more_producers: bool,
}

/// The way in which the transactions run.
#[derive(Clone, Copy, Debug)]
pub(super) enum IndexMode {
    /// In the call that begins them.
    Inline,
    /// On a thread of their own, beside commits and reads.
    Thread,
    /// In the next call that looks for their end, so that a test decides what happens in between.
    #[cfg(any(test, feature = "testing"))]
    Held,
}

/// A transaction that was begun.
pub(super) struct Running {
    step: Step,
    /// The head when it began.
    pub(super) began_at: u64,
    /// It trims events.
    pub(super) trims: bool,
}

enum Step {
    Thread(JoinHandle<Result<Written, LogError>>),
    #[cfg(any(test, feature = "testing"))]
    Held(Box<IndexJob>),
}

impl Expiry {
    /// Returns `true` if an event exceeds a limit, with this size of what is before it.
    pub(super) fn is_over(&self, stored: &StoredEvent, bytes_before: u64) -> bool {
        let age = self.now_ms.saturating_sub(stored.logged_ms);
        // Both totals include what was trimmed, so that their difference is what the log still holds.
        let held = self.bytes.saturating_sub(bytes_before);
        self.age_max_ms.is_some_and(|limit| age > limit)
            || self.bytes_max.is_some_and(|limit| held > limit)
    }
}

impl SegmentLog {
    /// Begins a transaction of the index, which brings it up to the head unless producers are removed. The one
    /// before must be finished.
    pub(super) fn begin_index_job(&mut self, removal: Removal) -> Result<(), LogError> {
        // redb cannot continue after a failed write, so that it must not begin one on a full disk.
        self.check_index_space()?;
        // The index must not know of more than the segments hold after a power failure.
        self.sync()?;
        let step = match self.index_mode {
            IndexMode::Inline => {
                let written = self.index_job(removal).run()?;
                self.on_index_written(&written);
                return Ok(());
            }
            IndexMode::Thread => {
                let (sender, job) = std::sync::mpsc::sync_channel::<IndexJob>(1);
                let thread = std::thread::Builder::new()
                    .name("log-index".to_owned())
                    .spawn(move || job.recv().map_err(LogError::storage)?.run())
                    // As on a full disk: it is tried again, and the log goes on.
                    .map_err(|error| LogError::NoSpace(Arc::new(error)))?;
                // Only now: what is in a job is no longer pending.
                let job = self.index_job(removal);
                sender.send(job).map_err(LogError::storage)?;
                Step::Thread(thread)
            }
            #[cfg(any(test, feature = "testing"))]
            IndexMode::Held => Step::Held(Box::new(self.index_job(removal))),
        };
        self.running = Some(Running {
            step,
            began_at: self.shared.bounds().head,
            trims: matches!(removal, Removal::Events { .. }),
        });
        Ok(())
    }

    /// Takes note of the end of the transaction that was begun, and waits for it if that is asked for.
    /// Returns `false` if it still runs.
    pub(super) fn finish_index_job(&mut self, waits: bool) -> Result<bool, LogError> {
        let is_finished = |running: &mut Running| match &running.step {
            Step::Thread(thread) => waits || thread.is_finished(),
            #[cfg(any(test, feature = "testing"))]
            Step::Held(_) => true,
        };
        let Some(running) = self.running.take_if(is_finished) else {
            return Ok(self.running.is_none());
        };
        let written = match running.step {
            // A panic in redb is an error already.
            Step::Thread(thread) => thread
                .join()
                .map_err(|_panic| LogError::storage("the thread of the index panicked"))??,
            #[cfg(any(test, feature = "testing"))]
            Step::Held(job) => job.run()?,
        };
        self.on_index_written(&written);
        Ok(true)
    }

    fn index_job(&mut self, removal: Removal) -> IndexJob {
        // A producer whose row is removed keeps a newer state in memory.
        let is_applied = !matches!(removal, Removal::Producers { .. });
        let states = is_applied.then(|| States {
            documents: self.documents.begin_transaction(),
            producers: self.shared.producers().clone(),
            lost: self.lost,
            upto: self.shared.bounds().head,
        });
        IndexJob {
            shared: Arc::clone(&self.shared),
            states,
            removal,
        }
    }

    fn on_index_written(&mut self, written: &Written) {
        // Only after the commit: until then commits and readers need the states in memory.
        if let Some(States { producers, .. }) = &written.states {
            self.documents.on_applied();
            let mut newer = self.shared.producers();
            newer.retain(|name, state| producers.get(name) != Some(state));
        }
        if written.more_producers {
            self.maintenance.producers_checked_ms = None;
        }
        #[cfg(test)]
        {
            self.index_rows = written.rows;
        }
    }
}

impl IndexJob {
    fn run(self) -> Result<Written, LogError> {
        catch_panics(|| self.commit())
    }

    fn commit(self) -> Result<Written, LogError> {
        let transaction = self.shared.engine.begin_commit()?;
        let mut rows = 0;
        if let Some(states) = &self.states {
            rows += states.documents.len() + states.producers.len();
            states.write(&transaction)?;
        }
        let Bounds { first, .. } = self.shared.bounds();
        let mut reached = first;
        let mut more_producers = false;
        match self.removal {
            Removal::Nothing => {}
            Removal::Events { upto, expiry } => {
                let kept;
                (reached, kept) = self.keep_documents(&transaction, first, upto, expiry)?;
                rows += kept;
                // In the transaction of the rows: an event is either readable in the log or kept in its
                // row.
                set_number(&transaction, FIRST, reached)?;
            }
            Removal::Producers { oldest_ms } => {
                let removed = forget_producers(&transaction, oldest_ms)?;
                rows += removed;
                more_producers = removed == SLICE;
            }
        }
        if rows > 0 || reached > first {
            transaction.commit().map_err(storage)?;
        }
        if reached > first {
            // Before the files go, so that a reader that meets a missing one finds the reason.
            self.shared.set_bounds(|bounds| bounds.first = reached);
            // Last: a crash before it leaves files that nobody reads.
            self.shared.segments.remove_before(reached);
        }
        Ok(Written {
            states: self.states,
            #[cfg(test)]
            rows,
            more_producers,
        })
    }

    /// Moves the oldest events, at most one slice of them, into the rows of the documents of which they
    /// are the last ones. Returns the offset that it reached, and the number of these rows.
    fn keep_documents(
        &self,
        transaction: &WriteTransaction,
        first: u64,
        upto: u64,
        expiry: Option<Expiry>,
    ) -> Result<(u64, usize), LogError> {
        let (mut reached, mut kept) = (first, Ok(0));
        let mut documents = transaction.open_table(DOCUMENTS).map_err(storage)?;
        let mut keep = |event: Arc<Event>| {
            let key = DocumentKey::of(&event);
            let mut document = match engine::document(&documents, &key) {
                Ok(Some(document)) => document,
                // Only after damage: the row of each document that is known has just been written.
                Ok(None) => return Ok(false),
                Err(error @ LogError::DamagedState { .. }) => {
                    tracing::error!(error = with_sources(&error), "a document is lost");
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            // Only the last event of a live document is kept: a row of a deleted one has no content.
            if document.state.offset != event.offset || document.state.deleted {
                return Ok(false);
            }
            document.event = Some(event);
            let encoded = document.encode(&key);
            documents
                .insert(key.as_tuple(), &*encoded)
                .map_err(storage)?;
            Ok(true)
        };
        let end = upto.min(first + SLICE as u64);
        let visited = self.shared.segments.visit(first, end, |visited| {
            match visited {
                Visited::Event(stored, bytes_before) => {
                    if expiry.is_some_and(|expiry| !expiry.is_over(&stored, bytes_before)) {
                        return false;
                    }
                    reached = stored.event.offset;
                    match (&mut kept, keep(stored.event)) {
                        (Ok(kept), Ok(is_kept)) => *kept += usize::from(is_kept),
                        (_, Err(error)) => kept = Err(error),
                        (Err(_), _) => {}
                    }
                }
                Visited::Damaged { upto, error } => {
                    // A damaged event has no time. It goes with the next one that expires, as the first
                    // one after the beginning has: if it were kept, no later event could ever be trimmed.
                    if expiry.is_none() || reached == first {
                        tracing::error!(upto, %error, "trimming damaged events");
                        reached = upto;
                    }
                }
            }
            kept.is_ok()
        });
        match visited {
            // What was reached is trimmed, and the states are written. The next search finds the same file.
            Err(error) if is_refused_open(&error) => {}
            result => result?,
        }
        Ok((reached, kept?))
    }
}

impl States {
    fn write(&self, transaction: &WriteTransaction) -> Result<(), LogError> {
        let mut table = transaction.open_table(DOCUMENTS).map_err(storage)?;
        for (key, state) in &self.documents {
            // Read from its segment until the event is trimmed there.
            let (state, event) = (*state, None);
            let encoded = StoredDocument { state, event }.encode(key);
            table.insert(key.as_tuple(), &*encoded).map_err(storage)?;
        }
        let mut table = transaction.open_table(PRODUCERS).map_err(storage)?;
        for (name, producer) in &self.producers {
            let encoded = producer.encode(name);
            table.insert(&**name, &*encoded).map_err(storage)?;
        }
        // In the same transaction, so that after a crash exactly the later events are reapplied, and
        // the losses among the earlier ones are still known.
        self.lost.write(transaction)?;
        set_number(transaction, APPLIED_UPTO, self.upto)
    }
}

/// Removes one slice of the idle producers, and returns their number.
fn forget_producers(transaction: &WriteTransaction, oldest_ms: i64) -> Result<usize, LogError> {
    let mut table = transaction.open_table(PRODUCERS).map_err(storage)?;
    let mut idle = Vec::new();
    for item in table.iter().map_err(storage)? {
        let (name, encoded) = item.map_err(storage)?;
        // A damaged one is reported when it is used.
        let producer = decode_producer(name.value(), encoded.value()).ok();
        if producer.is_some_and(|producer| producer.is_expired(oldest_ms)) {
            idle.push(name.value().to_owned());
        }
        if idle.len() == SLICE {
            break;
        }
    }
    for name in &idle {
        table.remove(&**name).map_err(storage)?;
    }
    Ok(idle.len())
}
