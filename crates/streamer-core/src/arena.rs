//! Values at stable indices, in memory that is given back.

use std::{
    collections::BTreeSet,
    ops::{Index, IndexMut},
};

/// Values at stable indices, in chunks of 256. A chunk without values takes no memory.
///
/// One vector would keep the memory of its largest size, and would hold up to twice what it needs. The
/// lowest index that is free is given out first, so that full chunks stay full.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    /// Among a million values a look-up must not wait for its chunk as well: these fit into a cache.
    chunks: Vec<Vec<Option<T>>>,
    /// For each chunk, a bit for every index that is in use.
    used: Vec<[u64; WORDS]>,
    /// The chunks with free indices.
    open: BTreeSet<usize>,
    len: usize,
}

const WORD: usize = u64::BITS as usize;
const WORDS: usize = 4;

/// The indices of a chunk.
const CHUNK: usize = WORDS * WORD;

impl<T> Arena<T> {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            used: Vec::new(),
            open: BTreeSet::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns a number above all indices in use.
    pub(crate) fn bound(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Returns the index that the next value gets.
    pub(crate) fn next_index(&self) -> usize {
        let Some(&at) = self.open.first() else {
            return self.bound();
        };
        // Full words count whole, up to the first one with a free index.
        let full = self.used[at].iter().take_while(|word| **word == u64::MAX);
        let words = full.count();
        at * CHUNK + words * WORD + self.used[at][words].trailing_ones() as usize
    }

    /// Adds a value and returns its index.
    pub(crate) fn insert(&mut self, value: T) -> usize {
        let index = self.next_index();
        let (at, within) = (index / CHUNK, index % CHUNK);
        if at == self.chunks.len() {
            self.open.insert(at);
            self.chunks.push(Vec::new());
            self.used.push([0; WORDS]);
        }
        let is_first = self.chunks.len() == 1;
        let values = &mut self.chunks[at];
        if within < values.len() {
            values[within] = Some(value);
        } else {
            if values.capacity() == 0 && !is_first {
                // At once: only an arena that stays small saves memory by growing in steps.
                values.reserve_exact(CHUNK);
            }
            values.push(Some(value));
        }
        let used = &mut self.used[at];
        used[within / WORD] |= 1 << (within % WORD);
        if *used == [u64::MAX; WORDS] {
            self.open.remove(&at);
        }
        self.len += 1;
        index
    }

    /// Removes the value at an index, which is then given out again.
    pub(crate) fn remove(&mut self, index: usize) -> Option<T> {
        let (at, within) = (index / CHUNK, index % CHUNK);
        let values = self.chunks.get_mut(at)?;
        let value = values.get_mut(within)?.take()?;
        while values.pop_if(|last| last.is_none()).is_some() {}
        if is_sparse(values.len(), values.capacity()) {
            values.shrink_to(2 * values.len());
        }
        let used = &mut self.used[at];
        used[within / WORD] &= !(1 << (within % WORD));
        self.open.insert(at);
        self.len -= 1;
        if *used == [0; WORDS] {
            *values = Vec::new();
            self.drop_last_chunks();
        }
        Some(value)
    }

    /// Forgets the empty chunks at the end. Each was added once, so that a removal costs little on
    /// average.
    fn drop_last_chunks(&mut self) {
        while self.used.last() == Some(&[0; WORDS]) {
            self.used.pop();
            self.chunks.pop();
            self.open.remove(&self.chunks.len());
        }
        if is_sparse(self.chunks.len(), self.chunks.capacity()) {
            self.chunks.shrink_to(2 * self.chunks.len());
            self.used.shrink_to(2 * self.used.len());
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        let chunk = self.chunks.get(index / CHUNK)?;
        chunk.get(index % CHUNK)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(index / CHUNK)?;
        chunk.get_mut(index % CHUNK)?.as_mut()
    }
}

impl<T> Index<usize> for Arena<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        self.get(index).expect("the index is in use")
    }
}

impl<T> IndexMut<usize> for Arena<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        self.get_mut(index).expect("the index is in use")
    }
}

/// Returns whether a table should be made smaller after a removal. Only far below its capacity, so that
/// each removal pays for a bounded part of the copy, and a table whose contents leave and come back is
/// not copied twice.
pub(crate) fn is_sparse(len: usize, capacity: usize) -> bool {
    capacity > SMALL && len < capacity / SPARSE
}

/// The capacity of a table that is never made smaller.
const SMALL: usize = 64;
/// The factor by which a table is larger than its contents when it is made smaller.
const SPARSE: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// An arena holds what a map holds, at indices as low as the most values that it held.
        #[test]
        fn arena_is_a_map_with_low_indices(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..1_200)
        ) {
            let (mut arena, mut model) = (Arena::new(), BTreeMap::new());
            let mut most = 0;
            for (number, (removes, which)) in steps.into_iter().enumerate() {
                if removes && !model.is_empty() {
                    let index = *which.get(&model.keys().copied().collect::<Vec<_>>());
                    prop_assert_eq!(arena.remove(index), model.remove(&index));
                    prop_assert_eq!(arena.remove(index), None);
                } else {
                    let next = arena.next_index();
                    let index = arena.insert(number);
                    prop_assert_eq!(index, next);
                    prop_assert_eq!(model.insert(index, number), None);
                    most = most.max(model.len());
                    prop_assert!(index < most, "the lowest free index");
                }
                prop_assert_eq!(arena.len(), model.len());
                for (index, value) in &model {
                    prop_assert_eq!(arena.get(*index), Some(value));
                }
            }
            for index in model.into_keys() {
                arena.remove(index);
            }
            prop_assert!(arena.is_empty() && arena.bound() == 0 && arena.open.is_empty());
        }
    }

    #[test]
    fn chunks_without_values_take_no_memory() {
        let mut arena = Arena::new();
        for value in 0..100 * CHUNK {
            arena.insert(value);
        }
        let held = |arena: &Arena<usize>| -> usize { arena.chunks.iter().map(Vec::capacity).sum() };
        assert_eq!(held(&arena), 100 * CHUNK);
        // One value is left in every tenth chunk, and none after it.
        for index in 0..100 * CHUNK {
            if index % (10 * CHUNK) != 0 {
                arena.remove(index);
            }
        }
        assert_eq!(
            (arena.len(), held(&arena)),
            (10, 20),
            "shrunk to the first value"
        );
        assert_eq!(arena.bound(), 91 * CHUNK);
        assert_eq!(arena.insert(0), 1, "the lowest free index");
    }
}
