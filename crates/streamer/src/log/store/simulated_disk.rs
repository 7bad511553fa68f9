//! A simulated disk that can fail, fill up, lose power, and be damaged.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use redb::StorageBackend;

pub(super) use super::disk::Disk as SegmentDisk;
use super::{disk::DiskFile, head::HEAD_FILE};

/// Unit of a write that survives a power cut entirely or not at all.
const SECTOR: usize = 512;
/// The file of the index.
pub(super) const INDEX: &str = "log.redb";

#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

/// A file on a disk, by its name.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    disk: Disk,
    name: String,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<String, Content>,
    /// Files that were removed. A power cut may bring them back.
    removed: BTreeMap<String, Content>,
    /// Writes, resizes and syncs so far.
    operations: usize,
    /// Those of segments alone, and the bytes written to them.
    segment_writes: usize,
    segment_syncs: usize,
    segment_bytes: usize,
    /// The segments opened, and the bytes read from them.
    segment_opens: usize,
    segment_bytes_read: usize,
    /// Bytes written to the index, and its syncs.
    index_bytes: usize,
    index_syncs: usize,
    /// The number of operations after which all others fail.
    fails_at: Option<usize>,
    /// The next sync of a segment fails, and the system then holds what was written as clean.
    sync_fails: bool,
    /// The number of operations after which writes to segments find no space.
    full_at: Option<usize>,
    /// The number of files, or of the directory, that may still be opened.
    may_open: Option<usize>,
    is_read_only: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// The content that a process reads.
    current: Vec<u8>,
    /// The content at the last sync.
    synced: Vec<u8>,
    /// The changes since then, in order.
    unsynced: Vec<Change>,
    /// The newest synced writes: place and length.
    recent: Vec<(usize, usize)>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Resize(usize),
}

/// Operations on segments so far.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentUse {
    pub(super) writes: usize,
    pub(super) syncs: usize,
    pub(super) bytes: usize,
}

