//! Lines that differ only in their labels' values.
//!
//! The samples of a family stand together, and everything but the values of their labels is the
//! same on all of their lines. A shape is what one such line was found to be by the grammar; the
//! next line is compared with it piece by piece, and only the ends of the values are looked for.
//! Whatever does not fit, or has an escape, is left to the grammar.

use crate::{
    families::Answer,
    grammar::{LabelSpan, Span, is_blank, plain_end},
    limits::Limits,
};

/// Shapes that are kept: those of a histogram, and one more.
const SHAPES: usize = 4;

/// A line with more of either has no shape.
const LABELS_MAX: usize = 32;
const BYTES_MAX: usize = 1 << 10;

/// The last few shapes.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    all: Vec<Shape>,
    /// The one that fitted last.
    current: usize,
    /// The one that is replaced next.
    oldest: usize,
}

#[derive(Debug, Default)]
struct Shape {
    name: Span,
    /// What stands before the first value.
    first: Vec<u8>,
    labels: Vec<Label>,
    /// What stands behind each value.
    text: Vec<u8>,
    /// The family of its samples.
    answer: Answer,
}

/// A label, in the order of the line.
#[derive(Clone, Copy, Debug)]
struct Label {
    /// How many labels have a lesser name.
    rank: u32,
    /// How far before its value its name begins, and ends.
    name_start: u32,
    name_end: u32,
    /// What stands between its value and the next one, or the sample's.
    piece: Piece,
}

impl Shapes {
    /// Reads name and labels, if a line that has one of the shapes begins the bytes. The labels are
    /// put into `labels` in the order of their names. Returns the metric's name, and where the value
    /// begins.
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
        self.read_as_another(bytes, limits, labels)
    }

    fn read_as_another(
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

    /// Makes a shape of a line without escapes: its name, its labels in the order of their names,
    /// and where its value begins.
    /// Returns whether there is one.
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
            shape.become_that_of(line, name, labels, value_at);
        }
        true
    }

    /// What the families answered to the name of the line that was read or learned last.
    pub(crate) fn answer(&self) -> Answer {
        let current = self.all.get(self.current);
        current.map_or(Answer::default(), |shape| shape.answer)
    }

    pub(crate) fn keep_answer(&mut self, answer: Answer) {
        if let Some(current) = self.all.get_mut(self.current) {
            current.answer = answer;
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        let of_each = self.all.iter().map(|shape| {
            shape.first.capacity()
                + shape.text.capacity()
                + shape.labels.capacity() * size_of::<Label>()
        });
        self.all.capacity() * size_of::<Shape>() + of_each.sum::<usize>()
    }
}

impl Shape {
    #[inline]
    fn read(&self, bytes: &[u8], limits: &Limits, labels: &mut Vec<LabelSpan>) -> Option<usize> {
        let mut at = behind(bytes, 0, &self.first)?;
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
                // Only a fault would show it, and a line of this shape has none here.
                at,
            };
            at = label.piece.behind(bytes, end, &self.text)?;
        }
        let value = *bytes.get(at)?;
        (!is_blank(value) && value != b'\n').then_some(at)
    }

    fn become_that_of(&mut self, line: &[u8], name: Span, labels: &[LabelSpan], value_at: usize) {
        self.name = name;
        self.answer = Answer::default();
        self.first.clear();
        self.text.clear();
        self.labels.clear();
        self.labels
            .extend(labels.iter().enumerate().map(|(rank, label)| Label {
                rank: rank as u32,
                name_start: (label.value.start - label.name.start) as u32,
                name_end: (label.value.start - label.name.end) as u32,
                piece: Piece::default(),
            }));
        self.labels
            .sort_unstable_by_key(|label| labels[label.rank as usize].at);
        for number in 0..self.labels.len() {
            let value = |label: &Label| labels[label.rank as usize].value;
            let this = value(&self.labels[number]);
            if number == 0 {
                self.first.extend_from_slice(&line[..this.start]);
            }
            let next = self.labels.get(number + 1).map(value);
            let next = next.map_or(value_at, |next| next.start);
            self.labels[number].piece = Piece::new(&line[this.end..next], &mut self.text);
        }
    }
}

/// What stands between a value and the next one.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    /// Its first bytes, as many as there are, and ones where they are.
    word: u128,
    mask: u128,
    /// All of its bytes.
    start: u32,
    end: u32,
}

const WORD: usize = size_of::<u128>();

impl Piece {
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

    /// Behind it, if it is what stands there. It is mostly short; a call to compare costs more.
    #[inline]
    fn behind(&self, bytes: &[u8], at: usize, text: &[u8]) -> Option<usize> {
        let length = (self.end - self.start) as usize;
        if let Some(there) = bytes.get(at..)?.first_chunk::<WORD>() {
            let differs = (u128::from_le_bytes(*there) ^ self.word) & self.mask;
            if differs != 0 {
                return None;
            }
            if length <= WORD {
                return Some(at + length);
            }
        }
        behind(bytes, at, text.get(self.start as usize..self.end as usize)?)
    }
}

/// Behind a piece, if it is what stands there. Names differ at their ends.
#[inline]
fn behind(bytes: &[u8], at: usize, piece: &[u8]) -> Option<usize> {
    let end = at + piece.len();
    let there = bytes.get(at..end)?;
    (there.last_chunk::<8>() == piece.last_chunk::<8>() && there == piece).then_some(end)
}
