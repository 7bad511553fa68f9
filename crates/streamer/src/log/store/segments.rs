//! The segments of a log: commits are appended to the last one, and events are read from all.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Instant,
};

use super::{
    disk::{DIRECTORY, Disk, DiskFile, open_error, removed, write_error},
    reads::{CHUNK, Reads, read, read_all},
    segment::{CommitBuffer, Kind, RECORDS, Record, Records, SegmentHeader, content_end},
};
use crate::log::{
    DurationHistogram, Durations, KnownNames, LogError,
    encoding::{DecodeError, StoredEvent},
};

/// Distance of two entries of a segment's index, in bytes.
const INDEX_INTERVAL: usize = 8 << 10;
/// Length of a segment that no commit needs, in bytes. Shorter in tests, which append to one.
const LENGTH_MAX: u64 = if cfg!(test) { 32 << 20 } else { 4 << 30 };
const SUFFIX: &str = ".seg";

/// All segments that can be read, oldest first.
#[derive(Debug)]
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    list: RwLock<Vec<Arc<Segment>>>,
    /// The durations of the syncs of commits.
    syncs: DurationHistogram,
}

#[derive(Debug)]
struct Segment {
    header: SegmentHeader,
    length: usize,
    /// Offset and place of some events, in order; `None` until the segment is read.
    index: Mutex<Option<Vec<(u64, usize)>>>,
}

/// The writing side. After an error other than a lack of space, it must not be used again.
#[derive(Debug)]
pub(super) struct Appender {
    segments: Arc<Segments>,
    active: Option<Active>,
    next_id: u64,
    salt: u64,
    segment_bytes: usize,
    /// Commits are synced by [`Appender::sync`], not by themselves.
    defers_syncs: bool,
    /// Size of all records and of the rest of each segment but the last, the trimmed ones included.
    bytes: u64,
    /// Memory of the last commit.
    memory: Vec<u8>,
}

/// The segment that commits are appended to.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    /// Place of the next commit.
    end: usize,
    /// Place up to which a failed commit may have left bytes.
    dirty: usize,
    /// It has commits that are not synced.
    is_unsynced: bool,
}

/// One step of [`Segments::visit`].
#[derive(Debug)]
pub(super) enum Visited {
    /// The next event, and the size of all records and rests of segments before it, the trimmed ones included.
    Event(StoredEvent, u64),
    /// All events up to this offset are damaged or missing.
    Damaged { upto: u64, error: DecodeError },
}

