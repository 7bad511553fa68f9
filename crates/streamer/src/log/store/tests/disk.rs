//! A simulated disk that can fail, lose power, and be damaged.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use redb::StorageBackend;

/// Unit of a write that survives a power cut entirely or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The content that a process reads.
    current: Vec<u8>,
    /// The content at the last sync.
    synced: Vec<u8>,
    /// The changes since then, in order.
    unsynced: Vec<Change>,
    /// Writes, resizes and syncs so far.
    operations: usize,
    /// The number of operations after which all others fail.
    fails_at: Option<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Resize(usize),
}

impl Disk {
    fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State {
            current: bytes.clone(),
            synced: bytes,
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn operations(&self) -> usize {
        self.state().operations
    }

    /// Makes all operations fail after `successes` more.
    pub(super) fn fail_after(&self, successes: usize) {
        let mut state = self.state();
        state.fails_at = Some(state.operations + successes);
    }

    pub(super) fn fail_never(&self) {
        self.state().fails_at = None;
    }

    pub(super) fn flip(&self, at: u64, mask: u8) {
        self.state().current[usize::try_from(at).unwrap()] ^= mask;
    }

    pub(super) fn truncate(&self, length: u64) {
        self.state()
            .current
            .truncate(usize::try_from(length).unwrap());
    }

    /// Returns the disk as another process finds it: with everything that was written.
    pub(super) fn after_kill(&self) -> Self {
        Self::holding(self.state().current.clone())
    }

    /// Returns the disk as the next boot finds it: with random sectors of what was written since the
    /// last sync.
    pub(super) fn after_power_cut(&self, rng: &mut ChaCha8Rng) -> Self {
        let state = self.state();
        let mut bytes = state.synced.clone();
        for change in &state.unsynced {
            match change {
                Change::Write { at, data } => {
                    for (sector, part) in data.chunks(SECTOR).enumerate() {
                        if rng.random() {
                            let at = at + sector * SECTOR;
                            if bytes.len() < at + part.len() {
                                bytes.resize(at + part.len(), 0);
                            }
                            bytes[at..at + part.len()].copy_from_slice(part);
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
        Self::holding(bytes)
    }
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        if self.fails_at.is_some_and(|at| self.operations >= at) {
            return Err(io::Error::other("injected"));
        }
        self.operations += 1;
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let to = from
            .checked_add(out.len())
            .filter(|to| *to <= state.current.len());
        let to = to.ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(&state.current[from..to]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let length = usize::try_from(len).map_err(io::Error::other)?;
        state.current.resize(length, 0);
        state.unsynced.push(Change::Resize(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.synced = state.current.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let end = at + data.len();
        if state.current.len() < end {
            state.current.resize(end, 0);
        }
        state.current[at..end].copy_from_slice(data);
        let data = data.to_vec();
        state.unsynced.push(Change::Write { at, data });
        Ok(())
    }
}
