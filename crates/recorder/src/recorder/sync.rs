//! Making files durable, on any thread.

use std::{io, sync::Arc};

use crate::disk::{Disk, DiskFile};

/// The work of making everything committed so far durable. Run it on any thread, and give the outcome
/// to [`Recorder::finish_sync`](crate::Recorder::finish_sync).
#[derive(Debug)]
pub struct SyncJob {
    pub(super) disk: Arc<dyn Disk>,
    /// Catalogs before heads: a durable head must never need a catalog that is not.
    pub(super) files: Vec<Arc<dyn DiskFile>>,
    pub(super) segments: Vec<(u64, Arc<dyn DiskFile>)>,
    pub(super) directory_changed: bool,
    /// Files to remove after the sync.
    pub(super) obsolete: Vec<String>,
}

/// The outcome of a [`SyncJob`].
#[derive(Debug)]
#[must_use = "the recorder waits for the outcome"]
pub struct SyncOutcome {
    pub(super) result: io::Result<()>,
    pub(super) segments: Vec<u64>,
    pub(super) obsolete: Vec<String>,
}

impl SyncJob {
    pub(crate) fn is_empty(&self) -> bool {
        let lists = self.files.len() + self.segments.len() + self.obsolete.len();
        lists == 0 && !self.directory_changed
    }

    /// Does the work, which takes as long as the disk does.
    pub fn run(self) -> SyncOutcome {
        let segments = self.segments.iter();
        let mut files = self
            .files
            .iter()
            .chain(segments.clone().map(|(_, file)| file));
        // After the first failure everything is in doubt, and the rest need not be tried.
        let mut result = files.try_for_each(|file| file.sync());
        // Files first: a durable name must not lead to a file that lost its content.
        if self.directory_changed {
            result = result.and_then(|()| self.disk.sync());
        }
        SyncOutcome {
            result,
            segments: segments.map(|(id, _)| *id).collect(),
            obsolete: self.obsolete,
        }
    }
}
