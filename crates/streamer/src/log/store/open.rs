//! Opening and creating a log's directory.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, backends::FileBackend};
use steadfast_files::{create_private_directory, private};

use super::{
    SegmentLog, Shared, StoreOptions,
    conversion::convert,
    disk::{Directory, Disk, open_error, sync_directory},
    documents::DocumentStates,
    engine::{
        APPLIED_UPTO, DOCUMENTS, EPOCH, Engine, FIRST, FORMAT, FORMAT_VERSION, INDEX_FILE, META,
        PRODUCERS, begin_term, catch_panics, damaged, damaged_number, number, set_number, storage,
    },
    head::{HEAD_FILE, HeadFile, KnownHead},
    index_job::IndexMode,
    lost_changes::LostChanges,
    maintenance::Maintenance,
    segment::{BODY_BYTES_MAX, Kind, Record},
    segments::{Segments, Visited},
};
use crate::{
    Epoch,
    log::{
        Bounds, KnownNames, Limits, LogError,
        age_clock::AgeClock,
        encoding::{DecodeError, StoredEvent, StoredProducer},
    },
};

/// Minimum size of a segment of a log with a small `retention_bytes`.
const SEGMENT_BYTES_MIN: usize = 64 << 10;
/// Maximum size of an entry, whatever the limits say: half of what a record can hold.
const ENTRY_BYTES_MAX: usize = BODY_BYTES_MAX / 2;
/// The name of the index during its creation.
const NEW_FILE: &str = "log.redb.new";
pub(super) const LOCK_FILE: &str = "lock";

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
    /// The log was opened to be read, and an earlier version wrote it.
    #[error(
        "the log in {} has the format of an earlier version; start a server on it once, which converts it",
        dir.display()
    )]
    Unconverted {
        /// The log's directory.
        dir: PathBuf,
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

impl SegmentLog {
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

    /// Returns the log of an open, initialized index and the segments on a disk.
    pub(super) fn from_database(
        database: Database,
        disk: Arc<dyn Disk>,
        lock: File,
        options: &StoreOptions,
    ) -> Result<Self, OpenFailure> {
        let mut log = Self::recover(database, disk, lock, options)?;
        log.head_file = Some(HeadFile::open(&*log.disk, log.shared.bounds().head)?);
        // Only its metadata is looked at.
        let file = log.disk.open_to_read(INDEX_FILE);
        log.index_file = Some(file.map_err(|error| open_error(INDEX_FILE, error))?);
        Ok(log)
    }

    /// Returns the log without [`HeadFile`], as it is enough for reading.
    pub(super) fn recover(
        database: Database,
        disk: Arc<dyn Disk>,
        lock: File,
        options: &StoreOptions,
    ) -> Result<Self, OpenFailure> {
        let began = Instant::now();
        let engine = Engine::new(database);
        let segment_bytes = options
            .retention_bytes
            .map_or(options.segment_bytes, |bytes| {
                // Retention removes whole segments, so that an eighth keeps the excess small.
                let part = usize::try_from(bytes / 8).unwrap_or(usize::MAX);
                options.segment_bytes.min(part.max(SEGMENT_BYTES_MIN))
            });
        let salt = options.epoch.0;
        // First: everything else may look different in another format.
        let format = number(&engine.begin_read().map_err(storage)?, FORMAT)?;
        match format {
            FORMAT_VERSION => {}
            1 => convert(&engine, &disk, segment_bytes, salt)?,
            found => return Err(OpenFailure::Format(found)),
        }
        let transaction = engine.begin_read().map_err(storage)?;
        let first = number(&transaction, FIRST)?;
        let applied_upto = number(&transaction, APPLIED_UPTO)?;
        let lost = LostChanges::read(&transaction, applied_upto)?;
        drop(transaction);
        // Trimming brings the index up to the head before it moves `first`.
        if first > applied_upto {
            return Err(damaged_number(APPLIED_UPTO, DecodeError::Invalid).into());
        }

        let known = match KnownHead::read(&*disk)? {
            Ok(known) => known.head,
            // A log of an earlier version has no such file.
            Err(DecodeError::Missing) => 0,
            Err(error) => {
                tracing::error!(file = HEAD_FILE, %error, "lost events at the end are not noticed");
                0
            }
        };
        // Not written to the index here: opening after a crash must not take longer than after a
        // stop.
        let mut replay = Replay::new(applied_upto, lost);
        let (appender, shown) = Segments::recover(
            Arc::clone(&disk),
            applied_upto,
            known.max(applied_upto),
            segment_bytes,
            salt,
            options.sync_interval.is_some(),
            |record| replay.add(record),
        )?;
        // The segments may show less than was committed, if some were lost. Offsets are never reused.
        let head = shown.max(applied_upto).max(known);
        let mut bounds = Bounds { first, head };
        // Raises the head further if a term has begun after it: its positions were already handed
        // out.
        let terms = begin_term(&engine, options.epoch, &mut bounds)?;
        if bounds.head > shown {
            let (lost_after, lost_upto) = (shown, bounds.head);
            tracing::error!(
                lost_after,
                lost_upto,
                "the newest events of the log are missing"
            );
        }
        replay.lost.add(replay.replayed_upto, bounds.head);
        let segments = appender.segments();
        // The last event, not the system's clock, because that may have jumped while the log was
        // closed.
        let logged_ms = newest_ms(&segments, bounds)?;
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                segments,
                producers: Mutex::new(replay.producers),
                terms,
                bounds: Mutex::new(bounds),
                recovered: replay.records,
                lost_changes: replay.lost.count(),
                opened_in: began.elapsed(),
                sync_interval: options.sync_interval,
                _lock: lock,
            }),
            limits: Limits {
                entry_bytes: options.limits.entry_bytes.min(ENTRY_BYTES_MAX),
                ..options.limits
            },
            appender,
            disk,
            min_free_bytes: options.min_free_bytes,
            documents: replay.documents,
            lost: replay.lost,
            maintenance: Maintenance::new(options),
            index_mode: IndexMode::Inline,
            running: None,
            #[cfg(test)]
            index_rows: 0,
            clock: AgeClock::from_reading(logged_ms),
            stepped: Instant::now(),
            index_waits: false,
            sync_interval: options.sync_interval,
            unsynced_since: None,
            head_file: None,
            index_file: None,
            failure: None,
        })
    }
}

