//! Divides the budget between the record and the memory for pages.
//!
//! Each endpoint has an equal share of the memory for pages. The limits on a page are derived from
//! the share, so that everything held of a page while it is parsed, and remembered until the next
//! one, fits. If the record is in memory, the memory for pages is taken out of its budget.

use steadfast_exposition::Limits;

use super::config::{BUDGET_MIN, Config, PAGE_MEMORY_MIN, Storage};

/// The default memory for pages is the budget divided by this.
const DEFAULT_DIVISOR: u64 = 8;

/// Pages take at most the budget in memory divided by this.
const MAX_DIVISOR: u64 = 4;

/// The largest default; with the default limits of a page, more would not be used.
const DEFAULT_MAX: u64 = 64 << 20;

/// The bytes of an endpoint's share for series whose metadata has not come yet.
pub(super) const PENDING_BYTES: usize = 256 << 10;

/// The bytes of a sample in the slot of its series, where the record stages it: two values, the block
/// and the generation.
const SAMPLE_BYTES: u64 = 24;

/// The bytes of a timestamp on a line, if those are kept.
const TIME_BYTES: u64 = 16;

/// The bytes of a family without its name and help, which the parser and the staged page both hold.
const FAMILY_BYTES: u64 = 350;

/// The copies of a byte of a family's name or help: some are held twice, some three times.
const METADATA_FACTOR: f64 = 2.5;

/// The budget of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryBudget {
    /// The memory for the pages of one endpoint.
    pub(super) each: u64,
    /// The budget of the record.
    pub(super) record: u64,
    /// The bytes of a sample in the record.
    sample: u64,
}

impl MemoryBudget {
    pub(super) fn new(config: &Config) -> Self {
        let endpoints = config.endpoints.len().max(1) as u64;
        let default = (config.budget / DEFAULT_DIVISOR).min(DEFAULT_MAX);
        let all = config.page_memory.unwrap_or(default);
        let each = (all / endpoints).max(PAGE_MEMORY_MIN);
        let taken = match config.record {
            // Shares of many endpoints may add up to more. Only hostile pages fill them (decision
            // 34).
            Storage::Memory => (each * endpoints).min(config.budget / MAX_DIVISOR),
            Storage::Directory(_) => 0,
        };
        Self {
            each,
            sample: SAMPLE_BYTES
                + if config.honor_timestamps {
                    TIME_BYTES
                } else {
                    0
                },
            // With the smallest budgets, the minimum of pages and that of the record exceed it
            // together.
            record: (config.budget - taken).max(BUDGET_MIN * endpoints),
        }
    }

    /// Returns the limits on a page: the configured ones, lowered as far as the share requires.
    pub(super) fn page_limits(self, configured: Limits) -> Limits {
        // A quarter each for series that the parser remembers and for families, half for samples.
        let share = self.each - PENDING_BYTES as u64;
        let (samples, families) = (share / 2, share / 4);
        // Two fifths for the texts and three for the entries: some 100 bytes of text per family.
        let metadata = families as f64 * 0.4 / METADATA_FACTOR;
        let least = |configured: usize, derived: u64| {
            configured.min(usize::try_from(derived).unwrap_or(configured))
        };
        Limits {
            line_bytes: least(configured.line_bytes, share / 8),
            samples: least(configured.samples, samples / self.sample),
            families: least(configured.families, families * 3 / 5 / FAMILY_BYTES),
            metadata_bytes: least(configured.metadata_bytes, metadata as u64),
            remembered_bytes: least(configured.remembered_bytes, share / 4),
            ..configured
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrape::Endpoint;

    const MIB: u64 = 1 << 20;

    fn config(endpoints: u16, budget: u64) -> Config {
        let mut config = Config::new((1..=endpoints).map(Endpoint::local).collect());
        config.budget = budget;
        config
    }

    #[test]
    fn pages_take_an_eighth_of_the_budget() {
        let mut config = config(1, 64 * MIB);
        let parts = |config: &Config| {
            (
                MemoryBudget::new(config).each,
                MemoryBudget::new(config).record,
            )
        };
        assert_eq!(parts(&config), (8 * MIB, 56 * MIB));
        config.record = Storage::Directory("record".into());
        assert_eq!(parts(&config), (8 * MIB, 64 * MIB));
    }

    #[test]
    fn endpoint_share_is_bounded_below_and_above() {
        let parts = |endpoints, budget| {
            let budget = MemoryBudget::new(&config(endpoints, budget));
            (budget.each, budget.record)
        };
        assert_eq!(parts(1, 4 * MIB), (MIB, 3 * MIB));
        // The record keeps three quarters of the budget, however many endpoints there are.
        assert_eq!(parts(100, 64 * MIB), (MIB, 48 * MIB));
        assert_eq!(parts(4, 1024 * MIB), (16 * MIB, 1024 * MIB - 64 * MIB));
        assert_eq!(parts(1, 64 << 10), (MIB, 64 << 10));
    }

    #[test]
    fn limits_fit_the_share_and_never_exceed_what_is_set() {
        for (each, honor) in [(PAGE_MEMORY_MIN, false), (8 * MIB, true), (64 * MIB, false)] {
            let mut config = config(1, 64 * MIB);
            (config.page_memory, config.honor_timestamps) = (Some(each), honor);
            let budget = MemoryBudget::new(&config);
            let limits = budget.page_limits(Limits::default());
            let families = limits.families as u64 * FAMILY_BYTES
                + (limits.metadata_bytes as f64 * METADATA_FACTOR) as u64;
            let sample = SAMPLE_BYTES + u64::from(honor) * TIME_BYTES;
            let samples = limits.samples as u64 * sample;
            let remembered = limits.remembered_bytes as u64;
            let held = samples + families + remembered + PENDING_BYTES as u64;
            assert!(held <= each, "{held} of {each}");
            assert!(
                limits.samples >= 9_000 && limits.families >= 300,
                "{limits:?}"
            );
        }
        let set = Limits {
            samples: 7,
            line_bytes: 80,
            ..Limits::default()
        };
        let limits = MemoryBudget::new(&config(1, 512 * MIB)).page_limits(set);
        assert_eq!((limits.samples, limits.line_bytes), (7, 80));
        assert_eq!(limits.label_value_bytes, set.label_value_bytes);
    }
}
