//! Seeded schedules of faults over the log on a simulated disk.
//!
//! Each schedule appends, trims, maintains and reopens a log while the disk fails, fills up, loses power,
//! and is replaced by copies of itself. A model holds what was acknowledged. At the end the disk is
//! damaged: then nothing may be wrong, and nothing missing without an error. Some logs defer their syncs:
//! a power cut may take what was not synced, and nothing else.

use std::{collections::BTreeMap, fs::File, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    SegmentLog, StoreOptions,
    engine::catch_panics,
    index_job::IndexMode,
    open::{OpenFailure, initialize},
    simulated_disk::{Disk, INDEX},
};
use crate::{
    Epoch, Position, Previous, Terms,
    log::{Bounds, DocumentKey, Log as _, LogError, Outcome, Submission},
};

/// What the schedules did, to show that each kind of fault had an effect.
#[derive(Clone, Debug, Default)]
pub struct SimulationCounts(pub BTreeMap<&'static str, u64>);

/// The submission that made an event: its sequence, and a random number in its payload.
type Entry = (u64, u64);

/// The number of documents that change.
const DOCUMENTS_COUNT: u64 = 5;

/// What must be in the log.
#[derive(Clone, Debug, Default)]
struct Model {
    /// The events by offset, from 1; `None` is one that a power cut took.
    events: Vec<Option<Entry>>,
    first: u64,
}

struct Run {
    rng: ChaCha8Rng,
    disk: Disk,
    log: Option<SegmentLog>,
    model: Model,
    /// The entries of a commit that failed: all or none of them are in the log.
    doubtful: Vec<Entry>,
    /// The upper end of a trimming that failed.
    doubtful_first: u64,
    copies: Vec<(Disk, Model)>,
    /// The log has had another history: a copy was restored, or a power cut took events.
    diverged: bool,
    /// Number of events that were synced.
    synced: usize,
    /// Number of events that the head's file knows, at least.
    known: usize,
    /// Positions that were read, with the events before them.
    positions: Vec<(Position, Vec<Option<Entry>>)>,
    now_ms: i64,
    options: StoreOptions,
    index_mode: IndexMode,
    counts: SimulationCounts,
    lock: Arc<File>,
}

/// Runs one schedule.
///
/// # Errors
///
/// Returns a description of the first violation.
pub fn simulate(seed: u64, lock: &Arc<File>) -> Result<SimulationCounts, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut options = StoreOptions::new(Epoch(rng.random()));
    options.cache_bytes = 64 << 10;
    options.segment_bytes = [2 << 10, 4 << 10, 16 << 10][rng.random_range(0..3)];
    if rng.random() {
        options.retention_age = Some(Duration::from_secs(60));
    }
    // Synced with each commit, at each maintenance, or only by what needs it.
    let intervals = [None, None, Some(Duration::ZERO), Some(Duration::MAX)];
    options.sync_interval = intervals[rng.random_range(0..4)];
    // At once, or in the maintenance after the next: commits and crashes come in between.
    let index_mode = [IndexMode::Inline, IndexMode::Held][rng.random_range(0..2)];
    let mut run = Run {
        rng,
        disk: Disk::default(),
        log: None,
        model: Model::default(),
        doubtful: Vec::new(),
        doubtful_first: 0,
        copies: Vec::new(),
        diverged: false,
        synced: 0,
        known: 0,
        positions: Vec::new(),
        now_ms: 1_000,
        options,
        index_mode,
        counts: SimulationCounts::default(),
        lock: Arc::clone(lock),
    };
    run.reopen(false)?;
    for step in 0..run.rng.random_range(4..24) {
        run.step()
            .map_err(|violation| format!("step {step}: {violation}"))?;
    }
    run.damage()
        .map_err(|violation| format!("damage: {violation}"))?;
    Ok(run.counts)
}

/// Opens the log on a disk; creates it if the disk is empty.
pub(super) fn open_on(
    disk: &Disk,
    options: &StoreOptions,
    lock: File,
) -> Result<SegmentLog, OpenFailure> {
    catch_panics(|| {
        let is_new = disk.content(INDEX).is_empty();
        let mut builder = redb::Database::builder();
        builder.set_cache_size(options.cache_bytes);
        builder.set_check_integrity_on_open(options.verify_on_open);
        let opened = (|| {
            let database = builder.create_with_backend(disk.index())?;
            if is_new {
                initialize(&database, options.epoch)?;
            }
            SegmentLog::from_database(database, Arc::new(disk.clone()), lock, options)
        })();
        Ok(opened)
    })?
}

