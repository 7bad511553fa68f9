//! The lines of a scrape without their values.
//!
//! A layout is the accepted lines of a page in order: of a sample's line the bytes before its
//! value, of any other the whole line. The parser compares what arrives with the lines of the last
//! finished scrape, one by one; where they part, it finds its place again through an index of
//! hashes, which is built when it is first needed. While nothing differs, nothing is written. From
//! the first difference on, a list of the new scrape's lines is put together beside the old one,
//! and takes its place when the scrape is finished. Both share the text of what they both have.

use crate::{
    arena::{Arena, Place},
    families::{FamilyId, Field},
    index::{self, Index},
    rows::{ROWS, Rows},
};

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

/// A remembered line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<Id> {
    text: Place,
    hash: Hash,
    pub(crate) what: What<Id>,
}

/// The hash of a line, once somebody had to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hash(Option<std::num::NonZeroU32>);

impl Hash {
    fn of(bytes: &[u8]) -> Self {
        Self(std::num::NonZeroU32::new(index::hash(bytes).max(1)))
    }

    fn get(self) -> u32 {
        self.0.map_or(0, std::num::NonZeroU32::get)
    }
}

/// The lines of the last finished scrape, and of the current one.
#[derive(Debug)]
pub(crate) struct Layout<Id> {
    /// Bytes that all of it may take.
    bytes_max: usize,
    text: Arena,
    last: Rows<Entry<Id>>,
    /// The current scrape once it differs from the last one.
    next: Rows<Entry<Id>>,
    differs: bool,
    /// The line of `last` that is expected to come next. While nothing differs, also how many of
    /// its lines have come.
    expected: usize,
    /// Finds lines of `last`.
    index: Index,
    indexed: bool,
}

