//! The conversion of a log of format 1, which kept its events in a table of the index.

use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition};

use super::{
    disk::Disk,
    engine::{Engine, FIRST, FORMAT, FORMAT_VERSION, number, set_number, storage},
    segment::{CommitBuffer, Kind},
    segments::{Appender, Segments, remove_all},
};
use crate::log::{LogError, encoding::StoredEvent};

/// Events by offset, in format 1.
pub(super) const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");

/// Size of the encoded events that are copied with one sync, in bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Interval of the reports of progress, in events.
const REPORTED: u64 = 100_000;

/// Copies the events into segments, and then removes their table.
///
/// The table stays until all of it is copied and durable: after an interruption, the conversion begins
/// again.
pub(super) fn convert(
    engine: &Engine,
    disk: &Arc<dyn Disk>,
    segment_bytes: usize,
    salt: u64,
) -> Result<(), LogError> {
    // An interrupted conversion left them. The table still has every event.
    remove_all(&**disk)?;
    let (mut appender, _) =
        Segments::recover(Arc::clone(disk), 0, 0, segment_bytes, salt, false, |_| ())?;
    let transaction = engine.begin_read().map_err(storage)?;
    let mut head = number(&transaction, FIRST)?;
    let events = transaction.open_table(EVENTS).map_err(storage)?;
    let total = events.len().map_err(storage)?;
    // Warnings, which are shown by default: nothing is served until this is done.
    tracing::warn!(events = total, "converting the log to segments");
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for (copied, item) in (1..).zip(events.range(head + 1..).map_err(storage)?) {
        let (offset, value) = item.map_err(storage)?;
        let offset = offset.value();
        let mut body = Vec::new();
        match StoredEvent::decode_format_1(offset, value.value()) {
            Ok(stored) => stored.encode_whole(&mut body),
            // An empty body cannot be decoded: the event stays, and stays damaged.
            Err(error) => tracing::error!(offset, %error, "the event is damaged"),
        }
        // A damaged table may skip offsets, which are then reported as missing.
        let is_next = offset == head + 1 + batch.len() as u64;
        if bytes >= BATCH_BYTES || !is_next {
            append(&mut appender, head, &mut batch)?;
            (head, bytes) = (offset - 1, 0);
        }
        bytes += body.len();
        batch.push(body);
        if copied % REPORTED == 0 {
            tracing::warn!(copied, total, "converting the log to segments");
        }
    }
    append(&mut appender, head, &mut batch)?;
    // redb does not free the pages of a table while a reader may see it.
    drop((events, transaction));
    // Everything is synced by now. Table and format change together, or the next start converts
    // again.
    let transaction = engine.begin_commit()?;
    transaction.delete_table(EVENTS).map_err(storage)?;
    set_number(&transaction, FORMAT, FORMAT_VERSION)?;
    transaction.commit().map_err(storage)?;
    tracing::warn!(events = total, "the log is converted");
    Ok(())
}

/// Appends the events after an offset.
fn append(appender: &mut Appender, head: u64, bodies: &mut Vec<Vec<u8>>) -> Result<(), LogError> {
    if bodies.is_empty() {
        return Ok(());
    }
    let bound = bodies.iter().map(|body| CommitBuffer::bound(body.len()));
    let mut buffer = appender.begin(head, bound.sum())?;
    for (offset, body) in (head + 1..).zip(bodies.drain(..)) {
        buffer.push(Kind::Event, offset, |out| out.extend(body));
    }
    appender.commit(buffer)
}
