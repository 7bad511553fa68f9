//! The series of one source as they are now: slots, their last values, and which slot a key has.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use crate::{
    catalog::{Catalog, Definition},
    rows::{GROUP, GroupState, SLOT_ROW_BYTES_MAX},
};

/// Bytes a slot has in memory, with its share of the table at its emptiest.
pub(crate) const SLOT_BYTES: u64 = 60;

/// Most bytes a slot may take in one frame, and in its source's first.
pub(crate) const SLOT_FRAME_BYTES: u64 = SLOT_ROW_BYTES_MAX + 12;

/// The place of a slot that is not defined.
const NOWHERE: u32 = u32::MAX;

/// What a reader sees of a source's newest scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Newest {
    /// The last value of each slot.
    pub(crate) values: Vec<u64>,
    /// One bit per slot, a word per group: in the newest scrape that succeeded.
    pub(crate) present: Vec<u128>,
    /// Times that lines brought along, by slot, as a distance to the scrape's.
    pub(crate) stamps: Vec<(u32, i64)>,
}

/// One source.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) name: Arc<str>,
    pub(crate) newest: Arc<Newest>,
    /// Time of the last scrape, and whether it was missed.
    pub(crate) last: Option<(i64, bool)>,
    /// The head in which a scrape last succeeded.
    pub(crate) last_head: u64,
    /// Values of the scrape being taken.
    pub(crate) next: Vec<u64>,
    /// Slots it has brought so far.
    pub(crate) seen: Vec<u128>,
    pub(crate) stamps: Vec<(u32, i64)>,
    /// Slots taken since the last scrape was recorded.
    fresh: Vec<u128>,
    generations: Vec<u32>,
    places: Vec<u32>,
    free: Vec<u32>,
    table: Table,
}

