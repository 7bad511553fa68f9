//! Ranges of bytes on a line.

/// A range of a line, without quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The range contains escapes that are still to be resolved.
    pub(crate) escaped: bool,
}

impl Span {
    /// Creates a range without escapes.
    pub(crate) fn plain(start: usize, end: usize) -> Self {
        Self {
            start,
            end,
            escaped: false,
        }
    }

    pub(crate) fn len(self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// A label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSpan {
    pub(crate) name: Span,
    pub(crate) value: Span,
    /// The start of the label on its line.
    pub(crate) at: usize,
}
