//! The reading side of the log in a file.

use std::sync::Arc;

use redb::{ReadTransaction, ReadableDatabase};

use super::{
    Shared, documents,
    engine::{self, EVENTS, FIRST, PRODUCERS, catch_panics, decode_event, number, storage},
};
use crate::{
    Event, Terms,
    log::{
        Bounds, DocumentPage, DocumentQuery, LogError, LogReader, ProducerState,
        encoding::DecodeError, page::PageBuilder,
    },
};

impl LogReader for Shared {
    fn terms(&self) -> Terms {
        self.terms.clone()
    }

    fn bounds(&self) -> Bounds {
        Self::bounds(self)
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
        catch_panics(|| {
            let transaction = self.engine.begin_read().map_err(storage)?;
            let page = PageBuilder::new(max_events, max_bytes);
            read(&transaction, after, head, page)
        })
    }

    fn producer(&self, name: &str) -> Result<ProducerState, LogError> {
        catch_panics(|| {
            let transaction = self.engine.begin_read().map_err(storage)?;
            engine::producer(&transaction.open_table(PRODUCERS).map_err(storage)?, name)
        })
    }

    fn documents(&self, query: DocumentQuery<'_>) -> Result<DocumentPage, LogError> {
        catch_panics(|| {
            let transaction = self.engine.begin_read().map_err(storage)?;
            documents::read(&transaction, query)
        })
    }
}

/// Reads the events after `after` until the page is full or an event cannot be decoded.
fn read(
    transaction: &ReadTransaction,
    after: u64,
    head: u64,
    mut page: PageBuilder,
) -> Result<Vec<Arc<Event>>, LogError> {
    let events = transaction.open_table(EVENTS).map_err(storage)?;
    let mut expected = after + 1;
    // Up to `head`, not to the end: a commit may be in the file before its head is published.
    for item in events.range(expected..=head).map_err(storage)? {
        let (offset, encoded) = item.map_err(storage)?;
        if offset.value() != expected {
            break;
        }
        match decode_event(expected, encoded.value()) {
            Ok(stored) => page.push(stored.event),
            Err(error) if page.is_empty() => return Err(error),
            // The reader gets the readable events now, and the error with its next request.
            Err(_) => break,
        }
        if page.is_full() {
            break;
        }
        expected += 1;
    }
    if page.is_empty() {
        // The log may have been trimmed after `head` was read and before the transaction began.
        let first = number(transaction, FIRST)?;
        return Err(if after < first {
            LogError::Trimmed { after, first }
        } else {
            LogError::Damaged {
                offset: expected,
                source: DecodeError::Missing,
            }
        });
    }
    Ok(page.into_events())
}
