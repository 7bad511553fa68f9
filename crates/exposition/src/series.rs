//! Name and labels of a line, with escapes resolved.

use crate::{
    fault::Reason,
    grammar::{self, Parsed, fault, unescape},
    limits::Limits,
    sink::Labels,
    span::{LabelSpan, Span},
};

/// The label in which Prometheus stores the metric's name.
const NAME_LABEL: &[u8] = b"__name__";

/// The capacity for unescaped text that is kept between scrapes.
const UNESCAPED_KEPT: usize = 4 << 10;

/// Name and labels of the current line. They are ranges of the line itself, or of `unescaped` if the
/// line has escapes, which is rare.
#[derive(Debug, Default)]
pub(crate) struct Series {
    name: Span,
    labels: Vec<LabelSpan>,
    /// Name and labels one behind the other, if any of them has escapes.
    unescaped: String,
}

impl Series {
    /// Parses name and labels and returns the start of the value. Escapes are not yet resolved.
    pub(crate) fn read(&mut self, line: &[u8], limits: &Limits) -> Parsed<usize> {
        self.unescaped.clear();
        let (name, value_at) = grammar::head(line, limits, &mut self.labels)?;
        self.name = name;
        Ok(value_at)
    }

    /// Resolves escapes, sorts the labels and drops the empty ones.
    pub(crate) fn resolve(&mut self, line: &str) -> Parsed<()> {
        if self.name.is_empty() {
            return fault(self.name.start, Reason::InvalidName);
        }
        let escaped = |label: &LabelSpan| label.name.escaped || label.value.escaped;
        if self.name.escaped || self.labels.iter().any(escaped) {
            self.unescape(line);
        }
        let text = text(&self.unescaped, line).as_bytes();
        let name = |label: &LabelSpan| &text[label.name.start..label.name.end];
        let in_order = self
            .labels
            .windows(2)
            .all(|pair| name(&pair[0]) < name(&pair[1]));
        if !in_order {
            self.labels
                .sort_unstable_by(|a, b| name(a).cmp(name(b)).then(a.at.cmp(&b.at)));
        }
        // Equal names are neighbours now, in the order of the line, so the second one is the fault.
        let mut pairs = self.labels.windows(2);
        let duplicate = pairs.find(|pair| !in_order && name(&pair[0]) == name(&pair[1]));
        let reserved = self.labels.iter().find(|label| name(label) == NAME_LABEL);
        // The whole line is refused: nothing says which of the two values is right.
        if let Some(label) = duplicate.map(|pair| &pair[1]).or(reserved) {
            return fault(label.at, Reason::DuplicateLabel);
        }
        // Prometheus treats an empty label as a missing one.
        let empty = |label: &LabelSpan| label.value.is_empty();
        if self.labels.iter().any(empty) {
            self.labels.retain(|label| !empty(label));
        }
        Ok(())
    }

    fn unescape(&mut self, line: &str) {
        if self.unescaped.capacity() < line.len() {
            // The old buffer is freed before the new one is allocated, so that there is only one.
            self.unescaped = String::new();
            self.unescaped.reserve_exact(line.len());
        }
        let unescaped = &mut self.unescaped;
        let mut resolve = |span: &mut Span| {
            let start = unescaped.len();
            unescape(&line[span.start..span.end], true, unescaped);
            *span = Span::plain(start, unescaped.len());
        };
        resolve(&mut self.name);
        for label in &mut self.labels {
            resolve(&mut label.name);
            resolve(&mut label.value);
        }
    }

    /// Returns the metric's name. The line must be resolved.
    pub(crate) fn name<'a>(&'a self, line: &'a str) -> &'a str {
        &text(&self.unescaped, line)[self.name.start..self.name.end]
    }

    /// Returns the labels. The line must be resolved.
    pub(crate) fn labels<'a>(&'a self, line: &'a str) -> Labels<'a> {
        Labels::new(text(&self.unescaped, line), &self.labels)
    }

    /// Frees a buffer that a long line has grown.
    pub(crate) fn fit(&mut self) {
        if self.unescaped.capacity() > UNESCAPED_KEPT {
            self.unescaped = String::new();
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.labels.capacity() * size_of::<LabelSpan>() + self.unescaped.capacity()
    }
}

/// Returns the text that the ranges refer to. A name is never empty, so unescaped text is not either.
fn text<'a>(unescaped: &'a str, line: &'a str) -> &'a str {
    if unescaped.is_empty() {
        line
    } else {
        unescaped
    }
}
