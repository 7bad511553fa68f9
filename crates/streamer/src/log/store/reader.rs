//! The reading side of the log in a directory.

use std::sync::Arc;

use redb::ReadableDatabase;

use super::{
    Shared, documents,
    engine::{self, PRODUCERS, catch_panics, storage},
    reads::Reads,
    segments::Visited,
};
use crate::{
    Event, Terms,
    log::{
        Bounds, DocumentPage, DocumentQuery, LogError, LogReader, LogStats, ProducerState,
        page::PageBuilder,
    },
};

impl LogReader for Shared {
    fn terms(&self) -> Terms {
        self.terms.clone()
    }

    fn bounds(&self) -> Bounds {
        Self::bounds(self)
    }

    fn stats(&self) -> LogStats {
        let (files, bytes, syncs) = self.segments.stats();
        LogStats {
            bytes,
            files,
            syncs,
            recovered: self.recovered,
            lost_changes: self.lost_changes,
            opened_in: self.opened_in,
            sync_interval: self.sync_interval,
        }
    }

    fn read(
        &self,
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Event>>, LogError> {
        let Bounds { first, head } = Self::bounds(self);
        if after < first {
            return Err(LogError::Trimmed { after, first });
        }
        if after >= head || max_events == 0 {
            return Ok(Vec::new());
        }
        // Read without a lock: up to `head` everything is committed and immutable.
        let mut page = PageBuilder::new(max_events, max_bytes);
        let mut damage = None;
        let mut reads = match max_events {
            1 => Reads::of_single_events(),
            _ => Reads::of_many(),
        };
        let visit = |visited| match visited {
            Visited::Event(stored, _) => {
                page.push(stored.event);
                !page.is_full()
            }
            // The reader gets the readable events now, and the error with its next request.
            Visited::Damaged { upto, error } => {
                damage = Some((upto, error));
                false
            }
        };
        self.segments.visit_in(&mut reads, after, head, visit)?;
        match damage {
            Some((offset, source)) if page.is_empty() => {
                // The log may have been trimmed after `head` was read.
                let Bounds { first, .. } = Self::bounds(self);
                Err(if after < first {
                    LogError::Trimmed { after, first }
                } else {
                    LogError::Damaged { offset, source }
                })
            }
            Some(_) | None => Ok(page.into_events()),
        }
    }

    fn producer(&self, name: &str) -> Result<ProducerState, LogError> {
        // Before the snapshot is taken: a state that is applied meanwhile is in the index before it is
        // removed here. The other way round, both could lack it, and a publisher would number its entries
        // from an old sequence: they would count as duplicates.
        if let Some(newer) = self.newer_producer(name) {
            return Ok(newer);
        }
        catch_panics(|| {
            let transaction = self.engine.begin_read().map_err(storage)?;
            engine::producer(&transaction.open_table(PRODUCERS).map_err(storage)?, name)
        })
    }

    fn documents(&self, query: DocumentQuery<'_>) -> Result<DocumentPage, LogError> {
        catch_panics(|| {
            loop {
                let Bounds { first, .. } = Self::bounds(self);
                let transaction = self.engine.begin_read().map_err(storage)?;
                match documents::read(&transaction, &self.segments, query) {
                    // The log was trimmed meanwhile: a newer transaction has the content of the
                    // documents whose segment is gone. Each turn needs another trimming.
                    Err(LogError::DamagedState { .. }) if Self::bounds(self).first > first => {}
                    page => return page,
                }
            }
        })
    }
}
