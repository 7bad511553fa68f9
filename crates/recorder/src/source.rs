//! The current series of the sources: their slots, their newest values, and the scrape being staged.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use crate::{
    catalog::{Catalog, Definition},
    head_file::SourceState,
    rows::{GROUP, SLOT_ROW_BYTES_MAX, bits},
};

/// The memory of a slot, including its share of the table at the table's lowest load.
pub(crate) const SLOT_BYTES: u64 = 60;

/// The maximum length of a slot in a frame, including its share of the source's first frame.
pub(crate) const SLOT_FRAME_BYTES: u64 = SLOT_ROW_BYTES_MAX + 12;

/// The block of a slot that is not defined.
const UNDEFINED: u32 = u32::MAX;

/// The newest successful scrape of a source, as readers share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewestValues {
    /// The last value of each slot.
    values: Vec<u64>,
    /// The slots in the newest successful scrape, one word per group.
    pub(crate) present: Vec<u128>,
    /// The times of lines, by slot, as an offset to the time of the scrape.
    pub(crate) timestamps: Vec<(u32, i64)>,
}

impl NewestValues {
    /// Returns the value of a slot and the offset of its line's time. `None` if the newest scrape does
    /// not have the slot.
    pub(crate) fn sample(&self, slot: u32) -> Option<(u64, i64)> {
        let (group, bit) = position(slot);
        if self.present.get(group)? & bit == 0 {
            return None;
        }
        let at = self.timestamps.binary_search_by_key(&slot, |(of, _)| *of);
        let offset = at.map_or(0, |at| self.timestamps[at].1);
        Some((self.values[slot as usize], offset))
    }

    /// Returns the values and the slots of a group.
    pub(crate) fn group(&self, group: usize) -> (&[u64], u128) {
        let values = &self.values[group * GROUP..(group + 1) * GROUP];
        (values, self.present[group])
    }
}

/// The scrape of a source that has not been committed yet.
#[derive(Debug, Default)]
pub(crate) struct StagedValues {
    /// The values of the slots in `present`. Others are left over from earlier scrapes.
    values: Vec<u64>,
    /// The slots that have a value, one word per group.
    present: Vec<u128>,
    /// Slots with the time of their line, in Unix milliseconds until the commit.
    timestamps: Vec<(u32, i64)>,
    /// Values dropped because their slot had one.
    duplicates: u64,
}

impl StagedValues {
    /// Stages the value of a slot. Returns false if the slot has one already.
    pub(crate) fn set(&mut self, slot: u32, value: u64, time_ms: Option<i64>) -> bool {
        let (group, bit) = position(slot);
        if self.present[group] & bit != 0 {
            self.duplicates += 1;
            return false;
        }
        self.present[group] |= bit;
        self.values[slot as usize] = value;
        if let Some(time) = time_ms {
            self.timestamps.push((slot, time));
        }
        true
    }

    /// Returns the number of slots that have a value.
    pub(crate) fn samples(&self) -> usize {
        count_ones(&self.present)
    }

    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Makes the times of lines relative to the scrape's, sorted by slot.
    pub(crate) fn set_time(&mut self, time: i64) {
        for (_, timestamp) in &mut self.timestamps {
            *timestamp = timestamp.wrapping_sub(time);
        }
        // Lines are in page order, rows in slot order.
        self.timestamps.sort_unstable();
    }

    pub(crate) fn timestamps(&self) -> &[(u32, i64)] {
        &self.timestamps
    }

    /// Returns the values and the slots of a group.
    pub(crate) fn group(&self, group: usize) -> (&[u64], u128) {
        let values = &self.values[group * GROUP..(group + 1) * GROUP];
        (values, self.present[group])
    }

    pub(crate) fn clear(&mut self) {
        self.present.fill(0);
        self.timestamps.clear();
        self.duplicates = 0;
    }
}

