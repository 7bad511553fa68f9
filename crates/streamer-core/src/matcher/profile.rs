//! An estimate of the filters that use the cost of matching.

use super::{Matcher, collection::Collection, ids::GroupId};
use crate::filter::{Condition, Filter};

/// The groups of equal filters that use most of the cost of matching, estimated from samples.
///
/// About one in `INTERVAL` units of cost is a sample, so that counting costs nearly nothing, and at
/// most `ENTRIES` groups are remembered, the most expensive among them for certain. Older samples
/// count half each time that there are `SAMPLES_MAX`: the estimate follows the load.
#[derive(Debug)]
pub struct CostProfile {
    /// The cost until the next sample.
    until_next: u64,
    random: u64,
    entries: Vec<Entry>,
    samples: u64,
}

/// The samples of one group.
#[derive(Clone, Copy, Debug)]
struct Entry {
    group: GroupRef,
    samples: u64,
    /// The samples that the entry took over from the one that it replaced.
    inherited: u64,
    /// The samples in which the event satisfied the filter.
    matched: u64,
}

/// A group that may be gone, or be another one by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GroupRef {
    collection: usize,
    serial: u64,
    group: GroupId,
    hash: u32,
}

/// The estimated cost of the subscriptions that share one filter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FilterCost {
    /// The database of the collection.
    pub database: String,
    /// The full path of the collection.
    pub collection: String,
    /// The text form of the filter, cut after some hundred characters.
    pub filter: String,
    /// The subscriptions with this filter.
    pub subscriptions: usize,
    /// The share of the cost of evaluating all filters, from 0 to 1.
    pub cost_share: f64,
    /// The share of the evaluations that the event satisfied, from 0 to 1. A filter that costs much and
    /// matches rarely needs a condition that is selective.
    pub match_share: f64,
}

/// The average cost between two samples.
const INTERVAL: u64 = 256;
/// The number of groups that are remembered.
const ENTRIES: usize = 128;
/// The number of samples at which all are halved.
const SAMPLES_MAX: u64 = 16_384;
/// The longest text of a filter, in characters. A filter may have lists of a thousand elements.
const TEXT_MAX: usize = 300;

impl Default for CostProfile {
    fn default() -> Self {
        Self {
            until_next: INTERVAL,
            // Any number but 0.
            random: 0x9e37_79b9_7f4a_7c15,
            entries: Vec::new(),
            samples: 0,
        }
    }
}

impl CostProfile {
    /// Returns a profile that takes no samples, and allocates nothing.
    pub(super) fn without_samples() -> Self {
        Self {
            until_next: u64::MAX,
            ..Self::default()
        }
    }

    /// Counts the cost of evaluating a group.
    pub(super) fn charge(
        &mut self,
        cost: u64,
        (index, collection): (usize, &Collection),
        group: GroupId,
        matched: bool,
    ) {
        let (mut left, mut samples) = (cost, 0);
        while left >= self.until_next {
            left -= self.until_next;
            samples += 1;
            // At random distances: events of one kind have their candidates in one order, and a fixed
            // distance could meet the same candidate each time.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.until_next = 1 + self.random % (2 * INTERVAL);
        }
        self.until_next -= left;
        if samples > 0
            && let Some(hash) = collection.hash_of(group)
        {
            let group = GroupRef {
                collection: index,
                serial: collection.serial,
                group,
                hash,
            };
            self.add(group, samples, matched);
        }
    }

    fn add(&mut self, group: GroupRef, samples: u64, matched: bool) {
        let matched = if matched { samples } else { 0 };
        self.samples += samples;
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.group == group) {
            entry.samples += samples;
            entry.matched += matched;
        } else if self.entries.len() < ENTRIES {
            self.entries.push(Entry {
                group,
                samples,
                inherited: 0,
                matched,
            });
        } else if let Some(least) = self.entries.iter_mut().min_by_key(|entry| entry.samples) {
            // The algorithm "Space-Saving": whoever is new takes over the count of the least, so that
            // a group of many samples is never missing.
            *least = Entry {
                group,
                samples: least.samples + samples,
                inherited: least.samples,
                matched,
            };
        }
        if self.samples >= SAMPLES_MAX {
            self.samples /= 2;
            for entry in &mut self.entries {
                entry.samples /= 2;
                entry.inherited /= 2;
                entry.matched /= 2;
            }
        }
    }

    /// Returns the most expensive filters that are still subscribed, at most `max`, the first one first.
    #[must_use]
    pub fn most_expensive(&self, matcher: &Matcher, max: usize) -> Vec<FilterCost> {
        let mut entries: Vec<_> = self
            .entries
            .iter()
            .map(|entry| (entry.samples - entry.inherited, entry))
            .filter(|(samples, _)| *samples > 0)
            .collect();
        entries.sort_by_key(|(samples, _)| std::cmp::Reverse(*samples));
        let found = entries.into_iter().filter_map(|(samples, entry)| {
            let (collection, filter, subscriptions) = entry.group.resolve(matcher)?;
            Some(FilterCost {
                database: collection.database.to_string(),
                collection: collection.name.to_string(),
                filter: shortened(&filter.to_string()),
                subscriptions,
                cost_share: samples as f64 / self.samples.max(1) as f64,
                match_share: entry.matched as f64 / samples as f64,
            })
        });
        found.take(max).collect()
    }
}

