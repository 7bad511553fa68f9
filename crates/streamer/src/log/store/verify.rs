//! Reading a log without writing, and checking all of it.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    sync::Arc,
};

use redb::{Database, ReadableDatabase as _, ReadableTable as _};
use steadfast_files::private;

use super::{
    SegmentLog, Shared, StoreOptions,
    disk::open_error,
    documents,
    engine::{DOCUMENTS, FORMAT, INDEX_FILE, PRODUCERS, catch_panics, number, storage},
    head::{HEAD_FILE, KnownHead},
    open::{LOCK_FILE, OpenError, OpenFailure, initialize},
    overlay::{Overlay, ReadOnlyDirectory},
    reads::Reads,
    segments::Visited,
};
use crate::log::{
    Bounds, DocumentKey, LogError, LogReader,
    encoding::{DecodeError, StoredDocument, StoredProducer},
    with_sources,
};

/// A part of a log that cannot be read back as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Defect {
    /// The file, and the part of it.
    pub place: String,
    /// The fault.
    pub problem: String,
    /// The effect, and the remedy.
    pub remedy: &'static str,
}

/// The result of [`SegmentLog::verify`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Number of events that are intact.
    pub sound: u64,
    /// Number of events that are damaged or missing.
    pub damaged: u64,
    /// Number of documents whose last change is among them.
    pub documents: u64,
    /// Number of reported defects.
    pub defects: u64,
    /// What is known about the end of the log.
    pub end: LogEnd,
}

/// What is known about the end of a log. Lost events that nothing knows of look like an interrupted commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogEnd {
    /// The log was closed. All lost events are reported.
    Closed,
    /// The log was not closed. Lost events are not noticed if they were committed in its last 0.1 seconds,
    /// or, before a power cut, in the seconds that the system takes to write them to the disk, at most the
    /// last ten.
    Open,
    /// The file that names the head is missing or damaged. Lost events are not noticed if they were
    /// committed in the last ten seconds.
    #[default]
    Unknown,
}

const INDEX_REMEDY: &str = "`steadfast streamer log repair` rebuilds it from the events";
const MISSING_INDEX_REMEDY: &str = "a server rebuilds it from the events when it starts; documents \
                                    whose last event was trimmed are lost";
const EVENTS_REMEDY: &str = "subscribers that need them get a resync; to have them back, restore the \
                             directory from a copy";
const SEGMENT_REMEDY: &str = "restore it from a copy of the directory; without it, its events are \
                              missing";
const HEAD_REMEDY: &str = "a server writes it again when it starts";
const DOCUMENT_REMEDY: &str = "its versions go on with its next change; to have it back, publish it \
                               again";
const PRODUCER_REMEDY: &str = "its publisher is told to begin again with its next entry";

impl SegmentLog {
    /// Opens the log in `dir` to read it. Writes nothing: no term begins, and the rest of an
    /// interrupted commit stays where it is. The directory may be read-only, or a copy.
    ///
    /// # Errors
    ///
    /// Returns an [`OpenError`]; a log that is open for writing is [`OpenError::Locked`].
    pub fn open_read_only(
        dir: impl AsRef<Path>,
        options: &StoreOptions,
    ) -> Result<Arc<dyn LogReader>, OpenError> {
        let dir = dir.as_ref();
        let log = open(dir, options, true).map_err(|failure| failure.in_dir(dir))?;
        Ok(Arc::clone(&log.shared) as Arc<dyn LogReader>)
    }

    /// Reads everything in the log in `dir`, and reports what is damaged or missing. Writes nothing.
    ///
    /// # Errors
    ///
    /// Returns an [`OpenError`] if the log cannot be checked, for example because it is open.
    pub fn verify(
        dir: impl AsRef<Path>,
        options: &StoreOptions,
        mut report: impl FnMut(&Defect),
    ) -> Result<Verified, OpenError> {
        let dir = dir.as_ref();
        verify(dir, options, &mut report).map_err(|failure| failure.in_dir(dir))
    }
}

fn open(dir: &Path, options: &StoreOptions, with_index: bool) -> Result<SegmentLog, OpenFailure> {
    let lock = lock(dir)?;
    let index = match private().read(true).open(dir.join(INDEX_FILE)) {
        Ok(file) if with_index => Some(file),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(open_error(INDEX_FILE, error).into()),
    };
    let is_new = index.is_none();
    let overlay = Overlay::new(index)?;
    let disk = Arc::new(ReadOnlyDirectory(dir.to_owned()));
    catch_panics(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(options.cache_bytes);
        builder.set_check_integrity_on_open(options.verify_on_open);
        let opened = (|| {
            let database = builder.create_with_backend(overlay)?;
            if is_new {
                initialize(&database, options.epoch)?;
            }
            let transaction = database.begin_read().map_err(storage)?;
            if number(&transaction, FORMAT)? == 1 {
                return Err(OpenFailure::Unconverted);
            }
            drop(transaction);
            SegmentLog::recover(database, disk, lock, options)
        })();
        Ok(opened)
    })?
}

