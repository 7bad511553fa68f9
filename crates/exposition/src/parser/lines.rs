//! Splitting a piece of a page into lines.

use memchr::memchr;

use crate::{
    fault::Reason,
    grammar::{Fault, Parsed},
};

/// Whole lines, each with its line feed.
///
/// UTF-8 is checked once for all of them, when the text of one is first asked for: most repeated
/// pages never need it, and one long check is faster than many short ones.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    /// The start of the line that was taken last.
    line: usize,
    /// The start of the next line.
    next: usize,
    /// Valid text and its start.
    text: Option<(usize, &'a str)>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            line: 0,
            next: 0,
            text: None,
        }
    }

    /// Returns the lines that were not taken.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.next..]
    }

    /// Takes this many bytes, which must be whole lines.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.next += bytes;
    }

    /// Takes a line and returns it without its line feed.
    pub(super) fn take(&mut self) -> Option<&'a [u8]> {
        let length = memchr(b'\n', self.rest())?;
        self.line = self.next;
        self.next += length + 1;
        Some(&self.bytes[self.line..self.line + length])
    }

    /// Returns the first bytes of the line that was taken last, as text.
    pub(super) fn text(&mut self, length: usize) -> Parsed<&'a str> {
        let line = self.line..self.line + length;
        let (from, text) = *self
            .text
            // From this line on: those before it were read without their text.
            .get_or_insert_with(|| (line.start, valid_prefix(&self.bytes[line.start..])));
        if let Some(text) = text.get(line.start - from..line.end - from) {
            return Ok(text);
        }
        // Behind an invalid byte each line is checked alone, so that only its own line is rejected.
        checked(&self.bytes[line])
    }
}

#[inline(never)]
fn checked(line: &[u8]) -> Parsed<&str> {
    std::str::from_utf8(line).map_err(|error| Fault {
        at: error.valid_up_to(),
        reason: Reason::InvalidUtf8,
    })
}

fn valid_prefix(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}
