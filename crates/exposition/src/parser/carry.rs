//! A line that arrives in pieces.

use crate::excerpt;

/// The beginning of a line whose rest has not arrived; of one that is too long, its first bytes.
#[derive(Debug, Default)]
pub(super) struct Carry {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Carry {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.too_long
    }

    /// Adds a piece of the line; past the limit it keeps only what a fault shows.
    pub(super) fn extend(&mut self, bytes: &[u8], limit: usize) {
        if self.too_long {
            return;
        }
        if self.bytes.len() + bytes.len() <= limit {
            self.bytes.extend_from_slice(bytes);
            return;
        }
        self.too_long = true;
        let room = excerpt::KEPT.saturating_sub(self.bytes.len());
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.bytes.truncate(excerpt::KEPT);
    }

    /// The line with a line feed, or the beginning of one that is too long.
    pub(super) fn line(&mut self) -> Result<&[u8], &[u8]> {
        if self.too_long {
            return Err(&self.bytes);
        }
        self.bytes.push(b'\n');
        Ok(&self.bytes)
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.too_long = false;
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}
