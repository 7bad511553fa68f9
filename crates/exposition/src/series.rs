//! Name and labels of a line, resolved.

use crate::{
    fault::Reason,
    grammar::{self, Fault, LabelSpan, Parsed, Span, unescape},
    limits::Limits,
    sink::Labels,
};

/// The name under which Prometheus keeps the metric's name among the labels.
const NAME_LABEL: &[u8] = b"__name__";

/// Room for name and labels of one line at a time. Nearly no line has escapes; they are then
/// places on the line itself, and nothing is copied.
#[derive(Debug, Default)]
pub(crate) struct Series {
    name: Span,
    labels: Vec<LabelSpan>,
    /// Name and labels one behind the other, if any of them had escapes.
    resolved: String,
}

impl Series {
    /// Reads name and labels as they are written, and returns where the value begins.
    pub(crate) fn read(&mut self, line: &[u8], limits: &Limits) -> Parsed<usize> {
        self.resolved.clear();
        let head = grammar::head(line, limits, &mut self.labels)?;
        self.name = head.name;
        Ok(head.value_at)
    }

    /// Resolves escapes, sorts the labels, and drops the empty ones.
    pub(crate) fn resolve(&mut self, line: &str) -> Parsed<()> {
        if self.name.start == self.name.end {
            return Err(Fault {
                at: self.name.start,
                reason: Reason::InvalidName,
            });
        }
        let escaped = |label: &LabelSpan| label.name.escaped || label.value.escaped;
        if self.name.escaped || self.labels.iter().any(escaped) {
            self.unescape(line);
        }
        let text = text(&self.resolved, line).as_bytes();
        let name = |label: &LabelSpan| &text[label.name.start..label.name.end];
        let in_order = self
            .labels
            .windows(2)
            .all(|pair| name(&pair[0]) < name(&pair[1]));
        if !in_order {
            self.labels
                .sort_unstable_by(|a, b| name(a).cmp(name(b)).then(a.at.cmp(&b.at)));
        }
        // Names that are equal are beside each other now; the later one is at fault.
        let mut pairs = self.labels.windows(2);
        let twice = pairs.find(|pair| name(&pair[0]) == name(&pair[1]));
        let reserved = self.labels.iter().find(|label| name(label) == NAME_LABEL);
        if let Some(label) = twice.map(|pair| &pair[1]).or(reserved) {
            return Err(Fault {
                at: label.at,
                reason: Reason::DuplicateLabel,
            });
        }
        self.labels
            .retain(|label| label.value.start < label.value.end);
        Ok(())
    }

    fn unescape(&mut self, line: &str) {
        let resolved = &mut self.resolved;
        let mut resolve = |span: &mut Span| {
            let start = resolved.len();
            unescape(&line[span.start..span.end], true, resolved);
            *span = Span {
                start,
                end: resolved.len(),
                escaped: false,
            };
        };
        resolve(&mut self.name);
        for label in &mut self.labels {
            resolve(&mut label.name);
            resolve(&mut label.value);
        }
    }

    /// The metric's name, of a line that was resolved.
    pub(crate) fn name<'a>(&'a self, line: &'a str) -> &'a str {
        &text(&self.resolved, line)[self.name.start..self.name.end]
    }

    /// The labels, of a line that was resolved.
    pub(crate) fn labels<'a>(&'a self, line: &'a str) -> Labels<'a> {
        Labels::new(text(&self.resolved, line), &self.labels)
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.labels.capacity() * size_of::<LabelSpan>() + self.resolved.capacity()
    }
}

/// A name is never empty, so neither is what was resolved.
fn text<'a>(resolved: &'a str, line: &'a str) -> &'a str {
    if resolved.is_empty() { line } else { resolved }
}