impl Segments {
    /// Opens the segments in a directory.
    ///
    /// Cuts the last segment after its last whole commit, and calls `replay` with each later record
    /// than `applied_upto`, in order. Events up to `committed_upto` are never cut. With `deferred_syncs`,
    /// all records after `applied_upto` may be unsynced, not only the last commit. Returns the head that
    /// the segments show.
    pub(super) fn recover(
        disk: Arc<dyn Disk>,
        applied_upto: u64,
        committed_upto: u64,
        segment_bytes: usize,
        salt: u64,
        deferred_syncs: bool,
        mut replay: impl FnMut(&Record<'_>),
    ) -> Result<(Appender, u64), LogError> {
        let ids = ids(&*disk)?;
        // Damaged segments count: a new one must not replace a file that may still be repaired.
        let next_id = ids.last().map_or(1, |id| id + 1);
        let mut list: Vec<Arc<Segment>> = Vec::new();
        for id in ids {
            match Segment::open(&*disk, id)? {
                Ok(segment) => list.push(Arc::new(segment)),
                Err(error) => {
                    tracing::error!(segment = id, %error, "a segment is damaged");
                }
            }
        }
        // Segments may share a base: a commit of producers alone does not move the head.
        list.sort_by_key(|segment| (segment.header.base, segment.header.id));
        let (mut head, mut bytes) = (0, 0);
        let mut active = None;
        for (index, segment) in list.iter().enumerate() {
            let next = list.get(index + 1);
            // Everything up to the base was committed, whatever is left of it.
            head = head.max(segment.header.base);
            // Strictly: with an equal base, this segment may end with producers that are not
            // applied.
            if next.is_some_and(|next| next.header.base < applied_upto) {
                continue;
            }
            let name = file_name(segment.header.id);
            let file = match next {
                None => disk.open(&name),
                Some(_) => disk.open_to_read(&name),
            };
            let file = file.map_err(|error| open_error(&name, error))?;
            let content = read_all(&*file, segment.length)?;
            let scan = Scan::new(segment.header, &content, committed_upto, next.is_some());
            for record in scan.kept() {
                if record.kind == Kind::Event {
                    head = head.max(record.offset);
                }
                if record.offset > applied_upto
                    // Its offset is the head, which may have been applied before this commit. Twice
                    // does no harm.
                    || (record.kind == Kind::Producer && record.offset == applied_upto)
                {
                    replay(&record);
                }
            }
            *segment.index() = Some(scan.index());
            if next.is_none() {
                // Only the last one can have a torn commit: the others were clean when their
                // successor was created.
                let from = if deferred_syncs {
                    scan.first_after(applied_upto)
                } else {
                    scan.last_commit
                };
                scan.cut(&content, &*file, from)?;
                bytes = segment.header.bytes_before(scan.end);
                // One of an earlier, larger limit could not be removed for long.
                let is_usable = segment.length <= segment_bytes.saturating_mul(2)
                    && segment.header.is_current();
                active = is_usable.then(|| Active {
                    segment: Arc::clone(segment),
                    file,
                    end: scan.end,
                    dirty: scan.end,
                    is_unsynced: false,
                });
            }
        }
        let list = RwLock::new(list);
        let appender = Appender {
            segments: Arc::new(Self {
                disk,
                list,
                syncs: DurationHistogram::default(),
            }),
            active,
            next_id,
            salt,
            segment_bytes,
            defers_syncs: deferred_syncs,
            bytes,
            memory: Vec::new(),
        };
        Ok((appender, head))
    }

    /// Calls `each` with the events after `after`, up to `upto` or until it returns `false`. A run of
    /// damaged or missing events is one call.
    pub(super) fn visit(
        &self,
        after: u64,
        upto: u64,
        each: impl FnMut(Visited) -> bool,
    ) -> Result<(), LogError> {
        self.visit_in(&mut Reads::of_many(), after, upto, each)
    }

    /// Does the same as [`Self::visit`], as one of several visits.
    pub(super) fn visit_in(
        &self,
        reads: &mut Reads,
        after: u64,
        upto: u64,
        mut each: impl FnMut(Visited) -> bool,
    ) -> Result<(), LogError> {
        let mut next = after + 1;
        while next <= upto {
            let (segment, end) = self.find(next);
            let end = end.min(upto);
            if let Some(segment) = segment
                && !self.visit_segment(&segment, reads, &mut next, end, &mut each)?
            {
                return Ok(());
            }
            // What the segment should have and does not is reported as one run.
            if next <= end {
                let error = DecodeError::Missing;
                if !each(Visited::Damaged { upto: end, error }) {
                    return Ok(());
                }
                next = end + 1;
            }
        }
        Ok(())
    }

    /// Visits the events from `next` to `end` that the segment has. Returns `false` if `each` did.
    fn visit_segment(
        &self,
        segment: &Segment,
        reads: &mut Reads,
        next: &mut u64,
        end: u64,
        each: &mut impl FnMut(Visited) -> bool,
    ) -> Result<bool, LogError> {
        let id = segment.header.id;
        let file = match &reads.open {
            Some((known, file)) if *known == id => Arc::clone(file),
            // Not kept beyond a few visits, so that a long log does not hold a descriptor per segment.
            _ => match self.disk.open_to_read(&file_name(id)) {
                // Removed by somebody else: its events are missing. A trimmed segment is not in the list.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                opened => {
                    let file = opened.map_err(|error| open_error(&file_name(id), error))?;
                    reads.open(id, &file);
                    file
                }
            },
        };
        let mut at = reads.nearest(*next, segment.place_before(*next, &*file)?);
        let mut size = reads.first;
        let mut names = KnownNames::default();
        while at < segment.length && *next <= end {
            let part = reads.from(&*file, at, size.min(segment.length - at))?;
            let mut records = Records::new(segment.header, at, part);
            for record in records.by_ref() {
                // The index is sparse, so that the place found is usually a few records too early.
                if record.kind != Kind::Event || record.offset < *next {
                    continue;
                }
                if record.offset > end {
                    return Ok(true);
                }
                let body = record.body();
                let stored =
                    body.and_then(|body| StoredEvent::decode(record.offset, body, &mut names));
                let damaged_before = record.offset > *next;
                // Offsets have no holes, so that a skipped one was a record whose header is
                // damaged.
                if damaged_before {
                    let (upto, error) = (record.offset - 1, DecodeError::Missing);
                    if !each(Visited::Damaged { upto, error }) {
                        return Ok(false);
                    }
                }
                // Before the callback, so that an event is not visited again if it ends the visit.
                *next = record.offset + 1;
                let goes_on = match stored {
                    Ok(stored) => {
                        let bytes_before = segment.header.bytes_before(record.at);
                        each(Visited::Event(stored, bytes_before))
                    }
                    Err(error) => each(Visited::Damaged {
                        upto: record.offset,
                        error,
                    }),
                };
                if !goes_on || *next > end {
                    reads.last = (record.offset, record.at);
                    return Ok(goes_on);
                }
            }
            // A record that the part does not hold entirely is read again with a larger one.
            if records.searched() > at {
                at = records.searched();
                size = CHUNK;
            } else if at + part.len() >= segment.length {
                break;
            } else {
                size *= 4;
            }
            reads.read_again();
        }
        Ok(true)
    }

