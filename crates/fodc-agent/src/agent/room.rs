//! What the agent holds in memory of pages, beside its record.
//!
//! All endpoints together have a part of the budget, and each the same share of it. The limits of a
//! page follow from the share, so that whatever the page is, what is held of it while it is read,
//! and remembered until the next one, fits the share. A budget in memory holds that part, too: the
//! record has the rest.

use steadfast_exposition::Limits;

use super::{Config, RecordPlace, config::BUDGET_MIN};

/// The part of the budget that pages may take, unless it is set.
const PART: u64 = 8;

/// The largest part of a budget in memory that pages take from the record.
const PART_MAX: u64 = 4;

/// The most memory that pages take unless it is set; more is of no use to pages of the usual limits.
const ALL_MAX: u64 = 64 << 20;

/// The least share of an endpoint: less would not do for pages of a thousand series.
pub(super) const EACH_MIN: u64 = 1 << 20;

/// Bytes of series that an endpoint's page has not said all of yet; one for which there is no room is
/// named to the record with what is known of it when it comes.
pub(super) const LATE_BYTES: usize = 256 << 10;

/// What a sample costs until its page has ended.
const SAMPLE_BYTES: u64 = 24;

/// What the time that stands on its line costs, where it is kept.
const TIME_BYTES: u64 = 16;

/// What a family costs beside its name and help: the parser and the record's side each hold it.
const FAMILY_BYTES: u64 = 350;

/// What a byte of a family's name or help costs: some are held twice, some three times.
const METADATA_FACTOR: f64 = 2.5;

/// The memory of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// The share of one endpoint.
    pub(super) each: u64,
    /// What is left of the budget for the record.
    pub(super) record: u64,
    /// What a sample of a page costs.
    sample: u64,
}

impl Room {
    pub(super) fn of(config: &Config) -> Self {
        let endpoints = config.endpoints.len().max(1) as u64;
        let part = (config.budget / PART).min(ALL_MAX);
        let all = config.page_memory.unwrap_or(part);
        let each = (all / endpoints).max(EACH_MIN);
        let taken = match config.record {
            RecordPlace::Memory => (each * endpoints).min(config.budget / PART_MAX),
            RecordPlace::Directory(_) => 0,
        };
        Self {
            each,
            sample: SAMPLE_BYTES
                + if config.honor_timestamps {
                    TIME_BYTES
                } else {
                    0
                },
            record: (config.budget - taken).max(BUDGET_MIN * endpoints),
        }
    }

    /// What is taken of a page so that it fits the share, within limits that are set.
    pub(super) fn limits(self, set: Limits) -> Limits {
        // A quarter each for what is remembered and for families, and half for samples.
        let share = self.each - LATE_BYTES as u64;
        let (samples, families) = (share / 2, share / 4);
        let metadata = families as f64 * 0.4 / METADATA_FACTOR;
        let least = |set: usize, derived: u64| set.min(usize::try_from(derived).unwrap_or(set));
        Limits {
            line_bytes: least(set.line_bytes, share / 8),
            samples: least(set.samples, samples / self.sample),
            families: least(set.families, families * 3 / 5 / FAMILY_BYTES),
            metadata_bytes: least(set.metadata_bytes, metadata as u64),
            remembered_bytes: least(set.remembered_bytes, share / 4),
            ..set
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
    fn pages_have_an_eighth_of_the_budget_and_the_record_in_memory_has_the_rest() {
        let mut config = config(1, 64 * MIB);
        let parts = |config: &Config| (Room::of(config).each, Room::of(config).record);
        assert_eq!(parts(&config), (8 * MIB, 56 * MIB));
        config.record = RecordPlace::Directory("record".into());
        assert_eq!(parts(&config), (8 * MIB, 64 * MIB));
    }

    #[test]
    fn a_share_has_a_least_and_a_most() {
        let room = |endpoints, budget| {
            let room = Room::of(&config(endpoints, budget));
            (room.each, room.record)
        };
        assert_eq!(room(1, 4 * MIB), (MIB, 3 * MIB));
        // The record keeps three quarters of the budget, however many endpoints there are.
        assert_eq!(room(100, 64 * MIB), (MIB, 48 * MIB));
        assert_eq!(room(4, 1024 * MIB), (16 * MIB, 1024 * MIB - 64 * MIB));
        assert_eq!(room(1, 64 << 10), (MIB, 64 << 10));
    }

    #[test]
    fn limits_fit_the_share_and_never_exceed_what_is_set() {
        for (each, honor) in [(EACH_MIN, false), (8 * MIB, true), (64 * MIB, false)] {
            let mut config = config(1, 64 * MIB);
            (config.page_memory, config.honor_timestamps) = (Some(each), honor);
            let room = Room::of(&config);
            let limits = room.limits(Limits::default());
            let families = limits.families as u64 * FAMILY_BYTES
                + (limits.metadata_bytes as f64 * METADATA_FACTOR) as u64;
            let sample = SAMPLE_BYTES + u64::from(honor) * TIME_BYTES;
            let samples = limits.samples as u64 * sample;
            let remembered = limits.remembered_bytes as u64;
            let held = samples + families + remembered + LATE_BYTES as u64;
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
        let limits = Room::of(&config(1, 512 * MIB)).limits(set);
        assert_eq!((limits.samples, limits.line_bytes), (7, 80));
        assert_eq!(limits.label_value_bytes, set.label_value_bytes);
    }
}
