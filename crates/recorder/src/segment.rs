//! Segments: the scrapes of a closed head, series by series.
//!
//! ```text
//!   segment := header, block*, index, length and checksum of the index
//!   block   := one group of slots: the slots in it, the length of each chunk, a chunk per slot
//!   index   := per source: times of scrapes, span, and the blocks with their checksums
//! ```
//!
//! Damage costs the block it is in. Damage in the header or the index costs the segment.

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
    source_rows::{ScrapeTime, ScrapeTimes},
    span::Span,
};

pub(crate) use self::writer::{STEP_COLUMNS, Writer};

/// The length and the checksum of the index, at the end of the file.
const TRAILER_BYTES: usize = 8;

/// The number of columns that a block keeps because they predict others. They take 8 KiB each.
const PREDICTING_MAX: usize = 4;

/// The location of a block.
#[derive(Clone, Copy, Debug)]
struct BlockLocation {
    group: u32,
    offset: u64,
    len: u32,
    sum: u32,
}

/// The index entry of one source.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) source: u32,
    pub(crate) times: ScrapeTimes,
    pub(crate) span: Span,
    blocks: Vec<BlockLocation>,
}

/// The index of a segment.
#[derive(Debug)]
pub(crate) struct Index {
    /// The record's fingerprint, if it is known.
    pub(crate) record: u16,
    pub(crate) catalog: u64,
    /// Blocks of the catalog that the segment needs.
    pub(crate) catalog_blocks: u64,
    pub(crate) sections: Vec<Section>,
}

impl Section {
    fn block(&self, group: u32) -> Option<BlockLocation> {
        let at = self
            .blocks
            .binary_search_by_key(&group, |block| block.group)
            .ok()?;
        Some(self.blocks[at])
    }
}

/// Reads a section of which the first block begins at `offset`, and advances that to the next section's.
fn read_section(input: &mut Input<'_>, offset: &mut u64) -> Result<Section, Malformed> {
    let narrow = |count: usize| u32::try_from(count).map_err(|_| Malformed);
    let source = narrow(input.count()?)?;
    // Every scrape has at least one byte, so that a damaged count cannot ask for more memory.
    let count = input.count_up_to(input.len())?;
    let mut scrapes = Vec::with_capacity(count);
    let (mut time, mut step) = (0_i64, 0_i64);
    for _ in 0..count {
        // Regular scrapes have the same step and take a byte each. A clock may jump by any distance, so
        // that sums wrap.
        step = step.wrapping_add(input.signed()?);
        time = time.wrapping_add(step);
        scrapes.push(ScrapeTime {
            time,
            missed: false,
        });
    }
    let mut next = 0_usize;
    // Few scrapes fail: distances between them are shorter than a bit for each.
    for _ in 0..input.count_up_to(count)? {
        let at = next.checked_add(input.count()?).ok_or(Malformed)?;
        scrapes.get_mut(at).ok_or(Malformed)?.missed = true;
        next = at + 1;
    }
    let rows = scrapes.iter().filter(|scrape| !scrape.missed).count() as u32;
    let span = (input.signed()?, input.signed()?);
    let mut blocks = Vec::new();
    for _ in 0..input.count_up_to(input.len())? {
        let (group, len, sum) = (
            narrow(input.count()?)?,
            narrow(input.count()?)?,
            input.u32()?,
        );
        blocks.push(BlockLocation {
            group,
            offset: *offset,
            len,
            sum,
        });
        *offset += u64::from(len);
    }
    // Lookups use binary search.
    if !blocks.is_sorted_by(|a, b| a.group < b.group) {
        return Err(Malformed);
    }
    Ok(Section {
        source,
        times: ScrapeTimes { scrapes, rows },
        span,
        blocks,
    })
}

/// The bytes of a segment.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Memory(Arc<Vec<u8>>),
    File(Arc<dyn DiskFile>),
}