    /// Returns the segment that should have the event, and the last offset that it should have. There
    /// is none before the oldest segment.
    fn find(&self, offset: u64) -> (Option<Arc<Segment>>, u64) {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        // The base is the head before the segment, so that its first event has the next offset.
        let later = list.partition_point(|segment| segment.header.base < offset);
        let end = list
            .get(later)
            .map_or(u64::MAX, |segment| segment.header.base);
        let segment = later.checked_sub(1).map(|index| Arc::clone(&list[index]));
        (segment, end)
    }

    /// Returns the name of the file that should have the event.
    pub(super) fn file_of(&self, offset: u64) -> Option<String> {
        let (segment, _) = self.find(offset);
        segment.map(|segment| file_name(segment.header.id))
    }

    /// Returns the names of the files that are no segments, although they are named so.
    pub(super) fn unreadable(&self) -> Result<Vec<(String, DecodeError)>, LogError> {
        let mut unreadable = Vec::new();
        for id in ids(&*self.disk)? {
            if let Err(error) = Segment::open(&*self.disk, id)? {
                unreadable.push((file_name(id), error));
            }
        }
        Ok(unreadable)
    }

    /// Returns the number of the files, their size in bytes, and the durations of syncs.
    pub(super) fn stats(&self) -> (usize, u64, Durations) {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = list.iter().map(|segment| segment.length as u64).sum();
        (list.len(), bytes, self.syncs.snapshot())
    }

    /// Returns the names of the files.
    pub(super) fn file_names(&self) -> Vec<String> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let names = list.iter().map(|segment| file_name(segment.header.id));
        names.collect()
    }

    #[cfg(test)]
    pub(super) fn bases(&self) -> Vec<u64> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().map(|segment| segment.header.base).collect()
    }

    /// Removes the segments whose events are all trimmed.
    pub(super) fn remove_before(&self, first: u64) {
        // Files are removed outside the lock, for which readers would wait.
        let removed: Vec<_> = {
            let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
            // Never the last one, which commits are appended to.
            let later = list.iter().skip(1);
            let count = later.take_while(|next| next.header.base <= first).count();
            list.drain(..count).collect()
        };
        for segment in removed {
            let id = segment.header.id;
            if let Err(error) = self.disk.remove(&file_name(id)) {
                // It is removed by the first trimming after the next start.
                tracing::warn!(segment = id, %error, "a trimmed segment cannot be removed");
            }
        }
    }
}

