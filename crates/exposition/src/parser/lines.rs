//! Cutting a piece of a page into lines.

use memchr::memchr;

use crate::{
    fault::Reason,
    grammar::{Fault, Parsed},
};

/// Whole lines, of which each has its line feed. That they are text is found out once for all of
/// them, when it is first asked of any.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    /// Where the line that was taken last begins.
    line: usize,
    /// Where the next one begins.
    next: usize,
    /// Text, and where it begins.
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

    /// What has not been taken.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.next..]
    }

    /// Takes bytes, which are whole lines.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.next += bytes;
    }

    /// Takes a line; it is without its line feed.
    pub(super) fn take(&mut self) -> Option<&'a [u8]> {
        let length = memchr(b'\n', self.rest())?;
        self.take_of(length);
        Some(&self.bytes[self.line..self.line + length])
    }

    /// Takes a line of so many bytes and a line feed.
    #[inline]
    pub(super) fn take_of(&mut self, length: usize) {
        self.line = self.next;
        self.next += length + 1;
    }

    /// The first bytes of the line that was taken last, as text.
    pub(super) fn text(&mut self, length: usize) -> Parsed<&'a str> {
        self.text_of(self.line, length)
    }

    /// The first bytes of what was not taken, as text.
    #[inline]
    pub(super) fn next_text(&mut self, length: usize) -> Option<&'a str> {
        self.text_of(self.next, length).ok()
    }

    #[inline]
    fn text_of(&mut self, start: usize, length: usize) -> Parsed<&'a str> {
        let line = start..start + length;
        let (from, text) = *self
            .text
            .get_or_insert_with(|| (line.start, valid_beginning(&self.bytes[line.start..])));
        if let Some(text) = text.get(line.start - from..line.end - from) {
            return Ok(text);
        }
        checked(&self.bytes[line])
    }
}

#[inline(never)]
fn checked(line: &[u8]) -> Parsed<&str> {
    std::str::from_utf8(line).map_err(|wrong| Fault {
        at: wrong.valid_up_to(),
        reason: Reason::InvalidUtf8,
    })
}

fn valid_beginning(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(wrong) => std::str::from_utf8(&bytes[..wrong.valid_up_to()]).unwrap_or_default(),
    }
}
