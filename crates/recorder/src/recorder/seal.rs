//! Sealing: turning closed heads into segments, a slice with every commit.

use std::sync::Arc;

use super::storage::file_cost;
use crate::{
    bytes::Malformed,
    part::{HeadRows, Part, memory_of},
    rows::GROUP,
    segment::{Index, STEP_COLUMNS, Writer},
    source_rows::SourceRows,
};

/// The samples of one slice, which take a few milliseconds.
const SLICE_SAMPLES: usize = 32 << 10;

/// The number of commits without a slice after a segment could not be written.
const PAUSE: u32 = 64;

/// The sealing of closed heads, one at a time.
#[derive(Debug, Default)]
pub(super) struct Sealer {
    slicing: Option<Slicing>,
    /// Commits until sealing is tried again after an error.
    pause: u32,
}

/// A head that is sealed slice by slice.
#[derive(Debug)]
struct Slicing {
    id: u64,
    rows: Arc<HeadRows>,
    writer: Writer,
    /// The number of steps per slice.
    steps: usize,
}

/// An encoded segment, or rows that cannot be read back. No writer produces such rows.
pub(super) type SealResult = Result<(Vec<u8>, Index), Malformed>;

impl Slicing {
    fn new(part: &Part, rows: &Arc<HeadRows>) -> Self {
        let sources = || rows.iter().flatten();
        let groups: usize = sources().map(SourceRows::groups).sum();
        let scrapes: usize = sources().map(|rows| rows.times.scrapes.len()).sum();
        let most_rows = sources().map(|rows| rows.times.rows as usize).max();
        // A head is sealed in at most a quarter of the commits that it took to fill, so that sealing
        // always catches up.
        let steps = groups * (GROUP / STEP_COLUMNS);
        let to_catch_up = (steps * 4).div_ceil(scrapes.max(1));
        let step_samples = STEP_COLUMNS * most_rows.unwrap_or(0).max(1);
        Self {
            id: part.id,
            rows: Arc::clone(rows),
            writer: Writer::new(part),
            steps: to_catch_up.max(SLICE_SAMPLES / step_samples).max(1),
        }
    }
}

impl Sealer {
    /// Returns the memory of the segment that is being encoded.
    pub(super) fn memory(&self) -> u64 {
        let slicing = self.slicing.as_ref();
        slicing.map_or(0, |slicing| slicing.writer.memory())
    }

    /// Stops sealing a part that was evicted.
    pub(super) fn stop_unless(&mut self, is_kept: impl Fn(u64) -> bool) {
        self.slicing = self.slicing.take().filter(|slicing| is_kept(slicing.id));
    }

    /// Encodes one slice of `next`, or of the head that is being sliced. Returns a result if that was
    /// the last.
    pub(super) fn step(&mut self, next: Option<&Part>) -> Option<(u64, SealResult)> {
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let begin = || next.and_then(|part| Some(Slicing::new(part, part.rows()?)));
        let mut slicing = self.slicing.take().or_else(begin)?;
        for _ in 0..slicing.steps {
            match slicing.writer.step(&slicing.rows) {
                Ok(true) => {}
                Ok(false) => return Some((slicing.id, Ok(slicing.writer.finish()))),
                Err(malformed) => return Some((slicing.id, Err(malformed))),
            }
        }
        self.slicing = Some(slicing);
        None
    }

    /// Does nothing for a while, after an error that will probably repeat.
    pub(super) fn pause(&mut self) {
        self.pause = PAUSE;
    }
}

/// Returns the space to reserve for the segment of a head: a segment is smaller than the rows.
pub(super) fn reservation(rows: &HeadRows) -> u64 {
    file_cost(memory_of(rows))
}
