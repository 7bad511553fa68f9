//! What a recorder is told once.

use std::time::Duration;

/// The least budget, in bytes.
pub const BUDGET_MIN: u64 = 64 << 10;

/// Most sources of one recorder.
pub const SOURCES_MAX: usize = 1024;

/// What a recorder is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Bytes of everything: values, times, names, indexes and, with files, whole file system blocks.
    /// On disk with a directory, in memory without. Default 64 MiB, at least [`BUDGET_MIN`].
    pub budget: u64,
    /// How long data may be written but not synced, which is what a power cut may cost. Default 5 s.
    /// See [`Recorder::sync_due`](crate::Recorder::sync_due).
    pub sync_every: Duration,
    /// Keeps the times that lines bring along, and reports samples at these instead of at the
    /// scrape's. Default false: such times are ignored.
    pub honor_timestamps: bool,
    /// Scrapes of one source after which a head is closed and sealed by series. More makes the record
    /// smaller, and what one damaged checksum costs larger. Default 1,024.
    pub head_scrapes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget: 64 << 20,
            sync_every: Duration::from_secs(5),
            honor_timestamps: false,
            head_scrapes: 1024,
        }
    }
}

/// What a recorder may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// Bytes of everything.
    pub(crate) limit: u64,
    /// What cannot leave is bounded by parts of these bytes: of recorders that share a budget, the
    /// shares of all of them fit it together, whatever each may have at a time.
    pub(crate) share: u64,
}

impl Grant {
    pub(crate) fn whole(budget: u64) -> Self {
        Self {
            limit: budget,
            share: budget,
        }
    }

    /// The part of it that definitions of series may fill.
    pub(crate) fn definitions_max(self) -> u64 {
        self.share / 4
    }

    /// Bytes of a head after which it is closed: oldest data leaves in parts of at most this size.
    pub(crate) fn head_max(self) -> u64 {
        self.share / 8
    }

    /// Most series that may be alive. Their slots then fit a quarter of the share and one frame with
    /// all of them an eighth, whatever their values.
    pub(crate) fn series_max(self) -> u64 {
        self.share / (4 * crate::live::SLOT_BYTES).max(8 * crate::live::SLOT_FRAME_BYTES)
    }

    /// In memory, what containers set aside for themselves is known only afterwards.
    pub(crate) fn slack(self) -> u64 {
        self.share / 32
    }
}
