//! The settings of a recorder.

/// The minimum budget of one recorder in bytes.
pub const BUDGET_MIN: u64 = 64 << 10;

/// The maximum number of sources of one recorder.
pub const SOURCES_MAX: usize = 1024;

/// The settings of a recorder.
///
/// ```
/// let mut options = steadfast_recorder::Options::default();
/// options.budget = 16 << 20;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The maximum size of the record in bytes, on disk for a record in a directory and in memory
    /// otherwise. It covers values, times, labels and indexes; files count as whole file system blocks.
    /// Default 64 MiB, minimum [`BUDGET_MIN`].
    pub budget: u64,
    /// Stores the timestamps that lines carry, and reports samples at these instead of the time of the
    /// scrape. Default false: such timestamps are ignored.
    pub honor_timestamps: bool,
    /// The number of scrapes of one source after which a head is closed and sealed into a segment.
    /// More scrapes make the record smaller and the loss from one damaged block larger. Default 1,024.
    pub head_scrapes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget: 64 << 20,
            honor_timestamps: false,
            head_scrapes: 1024,
        }
    }
}
