//! Opening a directory to continue its record.

use std::{
    fs::{File, TryLockError},
    io::ErrorKind,
    path::Path,
    sync::Arc,
};

use super::{
    Recorder,
    closed_parts::ClosedCatalog,
    definitions::Definitions,
    head::Head,
    recover::{OpenReport, RecoverError, RecoveredContent, RecoveredPart, RecoveredRecord},
    storage::file_cost,
};
use crate::{
    catalog::Catalog,
    disk::{Directory, Disk, read_whole},
    error::{Damage, DamageKind, OpenError},
    frame::{FileKind, Log, record_fingerprint},
    head_file::HeadFile,
    options::Options,
    source::Sources,
};
use steadfast_files::{create_private_directory, private};

/// The name of the file that the writer of a directory locks.
pub(crate) const LOCK: &str = "lock";

/// Creates the directory if necessary, and locks it for as long as the returned file is open.
pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    let io_error = |error| OpenError::Io {
        path: dir.to_owned(),
        error,
    };
    create_private_directory(dir).map_err(|error| match error.kind() {
        // `mkdir` answers "file exists" for a file of that name, which would not help the user.
        ErrorKind::AlreadyExists => io_error(ErrorKind::NotADirectory.into()),
        _ => io_error(error),
    })?;
    let lock = private()
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join(LOCK))
        .map_err(io_error)?;
    // The kernel releases it with the process, so that a kill leaves no stale lock behind.
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: dir.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(io_error(error)),
    }
}

