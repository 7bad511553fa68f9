//! The verdict on what a subscription received: lost, repeated, out of order, or never published.
//!
//! It works on ids alone, so that it depends on nothing that is under test.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// The id of a published entry: a lane, in which entries have an order, and the number there.
///
/// Entries of different lanes have no common order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// The lane: a publisher, or a log.
    pub lane: u32,
    /// The number within the lane. Numbers grow and may have holes.
    pub number: u64,
}

/// Something that a subscription received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// An entry as it was published.
    Entry(EntryId),
    /// An entry with another content than was published.
    Altered(EntryId),
    /// Something that names no entry.
    Unknown,
    /// The notice that entries may be missing here.
    Gap,
}

/// A deviation from what a subscription should have received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// The entry was never received.
    Lost(EntryId),
    /// The entry was received again.
    Duplicated(EntryId),
    /// The entry came after a later one of its lane.
    Reordered(EntryId),
    /// The item is no entry, or one that the subscription does not select.
    Unexpected(Option<EntryId>),
    /// The entry had another content than was published.
    Altered(EntryId),
}

/// Counts over any number of subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Entries received, each counted once per subscription.
    pub delivered: u64,
    /// Entries that should have been received and were not.
    pub lost: u64,
    /// The part of `lost` in whose place a gap was received.
    pub explained: u64,
    /// Repeated deliveries.
    pub duplicated: u64,
    /// Deliveries after a later entry of the same lane.
    pub reordered: u64,
    /// Deliveries of nothing that the subscription selects.
    pub unexpected: u64,
    /// Deliveries with another content than was published.
    pub altered: u64,
}

/// An entry that was not received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Required,
    Optional,
    /// It is required, and a gap was received in its place.
    Explained,
}

/// The state of one lane while a subscription is judged.
#[derive(Debug, Default)]
struct Lane {
    newest: Option<u64>,
    /// The number of gaps before `newest`.
    gaps: u64,
}

impl Verdict {
    /// Returns true if everything arrived once, in order and unchanged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let Self {
            delivered: _,
            lost,
            explained: _,
            duplicated,
            reordered,
            unexpected,
            altered,
        } = *self;
        lost + duplicated + reordered + unexpected + altered == 0
    }

    /// Adds one subscription. `wanted` are the entries that it selects, true for those that it must
    /// have received; `on_deviation` is told each deviation, except losses that a gap explains.
    pub fn add(
        &mut self,
        wanted: impl IntoIterator<Item = (EntryId, bool)>,
        received: impl IntoIterator<Item = Received>,
        mut on_deviation: impl FnMut(Deviation),
    ) {
        let entries = wanted.into_iter().map(|(id, required)| {
            let missing = if required {
                Missing::Required
            } else {
                Missing::Optional
            };
            (id, missing)
        });
        // What is left of it in the end is missing.
        let mut missing: BTreeMap<EntryId, Missing> = entries.collect();
        let mut seen = BTreeSet::new();
        let mut lanes: BTreeMap<u32, Lane> = BTreeMap::new();
        let mut gaps = 0;
        for received in received {
            let id = match received {
                Received::Gap => {
                    gaps += 1;
                    continue;
                }
                Received::Entry(id) | Received::Altered(id) => Some(id),
                Received::Unknown => None,
            };
            let Some(id) = id.filter(|id| missing.contains_key(id) || seen.contains(id)) else {
                self.unexpected += 1;
                on_deviation(Deviation::Unexpected(id));
                continue;
            };
            if matches!(received, Received::Altered(_)) {
                // It also counts as delivered, or it would be lost as well.
                self.altered += 1;
                on_deviation(Deviation::Altered(id));
            }
            if !seen.insert(id) {
                self.duplicated += 1;
                on_deviation(Deviation::Duplicated(id));
                continue;
            }
            missing.remove(&id);
            self.delivered += 1;
            // A gap names no lane, so that each lane may have lost entries at that point.
            let lane = lanes.entry(id.lane).or_default();
            if lane.newest.is_some_and(|newest| id.number < newest) {
                // `newest` stays, so that each late entry counts: `3 1 2` has two of them.
                self.reordered += 1;
                on_deviation(Deviation::Reordered(id));
                continue;
            }
            if gaps > lane.gaps {
                explain(
                    &mut missing,
                    id.lane,
                    lane.newest,
                    Bound::Excluded(id.number),
                );
            }
            *lane = Lane {
                newest: Some(id.number),
                gaps,
            };
        }
        let wanted_lanes: BTreeSet<u32> = missing.keys().map(|id| id.lane).collect();
        for id in wanted_lanes {
            let lane = lanes.entry(id).or_default();
            if gaps > lane.gaps {
                explain(&mut missing, id, lane.newest, Bound::Included(u64::MAX));
            }
        }
        for (id, missing) in missing {
            self.lost += u64::from(missing != Missing::Optional);
            match missing {
                Missing::Required => on_deviation(Deviation::Lost(id)),
                Missing::Explained => self.explained += 1,
                Missing::Optional => {}
            }
        }
    }
}

