//! Reading a record that a recorder may be writing.

use std::{path::Path, sync::Arc};

use super::{
    Recorder,
    recover::{OpenReport, RecoverError, RecoveredContent, RecoveredRecord},
};
use crate::{
    disk::{Directory, Disk},
    error::OpenError,
    part::CatalogData,
    reader::Reader,
    snapshot::Snapshot,
};

/// The maximum number of times that a directory is read because files disappeared meanwhile.
const ATTEMPTS_MAX: usize = 16;

impl Recorder {
    /// Opens the record in `dir` for reading, also while a recorder writes to it. The reader sees
    /// everything committed so far. Nothing is changed.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read, or a newer version wrote to it.
    pub fn open_read_only(dir: &Path) -> Result<(Reader, OpenReport), OpenError> {
        let (snapshot, report) = read_snapshot(dir)?;
        Ok((Reader::new([snapshot]), report))
    }
}

/// Reads the record in `dir`.
pub(crate) fn read_snapshot(dir: &Path) -> Result<(Snapshot, OpenReport), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(dir));
    read_disk(&disk).map_err(|error| error.at(dir))
}

fn read_disk(disk: &Arc<dyn Disk>) -> Result<(Snapshot, OpenReport), RecoverError> {
    let mut record = RecoveredRecord::read(&**disk)?;
    for _ in 1..ATTEMPTS_MAX {
        // A file that the recorder removed meanwhile must not be reported as damage.
        if !record.is_changing {
            break;
        }
        record = RecoveredRecord::read(&**disk)?;
    }
    let mut report = record.report;
    let mut snapshot = Snapshot {
        disk: Some(Arc::clone(disk)),
        ..Snapshot::default()
    };
    for part in record.parts {
        if let Some(RecoveredContent::Head(head)) = &part.content {
            report.unfinished += part.len.saturating_sub(head.intact_len);
        }
        if let Some(part) = part.into_part() {
            snapshot.push(part, || CatalogData::File);
        }
    }
    snapshot.damage.clone_from(&report.damage);
    Ok((snapshot, report))
}

#[cfg(test)]
pub(super) fn read_only_on(disk: &Arc<dyn Disk>) -> Result<(Reader, OpenReport), OpenError> {
    let read = read_disk(disk).map_err(|error| error.at(Path::new("disk")));
    read.map(|(snapshot, report)| (Reader::new([snapshot]), report))
}
