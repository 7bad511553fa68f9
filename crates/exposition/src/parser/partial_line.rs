//! A line that arrives in pieces.

use crate::excerpt;

/// The start of a line whose end has not arrived. Of a line that is too long, it holds only the
/// bytes that a fault shows.
#[derive(Debug, Default)]
pub(super) struct PartialLine {
    bytes: Vec<u8>,
    too_long: bool,
    /// The longest such line of this scrape, in bytes.
    longest: usize,
}

/// The capacity that is kept between scrapes, used or not.
const KEPT: usize = 4 << 10;

impl PartialLine {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.too_long
    }

    /// Appends a piece of the line.
    pub(super) fn extend(&mut self, bytes: &[u8], limit: usize) {
        if self.too_long {
            return;
        }
        let wanted = self.bytes.len() + bytes.len();
        if wanted <= limit {
            self.reserve(wanted + 1, limit);
            self.bytes.extend_from_slice(bytes);
            self.longest = self.longest.max(wanted);
            return;
        }
        // From here on only the bytes that a fault shows are kept, however many arrive.
        self.too_long = true;
        let room = excerpt::KEPT.saturating_sub(self.bytes.len());
        let shown = &bytes[..bytes.len().min(room)];
        self.reserve(self.bytes.len() + shown.len(), limit);
        self.bytes.extend_from_slice(shown);
        self.bytes.truncate(excerpt::KEPT);
    }

    /// Grows by doubling, but never past the longest line and its line feed.
    fn reserve(&mut self, wanted: usize, limit: usize) {
        if wanted > self.bytes.capacity() {
            let doubled = (2 * self.bytes.capacity()).min(limit.saturating_add(1));
            let bytes = doubled.max(wanted);
            self.bytes.reserve_exact(bytes - self.bytes.len());
        }
    }

    /// Returns the line with a line feed.
    ///
    /// # Errors
    ///
    /// The start of the line, if it is too long.
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

    /// Frees the capacity that exceeds by far the need of this scrape.
    pub(super) fn fit(&mut self) {
        let longest = std::mem::take(&mut self.longest);
        if self.bytes.capacity() > KEPT.max(4 * longest) {
            self.bytes.shrink_to(KEPT.max(2 * longest));
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}
