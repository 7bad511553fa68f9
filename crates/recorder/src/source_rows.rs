//! The scrapes of one source in a head: their times, and the rows of each group.

use std::sync::Arc;

use crate::{
    bytes::{Input, Malformed},
    column::Column,
    rows::{Event, GROUP, GroupState, read_row},
    span::{Span, union_of},
};

/// The size from which rows are frozen into a shared chunk. A clone, as every reader takes one,
/// copies at most this much per group.
const CHUNK_BYTES: usize = 4 << 10;

/// The time of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScrapeTime {
    /// Unix milliseconds.
    pub(crate) time: i64,
    /// The scrape failed; it has no row.
    pub(crate) missed: bool,
}

/// The times of a source's scrapes, in the order of their commits.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScrapeTimes {
    pub(crate) scrapes: Vec<ScrapeTime>,
    /// Number of successful scrapes.
    pub(crate) rows: u32,
}

impl ScrapeTimes {
    pub(crate) fn last(&self) -> Option<i64> {
        self.scrapes.last().map(|scrape| scrape.time)
    }
}

/// The rows of one group.
#[derive(Clone, Debug, Default)]
struct GroupRows {
    /// The first row. No slot of the group was present before it.
    first: u32,
    chunks: Vec<Arc<[u8]>>,
    tail: Vec<u8>,
}

/// The scrapes of one source in a head.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceRows {
    pub(crate) times: ScrapeTimes,
    groups: Vec<GroupRows>,
    pub(crate) span: Option<Span>,
}

impl SourceRows {
    /// Returns the number of groups that have a row. Values from before a group's first row are
    /// unknown to readers of the head.
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Adds the row of one group. Rows come group by group, before their scrape.
    pub(crate) fn push_row(&mut self, group: usize, row: &[u8]) {
        if group == self.groups.len() {
            self.groups.push(GroupRows {
                first: self.times.rows,
                ..GroupRows::default()
            });
        }
        let rows = &mut self.groups[group];
        rows.tail.extend_from_slice(row);
        if rows.tail.len() >= CHUNK_BYTES {
            rows.chunks.push(Arc::from(&rows.tail[..]));
            rows.tail.clear();
        }
    }

    /// Adds a scrape, after its rows.
    pub(crate) fn push(&mut self, scrape: ScrapeTime) {
        self.times.scrapes.push(scrape);
        self.times.rows += u32::from(!scrape.missed);
        self.extend_span(scrape.time);
    }

    /// Adds a successful scrape, after its rows. `timestamps` are the times of its lines, by slot, as
    /// an offset to its own.
    pub(crate) fn push_scrape<'a>(
        &mut self,
        time: i64,
        timestamps: impl Iterator<Item = &'a (u32, i64)>,
    ) {
        self.push(ScrapeTime {
            time,
            missed: false,
        });
        for (_, offset) in timestamps {
            self.extend_span(time.wrapping_add(*offset));
        }
    }

    fn extend_span(&mut self, time: i64) {
        self.span = union_of(self.span.into_iter().chain([(time, time)]));
    }

    /// Returns the memory it takes, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let groups = self.groups.iter().map(|rows| {
            // 32 bytes for the two counters of an `Arc` and the pointer to it with its length.
            let chunks: usize = rows.chunks.iter().map(|chunk| chunk.len() + 32).sum();
            chunks + rows.tail.capacity() + size_of::<GroupRows>()
        });
        (groups.sum::<usize>() + self.times.scrapes.capacity() * size_of::<ScrapeTime>()) as u64
    }

    /// Turns the rows of a group into columns.
    pub(crate) fn read_group(
        &self,
        group: usize,
        columns: &mut GroupColumns,
    ) -> Result<(), Malformed> {
        columns.clear(self.times.rows);
        let Some(rows) = self.groups.get(group) else {
            return Ok(());
        };
        let mut state = GroupState::default();
        let mut row = rows.first;
        let chunks = rows.chunks.iter().map(|chunk| &chunk[..]);
        for chunk in chunks.chain([&rows.tail[..]]) {
            let mut input = Input::new(chunk);
            while !input.is_empty() {
                if row >= columns.rows {
                    return Err(Malformed);
                }
                read_row(&mut input, &mut state, |event| columns.apply(row, event))?;
                row += 1;
            }
        }
        // From the first row of a group on, every scrape has one.
        if row != columns.rows {
            return Err(Malformed);
        }
        columns.finish();
        Ok(())
    }
}

/// The columns of a group.
#[derive(Debug)]
pub(crate) struct GroupColumns {
    rows: u32,
    /// `rows` values for each slot. Values at rows without the slot are meaningless.
    values: Vec<u64>,
    /// The last change of each slot: its row and the value since.
    last: [(u32, u64); GROUP],
    /// The rows at which each slot appears and disappears, in turn.
    flips: Vec<Vec<u32>>,
    /// Slot, row, and the line's own time as an offset to the scrape's.
    timestamps: Vec<(u8, u32, i64)>,
}

impl Default for GroupColumns {
    fn default() -> Self {
        Self {
            rows: 0,
            values: Vec::new(),
            last: [(0, 0); GROUP],
            flips: vec![Vec::new(); GROUP],
            timestamps: Vec::new(),
        }
    }
}

impl GroupColumns {
    fn clear(&mut self, rows: u32) {
        self.rows = rows;
        self.values.clear();
        self.values.resize(rows as usize * GROUP, 0);
        self.last = [(0, 0); GROUP];
        self.flips.iter_mut().for_each(Vec::clear);
        self.timestamps.clear();
    }

    fn apply(&mut self, row: u32, event: Event) {
        match event {
            Event::Flip(slot) => self.flips[usize::from(slot)].push(row),
            Event::Value(slot, value) => {
                self.fill(usize::from(slot), row);
                self.last[usize::from(slot)] = (row, value);
            }
            Event::Timestamp(slot, offset) => self.timestamps.push((slot, row, offset)),
        }
    }

    /// Repeats the slot's last value up to this row.
    fn fill(&mut self, slot: usize, row: u32) {
        let (from, value) = self.last[slot];
        let start = slot * self.rows as usize;
        self.values[start + from as usize..start + row as usize].fill(value);
    }

    fn finish(&mut self) {
        for slot in 0..GROUP {
            self.fill(slot, self.rows);
        }
        // They came row by row, and `column` searches them by slot.
        self.timestamps.sort_unstable();
    }

    /// Returns the slots that were present at any row.
    pub(crate) fn used(&self) -> u128 {
        let slots = self.flips.iter().enumerate();
        let used = slots.filter(|(_, flips)| !flips.is_empty());
        used.fold(0, |set, (slot, _)| set | 1 << slot)
    }

    /// Replaces `column` by the column of a slot.
    pub(crate) fn column(&self, slot: usize, column: &mut Column) {
        column.clear();
        let values = &self.values[slot * self.rows as usize..];
        for run in self.flips[slot].chunks(2) {
            let (from, to) = (run[0], run.get(1).copied().unwrap_or(self.rows));
            column.runs.push((from, to));
            let values = &values[from as usize..to as usize];
            column.values.extend_from_slice(values);
        }
        let of_slot = |of: u8| usize::from(of);
        let first = self
            .timestamps
            .partition_point(|(of, ..)| of_slot(*of) < slot);
        let timestamps = self.timestamps[first..].iter();
        let timestamps = timestamps.take_while(|(of, ..)| of_slot(*of) == slot);
        let timestamps = timestamps.map(|(_, row, offset)| (*row, *offset));
        column.timestamps.extend(timestamps);
    }
}
