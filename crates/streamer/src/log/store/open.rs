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
    RedbLog, Shared, StoreOptions, describe,
    documents::Pending,
    engine::{
        APPLIED_UPTO, DOCUMENTS, EPOCH, EVENTS, Engine, FIRST, FORMAT, META, PRODUCERS, guarded,
        number, set_number, storage,
    },
    retention::Housekeeping,
    space::Space,
};
use crate::{
    Epoch,
    log::{Bounds, DocumentKey, LogError, record::StoredEvent},
};

/// Version of the layout of the tables that this code reads and writes.
const FORMAT_VERSION: u64 = 1;
const FILE: &str = "log.redb";
/// The file while it is created, so that a crash never leaves half a log under the right name.
const NEW_FILE: &str = "log.redb.new";
const LOCK_FILE: &str = "lock";

/// Why a log can not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Somebody else has it open.
    #[error("the log in {} is in use by another process; stop it, or choose another directory", dir.display())]
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The directory or a file in it can not be used.
    #[error("the log's directory {} can not be used", dir.display())]
    Directory {
        /// The log's directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It was written by another version.
    #[error(
        "the log in {} has the format {found}, this version reads {FORMAT_VERSION}; use the version that wrote it, or start a new log elsewhere",
        dir.display()
    )]
    Format {
        /// The log's directory.
        dir: PathBuf,
        /// Its format.
        found: u64,
    },
    /// Its content is not what was written.
    #[error("the log in {} is damaged: {what}; restore it from a copy, or start a new log", dir.display())]
    Damaged {
        /// The log's directory.
        dir: PathBuf,
        /// What was noticed.
        what: String,
    },
}

impl RedbLog {
    /// Opens the log in `dir`, creating directory and log when there is none.
    ///
    /// Takes milliseconds, also after a crash, unless `options` ask for more.
    ///
    /// # Errors
    ///
    /// [`OpenError`], which names the directory and what to do.
    pub fn open(dir: impl AsRef<Path>, options: &StoreOptions) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        let unusable = |source| OpenError::Directory {
            dir: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(unusable)?;
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        if !path.try_exists().map_err(unusable)? {
            create(dir, options).map_err(|failure| failure.within(dir))?;
        }
        let mut builder = builder(options);
        builder.set_check_integrity_on_open(options.verify_on_open);
        guarded(|| Ok(open(&builder, dir, lock, options)))
            .map_err(Failure::Log)
            .flatten()
            .map_err(|failure| failure.within(dir))
    }

    /// A log on an engine that is open, with its tables in it. `dir` is where it uses space.
    pub(super) fn on(
        database: Database,
        dir: &Path,
        lock: File,
        options: &StoreOptions,
    ) -> Result<Self, Failure> {
        let engine = Engine::new(database);
        let transaction = engine.begin_read().map_err(storage)?;
        let found = number(&transaction, FORMAT)?;
        if found != FORMAT_VERSION {
            return Err(Failure::Format(found));
        }
        let epoch = Epoch(number(&transaction, EPOCH)?);
        let applied_upto = number(&transaction, APPLIED_UPTO)?;
        let (bounds, bytes) = measure(&transaction)?;
        if !(bounds.first..=bounds.head).contains(&applied_upto) {
            return Err(Failure::Log(LogError::DamagedState {
                what: format!("number {APPLIED_UPTO:?}"),
            }));
        }
        let pending = unapplied(&transaction, applied_upto, bounds.head)?;
        drop(transaction);
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                epoch,
                bounds: Mutex::new(bounds),
                _lock: lock,
            }),
            limits: options.limits,
            space: Space::new(dir, options.min_free_bytes),
            pending,
            housekeeping: Housekeeping::new(options),
            bytes,
            failure: None,
        })
    }
}

/// Why opening failed, before it is known where.
#[derive(Debug)]
pub(super) enum Failure {
    Locked,
    Io(io::Error),
    Format(u64),
    Log(LogError),
}

impl Failure {
    fn within(self, dir: &Path) -> OpenError {
        let dir = dir.to_owned();
        match self {
            Self::Locked => OpenError::Locked { dir },
            Self::Io(source) => OpenError::Directory { dir, source },
            Self::Format(found) => OpenError::Format { dir, found },
            Self::Log(error) => OpenError::Damaged {
                dir,
                what: describe(&error),
            },
        }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked,
            DatabaseError::Storage(redb::StorageError::Io(error))
                // How redb says that a file is none of its own.
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

/// Takes the directory for this handle. The system gives it back when the process ends, however
/// it does.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let unusable = |source| OpenError::Directory {
        dir: dir.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join(LOCK_FILE))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            dir: dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

fn create(dir: &Path, options: &StoreOptions) -> Result<(), Failure> {
    let new = dir.join(NEW_FILE);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Failure::Io(error)),
        Ok(()) | Err(_) => {}
    }
    let database = builder(options).create(&new)?;
    initialize(&database, options.epoch)?;
    database.close()?;
    fs::rename(&new, dir.join(FILE)).map_err(Failure::Io)?;
    // The name is as important as the content.
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Failure::Io)
}

/// Makes an empty database an empty log.
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

fn open(
    builder: &Builder,
    dir: &Path,
    lock: File,
    options: &StoreOptions,
) -> Result<RedbLog, Failure> {
    RedbLog::on(builder.open(dir.join(FILE))?, dir, lock, options)
}

fn builder(options: &StoreOptions) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    builder
}

/// What the log holds, and the bytes of all its records.
fn measure(transaction: &ReadTransaction) -> Result<(Bounds, u64), LogError> {
    let events = transaction.open_table(EVENTS).map_err(storage)?;
    let first = number(transaction, FIRST)?;
    let Some((offset, record)) = events.last().map_err(storage)? else {
        return Ok((Bounds { first, head: first }, 0));
    };
    let head = offset.value();
    let stored = decode(head, record.value())?;
    if head.checked_sub(first) != Some(events.len().map_err(storage)?) {
        return Err(LogError::DamagedState {
            what: "row of entries (some are missing)".to_owned(),
        });
    }
    let bytes = stored
        .bytes_before
        .saturating_add(record.value().len() as u64);
    Ok((Bounds { first, head }, bytes))
}

/// The changes that did not reach the documents' table before the process ended.
fn unapplied(transaction: &ReadTransaction, after: u64, head: u64) -> Result<Pending, LogError> {
    let events = transaction.open_table(EVENTS).map_err(storage)?;
    let mut pending = Pending::default();
    if after == head {
        return Ok(pending);
    }
    for item in events.range(after + 1..=head).map_err(storage)? {
        let (offset, record) = item.map_err(storage)?;
        let stored = decode(offset.value(), record.value())?;
        pending.extend([(DocumentKey::of(&stored.event), stored.state)], 1);
    }
    Ok(pending)
}

fn decode(offset: u64, record: &[u8]) -> Result<StoredEvent, LogError> {
    StoredEvent::decode(offset, record).map_err(|damage| LogError::Damaged {
        offset,
        what: damage.to_string(),
    })
}
