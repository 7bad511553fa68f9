//! A hash index with a bounded number of probes.

use std::hash::{BuildHasher as _, Hasher as _};

/// A hash table of row numbers with linear probing.
///
/// A row for which no slot is free among the probed ones is not indexed; the caller then treats it
/// as unknown or keeps it elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Row numbers plus one; zero marks a free slot. The length is a power of two, or zero.
    slots: Vec<u32>,
}

/// The most slots that are probed. Colliding hashes, accidental or constructed, cost no more.
const PROBES_MAX: usize = 16;

/// The seed is fixed, so that equal pages cost the same.
const HASH: foldhash::fast::FixedState = foldhash::fast::FixedState::with_seed(0);

pub(crate) fn hash(bytes: &[u8]) -> u32 {
    let mut hasher = HASH.build_hasher();
    hasher.write(bytes);
    (hasher.finish() >> 32) as u32
}

impl Index {
    /// Returns the bytes that an index of this many rows holds.
    pub(crate) fn bytes_for(rows: usize) -> usize {
        (2 * rows).next_power_of_two() * size_of::<u32>()
    }

    /// Removes all rows and makes the index large enough for this many.
    pub(crate) fn reset(&mut self, rows: usize) {
        let slots = Self::bytes_for(rows) / size_of::<u32>();
        if self.slots.capacity() < slots || self.slots.capacity() > 4 * slots {
            // The old table is freed before the new one is allocated, so that there is only one.
            self.clear();
            self.slots.reserve_exact(slots);
        }
        self.slots.clear();
        self.slots.resize(slots, 0);
    }

    /// Returns true if another row would fill more than half of the slots.
    pub(crate) fn is_full(&self, rows: usize) -> bool {
        2 * rows >= self.slots.len()
    }

    /// Adds a row. Returns false if no probed slot is free.
    pub(crate) fn insert(&mut self, hash: u32, row: u32) -> bool {
        let free = self.probes(hash).find(|slot| self.slots[*slot] == 0);
        if let Some(slot) = free {
            self.slots[slot] = row + 1;
        }
        free.is_some()
    }

    /// Returns the rows that may have this hash.
    pub(crate) fn candidates(&self, hash: u32) -> impl Iterator<Item = u32> + '_ {
        self.probes(hash)
            .map(|slot| self.slots[slot])
            // Rows are never removed one by one, so that a free slot ends the search.
            .take_while(|row| *row != 0)
            .map(|row| row - 1)
    }

    fn probes(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let count = self.slots.len();
        // An empty table has no probes, so that the mask is never made from zero.
        (0..PROBES_MAX.min(count)).map(move |probe| (hash as usize + probe) & (count - 1))
    }

    pub(crate) fn clear(&mut self) {
        self.slots = Vec::new();
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }
}
