//! Turning heads that are closed into segments: a slice with every commit, or all of it on another
//! thread.

use std::{
    io,
    sync::{Arc, Weak},
};

use super::Recorder;
use crate::{
    disk::{Disk, DiskFile},
    part::{Form, Part, Tracks},
    rows::GROUP,
    segment::{Index, STEP_COLUMNS, Writer},
    shelf::{file_cost, temporary_name},
};

/// Samples of one slice: some milliseconds of work.
const SLICE_SAMPLES: usize = 32 << 10;

/// Commits without a slice after a segment could not be written.
const PAUSE: u32 = 64;

/// A head that is being sealed slice by slice.
#[derive(Debug)]
pub(super) struct Sealing {
    pub(super) id: u64,
    tracks: Arc<Tracks>,
    writer: Writer,
    /// Steps per slice.
    slice: usize,
}

impl Sealing {
    fn new(part: &Part, tracks: Arc<Tracks>) -> Self {
        let id = part.id;
        let groups: usize = tracks
            .iter()
            .flatten()
            .map(crate::track::Track::groups)
            .sum();
        let scrapes: usize = tracks
            .iter()
            .flatten()
            .map(|track| track.times.scrapes.len())
            .sum();
        let rows = tracks
            .iter()
            .flatten()
            .map(|track| track.times.rows as usize)
            .max()
            .unwrap_or(0);
        // It is done in a quarter of the time the head took, or sooner.
        let steps = groups * (GROUP / STEP_COLUMNS);
        let in_time = (steps * 4).div_ceil(scrapes.max(1));
        let slice = in_time
            .max(SLICE_SAMPLES / (STEP_COLUMNS * rows.max(1)))
            .max(1);
        Self {
            id,
            tracks,
            writer: Writer::new(id, part.catalog, part.names),
            slice,
        }
    }

    /// Bytes it holds beside the rows.
    pub(super) fn memory(&self) -> u64 {
        self.writer.memory()
    }
}

/// What is known of a [`SealJob`] that was handed out.
#[derive(Debug)]
pub(super) struct Elsewhere {
    id: u64,
    /// Bytes set aside for it.
    pub(super) reserved: u64,
    /// Gone when the job and its result are.
    job: Weak<()>,
}

/// A head to be sealed, on any thread. Give the result to [`Recorder::finish_seal`]; a job that is dropped
/// is done again.
#[derive(Debug)]
pub struct SealJob {
    id: u64,
    catalog: u64,
    names: u64,
    tracks: Arc<Tracks>,
    disk: Option<Arc<dyn Disk>>,
    reserved: u64,
    alive: Arc<()>,
}

/// What came out of a [`SealJob`].
#[derive(Debug)]
#[must_use = "the recorder has to be told"]
pub struct SealOutcome {
    id: u64,
    outcome: Outcome,
    _alive: Arc<()>,
}

#[derive(Debug)]
enum Outcome {
    /// In memory, or more than was set aside for it.
    Bytes(Vec<u8>, Index),
    Written(Arc<dyn DiskFile>, u64),
    Failed,
    /// The rows can not be read back, which no writer of them makes.
    Stuck,
}

impl SealJob {
    /// Does the work: encodes and writes; does not sync.
    pub fn run(self) -> SealOutcome {
        let mut writer = Writer::new(self.id, self.catalog, self.names);
        let outcome = loop {
            match writer.step(&self.tracks) {
                Ok(true) => {}
                Ok(false) => break self.write(writer),
                Err(_) => break Outcome::Stuck,
            }
        };
        SealOutcome {
            id: self.id,
            outcome,
            _alive: self.alive,
        }
    }

    fn write(&self, writer: Writer) -> Outcome {
        let (bytes, index) = writer.finish();
        let len = bytes.len() as u64;
        match &self.disk {
            Some(disk) if file_cost(len) <= self.reserved => {
                match write_segment(&**disk, self.id, &bytes) {
                    Ok(file) => Outcome::Written(file, len),
                    Err(_) => Outcome::Failed,
                }
            }
            Some(_) | None => Outcome::Bytes(bytes, index),
        }
    }
}

fn write_segment(disk: &dyn Disk, id: u64, bytes: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
    let name = temporary_name(id);
    let written = disk
        .create(&name)
        .and_then(|file| file.write_at(0, bytes).map(|()| file));
    if written.is_err() {
        disk.remove(&name).ok();
    }
    written
}

