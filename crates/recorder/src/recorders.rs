//! Recorders that share one budget.
//!
//! Each recorder has a record of its own, so that one does not displace the history of another:
//!
//! ```text
//!   DIR/lock                                      locked as long as the recorders are open
//!   DIR/http%3A%2F%2Flocalhost%3A9100.record/     the files of one recorder
//!   DIR/http%3A%2F%2Flocalhost%3A9101.record/     the files of another
//! ```

mod directory;
mod eviction;

use std::{
    fs::{self, File},
    io,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
};

use self::directory::{directory_of, record_directories};
use crate::{
    disk::{Directory, Disk as _},
    error::{OpenError, SyncError},
    options::{BUDGET_MIN, Options},
    reader::Reader,
    recorder::{Budget, LOCK, OpenReport, Recorder, SyncJob, SyncOutcome, lock, read_snapshot},
    stats::Stats,
};

/// The id of a recorder in its [`Recorders`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecorderId(usize);

/// Recorders that share one budget, one per name.
///
/// Half of the budget is reserved in equal shares: a recorder that does not exceed its share loses
/// nothing to the others, however much they write. The other half goes to the newest data of any
/// recorder. Data that cannot be evicted, such as the labels of current series, is limited to a part of
/// an equal share of the whole budget.
///
/// Records in the directory that no recorder continues stay readable until their space is needed. They
/// have no share, and are removed with the last of their data.
///
/// ```
/// use steadfast_recorder::{Options, Recorders};
///
/// let mut recorders = Recorders::in_memory(Options::default())?;
/// let node = recorders.recorder("http://localhost:9100/metrics")?;
/// let source = recorders.reserve(node, 0).source("http://localhost:9100/metrics")?;
/// recorders.reserve(node, 0).missed(source, 1_700_000_000_000)?;
/// assert_eq!(recorders.stats().counters.missed, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Recorders {
    options: Options,
    directory: Option<PathBuf>,
    /// Keeps the directory locked.
    _lock: Option<File>,
    members: Vec<Member>,
    /// Records in the directory that no recorder continues.
    orphans: Vec<Member>,
}

/// A recorder and its use of the budget.
#[derive(Debug)]
struct Member {
    /// The name of the record's directory, also in memory.
    directory: String,
    recorder: Recorder,
    /// The size of the record when the last guard was dropped.
    used: u64,
}

/// Exclusive access to one recorder, with space for one scrape. A larger scrape evicts the recorder's
/// own oldest data.
#[derive(Debug)]
pub struct RecorderGuard<'a> {
    member: &'a mut Member,
}

/// The [`SyncJob`]s of several recorders. Run them on any thread, and give the outcomes to
/// [`Recorders::finish_sync`].
#[derive(Debug)]
pub struct SyncJobs(Vec<(usize, SyncJob)>);

/// The outcomes of [`SyncJobs`].
#[derive(Debug)]
#[must_use = "the recorders wait for the outcomes"]
pub struct SyncOutcomes(Vec<(usize, SyncOutcome)>);

impl Recorders {
    /// Creates records in memory. The budget covers the memory of all.
    ///
    /// # Errors
    ///
    /// If the budget is below [`BUDGET_MIN`].
    pub fn in_memory(options: Options) -> Result<Self, OpenError> {
        check_budget(&options, 1)?;
        Ok(Self {
            options,
            directory: None,
            _lock: None,
            members: Vec::new(),
            orphans: Vec::new(),
        })
    }

    /// Opens the records in `dir`, which is created if necessary. See [`Recorder::open`].
    ///
    /// # Errors
    ///
    /// See [`Recorder::open`].
    pub fn open(dir: &Path, options: Options) -> Result<(Self, OpenReport), OpenError> {
        check_budget(&options, 1)?;
        let lock = lock(dir)?;
        let mut report = OpenReport::default();
        let mut orphans = Vec::new();
        for directory in record_directories(dir).map_err(|error| io_error(dir, error))? {
            // Each may have the whole budget here. `make_room` below enforces it for the sum.
            let (recorder, found) = Recorder::open(&dir.join(&directory), options.clone())?;
            report.add(found, &directory);
            orphans.push(Member::new(directory, recorder));
        }
        let mut recorders = Self {
            options,
            directory: Some(dir.to_owned()),
            _lock: Some(lock),
            members: Vec::new(),
            orphans,
        };
        recorders.make_room(0);
        Ok((recorders, report))
    }

