//! What one endpoint may cost.

/// Bounds of what a parser takes from one endpoint and holds for it. Zero takes nothing of that
/// sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one line without its line feed. A longer line is skipped as it arrives, and is one
    /// fault.
    pub line_bytes: usize,
    /// Samples taken of one scrape; the rest of the scrape is counted and not read.
    pub samples: usize,
    /// Labels of one series as written, empty ones included and the metric's name not.
    pub labels_per_series: usize,
    /// Bytes of a metric's or label's name as written.
    pub name_bytes: usize,
    /// Bytes of a label's value as written, escapes not yet resolved.
    pub label_value_bytes: usize,
    /// Metric families of which type, help or unit is kept.
    pub families: usize,
    /// Bytes of names, help and units kept for all families together.
    pub metadata_bytes: usize,
    /// Bytes of what is remembered from one scrape to the next: the beginnings of lines, and what
    /// finds them again. Lines past that are parsed in full each time. While a scrape differs from
    /// the last one, both are held.
    pub remembered_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes: 64 << 10,
            samples: 500_000,
            labels_per_series: 64,
            name_bytes: 1 << 10,
            label_value_bytes: 16 << 10,
            families: 20_000,
            metadata_bytes: 4 << 20,
            remembered_bytes: 32 << 20,
        }
    }
}