/// Locks the directory against a process that writes. A copy may have no lock file.
fn lock(dir: &Path) -> Result<File, OpenFailure> {
    let file = match private().read(true).open(dir.join(LOCK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(dir)?,
        opened => opened.map_err(|error| open_error(LOCK_FILE, error))?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenFailure::Locked),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn verify(
    dir: &Path,
    options: &StoreOptions,
    report: &mut dyn FnMut(&Defect),
) -> Result<Verified, OpenFailure> {
    let mut check = Check {
        report,
        verified: Verified::default(),
    };
    let mut options = options.clone();
    options.verify_on_open = true;
    let log = match open(dir, &options, true) {
        Err(OpenFailure::Log(error)) => {
            check.add(INDEX_FILE, with_sources(&error), INDEX_REMEDY);
            // The events are checked all the same, with an index in memory.
            open(dir, &options, false)?
        }
        opened => opened?,
    };
    if !dir.join(INDEX_FILE).try_exists()? {
        check.add(INDEX_FILE, "it is missing".to_owned(), MISSING_INDEX_REMEDY);
    }
    for (name, error) in log.shared.segments.unreadable()? {
        check.add(
            &name,
            format!("its header cannot be used: {error}"),
            SEGMENT_REMEDY,
        );
    }
    check.verified.end = match KnownHead::read(&*log.disk)? {
        Ok(known) if known.is_closed => LogEnd::Closed,
        Ok(_) => LogEnd::Open,
        // Not a defect: a log of an earlier version has no such file.
        Err(DecodeError::Missing) => LogEnd::Unknown,
        Err(error) => {
            check.add(HEAD_FILE, error.to_string(), HEAD_REMEDY);
            LogEnd::Unknown
        }
    };
    check.events(&log.shared)?;
    catch_panics(|| check.index(&log.shared))?;
    Ok(check.verified)
}

struct Check<'a> {
    report: &'a mut dyn FnMut(&Defect),
    verified: Verified,
}

impl Check<'_> {
    fn add(&mut self, place: &str, problem: String, remedy: &'static str) {
        self.verified.defects += 1;
        (self.report)(&Defect {
            place: place.to_owned(),
            problem,
            remedy,
        });
    }

    fn events(&mut self, shared: &Shared) -> Result<(), LogError> {
        let Bounds { first, head } = shared.bounds();
        let mut next = first + 1;
        shared.segments.visit(first, head, |visited| {
            match visited {
                Visited::Event(stored, _) => {
                    self.verified.sound += 1;
                    next = stored.event.offset + 1;
                }
                Visited::Damaged { upto, error } => {
                    self.verified.damaged += upto + 1 - next;
                    let file = shared.segments.file_of(next);
                    let file = file.unwrap_or_else(|| "a deleted segment".to_owned());
                    let place = format!("{file}, damaged or missing: {next} to {upto}");
                    self.add(&place, error.to_string(), EVENTS_REMEDY);
                    next = upto + 1;
                }
            }
            true
        })
    }

    fn index(&mut self, shared: &Shared) -> Result<(), LogError> {
        let transaction = shared.engine.begin_read().map_err(storage)?;
        let table = transaction.open_table(DOCUMENTS).map_err(storage)?;
        let mut reads = Reads::of_single_events();
        for row in table.iter().map_err(storage)? {
            let (key, encoded) = row.map_err(storage)?;
            let (database, collection, id) = key.value();
            let key = DocumentKey::new(database, collection, id);
            match StoredDocument::decode(&key, encoded.value()) {
                Err(error) => {
                    let place = format!("{INDEX_FILE}, document {database}/{collection}/{id}");
                    self.add(&place, error.to_string(), DOCUMENT_REMEDY);
                }
                Ok(row) if row.state.deleted || row.event.is_some() => {}
                // The events were checked before, so that their number is enough here.
                Ok(row) => {
                    let last =
                        documents::last_event(&shared.segments, &mut reads, row.state.offset);
                    self.verified.documents += u64::from(last.is_err());
                }
            }
        }
        let table = transaction.open_table(PRODUCERS).map_err(storage)?;
        for row in table.iter().map_err(storage)? {
            let (name, encoded) = row.map_err(storage)?;
            if let Err(error) = StoredProducer::decode(name.value(), encoded.value()) {
                let place = format!("{INDEX_FILE}, publisher {}", name.value());
                self.add(&place, error.to_string(), PRODUCER_REMEDY);
            }
        }
        Ok(())
    }
}