impl Disk {
    fn holding(files: impl Iterator<Item = (String, Vec<u8>)>) -> Self {
        let content = |bytes: Vec<u8>| Content {
            current: bytes.clone(),
            synced: bytes,
            ..Content::default()
        };
        Self(Arc::new(Mutex::new(State {
            files: files.map(|(name, bytes)| (name, content(bytes))).collect(),
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the index, which is created empty.
    pub(super) fn index(&self) -> OpenFile {
        self.state().files.entry(INDEX.to_owned()).or_default();
        self.file(INDEX)
    }

    fn file(&self, name: &str) -> OpenFile {
        let (disk, name) = (self.clone(), name.to_owned());
        OpenFile { disk, name }
    }

    #[cfg(test)]
    pub(super) fn operations(&self) -> usize {
        self.state().operations
    }

    #[cfg(test)]
    pub(super) fn segment_use(&self) -> SegmentUse {
        let state = self.state();
        SegmentUse {
            writes: state.segment_writes,
            syncs: state.segment_syncs,
            bytes: state.segment_bytes,
        }
    }

    /// Returns the number of times that a segment was opened, and the bytes read from segments.
    #[cfg(test)]
    pub(super) fn segment_reads(&self) -> (usize, usize) {
        let state = self.state();
        (state.segment_opens, state.segment_bytes_read)
    }

    /// Returns the bytes written to all files.
    #[cfg(test)]
    pub(super) fn bytes_written(&self) -> usize {
        let state = self.state();
        state.segment_bytes + state.index_bytes
    }

    /// Returns the syncs of all files.
    #[cfg(test)]
    pub(super) fn syncs(&self) -> usize {
        let state = self.state();
        state.segment_syncs + state.index_syncs
    }

    /// Makes the next sync of a segment fail. What was written is then read, but no sync writes it.
    pub(super) fn fail_next_sync(&self) {
        self.state().sync_fails = true;
    }

    /// Loses random sectors of the newest synced writes to segments, as a disk that lies about syncs.
    pub(super) fn lose_writes(&self, rng: &mut ChaCha8Rng) {
        for (name, content) in &mut self.state().files {
            if [INDEX, HEAD_FILE].contains(&&**name) {
                continue;
            }
            for (at, length) in content.recent.clone() {
                for start in (at..at + length).step_by(SECTOR) {
                    let end = (start + SECTOR).min(at + length).min(content.current.len());
                    if rng.random() && start < end {
                        content.current[start..end].fill(0);
                    }
                }
            }
        }
    }

    /// Makes all operations fail after `successes` more.
    pub(super) fn fail_after(&self, successes: usize) {
        let mut state = self.state();
        state.fails_at = Some(state.operations + successes);
    }

    #[cfg(test)]
    pub(super) fn fail_never(&self) {
        self.state().fails_at = None;
    }

    /// Lets writes to segments find no space after `successes` more operations, or never.
    pub(super) fn set_full_after(&self, successes: Option<usize>) {
        let mut state = self.state();
        state.full_at = successes.map(|successes| state.operations + successes);
    }

    pub(super) fn is_full(&self) -> bool {
        self.state().is_full()
    }

    /// Makes the file system read-only, also for files that are open, or writable again.
    #[cfg(test)]
    pub(super) fn set_read_only(&self, is_read_only: bool) {
        self.state().is_read_only = is_read_only;
    }

    /// Lets the system refuse to open files after so many more, or never.
    #[cfg(test)]
    pub(super) fn refuse_opens_after(&self, opens: Option<usize>) {
        self.state().may_open = opens;
    }

    /// Returns the names of the segments, in order.
    pub(super) fn segments(&self) -> Vec<String> {
        let mut names: Vec<_> = self.state().files.keys().cloned().collect();
        let others = [INDEX, HEAD_FILE];
        names.retain(|name| !others.contains(&&**name));
        names
    }

    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        let content = state.files.get(name);
        content.map_or_else(Vec::new, |content| content.current.clone())
    }

    pub(super) fn flip(&self, name: &str, at: usize, mask: u8) {
        if let Some(content) = self.state().files.get_mut(name) {
            content.current[at] ^= mask;
        }
    }

    pub(super) fn set_length(&self, name: &str, length: usize) {
        if let Some(content) = self.state().files.get_mut(name) {
            content.current.resize(length, 0);
        }
    }

    pub(super) fn copy(&self, from: &str, to: &str) {
        let mut state = self.state();
        let content = state.files[from].clone();
        state.files.insert(to.to_owned(), content);
    }

    pub(super) fn delete(&self, name: &str) {
        self.state().files.remove(name);
    }

    /// Returns the disk as another process finds it: with everything that was written, synced or not.
    pub(super) fn after_kill(&self) -> Self {
        let state = State {
            operations: 0,
            fails_at: None,
            full_at: None,
            sync_fails: false,
            ..self.state().clone()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns the disk as the next boot finds it: with random sectors of what was written since the
    /// last sync.
    pub(super) fn after_power_cut(&self, rng: &mut ChaCha8Rng) -> Self {
        let state = self.state();
        let mut files: BTreeMap<_, _> = state.files.iter().collect();
        for (name, content) in &state.removed {
            if rng.random() {
                files.entry(name).or_insert(content);
            }
        }
        let files = files.into_iter();
        Self::holding(files.map(|(name, content)| (name.clone(), content.after_power_cut(rng))))
    }
}

impl Content {
    fn after_power_cut(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for change in &self.unsynced {
            match change {
                Change::Write { at, data } => {
                    for (sector, part) in data.chunks(SECTOR).enumerate() {
                        if rng.random() {
                            put(&mut bytes, at + sector * SECTOR, part);
                        }
                    }
                }
                Change::Resize(length) => {
                    if rng.random() {
                        bytes.resize(*length, 0);
                    }
                }
            }
        }
        bytes
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        put(&mut self.current, at, data);
        let data = data.to_vec();
        self.unsynced.push(Change::Write { at, data });
    }

    fn sync(&mut self) {
        // Change by change: what an earlier sync failed to write is not among them.
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Write { at, data } => {
                    put(&mut self.synced, at, &data);
                    self.recent.push((at, data.len()));
                }
                Change::Resize(length) => self.synced.resize(length, 0),
            }
        }
        self.recent.drain(..self.recent.len().saturating_sub(3));
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        if self.fails_at.is_some_and(|at| self.operations >= at) {
            return Err(io::Error::other("injected"));
        }
        if self.is_read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.operations += 1;
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.may_open {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::PermissionDenied)?;
        }
        Ok(())
    }

    fn content(&mut self, name: &str) -> io::Result<&mut Content> {
        // A removed file is there as long as it is open.
        if self.files.contains_key(name) {
            return Ok(self.files.get_mut(name).expect("the key is known"));
        }
        Ok(self.removed.get_mut(name).ok_or(io::ErrorKind::NotFound)?)
    }

    fn is_full(&self) -> bool {
        self.full_at.is_some_and(|at| self.operations >= at)
    }
}

impl OpenFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let current = &state.content(&self.name)?.current;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let to = from
            .checked_add(out.len())
            .filter(|to| *to <= current.len());
        let to = to.ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(&current[from..to]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        if self.name == INDEX {
            state.index_bytes += data.len();
        } else {
            if state.is_full() {
                // The first half still found a place.
                state
                    .content(&self.name)?
                    .write(at, &data[..data.len() / 2]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.segment_writes += 1;
            state.segment_bytes += data.len();
        }
        state.content(&self.name)?.write(at, data);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        if self.name == INDEX {
            state.index_syncs += 1;
        } else {
            state.segment_syncs += 1;
            if std::mem::take(&mut state.sync_fails) {
                state.content(&self.name)?.unsynced.clear();
                return Err(io::Error::other("the sync failed"));
            }
        }
        state.content(&self.name)?.sync();
        Ok(())
    }

    fn length_now(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        Ok(state.content(&self.name)?.current.len() as u64)
    }
}

impl StorageBackend for OpenFile {
    fn len(&self) -> io::Result<u64> {
        self.length_now()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        let length = usize::try_from(len).map_err(io::Error::other)?;
        let content = state.content(&self.name)?;
        content.current.resize(length, 0);
        content.unsynced.push(Change::Resize(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)
    }
}

impl DiskFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        self.length_now()
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.state().segment_bytes_read += out.len();
        self.read_at(at, out)
    }

    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(at, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn linked_length(&self) -> io::Result<Option<u64>> {
        let is_linked = self.disk.state().files.contains_key(&self.name);
        is_linked.then(|| self.length_now()).transpose()
    }
}

impl SegmentDisk for Disk {
    fn names(&self) -> io::Result<Vec<String>> {
        self.state().open()?;
        Ok(self.state().files.keys().cloned().collect())
    }

    fn create(&self, name: &str, length: u64, head: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.operate()?;
        if state.is_full() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = head.to_vec();
        bytes.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
        let content = Content {
            current: bytes.clone(),
            synced: bytes,
            ..Content::default()
        };
        state.files.insert(name.to_owned(), content);
        drop(state);
        Ok(Arc::new(self.file(name)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        if !state.files.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.open()?;
        state.segment_opens += 1;
        drop(state);
        Ok(Arc::new(self.file(name)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let content = state.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.removed.insert(name.to_owned(), content);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        if self.state().is_read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(None)
    }
}