/// A segment opened for reading.
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
                buffer.extend_from_slice(range.ok_or(DamageKind::Truncated)?);
                Ok(())
            }
            Self::File(file) => {
                buffer.resize(len, 0);
                file.read_at(offset, buffer)
                    .map_err(|error| match error.kind() {
                        std::io::ErrorKind::UnexpectedEof => DamageKind::Truncated,
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
    /// Opens a segment of which the index is known.
    pub(crate) fn with_index(id: u64, store: Store, index: Arc<Index>) -> Self {
        Self { id, store, index }
    }

    /// Opens a segment's file and reads the index.
    pub(crate) fn open_file(id: u64, disk: &dyn Disk) -> Result<Self, Damage> {
        let file = disk
            .open(&FileKind::Segment.name(id))
            .map_err(|error| FileKind::Segment.unreadable(id, &error))?;
        let store = Store::File(file);
        let index = read_index(id, &store)
            .map_err(|(offset, kind)| FileKind::Segment.damage(id, offset, kind))?;
        Ok(Self::with_index(id, store, Arc::new(index)))
    }

    /// Reads the block of a group and checks it. Returns `None` if the segment has none.
    pub(crate) fn block(&self, section: &Section, group: u32) -> Result<Option<Block>, Damage> {
        let Some(location) = section.block(group) else {
            return Ok(None);
        };
        let offset = location.offset;
        let damage = |kind| FileKind::Segment.damage(self.id, offset, kind);
        let mut bytes = Vec::new();
        self.store
            .read(offset, location.len as usize, &mut bytes)
            .map_err(damage)?;
        // The sum is in the index, which has one of its own: one group can be read without the others.
        if checksum(FileKind::Segment, self.id, offset, &bytes) != location.sum {
            return Err(damage(DamageKind::Checksum));
        }
        let block = Block::read((self.id, offset), bytes, section.times.rows)
            .map_err(|Malformed| damage(DamageKind::Malformed))?;
        Ok(Some(block))
    }

    /// Iterates over the groups of which a section has a block.
    pub(crate) fn groups(section: &Section) -> impl Iterator<Item = u32> {
        section.blocks.iter().map(|block| block.group)
    }
}

fn read_index(id: u64, store: &Store) -> Result<Index, (u64, DamageKind)> {
    let len = store.len().map_err(|kind| (0, kind))?;
    let least = (HEADER_BYTES + TRAILER_BYTES) as u64;
    if len < least {
        return Err((len, DamageKind::Truncated));
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
    let mut number = || {
        trailer
            .u32()
            .map_err(|Malformed| (end, DamageKind::Truncated))
    };
    let (index_len, sum) = (number()?, number()?);
    let Some(start) = end
        .checked_sub(u64::from(index_len))
        .filter(|start| *start >= HEADER_BYTES as u64)
    else {
        return Err((end, DamageKind::Checksum));
    };
    store
        // The checksum covers the index and its length.
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
    // Blocks fill the file between header and index without a hole.
    if !input.is_empty() || offset != start {
        return Err((start, DamageKind::Malformed));
    }
    Ok(Index {
        record: header.record,
        catalog: header.catalog,
        catalog_blocks: header.extent,
        sections,
    })
}

/// A block with a valid checksum.
#[derive(Debug)]
pub(crate) struct Block {
    /// The id of the segment, and the block's offset in it.
    location: (u64, u64),
    rows: u32,
    bytes: Vec<u8>,
    /// The range of each slot's chunk in `bytes`, empty for a slot without one.
    chunks: Box<[(u32, u32); GROUP]>,
    /// The columns that predicted the last predicted ones, latest last, by slot. Neighbours usually
    /// share a few.
    predicting: Vec<(u8, Column)>,
}

impl Block {
    fn read(location: (u64, u64), bytes: Vec<u8>, rows: u32) -> Result<Self, Malformed> {
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
            location,
            rows,
            bytes,
            chunks,
            predicting: Vec::new(),
        })
    }

    /// Reads the column of a slot of the group, which is empty if the block does not have the slot.
    pub(crate) fn column(
        &mut self,
        slot: usize,
        decoder: &mut Decoder,
        column: &mut Column,
    ) -> Result<(), Damage> {
        let (from, to) = self.chunks[slot];
        if from == to {
            column.clear();
            return Ok(());
        }
        self.read_column(slot, decoder, column)
            .map_err(|Malformed| {
                let (file, block) = self.location;
                let offset = block + u64::from(from);
                FileKind::Segment.damage(file, offset, DamageKind::Malformed)
            })
    }

    fn read_column(
        &mut self,
        slot: usize,
        decoder: &mut Decoder,
        column: &mut Column,
    ) -> Result<(), Malformed> {
        let Some(prediction) = column.read(decoder, self.rows, self.chunk(slot))? else {
            return Ok(());
        };
        let slot = prediction.slot;
        let known = self.predicting.iter().position(|(of, _)| *of == slot);
        let predicting = if let Some(at) = known {
            self.predicting.remove(at).1
        } else {
            let mut predicting = Column::default();
            let chunk = self.chunk(usize::from(slot));
            // Nothing predicts that column in turn: reading one never reads more than two.
            if predicting.read(decoder, self.rows, chunk)?.is_some() {
                return Err(Malformed);
            }
            if self.predicting.len() == PREDICTING_MAX {
                self.predicting.remove(0);
            }
            predicting
        };
        column.complete(prediction, &predicting.values)?;
        self.predicting.push((slot, predicting));
        Ok(())
    }

    /// Returns the chunk of a slot, empty for a slot without one.
    fn chunk(&self, slot: usize) -> &[u8] {
        let (from, to) = self.chunks[slot];
        &self.bytes[from as usize..to as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        bytes::put_count,
        codec::{Encoder, Predictor},
    };

    const ROWS: u32 = 64;

    /// The values of slot 0, and of slots that it predicts.
    fn columns() -> Vec<Vec<u64>> {
        let value = |integer: u32| (f64::from(integer) / 8.0).to_bits();
        let base = |row: u32| row * row * 31 % 977;
        let column = |slot: u32| (0..ROWS).map(move |row| value(base(row) + slot * 1_000));
        let opposite = (0..ROWS).map(|row| value(9_999 - base(row)));
        let mut columns: Vec<Vec<u64>> = (0..4).map(|slot| column(slot).collect()).collect();
        columns.push(opposite.collect());
        columns
    }

    fn block(columns: &[Vec<u64>]) -> Vec<u8> {
        let (mut encoder, mut predictor) = (Encoder::default(), Predictor::default());
        let used: u128 = (1 << columns.len()) - 1;
        let mut bytes = used.to_le_bytes().to_vec();
        let mut chunks = Vec::new();
        for (slot, values) in columns.iter().enumerate() {
            let column = Column {
                runs: vec![(0, ROWS)],
                values: values.clone(),
                timestamps: Vec::new(),
            };
            let start = chunks.len();
            let codec = (&mut encoder, &mut predictor);
            column.put(slot, codec, ROWS, &mut chunks);
            put_count(&mut bytes, chunks.len() - start);
        }
        bytes.extend(chunks);
        bytes
    }

    fn read(bytes: Vec<u8>, slot: usize) -> Option<Vec<u64>> {
        let mut block = Block::read((1, 0), bytes, ROWS).ok()?;
        let (mut decoder, mut column) = (Decoder::default(), Column::default());
        // Twice: the second time the predicting column is known.
        for _ in 0..2 {
            block.column(slot, &mut decoder, &mut column).ok()?;
        }
        Some(column.values)
    }

    #[test]
    fn predicted_columns_are_short_and_restored() {
        let columns = columns();
        let bytes = block(&columns);
        let alone = block(&columns[..1]).len();
        assert!(bytes.len() - alone <= 4 * 10, "{} of {alone}", bytes.len());
        for (slot, values) in columns.iter().enumerate() {
            assert_eq!(read(bytes.clone(), slot).as_ref(), Some(values), "{slot}");
        }
    }

    proptest! {
        #[test]
        fn damaged_block_does_not_panic(
            at in any::<prop::sample::Index>(), mask in 1..=u8::MAX, cut in any::<bool>(),
        ) {
            let mut bytes = block(&columns());
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
            if cut {
                bytes.truncate(at);
            }
            for slot in 0..GROUP {
                let values = read(bytes.clone(), slot).unwrap_or_default();
                prop_assert!(values.len() <= ROWS as usize);
            }
        }
    }
}
