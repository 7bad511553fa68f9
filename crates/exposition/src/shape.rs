//! Fast parsing of lines that differ only in label values.
//!
//! The samples of a family are adjacent, and their lines differ only in label values. A shape is the
//! structure of one such line as the grammar found it. The next line is compared with the shape, and
//! only the ends of the label values are searched for. A line that does not match, or has an escape,
//! is left to the grammar, so a shape never decides that a line is wrong.

use crate::{
    families::FamilyLookup,
    grammar::{is_blank, plain_end},
    limits::Limits,
    span::{LabelSpan, Span},
};

/// The number of shapes that are kept: a histogram has three, and one more is for its neighbour.
const SHAPES: usize = 4;

/// The limits on labels, and on bytes besides label values, of a line with a shape.
const LABELS_MAX: usize = 32;
const BYTES_MAX: usize = 1 << 10;

/// The most recent shapes.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    all: Vec<Shape>,
    /// The shape that matched last.
    current: usize,
    /// The shape that is replaced next.
    oldest: usize,
}

#[derive(Debug, Default)]
struct Shape {
    name: Span,
    /// The bytes before the first label value.
    prefix: Vec<u8>,
    labels: Vec<Label>,
    /// The separators behind all label values.
    text: Vec<u8>,
    family: FamilyLookup,
}

/// A label. Labels are in the order of the line.
#[derive(Clone, Copy, Debug)]
struct Label {
    /// The position of the label among those sorted by name.
    rank: u32,
    /// The distance from the start of its name to the start of its value.
    name_start: u32,
    /// The distance from the end of its name to the start of its value.
    name_end: u32,
    /// The bytes between its value and the next one, or the sample's value.
    separator: Separator,
}

impl Shapes {
    /// Parses name and labels if the bytes begin with a line of a known shape. The labels replace
    /// those in `labels`, sorted by name. Returns the metric's name and the start of the value.
    #[inline]
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        labels: &mut Vec<LabelSpan>,
    ) -> Option<(Span, usize)> {
        let current = self.all.get(self.current)?;
        if let Some(value_at) = current.read(bytes, limits, labels) {
            return Some((current.name, value_at));
        }
        self.read_other(bytes, limits, labels)
    }

    fn read_other(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        labels: &mut Vec<LabelSpan>,
    ) -> Option<(Span, usize)> {
        for (number, shape) in self.all.iter().enumerate() {
            if number != self.current
                && let Some(value_at) = shape.read(bytes, limits, labels)
            {
                self.current = number;
                return Some((shape.name, value_at));
            }
        }
        None
    }

    /// Makes a shape of a line without escapes. The labels are sorted by name. Returns false if the
    /// line cannot have a shape.
    pub(crate) fn learn(
        &mut self,
        line: &[u8],
        name: Span,
        labels: &[LabelSpan],
        value_at: usize,
    ) -> bool {
        let values: usize = labels.iter().map(|label| label.value.len()).sum();
        let first = labels.iter().map(|label| label.at).min();
        if labels.len() > LABELS_MAX
            || value_at - values > BYTES_MAX
            // A quoted name behind a label has no fixed position.
            || first.is_none_or(|first| first < name.end)
        {
            return false;
        }
        if self.all.len() < SHAPES {
            self.all.push(Shape::default());
            self.oldest = self.all.len() - 1;
        }
        self.current = self.oldest;
        self.oldest = (self.oldest + 1) % SHAPES;
        if let Some(shape) = self.all.get_mut(self.current) {
            shape.replace(line, name, labels, value_at);
        }
        true
    }

    /// Returns the family that was set for the line that was parsed or learned last.
    pub(crate) fn family(&self) -> FamilyLookup {
        let current = self.all.get(self.current);
        current.map_or(FamilyLookup::default(), |shape| shape.family)
    }

    pub(crate) fn set_family(&mut self, family: FamilyLookup) {
        if let Some(current) = self.all.get_mut(self.current) {
            current.family = family;
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        let of_each = self.all.iter().map(|shape| {
            shape.prefix.capacity()
                + shape.text.capacity()
                + shape.labels.capacity() * size_of::<Label>()
        });
        self.all.capacity() * size_of::<Shape>() + of_each.sum::<usize>()
    }
}