impl Recorder {
    /// Takes out the sealing of the next closed head, to be done on another thread; while it is out,
    /// commits do none of it. Nothing when there is none, or one is out already.
    pub fn begin_seal(&mut self) -> Option<SealJob> {
        if self.is_sealing_elsewhere() {
            return None;
        }
        let part = self.shelf.unsealed()?;
        let Form::Rows(tracks) = &part.form else {
            return None;
        };
        let (id, catalog, names, tracks) = (part.id, part.catalog, part.names, Arc::clone(tracks));
        let rows: u64 = tracks
            .iter()
            .flatten()
            .map(crate::track::Track::memory)
            .sum();
        let reserved = file_cost(rows);
        self.sealing = None;
        self.make_room(reserved).ok()?;
        if !self.shelf.holds(id) {
            return None;
        }
        let alive = Arc::new(());
        self.sealing_elsewhere = Some(Elsewhere {
            id,
            reserved,
            job: Arc::downgrade(&alive),
        });
        Some(SealJob {
            id,
            catalog,
            names,
            tracks,
            disk: self.disk.clone(),
            reserved,
            alive,
        })
    }

    /// Takes in what a [`SealJob`] made.
    pub fn finish_seal(&mut self, sealed: SealOutcome) {
        if self
            .sealing_elsewhere
            .as_ref()
            .is_some_and(|elsewhere| elsewhere.id == sealed.id)
        {
            self.sealing_elsewhere = None;
            self.accept(sealed.id, sealed.outcome);
        }
    }

    fn is_sealing_elsewhere(&mut self) -> bool {
        if self
            .sealing_elsewhere
            .as_ref()
            .is_some_and(|elsewhere| elsewhere.job.strong_count() == 0)
        {
            self.sealing_elsewhere = None;
        }
        self.sealing_elsewhere.is_some()
    }

    /// Does a bounded slice of sealing.
    pub(super) fn seal_step(&mut self) {
        if self.is_sealing_elsewhere() {
            return;
        }
        if self.seal_pause > 0 {
            self.seal_pause -= 1;
            return;
        }
        let Some(mut sealing) = self.sealing.take().or_else(|| self.next_sealing()) else {
            return;
        };
        for _ in 0..sealing.slice {
            match sealing.writer.step(&sealing.tracks) {
                Ok(true) => {}
                Ok(false) => {
                    let (bytes, index) = sealing.writer.finish();
                    return self.accept(sealing.id, Outcome::Bytes(bytes, index));
                }
                Err(_) => return self.accept(sealing.id, Outcome::Stuck),
            }
        }
        self.sealing = Some(sealing);
    }

    fn next_sealing(&self) -> Option<Sealing> {
        let part = self.shelf.unsealed()?;
        match &part.form {
            Form::Rows(tracks) => Some(Sealing::new(part, Arc::clone(tracks))),
            Form::Memory(..) | Form::File => None,
        }
    }

    fn accept(&mut self, id: u64, outcome: Outcome) {
        let done = match outcome {
            Outcome::Bytes(bytes, index) => self.keep_segment(id, bytes, index),
            Outcome::Written(file, len) => {
                let kept = self.shelf.written(id, file, len);
                if !kept && let Some(disk) = &self.disk {
                    disk.remove(&temporary_name(id)).ok();
                }
                true
            }
            Outcome::Failed => false,
            Outcome::Stuck => {
                debug_assert!(false, "rows are read back as they were written");
                self.shelf.give_up(id);
                false
            }
        };
        if done {
            self.counters.sealed += 1;
        } else {
            self.counters.seal_errors += 1;
            self.seal_pause = PAUSE;
        }
    }

    /// False when it could not be written. A part that has left meanwhile is done with.
    fn keep_segment(&mut self, id: u64, mut bytes: Vec<u8>, index: Index) -> bool {
        let len = bytes.len() as u64;
        let room = if self.disk.is_some() {
            file_cost(len)
        } else {
            bytes.capacity() as u64
        };
        if self.make_room(room).is_err() || !self.shelf.holds(id) {
            return true;
        }
        let Some(disk) = &self.disk else {
            bytes.shrink_to_fit();
            self.shelf.seal_in_memory(id, bytes, index);
            return true;
        };
        match write_segment(&**disk, id, &bytes) {
            Ok(file) => {
                self.counters.bytes_written += len;
                self.shelf.directory_changed = true;
                self.shelf.written(id, file, len)
            }
            Err(_) => false,
        }
    }
}
