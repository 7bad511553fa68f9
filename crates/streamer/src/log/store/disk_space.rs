//! The check for free disk space before a commit.

use std::path::{Path, PathBuf};

use crate::log::{LogError, Submission};

/// Upper bound of the disk space that one byte of a batch needs: the encoded event, a nearly empty
/// page around it, and the pages above that one.
const COST_PER_BYTE: u64 = 8;
/// Upper bound of the disk space that any commit needs: new pages from the leaves to the roots of
/// two tables, and the allocator's state.
const COST_PER_COMMIT: u64 = 1 << 20;

/// The free space of the disk that holds a log.
#[derive(Debug)]
pub(super) struct DiskSpace {
    dir: PathBuf,
    min_free_bytes: u64,
}

impl DiskSpace {
    pub(super) fn new(dir: &Path, min_free_bytes: u64) -> Self {
        let dir = dir.to_owned();
        Self {
            dir,
            min_free_bytes,
        }
    }

    /// Returns [`LogError::Full`] if the disk may be too full for the batch. Must be called before
    /// anything is written, because the engine cannot continue after a failed write.
    pub(super) fn check(&self, batch: &[Submission]) -> Result<(), LogError> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes: usize = batch.iter().map(Submission::weight).sum();
        let needed = (bytes as u64)
            .saturating_mul(COST_PER_BYTE)
            .saturating_add(COST_PER_COMMIT)
            .saturating_add(self.min_free_bytes);
        match free_bytes(&self.dir) {
            Some(free) if free < needed => Err(LogError::Full { free, needed }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Returns the disk space available to this process, or `None` if the system does not report it.
#[cfg(unix)]
fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    // `f_bavail`, not `f_bfree`: the latter includes blocks reserved for root.
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}
