//! The operations on files that segments need, and their implementation by the system.

use std::{
    fmt::Debug,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::log::LogError;
use steadfast_files::private;

/// A directory of segment files.
pub(super) trait Disk: Debug + Send + Sync {
    /// Returns the names of all files.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Creates a file of this length that begins with `head` and is otherwise zero. A crash leaves it
    /// complete or not at all, and it is durable when this returns.
    fn create(&self, name: &str, length: u64, head: &[u8]) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that is not written to, which may be read-only.
    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns the space that is available to this process, or `None` if that is unknown. A file system
    /// that became read-only is an error.
    fn free_bytes(&self) -> io::Result<Option<u64>>;

    /// Returns the length of a file and the limit of this process on it, or `None` without a limit.
    fn length_and_limit(&self, _name: &str) -> Option<(u64, u64)> {
        None
    }
}

/// A file of fixed length.
pub(super) trait DiskFile: Debug + Send + Sync {
    /// Returns the length.
    fn length(&self) -> io::Result<u64>;

    /// Fills `out` from this place.
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at this place.
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()>;

    /// Makes all writes durable.
    fn sync(&self) -> io::Result<()>;

    /// Returns the length, or `None` if the file was removed from its directory.
    fn linked_length(&self) -> io::Result<Option<u64>>;
}

/// The directory in errors, which name it elsewhere.
pub(super) const DIRECTORY: &str = "the log's directory";

/// The name of a file during its creation.
const NEW_FILE: &str = "segment.new";

/// A directory of the system.
#[derive(Debug)]
pub(super) struct Directory(pub(super) PathBuf);

impl Disk for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name()));
        let names: io::Result<Vec<_>> = names.collect();
        let text = |name: std::ffi::OsString| name.into_string().ok();
        Ok(names?.into_iter().filter_map(text).collect())
    }

    fn create(&self, name: &str, length: u64, head: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
        let new = self.0.join(NEW_FILE);
        let created = (|| {
            let mut options = private();
            options.read(true).write(true).create(true).truncate(true);
            let file = options.open(&new)?;
            allocate(&file, length)?;
            file.write(0, head)?;
            // Before the rename: under its final name a file must have its length and a header.
            file.sync_all()?;
            fs::rename(&new, self.0.join(name))?;
            // Otherwise a power failure could remove a file to which commits were already
            // acknowledged.
            sync_directory(&self.0)?;
            Ok(Arc::new(file) as Arc<dyn DiskFile>)
        })();
        if created.is_err() {
            // On a full disk, what was allocated must not stay.
            fs::remove_file(&new).ok();
        }
        created
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = private().read(true).write(true).open(self.0.join(name))?;
        Ok(Arc::new(file))
    }

    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = private().read(true).open(self.0.join(name))?;
        Ok(Arc::new(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        // The directory is not synced: a segment that reappears is removed by a later trimming.
        fs::remove_file(self.0.join(name))
    }

    #[cfg(unix)]
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let Ok(disk) = rustix::fs::statvfs(&self.0) else {
            return Ok(None);
        };
        // Asked before each write: redb cannot continue after one that fails.
        if disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            return Err(rustix::io::Errno::ROFS.into());
        }
        // `f_bavail`, not `f_bfree`: the latter includes blocks reserved for root.
        Ok(Some(disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    #[cfg(not(unix))]
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    #[cfg(unix)]
    fn length_and_limit(&self, name: &str) -> Option<(u64, u64)> {
        // Asked each time: an operator may raise it while the process runs.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current?;
        let length = fs::metadata(self.0.join(name)).ok()?.len();
        Some((length, limit))
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    #[cfg(unix)]
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, at)
    }

    #[cfg(windows)]
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < out.len() {
            let place = at + done as u64;
            match std::os::windows::fs::FileExt::seek_read(self, &mut out[done..], place)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, data, at)
    }

    #[cfg(windows)]
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            let place = at + done as u64;
            match std::os::windows::fs::FileExt::seek_write(self, &data[done..], place)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => done += written,
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // Enough, because the length of a segment is durable from its creation and never changes.
        self.sync_data()
    }

    #[cfg(unix)]
    fn linked_length(&self) -> io::Result<Option<u64>> {
        use std::os::unix::fs::MetadataExt as _;
        // Asks for the open file, not for its name, which could belong to another file by now.
        let metadata = self.metadata()?;
        Ok((metadata.nlink() > 0).then_some(metadata.len()))
    }

    #[cfg(not(unix))]
    fn linked_length(&self) -> io::Result<Option<u64>> {
        self.length().map(Some)
    }
}

/// Allocates the blocks of a file, so that a later write finds its place on a full disk.
fn allocate(file: &File, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::{fs::FallocateFlags, io::Errno};
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length) {
            // Not every file system can; a full disk is then found by the write.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            result => return Ok(result?),
        }
    }
    file.set_len(length)
}

/// Wraps an error of a write or of [`Disk::create`]. If the disk is full or the system does not allow it, no
/// more than this commit is lost.
pub(super) fn write_error(error: io::Error) -> LogError {
    match error.kind() {
        // Of a write only: after a sync the same errors leave the content unknown.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            LogError::NoSpace(Arc::new(error))
        }
        _ if is_refused(&error) => LogError::NoSpace(Arc::new(error)),
        _ => LogError::storage(error),
    }
}

/// Wraps an error of opening a file, or of reading the directory.
pub(super) fn open_error(file: &str, error: io::Error) -> LogError {
    LogError::Open {
        file: file.to_owned(),
        source: Arc::new(error),
    }
}

/// Returns `true` if the system refused to open or to write a file: nothing was changed, and the same may
/// succeed later.
fn is_refused(error: &io::Error) -> bool {
    let is_forbidden = matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    );
    is_forbidden || is_out_of_files(error)
}

/// Returns `true` if a file was not opened for a reason that may pass.
pub(super) fn is_refused_open(error: &LogError) -> bool {
    matches!(error, LogError::Open { source, .. } if is_refused(source))
}

#[cfg(unix)]
fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let error = Errno::from_io_error(error);
    matches!(error, Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(not(unix))]
fn is_out_of_files(_error: &io::Error) -> bool {
    false
}

/// Returns the error of a file that somebody removed.
pub(super) fn removed(name: &str) -> LogError {
    let removed = format!("the file {name} was removed from the log's directory");
    LogError::storage(removed)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