impl Live {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            newest: Arc::default(),
            last: None,
            last_head: 0,
            next: Vec::new(),
            seen: Vec::new(),
            stamps: Vec::new(),
            fresh: Vec::new(),
            generations: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
            table: Table::default(),
        }
    }

    pub(crate) fn groups(&self) -> usize {
        self.seen.len()
    }

    /// How often the slot has changed its meaning; nothing when it has none.
    pub(crate) fn generation(&self, slot: u32) -> Option<u32> {
        let place = *self.places.get(slot as usize)?;
        (place != NOWHERE).then(|| self.generations[slot as usize])
    }

    /// The slot of a key.
    pub(crate) fn find(&self, hash: u32, key: &[u8], catalog: &Catalog) -> Option<u32> {
        self.table.find(hash, |slot| {
            self.definition(slot, catalog, |definition| definition.key == key) == Some(true)
        })
    }

    /// The definition of a slot.
    pub(crate) fn definition<T>(
        &self,
        slot: u32,
        catalog: &Catalog,
        then: impl FnMut(Definition<'_>) -> T,
    ) -> Option<T> {
        let block = *self.places.get(slot as usize)?;
        if block == NOWHERE {
            None
        } else {
            catalog.with_slot(block as usize, slot, then)
        }
    }

    /// The slot the next new series gets.
    pub(crate) fn next_slot(&self) -> u32 {
        self.free
            .last()
            .copied()
            .unwrap_or(self.places.len() as u32)
    }

    /// Takes [`Live::next_slot`] for a new series, which is defined in this block.
    pub(crate) fn take_slot(&mut self, hash: u32, block: usize) -> u32 {
        let slot = self.next_slot();
        self.free.pop();
        self.restore(hash, slot, block);
        self.fresh[slot as usize / GROUP] |= 1 << (slot as usize % GROUP);
        slot
    }

    /// Makes room up to this slot.
    fn grow(&mut self, slot: u32) {
        let slots = slot as usize + 1;
        if slots > self.places.len() {
            self.places.resize(slots, NOWHERE);
            let generations = slots.max(self.generations.len());
            self.generations.resize(generations, 0);
            let groups = slots.div_ceil(GROUP);
            self.next.resize(groups * GROUP, 0);
            self.seen.resize(groups, 0);
            self.fresh.resize(groups, 0);
            let newest = Arc::make_mut(&mut self.newest);
            newest.values.resize(groups * GROUP, 0);
            newest.present.resize(groups, 0);
        }
    }

    /// A slot whose definition stands in this block.
    pub(crate) fn restore(&mut self, hash: u32, slot: u32, block: usize) {
        self.grow(slot);
        self.places[slot as usize] = block as u32;
        self.table.insert(hash, slot);
    }

    /// Slots that must keep their meaning: those of the newest scrape, unless that was missed, and
    /// those asked for since.
    pub(crate) fn alive(&self, group: usize) -> u128 {
        let missed = self.last.is_some_and(|(_, missed)| missed);
        let present = if missed {
            0
        } else {
            self.newest.present[group]
        };
        present | self.fresh[group] | self.seen[group]
    }

    pub(crate) fn is_alive(&self, slot: u32) -> bool {
        let group = slot as usize / GROUP;
        self.alive(group) >> (slot as usize % GROUP) & 1 == 1
    }

    /// How many slots are defined.
    pub(crate) fn defined(&self) -> usize {
        self.table.len
    }

    /// How many slots must keep their meaning.
    pub(crate) fn count_alive(&self) -> usize {
        (0..self.groups())
            .map(|group| self.alive(group).count_ones() as usize)
            .sum()
    }

    /// No series of this source has data any more: none of them is alive.
    pub(crate) fn forget(&mut self) {
        if self.newest.present.iter().any(|word| *word != 0) {
            let newest = Arc::make_mut(&mut self.newest);
            newest.present.fill(0);
            newest.stamps.clear();
        }
    }

    /// Gives up all slots that are not alive, so that they can be taken anew. Those that are have to be
    /// restored.
    pub(crate) fn sweep(&mut self) {
        self.table = Table::default();
        self.free.clear();
        let mut end = 0;
        for slot in 0..self.places.len() as u32 {
            let at = slot as usize;
            if self.is_alive(slot) {
                end = at + 1;
            } else {
                self.free.push(slot);
                if self.places[at] != NOWHERE {
                    self.generations[at] = self.generations[at].wrapping_add(1);
                }
            }
            self.places[at] = NOWHERE;
        }
        self.free.retain(|slot| (*slot as usize) < end);
        self.free.reverse();
        self.shrink(end);
    }

    /// Drops the slots from `end` on. Their generations stay, or an old id would be good again.
    fn shrink(&mut self, end: usize) {
        let groups = end.div_ceil(GROUP);
        self.places.truncate(end);
        self.next.truncate(groups * GROUP);
        self.seen.truncate(groups);
        self.fresh.truncate(groups);
        let newest = Arc::make_mut(&mut self.newest);
        newest.values.truncate(groups * GROUP);
        newest.present.truncate(groups);
        for vec in [&mut self.next, &mut newest.values] {
            vec.shrink_to(vec.len() * 2);
        }
    }

    /// The scrape being taken is recorded: it becomes the newest. Groups from `begun` on have begun
    /// with it in the head, so that whoever reads the head knows no older values of theirs.
    pub(crate) fn turn(&mut self, begun: usize) {
        let newest = Arc::make_mut(&mut self.newest);
        for (group, seen) in self.seen.iter_mut().enumerate() {
            let slots = group * GROUP..(group + 1) * GROUP;
            if group >= begun {
                newest.values[slots.clone()].fill(0);
            }
            if *seen == u128::MAX {
                newest.values[slots.clone()].copy_from_slice(&self.next[slots]);
            } else {
                for slot in crate::rows::bits(*seen) {
                    newest.values[group * GROUP + slot] = self.next[group * GROUP + slot];
                }
            }
            newest.present[group] = *seen;
            *seen = 0;
        }
        std::mem::swap(&mut newest.stamps, &mut self.stamps);
        self.stamps.clear();
        self.fresh.fill(0);
    }

    /// The newest scrape, as it was read back.
    pub(crate) fn resume(&mut self, groups: &[GroupState], stamps: &[(u32, i64)]) {
        if let Some(last) = (groups.len() * GROUP).checked_sub(1) {
            self.grow(last as u32);
        }
        let newest = Arc::make_mut(&mut self.newest);
        for (group, state) in groups.iter().enumerate() {
            newest.values[group * GROUP..(group + 1) * GROUP].copy_from_slice(&state.values);
            newest.present[group] = state.present;
        }
        newest.stamps.extend_from_slice(stamps);
    }

    /// The scrape being taken is given up.
    pub(crate) fn abandon(&mut self) {
        self.seen.fill(0);
        self.stamps.clear();
    }

    /// Bytes it has in memory.
    pub(crate) fn memory(&self) -> u64 {
        let slots = self.next.capacity() * 8
            + self.newest.values.capacity() * 8
            + self.places.capacity() * 4
            + self.generations.capacity() * 4;
        let words =
            (self.seen.capacity() + self.fresh.capacity() + self.newest.present.capacity()) * 16;
        (slots + words + self.free.capacity() * 4 + self.table.entries.len() * 8) as u64
    }
}

/// From hashes to slots: open addressing, at most three quarters full, nothing is ever taken out.
#[derive(Debug, Default)]
struct Table {
    entries: Vec<(u32, u32)>,
    len: usize,
}

const EMPTY: u32 = u32::MAX;

impl Table {
    fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        if self.entries.is_empty() {
            return None;
        }
        let mask = self.entries.len() - 1;
        let mut at = hash as usize & mask;
        while self.entries[at].1 != EMPTY {
            let (found, slot) = self.entries[at];
            if found == hash && is_it(slot) {
                return Some(slot);
            }
            at = (at + 1) & mask;
        }
        None
    }

    fn insert(&mut self, hash: u32, slot: u32) {
        if self.len * 4 >= self.entries.len() * 3 {
            let room = (self.entries.len() * 2).max(16);
            let old = std::mem::replace(&mut self.entries, vec![(0, EMPTY); room]);
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

/// Hashes keys with a key of its own, so that nobody can choose labels that collide.
#[derive(Debug, Default)]
pub(crate) struct KeyHasher {
    state: RandomState,
}

impl KeyHasher {
    pub(crate) fn hash(&self, key: &[u8]) -> u32 {
        self.state.hash_one(key) as u32
    }
}
