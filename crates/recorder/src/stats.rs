//! The recorder in numbers.

/// What a recorder has and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes it may have.
    pub budget: u64,
    /// Bytes it has: of files, as the file system counts them, or of memory. Never above the budget.
    pub used: u64,
    /// Bytes of the head's file; 0 in memory.
    pub head: u64,
    /// Bytes of the current catalog.
    pub catalog: u64,
    /// Bytes in memory, by what is counted: slots, catalog, rows that are not sealed.
    pub memory: u64,
    /// Sources there are.
    pub sources: usize,
    /// Series of each source's newest scrape.
    pub series: usize,
    /// Parts the record consists of.
    pub parts: usize,
    /// Time of the oldest data, Unix milliseconds.
    pub oldest: Option<i64>,
    /// Parts that left to make room.
    pub evicted_parts: u64,
    /// What happened since it was opened.
    pub counters: Counters,
}

/// What happened since a recorder was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Scrapes recorded.
    pub scrapes: u64,
    /// Scrapes recorded as missed.
    pub missed: u64,
    /// Samples recorded.
    pub samples: u64,
    /// Samples that came a second time in a scrape and were left out.
    pub duplicates: u64,
    /// Series refused for want of room.
    pub series_refused: u64,
    /// Scrapes that could not be written.
    pub write_errors: u64,
    /// Times a part could not be sealed, or not be made durable.
    pub seal_errors: u64,
    /// Segments made.
    pub sealed: u64,
    /// Catalogs begun anew.
    pub catalogs: u64,
    /// Bytes written to files.
    pub bytes_written: u64,
}

impl Stats {
    /// Those of two records together.
    pub(crate) fn with(self, other: Self) -> Self {
        let (a, b) = (self.counters, other.counters);
        Self {
            budget: self.budget + other.budget,
            used: self.used + other.used,
            head: self.head + other.head,
            catalog: self.catalog + other.catalog,
            memory: self.memory + other.memory,
            sources: self.sources + other.sources,
            series: self.series + other.series,
            parts: self.parts + other.parts,
            oldest: self.oldest.into_iter().chain(other.oldest).min(),
            evicted_parts: self.evicted_parts + other.evicted_parts,
            counters: Counters {
                scrapes: a.scrapes + b.scrapes,
                missed: a.missed + b.missed,
                samples: a.samples + b.samples,
                duplicates: a.duplicates + b.duplicates,
                series_refused: a.series_refused + b.series_refused,
                write_errors: a.write_errors + b.write_errors,
                seal_errors: a.seal_errors + b.seal_errors,
                sealed: a.sealed + b.sealed,
                catalogs: a.catalogs + b.catalogs,
                bytes_written: a.bytes_written + b.bytes_written,
            },
        }
    }
}