impl Segment {
    /// Opens a segment. Returns the error inside if it is damaged.
    fn open(disk: &dyn Disk, id: u64) -> Result<Result<Self, DecodeError>, LogError> {
        let name = file_name(id);
        let file = disk.open_to_read(&name);
        let file = file.map_err(|error| open_error(&name, error))?;
        let length = file.length().map_err(LogError::storage)?;
        // Somebody may have appended more than fits into memory.
        let length = usize::try_from(length.min(LENGTH_MAX)).map_err(LogError::storage)?;
        let encoded = read(&*file, 0, RECORDS.min(length))?;
        let header = SegmentHeader::decode(&encoded);
        if let Err(source @ DecodeError::UnknownFormat(_)) = header {
            // Not damage: the version that wrote it can still read it.
            let what = format!("segment {id}");
            return Err(LogError::DamagedState { what, source });
        }
        let header = header.and_then(|header| {
            // Another file under this name would answer for events that it does not have.
            let is_this = header.id == id;
            is_this.then_some(header).ok_or(DecodeError::Invalid)
        });
        Ok(header.map(|header| Self {
            header,
            length,
            index: Mutex::new(None),
        }))
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Option<Vec<(u64, usize)>>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the places of some events, a part of the file at a time.
    fn read_index(&self, file: &dyn DiskFile) -> Result<Vec<(u64, usize)>, LogError> {
        let mut index = Vec::new();
        let (mut at, mut size) = (RECORDS, CHUNK);
        while at < self.length {
            let part = read(file, at, size.min(self.length - at))?;
            let mut records = Records::new(self.header, at, &part);
            let events = records.by_ref().filter(|it| it.kind == Kind::Event);
            add_to_index(&mut index, events.map(|it| (it.offset, it.at)));
            if records.searched() > at {
                (at, size) = (records.searched(), CHUNK);
            } else if at + part.len() >= self.length {
                break;
            } else {
                // A record that the part does not hold entirely.
                size *= 4;
            }
        }
        Ok(index)
    }

    /// Returns a place at or before the event.
    fn place_before(&self, offset: u64, file: &dyn DiskFile) -> Result<usize, LogError> {
        let mut index = self.index();
        // Under the lock: several readers of an old segment scan it once.
        if index.is_none() {
            *index = Some(self.read_index(file)?);
        }
        let entries = index.as_deref().unwrap_or_default();
        let later = entries.partition_point(|(known, _)| *known <= offset);
        Ok(later.checked_sub(1).map_or(RECORDS, |at| entries[at].1))
    }
}

impl Appender {
    pub(super) fn segments(&self) -> Arc<Segments> {
        Arc::clone(&self.segments)
    }

    /// Returns the size of all records and of the rest of each segment but the last, the trimmed ones included.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Begins a commit of records of at most `bound` bytes to a log with this head. Nothing is written
    /// before [`Self::commit`], except that a new segment may be created.
    ///
    /// The checksums include the segment and the place, so that records can only be encoded once both
    /// are known.
    pub(super) fn begin(&mut self, head: u64, bound: usize) -> Result<CommitBuffer, LogError> {
        if let Some(active) = &mut self.active {
            // Even if the commit goes to another segment: in a sealed one every record counts.
            active.clean()?;
        }
        // A file never grows: after a change of its length, a sync would have to write metadata as
        // well. Offsets are stored in 32 bits.
        let fits = |active: &Active| {
            active.end + bound <= active.segment.length
                && head - active.segment.header.base < u64::from(u32::MAX >> 1)
        };
        let active = match self.active.take() {
            Some(active) if fits(&active) => active,
            full => {
                // Before its successor has a commit: only the tail of the log may be unsynced.
                if let Some(mut full) = full {
                    full.sync(&self.segments.syncs)?;
                    // With what no commit fitted into: the limit of retention is one of the files.
                    // The last commit may end behind the end of a file that somebody has cut.
                    let rest = full.segment.length.saturating_sub(full.end);
                    self.bytes += (RECORDS + rest) as u64;
                }
                self.create(head, bound)?
            }
        };
        let active = self.active.insert(active);
        let memory = std::mem::take(&mut self.memory);
        Ok(CommitBuffer::new(active.segment.header, active.end, memory))
    }