impl GroupRef {
    fn resolve(self, matcher: &Matcher) -> Option<(&Collection, Filter, usize)> {
        let collection = matcher.collections.get(self.collection)?;
        if collection.serial != self.serial || collection.hash_of(self.group) != Some(self.hash) {
            return None;
        }
        let group = collection.groups.get(self.group.index())?;
        let conditions = group.conditions.iter().map(|condition| Condition {
            field: collection.fields.path(condition.field),
            op: condition.op,
            value: condition.value.to_value(),
        });
        let filter = Filter::new(conditions).ok()?;
        Some((collection, filter, group.members.len()))
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        filter::{Op, tests::event},
        matcher::{Matching, SubscriptionKey},
    };
    use serde_json::json;

    /// Subscribes `cheap` filters that are one look-up each, and one with a long list.
    fn matcher(cheap: u64) -> Matcher {
        let mut matcher = Matcher::new(7);
        for key in 1..=cheap {
            let other = i64::try_from(key).unwrap();
            let conditions = [
                Condition::new("n", Op::Ge, 0),
                Condition::new("m", Op::Ne, -other),
            ];
            let filter = Filter::new(conditions).unwrap();
            matcher.insert(SubscriptionKey(key), "default", "users", &filter);
        }
        let list: Vec<i64> = (1_000..1_900).collect();
        for key in [cheap + 1, cheap + 2] {
            let filter = Filter::new([Condition::new("a.b", Op::In, list.clone())]).unwrap();
            matcher.insert(SubscriptionKey(key), "default", "users", &filter);
        }
        matcher
    }

    fn run(matcher: &Matcher, profile: &mut CostProfile, events: usize) {
        let event = event(&json!({"n": 1, "m": 1, "a": {"b": 5}}));
        let (mut matching, mut out) = (Matching::new(), Vec::new());
        for _ in 0..events {
            matching.start(matcher, &event);
            assert!(matching.run(matcher, &mut { u64::MAX }, profile, &mut out));
            out.clear();
        }
    }

    #[test]
    fn expensive_filter_is_the_first_of_a_thousand() {
        let matcher = matcher(1_000);
        let mut profile = CostProfile::default();
        run(&matcher, &mut profile, 500);
        let costs = profile.most_expensive(&matcher, 10);
        assert_eq!(costs.len(), 10);
        let first = &costs[0];
        assert!(first.filter.starts_with("a.b in [1024,"), "{first:?}");
        assert!(first.filter.chars().count() <= TEXT_MAX + 1);
        assert_eq!(first.subscriptions, 2);
        assert!((first.match_share).abs() < 1e-9, "it matches nothing");
        // 902 of about 3,900 units.
        assert!((0.18..0.28).contains(&first.cost_share), "{first:?}");
        assert!(costs[1].cost_share < 0.01, "{:?}", costs[1]);
        assert!(profile.entries.len() <= ENTRIES);
    }

    #[test]
    fn filter_that_is_gone_is_not_shown() {
        let mut matcher = matcher(1);
        let mut profile = CostProfile::default();
        run(&matcher, &mut profile, 500);
        let shown = |matcher: &Matcher| profile.most_expensive(matcher, 10).len();
        assert!(shown(&matcher) > 0);
        for key in 1..=3 {
            matcher.remove(SubscriptionKey(key));
        }
        assert_eq!(shown(&matcher), 0);
        let filter = Filter::new([Condition::new("other", Op::Eq, 1)]).unwrap();
        // At the index of the collection and of the group that are gone.
        matcher.insert(SubscriptionKey(4), "default", "users", &filter);
        assert_eq!(shown(&matcher), 0);
    }

    #[test]
    fn estimate_follows_the_load() {
        let mut matcher = matcher(0);
        let mut profile = CostProfile::default();
        run(&matcher, &mut profile, 20_000);
        assert!(profile.samples < SAMPLES_MAX);
        for key in [1, 2] {
            matcher.remove(SubscriptionKey(key));
        }
        let list: Vec<i64> = (0..900).collect();
        let filter = Filter::new([Condition::new("m", Op::In, list)]).unwrap();
        matcher.insert(SubscriptionKey(9), "default", "users", &filter);
        run(&matcher, &mut profile, 20_000);
        let costs = profile.most_expensive(&matcher, 10);
        assert_eq!(costs.len(), 1, "{costs:?}");
        assert!(costs[0].filter.starts_with("m in [0,"), "{costs:?}");
        // What is gone counts less and less.
        assert!(costs[0].cost_share > 0.8, "{costs:?}");
        assert!(costs[0].match_share > 0.99, "{costs:?}");
    }
}
