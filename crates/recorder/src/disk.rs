//! The part of a file system that a record uses. Tests replace it by one that fails on demand.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use steadfast_files::private;

/// A directory of files.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Returns the names and lengths of all entries but directories. Opening one that is no file fails.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Opens a file for reading.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open_to_write(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates an empty file, which replaces one of the same name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the creation, renaming and removal of files durable.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. Only one thread may read or write at a time, while another may sync.
pub(crate) trait DiskFile: Debug + Send + Sync {
    fn len(&self) -> io::Result<u64>;
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the file's content durable.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    fn open_with(&self, options: &OpenOptions, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = options.open(self.path.join(name))?;
        // A pipe would read as an empty file, like one that a commit was about to write.
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Arc::new(file))
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // A file may be removed while the directory is read, and our names are UTF-8.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            // A symbolic link or a pipe in place of a file is damage of that file. Passed over, it would be
            // taken for one that was evicted, and its name for one that is free.
            if let (false, Ok(name)) = (metadata.is_dir(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        // File systems differ in the order of a directory. Recovery and its report must not.
        files.sort();
        Ok(files)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(private().read(true), name)
    }

    fn open_to_write(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(private().read(true).write(true), name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = private();
        options.read(true).write(true).create(true).truncate(true);
        self.open_with(&options, name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        // Only Unix can sync directories; other systems order changes of names themselves.
        if cfg!(unix) {
            File::open(&self.path)?.sync_all()
        } else {
            Ok(())
        }
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        // The standard library has positioned reads for Unix only.
        let mut file = self;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        // It includes the length of the file. The times that it omits are not needed.
        self.sync_data()
    }
}

/// Reads a file to its end.
pub(crate) fn read_whole(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}