/// The current series of one source.
///
/// A slot is *alive* while it must keep its meaning: it is in the newest scrape, unless that failed, or
/// was asked for since.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: Arc<str>,
    pub(crate) newest: Arc<NewestValues>,
    /// The time of the last scrape, and true if it failed.
    pub(crate) last: Option<(i64, bool)>,
    /// The head that has the last successful scrape.
    pub(crate) last_head: u64,
    pub(crate) staged: StagedValues,
    /// The values of a scrape that could not be written, and its time. Readers of the newest values get
    /// them; `newest` must stay what the files say.
    unrecorded: Option<(i64, Arc<NewestValues>)>,
    /// Slots assigned since the last commit.
    fresh: Vec<u128>,
    /// The number of times each slot has changed its meaning. It outlives the slot.
    generations: Vec<u32>,
    /// The catalog block that defines each slot.
    blocks: Vec<u32>,
    free: Vec<u32>,
    table: SlotTable,
}

impl Source {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            newest: Arc::default(),
            last: None,
            last_head: 0,
            staged: StagedValues::default(),
            unrecorded: None,
            fresh: Vec::new(),
            generations: Vec::new(),
            blocks: Vec::new(),
            free: Vec::new(),
            table: SlotTable::default(),
        }
    }

    pub(crate) fn groups(&self) -> usize {
        self.fresh.len()
    }

    /// Returns the generation of a slot, or `None` if the slot is not defined.
    pub(crate) fn generation(&self, slot: u32) -> Option<u32> {
        let block = *self.blocks.get(slot as usize)?;
        (block != UNDEFINED).then(|| self.generations[slot as usize])
    }

    /// Finds the slot of a key.
    pub(crate) fn find(&self, hash: u32, key: &[u8], catalog: &Catalog) -> Option<u32> {
        // Hashes have 32 bits: two keys may share one, so that the keys are compared as well.
        self.table.find(hash, |slot| {
            self.definition(slot, catalog, |definition| definition.key == key) == Some(true)
        })
    }

    /// Calls `then` with the definition of a slot.
    pub(crate) fn definition<T>(
        &self,
        slot: u32,
        catalog: &Catalog,
        then: impl FnMut(Definition<'_>) -> T,
    ) -> Option<T> {
        let block = *self.blocks.get(slot as usize)?;
        if block == UNDEFINED {
            return None;
        }
        catalog.with_slot(block as usize, slot, then)
    }

    /// Returns the slot of the next new series.
    pub(crate) fn next_slot(&self) -> u32 {
        let free = self.free.last().copied();
        free.unwrap_or(self.blocks.len() as u32)
    }

    /// Assigns [`Source::next_slot`] to a new series that this block defines.
    pub(crate) fn assign_slot(&mut self, hash: u32, block: usize) -> u32 {
        let slot = self.next_slot();
        self.free.pop();
        self.define(hash, slot, block);
        let (group, bit) = position(slot);
        self.fresh[group] |= bit;
        slot
    }

    /// Notes the block that defines a slot.
    pub(crate) fn define(&mut self, hash: u32, slot: u32, block: usize) {
        self.grow(slot);
        self.blocks[slot as usize] = block as u32;
        self.table.insert(hash, slot);
    }

    /// Extends all lists up to this slot.
    fn grow(&mut self, slot: u32) {
        let slots = slot as usize + 1;
        if slots > self.blocks.len() {
            self.blocks.resize(slots, UNDEFINED);
            // Generations are never truncated and may be longer.
            let generations = slots.max(self.generations.len());
            self.generations.resize(generations, 0);
            let groups = slots.div_ceil(GROUP);
            self.staged.values.resize(groups * GROUP, 0);
            self.staged.present.resize(groups, 0);
            self.fresh.resize(groups, 0);
            let newest = Arc::make_mut(&mut self.newest);
            newest.values.resize(groups * GROUP, 0);
            newest.present.resize(groups, 0);
        }
    }

    fn alive(&self, group: usize) -> u128 {
        // A failed scrape ends the presence of all series, although their last values are kept.
        let missed = self.last.is_some_and(|(_, missed)| missed);
        let newest = if missed {
            0
        } else {
            self.newest.present[group]
        };
        newest | self.fresh[group] | self.staged.present[group]
    }

    pub(crate) fn is_alive(&self, slot: u32) -> bool {
        let (group, bit) = position(slot);
        self.alive(group) & bit != 0
    }

    /// Returns the number of slots that are defined.
    pub(crate) fn defined(&self) -> usize {
        self.table.len
    }

    fn count_alive(&self) -> usize {
        let alive = (0..self.groups()).map(|group| self.alive(group).count_ones() as usize);
        alive.sum()
    }

    /// Keeps the staged values for readers of the newest values, after a commit at `time` has failed.
    pub(crate) fn keep_unrecorded(&mut self, time: i64) {
        let values = NewestValues {
            values: self.staged.values.clone(),
            present: self.staged.present.clone(),
            // The times of lines are lost, and the time of the scrape stands for them.
            timestamps: Vec::new(),
        };
        self.unrecorded = Some((time, Arc::new(values)));
    }

    /// Returns the newest scrape that was not missed or could not be written, and its time; or the time
    /// of the newest one, and true if that was missed.
    pub(crate) fn newest_scrape(&self) -> (Option<(i64, bool)>, &Arc<NewestValues>) {
        match &self.unrecorded {
            // A failed scrape that was recorded since is newer and must win.
            Some((time, values)) if self.last.is_none_or(|(last, _)| last <= *time) => {
                (Some((*time, false)), values)
            }
            Some(_) | None => (self.last, &self.newest),
        }
    }

    /// Drops the newest scrape, the data of which has been evicted.
    fn forget_newest(&mut self) {
        if self.newest.present.iter().any(|word| *word != 0) {
            let newest = Arc::make_mut(&mut self.newest);
            newest.present.fill(0);
            newest.timestamps.clear();
        }
    }

    /// Frees all slots that are not alive, and undefines all: the caller defines those that are alive
    /// again, in a new catalog.
    pub(crate) fn free_dead_slots(&mut self) {
        self.table = SlotTable::default();
        self.free.clear();
        // A slot that is free here may be another series' next.
        self.unrecorded = None;
        let mut end = 0;
        for slot in 0..self.blocks.len() as u32 {
            let at = slot as usize;
            if self.is_alive(slot) {
                end = at + 1;
            } else {
                self.free.push(slot);
                if self.blocks[at] != UNDEFINED {
                    self.generations[at] = self.generations[at].wrapping_add(1);
                }
            }
            self.blocks[at] = UNDEFINED;
        }
        self.free.retain(|slot| (*slot as usize) < end);
        // The lowest slot is assigned first, so that the lists can shrink.
        self.free.reverse();
        self.truncate(end);
    }

    /// Drops the slots from `end` on, but not their generations: an old id would become valid again.
    fn truncate(&mut self, end: usize) {
        let groups = end.div_ceil(GROUP);
        self.blocks.truncate(end);
        self.fresh.truncate(groups);
        self.staged.present.truncate(groups);
        let newest = Arc::make_mut(&mut self.newest);
        newest.present.truncate(groups);
        for values in [&mut self.staged.values, &mut newest.values] {
            values.truncate(groups * GROUP);
            // Some spare capacity stays, or a churning source would reallocate with every catalog.
            values.shrink_to(values.len() * 2);
        }
    }

    /// Makes the staged scrape the newest. Groups from `first_new_group` on have their first row of
    /// the head in it; readers of the head do not know older values of these.
    pub(crate) fn commit_staged(&mut self, first_new_group: usize) {
        let newest = Arc::make_mut(&mut self.newest);
        for (group, present) in self.staged.present.iter().enumerate() {
            let slots = group * GROUP..(group + 1) * GROUP;
            let (values, staged) = (
                &mut newest.values[slots.clone()],
                &self.staged.values[slots],
            );
            if group >= first_new_group {
                // The next row is encoded against what readers of the head know.
                values.fill(0);
            }
            if *present == u128::MAX {
                values.copy_from_slice(staged);
            } else {
                for slot in bits(*present) {
                    values[slot] = staged[slot];
                }
            }
        }
        newest.present.copy_from_slice(&self.staged.present);
        // Swapped, so that both lists keep their capacity. `clear` empties the older one.
        std::mem::swap(&mut newest.timestamps, &mut self.staged.timestamps);
        self.unrecorded = None;
        self.staged.clear();
        self.fresh.fill(0);
    }

    /// Restores the newest scrape from a head. Returns `None` if the catalog does not define one of its
    /// slots.
    pub(crate) fn restore_newest(&mut self, state: &SourceState) -> Option<()> {
        for (group, group_state) in state.groups.iter().enumerate() {
            for slot in bits(group_state.present) {
                self.generation((group * GROUP + slot) as u32)?;
            }
        }
        if let Some(last) = (state.groups.len() * GROUP).checked_sub(1) {
            self.grow(last as u32);
        }
        let newest = Arc::make_mut(&mut self.newest);
        for (group, group_state) in state.groups.iter().enumerate() {
            let values = &mut newest.values[group * GROUP..(group + 1) * GROUP];
            values.copy_from_slice(&group_state.values);
            newest.present[group] = group_state.present;
        }
        // The source was just created, so that it has none yet.
        newest.timestamps.extend_from_slice(&state.timestamps);
        Some(())
    }

    fn memory(&self) -> u64 {
        let slots = self.staged.values.capacity() * 8
            + self.newest.values.capacity() * 8
            + self.blocks.capacity() * 4
            + self.generations.capacity() * 4;
        let unrecorded = self.unrecorded.iter();
        let unrecorded: usize = unrecorded.map(|(_, kept)| kept.values.len() * 8).sum();
        let words =
            self.staged.present.capacity() + self.fresh.capacity() + self.newest.present.capacity();
        (slots + unrecorded + words * 16 + self.free.capacity() * 4 + self.table.entries.len() * 8)
            as u64
    }
}