    /// Appends the records of a commit that was begun last, with one write and, unless syncs are deferred,
    /// one sync.
    pub(super) fn commit(&mut self, mut buffer: CommitBuffer) -> Result<(), LogError> {
        let active = self.active.as_mut();
        let active = active.expect("`begin` has chosen a segment");
        let bytes = buffer.finish();
        // Before the write: it may fail after a part.
        active.dirty = active.end + bytes.len();
        active
            .file
            .write(active.end as u64, bytes)
            .map_err(write_error)?;
        active.is_unsynced = true;
        if !self.defers_syncs {
            active.sync(&self.segments.syncs)?;
        }
        // Writing to a removed file succeeds, and the commit would vanish with the process.
        let Some(length) = active.file.linked_length().map_err(LogError::storage)? else {
            return Err(removed(&file_name(active.segment.header.id)));
        };
        // Somebody cut the file, and with it earlier commits.
        if length < active.segment.length as u64 {
            let (name, whole) = (file_name(active.segment.header.id), active.segment.length);
            let cut = format!("the file {name} was cut: it should have {whole} bytes");
            return Err(LogError::storage(cut));
        }
        // Only after the sync. A commit that failed before it is overwritten by the next one.
        active.end = active.dirty;
        self.bytes = active.segment.header.bytes_before(active.end);
        let mut index = active.segment.index();
        add_to_index(
            index.get_or_insert_default(),
            buffer.events().iter().copied(),
        );
        drop(index);
        self.memory = buffer.into_memory();
        Ok(())
    }

    /// Makes all commits durable.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        match &mut self.active {
            Some(active) => active.sync(&self.segments.syncs),
            None => Ok(()),
        }
    }

    fn create(&mut self, head: u64, bound: usize) -> Result<Active, LogError> {
        let header = SegmentHeader::new(
            self.next_id,
            head,
            self.bytes,
            self.salt.wrapping_add(self.next_id),
        );
        let length = self
            .segment_bytes
            // A commit never spans two segments, so that a large one gets a segment of its size.
            .max(RECORDS + bound)
            .next_multiple_of(4_096);
        let name = file_name(header.id);
        let created = self
            .segments
            .disk
            .create(&name, length as u64, &header.encode());
        let file = created.map_err(write_error)?;
        // Only after success: a creation that failed is repeated under the same number.
        self.next_id += 1;
        let segment = Arc::new(Segment {
            header,
            length,
            index: Mutex::new(Some(Vec::new())),
        });
        let mut list = self
            .segments
            .list
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        list.push(Arc::clone(&segment));
        Ok(Active {
            segment,
            file,
            end: RECORDS,
            dirty: RECORDS,
            is_unsynced: false,
        })
    }
}

impl Active {
    fn sync(&mut self, syncs: &DurationHistogram) -> Result<(), LogError> {
        if self.is_unsynced {
            let began = Instant::now();
            self.file.sync().map_err(LogError::storage)?;
            syncs.add(began.elapsed());
            self.is_unsynced = false;
        }
        Ok(())
    }

    /// Removes what a failed commit left. Otherwise its records would appear after a shorter commit.
    fn clean(&mut self) -> Result<(), LogError> {
        if self.dirty > self.end {
            let zeros = vec![0; self.dirty - self.end];
            self.file
                .write(self.end as u64, &zeros)
                .map_err(write_error)?;
            self.file.sync().map_err(LogError::storage)?;
            self.dirty = self.end;
        }
        Ok(())
    }
}

/// The records of a segment.
struct Scan<'a> {
    records: Vec<Record<'a>>,
    /// Place after the last record that is kept.
    end: usize,
    /// Place of the last whole commit.
    last_commit: usize,
}

