//! One source's scrapes in a head: their times, and rows by group.

use std::sync::Arc;

use crate::{
    bytes::{Input, Malformed},
    column::Column,
    rows::{Event, GROUP, GroupState, read_row},
};

/// Rows are put aside in pieces of about this size, which a reader then shares.
const PIECE_BYTES: usize = 4 << 10;

/// One reading of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scraped {
    /// When, in Unix milliseconds.
    pub(crate) time: i64,
    /// It failed; there is no row.
    pub(crate) missed: bool,
}

/// The times of a source's scrapes, in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub(crate) scrapes: Vec<Scraped>,
    /// How many of them succeeded.
    pub(crate) rows: u32,
}

impl Times {
    pub(crate) fn push(&mut self, scraped: Scraped) {
        self.scrapes.push(scraped);
        self.rows += u32::from(!scraped.missed);
    }

    pub(crate) fn last(&self) -> Option<i64> {
        self.scrapes.last().map(|scraped| scraped.time)
    }
}

/// The rows of one group.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupRows {
    /// The first row; before it nothing of the group was there.
    from: u32,
    pieces: Vec<Arc<[u8]>>,
    tail: Vec<u8>,
}

/// One source in a head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    pub(crate) times: Times,
    groups: Vec<GroupRows>,
    /// Least and greatest time of any sample or scrape.
    pub(crate) span: Option<(i64, i64)>,
}

impl Track {
    /// How many groups have begun. What a group was before that does not count.
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Adds the row of `group`, the next in turn, of the scrape that is being added.
    pub(crate) fn push_row(&mut self, group: usize, row: &[u8]) {
        if group == self.groups.len() {
            self.groups.push(GroupRows {
                from: self.times.rows,
                ..GroupRows::default()
            });
        }
        let rows = &mut self.groups[group];
        rows.tail.extend_from_slice(row);
        if rows.tail.len() >= PIECE_BYTES {
            rows.pieces.push(Arc::from(&rows.tail[..]));
            rows.tail.clear();
        }
    }

    /// Adds the scrape, after its rows.
    pub(crate) fn push(&mut self, scraped: Scraped) {
        self.times.push(scraped);
        self.cover(scraped.time);
    }

    /// Widens the span.
    pub(crate) fn cover(&mut self, time: i64) {
        let (least, most) = self.span.unwrap_or((time, time));
        self.span = Some((least.min(time), most.max(time)));
    }

    /// Bytes it has in memory.
    pub(crate) fn memory(&self) -> u64 {
        let groups = self.groups.iter().map(|rows| {
            let pieces: usize = rows.pieces.iter().map(|piece| piece.len() + 32).sum();
            pieces + rows.tail.capacity() + size_of::<GroupRows>()
        });
        (groups.sum::<usize>() + self.times.scrapes.capacity() * size_of::<Scraped>()) as u64
    }

    /// Which slots of a group were there at any row, by its rows.
    pub(crate) fn expand(&self, group: usize, expanded: &mut Expanded) -> Result<(), Malformed> {
        expanded.clear(self.times.rows);
        let Some(rows) = self.groups.get(group) else {
            return Ok(());
        };
        let mut state = GroupState::default();
        let mut row = rows.from;
        for piece in rows
            .pieces
            .iter()
            .map(|piece| &piece[..])
            .chain([&rows.tail[..]])
        {
            let mut input = Input::new(piece);
            while !input.is_empty() {
                if row >= expanded.rows {
                    return Err(Malformed);
                }
                read_row(&mut input, &mut state, |event| expanded.tell(row, event))?;
                row += 1;
            }
        }
        if row != expanded.rows {
            return Err(Malformed);
        }
        expanded.finish();
        Ok(())
    }
}

/// A group's rows, turned into columns.
#[derive(Debug)]
pub(crate) struct Expanded {
    rows: u32,
    /// `rows` values for each slot. Those of a slot that is absent mean nothing.
    values: Vec<u64>,
    last: [(u32, u64); GROUP],
    flips: Vec<Vec<u32>>,
    stamps: Vec<(u8, u32, i64)>,
}

impl Default for Expanded {
    fn default() -> Self {
        Self {
            rows: 0,
            values: Vec::new(),
            last: [(0, 0); GROUP],
            flips: vec![Vec::new(); GROUP],
            stamps: Vec::new(),
        }
    }
}

impl Expanded {
    fn clear(&mut self, rows: u32) {
        self.rows = rows;
        self.values.clear();
        self.values.resize(rows as usize * GROUP, 0);
        self.last = [(0, 0); GROUP];
        self.flips.iter_mut().for_each(Vec::clear);
        self.stamps.clear();
    }

    fn tell(&mut self, row: u32, event: Event) {
        match event {
            Event::Flip(slot) => self.flips[usize::from(slot)].push(row),
            Event::Value(slot, value) => {
                self.fill(usize::from(slot), row);
                self.last[usize::from(slot)] = (row, value);
            }
            Event::Stamp(slot, offset) => self.stamps.push((slot, row, offset)),
        }
    }

    /// The slot's value stayed up to this row.
    fn fill(&mut self, slot: usize, row: u32) {
        let (from, value) = self.last[slot];
        let start = slot * self.rows as usize;
        self.values[start + from as usize..start + row as usize].fill(value);
    }

    fn finish(&mut self) {
        for slot in 0..GROUP {
            self.fill(slot, self.rows);
        }
        self.stamps.sort_unstable();
    }

    /// Slots that were there at some row.
    pub(crate) fn used(&self) -> u128 {
        let used = self
            .flips
            .iter()
            .enumerate()
            .filter(|(_, flips)| !flips.is_empty());
        used.fold(0, |set, (slot, _)| set | 1 << slot)
    }

    /// Puts the column of a slot in place of what was in `column`.
    pub(crate) fn column(&self, slot: usize, column: &mut Column) {
        column.clear();
        let start = slot * self.rows as usize;
        for run in self.flips[slot].chunks(2) {
            let (from, to) = (run[0], run.get(1).copied().unwrap_or(self.rows));
            column.runs.push((from, to));
            column
                .values
                .extend_from_slice(&self.values[start + from as usize..start + to as usize]);
        }
        let from = self
            .stamps
            .partition_point(|(stamped, ..)| usize::from(*stamped) < slot);
        let stamps = self.stamps[from..]
            .iter()
            .take_while(|(stamped, ..)| usize::from(*stamped) == slot);
        column
            .stamps
            .extend(stamps.map(|(_, row, offset)| (*row, *offset)));
    }
}
