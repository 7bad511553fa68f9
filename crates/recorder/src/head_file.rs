//! The format of a head's frames, and reading a head back from its file.
//!
//! A frame holds everything that one commit recorded: one or more entries, each a scrape of one
//! source. An entry is its kind, the source, the time since the source's entry before it, and for a
//! successful scrape one row per group of slots (see [`rows`](crate::rows)).

use std::borrow::Cow;

use crate::{
    bytes::{Input, Malformed, put_count, put_signed, put_varint},
    error::{Damage, DamageKind},
    frame::{FileKind, Frames, HEADER_BYTES, Header},
    options::SOURCES_MAX,
    parity::{Region, is_parity},
    part::HeadRows,
    repair::restore,
    rows::{Event, GROUP, GroupState, read_row},
    source_rows::{ScrapeTime, SourceRows},
};

/// The kind of a successful scrape's entry.
const SCRAPE: u8 = 1;
/// The kind of a failed scrape's entry.
const MISSED: u8 = 2;
/// A flag beside the kind: the number of catalog blocks that are needed from here on follows.
const CATALOG_BLOCKS: u8 = 0x10;

/// The beginning of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryStart {
    pub(crate) source: u32,
    pub(crate) missed: bool,
    /// The catalog blocks needed from here on, if other than before.
    pub(crate) catalog_blocks: Option<u64>,
    /// Milliseconds since the source's entry before it in the same head.
    pub(crate) step: i64,
}

impl EntryStart {
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        let kind = if self.missed { MISSED } else { SCRAPE };
        if let Some(blocks) = self.catalog_blocks {
            out.push(kind | CATALOG_BLOCKS);
            put_varint(out, blocks);
        } else {
            out.push(kind);
        }
        put_count(out, self.source as usize);
        put_signed(out, self.step);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let kind = input.byte()?;
        let catalog_blocks = if kind & CATALOG_BLOCKS == 0 {
            None
        } else {
            Some(input.varint()?)
        };
        let missed = match kind & !CATALOG_BLOCKS {
            SCRAPE => false,
            MISSED => true,
            _ => return Err(Malformed),
        };
        Ok(Self {
            source: input.count_up_to(SOURCES_MAX - 1)? as u32,
            missed,
            catalog_blocks,
            step: input.signed()?,
        })
    }
}

/// The content of a head's file.
#[derive(Debug)]
pub(crate) struct HeadFile {
    pub(crate) header: Header,
    /// Blocks of the catalog that the head needs.
    pub(crate) catalog_blocks: u64,
    pub(crate) rows: HeadRows,
    /// The last successful scrape of each source.
    pub(crate) states: Vec<SourceState>,
    /// The length of the part that can be read.
    pub(crate) intact_len: u64,
    /// The region at the end of that part.
    pub(crate) region: Region,
    /// The first damage that was restored, unless there is damage that was not.
    pub(crate) damage: Option<Damage>,
}

/// The last successful scrape of a source in a head.
#[derive(Debug, Default)]
pub(crate) struct SourceState {
    pub(crate) groups: Vec<GroupState>,
    pub(crate) timestamps: Vec<(u32, i64)>,
}

impl HeadFile {
    /// Reads a head's file up to the first damaged place that cannot be restored.
    pub(crate) fn read(id: u64, bytes: &[u8]) -> Result<Self, Damage> {
        let mut bytes = Cow::Borrowed(bytes);
        let mut restored = None;
        let header = match Header::read(&bytes, FileKind::Head, id) {
            Err(kind @ DamageKind::Checksum) => {
                restored = restore(id, bytes.to_mut(), 0, &Region::default());
                Header::read(&bytes, FileKind::Head, id).map_err(|_| kind)
            }
            read => read,
        };
        let header = header.map_err(|kind| FileKind::Head.damage(id, 0, kind))?;
        let mut head = Self {
            header,
            catalog_blocks: 0,
            rows: Vec::new(),
            states: Vec::new(),
            intact_len: HEADER_BYTES as u64,
            region: Region::default(),
            damage: None,
        };
        loop {
            head.damage = head.read_frames(id, &bytes);
            let Some(damage) = &head.damage else { break };
            let offset = head.intact_len as usize;
            let may_be_restored =
                matches!(damage.kind, DamageKind::Checksum | DamageKind::Truncated);
            // The earliest heads have no parity, and any bytes might pass for it.
            if !may_be_restored || !header.has_parity() {
                break;
            }
            let Some(place) = restore(id, bytes.to_mut(), offset, &head.region) else {
                break;
            };
            restored.get_or_insert(place);
        }
        // A file that ends early behind a restored place is not one that can be continued.
        if let Some(place) = restored
            && head.damage.as_ref().is_none_or(Damage::is_truncation)
        {
            let kind = DamageKind::Restored(place.len());
            head.damage = Some(FileKind::Head.damage(id, place.start as u64, kind));
        }
        Ok(head)
    }