/// The sources of a recorder.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    list: Vec<Source>,
    hasher: KeyHasher,
    /// Series that were alive after the last commit, and series defined since.
    alive: usize,
    defined: usize,
}

impl Sources {
    /// The sources that a catalog defines.
    pub(crate) fn of(catalog: &Catalog) -> Self {
        let names = catalog.sources().iter();
        let mut sources = Self {
            list: names.map(|name| Source::new(Arc::clone(name))).collect(),
            ..Self::default()
        };
        catalog.walk(|block, definition| {
            let hash = sources.hasher.hash(definition.key);
            sources.list[definition.source as usize].define(hash, definition.slot, block);
        });
        sources
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Source> {
        self.list.iter()
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.list.iter().position(|source| &*source.name == name)
    }

    pub(crate) fn add(&mut self, name: Arc<str>) {
        self.list.push(Source::new(name));
    }

    pub(crate) fn get_mut(&mut self, source: usize) -> Option<&mut Source> {
        self.list.get_mut(source)
    }

    pub(crate) fn hash(&self, key: &[u8]) -> u32 {
        self.hasher.hash(key)
    }

    /// Assigns a slot to a new series of a source. `define` adds the slot's definition to the catalog
    /// and returns its block.
    pub(crate) fn add_series(
        &mut self,
        source: u32,
        hash: u32,
        define: impl FnOnce(u32) -> usize,
    ) -> u32 {
        let source = &mut self.list[source as usize];
        let block = define(source.next_slot());
        self.defined += 1;
        source.assign_slot(hash, block)
    }

    /// Returns an upper bound of the series that are alive, without counting them.
    pub(crate) fn alive_at_most(&self) -> usize {
        self.alive + self.defined
    }

    /// Counts the series that are alive after a commit.
    pub(crate) fn recount(&mut self) {
        self.alive = self.count_alive();
        self.defined = 0;
    }

    pub(crate) fn count_alive(&self) -> usize {
        self.list.iter().map(Source::count_alive).sum()
    }

    /// Returns the number of series that are defined, alive or not.
    pub(crate) fn count_defined(&self) -> usize {
        self.list.iter().map(Source::defined).sum()
    }

    /// Returns the number of series in the newest scrapes.
    pub(crate) fn count_newest(&self) -> usize {
        let newest = self.list.iter();
        newest
            .map(|source| count_ones(&source.newest.present))
            .sum()
    }

    /// Drops the newest scrapes of sources without data in any part from `oldest_head` on.
    pub(crate) fn forget_evicted(&mut self, oldest_head: u64) {
        for source in &mut self.list {
            if source.last_head < oldest_head {
                source.forget_newest();
            }
        }
    }

    /// Moves the live slots to a new catalog, given as source, slot, block and hash of each.
    pub(crate) fn redefine(&mut self, live_slots: &[(u32, u32, u32, u32)]) {
        self.list.iter_mut().for_each(Source::free_dead_slots);
        for &(source, slot, block, hash) in live_slots {
            self.list[source as usize].define(hash, slot, block as usize);
        }
    }

    pub(crate) fn memory(&self) -> u64 {
        self.list.iter().map(Source::memory).sum()
    }
}

impl std::ops::Index<u32> for Sources {
    type Output = Source;

