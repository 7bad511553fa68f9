//! A disk in memory that fails on demand and tracks the state after a crash or a power cut.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::disk::{Disk, DiskFile};

/// A change of the disk. Replaying some of them simulates a crash.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create(String),
    Write(String, u64, Vec<u8>),
    SetLen(String, u64),
    Rename(String, String),
    Remove(String),
}

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Default)]
struct Inner {
    /// The index of each file's content.
    names: BTreeMap<String, usize>,
    /// The files that survive a power cut.
    durable_names: BTreeMap<String, usize>,
    /// The contents, which outlive their names.
    contents: Vec<Content>,
    changes: Vec<Change>,
    /// The free space in bytes, unlimited if `None`.
    free: Option<u64>,
    /// The number of operations until one fails.
    fail_in: Option<u32>,
    fail_sync: bool,
}

#[derive(Debug, Default)]
struct Content {
    name: String,
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

/// A simulated disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    content: usize,
}

impl Inner {
    /// Notes a change before it is made, unless it is the one that fails.
    fn note(&mut self, change: Change) -> io::Result<()> {
        if let Some(left) = &mut self.fail_in {
            if *left == 0 {
                self.fail_in = None;
                return Err(io::ErrorKind::Other.into());
            }
            *left -= 1;
        }
        self.changes.push(change);
        Ok(())
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> usize {
        self.contents.push(Content {
            name: name.to_owned(),
            bytes: bytes.to_vec(),
            durable: Vec::new(),
        });
        let content = self.contents.len() - 1;
        self.names.insert(name.to_owned(), content);
        content
    }

    fn check_sync(&self) -> io::Result<()> {
        if self.fail_sync {
            return Err(io::ErrorKind::Other.into());
        }
        Ok(())
    }
}

impl SimDisk {
    pub(crate) fn with(files: &Files) -> Self {
        let disk = Self::default();
        let mut inner = disk.lock();
        for (name, bytes) in files {
            let content = inner.add(name, bytes);
            inner.contents[content].durable.clone_from(bytes);
        }
        inner.durable_names = inner.names.clone();
        drop(inner);
        disk
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn file(&self, content: usize) -> Arc<dyn DiskFile> {
        let disk = self.clone();
        Arc::new(SimFile { disk, content })
    }

    pub(crate) fn files(&self) -> Files {
        let inner = self.lock();
        let bytes = |content: &usize| inner.contents[*content].bytes.clone();
        let files = inner.names.iter();
        files
            .map(|(name, content)| (name.clone(), bytes(content)))
            .collect()
    }

    /// Returns the files after a power cut that lost everything not synced.
    pub(crate) fn durable(&self) -> Files {
        let inner = self.lock();
        let bytes = |content: &usize| inner.contents[*content].durable.clone();
        let files = inner.durable_names.iter();
        files
            .map(|(name, content)| (name.clone(), bytes(content)))
            .collect()
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.lock().changes.clone()
    }

    pub(crate) fn set_free(&self, free: Option<u64>) {
        self.lock().free = free;
    }

    pub(crate) fn fail_in(&self, operations: Option<u32>) {
        self.lock().fail_in = operations;
    }

    pub(crate) fn fail_sync(&self, fail: bool) {
        self.lock().fail_sync = fail;
    }
}

/// Applies a change to files. Of a write only the first `cut` bytes, if given.
pub(crate) fn apply(files: &mut Files, change: &Change, cut: Option<usize>) {
    match change {
        Change::Create(name) => {
            files.insert(name.clone(), Vec::new());
        }
        Change::Write(name, offset, bytes) => {
            let bytes = &bytes[..cut.unwrap_or(bytes.len())];
            if let Some(file) = files.get_mut(name) {
                write(file, *offset, bytes);
            }
        }
        Change::SetLen(name, len) => {
            if let Some(file) = files.get_mut(name) {
                file.resize(*len as usize, 0);
            }
        }
        Change::Rename(from, to) => {
            if let Some(file) = files.remove(from) {
                files.insert(to.clone(), file);
            }
        }
        Change::Remove(name) => {
            files.remove(name);
        }
    }
}

fn write(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset as usize..end].copy_from_slice(bytes);
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let files = self.files().into_iter();
        Ok(files
            .map(|(name, bytes)| (name, bytes.len() as u64))
            .collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.lock().names.get(name).copied();
        Ok(self.file(content.ok_or(io::ErrorKind::NotFound)?))
    }

    fn open_to_write(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.lock();
        inner.note(Change::Create(name.to_owned()))?;
        Ok(self.file(inner.add(name, &[])))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.note(Change::Rename(from.to_owned(), to.to_owned()))?;
        let content = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        to.clone_into(&mut inner.contents[content].name);
        inner.names.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if !inner.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.note(Change::Remove(name.to_owned()))?;
        inner.names.remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.check_sync()?;
        inner.durable_names = inner.names.clone();
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().contents[self.content].bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let inner = self.disk.lock();
        let bytes = &inner.contents[self.content].bytes;
        let range = bytes.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.lock();
        // A full disk writes the part that fits before it fails.
        let fits = inner
            .free
            .map_or(bytes.len(), |free| bytes.len().min(free as usize));
        let name = inner.contents[self.content].name.clone();
        inner.note(Change::Write(name, offset, bytes[..fits].to_vec()))?;
        if let Some(free) = &mut inner.free {
            *free -= fits as u64;
        }
        write(
            &mut inner.contents[self.content].bytes,
            offset,
            &bytes[..fits],
        );
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        let name = inner.contents[self.content].name.clone();
        inner.note(Change::SetLen(name, len))?;
        inner.contents[self.content].bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.check_sync()?;
        let content = &mut inner.contents[self.content];
        content.durable.clone_from(&content.bytes);
        Ok(())
    }
}
