//! What one endpoint may cost.

use crate::grammar::LabelSpan;

/// The most bytes that one family holds beside its texts.
pub(crate) const FAMILY_BYTES: usize = 176;

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
    /// Bytes of memory for the lines that are remembered from one scrape to the next: their
    /// beginnings, and the lists and the index that find them; also while a scrape differs from
    /// the last one. Lines past that are parsed in full each time.
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

/// Bytes for what is small and does not depend on the limits: shapes of lines, an excerpt, the
/// unused ends of lists.
const FIXED_BYTES: usize = 96 << 10;

impl Limits {
    /// The most bytes of memory that a parser with these limits ever holds, whatever arrives, as
    /// they are asked of the allocator.
    #[must_use]
    pub fn held_bytes_max(&self) -> usize {
        // The last scrape's and the current one's.
        let families = self.families.saturating_mul(2 * FAMILY_BYTES);
        let metadata = self.metadata_bytes.saturating_mul(2);
        // One that comes in pieces and outgrows its room, and twice its escapes resolved.
        let lines = self.line_bytes.saturating_mul(4);
        // Of a series and of an exemplar, in lists that grow by doubling.
        let labels = self
            .labels_per_series
            .saturating_mul(2 * 3 * size_of::<LabelSpan>());
        [families, metadata, lines, labels, FIXED_BYTES]
            .into_iter()
            .fold(self.remembered_bytes, usize::saturating_add)
    }
}
