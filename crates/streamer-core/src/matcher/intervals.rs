//! Ranges of keys, and the ranges that a key lies in.

use super::ids::Entry;

/// A range of keys, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interval {
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) entry: Entry,
}

/// A sorted list of intervals in leaves and blocks of leaves, each with the lowest key and the highest
/// key that its intervals reach. A look-up skips whatever does not reach its key. For intervals that
/// overlap little it touches one block and one leaf, whatever their number.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    blocks: Vec<Block>,
    len: usize,
}

#[derive(Debug)]
struct Block {
    low: u64,
    reach: u64,
    leaves: Vec<Leaf>,
}

#[derive(Debug)]
struct Leaf {
    low: u64,
    reach: u64,
    intervals: Vec<Interval>,
}

/// Items of a leaf, and leaves of a block, at which it is split in two. Three levels of this size hold
/// 2 million intervals, and inserting moves at most 3 KiB. In tests a few dozen have all levels.
const SPLIT_AT: usize = if cfg!(test) { 4 } else { 128 };

impl Intervals {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn insert(&mut self, interval: Interval) {
        self.len += 1;
        if self.blocks.is_empty() {
            self.blocks.push(Block::of(vec![Leaf::of(vec![interval])]));
            return;
        }
        let at = position(&self.blocks, Block::first, interval);
        self.blocks[at].insert(interval);
        if self.blocks[at].leaves.len() >= SPLIT_AT {
            let upper = self.blocks[at].leaves.split_off(SPLIT_AT / 2);
            // The upper half may have had the highest reach.
            self.blocks[at].measure();
            self.blocks.insert(at + 1, Block::of(upper));
        }
    }

    pub(super) fn remove(&mut self, interval: Interval) {
        if self.blocks.is_empty() {
            return;
        }
        let at = position(&self.blocks, Block::first, interval);
        if self.blocks[at].remove(interval) {
            self.len -= 1;
        }
        // Blocks that shrink are not merged. Empty ones go, because `position` looks at the first
        // interval.
        if self.blocks[at].leaves.is_empty() {
            self.blocks.remove(at);
        }
    }

    /// Counts the intervals that `key` lies in, at most `max`.
    pub(super) fn count_containing(&self, key: u64, max: usize) -> usize {
        let mut count = 0;
        self.visit(key, |_| {
            count += 1;
            count < max
        });
        count
    }

    /// Calls `found` for each interval that `key` lies in.
    pub(super) fn containing(&self, key: u64, mut found: impl FnMut(&Interval)) {
        self.visit(key, |interval| {
            found(interval);
            true
        });
    }

    /// Visits the intervals that `key` lies in while `go_on` returns true.
    fn visit(&self, key: u64, mut go_on: impl FnMut(&Interval) -> bool) {
        for block in &self.blocks {
            // Sorted by the lower end: no later interval begins at or before the key.
            if block.low > key {
                break;
            }
            // `reach` is not sorted, so that the search goes on.
            if block.reach < key {
                continue;
            }
            for leaf in &block.leaves {
                if leaf.low > key {
                    break;
                }
                if leaf.reach < key {
                    continue;
                }
                for interval in &leaf.intervals {
                    if interval.low > key {
                        break;
                    }
                    if interval.high >= key && !go_on(interval) {
                        return;
                    }
                }
            }
        }
    }
}

/// Returns the last of `parts` that may hold the interval.
fn position<T>(parts: &[T], first: impl Fn(&T) -> Interval, interval: Interval) -> usize {
    parts
        // An interval before all others belongs to the first part.
        .partition_point(|part| first(part) <= interval)
        .saturating_sub(1)
}

impl Block {
    fn of(leaves: Vec<Leaf>) -> Self {
        let mut block = Self {
            low: 0,
            reach: 0,
            leaves,
        };
        block.measure();
        block
    }

    fn measure(&mut self) {
        self.low = self.leaves.first().map_or(0, |leaf| leaf.low);
        self.reach = self.leaves.iter().map(|leaf| leaf.reach).max().unwrap_or(0);
    }

    fn first(&self) -> Interval {
        self.leaves[0].intervals[0]
    }

    fn insert(&mut self, interval: Interval) {
        let at = position(&self.leaves, |leaf| leaf.intervals[0], interval);
        let leaf = &mut self.leaves[at];
        let within = leaf.intervals.partition_point(|known| *known < interval);
        leaf.intervals.insert(within, interval);
        leaf.low = leaf.low.min(interval.low);
        leaf.reach = leaf.reach.max(interval.high);
        self.low = self.low.min(interval.low);
        self.reach = self.reach.max(interval.high);
        if leaf.intervals.len() >= SPLIT_AT {
            let upper = leaf.intervals.split_off(SPLIT_AT / 2);
            leaf.measure();
            self.leaves.insert(at + 1, Leaf::of(upper));
        }
    }

    fn remove(&mut self, interval: Interval) -> bool {
        let at = position(&self.leaves, |leaf| leaf.intervals[0], interval);
        let Ok(within) = self.leaves[at].intervals.binary_search(&interval) else {
            return false;
        };
        self.leaves[at].intervals.remove(within);
        if self.leaves[at].intervals.is_empty() {
            self.leaves.remove(at);
        } else {
            self.leaves[at].measure();
        }
        // The interval that is gone may have been the one with the highest end.
        self.measure();
        true
    }
}

impl Leaf {
    fn of(intervals: Vec<Interval>) -> Self {
        let mut leaf = Self {
            low: 0,
            reach: 0,
            intervals,
        };
        leaf.measure();
        leaf
    }

    fn measure(&mut self) {
        self.low = self.intervals.first().map_or(0, |interval| interval.low);
        let reach = self.intervals.iter().map(|interval| interval.high).max();
        self.reach = reach.unwrap_or(0);
    }
}
