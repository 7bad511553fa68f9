//! Work between commits: writing documents, trimming old events, forgetting idle producers.

use super::{
    SegmentLog, StoreOptions,
    disk::{DIRECTORY, is_refused_open, open_error, removed},
    engine::INDEX_FILE,
    head::{self, HEAD_FILE, HeadFile},
    index_job::{Expiry, Removal},
    reads::Reads,
    segments::Visited,
};
use crate::log::{Bounds, LogError, PRODUCER_LIFETIME_MS, age_clock::AgeClock, with_sources};

/// Interval of the search for events beyond the retention limits.
const RETENTION_INTERVAL_MS: i64 = 1_000;
/// Interval of the search for idle producers.
const PRODUCERS_INTERVAL_MS: i64 = 60 * 60 * 1_000;
/// Minimum step by which the age clock catches up with the system's.
const AGE_STEP_MIN_MS: i64 = 10_000;
/// Maximum age of the documents' table, so that snapshots are recent.
const APPLY_INTERVAL_MS: i64 = 10_000;

/// The retention limits, and the times at which each kind of work was last completed.
#[derive(Debug)]
pub(super) struct Maintenance {
    retention_age_ms: Option<i64>,
    retention_bytes: Option<u64>,
    pub(super) applied_ms: i64,
    retention_checked_ms: Option<i64>,
    stepped_ms: Option<i64>,
    pub(super) producers_checked_ms: Option<i64>,
    /// The system refuses to open files, which was reported.
    is_refused: bool,
}

impl Maintenance {
    pub(super) fn new(options: &StoreOptions) -> Self {
        Self {
            retention_age_ms: options
                .retention_age
                .map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
            retention_bytes: options.retention_bytes,
            applied_ms: 0,
            retention_checked_ms: None,
            stepped_ms: None,
            producers_checked_ms: None,
            is_refused: false,
        }
    }
}

impl SegmentLog {
    /// Does one slice of the work that is due, and returns `true` if more is due.
    pub(super) fn maintain_slice(&mut self, now_ms: i64) -> Result<bool, LogError> {
        if self.sync_due().is_some_and(|due| due.is_zero()) {
            self.sync()?;
        }
        self.advance_head(now_ms)?;
        if !self.finish_index_job(false)? {
            return Ok(false);
        }
        let applied_ms = self.maintenance.applied_ms;
        if self.documents.is_due()
            || (!self.documents.is_empty() && is_due(Some(applied_ms), APPLY_INTERVAL_MS, now_ms))
        {
            self.apply(now_ms)?;
            return Ok(true);
        }
        let checked_ms = self.maintenance.producers_checked_ms;
        if is_due(checked_ms, PRODUCERS_INTERVAL_MS, now_ms) {
            self.maintenance.producers_checked_ms = Some(now_ms);
            let oldest_ms = self.clock.now_ms(now_ms) - PRODUCER_LIFETIME_MS;
            self.begin_index_job(Removal::Producers { oldest_ms })?;
            return Ok(true);
        }
        let checked_ms = self.maintenance.retention_checked_ms;
        if !is_due(checked_ms, RETENTION_INTERVAL_MS, now_ms) {
            return Ok(false);
        }
        match self.retain(now_ms) {
            // Commits go on in the file that is open. What was due is due again after the interval.
            Err(error) if is_refused_open(&error) => {
                self.maintenance.retention_checked_ms = Some(now_ms);
                if !std::mem::replace(&mut self.maintenance.is_refused, true) {
                    let error = with_sources(&error);
                    tracing::warn!(error, "the retention of the log waits");
                }
                Ok(false)
            }
            Ok(false) => {
                self.maintenance.retention_checked_ms = Some(now_ms);
                self.maintenance.is_refused = false;
                Ok(false)
            }
            result => result,
        }
    }

