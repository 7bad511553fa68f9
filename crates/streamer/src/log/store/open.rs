//! Opening and creating a log's directory.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata,
};

use super::{
    RedbLog, Shared, StoreOptions,
    disk_space::DiskSpace,
    documents::PendingDocuments,
    engine::{
        APPLIED_UPTO, DOCUMENTS, EPOCH, EVENTS, Engine, FIRST, FORMAT, META, PRODUCERS, begin_term,
        catch_panics, damaged, damaged_number, decode_event, number, set_number, storage,
    },
    maintenance::Maintenance,
};
use crate::{
    Epoch,
    log::{Bounds, DocumentKey, LogError, encoding::DecodeError},
};

/// Version of the table layout that this code reads and writes.
const FORMAT_VERSION: u64 = 1;
const FILE: &str = "log.redb";
/// The name of the file during creation.
const NEW_FILE: &str = "log.redb.new";
const LOCK_FILE: &str = "lock";

/// The reason why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another handle has the log open.
    #[error("the log in {} is in use by another process; stop it, or choose another directory", dir.display())]
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The directory or a file in it cannot be accessed.
    #[error("cannot use the log's directory {}", dir.display())]
    Directory {
        /// The log's directory.
        dir: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Another version wrote the log.
    #[error(
        "the log in {} has the format {found}, this version reads {FORMAT_VERSION}; use the version that wrote it, or start a new log elsewhere",
        dir.display()
    )]
    Format {
        /// The log's directory.
        dir: PathBuf,
        /// The format of the log.
        found: u64,
    },
    /// The content of the log cannot be read back as it was written.
    #[error("the log in {} is damaged; restore it from a backup, or start a new log", dir.display())]
    Damaged {
        /// The log's directory.
        dir: PathBuf,
        /// The defect.
        source: LogError,
    },
}

impl RedbLog {
    /// Opens the log in `dir`. Creates the directory and the log if they do not exist.
    ///
    /// Takes milliseconds, also after a crash, unless [`StoreOptions::verify_on_open`] is set.
    ///
    /// # Errors
    ///
    /// Returns an [`OpenError`], which names the directory and a remedy.
    pub fn open(dir: impl AsRef<Path>, options: &StoreOptions) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        open(dir, options).map_err(|failure| failure.in_dir(dir))
    }

    /// Returns the log in an open, initialized database. `dir` is where it uses disk space.
    pub(super) fn from_database(
        database: Database,
        dir: &Path,
        lock: File,
        options: &StoreOptions,
    ) -> Result<Self, OpenFailure> {
        let engine = Engine::new(database);
        let transaction = engine.begin_read().map_err(storage)?;
        // First: everything else may look different in another format.
        let found = number(&transaction, FORMAT)?;
        if found != FORMAT_VERSION {
            return Err(OpenFailure::Format(found));
        }
        let applied_upto = number(&transaction, APPLIED_UPTO)?;
        let (bounds, bytes) = measure(&transaction)?;
        if !(bounds.first..=bounds.head).contains(&applied_upto) {
            return Err(damaged_number(APPLIED_UPTO, DecodeError::Invalid).into());
        }
        let pending = pending_documents(&transaction, applied_upto, bounds.head)?;
        drop(transaction);
        let terms = begin_term(&engine, options.epoch, bounds)?;
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                terms,
                bounds: Mutex::new(bounds),
                _lock: lock,
            }),
            limits: options.limits,
            disk_space: DiskSpace::new(dir, options.min_free_bytes),
            pending,
            maintenance: Maintenance::new(options),
            bytes,
            failure: None,
        })
    }
}

/// An [`OpenError`] without the directory.
#[derive(Debug)]
pub(super) enum OpenFailure {
    Locked,
    Io(io::Error),
    Format(u64),
    Log(LogError),
}

impl OpenFailure {
    fn in_dir(self, dir: &Path) -> OpenError {
        let dir = dir.to_owned();
        match self {
            Self::Locked => OpenError::Locked { dir },
            Self::Io(source) => OpenError::Directory { dir, source },
            Self::Format(found) => OpenError::Format { dir, found },
            Self::Log(source) => OpenError::Damaged { dir, source },
        }
    }
}

