//! Finding rows of a list by a hash of their text.

use std::hash::{BuildHasher as _, Hasher as _};

/// Rows by hash: places that follow each other, each with a row or free. A row may find no place;
/// then it is not found here.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// A row's number plus one; zero is a free place. As many as a power of two, or none.
    places: Vec<u32>,
}

/// Places that are looked at. So hashes that are equal, by chance or on purpose, cost no more.
const PROBES_MAX: usize = 16;

/// Fixed, so that equal pages cost the same.
const HASH: foldhash::fast::FixedState = foldhash::fast::FixedState::with_seed(0);

pub(crate) fn hash(bytes: &[u8]) -> u32 {
    let mut hasher = HASH.build_hasher();
    hasher.write(bytes);
    (hasher.finish() >> 32) as u32
}

impl Index {
    /// Bytes that an index of so many rows takes.
    pub(crate) fn bytes_for(rows: usize) -> usize {
        (2 * rows).next_power_of_two() * size_of::<u32>()
    }

    /// Becomes an empty index for so many rows.
    pub(crate) fn reset(&mut self, rows: usize) {
        let places = Self::bytes_for(rows) / size_of::<u32>();
        if self.places.capacity() < places || self.places.capacity() > 4 * places {
            // The old one is given back before there is a new one.
            self.clear();
            self.places.reserve_exact(places);
        }
        self.places.clear();
        self.places.resize(places, 0);
    }

    /// Whether another row would make it too crowded.
    pub(crate) fn is_full(&self, rows: usize) -> bool {
        2 * rows >= self.places.len()
    }

    /// Adds a row. Whether it found a place.
    pub(crate) fn insert(&mut self, hash: u32, row: u32) -> bool {
        let free = self.probes(hash).find(|place| self.places[*place] == 0);
        if let Some(place) = free {
            self.places[place] = row + 1;
        }
        free.is_some()
    }

    /// Rows that may have this hash.
    pub(crate) fn candidates(&self, hash: u32) -> impl Iterator<Item = u32> + '_ {
        self.probes(hash)
            .map(|place| self.places[place])
            .take_while(|row| *row != 0)
            .map(|row| row - 1)
    }

    fn probes(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let count = self.places.len();
        (0..PROBES_MAX.min(count)).map(move |probe| (hash as usize + probe) & (count - 1))
    }

    pub(crate) fn clear(&mut self) {
        self.places = Vec::new();
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.places.capacity() * size_of::<u32>()
    }
}
