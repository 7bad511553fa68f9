//! A sealed part of the record: the scrapes of a head, by series.
//!
//! A header; per group of slots one block with a chunk for each series; the index: per source its
//! times and its blocks with their checksums; and at the end the index's length and checksum. What
//! is damaged costs its block, or the segment when it is the index.

mod writer;

use std::sync::Arc;

use crate::{
    bytes::{Input, Malformed},
    codec::Decoder,
    column::Column,
    disk::{Disk, DiskFile},
    error::{Damage, DamageKind},
    frame::{FileKind, HEADER_BYTES, Header, checksum},
    rows::{GROUP, bits},
    track::{Scraped, Times},
};

pub(crate) use self::writer::{STEP_COLUMNS, Writer};

/// Bytes at the end: length and checksum of the index.
const TRAILER_BYTES: usize = 8;

/// Where a block stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: u32,
    offset: u64,
    len: u32,
    sum: u32,
}

/// What a segment has of one source.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) source: u32,
    pub(crate) times: Times,
    /// Least and greatest time of any sample or scrape.
    pub(crate) span: (i64, i64),
    blocks: Vec<Place>,
}

/// What stands where.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) catalog: u64,
    /// How many blocks of the catalog are needed.
    pub(crate) names: u64,
    pub(crate) sections: Vec<Section>,
}

impl Section {
    /// The block a slot would be in.
    fn block(&self, group: u32) -> Option<Place> {
        let at = self
            .blocks
            .binary_search_by_key(&group, |place| place.group)
            .ok()?;
        Some(self.blocks[at])
    }
}

/// Reads a section whose first block stands at `offset`.
fn read_section(input: &mut Input<'_>, offset: &mut u64) -> Result<Section, Malformed> {
    let narrow = |count: usize| u32::try_from(count).map_err(|_| Malformed);
    let source = narrow(input.count()?)?;
    // Every scrape has a byte at least.
    let count = input.count_up_to(input.len())?;
    let mut scrapes = Vec::with_capacity(count);
    let (mut time, mut step) = (0_i64, 0_i64);
    for _ in 0..count {
        step = step.wrapping_add(input.signed()?);
        time = time.wrapping_add(step);
        scrapes.push(Scraped {
            time,
            missed: false,
        });
    }
    let mut next = 0_usize;
    for _ in 0..input.count_up_to(count)? {
        let at = next.checked_add(input.count()?).ok_or(Malformed)?;
        scrapes.get_mut(at).ok_or(Malformed)?.missed = true;
        next = at + 1;
    }
    let rows = scrapes.iter().filter(|scraped| !scraped.missed).count() as u32;
    let span = (input.signed()?, input.signed()?);
    let mut blocks = Vec::new();
    for _ in 0..input.count_up_to(input.len())? {
        let (group, len, sum) = (
            narrow(input.count()?)?,
            narrow(input.count()?)?,
            input.u32()?,
        );
        blocks.push(Place {
            group,
            offset: *offset,
            len,
            sum,
        });
        *offset += u64::from(len);
    }
    if !blocks.is_sorted_by(|a, b| a.group < b.group) {
        return Err(Malformed);
    }
    Ok(Section {
        source,
        times: Times { scrapes, rows },
        span,
        blocks,
    })
}

/// Where a segment's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Memory(Arc<Vec<u8>>),
    File(Arc<dyn DiskFile>),
}

/// A segment being read.
#[derive(Debug)]
pub(crate) struct Segment {
    id: u64,
    store: Store,
    pub(crate) index: Arc<Index>,
}

impl Store {
    fn read(&self, offset: u64, len: usize, buffer: &mut Vec<u8>) -> Result<(), DamageKind> {
        buffer.clear();
        match self {
            Self::Memory(bytes) => {
                let range = usize::try_from(offset)
                    .ok()
                    .and_then(|from| bytes.get(from..from.checked_add(len)?));
                buffer.extend_from_slice(range.ok_or(DamageKind::Cut)?);
                Ok(())
            }
            Self::File(file) => {
                buffer.resize(len, 0);
                file.read_at(offset, buffer)
                    .map_err(|error| match error.kind() {
                        std::io::ErrorKind::UnexpectedEof => DamageKind::Cut,
                        kind => DamageKind::Unreadable(kind),
                    })
            }
        }
    }

    fn len(&self) -> Result<u64, DamageKind> {
        match self {
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            Self::File(file) => file
                .len()
                .map_err(|error| DamageKind::Unreadable(error.kind())),
        }
    }
}

impl Segment {
    /// A segment whose index is at hand.
    pub(crate) fn known(id: u64, store: Store, index: Arc<Index>) -> Self {
        Self { id, store, index }
    }

    /// Opens a segment and reads its index.
    pub(crate) fn open(id: u64, store: Store) -> Result<Self, Damage> {
        let index = read_index(id, &store).map_err(|(offset, kind)| Damage {
            file: FileKind::Segment.name(id),
            offset,
            kind,
        })?;
        Ok(Self {
            id,
            store,
            index: Arc::new(index),
        })
    }

