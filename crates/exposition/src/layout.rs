//! The lines of a scrape without their values.
//!
//! A layout is the accepted lines of a page in order: of a sample's line the bytes before its
//! value, of any other the whole line. The parser compares what arrives with the layout of the
//! last finished scrape, line by line; where they part, it finds its place again through an index
//! of hashes, which is built when it is first needed. While nothing differs, nothing is written.
//! From the first difference on, the layout of the new scrape is put together beside the old one,
//! and takes its place when the scrape is finished.

use std::hash::{BuildHasher as _, Hasher as _};

use crate::families::{FamilyId, Field};

/// What a remembered line is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What<Id> {
    /// A sample of the series.
    Sample(Id),
    /// A statement on a family.
    Metadata(FamilyId, Field),
    /// Nothing.
    Comment,
}

/// A remembered line: what it is, and where its bytes end. They begin where those of the line
/// before end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<Id> {
    pub(crate) end: u32,
    pub(crate) what: What<Id>,
}

/// What a remembered line costs besides its bytes: its entry, and its share of the index.
pub(crate) const ENTRY_BYTES: usize = 48;

/// The accepted lines of one page.
#[derive(Debug)]
pub(crate) struct Layout<Id> {
    text: Vec<u8>,
    entries: Vec<Entry<Id>>,
    index: Index,
}

impl<Id: Copy> Layout<Id> {
    pub(crate) fn new() -> Self {
        Self {
            text: Vec::new(),
            entries: Vec::new(),
            index: Index::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    pub(crate) fn entries(&self) -> &[Entry<Id>] {
        &self.entries
    }

    /// Where the bytes of an entry begin; of the one after the last, where the text ends.
    pub(crate) fn start(&self, entry: usize) -> usize {
        match entry.checked_sub(1) {
            Some(before) => self.entries[before].end as usize,
            None => 0,
        }
    }

    /// The bytes and meaning of an entry, if there are as many.
    pub(crate) fn entry(&self, entry: usize) -> Option<(&[u8], What<Id>)> {
        let found = self.entries.get(entry)?;
        Some((
            &self.text[self.start(entry)..found.end as usize],
            found.what,
        ))
    }

    /// Whether it has room for an entry of these bytes behind its first ones, if it may cost that
    /// much.
    pub(crate) fn has_room(&self, entries: usize, bytes: &[u8], limit: usize) -> bool {
        self.start(entries) + bytes.len() + (entries + 1) * ENTRY_BYTES <= limit
    }

    pub(crate) fn push(&mut self, bytes: &[u8], what: What<Id>) {
        self.text.extend_from_slice(bytes);
        self.entries.push(Entry {
            end: self.text.len() as u32,
            what,
        });
        self.index.valid = false;
    }

    /// Becomes the first entries of another, with room for as many as that has and some more.
    pub(crate) fn copy_of(&mut self, other: &Self, entries: usize) {
        self.clear();
        self.text.reserve(with_some_room(other.text.len()));
        self.entries.reserve(with_some_room(other.entries.len()));
        self.text
            .extend_from_slice(&other.text[..other.start(entries)]);
        self.entries.extend_from_slice(&other.entries[..entries]);
    }

    pub(crate) fn truncate(&mut self, entries: usize) {
        self.text.truncate(self.start(entries));
        self.entries.truncate(entries);
        self.index.valid = false;
    }

    pub(crate) fn clear(&mut self) {
        self.truncate(0);
    }

    /// Gives back room that growing by doubling left over.
    pub(crate) fn fit(&mut self) {
        self.text.shrink_to(with_some_room(self.text.len()));
        self.entries.shrink_to(with_some_room(self.entries.len()));
    }

    /// An entry of exactly these bytes.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.index.valid {
            self.index.rebuild(&self.text, &self.entries);
        }
        self.index
            .candidates(bytes)
            .find(|entry| self.entry(*entry).is_some_and(|(text, _)| text == bytes))
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.text.capacity()
            + self.entries.capacity() * size_of::<Entry<Id>>()
            + self.index.slots.capacity() * size_of::<Slot>()
    }
}

/// Room for a few lines more than there are: pages grow a little, and seldom.
fn with_some_room(count: usize) -> usize {
    count + count / 16
}

/// Finds entries by their bytes: open addressing with few probes. An entry that finds no free
/// place is left out and parsed in full each time, so an exporter that constructs collisions slows
/// down nothing but itself, by a bound.
#[derive(Debug, Default)]
struct Index {
    slots: Vec<Slot>,
    valid: bool,
}

/// The upper half of an entry's hash, and its number plus one; zero is a free place.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: u32,
    entry: u32,
}

const PROBES_MAX: usize = 16;

/// Fixed, so that equal pages cost the same.
const HASH: foldhash::fast::FixedState = foldhash::fast::FixedState::with_seed(0);

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = HASH.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

impl Index {
    fn rebuild<Id>(&mut self, text: &[u8], entries: &[Entry<Id>]) {
        let places = (entries.len() * 2).next_power_of_two();
        self.slots.clear();
        self.slots.resize(places, Slot::default());
        let mut start = 0;
        for (number, entry) in entries.iter().enumerate() {
            let hash = hash(&text[start..entry.end as usize]);
            start = entry.end as usize;
            let free = self
                .places(hash)
                .find(|place| self.slots[*place].entry == 0);
            if let Some(place) = free {
                self.slots[place] = Slot {
                    hash: (hash >> 32) as u32,
                    entry: number as u32 + 1,
                };
            }
        }
        self.valid = true;
    }

    fn places(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.slots.len() - 1;
        (0..PROBES_MAX.min(mask + 1)).map(move |probe| (hash as usize + probe) & mask)
    }

    /// Entries that may have these bytes.
    fn candidates(&self, bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
        let hash = hash(bytes);
        self.places(hash)
            .map(|place| self.slots[place])
            .take_while(|slot| slot.entry != 0)
            .filter(move |slot| slot.hash == (hash >> 32) as u32)
            .map(|slot| slot.entry as usize - 1)
    }
}
