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
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    /// The files that survive a power cut.
    durable_names: BTreeMap<String, Arc<Mutex<Content>>>,
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
    content: Arc<Mutex<Content>>,
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl SimDisk {
    pub(crate) fn with(files: &Files) -> Self {
        let disk = Self::default();
        for (name, bytes) in files {
            let content = Content {
                name: name.clone(),
                bytes: bytes.clone(),
                durable: bytes.clone(),
            };
            let content = Arc::new(Mutex::new(content));
            disk.lock()
                .durable_names
                .insert(name.clone(), Arc::clone(&content));
            disk.lock().files.insert(name.clone(), content);
        }
        disk
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn files(&self) -> Files {
        let inner = self.lock();
        inner
            .files
            .iter()
            .map(|(name, content)| (name.clone(), content.lock().unwrap().bytes.clone()))
            .collect()
    }

    /// Returns the files after a power cut that lost everything not synced.
    pub(crate) fn durable(&self) -> Files {
        let inner = self.lock();
        let names = inner.durable_names.iter();
        names
            .map(|(name, content)| (name.clone(), content.lock().unwrap().durable.clone()))
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

    fn note(&self, change: Change) -> io::Result<()> {
        let mut inner = self.lock();
        if let Some(left) = &mut inner.fail_in {
            if *left == 0 {
                inner.fail_in = None;
                return Err(io::ErrorKind::Other.into());
            }
            *left -= 1;
        }
        inner.changes.push(change);
        Ok(())
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
                let end = *offset as usize + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset as usize..end].copy_from_slice(bytes);
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

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let inner = self.lock();
        Ok(inner
            .files
            .iter()
            .map(|(name, content)| (name.clone(), content.lock().unwrap().bytes.len() as u64))
            .collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self
            .lock()
            .files
            .get(name)
            .cloned()
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            content,
        }))
    }

    fn open_to_write(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.note(Change::Create(name.to_owned()))?;
        let content = Arc::new(Mutex::new(Content {
            name: name.to_owned(),
            ..Content::default()
        }));
        self.lock()
            .files
            .insert(name.to_owned(), Arc::clone(&content));
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            content,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.note(Change::Rename(from.to_owned(), to.to_owned()))?;
        let mut inner = self.lock();
        let content = inner.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        to.clone_into(&mut content.lock().unwrap().name);
        inner.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.lock().files.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.note(Change::Remove(name.to_owned()))?;
        self.lock().files.remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.fail_sync {
            return Err(io::ErrorKind::Other.into());
        }
        inner.durable_names = inner.files.clone();
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let content = self.content.lock().unwrap();
        let range = content
            .bytes
            .get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // A full disk writes the part that fits before it fails.
        let fits = self
            .disk
            .lock()
            .free
            .map_or(bytes.len(), |free| bytes.len().min(free as usize));
        let name = self.content.lock().unwrap().name.clone();
        self.disk
            .note(Change::Write(name.clone(), offset, bytes[..fits].to_vec()))?;
        if let Some(free) = &mut self.disk.lock().free {
            *free -= fits as u64;
        }
        let mut files = Files::from([(
            name.clone(),
            std::mem::take(&mut self.content.lock().unwrap().bytes),
        )]);
        apply(
            &mut files,
            &Change::Write(name.clone(), offset, bytes[..fits].to_vec()),
            None,
        );
        self.content.lock().unwrap().bytes = files.remove(&name).unwrap();
        if fits < bytes.len() {
            Err(full())
        } else {
            Ok(())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let name = self.content.lock().unwrap().name.clone();
        self.disk.note(Change::SetLen(name, len))?;
        self.content.lock().unwrap().bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.disk.lock().fail_sync {
            return Err(io::ErrorKind::Other.into());
        }
        let mut content = self.content.lock().unwrap();
        content.durable = content.bytes.clone();
        Ok(())
    }
}