/// The states that are not in the index yet.
struct Replay {
    documents: DocumentStates,
    /// Those that the index knows of, and those between the replayed ones.
    lost: LostChanges,
    /// Offset of the last event that is known, in the index or replayed.
    replayed_upto: u64,
    names: KnownNames,
    producers: BTreeMap<Arc<str>, StoredProducer>,
    /// The number of all records, damaged ones included.
    records: u64,
}

impl Replay {
    fn new(applied_upto: u64, lost: LostChanges) -> Self {
        Self {
            documents: DocumentStates::default(),
            lost,
            replayed_upto: applied_upto,
            names: KnownNames::default(),
            producers: BTreeMap::new(),
            records: 0,
        }
    }

    fn add(&mut self, record: &Record<'_>) {
        self.documents
            .count_bytes((record.end() - record.at) as u64);
        self.records += 1;
        let added = record.body().and_then(|body| match record.kind {
            Kind::Event => {
                let changed = StoredEvent::decode_state(record.offset, body, &mut self.names)?;
                self.documents.extend([changed], 1);
                // Offsets have no holes: one that was skipped is a lost event.
                self.lost.add(self.replayed_upto, record.offset - 1);
                self.replayed_upto = record.offset;
                Ok(())
            }
            Kind::Producer => {
                let producer = StoredProducer::decode_named(body)?;
                self.documents.count_producers([(&producer.0, &producer.1)]);
                self.producers.extend([producer]);
                Ok(())
            }
        });
        // The other records still count. This document or producer keeps its older state.
        if let Err(error) = added {
            let (offset, kind) = (record.offset, record.kind);
            tracing::error!(offset, ?kind, %error, "a record of the log is damaged");
        }
    }
}

/// An [`OpenError`] without the directory.
#[derive(Debug)]
pub(super) enum OpenFailure {
    Locked,
    Io(io::Error),
    Format(u64),
    Unconverted,
    Log(LogError),
}

