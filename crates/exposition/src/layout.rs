//! The accepted lines of one page without their values.

use std::ops::Range;

use crate::families::{FamilyId, Field};

/// The accepted lines of one page, in order. For a sample, the line's bytes before its value are
/// kept; for a statement on a family or a comment, the whole line.
#[derive(Debug)]
pub(crate) struct Layout<Id> {
    /// The lines, one behind the other.
    text: Vec<u8>,
    entries: Vec<Entry<Id>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry<Id> {
    /// The end of the line in the text. It starts where the previous one ends.
    end: u32,
    kind: LineKind<Id>,
}

/// The meaning of a remembered line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LineKind<Id> {
    /// A sample of the series.
    Sample(Id),
    /// A statement on a field of a family.
    Metadata(FamilyId, Field),
    /// A comment.
    Comment,
}

/// Bytes of text and number of lines.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    pub(crate) text: usize,
    pub(crate) lines: usize,
}

impl Size {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            text: self.text + other.text,
            lines: self.lines + other.lines,
        }
    }

    /// Returns the bytes of memory that a layout of this capacity holds.
    pub(crate) fn bytes<Id>(self) -> usize {
        self.text + self.lines * size_of::<Entry<Id>>()
    }
}

impl<Id> Default for Layout<Id> {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            entries: Vec::new(),
        }
    }
}

impl<Id: Copy> Layout<Id> {
    pub(crate) fn with_capacity(size: Size) -> Self {
        Self {
            text: Vec::with_capacity(size.text),
            entries: Vec::with_capacity(size.lines),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn size(&self) -> Size {
        self.size_of(0..self.len())
    }

    pub(crate) fn size_of(&self, lines: Range<usize>) -> Size {
        Size {
            text: self.start(lines.end) - self.start(lines.start),
            lines: lines.len(),
        }
    }

    pub(crate) fn capacity(&self) -> Size {
        Size {
            text: self.text.capacity(),
            lines: self.entries.capacity(),
        }
    }

    pub(crate) fn get(&self, line: usize) -> Option<(&[u8], LineKind<Id>)> {
        let entry = self.entries.get(line)?;
        Some((&self.text[self.start(line)..entry.end as usize], entry.kind))
    }

    /// Returns the lines from `first` on.
    #[inline]
    pub(crate) fn lines_from(&self, first: usize) -> impl Iterator<Item = (&[u8], LineKind<Id>)> {
        let mut start = self.start(first);
        let entries = self.entries.get(first..).unwrap_or_default();
        entries.iter().map(move |entry| {
            let end = entry.end as usize;
            let line = &self.text[start..end];
            start = end;
            (line, entry.kind)
        })
    }

    pub(crate) fn push(&mut self, line: &[u8], kind: LineKind<Id>) {
        self.text.extend_from_slice(line);
        let end = self.text.len() as u32;
        self.entries.push(Entry { end, kind });
    }

    /// Appends lines of another layout.
    pub(crate) fn extend(&mut self, other: &Self, lines: Range<usize>) {
        let (start, end) = (other.start(lines.start), other.start(lines.end));
        let moved = self.text.len();
        self.text.extend_from_slice(&other.text[start..end]);
        let entries = other.entries[lines].iter().map(|entry| Entry {
            end: (entry.end as usize - start + moved) as u32,
            ..*entry
        });
        self.entries.extend(entries);
    }

    /// Makes the capacity exactly this large, if it is smaller.
    pub(crate) fn grow_to(&mut self, capacity: Size) {
        let (text, lines) = (self.text.len(), self.entries.len());
        self.text.reserve_exact(capacity.text - text);
        self.entries.reserve_exact(capacity.lines - lines);
    }

    /// Keeps the first lines.
    pub(crate) fn truncate(&mut self, lines: usize) {
        self.text.truncate(self.start(lines));
        self.entries.truncate(lines);
    }

    pub(crate) fn shrink_to_fit(&mut self) {
        self.text.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// Replaces the ids of families.
    pub(crate) fn renumber_families(&mut self, new_id: impl Fn(FamilyId) -> FamilyId) {
        for entry in &mut self.entries {
            if let LineKind::Metadata(family, _) = &mut entry.kind {
                *family = new_id(*family);
            }
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.capacity().bytes::<Id>()
    }

    fn start(&self, line: usize) -> usize {
        match line {
            0 => 0,
            _ => self
                .entries
                .get(line - 1)
                .map_or(self.text.len(), |entry| entry.end as usize),
        }
    }
}