impl From<io::Error> for OpenFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<LogError> for OpenFailure {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<DatabaseError> for OpenFailure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked,
            DatabaseError::Storage(redb::StorageError::Io(error))
                // redb returns these two for a file that is not a database.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Io(error)
            }
            other => Self::Log(storage(other)),
        }
    }
}

fn open(dir: &Path, options: &StoreOptions) -> Result<RedbLog, OpenFailure> {
    fs::create_dir_all(dir)?;
    // Before anything is created: two processes could otherwise create the log at the same time.
    let lock = lock(dir)?;
    let path = dir.join(FILE);
    if !path.try_exists()? {
        create(dir, options)?;
    }
    let mut builder = builder(options);
    builder.set_check_integrity_on_open(options.verify_on_open);
    catch_panics(|| {
        let database = builder.open(path).map_err(OpenFailure::from);
        Ok(database.and_then(|database| RedbLog::from_database(database, dir, lock, options)))
    })?
}

/// Locks the directory for this handle. The system unlocks it when the process ends in any way, so
/// that no stale lock remains. redb's own lock does not cover the creation of the file.
fn lock(dir: &Path) -> Result<File, OpenFailure> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join(LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenFailure::Locked),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Creates the log under a temporary name and then renames it, so that a crash leaves either no log
/// or a complete one.
fn create(dir: &Path, options: &StoreOptions) -> Result<(), OpenFailure> {
    let new = dir.join(NEW_FILE);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let database = builder(options).create(&new)?;
    initialize(&database, options.epoch)?;
    // Synced and closed before the rename, so that the final name never refers to less.
    database.close()?;
    fs::rename(&new, dir.join(FILE))?;
    // Without this sync, a power failure could undo the rename after events were acknowledged.
    Ok(File::open(dir).and_then(|dir| dir.sync_all())?)
}

/// Creates the tables and the metadata of an empty log.
pub(super) fn initialize(database: &Database, epoch: Epoch) -> Result<(), LogError> {
    let transaction = database.begin_write().map_err(storage)?;
    transaction.open_table(EVENTS).map_err(storage)?;
    transaction.open_table(PRODUCERS).map_err(storage)?;
    transaction.open_table(DOCUMENTS).map_err(storage)?;
    transaction.open_table(META).map_err(storage)?;
    for (name, value) in [
        (FORMAT, FORMAT_VERSION),
        (EPOCH, epoch.0),
        (FIRST, 0),
        (APPLIED_UPTO, 0),
    ] {
        set_number(&transaction, name, value)?;
    }
    transaction.commit().map_err(storage)
}

fn builder(options: &StoreOptions) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    builder
}

/// Returns the bounds of the log and the total size of all its encoded events.
fn measure(transaction: &ReadTransaction) -> Result<(Bounds, u64), LogError> {
    let events = transaction.open_table(EVENTS).map_err(storage)?;
    let first = number(transaction, FIRST)?;
    let Some((offset, encoded)) = events.last().map_err(storage)? else {
        return Ok((Bounds { first, head: first }, 0));
    };
    let head = offset.value();
    let stored = decode_event(head, encoded.value())?;
    // Offsets are unique, so the count shows that no event is missing without reading them all.
    if head.checked_sub(first) != Some(events.len().map_err(storage)?) {
        return Err(damaged("sequence of events", DecodeError::Missing));
    }
    let size = encoded.value().len() as u64;
    let bytes = stored.bytes_before.saturating_add(size);
    Ok((Bounds { first, head }, bytes))
}

/// Rebuilds the document states of the events that were not applied before the process ended.
fn pending_documents(
    transaction: &ReadTransaction,
    applied_upto: u64,
    head: u64,
) -> Result<PendingDocuments, LogError> {
    let events = transaction.open_table(EVENTS).map_err(storage)?;
    let mut pending = PendingDocuments::default();
    // The range below would be inverted.
    if applied_upto == head {
        return Ok(pending);
    }
    for item in events.range(applied_upto + 1..=head).map_err(storage)? {
        let (offset, encoded) = item.map_err(storage)?;
        let stored = decode_event(offset.value(), encoded.value())?;
        pending.extend([(DocumentKey::of(&stored.event), stored.state)], 1);
    }
    Ok(pending)
}