impl<Id: Copy> Layout<Id> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            // The lists of pieces take their share.
            bytes_max: bytes_max - bytes_max / 64,
            text: Arena::default(),
            last: Rows::default(),
            next: Rows::default(),
            differs: false,
            expected: 0,
            index: Index::default(),
            indexed: false,
        }
    }

    /// Whether there is nothing to be found.
    pub(crate) fn is_empty(&self) -> bool {
        self.last.len() == 0
    }

    pub(crate) fn expected(&self) -> usize {
        self.expected
    }

    /// The expected lines, in pieces.
    pub(crate) fn coming(&self) -> impl Iterator<Item = &[Entry<Id>]> {
        self.last.pieces_from(self.expected)
    }

    #[inline]
    pub(crate) fn bytes(&self, entry: &Entry<Id>) -> &[u8] {
        self.text.bytes(entry.text)
    }

    /// The bytes and meaning of an entry, if there are as many.
    pub(crate) fn entry(&self, entry: usize) -> Option<(&[u8], What<Id>)> {
        let found = self.last.get(entry)?;
        Some((self.bytes(found), found.what))
    }

    /// An entry of exactly these bytes, or their hash.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Result<usize, Hash> {
        if self.is_empty() {
            return Err(Hash::default());
        }
        if !self.indexed {
            self.build_index();
        }
        let hash = Hash::of(bytes);
        self.index
            .candidates(hash.get())
            .map(|row| row as usize)
            .find(|row| {
                let found = self.last.get(*row);
                found.is_some_and(|found| found.hash == hash && self.bytes(found) == bytes)
            })
            .ok_or(hash)
    }

    fn build_index(&mut self) {
        self.index.reset(self.last.len());
        for (row, entry) in self.last.iter_mut().enumerate() {
            if entry.hash == Hash::default() {
                entry.hash = Hash::of(self.text.bytes(entry.text));
            }
            self.index.insert(entry.hash.get(), row as u32);
        }
        self.indexed = true;
    }

    /// Notes that so many expected lines came.
    pub(crate) fn came(&mut self, lines: usize) {
        let came = self.expected..self.expected + lines;
        self.expected = came.end;
        if !self.differs {
            return;
        }
        if self.next.len() + lines <= self.last.len() {
            self.next.extend(&self.last, came);
        } else {
            came.for_each(|row| self.keep(row));
        }
    }

    /// Notes that a line of the last scrape came again.
    pub(crate) fn again(&mut self, entry: usize) {
        if !self.differs && entry != self.expected {
            self.part();
        }
        self.expected = entry + 1;
        if self.differs {
            self.keep(entry);
        }
    }

    fn keep(&mut self, entry: usize) {
        if let Some(entry) = self.last.get(entry).copied()
            && self.has_room_for_row()
        {
            self.next.push(entry);
        }
    }

    /// Remembers a line that the last scrape did not have, if there is room.
    pub(crate) fn add(&mut self, line: &[u8], hash: Hash, what: What<Id>) {
        if !self.has_room_for_row() {
            return;
        }
        let text = self.text.push_if_it_fits(line);
        let Some(text) = text.or_else(|| self.make_room_for(line)) else {
            return;
        };
        if !self.differs {
            self.part();
        }
        self.next.push(Entry { text, hash, what });
    }

    #[inline(never)]
    fn make_room_for(&mut self, line: &[u8]) -> Option<Place> {
        let held = self.held_with_rows(self.rows_and_one_more());
        self.text.push(line, self.bytes_max.saturating_sub(held))
    }

    /// From here on the scrape has a list of its own.
    fn part(&mut self) {
        self.differs = true;
        self.next.extend(&self.last, 0..self.expected);
    }

    #[inline]
    fn has_room_for_row(&self) -> bool {
        self.differs && self.next.len() < self.next.capacity() || self.can_make_room_for_row()
    }

    #[inline(never)]
    fn can_make_room_for_row(&self) -> bool {
        self.held_with_rows(self.rows_and_one_more()) <= self.bytes_max
    }

    fn rows_and_one_more(&self) -> usize {
        let rows = if self.differs {
            self.next.len()
        } else {
            self.expected
        };
        Rows::<Entry<Id>>::capacity_for(rows + 1).max(self.last.capacity())
    }

    /// Bytes of the texts, and of two lists of so many rows with an index. Room for a second list
    /// is left always, so that a page that differs does not lose its place for want of it.
    fn held_with_rows(&self, rows: usize) -> usize {
        let index = Index::bytes_for(rows).max(self.index.held_bytes());
        // While the first piece of a list grows there are two of it.
        let lists = 2 * rows + rows.min(ROWS) / 2;
        self.text.chunk_bytes() + lists * size_of::<Entry<Id>>() + index
    }

    /// Ends the scrape: its lines are the last ones now.
    pub(crate) fn finish(&mut self) {
        let differs = std::mem::take(&mut self.differs);
        let came = std::mem::take(&mut self.expected);
        if differs {
            self.last = std::mem::take(&mut self.next);
        } else if came < self.last.len() {
            self.last.truncate(came);
        } else {
            return;
        }
        self.indexed = false;
        if self.index.held_bytes() > Index::bytes_for(self.last.len()) {
            self.index.clear();
        }
        self.sweep();
    }

    /// Gives back the texts of lines that are no longer remembered.
    fn sweep(&mut self) {
        self.text.begin_count();
        for entry in self.last.iter() {
            self.text.uses(entry.text);
        }
        let moving = self.text.end_count();
        if moving == 0 {
            return;
        }
        if self.held_bytes() + 2 * moving > self.bytes_max {
            // No room to move them: the next page is read in full.
            self.clear();
            return;
        }
        for entry in self.last.iter_mut() {
            self.text.move_out(&mut entry.text);
        }
        self.text.end_move();
    }

    /// Gives the scrape up. The lines of the last finished one are still there.
    pub(crate) fn abandon(&mut self) {
        self.expected = 0;
        if std::mem::take(&mut self.differs) {
            self.next = Rows::default();
            self.text.begin_count();
            for entry in self.last.iter() {
                self.text.uses(entry.text);
            }
            self.text.end_count();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self {
            bytes_max: self.bytes_max,
            ..Self::new(0)
        };
    }

    /// Families have other ids now.
    pub(crate) fn rename_families(&mut self, renamed: impl Fn(FamilyId) -> FamilyId) {
        for entry in self.last.iter_mut() {
            if let What::Metadata(family, _) = &mut entry.what {
                *family = renamed(*family);
            }
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.text.held_bytes()
            + self.last.held_bytes()
            + self.next.held_bytes()
            + self.index.held_bytes()
    }
}