impl Run {
    fn count(&mut self, what: &'static str) {
        *self.counts.0.entry(what).or_default() += 1;
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..20) {
            0..=7 => self.append(),
            8..=10 => {
                self.maintain();
                Ok(())
            }
            11 => {
                self.trim();
                Ok(())
            }
            12 => {
                let successes = self.rng.random_range(0..12);
                self.disk.fail_after(successes);
                Ok(())
            }
            13 => {
                let full = self
                    .rng
                    .random::<bool>()
                    .then(|| self.rng.random_range(0..6));
                self.disk.set_full_after(full);
                Ok(())
            }
            14 => {
                self.disk.fail_next_sync();
                Ok(())
            }
            15 => {
                let copy = (self.disk.after_kill(), self.model.clone());
                // With a commit in doubt, the model does not know what the copy holds.
                if self.doubtful.is_empty() && self.doubtful_first == 0 {
                    self.copies.push(copy);
                }
                Ok(())
            }
            16 if !self.copies.is_empty() => {
                let index = self.rng.random_range(0..self.copies.len());
                let (disk, model) = &self.copies[index];
                (self.disk, self.model) = (disk.after_kill(), model.clone());
                self.doubtful.clear();
                self.doubtful_first = 0;
                self.diverged = true;
                self.count("copy restored");
                self.reopen(false)
            }
            17 | 18 => {
                self.count("power cut");
                self.disk = self.disk.after_power_cut(&mut self.rng);
                self.reopen(self.options.sync_interval.is_some())
            }
            _ => {
                self.count("kill");
                self.disk = self.disk.after_kill();
                self.reopen(false)
            }
        }
    }

    fn append(&mut self) -> Result<(), String> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let next = self.model.events.len() as u64 + 1;
        let count = self.rng.random_range(1..6);
        let entries: Vec<Entry> = (next..next + count)
            .map(|it| (it, self.rng.random()))
            .collect();
        let size = [10, 300, 3_000][self.rng.random_range(0..3)];
        let batch = entries
            .iter()
            .map(|entry| submission(*entry, size))
            .collect();
        self.now_ms += self.rng.random_range(0..3_000);
        match log.append(batch, self.now_ms) {
            Ok(outcomes) => {
                if !outcomes.iter().all(|it| matches!(it, Outcome::Appended(_))) {
                    return Err(format!("appended as {outcomes:?}"));
                }
                self.model.events.extend(entries.into_iter().map(Some));
                self.count("append");
            }
            Err(error) if error.is_full() => self.count("full"),
            Err(_) => {
                self.doubtful = entries;
                // A trimming that was begun ends with the log.
                if log.running.as_ref().is_some_and(|running| running.trims) {
                    self.doubtful_first = self.model.events.len() as u64;
                }
                self.log = None;
                self.count("failed commit");
            }
        }
        self.read_position();
        Ok(())
    }

    /// Remembers a position at a random offset.
    fn read_position(&mut self) {
        if let Some(log) = &self.log {
            let offset = self.rng.random_range(0..=self.model.events.len());
            let position = Position::new(log.epoch(), offset as u64);
            self.positions
                .push((position, self.model.events[..offset].to_vec()));
        }
    }

    fn maintain(&mut self) {
        let Some(log) = &mut self.log else {
            return;
        };
        let passed = [0, 11_000, 50_000][self.rng.random_range(0..3)];
        self.now_ms += passed;
        for _ in 0..4 {
            match log.maintain(self.now_ms) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    // A trimming may have been in progress.
                    self.doubtful_first = self.model.events.len() as u64;
                    self.log = None;
                    self.count("failed maintenance");
                    return;
                }
            }
        }
        self.model.first = log.reader().bounds().first;
        if self.options.sync_interval == Some(Duration::ZERO) {
            self.synced = self.model.events.len();
        }
        let defers_syncs = self.options.sync_interval == Some(Duration::MAX);
        if passed > 0 && !defers_syncs && !self.disk.is_full() {
            self.known = self.model.events.len();
        }
    }

    fn trim(&mut self) {
        let Some(log) = &mut self.log else {
            return;
        };
        let upto = self.rng.random_range(0..=self.model.events.len() as u64);
        match log.trim(upto) {
            Err(error) if !error.is_full() => {
                // The one of the maintenance before may have trimmed more.
                self.doubtful_first = self.model.events.len() as u64;
                self.log = None;
            }
            _ => {
                self.model.first = log.reader().bounds().first;
                self.count("trim");
            }
        }
    }

    /// Opens the log as a new process does, and compares it with the model. Events that were not synced
    /// `may_be_lost`.
    fn reopen(&mut self, may_be_lost: bool) -> Result<(), String> {
        self.log = None;
        self.options.epoch = Epoch(self.rng.random());
        let lock = self.lock.try_clone().map_err(|error| error.to_string())?;
        let log = open_on(&self.disk, &self.options, lock);
        let mut log = log.map_err(|error| format!("the log does not open: {error:?}"))?;
        log.index_mode = self.index_mode;
        let reader = log.reader();
        let Bounds { first, head } = reader.bounds();
        let acknowledged = self.model.events.len() as u64;
        if head == acknowledged + self.doubtful.len() as u64 {
            self.model.events.extend(self.doubtful.drain(..).map(Some));
        } else if may_be_lost && (self.synced as u64..acknowledged).contains(&head) {
            self.model.events.truncate(head as usize);
            self.diverged = true;
            self.count("unsynced tail lost");
        } else if head != acknowledged {
            let doubtful = self.doubtful.len();
            return Err(format!(
                "head {head}, acknowledged {acknowledged}, in doubt {doubtful}"
            ));
        }
        self.doubtful.clear();
        let latest = self.model.first.max(self.doubtful_first);
        if !(self.model.first..=latest).contains(&first) {
            return Err(format!("first {first}, trimmed up to {}", self.model.first));
        }
        (self.model.first, self.doubtful_first) = (first, 0);
        let sequence = reader.producer("p").map_err(|error| error.to_string())?;
        if sequence.last_sequence != head {
            return Err(format!("sequence {}, head {head}", sequence.last_sequence));
        }
        for offset in check_events(&log, &self.model.events)? {
            let event = &mut self.model.events[offset as usize - 1];
            let is_unsynced = may_be_lost && offset > self.synced as u64;
            if event.is_some() && !is_unsynced {
                return Err(format!("the event {offset} is damaged"));
            }
            *event = None;
        }
        // Opening syncs the last segment. The others were synced when their successor was created.
        self.synced = self.model.events.len();
        self.known = self.synced;
        self.check_positions(&reader.terms())?;
        self.log = Some(log);
        Ok(())
    }

    fn check_positions(&mut self, terms: &Terms) -> Result<(), String> {
        let mut refused = 0;
        for (position, seen) in &self.positions {
            if !terms.contain(*position) {
                // Terms that ended before the first event are forgotten.
                refused += u64::from(position.offset >= self.model.first);
            } else if !self.model.contains(seen) {
                return Err(format!("{position} was read in another history"));
            }
        }
        if refused > 0 && !self.diverged {
            return Err(format!(
                "{refused} positions are refused in their own history"
            ));
        }
        *self.counts.0.entry("position refused").or_default() += refused;
        Ok(())
    }

    /// Damages a segment and opens the log once more.
    fn damage(&mut self) -> Result<(), String> {
        self.log = None;
        let disk = self.disk.after_kill();
        let segments = disk.segments();
        if segments.is_empty() {
            return Ok(());
        }
        let name = &segments[self.rng.random_range(0..segments.len())];
        let length = disk.content(name).len();
        match self.rng.random_range(0..5) {
            0 => disk.flip(
                name,
                self.rng.random_range(0..length),
                1 << self.rng.random_range(0..8),
            ),
            1 => disk.set_length(name, self.rng.random_range(0..length)),
            2 => disk.delete(name),
            3 => disk.copy(&segments[0], name),
            _ => disk.lose_writes(&mut self.rng),
        }
        let lock = self.lock.try_clone().map_err(|error| error.to_string())?;
        self.options.epoch = Epoch(self.rng.random());
        let log = open_on(&disk, &self.options, lock);
        let log = log.map_err(|error| format!("the log does not open: {error:?}"))?;
        let mut events = self.model.events.clone();
        events.extend(self.doubtful.drain(..).map(Some));
        if !check_events(&log, &events)?.is_empty() {
            self.count("damage found");
        }
        let head = log.reader().bounds().head;
        // Up to the head, what cannot be read is an error.
        if head < self.known as u64 {
            let known = self.known;
            return Err(format!("the head is {head}, {known} events were known"));
        }
        let terms = log.reader().terms();
        for (position, _) in &self.positions {
            if position.offset > head && terms.contain(*position) {
                return Err(format!("{position} is honoured, the head is {head}"));
            }
        }
        events.truncate(head as usize);
        check_changes(log, &events, self.now_ms)
    }
}