    /// Begins to remove what exceeds the retention limits, and returns `true` if anything does. Otherwise looks
    /// for files that somebody removed.
    fn retain(&mut self, now_ms: i64) -> Result<bool, LogError> {
        // Ages follow the age clock. Intervals follow the system's, because `is_due` tolerates
        // a jump.
        let expiry = Expiry {
            age_max_ms: self.maintenance.retention_age_ms,
            bytes_max: self.maintenance.retention_bytes,
            now_ms: self.step_clock(now_ms),
            bytes: self.appender.bytes(),
        };
        if self.is_oldest_over(expiry)? {
            let upto = self.shared.bounds().head;
            let expiry = Some(expiry);
            // The search is repeated after each slice.
            self.begin_index_job(Removal::Events { upto, expiry })?;
            return Ok(true);
        }
        // Appending checks only its own file. This finds that an older segment or the index was
        // removed.
        self.check_files()?;
        Ok(false)
    }

    /// Brings the index up to the head.
    pub(super) fn apply(&mut self, now_ms: i64) -> Result<(), LogError> {
        self.begin_index_job(Removal::Nothing)?;
        self.maintenance.applied_ms = now_ms;
        Ok(())
    }

    /// Returns `true` if the oldest event that can be read exceeds a limit.
    fn is_oldest_over(&self, expiry: Expiry) -> Result<bool, LogError> {
        let mut is_over = false;
        if expiry.age_max_ms.is_some() || expiry.bytes_max.is_some() {
            let Bounds { first, head } = self.shared.bounds();
            let mut reads = Reads::of_single_events();
            let segments = &self.shared.segments;
            segments.visit_in(&mut reads, first, head, |visited| match visited {
                Visited::Event(stored, bytes_before) => {
                    is_over = expiry.is_over(&stored, bytes_before);
                    false
                }
                Visited::Damaged { .. } => true,
            })?;
        }
        Ok(is_over)
    }

    /// Names the head in its file, if that is due.
    fn advance_head(&mut self, now_ms: i64) -> Result<(), LogError> {
        let head = self.shared.bounds().head;
        // What is not synced may vanish without anybody's doing, and would be called damage.
        if self.unsynced_since.is_none()
            && let Some(file) = &mut self.head_file
            && file.is_behind(head)
            && is_due(file.written_ms, head::INTERVAL_MS, now_ms)
            && let Err(error) = file.advance(head, now_ms)
            // What the file says stays true.
            && !error.is_full()
        {
            return Err(error);
        }
        Ok(())
    }

    /// Advances the age clock. One step ages events by at most a thousandth of the retention age more
    /// than the time that passed, so that little is trimmed before somebody sees that a clock is wrong.
    fn step_clock(&mut self, now_ms: i64) -> i64 {
        // Not for each slice of one trimming.
        if !is_due(self.maintenance.stepped_ms, RETENTION_INTERVAL_MS, now_ms) {
            return self.clock.now_ms(now_ms);
        }
        self.maintenance.stepped_ms = Some(now_ms);
        let passed = self.stepped.elapsed();
        self.stepped += passed;
        let step_ms = self
            .maintenance
            .retention_age_ms
            .map_or(AgeClock::STEP_MS, |age| {
                (age / 1_000).clamp(AGE_STEP_MIN_MS, AgeClock::STEP_MS)
            });
        self.clock.advance(now_ms, passed, step_ms)
    }

    /// Returns an error if a file of the log was removed, or replaced while it is open: what is written to it
    /// would be lost.
    fn check_files(&self) -> Result<(), LogError> {
        let names = self.disk.names();
        let names = names.map_err(|error| open_error(DIRECTORY, error))?;
        let segments = self.shared.segments.file_names();
        if let Some(name) = segments.iter().find(|name| !names.contains(name)) {
            return Err(removed(name));
        }
        let head = self.head_file.as_ref().map(HeadFile::file);
        let open = [(INDEX_FILE, self.index_file.as_ref()), (HEAD_FILE, head)];
        for (name, file) in open {
            if let Some(file) = file
                && file.linked_length().map_err(LogError::storage)?.is_none()
            {
                return Err(removed(name));
            }
        }
        Ok(())
    }
}

/// Returns `true` if `interval_ms` has passed since `last`, or the clock was set back.
fn is_due(last: Option<i64>, interval_ms: i64, now_ms: i64) -> bool {
    last.is_none_or(|last| now_ms < last || now_ms.saturating_sub(last) >= interval_ms)
}
