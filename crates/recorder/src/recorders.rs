//! Recorders that share one budget.
//!
//! Each keeps a record of its own, so that what leaves to make room for one is not bound to be the
//! history of another:
//!
//! ```text
//!   DIR/lock                                 held as long as the recorders are
//!   DIR/http%3A%2F%2Flocalhost%3A9100.record/     one recorder's files
//!   DIR/http%3A%2F%2Flocalhost%3A9101.record/     another's
//! ```

mod place;
mod share;

use std::{
    fs::{self, File},
    io,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    time::Instant,
};

use self::place::{place_of, records_in};
use crate::{
    error::OpenError,
    options::{BUDGET_MIN, Grant, Options},
    reader::Reader,
    recorder::{OpenReport, Recorder, SyncJob, SyncOutcome, lock, open_read_only_at},
    stats::Stats,
};

/// One of several [`Recorders`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecorderId(usize);

/// Recorders that share one budget, one for each name; together they never have more.
///
/// Half of the budget is theirs in equal shares: a recorder that has no more than its share loses
/// nothing to the others, however much these write. The rest is whose data is newest: the oldest of
/// all leaves first. What cannot leave, such as the names of the series there are, is bounded by an equal
/// share of the whole budget.
///
/// In a directory, records of names that nobody asks for any more stay readable until room is needed;
/// they have no share, and they are removed with the last of their data.
#[derive(Debug)]
pub struct Recorders {
    options: Options,
    directory: Option<PathBuf>,
    _lock: Option<File>,
    members: Vec<Member>,
    /// Records in the directory that nobody has asked for since it was opened.
    left: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    /// Its directory in that of all; empty if it is that. In memory the name it would have.
    place: String,
    recorder: Recorder,
    /// What it has, as of its last turn.
    used: u64,
}

/// One recorder's turn. What it records meanwhile finds room, as much as was asked for from all of
/// them, and more from its own oldest data.
#[derive(Debug)]
pub struct RecorderGuard<'a> {
    member: &'a mut Member,
}

/// What is to be made durable, on any thread. Give the result to [`Recorders::finish_sync`].
#[derive(Debug)]
pub struct SyncJobs(Vec<(usize, SyncJob)>);

/// What came out of [`SyncJobs`].
#[derive(Debug)]
#[must_use = "the recorders have to be told"]
pub struct SyncOutcomes(Vec<(usize, SyncOutcome)>);

impl Recorders {
    /// Records in memory. The budget covers all of them.
    pub fn in_memory(options: Options) -> Result<Self, OpenError> {
        least(&options, 1)?;
        Ok(Self {
            options,
            directory: None,
            _lock: None,
            members: Vec::new(),
            left: Vec::new(),
        })
    }

    /// Opens the records in `dir`, which is made if it is not there, and goes on with them; see
    /// [`Recorder::open`].
    pub fn open(dir: &Path, options: Options) -> Result<(Self, OpenReport), OpenError> {
        least(&options, 1)?;
        let lock = lock(dir)?;
        let mut opened = OpenReport::default();
        let mut left = Vec::new();
        for place in records_in(dir).map_err(|error| at(dir, error))? {
            let (recorder, found) = if place.is_empty() {
                Recorder::open_unlocked(dir, options.clone(), None)?
            } else {
                Recorder::open(&dir.join(&place), options.clone())?
            };
            opened.add(found, &place);
            left.push(Member::new(place, recorder));
        }
        let mut recorders = Self {
            options,
            directory: Some(dir.to_owned()),
            _lock: Some(lock),
            members: Vec::new(),
            left,
        };
        recorders.make_room(0);
        Ok((recorders, opened))
    }

    /// Finds the recorder of this name, or adds it.
    ///
    /// # Errors
    ///
    /// When the budget is too small for one more, or its directory can not be opened.
    pub fn recorder(&mut self, name: &str) -> Result<RecorderId, OpenError> {
        let place = place_of(name);
        let named = |member: &Member| member.place == place;
        if let Some(at) = self.members.iter().position(named) {
            return Ok(RecorderId(at));
        }
        least(&self.options, self.members.len() + 1)?;
        let member = if let Some(at) = self.left.iter().position(named) {
            self.left.swap_remove(at)
        } else {
            let recorder = match &self.directory {
                Some(dir) => {
                    let (recorder, _) = Recorder::open(&dir.join(&place), self.options.clone())?;
                    sync_directory(dir).map_err(|error| at(dir, error))?;
                    recorder
                }
                None => Recorder::in_memory(self.options.clone())?,
            };
            Member::new(place, recorder)
        };
        self.members.push(member);
        Ok(RecorderId(self.members.len() - 1))
    }