impl Model {
    /// Returns `true` if the log begins with these events, apart from those that were lost since.
    fn contains(&self, seen: &[Option<Entry>]) -> bool {
        let begin = self.events.get(..seen.len());
        let same = |(now, then): (&Option<Entry>, _)| now.is_none() || now == then;
        begin.is_some_and(|events| events.iter().zip(seen).all(same))
    }
}

/// Changes each document, and checks that the log claims nothing of it from before that is not so, and
/// that its version increases.
fn check_changes(mut log: SegmentLog, events: &[Option<Entry>], now_ms: i64) -> Result<(), String> {
    for number in 0..DOCUMENTS_COUNT {
        let batch = vec![Submission {
            producer: "q".into(),
            ..submission((number + 1, number), 10)
        }];
        let changes = (1..).zip(events);
        let changes = changes.filter_map(|(offset, entry)| Some((offset, (*entry)?.1)));
        let changes = changes.filter(|(_, random)| random % DOCUMENTS_COUNT == number);
        let changes: Vec<u64> = changes.map(|(offset, _)| offset).collect();
        let outcomes = log
            .append(batch, now_ms)
            .map_err(|error| error.to_string())?;
        let [Outcome::Appended(event)] = &outcomes[..] else {
            return Err(format!("appended as {outcomes:?}"));
        };
        let is_so = match event.previous {
            Previous::Unknown => true,
            Previous::Nothing => changes.is_empty(),
            Previous::At(offset) => changes.last() == Some(&offset),
            Previous::Read(_) => false,
        };
        let document: serde_json::Value =
            serde_json::from_slice(&event.data).map_err(|error| error.to_string())?;
        let increases = document["version"].as_u64() > Some(changes.len() as u64);
        if !is_so || !increases {
            return Err(format!("changes at {changes:?} precede {event:?}"));
        }
    }
    Ok(())
}