    /// Opens the records in `dir` for reading, also while recorders write to them. The reader sees
    /// everything committed so far. Nothing is changed.
    ///
    /// # Errors
    ///
    /// If a directory cannot be read, or a newer version wrote to it.
    pub fn open_read_only(dir: &Path) -> Result<(Reader, OpenReport), OpenError> {
        let mut report = OpenReport::default();
        let mut snapshots = Vec::new();
        for directory in record_directories(dir).map_err(|error| io_error(dir, error))? {
            let (mut snapshot, found) = match read_snapshot(&dir.join(&directory)) {
                // The recorders removed the record since.
                Err(OpenError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                read => read?,
            };
            report.add(found, &directory);
            snapshot.directory = directory;
            snapshots.push(snapshot);
        }
        Ok((Reader::new(snapshots), report))
    }

    /// Finds the recorder of this name, or adds it. Its record continues if there is one.
    ///
    /// # Errors
    ///
    /// If the budget is below [`BUDGET_MIN`] per recorder, or the record cannot be opened.
    pub fn recorder(&mut self, name: &str) -> Result<RecorderId, OpenError> {
        let directory = directory_of(name);
        let is_named = |member: &Member| member.directory == directory;
        if let Some(at) = self.members.iter().position(is_named) {
            return Ok(RecorderId(at));
        }
        // A share below the minimum could not hold the current series of all recorders.
        check_budget(&self.options, self.members.len() + 1)?;
        let member = if let Some(at) = self.orphans.iter().position(is_named) {
            // Ids are indexes of `members` alone: the order of orphans means nothing.
            self.orphans.swap_remove(at)
        } else {
            let options = self.options.clone();
            let recorder = match &self.directory {
                Some(dir) => {
                    let (recorder, _) = Recorder::open(&dir.join(&directory), options)?;
                    // A power cut must not lose the new directory with the synced files in it.
                    let synced = Directory::new(dir).sync();
                    synced.map_err(|error| io_error(dir, error))?;
                    recorder
                }
                None => Recorder::in_memory(options)?,
            };
            Member::new(directory, recorder)
        };
        self.members.push(member);
        Ok(RecorderId(self.members.len() - 1))
    }

    /// Frees space for a scrape of about `samples` samples, and gives access to its recorder.
    ///
    /// # Panics
    ///
    /// If `recorder` is of other recorders.
    pub fn reserve(&mut self, recorder: RecorderId, samples: usize) -> RecorderGuard<'_> {
        let share = self.options.budget / self.members.len() as u64;
        let limit = self.options.budget;
        let own = &mut self.members[recorder.0].recorder;
        // First, because the estimate depends on the share, which shrinks with every new recorder.
        own.set_budget(Budget { limit, share });
        let bytes = own.estimate(samples);
        self.make_room(bytes);
        // What the estimate missed is evicted from the recorder's own data, never from others'.
        let others = self.used() - self.members[recorder.0].used;
        let member = &mut self.members[recorder.0];
        let limit = limit.saturating_sub(others);
        member.recorder.set_budget(Budget { limit, share });
        RecorderGuard { member }
    }