    /// Opens a segment's file.
    pub(crate) fn open_file(id: u64, disk: &dyn Disk) -> Result<Self, Damage> {
        let name = FileKind::Segment.name(id);
        match disk.open(&name) {
            Ok(file) => Self::open(id, Store::File(file)),
            Err(error) => {
                let kind = match error.kind() {
                    std::io::ErrorKind::NotFound => DamageKind::Missing,
                    kind => DamageKind::Unreadable(kind),
                };
                Err(Damage {
                    file: name,
                    offset: 0,
                    kind,
                })
            }
        }
    }

    /// Reads the block of a group, if the segment has one.
    pub(crate) fn block(&self, section: &Section, group: u32) -> Result<Option<Block>, Damage> {
        let Some(place) = section.block(group) else {
            return Ok(None);
        };
        let damage = |kind| Damage {
            file: FileKind::Segment.name(self.id),
            offset: place.offset,
            kind,
        };
        let mut bytes = Vec::new();
        self.store
            .read(place.offset, place.len as usize, &mut bytes)
            .map_err(damage)?;
        if checksum(FileKind::Segment, self.id, place.offset, &bytes) != place.sum {
            return Err(damage(DamageKind::Checksum));
        }
        let block = Block::read(bytes, section.times.rows)
            .map_err(|Malformed| damage(DamageKind::Malformed))?;
        Ok(Some(Block {
            file: self.id,
            offset: place.offset,
            ..block
        }))
    }

    /// The groups a section has blocks of.
    pub(crate) fn groups(section: &Section) -> impl Iterator<Item = u32> {
        section.blocks.iter().map(|place| place.group)
    }
}

fn read_index(id: u64, store: &Store) -> Result<Index, (u64, DamageKind)> {
    let len = store.len().map_err(|kind| (0, kind))?;
    let least = (HEADER_BYTES + TRAILER_BYTES) as u64;
    if len < least {
        return Err((len, DamageKind::Cut));
    }
    let mut bytes = Vec::new();
    store
        .read(0, HEADER_BYTES, &mut bytes)
        .map_err(|kind| (0, kind))?;
    let header = Header::read(&bytes, FileKind::Segment, id).map_err(|kind| (0, kind))?;
    let end = len - TRAILER_BYTES as u64;
    store
        .read(end, TRAILER_BYTES, &mut bytes)
        .map_err(|kind| (end, kind))?;
    let mut trailer = Input::new(&bytes);
    let mut number = || trailer.u32().map_err(|Malformed| (end, DamageKind::Cut));
    let (index_len, sum) = (number()?, number()?);
    let Some(start) = end
        .checked_sub(u64::from(index_len))
        .filter(|start| *start >= HEADER_BYTES as u64)
    else {
        return Err((end, DamageKind::Checksum));
    };
    store
        .read(start, index_len as usize + 4, &mut bytes)
        .map_err(|kind| (start, kind))?;
    if checksum(FileKind::Segment, id, start, &bytes) != sum {
        return Err((start, DamageKind::Checksum));
    }
    let malformed = |Malformed| (start, DamageKind::Malformed);
    let mut input = Input::new(&bytes[..index_len as usize]);
    let mut offset = HEADER_BYTES as u64;
    let mut sections = Vec::new();
    for _ in 0..input.count_up_to(input.len()).map_err(malformed)? {
        sections.push(read_section(&mut input, &mut offset).map_err(malformed)?);
    }
    if !input.is_empty() || offset != start {
        return Err((start, DamageKind::Malformed));
    }
    Ok(Index {
        catalog: header.catalog,
        names: header.knows.extent,
        sections,
    })
}

/// A block, looked through: its checksum fits.
#[derive(Debug)]
pub(crate) struct Block {
    file: u64,
    offset: u64,
    rows: u32,
    bytes: Vec<u8>,
    /// Where each slot's chunk is; empty for a slot that has none.
    chunks: Box<[(u32, u32); GROUP]>,
}

impl Block {
    fn read(bytes: Vec<u8>, rows: u32) -> Result<Self, Malformed> {
        let mut input = Input::new(&bytes);
        let used = input.take(16)?;
        let used = u128::from_le_bytes(used.try_into().map_err(|_| Malformed)?);
        let mut chunks = Box::new([(0, 0); GROUP]);
        let mut at = 0_usize;
        for slot in bits(used) {
            let end = at.checked_add(input.count()?).ok_or(Malformed)?;
            chunks[slot] = (at as u32, end as u32);
            at = end;
        }
        if input.len() != at {
            return Err(Malformed);
        }
        let start = (bytes.len() - at) as u32;
        for (from, to) in chunks.iter_mut() {
            *from += start;
            *to += start;
        }
        Ok(Self {
            file: 0,
            offset: 0,
            rows,
            bytes,
            chunks,
        })
    }

    /// Reads the column of a slot of the group; false when it has none here.
    pub(crate) fn column(
        &self,
        slot: usize,
        decoder: &mut Decoder,
        column: &mut Column,
    ) -> Result<bool, Damage> {
        let (from, to) = self.chunks[slot];
        if from == to {
            column.clear();
            return Ok(false);
        }
        let chunk = &self.bytes[from as usize..to as usize];
        column
            .read(decoder, self.rows, chunk)
            .map_err(|Malformed| Damage {
                file: FileKind::Segment.name(self.file),
                offset: self.offset + u64::from(from),
                kind: DamageKind::Malformed,
            })?;
        Ok(true)
    }
}
