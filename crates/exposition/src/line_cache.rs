//! The lines that a parser remembers from one scrape to the next.

use std::ops::Range;

use crate::{
    families::FamilyId,
    index::{self, Index},
    layout::{Layout, LineKind, Size},
};

/// The lines of the last finished scrape, and those of the current one once it differs.
///
/// ```text
///           the page equals the last one so far    from the first difference on
/// last      compared line by line                  searched by position, then by hash
/// next      none                                   the lines of the current scrape
/// finish    nothing changes                        `next` becomes `last`
/// abandon   nothing changes                        `next` is dropped
/// ```
///
/// Nothing is written while the page equals the last one.
#[derive(Debug)]
pub(crate) struct LineCache<Id> {
    /// The most bytes of memory for all of it.
    bytes_max: usize,
    last: Layout<Id>,
    next: Option<Layout<Id>>,
    /// The line of `last` that is expected next. Without `next`, it is also the number of lines
    /// that the current scrape has.
    expected: usize,
    /// Finds lines of `last`. It is built when the first line is not where it is expected.
    index: Index,
    indexed: bool,
}

impl<Id: Copy> LineCache<Id> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            last: Layout::default(),
            next: None,
            expected: 0,
            index: Index::default(),
            indexed: false,
        }
    }

    /// Returns true if the last finished scrape left no lines.
    pub(crate) fn is_empty(&self) -> bool {
        self.last.len() == 0
    }

    pub(crate) fn expected(&self) -> usize {
        self.expected
    }

    /// Returns the lines that are expected next.
    #[inline]
    pub(crate) fn expected_lines(&self) -> impl Iterator<Item = (&[u8], LineKind<Id>)> {
        self.last.lines_from(self.expected)
    }

    /// Returns a line of the last scrape.
    pub(crate) fn get(&self, line: usize) -> Option<(&[u8], LineKind<Id>)> {
        self.last.get(line)
    }

    /// Finds the line with exactly these bytes in the last scrape.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        if !self.indexed {
            self.build_index();
        }
        let mut candidates = self.index.candidates(index::hash(bytes));
        let found = candidates.find(|line| {
            let line = self.last.get(*line as usize);
            line.is_some_and(|(known, _)| known == bytes)
        });
        found.map(|line| line as usize)
    }

    fn build_index(&mut self) {
        self.index.reset(self.last.len());
        for (number, (line, _)) in (0..).zip(self.last.lines_from(0)) {
            self.index.insert(index::hash(line), number);
        }
        self.indexed = true;
    }

    /// Notes that the next `count` expected lines arrived.
    pub(crate) fn matched_expected(&mut self, count: usize) {
        let matched = self.expected..self.expected + count;
        self.expected = matched.end;
        self.keep(matched);
    }

    /// Notes that a line of the last scrape arrived.
    pub(crate) fn matched(&mut self, line: usize) {
        if self.next.is_none() && line != self.expected {
            self.diverge();
        }
        self.expected = line + 1;
        self.keep(line..line + 1);
    }

    /// Copies lines of the last scrape to the current one, if that has a layout of its own.
    fn keep(&mut self, lines: Range<usize>) {
        if self.next.is_none() || lines.is_empty() {
            return;
        }
        let fits = self.make_room(self.last.size_of(lines.clone()));
        if let Some(next) = &mut self.next
            && fits
        {
            next.extend(&self.last, lines);
        } else if lines.len() > 1 {
            // At the limit, as many of them are kept as fit.
            lines.for_each(|line| self.keep(line..line + 1));
        }
    }

    /// Remembers a line that the last scrape did not have, if there is memory for it.
    #[inline]
    pub(crate) fn add(&mut self, line: &[u8], kind: LineKind<Id>) {
        let size = Size {
            text: line.len(),
            lines: 1,
        };
        if self.next.is_none() {
            // A page beyond the limit must not be copied at each scrape for a line that is not
            // kept in the end.
            let so_far = self.last.size_of(0..self.expected);
            if !self.fits(so_far.plus(size)) {
                return;
            }
            self.diverge();
        }
        if self.make_room(size)
            && let Some(next) = &mut self.next
        {
            next.push(line, kind);
        }
    }

    /// Begins a layout for the current scrape with the lines that it has so far. There is memory
    /// for it, because [`fits`](Self::fits) admits only layouts that fit twice.
    fn diverge(&mut self) {
        let mut next = Layout::with_capacity(self.last.size());
        next.extend(&self.last, 0..self.expected);
        self.next = Some(next);
    }

    /// Returns true if the current scrape's layout has capacity for more lines, after growing it
    /// if need be.
    #[inline]
    fn make_room(&mut self, more: Size) -> bool {
        let Some(next) = &self.next else {
            return false;
        };
        let (needed, capacity) = (next.size().plus(more), next.capacity());
        needed.text <= capacity.text && needed.lines <= capacity.lines || self.grow(needed)
    }

    #[inline(never)]
    fn grow(&mut self, needed: Size) -> bool {
        let held = self.held_bytes_with_index();
        let Some(next) = &self.next else {
            return false;
        };
        let has = next.capacity();
        // Half as much again, or an eighth if that is too much. A smaller step would copy the
        // layout every few lines of a page at the limit.
        for part in [2, 8] {
            // A vector that grows exists twice until its content is copied.
            let (mut capacity, mut new) = (has, Size::default());
            if needed.text > has.text {
                capacity.text = needed.text + (needed.text / part).max(TEXT_MIN);
                new.text = capacity.text;
            }
            if needed.lines > has.lines {
                capacity.lines = needed.lines + (needed.lines / part).max(LINES_MIN);
                new.lines = capacity.lines;
            }
            if self.fits(capacity)
                && held + new.bytes::<Id>() <= self.bytes_max
                && let Some(next) = &mut self.next
            {
                next.grow_to(capacity);
                return true;
            }
        }
        false
    }

    /// Returns true if memory suffices for a layout, its index and a second layout of that size.
    /// Without space for the second one, a page that differs would lose all remembered lines.
    fn fits(&self, layout: Size) -> bool {
        // The ends of lines are stored in 32 bits.
        let held = 2 * layout.bytes::<Id>() + Index::bytes_for(layout.lines);
        held <= self.bytes_max && u32::try_from(layout.text).is_ok()
    }

    /// Ends the scrape: its lines are the last ones now.
    pub(crate) fn finish(&mut self) {
        let arrived = std::mem::take(&mut self.expected);
        if let Some(next) = self.next.take() {
            self.last = next;
        } else if arrived < self.last.len() {
            self.last.truncate(arrived);
        } else {
            return;
        }
        self.last.shrink_to_fit();
        self.indexed = false;
        if self.index.held_bytes() > Index::bytes_for(self.last.len()) {
            self.index.clear();
        }
    }

    /// Gives up the current scrape and keeps the lines of the last finished one.
    pub(crate) fn abandon(&mut self) {
        self.expected = 0;
        self.next = None;
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Replaces the ids of families.
    pub(crate) fn renumber_families(&mut self, new_id: impl Fn(FamilyId) -> FamilyId) {
        self.last.renumber_families(new_id);
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.layout_bytes() + self.index.held_bytes()
    }

    /// Returns the bytes held, plus those of the index if it is still to be built.
    fn held_bytes_with_index(&self) -> usize {
        let index = Index::bytes_for(self.last.len());
        self.layout_bytes() + index.max(self.index.held_bytes())
    }

    fn layout_bytes(&self) -> usize {
        self.last.held_bytes() + self.next.as_ref().map_or(0, Layout::held_bytes)
    }
}

/// The least growth of a layout.
const TEXT_MIN: usize = 256;
const LINES_MIN: usize = 16;
