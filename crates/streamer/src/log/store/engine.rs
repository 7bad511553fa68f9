//! The redb database: its tables, typed access to them, and the conversion of its errors and panics.

use std::{
    any::Any,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
};

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction,
};

use crate::{
    Bounds, Epoch, Terms,
    log::{
        DocumentKey, LogError, ProducerState,
        encoding::{
            DecodeError, StoredDocument, StoredProducer, decode_number, decode_terms,
            encode_number, encode_terms,
        },
        with_sources,
    },
};

/// Producers by name.
pub(super) const PRODUCERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("producers");
/// Documents by database, collection and id.
pub(super) const DOCUMENTS: TableDefinition<'_, (&str, &str, &str), &[u8]> =
    TableDefinition::new("documents");
/// Numbers by name.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The table of producers in a read transaction.
pub(super) type Producers = ReadOnlyTable<&'static str, &'static [u8]>;
/// The table of documents in a read transaction.
pub(super) type Documents =
    ReadOnlyTable<(&'static str, &'static str, &'static str), &'static [u8]>;

/// The file of the database.
pub(super) const INDEX_FILE: &str = "log.redb";
/// Version of the layout of the log that this code reads and writes.
pub(super) const FORMAT_VERSION: u64 = 3;

/// Version of the layout.
pub(super) const FORMAT: &str = "format";
/// Id of the first term. A log of an earlier version has no other.
pub(super) const EPOCH: &str = "epoch";
/// Table of all terms.
pub(super) const TERMS: &str = "terms";
/// Offset up to which events were trimmed.
pub(super) const FIRST: &str = "first";
/// Offset up to which documents are in their table.
pub(super) const APPLIED_UPTO: &str = "applied_upto";

/// A database that closes without panicking, even if its file is damaged.
pub(super) struct Engine(Option<Database>);

impl Engine {
    pub(super) const fn new(database: Database) -> Self {
        Self(Some(database))
    }

    /// Begins a transaction whose commit is durable when it returns.
    pub(super) fn begin_commit(&self) -> Result<WriteTransaction, LogError> {
        let mut transaction = self.begin_write().map_err(storage)?;
        // Stores the allocator's state with each commit. Without it, redb walks the whole file when
        // it is opened after a crash.
        transaction.set_quick_repair(true);
        Ok(transaction)
    }
}

impl Deref for Engine {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("the database is only taken by drop")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // `close` consumes the database. Dropping it would hide the error.
        let Some(database) = self.0.take() else {
            return;
        };
        if let Err(error) = catch_panics(|| database.close().map_err(storage)) {
            // Every commit is already durable; the next open repairs the rest.
            tracing::warn!(
                error = with_sources(&error),
                "the log was not closed cleanly"
            );
        }
    }
}

/// Runs a step that calls redb, and converts a panic into an error. redb panics on some damaged
/// pages: it asserts some invariants, and unwraps strings that are not UTF-8. Such a panic must not
/// end the writer's thread or a reader's task.
pub(super) fn catch_panics<T>(step: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    // `AssertUnwindSafe` holds because no half-changed state is used afterwards: after a panic the
    // log is never written again, and a reading step owns everything that it changes.
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        Err(LogError::storage(EnginePanic(message)))
    })
}

/// Wraps an error of redb.
pub(super) fn storage(error: impl Into<redb::Error>) -> LogError {
    LogError::storage(error.into())
}

/// Decodes a document.
pub(super) fn decode_document(
    key: &DocumentKey,
    encoded: &[u8],
) -> Result<StoredDocument, LogError> {
    StoredDocument::decode(key, encoded).map_err(damaged_document)
}

/// Decodes a producer.
pub(super) fn decode_producer(name: &str, encoded: &[u8]) -> Result<StoredProducer, LogError> {
    StoredProducer::decode(name, encoded).map_err(|source| damaged("state of a producer", source))
}

pub(super) fn damaged_document(source: DecodeError) -> LogError {
    damaged("state of a document", source)
}

/// Reads a document.
pub(super) fn document(
    table: &impl ReadableTable<(&'static str, &'static str, &'static str), &'static [u8]>,
    key: &DocumentKey,
) -> Result<Option<StoredDocument>, LogError> {
    let encoded = table.get(key.as_tuple()).map_err(storage)?;
    encoded
        .map(|encoded| decode_document(key, encoded.value()))
        .transpose()
}

/// Reads the state of a producer; the default if it is unknown.
pub(super) fn producer(table: &Producers, name: &str) -> Result<ProducerState, LogError> {
    match ReadableTable::get(table, name).map_err(storage)? {
        Some(encoded) => Ok(decode_producer(name, encoded.value())?.state),
        None => Ok(ProducerState::default()),
    }
}

/// Reads a number of the metadata.
pub(super) fn number(transaction: &ReadTransaction, name: &str) -> Result<u64, LogError> {
    let table = transaction.open_table(META).map_err(storage)?;
    let encoded = ReadableTable::get(&table, name).map_err(storage)?;
    let encoded = encoded.ok_or_else(|| damaged_number(name, DecodeError::Missing))?;
    decode_number(name, encoded.value()).map_err(|source| damaged_number(name, source))
}

pub(super) fn set_number(
    transaction: &WriteTransaction,
    name: &str,
    value: u64,
) -> Result<(), LogError> {
    let mut table = transaction.open_table(META).map_err(storage)?;
    let encoded = encode_number(name, value);
    table.insert(name, &*encoded).map_err(storage)?;
    Ok(())
}

/// Reads the table of terms, and begins a term in it. A head before the last term began is raised: the
/// events up to there were lost.
pub(super) fn begin_term(
    engine: &Engine,
    epoch: Epoch,
    bounds: &mut Bounds,
) -> Result<Terms, LogError> {
    let transaction = engine.begin_commit()?;
    let mut terms;
    {
        let mut table = transaction.open_table(META).map_err(storage)?;

        terms = if let Some(encoded) = table.get(TERMS).map_err(storage)? {
            let terms = decode_terms(TERMS, encoded.value());
            terms.map_err(|source| damaged("table of terms", source))?
        } else {
            // A log of an earlier version: its epoch becomes the first term, so that its positions
            // stay valid.
            let encoded = table.get(EPOCH).map_err(storage)?;
            let encoded = encoded.ok_or_else(|| damaged_number(EPOCH, DecodeError::Missing))?;
            let first = decode_number(EPOCH, encoded.value());
            Terms::new(Epoch(
                first.map_err(|source| damaged_number(EPOCH, source))?,
            ))
        };
        if let Some((_, began)) = terms.as_parts().last() {
            // Otherwise new events would get offsets that subscribers have already seen.
            bounds.head = bounds.head.max(*began);
        }
        // Also after a clean stop: a copy that is taken now must differ from this log from here on.
        terms.begin(epoch, bounds.first, bounds.head);
        let encoded = encode_terms(TERMS, &terms);
        table.insert(TERMS, &*encoded).map_err(storage)?;
    }
    // Durable before any position of the term is read.
    transaction.commit().map_err(storage)?;
    Ok(terms)
}

pub(super) fn damaged_number(name: &str, source: DecodeError) -> LogError {
    damaged(&format!("number {name:?}"), source)
}

pub(super) fn damaged(what: &str, source: DecodeError) -> LogError {
    let what = what.to_owned();
    LogError::DamagedState { what, source }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "unknown reason".to_owned()
    }
}

/// A panic of the storage engine.
#[derive(Debug, thiserror::Error)]
#[error("the storage engine panicked, most likely because the file is damaged: {0}")]
struct EnginePanic(String);
