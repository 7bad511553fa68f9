//! Indices by hash, in one piece of memory.

use crate::arena::is_sparse;

/// Finds values that are stored elsewhere by their hash: eight bytes for each slot, a third or more of them
/// empty.
///
/// A look-up mostly reads one cache line, where a table with a control byte for each slot reads two, the
/// second after the first. Among a million entries each is a wait for memory. Only looked up, never iterated,
/// so that the order cannot show.
#[derive(Debug, Default)]
pub(crate) struct IndexTable {
    /// As many as a power of two, or none. An entry stands at the place that its hash names, or after it without
    /// an empty slot in between.
    slots: Box<[Slot]>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Stored, so that no value is read when the table grows.
    hash: u32,
    index: u32,
}

/// An index that no value has.
const UNUSED: u32 = u32::MAX;

const EMPTY: Slot = Slot {
    hash: 0,
    index: UNUSED,
};

/// The slots of the smallest table.
const SMALLEST: usize = 4;

impl IndexTable {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the number of entries for which there is memory.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len() / 3 * 2
    }

    /// Returns the first index with this hash for which `is` returns true.
    pub(crate) fn find(&self, hash: u32, is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.position(hash, is).map(|at| self.slots[at].index)
    }

    /// Does the same, and allows to change the index.
    pub(crate) fn find_mut(&mut self, hash: u32, is: impl FnMut(u32) -> bool) -> Option<&mut u32> {
        let at = self.position(hash, is)?;
        Some(&mut self.slots[at].index)
    }

    /// Adds an index. Others may have the same hash.
    pub(crate) fn insert(&mut self, hash: u32, index: u32) {
        debug_assert_ne!(
            index, UNUSED,
            "memory is full before there are so many values"
        );
        if self.len >= self.capacity() {
            self.resize((2 * self.slots.len()).max(SMALLEST));
        }
        self.put(Slot { hash, index });
        self.len += 1;
    }

    /// Removes the first index with this hash for which `is` returns true, and memory far beyond what is left.
    pub(crate) fn remove(&mut self, hash: u32, is: impl FnMut(u32) -> bool) {
        let Some(mut gap) = self.position(hash, is) else {
            return;
        };
        // Entries behind it move up to where a look-up finds them, as it stops at the first empty slot.
        let mut at = gap;
        loop {
            at = self.after(at);
            let slot = self.slots[at];
            if slot.index == UNUSED {
                break;
            }
            let moved = at.wrapping_sub(self.home(slot.hash)) & self.mask();
            if moved >= at.wrapping_sub(gap) & self.mask() {
                self.slots[gap] = slot;
                gap = at;
            }
        }
        self.slots[gap] = EMPTY;
        self.len -= 1;
        if is_sparse(self.len, self.capacity()) {
            self.resize((3 * self.len).next_power_of_two().max(SMALLEST));
        }
    }

    /// Removes all entries and keeps the memory.
    pub(crate) fn clear(&mut self) {
        if self.len > 0 {
            self.slots.fill(EMPTY);
            self.len = 0;
        }
    }

    fn position(&self, hash: u32, mut is: impl FnMut(u32) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot.index == UNUSED {
                return None;
            }
            if slot.hash == hash && is(slot.index) {
                return Some(at);
            }
            at = self.after(at);
        }
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; slots].into_boxed_slice());
        for slot in old {
            if slot.index != UNUSED {
                self.put(slot);
            }
        }
    }

    /// Writes an entry into the first empty slot. There is one, as the table never fills.
    fn put(&mut self, slot: Slot) {
        let mut at = self.home(slot.hash);
        while self.slots[at].index != UNUSED {
            at = self.after(at);
        }
        self.slots[at] = slot;
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & self.mask()
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & self.mask()
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A table finds what a list of pairs holds, also when most hashes share a slot.
        #[test]
        fn index_table_finds_what_a_list_holds(
            steps in prop::collection::vec((any::<bool>(), 0_u32..12, 0_u32..40), 1..200)
        ) {
            let (mut table, mut model) = (IndexTable::default(), Vec::new());
            for (removes, hash, index) in steps {
                // Close to each other and to the last slot of any small table.
                let hash = hash.wrapping_sub(6);
                if removes {
                    table.remove(hash, |known| known == index);
                    let known = model.iter().position(|pair| *pair == (hash, index));
                    known.map(|at| model.swap_remove(at));
                } else {
                    table.insert(hash, index);
                    model.push((hash, index));
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert!(table.len() <= table.capacity());
                let found = table.find(hash, |known| known == index);
                prop_assert_eq!(found, model.contains(&(hash, index)).then_some(index));
            }
            // Removals have moved entries of other hashes.
            for (hash, index) in model {
                prop_assert_eq!(table.find(hash, |known| known == index), Some(index));
            }
        }
    }

    #[test]
    fn table_gives_memory_back_when_most_entries_have_left() {
        let mut table = IndexTable::default();
        let hash = |index: u32| index.wrapping_mul(0x9e37_79b9);
        for index in 0..10_000 {
            table.insert(hash(index), index);
        }
        for index in 100..10_000 {
            table.remove(hash(index), |known| known == index);
        }
        assert_eq!(table.len(), 100);
        assert!(table.capacity() < 1_000, "{}", table.capacity());
        assert!(
            (0..100).all(|index| table.find(hash(index), |known| known == index) == Some(index))
        );
        table.clear();
        assert_eq!((table.len(), table.find(hash(1), |_| true)), (0, None));
    }
}
