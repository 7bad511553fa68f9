//! Name and labels of a line, resolved.

use crate::{
    families::Answer,
    fault::Reason,
    grammar::{self, Fault, LabelSpan, Parsed, Span, unescape},
    limits::Limits,
    shape::Shapes,
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
    shapes: Shapes,
    /// Whether the line has one of the shapes; its labels are in order then.
    shaped: bool,
    value_at: usize,
}

impl Series {
    /// Reads name and labels, if the bytes begin with a line of a shape that is known, and returns
    /// where the value begins.
    #[inline]
    pub(crate) fn read_shaped(&mut self, bytes: &[u8], limits: &Limits) -> Option<usize> {
        self.resolved.clear();
        let (name, value_at) = self.shapes.read(bytes, limits, &mut self.labels)?;
        (self.name, self.value_at, self.shaped) = (name, value_at, true);
        Some(value_at)
    }

    /// Reads name and labels as they are written, and returns where the value begins.
    pub(crate) fn read(&mut self, line: &[u8], limits: &Limits) -> Parsed<usize> {
        if let Some(value_at) = self.read_shaped(line, limits) {
            return Ok(value_at);
        }
        let head = grammar::head(line, limits, &mut self.labels)?;
        (self.name, self.value_at, self.shaped) = (head.name, head.value_at, false);
        Ok(head.value_at)
    }

    /// Resolves escapes, sorts the labels, and drops the empty ones.
    #[inline]
    pub(crate) fn resolve(&mut self, line: &str) -> Parsed<()> {
        if !self.shaped {
            self.order(line)?;
        }
        let empty = |label: &LabelSpan| label.value.start == label.value.end;
        if self.labels.iter().any(empty) {
            self.labels.retain(|label| !empty(label));
        }
        Ok(())
    }

    /// Resolves escapes and sorts the labels. Other lines may have the shape of this one.
    fn order(&mut self, line: &str) -> Parsed<()> {
        if self.name.start == self.name.end {
            return Err(Fault {
                at: self.name.start,
                reason: Reason::InvalidName,
            });
        }
        let escaped = |label: &LabelSpan| label.name.escaped || label.value.escaped;
        let escaped = self.name.escaped || self.labels.iter().any(escaped);
        if escaped {
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
        if !escaped && !self.labels.is_empty() {
            let (shapes, labels) = (&mut self.shapes, &self.labels);
            self.shaped = shapes.learn(text, self.name, labels, self.value_at);
        }
        Ok(())
    }

    fn unescape(&mut self, line: &str) {
        grammar::make_room(&mut self.resolved, line.len());
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

    /// What the families answered to the name of a line like this.
    pub(crate) fn answer(&self) -> Answer {
        if self.shaped {
            self.shapes.answer()
        } else {
            Answer::default()
        }
    }

    pub(crate) fn keep_answer(&mut self, answer: Answer) {
        if self.shaped {
            self.shapes.keep_answer(answer);
        }
    }

    /// Gives back what a long line took.
    pub(crate) fn fit(&mut self) {
        grammar::give_back(&mut self.resolved);
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.labels.capacity() * size_of::<LabelSpan>()
            + self.resolved.capacity()
            + self.shapes.held_bytes()
    }
}

/// A name is never empty, so neither is what was resolved.
fn text<'a>(resolved: &'a str, line: &'a str) -> &'a str {
    if resolved.is_empty() { line } else { resolved }
}
