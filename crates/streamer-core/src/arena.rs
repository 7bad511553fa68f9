//! Values at stable indices, in memory that is given back.

use std::{
    collections::BTreeSet,
    ops::{Index, IndexMut},
};

/// Values at stable indices, in chunks of 64. A chunk without values takes no memory.
///
/// One vector would keep the memory of its largest size, and would hold up to twice what it needs. The
/// lowest index that is free is given out first, so that full chunks stay full.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    chunks: Vec<Chunk<T>>,
    /// The chunks with free indices.
    open: BTreeSet<usize>,
    len: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    /// A bit for every index that is in use.
    used: u64,
    values: Vec<Option<T>>,
}

/// The indices of a chunk, one for each bit of [`Chunk::used`].
const CHUNK: usize = u64::BITS as usize;

impl<T> Arena<T> {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
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
        match self.open.first() {
            Some(&at) => at * CHUNK + self.chunks[at].used.trailing_ones() as usize,
            None => self.bound(),
        }
    }

    /// Adds a value and returns its index.
    pub(crate) fn insert(&mut self, value: T) -> usize {
        let index = self.next_index();
        let (at, within) = (index / CHUNK, index % CHUNK);
        if at == self.chunks.len() {
            self.open.insert(at);
            self.chunks.push(Chunk {
                used: 0,
                values: Vec::new(),
            });
        }
        let is_first = self.chunks.len() == 1;
        let chunk = &mut self.chunks[at];
        if within < chunk.values.len() {
            chunk.values[within] = Some(value);
        } else {
            if chunk.values.capacity() == 0 && !is_first {
                // At once: only an arena that stays small saves memory by growing in steps.
                chunk.values.reserve_exact(CHUNK);
            }
            chunk.values.push(Some(value));
        }
        chunk.used |= 1 << within;
        if chunk.used == u64::MAX {
            self.open.remove(&at);
        }
        self.len += 1;
        index
    }

    /// Removes the value at an index, which is then given out again.
    pub(crate) fn remove(&mut self, index: usize) -> Option<T> {
        let (at, within) = (index / CHUNK, index % CHUNK);
        let chunk = self.chunks.get_mut(at)?;
        let value = chunk.values.get_mut(within)?.take()?;
        chunk.used &= !(1 << within);
        self.open.insert(at);
        self.len -= 1;
        if chunk.used == 0 {
            chunk.values = Vec::new();
            self.drop_last_chunks();
        }
        Some(value)
    }

    /// Forgets the empty chunks at the end. Each was added once, so that a removal costs little on
    /// average.
    fn drop_last_chunks(&mut self) {
        while self.chunks.last().is_some_and(|last| last.used == 0) {
            self.chunks.pop();
            self.open.remove(&self.chunks.len());
        }
        if is_sparse(self.chunks.len(), self.chunks.capacity()) {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        let chunk = self.chunks.get(index / CHUNK)?;
        chunk.values.get(index % CHUNK)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(index / CHUNK)?;
        chunk.values.get_mut(index % CHUNK)?.as_mut()
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
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..600)
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
        let held = |arena: &Arena<usize>| -> usize {
            let chunks = arena.chunks.iter();
            chunks.map(|chunk| chunk.values.capacity()).sum()
        };
        assert_eq!(held(&arena), 100 * CHUNK);
        // One value is left in every tenth chunk, and none after it.
        for index in 0..100 * CHUNK {
            if index % (10 * CHUNK) != 0 {
                arena.remove(index);
            }
        }
        assert_eq!((arena.len(), held(&arena)), (10, 10 * CHUNK));
        assert_eq!(arena.bound(), 91 * CHUNK);
        assert_eq!(arena.insert(0), 1, "the lowest free index");
    }
}