/// Marks the missing entries of a lane between two numbers as explained by a gap. They may still
/// arrive, out of order.
fn explain(
    missing: &mut BTreeMap<EntryId, Missing>,
    lane: u32,
    after: Option<u64>,
    before: Bound<u64>,
) {
    let id = |number| EntryId { lane, number };
    let after = after.map_or(Bound::Included(id(0)), |after| Bound::Excluded(id(after)));
    for (_, missing) in missing.range_mut((after, before.map(id))) {
        if *missing == Missing::Required {
            *missing = Missing::Explained;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a script of one lane per word: `a1 b1 a2` are entries, `a2!` is altered, `|` is a gap,
    /// `?` is nothing known.
    fn script(text: &str) -> Vec<Received> {
        let item = |word: &str| match word {
            "|" => Received::Gap,
            "?" => Received::Unknown,
            entry => {
                let number = entry[1..].trim_end_matches('!').parse();
                let id = EntryId {
                    lane: u32::from(entry.as_bytes()[0]),
                    number: number.expect("a number"),
                };
                if entry.ends_with('!') {
                    Received::Altered(id)
                } else {
                    Received::Entry(id)
                }
            }
        };
        text.split_whitespace().map(item).collect()
    }

    /// Judges a script against `a1 a2 a3 b1 b2 b3`, all required, and returns the counts that are not
    /// zero.
    fn judge(received: &str) -> String {
        let wanted = script("a1 a2 a3 b1 b2 b3")
            .into_iter()
            .map(|item| match item {
                Received::Entry(id) => (id, true),
                _ => unreachable!("only entries are wanted"),
            });
        let mut verdict = Verdict::default();
        let mut told = 0;
        verdict.add(wanted, script(received), |_| told += 1);
        let Verdict {
            delivered,
            lost,
            explained,
            duplicated,
            reordered,
            unexpected,
            altered,
        } = verdict;
        assert_eq!(
            told,
            lost - explained + duplicated + reordered + unexpected + altered,
            "each deviation is told once"
        );
        assert_eq!(delivered + lost, 6, "each entry arrived or is lost");
        let counts = [
            ("lost", lost),
            ("explained", explained),
            ("duplicated", duplicated),
            ("reordered", reordered),
            ("unexpected", unexpected),
            ("altered", altered),
        ];
        let counts = counts.iter().filter(|(_, count)| *count > 0);
        let counts: Vec<_> = counts.map(|(name, n)| format!("{name} {n}")).collect();
        assert_eq!(verdict.is_clean(), counts.is_empty());
        counts.join(" ")
    }

    #[test]
    fn each_kind_of_damage_is_counted_and_nothing_else() {
        for (received, expected) in [
            ("a1 a2 a3 b1 b2 b3", ""),
            ("b1 a1 b2 a2 b3 a3", ""),
            ("a2 a3 b1 b2 b3", "lost 1"),
            ("a1 a3 b1 b2 b3", "lost 1"),
            ("a1 a2 b1 b2 b3", "lost 1"),
            ("", "lost 6"),
            ("a1 a2 a2 a3 b1 b2 b3", "duplicated 1"),
            ("a1 a2 a3 b1 b2 b3 a1", "duplicated 1"),
            ("a2 a1 a3 b1 b2 b3", "reordered 1"),
            ("a3 a1 a2 b1 b2 b3", "reordered 2"),
            ("a1 a2 a3 b1 b2 b3 a9", "unexpected 1"),
            ("a1 a2 a3 c1 b1 b2 b3", "unexpected 1"),
            ("? a2 a3 b1 b2 b3", "lost 1 unexpected 1"),
            ("a1 a2! a3 b1 b2 b3", "altered 1"),
        ] {
            assert_eq!(judge(received), expected, "{received}");
        }
    }

    #[test]
    fn a_gap_explains_what_is_missing_in_its_place_only() {
        for (received, expected) in [
            ("a1 | a3 b1 b2 b3", "lost 1 explained 1"),
            ("| a2 a3 b1 b2 b3", "lost 1 explained 1"),
            ("a1 a2 b1 b2 b3 |", "lost 1 explained 1"),
            ("|", "lost 6 explained 6"),
            ("a1 a3 | b1 b2 b3", "lost 1"),
            ("a1 a2 | a3 b1 b3", "lost 1"),
            ("a1 b1 | a3 b2 b3", "lost 1 explained 1"),
            ("a1 a2 a3 | b1 b3", "lost 1"),
            ("a1 | a3 a2 b1 b2 b3", "reordered 1"),
        ] {
            assert_eq!(judge(received), expected, "{received}");
        }
    }

    #[test]
    fn an_entry_that_is_not_required_may_be_missing() {
        let ids = [1, 2].map(|number| EntryId { lane: 0, number });
        let mut verdict = Verdict::default();
        verdict.add(
            [(ids[0], true), (ids[1], false)],
            [Received::Entry(ids[0])],
            |deviation| panic!("{deviation:?}"),
        );
        assert!(verdict.is_clean());
        assert_eq!(verdict.delivered, 1);
    }
}
