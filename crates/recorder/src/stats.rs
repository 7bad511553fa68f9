//! Statistics of a recorder.

/// The current size of a record, and counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Maximum size of the record in bytes.
    pub budget: u64,
    /// Bytes in use: whole file system blocks of files, or memory. Never above the budget.
    pub used: u64,
    /// Bytes of memory: slots, catalog, and rows that are not sealed yet.
    pub memory: u64,
    /// Series in the newest scrapes of all sources.
    pub series: usize,
    /// Parts evicted to free space since the record was opened.
    pub evicted_parts: u64,
    /// Counters since the record was opened.
    pub counters: Counters,
}

/// Counters since a record was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Scrapes recorded.
    pub scrapes: u64,
    /// Scrapes recorded as failed.
    pub missed: u64,
    /// Series rejected because the budget could not hold their definitions.
    pub series_refused: u64,
    /// Commits that failed.
    pub write_errors: u64,
    /// Heads sealed into segments.
    pub sealed: u64,
    /// Catalogs started to drop dead definitions.
    pub catalogs: u64,
}

impl Stats {
    /// Adds the statistics of another record.
    pub(crate) fn merge(self, other: Self) -> Self {
        let (a, b) = (self.counters, other.counters);
        Self {
            budget: self.budget + other.budget,
            used: self.used + other.used,
            memory: self.memory + other.memory,
            series: self.series + other.series,
            evicted_parts: self.evicted_parts + other.evicted_parts,
            counters: Counters {
                scrapes: a.scrapes + b.scrapes,
                missed: a.missed + b.missed,
                series_refused: a.series_refused + b.series_refused,
                write_errors: a.write_errors + b.write_errors,
                sealed: a.sealed + b.sealed,
                catalogs: a.catalogs + b.catalogs,
            },
        }
    }
}
