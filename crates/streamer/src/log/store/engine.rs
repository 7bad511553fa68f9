//! redb, its tables, and the end of its errors and panics.

use std::{
    any::Any,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
};

use redb::{Database, ReadOnlyTable, ReadTransaction, TableDefinition, WriteTransaction};

use crate::log::{
    LogError,
    record::{Damage, decode_number, encode_number},
};

/// Events by offset.
pub(super) const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
/// Producers by name.
pub(super) const PRODUCERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("producers");
/// Documents by database, collection and id.
pub(super) const DOCUMENTS: TableDefinition<'_, (&str, &str, &str), &[u8]> =
    TableDefinition::new("documents");
/// Numbers by name.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The producers' table as of a transaction.
pub(super) type Producers = ReadOnlyTable<&'static str, &'static [u8]>;
/// The documents' table as of a transaction.
pub(super) type Documents =
    ReadOnlyTable<(&'static str, &'static str, &'static str), &'static [u8]>;

/// Version of the layout of the tables.
pub(super) const FORMAT: &str = "format";
/// Names the log.
pub(super) const EPOCH: &str = "epoch";
/// Offset up to which entries were dropped.
pub(super) const FIRST: &str = "first";
/// Offset up to which the documents are in their table.
pub(super) const APPLIED_UPTO: &str = "applied_upto";

/// The database, closed so that a damaged file can not bring down the process on the way out.
pub(super) struct Engine(Option<Database>);

impl Engine {
    pub(super) const fn new(database: Database) -> Self {
        Self(Some(database))
    }

    /// Begins a transaction that is durable when it is committed, and after which a killed process
    /// opens the file without walking through all of it.
    pub(super) fn begin_commit(&self) -> Result<WriteTransaction, LogError> {
        let mut transaction = self.begin_write().map_err(storage)?;
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
        let Some(database) = self.0.take() else {
            return;
        };
        if let Err(error) = guarded(|| database.close().map_err(storage)) {
            // Everything committed is safe; the next open repairs the rest.
            tracing::warn!(%error, "the log was not closed cleanly");
        }
    }
}

/// Runs a step that reaches into redb. A damaged page may make it panic: some checks are assertions,
/// and texts that are not UTF-8 are unwrapped. Such a panic is a failure of the storage like any
/// other, and must not take the writer or a reader's task with it.
pub(super) fn guarded<T>(step: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    // Nothing half done is seen afterwards: a failed writing step stops the log, and a reading step
    // owns everything it changes.
    catch_unwind(AssertUnwindSafe(step))
        .unwrap_or_else(|panic| Err(LogError::Storage(Box::new(EnginePanic(text(&*panic))))))
}

/// Wraps an error of redb.
pub(super) fn storage(error: impl Into<redb::Error>) -> LogError {
    LogError::Storage(Box::new(error.into()))
}

pub(super) fn damaged(what: &str, damage: Damage) -> LogError {
    LogError::DamagedState {
        what: format!("{what} ({damage})"),
    }
}

/// A number the log keeps about itself, as of a transaction.
pub(super) fn number(transaction: &ReadTransaction, name: &str) -> Result<u64, LogError> {
    let table = transaction.open_table(META).map_err(storage)?;
    let damaged = |damage| damaged(&format!("number {name:?}"), damage);
    let record = meta(&table, name)?.ok_or(damaged(Damage::CutOff))?;
    decode_number(name, &record).map_err(damaged)
}

pub(super) fn set_number(
    transaction: &WriteTransaction,
    name: &str,
    value: u64,
) -> Result<(), LogError> {
    let mut table = transaction.open_table(META).map_err(storage)?;
    let record = encode_number(name, value);
    table.insert(name, &*record).map_err(storage)?;
    Ok(())
}

fn meta(
    table: &ReadOnlyTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<Vec<u8>>, LogError> {
    let record = redb::ReadableTable::get(table, name).map_err(storage)?;
    Ok(record.map(|record| record.value().to_vec()))
}

fn text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "for an unknown reason".to_owned()
    }
}

/// The storage engine met a state it does not expect.
#[derive(Debug, thiserror::Error)]
#[error("the storage engine gave up, most likely over a damaged file: {0}")]
struct EnginePanic(String);