    /// Gives a recorder its turn, with room for a scrape of about so many samples.
    ///
    /// # Panics
    ///
    /// When `member` is of other recorders.
    pub fn reserve(&mut self, member: RecorderId, samples: usize) -> RecorderGuard<'_> {
        let share = self.options.budget / self.members.len() as u64;
        let limit = self.options.budget;
        let recorder = &mut self.members[member.0].recorder;
        recorder.grant(Grant { limit, share });
        let wants = recorder.wants(samples);
        self.make_room(wants);
        let others = self.used() - self.members[member.0].used;
        let member = &mut self.members[member.0];
        let limit = limit.saturating_sub(others);
        member.recorder.grant(Grant { limit, share });
        RecorderGuard { member }
    }

    /// A reader of what all of them have recorded now. What is recorded later it does not see.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let all = self.members.iter().chain(&self.left);
        Reader::of_all(all.map(|member| member.recorder.snapshot_in(&member.place)))
    }

    /// What all of them have and did, in numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let all = self.members.iter().chain(&self.left);
        let stats = all.map(|member| member.recorder.stats());
        Stats {
            budget: self.options.budget,
            ..stats.fold(Stats::default(), Stats::with)
        }
    }

    /// What one of them has and did. Its budget is what it may have at the moment.
    ///
    /// # Panics
    ///
    /// When `member` is of other recorders.
    #[must_use]
    pub fn stats_of(&self, member: RecorderId) -> Stats {
        self.members[member.0].recorder.stats()
    }

    /// Takes out what has to be done to make everything committed so far durable; see
    /// [`Recorder::begin_sync`]. Nothing in memory, and when everything is.
    pub fn begin_sync(&mut self, now: Instant) -> Option<SyncJobs> {
        let members = self.members.iter_mut().enumerate();
        let jobs = members.filter_map(|(at, member)| Some((at, member.recorder.begin_sync(now)?)));
        let jobs: Vec<_> = jobs.filter(|(_, job)| !job.is_empty()).collect();
        (!jobs.is_empty()).then_some(SyncJobs(jobs))
    }

    /// Takes in what [`SyncJobs`] did.
    ///
    /// # Errors
    ///
    /// The first, with the record it is of; see [`Recorder::finish_sync`]. The others are taken in all the
    /// same.
    pub fn finish_sync(&mut self, synced: SyncOutcomes) -> io::Result<()> {
        let mut result = Ok(());
        for (at, synced) in synced.0 {
            let member = &mut self.members[at];
            let taken = member.recorder.finish_sync(synced);
            member.used = member.recorder.claim().used;
            let place = &member.place;
            let taken =
                taken.map_err(|error| io::Error::new(error.kind(), format!("{place}: {error}")));
            result = result.and(taken);
        }
        result
    }

    /// Makes everything committed so far durable, on this thread.
    pub fn sync(&mut self, now: Instant) -> io::Result<()> {
        match self.begin_sync(now) {
            Some(jobs) => self.finish_sync(jobs.run()),
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        let all = self.members.iter().chain(&self.left);
        all.map(|member| member.used).sum()
    }

    /// Lets parts go until `bytes` more fit, or none is left that can.
    fn make_room(&mut self, bytes: u64) {
        while self.used() + bytes > self.options.budget && self.spare() {}
    }

    /// Lets one part go, or an empty record. False when there is none.
    fn spare(&mut self) -> bool {
        if self.remove_empty() {
            return true;
        }
        for member in &mut self.left {
            member.recorder.retire();
        }
        let guaranteed = share::guaranteed(self.options.budget, self.members.len());
        let members = self.members.iter().map(|member| (member, guaranteed));
        let all = members.chain(self.left.iter().map(|member| (member, 0)));
        let claims: Vec<_> = all
            .map(|(member, guaranteed)| (member.recorder.claim(), guaranteed))
            .collect();
        let Some(at) = share::sparing(&claims) else {
            return false;
        };
        let member = match at.checked_sub(self.members.len()) {
            None => &mut self.members[at],
            Some(at) => &mut self.left[at],
        };
        let spared = member.recorder.spare();
        member.used = member.recorder.claim().used;
        spared
    }

    /// Removes the records that nobody asks for and in which nothing is. False when none could be.
    fn remove_empty(&mut self) -> bool {
        let Some(directory) = &self.directory else {
            return false;
        };
        let before = self.left.len();
        self.left
            .retain(|member| !member.recorder.is_bare() || member.remove(directory).is_err());
        self.left.len() < before
    }
}

impl Member {
    fn new(place: String, recorder: Recorder) -> Self {
        let used = recorder.claim().used;
        Self {
            place,
            recorder,
            used,
        }
    }

    /// Removes its directory. What is not the record's stays, and its directory with it.
    fn remove(&self, dir: &Path) -> io::Result<()> {
        self.recorder.remove_files()?;
        if self.place.is_empty() {
            return Ok(());
        }
        let own = dir.join(&self.place);
        fs::remove_file(own.join(crate::recorder::LOCK))?;
        fs::remove_dir(own)
    }
}

impl SyncJobs {
    /// Does the work; takes as long as the disk does.
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
        self.member.used = self.member.recorder.claim().used;
    }
}

/// Opens the records in `dir` to read them, also while recorders write to it: what is committed by
/// then is seen, and nothing is changed. It may also be the directory of one [`Recorder`].
pub fn open_read_only(dir: &Path) -> Result<(Reader, OpenReport), OpenError> {
    let mut opened = OpenReport::default();
    let mut snapshots = Vec::new();
    for place in records_in(dir).map_err(|error| at(dir, error))? {
        let (mut snapshot, found) = match open_read_only_at(&dir.join(&place)) {
            // It was removed since.
            Err(OpenError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read?,
        };
        snapshot.place.clone_from(&place);
        opened.add(found, &place);
        snapshots.push(snapshot);
    }
    Ok((Reader::of_all(snapshots), opened))
}

fn least(options: &Options, members: usize) -> Result<(), OpenError> {
    let least = BUDGET_MIN * members as u64;
    if options.budget < least {
        let budget = options.budget;
        return Err(OpenError::Budget { budget, least });
    }
    Ok(())
}

fn at(dir: &Path, error: io::Error) -> OpenError {
    let path = dir.to_owned();
    OpenError::Io { path, error }
}

/// Makes a new directory inside durable.
fn sync_directory(dir: &Path) -> io::Result<()> {
    use crate::disk::{Directory, Disk as _};
    Directory::new(dir).sync()
}
