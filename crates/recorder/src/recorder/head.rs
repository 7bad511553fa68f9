//! The head: the part of the record that commits append to.

use std::sync::Arc;

use super::storage::{Storage, file_cost};
use crate::{
    bytes::put_count,
    error::WriteError,
    frame::{FileKind, Header, Log},
    head_file::EntryStart,
    part::{HeadRows, Part, PartData, memory_of, span_of},
    rows::{GROUP, put_row},
    source::Source,
    source_rows::{ScrapeTime, SourceRows},
    span::Span,
};

/// The head of a record.
#[derive(Debug)]
pub(super) struct Head {
    log: Log,
    /// The catalog blocks that the frames so far say they need.
    catalog_blocks: u64,
    /// The rows by source, as far as there are sources with rows.
    rows: HeadRows,
}

/// The position of an entry in a frame that is not written yet.
#[derive(Debug)]
pub(super) struct EncodedEntry {
    source: u32,
    /// The offsets in the frame between which the rows of the groups are, `None` for a failed scrape.
    row_ends: Option<Vec<usize>>,
}

impl EncodedEntry {
    pub(super) fn source(&self) -> u32 {
        self.source
    }
}

impl Head {
    pub(super) fn new(id: u64, catalog: u64, record: u16) -> Self {
        Self::with_log(Log::new(Header {
            record,
            ..Header::new(FileKind::Head, id, catalog)
        }))
    }

    /// Creates the head that follows this one.
    pub(super) fn next(&self, id: u64, catalog: u64) -> Self {
        Self::with_log(Log::following(id, catalog, &self.log))
    }

    fn with_log(log: Log) -> Self {
        Self {
            log,
            catalog_blocks: 0,
            rows: Vec::new(),
        }
    }

