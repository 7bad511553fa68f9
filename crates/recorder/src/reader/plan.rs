//! The series of a query and their locations.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    ops::RangeInclusive,
    sync::Arc,
};

use super::{SeriesInfo, part_cursor::PartCursor};
use crate::{
    catalog::Definition,
    error::Damage,
    labels::LabelsRef,
    part::Part,
    selector::Selector,
    snapshot::{ReadCatalog, Snapshot},
};

/// The definition of a series in one catalog.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The index of the catalog in the plan.
    pub(super) catalog: u32,
    block: u32,
    pub(super) source: u32,
    pub(super) slot: u32,
}

/// The series that a selector matches, and the parts that overlap a range.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The parts that can be read, oldest first.
    pub(super) cursors: Vec<PartCursor>,
    catalogs: Vec<ReadCatalog>,
    /// The index of each catalog in `catalogs`, `None` for one that cannot be read.
    indexes: BTreeMap<u64, Option<u32>>,
    /// The entries, grouped by series and then in the order of their catalogs.
    entries: Vec<Entry>,
    /// The index of each series' first entry.
    starts: Vec<usize>,
    pub(super) damage: Vec<Damage>,
}

impl Plan {
    pub(super) fn new(
        snapshot: &Snapshot,
        selector: &Selector,
        range: &RangeInclusive<i64>,
    ) -> Self {
        let mut plan = Self::default();
        let overlaps = |part: &Part| part.span.0 <= *range.end() && *range.start() <= part.span.1;
        let parts = &snapshot.parts;
        let (Some(first), Some(last)) = (
            parts.iter().position(overlaps),
            parts.iter().rposition(overlaps),
        ) else {
            return plan;
        };
        // Parts in between count even if a clock that was set back puts them outside of the range: a
        // series that is absent there was not present throughout.
        for part in &parts[first..=last] {
            let cursor = plan.cursor(snapshot, part);
            plan.cursors.extend(cursor);
        }
        let mut before = parts[..first].iter().rev();
        while plan.needs_earlier_part(range)
            && let Some(part) = before.next()
        {
            if let Some(cursor) = plan.cursor(snapshot, part) {
                plan.cursors.insert(0, cursor);
            }
        }
        plan.select(selector);
        plan
    }

    /// Returns true if the first scrape of a source is in the range: only the one before it tells which
    /// series disappeared with it.
    fn needs_earlier_part(&self, range: &RangeInclusive<i64>) -> bool {
        let mut seen = BTreeSet::new();
        let timelines = self.cursors.iter().flat_map(PartCursor::timelines);
        timelines
            .filter(|timeline| seen.insert(&timeline.name))
            .any(|timeline| range.contains(&timeline.first))
    }

    fn cursor(&mut self, snapshot: &Snapshot, part: &Part) -> Option<PartCursor> {
        let index = if let Some(index) = self.indexes.get(&part.catalog) {
            (*index)?
        } else {
            let index = self.read_catalog(snapshot, part.catalog);
            // A catalog that cannot be read is remembered, too: its damage is reported once.
            self.indexes.insert(part.catalog, index);
            index?
        };
        let read = &self.catalogs[index as usize];
        self.damage.extend(read.missing_end(part));
        match PartCursor::new(snapshot, part, (index, &read.catalog)) {
            Ok(cursor) => Some(cursor),
            Err(damage) => {
                self.damage.push(damage);
                None
            }
        }
    }

    fn read_catalog(&mut self, snapshot: &Snapshot, id: u64) -> Option<u32> {
        match snapshot.catalog(id) {
            Ok(read) => {
                let read = read?;
                self.damage.extend(read.damage.clone());
                self.catalogs.push(read);
                Some(self.catalogs.len() as u32 - 1)
            }
            Err(damage) => {
                self.damage.push(damage);
                None
            }
        }
    }

    fn select(&mut self, selector: &Selector) {
        // Labels come from outside: with a fixed hash they could be chosen to collide.
        let hasher = RandomState::new();
        let mut found: Vec<(u64, Entry)> = Vec::new();
        for (index, read) in self.catalogs.iter().enumerate() {
            let catalog = &read.catalog;
            let wanted: Vec<bool> = catalog
                .sources()
                .iter()
                .map(|name| selector.matches_source(name))
                .collect();
            catalog.walk(|block, definition| {
                let Definition {
                    source, slot, key, ..
                } = definition;
                if wanted[source as usize]
                    && LabelsRef::checked(key).is_ok_and(|labels| selector.matches(labels))
                {
                    let hash = hasher.hash_one((&*catalog.sources()[source as usize], key));
                    found.push((
                        hash,
                        Entry {
                            catalog: index as u32,
                            block: block as u32,
                            source,
                            slot,
                        },
                    ));
                }
            });
        }
        // One catalog defines a series once, so that there is nothing to group.
        if self.catalogs.len() <= 1 {
            self.entries = found.into_iter().map(|(_, entry)| entry).collect();
            self.starts = (0..self.entries.len()).collect();
            return;
        }
        self.group(&found);
    }

    /// Groups the entries by series, which are in the order of their first entries.
    fn group(&mut self, found: &[(u64, Entry)]) {
        let mut order: Vec<u32> = (0..found.len() as u32).collect();
        // By hash and not by key, which has to be decoded from its block.
        order.sort_by_key(|at| (found[*at as usize].0, *at));
        let same = |a: &u32, b: &u32| {
            let ((first, a), (second, b)) = (&found[*a as usize], &found[*b as usize]);
            first == second && self.is_same(a, b)
        };
        let mut groups: Vec<&[u32]> = order.chunk_by(same).collect();
        groups.sort_by_key(|group| group[0]);
        let mut entries = Vec::with_capacity(found.len());
        let mut starts = Vec::with_capacity(groups.len());
        for group in groups {
            starts.push(entries.len());
            entries.extend(group.iter().map(|at| found[*at as usize].1));
        }
        (self.entries, self.starts) = (entries, starts);
    }

    /// Returns true if two entries with the same hash define the same series.
    fn is_same(&self, a: &Entry, b: &Entry) -> bool {
        let key = |entry: &Entry| {
            let catalog = &self.catalogs[entry.catalog as usize].catalog;
            let name = &catalog.sources()[entry.source as usize];
            catalog.with_slot(entry.block as usize, entry.slot, |definition| {
                (Arc::clone(name), definition.key.to_vec())
            })
        };
        key(a) == key(b)
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Returns the entries of a series, at most one per catalog.
    pub(super) fn entries(&self, index: usize) -> &[Entry] {
        let end = self
            .starts
            .get(index + 1)
            .copied()
            .unwrap_or(self.entries.len());
        &self.entries[self.starts[index]..end]
    }

    /// Returns the source of an entry.
    pub(super) fn source(&self, entry: &Entry) -> &Arc<str> {
        &self.catalogs[entry.catalog as usize].catalog.sources()[entry.source as usize]
    }

    /// Returns the labels and the metadata of a series, as the newest catalog defines them.
    pub(super) fn series(&self, index: usize) -> Option<SeriesInfo> {
        let entry = self.entries(index).last()?;
        let catalog = &self.catalogs[entry.catalog as usize].catalog;
        catalog.with_slot(entry.block as usize, entry.slot, |definition| {
            let labels = LabelsRef::checked(definition.key).ok()?.to_owned();
            let meta = Arc::clone(&catalog.metas()[definition.meta as usize]);
            let source = Arc::clone(&catalog.sources()[entry.source as usize]);
            Some(SeriesInfo {
                source,
                labels,
                meta,
            })
        })?
    }
}