impl Shape {
    #[inline]
    fn read(&self, bytes: &[u8], limits: &Limits, labels: &mut Vec<LabelSpan>) -> Option<usize> {
        let mut at = behind(bytes, 0, &self.prefix)?;
        // Only if the number differs: each label is overwritten below.
        if labels.len() != self.labels.len() {
            labels.resize(self.labels.len(), LabelSpan::default());
        }
        for label in &self.labels {
            let end = plain_end(bytes, at)?;
            if end - at > limits.label_value_bytes {
                return None;
            }
            *labels.get_mut(label.rank as usize)? = LabelSpan {
                name: Span::plain(at - label.name_start as usize, at - label.name_end as usize),
                value: Span::plain(at, end),
                // Only faults refer to it, and a line of this shape has none in its labels.
                at,
            };
            at = label.separator.behind(bytes, end, &self.text)?;
        }
        // Further blanks and a missing value are left to the grammar, which finds the fault.
        let value = *bytes.get(at)?;
        (!is_blank(value) && value != b'\n').then_some(at)
    }

    fn replace(&mut self, line: &[u8], name: Span, labels: &[LabelSpan], value_at: usize) {
        self.name = name;
        // The lookup was for the name that the shape had before.
        self.family = FamilyLookup::default();
        self.prefix.clear();
        self.text.clear();
        self.labels.clear();
        self.labels
            .extend(labels.iter().enumerate().map(|(rank, label)| Label {
                rank: rank as u32,
                name_start: (label.value.start - label.name.start) as u32,
                name_end: (label.value.start - label.name.end) as u32,
                separator: Separator::default(),
            }));
        self.labels
            .sort_unstable_by_key(|label| labels[label.rank as usize].at);
        for number in 0..self.labels.len() {
            let value = |label: &Label| labels[label.rank as usize].value;
            let this = value(&self.labels[number]);
            if number == 0 {
                self.prefix.extend_from_slice(&line[..this.start]);
            }
            let next = self.labels.get(number + 1).map(value);
            let next = next.map_or(value_at, |next| next.start);
            self.labels[number].separator = Separator::new(&line[this.end..next], &mut self.text);
        }
    }
}

/// The bytes between a label value and the next value.
#[derive(Clone, Copy, Debug, Default)]
struct Separator {
    /// The first bytes, padded with zeros.
    word: u128,
    /// Ones for the bytes that `word` has.
    mask: u128,
    /// The range of all bytes in the shape's text.
    start: u32,
    end: u32,
}

const WORD: usize = size_of::<u128>();

impl Separator {
    fn new(bytes: &[u8], text: &mut Vec<u8>) -> Self {
        let start = text.len();
        text.extend_from_slice(bytes);
        let (mut word, mut mask) = ([0; WORD], [0; WORD]);
        for (at, byte) in bytes.iter().take(WORD).enumerate() {
            word[at] = *byte;
            mask[at] = u8::MAX;
        }
        Self {
            word: u128::from_le_bytes(word),
            mask: u128::from_le_bytes(mask),
            start: start as u32,
            end: text.len() as u32,
        }
    }

    /// Returns the position behind the separator if the bytes at `at` are equal to it. Most
    /// separators fit one word, and comparing words is faster than calling `memcmp`.
    #[inline]
    fn behind(&self, bytes: &[u8], at: usize, text: &[u8]) -> Option<usize> {
        let length = (self.end - self.start) as usize;
        if let Some(there) = bytes.get(at..)?.first_chunk::<WORD>() {
            let difference = (u128::from_le_bytes(*there) ^ self.word) & self.mask;
            if difference != 0 {
                return None;
            }
            if length <= WORD {
                return Some(at + length);
            }
        }
        behind(bytes, at, text.get(self.start as usize..self.end as usize)?)
    }
}

/// Returns the position behind `expected` if the bytes at `at` are equal to it. The last bytes are
/// compared first, because metric names share their beginnings.
#[inline]
fn behind(bytes: &[u8], at: usize, expected: &[u8]) -> Option<usize> {
    let end = at + expected.len();
    let there = bytes.get(at..end)?;
    (there.last_chunk::<8>() == expected.last_chunk::<8>() && there == expected).then_some(end)
}
