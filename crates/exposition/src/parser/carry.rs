//! A line that arrives in pieces.

use crate::excerpt;

/// The beginning of a line whose rest has not arrived; of one that is too long, its first bytes.
#[derive(Debug, Default)]
pub(super) struct Carry {
    bytes: Vec<u8>,
    too_long: bool,
    /// The most bytes there were in this scrape.
    most: usize,
}

/// Room that is kept whether it is needed or not.
const KEPT: usize = 4 << 10;

impl Carry {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.too_long
    }

    /// Adds a piece of the line; past the limit it keeps only what a fault shows.
    pub(super) fn extend(&mut self, bytes: &[u8], limit: usize) {
        if self.too_long {
            return;
        }
        let wanted = self.bytes.len() + bytes.len();
        if wanted <= limit {
            self.make_room(wanted + 1, limit);
            self.bytes.extend_from_slice(bytes);
            self.most = self.most.max(wanted);
            return;
        }
        self.too_long = true;
        let room = excerpt::KEPT.saturating_sub(self.bytes.len());
        let shown = &bytes[..bytes.len().min(room)];
        self.make_room(self.bytes.len() + shown.len(), limit);
        self.bytes.extend_from_slice(shown);
        self.bytes.truncate(excerpt::KEPT);
    }

    /// By doubling, but never past the longest line and its line feed.
    fn make_room(&mut self, wanted: usize, limit: usize) {
        if wanted > self.bytes.capacity() {
            let doubled = (2 * self.bytes.capacity()).min(limit.saturating_add(1));
            let bytes = doubled.max(wanted);
            self.bytes.reserve_exact(bytes - self.bytes.len());
        }
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

    /// Gives back what the scrape did not need by far.
    pub(super) fn fit(&mut self) {
        let most = std::mem::take(&mut self.most);
        if self.bytes.capacity() > KEPT.max(4 * most) {
            self.bytes.shrink_to(KEPT.max(2 * most));
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}