impl OpenFailure {
    pub(super) fn in_dir(self, dir: &Path) -> OpenError {
        let dir = dir.to_owned();
        match self {
            Self::Locked => OpenError::Locked { dir },
            Self::Io(source) => OpenError::Directory { dir, source },
            Self::Format(found) => OpenError::Format { dir, found },
            Self::Unconverted => OpenError::Unconverted { dir },
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
        // What the system refuses, such as space on a full disk, is not damage: a repair would not help.
        match &error {
            LogError::NoSpace(refused)
            | LogError::Open {
                source: refused, ..
            } => Self::Io(io::Error::new(refused.kind(), error.clone())),
            LogError::Storage(source) => match system_error(&**source) {
                Some(kind) => Self::Io(io::Error::new(kind, error.clone())),
                None => Self::Log(error),
            },
            // A segment of a later version.
            LogError::DamagedState {
                source: DecodeError::UnknownFormat(found),
                ..
            } => Self::Format(u64::from(*found)),
            _ => Self::Log(error),
        }
    }
}

/// Returns the kind of an error that came from the system, directly or through redb.
fn system_error(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let refused = match error.downcast_ref::<redb::Error>() {
        Some(redb::Error::Io(refused)) => Some(refused),
        Some(_) => None,
        None => error.downcast_ref::<io::Error>(),
    };
    refused
        .filter(|it| it.raw_os_error().is_some())
        .map(io::Error::kind)
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

fn open(dir: &Path, options: &StoreOptions) -> Result<SegmentLog, OpenFailure> {
    create_private_directory(dir)?;
    warn_if_shared(dir)?;
    // Before anything is created: two processes could otherwise create the log at the same time.
    let lock = lock(dir)?;
    let path = dir.join(INDEX_FILE);
    // Not `exists`, which is also false on an error and for a link that leads nowhere: creating would then
    // replace an index that is there.
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(dir, options)?,
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    if let Some(interval) = options.sync_interval {
        tracing::warn!(
            ?interval,
            "commits are acknowledged before they are synced: a power failure or a crash of the \
             system loses those of about this time; the end of the process loses none"
        );
    }
    let mut builder = builder(options);
    builder.set_check_integrity_on_open(options.verify_on_open);
    let disk = Arc::new(Directory(dir.to_owned()));
    // redb may panic on a damaged file as early as here.
    catch_panics(|| {
        let database = open_index(&path, &builder);
        Ok(database.and_then(|database| SegmentLog::from_database(database, disk, lock, options)))
    })?
}

/// Warns if other users may replace the files of the log.
fn warn_if_shared(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;

        let mode = fs::metadata(dir)?.permissions().mode();
        if mode & 0o022 != 0 {
            tracing::warn!(
                directory = %dir.display(),
                "other users may write to the directory of the log; run chmod go-w on it"
            );
        }
    }
    Ok(())
}

/// Locks the directory for this handle. The system unlocks it when the process ends in any way, so
/// that no stale lock remains. redb's own lock does not cover the creation of the file.
fn lock(dir: &Path) -> Result<File, OpenFailure> {
    let file = private()
        .write(true)
        .create(true)
        // The file belongs to whoever has the lock, which is not known yet.
        .truncate(false)
        .open(dir.join(LOCK_FILE))
        .map_err(|error| open_error(LOCK_FILE, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenFailure::Locked),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Opens the index. By itself, redb would follow a symbolic link.
fn open_index(path: &Path, builder: &Builder) -> Result<Database, OpenFailure> {
    let file = private().read(true).write(true).open(path);
    let file = file.map_err(|error| open_error(INDEX_FILE, error))?;
    // redb would take an empty file for a new database.
    if file.metadata()?.len() == 0 {
        return Err(damaged("index", DecodeError::Truncated).into());
    }
    Ok(builder.create_with_backend(FileBackend::new(file)?)?)
}

/// Creates the log under a temporary name and then renames it, so that a crash leaves either no log
/// or a complete one.
fn create(dir: &Path, options: &StoreOptions) -> Result<(), OpenFailure> {
    let new = dir.join(NEW_FILE);
    // redb would open what an interrupted creation left instead of starting with an empty file.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    // Segments that are already there stay: without its index, a log is replayed from them.
    // Not created by redb, whose files everyone may read.
    let file = private()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&new)?;
    let database = builder(options).create_with_backend(FileBackend::new(file)?)?;
    initialize(&database, options.epoch)?;
    // Synced and closed before the rename, so that the final name never refers to less.
    database.close()?;
    fs::rename(&new, dir.join(INDEX_FILE))?;
    // Without this sync, a power failure could undo the rename after events were acknowledged.
    Ok(sync_directory(dir)?)
}

/// Creates the tables and the metadata of an empty log.
pub(super) fn initialize(database: &Database, epoch: Epoch) -> Result<(), LogError> {
    let transaction = database.begin_write().map_err(storage)?;
    // Opening creates a table, and redb cannot read one that was never created.
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

/// Returns the time by which the newest event ages.
fn newest_ms(segments: &Segments, bounds: Bounds) -> Result<Option<i64>, LogError> {
    // The newest may be damaged.
    const SEARCHED: u64 = 64;
    let Bounds { first, head } = bounds;
    let mut found = None;
    segments.visit(head.saturating_sub(SEARCHED).max(first), head, |visited| {
        if let Visited::Event(stored, _) = visited {
            found = Some(stored.logged_ms);
        }
        true
    })?;
    Ok(found)
}