impl Recorder {
    /// Opens the record in `dir` and continues it. The directory is created if necessary.
    ///
    /// Every committed scrape is there, however the process that wrote it ended. Damage is reported and
    /// costs the data that is damaged.
    ///
    /// ```
    /// use steadfast_recorder::{Options, Recorder};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let (recorder, report) = Recorder::open(dir, Options::default())?;
    /// for damage in &report.damage {
    ///     eprintln!("{damage}");
    /// }
    /// # drop(recorder);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the budget is too small, another recorder uses the directory, it cannot be read or written,
    /// or a newer version wrote to it.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, OpenReport), OpenError> {
        let lock = lock(dir)?;
        let disk: Arc<dyn Disk> = Arc::new(Directory::new(dir));
        let record = record_fingerprint(dir.file_name().unwrap_or_default());
        Self::new(options, Some(disk), Some(lock), record)?
            .recover()
            .map_err(|error| error.at(dir))
    }

    #[cfg(test)]
    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        options: Options,
    ) -> Result<(Self, OpenReport), OpenError> {
        Self::new(options, Some(disk), None, 7)?
            .recover()
            .map_err(|error| error.at(Path::new("disk")))
    }

    fn recover(mut self) -> Result<(Self, OpenReport), RecoverError> {
        let Some(disk) = self.storage.disk().cloned() else {
            return Ok((self, OpenReport::default()));
        };
        let mut record = RecoveredRecord::read(&*disk)?;
        // Leftovers are removed first: their names may be needed again.
        for name in &record.leftovers {
            disk.remove(name)?;
        }
        self.next_id = record.greatest_id + 1;
        // Only the newest part can grow: the head behind another one says how long that is.
        let is_head =
            |part: &mut RecoveredPart| matches!(part.content, Some(RecoveredContent::Head(_)));
        let newest = record.parts.pop_if(is_head);
        for part in record.parts {
            self.add_closed(part);
        }
        // Those that no part needs are listed as well: the removal below deletes their files.
        for (id, len) in &record.catalogs {
            self.closed.add_catalog(*id, ClosedCatalog::in_file(*len));
        }
        if let Some(newest) = newest {
            self.resume(newest, &*disk, &mut record.report)?;
        }
        // Nothing is continued, and files of this record may have the ids that `new` gave out.
        if self.head.is_new() {
            self.start_files();
        }
        self.closed.remove_unneeded_catalogs(&mut self.storage);
        // The budget may be smaller than before.
        if self.make_room(0).is_err() {
            self.start_over();
        }
        Ok((self, record.report))
    }

    fn add_closed(&mut self, part: RecoveredPart) {
        let (id, cost, is_damaged) = (part.id, file_cost(part.len), part.content.is_none());
        let part = part.into_part();
        // A head without a scrape is no part.
        if is_damaged || part.is_some() {
            self.closed.push(id, part, cost, None);
        }
    }

    /// Continues the newest head. If it or its catalog is damaged, or an older version wrote it, the head
    /// is closed instead.
    fn resume(
        &mut self,
        mut newest: RecoveredPart,
        disk: &dyn Disk,
        report: &mut OpenReport,
    ) -> Result<(), RecoverError> {
        let Some(RecoveredContent::Head(head)) = newest.content.take() else {
            return Ok(());
        };
        let id = head.header.catalog;
        let (catalog, intact_len, damage) = match read_whole(disk, &FileKind::Catalog.name(id)) {
            Ok(bytes) => Catalog::read(id, &bytes),
            Err(error) => {
                let damage = FileKind::Catalog.unreadable(id, &error);
                (Catalog::new(id, 0), 0, Some(damage))
            }
        };
        // A file that ends early was being written when the process ended.
        let is_intact = |damage: &Option<Damage>| damage.as_ref().is_none_or(Damage::is_truncation);
        let is_complete = catalog.blocks() >= head.catalog_blocks;
        // Files are cut only if everything can be restored from them.
        let sources = restore_sources(&catalog, &head);
        // With no intact byte, not even the catalog's header is there to append to.
        if let Some(sources) = sources
            && head.header.is_current()
            && intact_len > 0
            && is_complete
            && is_intact(&damage)
            && is_intact(&head.damage)
        {
            report.unfinished += self.resume_files(head, (catalog, intact_len), disk)?;
            self.sources = sources;
            return Ok(());
        }
        let truncation = || FileKind::Catalog.damage(id, intact_len, DamageKind::Truncated);
        let damage = damage.filter(|damage| !damage.is_truncation());
        if let Some(damage) = damage.or_else(|| (!is_complete).then(truncation)) {
            report.add_damage(damage);
        }
        newest.content = Some(RecoveredContent::Head(head));
        self.add_closed(newest);
        Ok(())
    }

    /// Opens the files of the head and its catalog, and cuts off what is unfinished. Returns the number
    /// of bytes cut off.
    fn resume_files(
        &mut self,
        head: HeadFile,
        (catalog, catalog_len): (Catalog, u64),
        disk: &dyn Disk,
    ) -> Result<u64, RecoverError> {
        let (head_len, mut unfinished) = (head.intact_len, 0);
        let mut open = |name: &str, intact_len: u64| -> Result<_, RecoverError> {
            let file = disk.open_to_write(name)?;
            unfinished += file.len()?.saturating_sub(intact_len);
            // What stayed behind the next frame would be reported as damage at the next opening.
            file.set_len(intact_len)?;
            Ok(file)
        };
        let head_file = open(&FileKind::Head.name(head.header.id), head_len)?;
        let catalog_file = open(&FileKind::Catalog.name(catalog.id), catalog_len)?;
        // `recover` listed it among the closed parts' catalogs, where its size would count twice.
        self.closed.take_catalog(catalog.id);
        self.definitions = Definitions::resumed(catalog, catalog_file, catalog_len);
        let log = Log::resumed(head.header, head_file, head_len).with_region(head.region);
        self.head = Head::resumed(log, head.rows);
        Ok(unfinished)
    }

    /// Starts a catalog and a head, which share an id.
    fn start_files(&mut self) {
        let record = self.head.record();
        self.definitions = Definitions::new(self.next_id, record);
        self.head = Head::new(self.next_id, self.next_id, record);
        self.next_id += 1;
    }

    /// Removes everything: not even the smallest part of the record fits the budget.
    fn start_over(&mut self) {
        self.close_head();
        while self.evict() {}
        let id = self.definitions.id();
        // No part needs this catalog any more, so that its file goes with the others below.
        self.closed.add_catalog(id, ClosedCatalog::in_file(0));
        self.start_files();
        self.closed.remove_unneeded_catalogs(&mut self.storage);
        self.sources = Sources::default();
    }
}

/// Restores the series as the head left them. Returns `None` if the catalog does not define one of them.
fn restore_sources(catalog: &Catalog, head: &HeadFile) -> Option<Sources> {
    let mut sources = Sources::of(catalog);
    for (at, rows) in head.rows.iter().enumerate() {
        let Some(rows) = rows else { continue };
        let source = sources.get_mut(at)?;
        let last = rows.times.scrapes.last()?;
        source.last = Some((last.time, last.missed));
        source.last_head = head.header.id;
        source.restore_newest(&head.states[at])?;
    }
    Some(sources)
}
