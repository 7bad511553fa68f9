//! A long list in pieces, so that growing never holds it twice.

/// Rows of a piece, of which the first is made smaller for short lists.
pub(crate) const ROWS: usize = 512;

const ROWS_MIN: usize = 16;

#[derive(Debug)]
pub(crate) struct Rows<T> {
    /// All but the last are full.
    pieces: Vec<Vec<T>>,
    len: usize,
    capacity: usize,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            len: 0,
            capacity: 0,
        }
    }
}

impl<T> Rows<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, row: usize) -> Option<&T> {
        self.pieces.get(row / ROWS)?.get(row % ROWS)
    }

    pub(crate) fn get_mut(&mut self, row: usize) -> Option<&mut T> {
        self.pieces.get_mut(row / ROWS)?.get_mut(row % ROWS)
    }

    /// Exchanges two rows that are there.
    pub(crate) fn swap(&mut self, one: usize, other: usize) {
        if one / ROWS == other / ROWS {
            self.pieces[one / ROWS].swap(one % ROWS, other % ROWS);
        } else if let Ok([a, b]) = self.pieces.get_disjoint_mut([one / ROWS, other / ROWS]) {
            std::mem::swap(&mut a[one % ROWS], &mut b[other % ROWS]);
        }
    }

    /// Rows for which there is room without more memory.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// As [`capacity`](Self::capacity) is of a list of so many rows.
    pub(crate) fn capacity_for(rows: usize) -> usize {
        match rows {
            0 => 0,
            1..ROWS => rows.next_power_of_two().max(ROWS_MIN),
            many => many.next_multiple_of(ROWS),
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, row: T) {
        if self.len == self.capacity {
            self.grow();
        }
        if let Some(last) = self.pieces.last_mut() {
            last.push(row);
            self.len += 1;
        }
    }

    #[inline(never)]
    fn grow(&mut self) {
        let capacity = Self::capacity_for(self.len + 1);
        match self.pieces.last_mut() {
            Some(first) if first.len() < ROWS => first.reserve_exact(capacity - first.len()),
            _ => self
                .pieces
                .push(Vec::with_capacity(capacity - self.capacity)),
        }
        self.capacity = capacity;
    }

    /// The rows from one on, in pieces.
    pub(crate) fn pieces_from(&self, row: usize) -> impl Iterator<Item = &[T]> {
        let mut skip = row % ROWS;
        let pieces = self.pieces.get(row / ROWS..).unwrap_or_default();
        pieces
            .iter()
            .map(move |piece| piece.get(std::mem::take(&mut skip)..).unwrap_or_default())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pieces.iter_mut().flatten()
    }

    /// Keeps the first rows, and gives back the memory of the others.
    pub(crate) fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.pieces.truncate(len.div_ceil(ROWS));
        self.pieces.shrink_to(2 * self.pieces.len());
        if let Some(last) = self.pieces.last_mut() {
            last.truncate((len - 1) % ROWS + 1);
            if len < ROWS {
                last.shrink_to(Self::capacity_for(len));
            }
        }
        self.len = len;
        self.capacity = Self::capacity_for(len);
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.capacity * size_of::<T>() + self.pieces.capacity() * size_of::<Vec<T>>()
    }
}

impl<T: Copy> Rows<T> {
    /// Adds rows of another list.
    pub(crate) fn extend(&mut self, other: &Self, rows: std::ops::Range<usize>) {
        let mut left = rows.len();
        for piece in other.pieces_from(rows.start) {
            let mut piece = &piece[..piece.len().min(left)];
            left -= piece.len();
            while !piece.is_empty() {
                if self.len == self.capacity {
                    self.grow();
                }
                let Some(last) = self.pieces.last_mut() else {
                    return;
                };
                let (now, later) = piece.split_at(piece.len().min(self.capacity - self.len));
                last.extend_from_slice(now);
                self.len += now.len();
                piece = later;
            }
            if left == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_content_and_release_memory() {
        let mut rows = Rows::default();
        let mut expected = Vec::new();
        for len in [0, 1, 15, 16, 17, 511, 512, 513, 5_000] {
            while rows.len() < len {
                rows.push(rows.len() * 3);
                assert_eq!(rows.capacity(), Rows::<usize>::capacity_for(rows.len()));
                expected.push(expected.len() * 3);
            }
            assert!(rows.iter().eq(&expected));
            assert!(rows.held_bytes() <= (2 * len).max(32) * 8 + 5_000);
        }
        for (from, to) in [(0, 5_000), (3, 700), (511, 513), (600, 600)] {
            let mut other = Rows::default();
            other.push(7);
            other.extend(&rows, from..to);
            assert_eq!(other.len(), 1 + to - from);
            assert!(other.iter().skip(1).eq(&expected[from..to]));
        }
        for len in [1_024, 1_000, 512, 511, 3, 0] {
            rows.truncate(len);
            expected.truncate(len);
            assert!(rows.iter().eq(&expected));
            assert_eq!(rows.get(len), None);
            assert!(rows.held_bytes() <= (2 * len).max(16) * 8 + 5_000);
            let flat: Vec<usize> = rows.pieces_from(len / 2).flatten().copied().collect();
            assert_eq!(flat, expected[len / 2..]);
        }
        assert_eq!(rows.held_bytes(), 0);
    }
}