    /// Reads the frames behind the part that is read already.
    fn read_frames(&mut self, id: u64, bytes: &[u8]) -> Option<Damage> {
        let mut start = self.intact_len as usize;
        let mut frames = Frames::at(FileKind::Head, id, bytes, start);
        while let Some(payload) = frames.next() {
            if is_parity(payload) {
                self.region.end();
            } else if self.apply(payload).is_err() {
                // It may have changed `states` in part, so that no later frame can be decoded.
                frames.reject(payload);
            } else {
                // The first region begins with the file's header.
                let from = if start == HEADER_BYTES { 0 } else { start };
                self.region.add(&bytes[from..frames.intact_len() as usize]);
            }
            start = frames.intact_len() as usize;
        }
        self.intact_len = frames.intact_len();
        frames.damage()
    }

    fn apply(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let mut input = Input::new(payload);
        while !input.is_empty() {
            self.apply_entry(&mut input)?;
        }
        Ok(())
    }

    fn apply_entry(&mut self, input: &mut Input<'_>) -> Result<(), Malformed> {
        let start = EntryStart::read(input)?;
        self.catalog_blocks = start.catalog_blocks.unwrap_or(self.catalog_blocks);
        let source = start.source as usize;
        // Reading the entry has bounded the source, so that damage cannot ask for a huge vector.
        if source >= self.rows.len() {
            self.rows.resize_with(source + 1, || None);
            self.states.resize_with(source + 1, SourceState::default);
        }
        let slot = &mut self.rows[source];
        let last = slot.as_ref().and_then(|rows| rows.times.last());
        // Wrapping, as the writer subtracts: a clock may step by any amount.
        let time = last.unwrap_or_default().wrapping_add(start.step);
        if start.missed {
            let missed = ScrapeTime { time, missed: true };
            slot.get_or_insert_default().push(missed);
            return Ok(());
        }
        read_scrape(input, slot, &mut self.states[source], time)
    }
}

fn read_scrape(
    input: &mut Input<'_>,
    slot: &mut Option<SourceRows>,
    state: &mut SourceState,
    time: i64,
) -> Result<(), Malformed> {
    let groups_before = slot.as_ref().map_or(0, SourceRows::groups);
    // Every row has at least one byte, so that a damaged count cannot ask for more memory.
    let groups = input.count_up_to(input.len())?;
    // Groups only grow within a head: fewer would leave a group without its row.
    if groups < groups_before {
        return Err(Malformed);
    }
    state.groups.resize_with(groups, GroupState::default);
    state.timestamps.clear();
    let mut group_rows = Vec::with_capacity(groups);
    for group in 0..groups {
        let start = input.rest();
        let timestamps = &mut state.timestamps;
        read_row(input, &mut state.groups[group], |event| {
            if let Event::Timestamp(at, offset) = event {
                timestamps.push(((group * GROUP) as u32 + u32::from(at), offset));
            }
        })?;
        group_rows.push(&start[..start.len() - input.len()]);
    }
    // Stored only once every row is read: a malformed one leaves the rows before this scrape whole.
    let rows = slot.get_or_insert_default();
    for (group, row) in group_rows.into_iter().enumerate() {
        rows.push_row(group, row);
    }
    rows.push_scrape(time, state.timestamps.iter());
    Ok(())
}
