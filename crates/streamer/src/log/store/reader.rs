//! Reading events from the file.

use std::sync::Arc;

use redb::{ReadTransaction, ReadableDatabase, ReadableTable};

use super::{
    Shared, documents,
    engine::{EVENTS, FIRST, PRODUCERS, Producers, damaged, guarded, number, storage},
};
use crate::{
    Epoch, Event,
    log::{
        Bounds, DocumentKey, DocumentPage, LogError, LogReader, ProducerState,
        page::Page,
        record::{StoredEvent, StoredProducer},
    },
};

impl LogReader for Shared {
    fn epoch(&self) -> Epoch {
        self.epoch
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
        guarded(|| {
            let transaction = self.engine.begin_read().map_err(storage)?;
            read(&transaction, after, head, Page::new(max_events, max_bytes))
        })
    }

    fn producer(&self, name: &str) -> Result<ProducerState, LogError> {
        guarded(|| {
            let transaction = self.engine.begin_read().map_err(storage)?;
            producer(&transaction.open_table(PRODUCERS).map_err(storage)?, name)
        })
    }

    fn documents(
        &self,
        database: &str,
        collection: Option<&str>,
        after: Option<&DocumentKey>,
        max_documents: usize,
        max_bytes: usize,
    ) -> Result<DocumentPage, LogError> {
        guarded(|| {
            let transaction = self.engine.begin_read().map_err(storage)?;
            let page = Page::new(max_documents.max(1), max_bytes);
            documents::read(&transaction, database, collection, after, page)
        })
    }
}

/// What the log remembers of a producer.
pub(super) fn producer(table: &Producers, name: &str) -> Result<ProducerState, LogError> {
    let Some(record) = ReadableTable::get(table, name).map_err(storage)? else {
        return Ok(ProducerState::default());
    };
    StoredProducer::decode(name, record.value())
        .map(|producer| producer.state)
        .map_err(|damage| damaged("record of a producer", damage))
}

/// The events after `after` as far as `page` has room and they can be read.
fn read(
    transaction: &ReadTransaction,
    after: u64,
    head: u64,
    mut page: Page,
) -> Result<Vec<Arc<Event>>, LogError> {
    let events = transaction.open_table(EVENTS).map_err(storage)?;
    let mut expected = after + 1;
    for item in events.range(expected..=head).map_err(storage)? {
        let (offset, record) = item.map_err(storage)?;
        if offset.value() != expected {
            break;
        }
        match StoredEvent::decode(expected, record.value()) {
            Ok(stored) => page.push(stored.event),
            Err(damage) if page.is_empty() => {
                return Err(LogError::Damaged {
                    offset: expected,
                    what: damage.to_string(),
                });
            }
            // The reader gets what is good, and the error when it asks for the rest.
            Err(_) => break,
        }
        if !page.has_room() {
            break;
        }
        expected += 1;
    }
    if page.is_empty() {
        // Retention may have come between the look at the bounds and the transaction.
        let first = number(transaction, FIRST)?;
        return Err(if after < first {
            LogError::Trimmed { after, first }
        } else {
            LogError::Damaged {
                offset: expected,
                what: "it is missing".to_owned(),
            }
        });
    }
    Ok(page.into_events())
}