    /// Continues a head that was read from its file. The next frame says again which catalog blocks are
    /// needed.
    pub(super) fn resumed(log: Log, rows: HeadRows) -> Self {
        Self {
            rows,
            ..Self::with_log(log)
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.log.id()
    }

    pub(super) fn record(&self) -> u16 {
        self.log.header().record
    }

    /// Returns the length of the file. In memory it is the length that a file would have.
    pub(super) fn len(&self) -> u64 {
        self.log.len()
    }

    pub(super) fn is_new(&self) -> bool {
        self.log.is_empty()
    }

    pub(super) fn span(&self) -> Option<Span> {
        span_of(&self.rows)
    }

    pub(super) fn memory(&self) -> u64 {
        memory_of(&self.rows)
    }

    /// Returns the size of the file with a next frame, or of the file as it is.
    pub(super) fn file_cost(&self, frame: Option<&[u8]>) -> u64 {
        file_cost(frame.map_or(self.log.len(), |frame| self.log.len_with(frame)))
    }

    /// Returns the number of scrapes of the source that has most.
    pub(super) fn scrapes(&self) -> usize {
        let rows = self.rows.iter().flatten();
        rows.map(|rows| rows.times.scrapes.len()).max().unwrap_or(0)
    }

    fn rows(&self, source: u32) -> Option<&SourceRows> {
        self.rows.get(source as usize)?.as_ref()
    }

    fn rows_mut(&mut self, source: u32) -> &mut SourceRows {
        let source = source as usize;
        if source >= self.rows.len() {
            self.rows.resize_with(source + 1, || None);
        }
        self.rows[source].get_or_insert_default()
    }

    /// Appends an entry to the payload of a frame: the staged scrape of a source, or a failed one.
    /// `catalog_blocks` are given for the first entry of a frame.
    pub(super) fn encode_entry(
        &self,
        source: u32,
        staged: Option<&Source>,
        time: i64,
        catalog_blocks: Option<u64>,
        frame: &mut Vec<u8>,
    ) -> EncodedEntry {
        let rows = self.rows(source);
        let last = rows.and_then(|rows| rows.times.last()).unwrap_or_default();
        EntryStart {
            source,
            missed: staged.is_none(),
            // Most frames need no more of the catalog than the one before, and say nothing.
            catalog_blocks: catalog_blocks.filter(|blocks| *blocks != self.catalog_blocks),
            step: time.wrapping_sub(last),
        }
        .put(frame);
        let groups_before = rows.map_or(0, SourceRows::groups);
        EncodedEntry {
            source,
            row_ends: staged.map(|source| encode_rows(source, groups_before, frame)),
        }
    }

    /// Writes a frame, and returns the number of bytes that were put in front of it.
    pub(super) fn append(
        &mut self,
        frame: &mut Vec<u8>,
        catalog_blocks: u64,
        storage: &mut Storage,
    ) -> Result<usize, WriteError> {
        let in_front = storage.append(&mut self.log, frame)?;
        self.catalog_blocks = catalog_blocks;
        Ok(in_front)
    }

    /// Adds an entry of the frame that was written last. `in_front` bytes were put in front of the frame
    /// since the entry was encoded.
    pub(super) fn apply(
        &mut self,
        entry: &EncodedEntry,
        time: i64,
        (frame, in_front): (&[u8], usize),
        source: &mut Source,
    ) {
        let head_id = self.id();
        let rows = self.rows_mut(entry.source);
        let Some(row_ends) = &entry.row_ends else {
            rows.push(ScrapeTime { time, missed: true });
            // `last_head` stays, because a failed scrape has no values that eviction could remove.
            source.last = Some((time, true));
            return;
        };
        let groups_before = rows.groups();
        for (group, ends) in row_ends.windows(2).enumerate() {
            rows.push_row(group, &frame[in_front + ends[0]..in_front + ends[1]]);
        }
        rows.push_scrape(time, source.staged.timestamps().iter());
        source.commit_staged(groups_before);
        source.last = Some((time, false));
        source.last_head = head_id;
    }

    /// Returns the head as a part, for readers. `None` if it has no scrape.
    pub(super) fn to_part(&self) -> Option<Part> {
        // Full chunks are shared with the clone. Only the tails are copied.
        Some(self.part(self.span()?, self.rows.clone()))
    }

    fn part(&self, span: Span, rows: HeadRows) -> Part {
        Part {
            id: self.id(),
            record: self.record(),
            catalog: self.log.header().catalog,
            catalog_blocks: self.catalog_blocks,
            span,
            data: PartData::Rows(Arc::new(rows)),
        }
    }

    /// Closes the head. Returns its part, cost and log, or `None` if it has no scrape. Its file, which
    /// exists if the first frame could not be written, is removed then.
    pub(super) fn close(mut self, storage: &mut Storage) -> Option<(Part, u64, Log)> {
        let Some(span) = self.span() else {
            if self.log.has_file() {
                // A file that stays is empty, and the next opening removes it.
                storage.remove(&self.log.name()).ok();
            }
            return None;
        };
        let cost = if storage.is_memory() {
            self.memory()
        } else {
            self.file_cost(None)
        };
        let rows = std::mem::take(&mut self.rows);
        Some((self.part(span, rows), cost, self.log))
    }

    pub(super) fn take_unsynced(&mut self) -> Option<Arc<dyn crate::disk::DiskFile>> {
        self.log.take_unsynced()
    }
}

/// Appends the row of each group. Returns the offsets in the frame at which rows begin and end.
fn encode_rows(source: &Source, groups_before: usize, frame: &mut Vec<u8>) -> Vec<usize> {
    let groups = source.groups();
    put_count(frame, groups);
    let mut ends = Vec::with_capacity(groups + 1);
    ends.push(frame.len());
    let mut timestamps = source.staged.timestamps().iter().peekable();
    for group in 0..groups {
        // A reader of the head knows no values of the group from before its first row.
        let before = if group < groups_before {
            source.newest.group(group)
        } else {
            (&[0; GROUP][..], 0)
        };
        let mut own = Vec::new();
        while let Some((slot, offset)) =
            timestamps.next_if(|(slot, _)| *slot as usize / GROUP == group)
        {
            own.push(((*slot as usize % GROUP) as u8, *offset));
        }
        put_row(frame, before, source.staged.group(group), &own);
        ends.push(frame.len());
    }
    ends
}
