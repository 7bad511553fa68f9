//! Whether the disk has room for a batch.

use std::path::{Path, PathBuf};

use crate::log::{LogError, Submission};

/// What a byte of a batch may cost on the disk: its record, a page that is hardly filled, and the
/// pages above it.
const COST: u64 = 8;
/// What any commit may cost: new pages from the leaves to the roots of two tables, and the
/// allocator's own.
const COST_OF_A_COMMIT: u64 = 1 << 20;

/// The disk of a log.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    min_free_bytes: u64,
}

impl Space {
    pub(super) fn new(dir: &Path, min_free_bytes: u64) -> Self {
        let dir = dir.to_owned();
        Self {
            dir,
            min_free_bytes,
        }
    }

    /// Looks before anything is written, since the engine can not go on after a failed write.
    pub(super) fn suffices(&self, batch: &[Submission]) -> Result<(), LogError> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes: usize = batch.iter().map(Submission::weight).sum();
        let needed = (bytes as u64)
            .saturating_mul(COST)
            .saturating_add(COST_OF_A_COMMIT)
            .saturating_add(self.min_free_bytes);
        match free_bytes(&self.dir) {
            Some(free) if free < needed => Err(LogError::Full { free, needed }),
            Some(_) | None => Ok(()),
        }
    }
}

/// What the disk has left for this process; `None` when the system does not tell.
#[cfg(unix)]
fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}
