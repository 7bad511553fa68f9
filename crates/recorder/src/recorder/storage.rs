//! The files of a record, or none in memory.

use std::{io, sync::Arc};

use crate::{
    disk::{Disk, DiskFile},
    error::WriteError,
    frame::{FileKind, Log},
};

/// The block size of common file systems. A file counts as the blocks it takes.
pub(crate) const FILE_BLOCK: u64 = 4 << 10;

/// Returns the space that a file of this length takes.
pub(crate) fn file_cost(len: u64) -> u64 {
    len.next_multiple_of(FILE_BLOCK)
}

/// Returns the name of a segment until it is durable.
pub(crate) fn temporary_name(id: u64) -> String {
    format!("{}.tmp", FileKind::Segment.name(id))
}

/// Creates a file with this content, or none if that fails.
fn write_file(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(name)?;
    if let Err(error) = file.write_at(0, bytes) {
        // A partial file would take space that no budget counts.
        disk.remove(name).ok();
        return Err(error);
    }
    Ok(file)
}

/// The files of a record, or none in memory.
#[derive(Debug)]
pub(crate) struct Storage {
    /// `None` in memory.
    disk: Option<Arc<dyn Disk>>,
    /// Files were created, renamed or removed since the last sync of the directory.
    directory_changed: bool,
}

impl Storage {
    pub(super) fn new(disk: Option<Arc<dyn Disk>>) -> Self {
        Self {
            disk,
            directory_changed: false,
        }
    }

    pub(super) fn disk(&self) -> Option<&Arc<dyn Disk>> {
        self.disk.as_ref()
    }

    pub(super) fn is_memory(&self) -> bool {
        self.disk.is_none()
    }

    /// Returns true if the directory has to be synced, and assumes that it will be.
    pub(super) fn take_directory_changed(&mut self) -> bool {
        std::mem::take(&mut self.directory_changed)
    }

    pub(super) fn set_directory_changed(&mut self) {
        self.directory_changed = true;
    }

    /// Appends a frame to a log, of which the first creates the file, and returns the number of bytes in
    /// front of it. In memory only the log's length changes.
    pub(super) fn append(
        &mut self,
        log: &mut Log,
        frame: &mut Vec<u8>,
    ) -> Result<usize, WriteError> {
        let appended = self.create_if_new(log).and_then(|()| log.append(frame));
        appended.map_err(|error| WriteError::Io {
            file: log.name(),
            error,
        })
    }

    fn create_if_new(&mut self, log: &mut Log) -> io::Result<()> {
        if let Some(disk) = &self.disk
            && !log.has_file()
        {
            log.create_file(&**disk)?;
            self.directory_changed = true;
        }
        Ok(())
    }

    /// Writes a segment under its temporary name. Returns `None` in memory.
    pub(super) fn write_segment(
        &mut self,
        id: u64,
        bytes: &[u8],
    ) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let Some(disk) = &self.disk else {
            return Ok(None);
        };
        // A power cut could leave the final name with a part of the content.
        let file = write_file(&**disk, &temporary_name(id), bytes)?;
        self.directory_changed = true;
        Ok(Some(file))
    }

    /// Replaces the content of a file in one step. Returns `None` in memory.
    pub(super) fn replace(
        &mut self,
        name: &str,
        bytes: &[u8],
    ) -> Result<Option<Arc<dyn DiskFile>>, WriteError> {
        let Some(disk) = &self.disk else {
            return Ok(None);
        };
        let temporary = format!("{name}.tmp");
        let replaced = write_file(&**disk, &temporary, bytes).and_then(|file| {
            let renamed = disk.rename(&temporary, name);
            // The old file is still in place.
            if renamed.is_err() {
                disk.remove(&temporary).ok();
            }
            renamed.map(|()| file)
        });
        self.directory_changed |= replaced.is_ok();
        replaced.map(Some).map_err(|error| WriteError::Io {
            file: name.to_owned(),
            error,
        })
    }

    /// Gives a segment its final name.
    pub(super) fn publish_segment(&mut self, id: u64) -> io::Result<()> {
        if let Some(disk) = &self.disk {
            disk.rename(&temporary_name(id), &FileKind::Segment.name(id))?;
            self.directory_changed = true;
        }
        Ok(())
    }

    /// Removes a file, if it exists.
    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        match disk.remove(name) {
            Ok(()) => self.directory_changed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