impl<'a> Scan<'a> {
    /// Scans a segment. Every record of a `sealed` one is kept. Otherwise those after the last whole
    /// commit are the rest of an interrupted one, except for those of commits with events up to
    /// `committed_upto`: what is missing among them is damage.
    fn new(header: SegmentHeader, content: &'a [u8], committed_upto: u64, sealed: bool) -> Self {
        let part = content.get(RECORDS..).unwrap_or_default();
        let records: Vec<_> = Records::new(header, RECORDS, part).collect();
        let (mut end, mut last_commit) = (RECORDS, RECORDS);
        let (mut expected, mut begin, mut whole) = (RECORDS, RECORDS, true);
        // The head before the commit.
        let (mut head, mut shown) = (header.base, header.base);
        for record in &records {
            // A record at another place than expected means that one before it is damaged.
            whole &= record.at == expected && record.body().is_ok();
            expected = record.end();
            if record.is_end {
                if whole {
                    // A later whole commit keeps a damaged one before it: writing went on after
                    // that one's sync.
                    (last_commit, end) = (begin, expected);
                }
                (begin, whole) = (expected, true);
            }
            // The state of a producer has the new head as its offset, so that this also holds for those
            // that were committed with events.
            if sealed || (record.offset > head && record.offset <= committed_upto) {
                end = end.max(record.end());
            }
            shown = shown.max(record.offset);
            if record.is_end {
                head = shown;
            }
        }
        Self {
            records,
            end,
            last_commit,
        }
    }

    fn kept(&self) -> impl Iterator<Item = Record<'a>> {
        let kept = self.records.iter().copied();
        kept.take_while(|record| record.at < self.end)
    }

    fn index(&self) -> Vec<(u64, usize)> {
        let mut index = Vec::new();
        let events = self.kept().filter(|record| record.kind == Kind::Event);
        add_to_index(&mut index, events.map(|record| (record.offset, record.at)));
        index
    }

    /// Returns the place of the first record that the index may not know, or of the last commit.
    fn first_after(&self, applied_upto: u64) -> usize {
        let mut records = self.kept();
        // A state of a producer has the head as its offset, which may have been applied before.
        let first = records.find(|record| {
            record.offset > applied_upto
                || (record.kind == Kind::Producer && record.offset == applied_upto)
        });
        first.map_or(self.last_commit, |record| record.at.min(self.last_commit))
    }

    /// Makes the commits from this place on durable, and removes what follows the last one.
    ///
    /// They are written again: if their sync failed before, the system may have dropped their pages
    /// or hold them as clean, and another sync would not write them.
    fn cut(&self, content: &[u8], file: &dyn DiskFile, from: usize) -> Result<(), LogError> {
        // Up to the last byte that is not zero: the rest of the file needs no write.
        let dirty = content_end(content, self.end);
        if dirty > self.end {
            let bytes = dirty - self.end;
            tracing::warn!(
                bytes,
                "the log ends with an interrupted commit, which is dropped"
            );
        }
        if dirty > from {
            // A file may be cut in the padding of its last record.
            let mut tail = content[from..self.end.min(content.len())].to_vec();
            // One write for both: the commits again, and zeros over what follows them.
            tail.resize(dirty - from, 0);
            file.write(from as u64, &tail).map_err(LogError::storage)?;
        }
        // Also without a write: a killed process may have left zeros over records of a failed commit,
        // and a power cut could bring these back into a file that is sealed by then.
        file.sync().map_err(LogError::storage)
    }
}

fn add_to_index(index: &mut Vec<(u64, usize)>, events: impl IntoIterator<Item = (u64, usize)>) {
    for (offset, at) in events {
        let last = index.last().map_or(0, |(_, at)| *at);
        if at >= last + INDEX_INTERVAL || index.is_empty() {
            index.push((offset, at));
        }
    }
}

pub(super) fn file_name(id: u64) -> String {
    format!("{id:020}{SUFFIX}")
}

/// Returns the numbers of the segments in a directory, in order.
fn ids(disk: &dyn Disk) -> Result<Vec<u64>, LogError> {
    let names = disk.names().map_err(|error| open_error(DIRECTORY, error))?;
    // Files of other names are not ours, and are left alone.
    let id = |name: &String| name.strip_suffix(SUFFIX)?.parse().ok();
    let mut ids: Vec<u64> = names.iter().filter_map(id).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Removes all segments.
pub(super) fn remove_all(disk: &dyn Disk) -> Result<(), LogError> {
    for id in ids(disk)? {
        disk.remove(&file_name(id)).map_err(LogError::storage)?;
    }
    Ok(())
}