fn submission((sequence, random): Entry, size: usize) -> Submission {
    let document = DocumentKey::new("db", "c", format!("d{}", random % DOCUMENTS_COUNT));
    let text = "x".repeat(size);
    let data = format!("{{\"n\":{sequence},\"r\":\"{random}\",\"text\":\"{text}\"}}");
    Submission::new("p", sequence, document, data)
}

/// Compares all events that can be read with the expected ones, and returns the offsets of those that
/// cannot.
fn check_events(log: &SegmentLog, expected: &[Option<Entry>]) -> Result<Vec<u64>, String> {
    let reader = log.reader();
    let Bounds { first, head } = reader.bounds();
    let (mut after, mut missing) = (first, Vec::new());
    while after < head {
        match reader.read(after, 50, usize::MAX) {
            Ok(events) => {
                for event in events {
                    after += 1;
                    let entry = usize::try_from(after)
                        .ok()
                        .and_then(|at| *expected.get(at - 1)?);
                    let (sequence, random) = entry.ok_or("an event that nobody appended")?;
                    let wanted = format!("\"n\":{sequence},\"r\":\"{random}\"");
                    let data = String::from_utf8_lossy(&event.data);
                    if event.offset != after || !data.contains(&wanted) {
                        return Err(format!("offset {after} is {event:?}"));
                    }
                }
            }
            Err(LogError::Damaged { offset, .. }) if offset > after && offset <= head => {
                missing.extend(after + 1..=offset);
                after = offset;
            }
            Err(error) => return Err(format!("after {after}: {error}")),
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_schedules_of_disk_faults_lose_nothing() {
        let lock = Arc::new(tempfile::tempfile().unwrap());
        let mut counts = BTreeMap::new();
        for seed in 0..120 {
            match simulate(seed, &lock) {
                Ok(done) => {
                    for (what, count) in done.0 {
                        *counts.entry(what).or_insert(0) += count;
                    }
                }
                Err(violation) => panic!("seed {seed}: {violation}"),
            }
        }
        for what in [
            "append",
            "copy restored",
            "damage found",
            "failed commit",
            "failed maintenance",
            "full",
            "kill",
            "position refused",
            "power cut",
            "trim",
            "unsynced tail lost",
        ] {
            assert!(
                counts.get(what).is_some_and(|count| *count > 5),
                "{what}: {counts:?}"
            );
        }
    }
}