    /// Creates a reader of everything that all recorders have committed so far.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.all().map(|member| {
            let mut snapshot = member.recorder.snapshot();
            snapshot.directory.clone_from(&member.directory);
            snapshot
        }))
    }

    /// Returns the statistics of all recorders together.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let stats = self.all().map(|member| member.recorder.stats());
        Stats {
            budget: self.options.budget,
            ..stats.fold(Stats::default(), Stats::merge)
        }
    }

    /// Returns the statistics of one recorder. Its budget is the space that it may use at the moment.
    ///
    /// # Panics
    ///
    /// If `recorder` is of other recorders.
    #[must_use]
    pub fn stats_of(&self, recorder: RecorderId) -> Stats {
        self.members[recorder.0].recorder.stats()
    }

    /// Hands out the work of making everything committed so far durable. Returns `None` in memory, and
    /// if everything is durable. See [`Recorder::begin_sync`].
    pub fn begin_sync(&mut self) -> Option<SyncJobs> {
        let members = self.members.iter_mut().enumerate();
        let jobs = members.filter_map(|(at, member)| Some((at, member.recorder.begin_sync()?)));
        let jobs: Vec<_> = jobs.filter(|(_, job)| !job.is_empty()).collect();
        (!jobs.is_empty()).then_some(SyncJobs(jobs))
    }

    /// Completes a sync of all recorders.
    ///
    /// # Errors
    ///
    /// The first error, after all syncs are completed. See [`Recorder::finish_sync`].
    pub fn finish_sync(&mut self, outcomes: SyncOutcomes) -> Result<(), SyncError> {
        let mut result = Ok(());
        for (at, outcome) in outcomes.0 {
            let member = &mut self.members[at];
            // Every outcome is taken, also after an error: each recorder waits for its own.
            let finished = member.recorder.finish_sync(outcome);
            member.update_usage();
            result = result.and(finished.map_err(|error| SyncError {
                directory: member.directory.clone(),
                error,
            }));
        }
        result
    }

    /// Makes everything committed so far durable, on this thread.
    ///
    /// # Errors
    ///
    /// See [`Recorders::finish_sync`].
    pub fn sync(&mut self) -> Result<(), SyncError> {
        match self.begin_sync() {
            Some(jobs) => self.finish_sync(jobs.run()),
            None => Ok(()),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().chain(&self.orphans)
    }

    fn used(&self) -> u64 {
        self.all().map(|member| member.used).sum()
    }

    /// Evicts parts until `bytes` more fit, as far as there are parts to evict.
    fn make_room(&mut self, bytes: u64) {
        while self.used() + bytes > self.options.budget && self.evict() {}
    }

    /// Removes an empty record, or evicts one part. Returns false if there is neither.
    fn evict(&mut self) -> bool {
        if self.remove_empty() {
            return true;
        }
        for orphan in &mut self.orphans {
            // No commit will ever close the head of an orphan, and only closed parts can be evicted.
            orphan.recorder.retire();
        }
        let reserved = eviction::reserved(self.options.budget, self.members.len());
        let members = self.members.iter().map(|member| (member, reserved));
        // Orphans have no share, so that all of their data competes.
        let all = members.chain(self.orphans.iter().map(|orphan| (orphan, 0)));
        let usages: Vec<_> = all
            .map(|(member, reserved)| (member.recorder.usage(), reserved))
            .collect();
        let Some(at) = eviction::choose(&usages) else {
            return false;
        };
        let mut all = self.members.iter_mut().chain(&mut self.orphans);
        all.nth(at).is_some_and(|member| {
            let evicted = member.recorder.evict();
            member.update_usage();
            evicted
        })
    }

    /// Removes the records without data that no recorder continues. Returns false if none was removed.
    fn remove_empty(&mut self) -> bool {
        let Some(directory) = &self.directory else {
            return false;
        };
        let before = self.orphans.len();
        self.orphans
            .retain(|orphan| !orphan.recorder.is_empty() || orphan.remove(directory).is_err());
        self.orphans.len() < before
    }
}

impl Member {
    fn new(directory: String, recorder: Recorder) -> Self {
        let used = recorder.usage().used;
        Self {
            directory,
            recorder,
            used,
        }
    }

    fn update_usage(&mut self) {
        self.used = self.recorder.usage().used;
    }

    /// Removes the record's files and its directory, except that foreign files and their directory stay.
    fn remove(&self, dir: &Path) -> io::Result<()> {
        self.recorder.remove_files()?;
        let own = dir.join(&self.directory);
        fs::remove_file(own.join(LOCK))?;
        fs::remove_dir(own)
    }
}

impl SyncJobs {
    /// Does the work, which takes as long as the disk does.
    pub fn run(self) -> SyncOutcomes {
        let run = |(at, job): (usize, SyncJob)| (at, job.run());
        SyncOutcomes(self.0.into_iter().map(run).collect())
    }
}

impl Deref for RecorderGuard<'_> {
    type Target = Recorder;

    fn deref(&self) -> &Recorder {
        &self.member.recorder
    }
}

impl DerefMut for RecorderGuard<'_> {
    fn deref_mut(&mut self) -> &mut Recorder {
        &mut self.member.recorder
    }
}

impl Drop for RecorderGuard<'_> {
    fn drop(&mut self) {
        self.member.update_usage();
    }
}

fn check_budget(options: &Options, recorders: usize) -> Result<(), OpenError> {
    let least = BUDGET_MIN * recorders as u64;
    if options.budget < least {
        let budget = options.budget;
        return Err(OpenError::Budget { budget, least });
    }
    Ok(())
}

fn io_error(dir: &Path, error: io::Error) -> OpenError {
    let path = dir.to_owned();
    OpenError::Io { path, error }
}
