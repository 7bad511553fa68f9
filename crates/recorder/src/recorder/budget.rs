//! The budget: its parts, the space in use, and eviction.

use super::{Recorder, seal, storage::FILE_BLOCK};
use crate::{
    error::WriteError,
    labels::{Labels, Meta},
    source::{SLOT_BYTES, SLOT_FRAME_BYTES},
};

/// The maximum length of a definition beside its labels and help.
const DEFINITION_BYTES: u64 = 24;

/// The budget of one recorder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// The maximum size of the record in bytes.
    pub(crate) limit: u64,
    /// The base of all limits for data that cannot be evicted. The shares of recorders with a common
    /// budget add up to that budget, whatever limit each has at a time.
    pub(crate) share: u64,
}

impl Budget {
    /// The budget of a recorder that shares it with no other.
    pub(super) fn whole(budget: u64) -> Self {
        Self {
            limit: budget,
            share: budget,
        }
    }

    /// Returns the maximum size of definitions.
    pub(super) fn definitions_max(self) -> u64 {
        self.share / 4
    }

    /// Returns the size from which a head is closed. Eviction frees parts of about this size.
    pub(super) fn head_max(self) -> u64 {
        self.share / 8
    }

    /// Returns the maximum number of live series: their slots fit a quarter of the share, and a frame
    /// with all of them an eighth, whatever their values.
    pub(super) fn series_max(self) -> u64 {
        self.share / (4 * SLOT_BYTES).max(8 * SLOT_FRAME_BYTES)
    }
}

/// The use of a common budget by one recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) used: u64,
    /// The time of the oldest data.
    pub(crate) oldest: Option<i64>,
    /// There is a part to evict.
    pub(crate) can_evict: bool,
}

impl Recorder {
    /// Returns the size of the record: whole file system blocks, or memory.
    pub(super) fn used(&self) -> u64 {
        let current = if self.storage.is_memory() {
            self.memory() + self.head.memory()
        } else {
            self.head.file_cost(None) + self.definitions.file_cost()
        };
        self.closed.cost() + current
    }

    /// Returns the memory that the recorder takes beside rows.
    pub(super) fn memory(&self) -> u64 {
        let buffers = self.sealer.memory() + self.frame.capacity() as u64;
        self.definitions.memory() + self.sources.memory() + buffers
    }

    /// Returns the time of the oldest data in Unix milliseconds.
    pub(super) fn oldest(&self) -> Option<i64> {
        let spans = self.closed.parts().map(|part| part.span);
        let spans = spans.chain(self.head.span());
        spans.map(|span| span.0).min()
    }

    /// Evicts the oldest parts until `bytes` more fit the budget.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), WriteError> {
        // Summed anew each time: an eviction also frees catalogs, and removing files may fail.
        while self.used() + bytes + self.slack() > self.budget.limit {
            if !self.evict() {
                return Err(WriteError::Budget { bytes });
            }
        }
        Ok(())
    }

    /// Returns the part of the budget that stays free: in memory, the capacity that containers
    /// allocate is known only afterwards.
    fn slack(&self) -> u64 {
        if self.storage.is_memory() {
            self.budget.share / 32
        } else {
            0
        }
    }

    /// Evicts the oldest part. Returns false if there is none.
    pub(crate) fn evict(&mut self) -> bool {
        let evicted = self.closed.evict(&mut self.storage);
        self.sealer.stop_unless(|id| self.closed.contains(id));
        evicted
    }

    /// Returns true if one more series may be defined. Estimates are on the safe side.
    pub(super) fn has_room_for_series(&mut self, labels: &Labels, meta: &Meta) -> bool {
        let live = self.sources.alive_at_most() as u64;
        let defined = (self.sources.count_defined() as u64).max(1);
        let definitions = self.definitions.memory();
        // Dead and live definitions are assumed to have the same length.
        let live_definitions = definitions * live.min(defined) / defined;
        let new = labels.key().len() as u64 + meta.help.len() as u64 + DEFINITION_BYTES;
        let most = self.budget.definitions_max();
        // Dead definitions go with the next commit, but until then all take their space.
        let fits = live < self.budget.series_max()
            && live_definitions + new <= most
            && definitions + new <= 2 * most;
        fits && (!self.storage.is_memory() || self.make_room(new + 2 * SLOT_BYTES).is_ok())
    }

    /// Changes the budget. The next commit evicts what exceeds it.
    pub(crate) fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            used: self.used(),
            oldest: self.oldest(),
            can_evict: !self.closed.is_empty(),
        }
    }

    /// Returns an upper estimate of the space that a commit of so many samples takes, including
    /// sealing and a new catalog if they are due.
    pub(crate) fn estimate(&self, samples: usize) -> u64 {
        let definitions = self.definitions.memory();
        let unwritten = definitions.saturating_sub(self.definitions.len());
        let is_renewed = definitions > self.budget.definitions_max()
            || self.files_in_doubt
            || self.is_head_full();
        let renewed = if is_renewed { definitions } else { 0 };
        let unsealed = self.closed.unsealed().and_then(|part| part.rows());
        let sealed = unsealed.map_or(0, |rows| seal::reservation(rows));
        let frame = SLOT_FRAME_BYTES * self.budget.series_max().min(samples as u64);
        // Each of up to four files may start a block: catalog, new catalog, head and segment.
        let blocks = 4 * FILE_BLOCK;
        // The frame counts twice, because chunks in memory have unused capacity; see `write_frame`.
        unwritten + renewed + sealed + 2 * frame + blocks + self.slack()
    }
}