    fn index(&self, source: u32) -> &Source {
        &self.list[source as usize]
    }
}

impl std::ops::IndexMut<u32> for Sources {
    fn index_mut(&mut self, source: u32) -> &mut Source {
        &mut self.list[source as usize]
    }
}

/// A hash table from keys to slots: linear probing, at most three quarters full. Entries are never
/// removed one by one.
#[derive(Debug, Default)]
struct SlotTable {
    entries: Vec<(u32, u32)>,
    len: usize,
}

const EMPTY: u32 = u32::MAX;

impl SlotTable {
    fn find(&self, hash: u32, is_key: impl Fn(u32) -> bool) -> Option<u32> {
        if self.entries.is_empty() {
            return None;
        }
        let mask = self.entries.len() - 1;
        let mut at = hash as usize & mask;
        while self.entries[at].1 != EMPTY {
            let (found, slot) = self.entries[at];
            if found == hash && is_key(slot) {
                return Some(slot);
            }
            at = (at + 1) & mask;
        }
        None
    }

    fn insert(&mut self, hash: u32, slot: u32) {
        if self.len * 4 >= self.entries.len() * 3 {
            let capacity = (self.entries.len() * 2).max(16);
            let old = std::mem::replace(&mut self.entries, vec![(0, EMPTY); capacity]);
            // The stored hashes serve again: keys would have to be decoded from their blocks.
            for (hash, slot) in old {
                if slot != EMPTY {
                    self.put(hash, slot);
                }
            }
        }
        self.put(hash, slot);
        self.len += 1;
    }

    fn put(&mut self, hash: u32, slot: u32) {
        let mask = self.entries.len() - 1;
        let mut at = hash as usize & mask;
        while self.entries[at].1 != EMPTY {
            at = (at + 1) & mask;
        }
        self.entries[at] = (hash, slot);
    }
}

/// Hashes keys with a random seed, so that nobody can choose labels that collide.
#[derive(Debug, Default)]
struct KeyHasher {
    state: RandomState,
}

impl KeyHasher {
    fn hash(&self, key: &[u8]) -> u32 {
        self.state.hash_one(key) as u32
    }
}

/// Returns the group of a slot, and its bit in the group's words.
fn position(slot: u32) -> (usize, u128) {
    let slot = slot as usize;
    (slot / GROUP, 1 << (slot % GROUP))
}

fn count_ones(words: &[u128]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}
