//! Limits on the cost of one endpoint.

use crate::span::LabelSpan;

/// The most bytes that one family holds besides its texts.
pub(crate) const FAMILY_BYTES: usize = 176;

/// Limits on the pages of one endpoint and on the memory held for it. Zero admits none.
///
/// ```
/// use steadfast_exposition::Limits;
///
/// let limits = Limits { samples: 10_000, remembered_bytes: 1 << 20, ..Limits::default() };
/// assert!(limits.held_bytes_max() < 20 << 20);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one line without its line feed. A longer line is skipped as it arrives and counts as
    /// one fault.
    pub line_bytes: usize,
    /// Samples of one scrape. Further samples are counted but not parsed.
    pub samples: usize,
    /// Labels of one series as written, including empty ones and excluding the metric's name.
    pub labels_per_series: usize,
    /// Bytes of the name of a metric or label as written.
    pub name_bytes: usize,
    /// Bytes of a label's value as written, before escapes are resolved.
    pub label_value_bytes: usize,
    /// Metric families whose type, help or unit is kept.
    pub families: usize,
    /// Bytes of the names, help texts and units of all families together.
    pub metadata_bytes: usize,
    /// Bytes of memory for the lines that are remembered from one scrape to the next, including the
    /// index and the second copy that exists while a scrape differs from the last one. About half of
    /// it holds lines between scrapes. Further lines are parsed in full each time.
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

/// Bytes of everything that is small and does not depend on the limits: an excerpt, the minimum capacities
/// of lists.
const FIXED_BYTES: usize = 32 << 10;

impl Limits {
    /// Returns the most bytes of memory that a parser with these limits requests from the allocator
    /// at a time, whatever arrives.
    #[must_use]
    pub fn held_bytes_max(&self) -> usize {
        // Those of the last scrape and those of the current one.
        let families = self.families.saturating_mul(2 * FAMILY_BYTES);
        let metadata = self.metadata_bytes.saturating_mul(2);
        // A partial line whose buffer grows exists twice, and its unescaped text does, too.
        let lines = self.line_bytes.saturating_mul(4);
        // Two lists, of a series and of an exemplar, that grow by doubling: three times the content.
        let labels = self
            .labels_per_series
            .saturating_mul(2 * 3 * size_of::<LabelSpan>());
        [families, metadata, lines, labels, FIXED_BYTES]
            .into_iter()
            .fold(self.remembered_bytes, usize::saturating_add)
    }
}
