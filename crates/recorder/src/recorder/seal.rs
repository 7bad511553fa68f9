//! Sealing: turning closed heads into segments, a slice with every commit or all of it on another
//! thread.

use std::sync::{Arc, Weak};

use super::storage::{file_cost, write_segment};
use crate::{
    disk::{Disk, DiskFile},
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
///
/// ```text
///            step                 last step
///   idle ------------> slicing -------------> idle
///    |  begin_job                                ^
///    +------------> job is out ------------------+
///                       finish_job, or the job was dropped
/// ```
#[derive(Debug, Default)]
pub(super) struct Sealer {
    slicing: Option<Slicing>,
    job: Option<JobOut>,
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

/// A [`SealJob`] that was handed out.
#[derive(Debug)]
struct JobOut {
    id: u64,
    /// The space reserved for its segment.
    reserved: u64,
    /// Dropped with the job or its outcome.
    handle: Weak<()>,
}

/// A head to be sealed on any thread. Give the outcome to
/// [`Recorder::finish_seal`](crate::Recorder::finish_seal). A job that is dropped is done again.
#[derive(Debug)]
pub struct SealJob {
    part: Part,
    rows: Arc<HeadRows>,
    disk: Option<Arc<dyn Disk>>,
    reserved: u64,
    handle: Arc<()>,
}

/// The outcome of a [`SealJob`].
#[derive(Debug)]
#[must_use = "the recorder waits for the outcome"]
pub struct SealOutcome {
    id: u64,
    result: SealResult,
    _handle: Arc<()>,
}

/// The result of sealing a head.
#[derive(Debug)]
pub(super) enum SealResult {
    /// The segment is encoded. The recorder stores it.
    Encoded(Vec<u8>, Index),
    /// The segment is written under its temporary name.
    Written(Arc<dyn DiskFile>, u64),
    WriteFailed,
    /// The rows cannot be read back. No writer produces such rows.
    BadRows,
}

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

    /// Returns the space reserved for the segment of a job.
    pub(super) fn reserved(&self) -> u64 {
        self.job.as_ref().map_or(0, |job| job.reserved)
    }

    /// Stops sealing a part that was evicted.
    pub(super) fn stop_unless(&mut self, is_kept: impl Fn(u64) -> bool) {
        self.slicing = self.slicing.take().filter(|slicing| is_kept(slicing.id));
    }

    /// Stops slicing: a job does all of the work.
    pub(super) fn stop(&mut self) {
        self.slicing = None;
    }

    pub(super) fn is_job_out(&mut self) -> bool {
        let dropped = |job: &JobOut| job.handle.strong_count() == 0;
        if self.job.as_ref().is_some_and(dropped) {
            self.job = None;
        }
        self.job.is_some()
    }

    /// Hands out the sealing of a part. `reserved` bytes are free for its segment.
    pub(super) fn begin_job(
        &mut self,
        part: Part,
        rows: Arc<HeadRows>,
        disk: Option<Arc<dyn Disk>>,
        reserved: u64,
    ) -> SealJob {
        let handle = Arc::new(());
        self.job = Some(JobOut {
            id: part.id,
            reserved,
            handle: Arc::downgrade(&handle),
        });
        SealJob {
            part,
            rows,
            disk,
            reserved,
            handle,
        }
    }

    /// Takes the outcome of the job. Returns `None` for a job that was given up.
    pub(super) fn finish_job(&mut self, outcome: SealOutcome) -> Option<(u64, SealResult)> {
        self.job.take_if(|job| job.id == outcome.id)?;
        Some((outcome.id, outcome.result))
    }

    /// Encodes one slice of `next`, or of the head that is being sliced. Returns a result if that was
    /// the last.
    pub(super) fn step(&mut self, next: Option<&Part>) -> Option<(u64, SealResult)> {
        if self.is_job_out() {
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let begin = || next.and_then(|part| Some(Slicing::new(part, part.rows()?)));
        let mut slicing = self.slicing.take().or_else(begin)?;
        for _ in 0..slicing.steps {
            match slicing.writer.step(&slicing.rows) {
                Ok(true) => {}
                Ok(false) => {
                    let (bytes, index) = slicing.writer.finish();
                    return Some((slicing.id, SealResult::Encoded(bytes, index)));
                }
                Err(_) => return Some((slicing.id, SealResult::BadRows)),
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

impl SealJob {
    /// Encodes and writes the segment. Does not sync.
    pub fn run(self) -> SealOutcome {
        let mut writer = Writer::new(&self.part);
        let result = loop {
            match writer.step(&self.rows) {
                Ok(true) => {}
                Ok(false) => break self.write(writer),
                Err(_) => break SealResult::BadRows,
            }
        };
        SealOutcome {
            id: self.part.id,
            result,
            _handle: self.handle,
        }
    }

    fn write(&self, writer: Writer) -> SealResult {
        let (bytes, index) = writer.finish();
        let len = bytes.len() as u64;
        match &self.disk {
            Some(disk) if file_cost(len) <= self.reserved => {
                let written = write_segment(&**disk, self.part.id, &bytes);
                written.map_or(SealResult::WriteFailed, |file| {
                    SealResult::Written(file, len)
                })
            }
            // In memory, or larger than the reservation: only the recorder can free more space.
            Some(_) | None => SealResult::Encoded(bytes, index),
        }
    }
}
