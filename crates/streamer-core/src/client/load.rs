//! The size of a set of changes.

/// A number of changes and the sum of their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Load {
    pub(super) fn add(&mut self, weight: u64) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(weight);
    }

    /// Returns whether neither kind exceeds `other`.
    pub(super) fn is_within(self, other: Self) -> bool {
        self.messages <= other.messages && self.bytes <= other.bytes
    }

    pub(super) fn half(self) -> Self {
        Self {
            messages: self.messages / 2,
            bytes: self.bytes / 2,
        }
    }
}
