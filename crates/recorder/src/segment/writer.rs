//! Making a segment from a head.

use super::{BlockLocation, Index, Section};
use crate::{
    bytes::{Malformed, put_count, put_signed},
    codec::{Encoder, Predictor},
    column::Column,
    frame::{FileKind, Header, checksum},
    part::{HeadRows, Part},
    rows::bits,
    source_rows::GroupColumns,
};

/// The maximum number of columns in one step.
pub(crate) const STEP_COLUMNS: usize = 32;

/// An incremental writer of a segment.
#[derive(Debug)]
pub(crate) struct Writer {
    id: u64,
    record: u16,
    catalog: u64,
    catalog_blocks: u64,
    out: Vec<u8>,
    sections: Vec<Section>,
    /// The next group of the last section.
    group: usize,
    /// The columns of that group once it is started.
    columns: GroupColumns,
    /// The slots of that group.
    used: u128,
    /// The slots of that group that are not encoded yet.
    left: u128,
    column: Column,
    encoder: Encoder,
    predictor: Predictor,
    /// The encoded columns of that group.
    chunks: Vec<u8>,
    lengths: Vec<usize>,
}

impl Writer {
    /// Starts the segment of a head.
    pub(crate) fn new(part: &Part) -> Self {
        let mut out = Vec::new();
        Header {
            extent: part.catalog_blocks,
            record: part.record,
            ..Header::new(FileKind::Segment, part.id, part.catalog)
        }
        .put(&mut out);
        Self {
            id: part.id,
            record: part.record,
            catalog: part.catalog,
            catalog_blocks: part.catalog_blocks,
            out,
            sections: Vec::new(),
            group: 0,
            columns: GroupColumns::default(),
            column: Column::default(),
            encoder: Encoder::default(),
            predictor: Predictor::default(),
            chunks: Vec::new(),
            lengths: Vec::new(),
            used: 0,
            left: 0,
        }
    }

    /// Returns the memory of the output so far.
    pub(crate) fn memory(&self) -> u64 {
        self.out.capacity() as u64
    }

    /// Encodes up to [`STEP_COLUMNS`] columns. Returns false if all are encoded.
    pub(crate) fn step(&mut self, head: &HeadRows) -> Result<bool, Malformed> {
        loop {
            let source = self.sections.last().map(|section| section.source as usize);
            let rows = source.and_then(|source| head.get(source)?.as_ref());
            if let Some(rows) = rows
                && self.group < rows.groups()
            {
                // A group may take several steps. Only the first one decodes its rows.
                if self.lengths.is_empty() {
                    rows.read_group(self.group, &mut self.columns)?;
                    self.predictor.clear();
                    self.used = self.columns.used();
                    self.left = self.used;
                }
                self.put_columns(rows.times.rows);
                if self.left == 0 {
                    self.finish_group();
                }
                return Ok(true);
            }
            let next = source.map_or(0, |source| source + 1);
            let mut rest = head.iter().enumerate().skip(next);
            let Some((source, rows)) = rest.find_map(|(at, rows)| Some((at, rows.as_ref()?)))
            else {
                return Ok(false);
            };
            self.group = 0;
            self.sections.push(Section {
                source: source as u32,
                times: rows.times.clone(),
                span: rows.span.ok_or(Malformed)?,
                blocks: Vec::new(),
            });
        }
    }

    fn put_columns(&mut self, rows: u32) {
        // `left` loses slots in the loop, while the iterator goes over a copy.
        for slot in bits(self.left).take(STEP_COLUMNS) {
            self.columns.column(slot, &mut self.column);
            let start = self.chunks.len();
            let codec = (&mut self.encoder, &mut self.predictor);
            self.column.put(slot, codec, rows, &mut self.chunks);
            self.left &= !(1 << slot);
            self.lengths.push(self.chunks.len() - start);
        }
    }

    fn finish_group(&mut self) {
        let (group, offset) = (self.group as u32, self.out.len());
        self.group += 1;
        // Slots were assigned in the group, but no scrape with them was committed to this head.
        if self.used == 0 {
            return;
        }
        self.out.extend_from_slice(&self.used.to_le_bytes());
        for length in self.lengths.drain(..) {
            put_count(&mut self.out, length);
        }
        self.out.append(&mut self.chunks);
        let block = &self.out[offset..];
        let location = BlockLocation {
            group,
            offset: offset as u64,
            len: block.len() as u32,
            sum: checksum(FileKind::Segment, self.id, offset as u64, block),
        };
        if let Some(section) = self.sections.last_mut() {
            section.blocks.push(location);
        }
    }

    /// Returns the file and its index, once all columns are encoded.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Index) {
        let start = self.out.len();
        put_count(&mut self.out, self.sections.len());
        for section in &self.sections {
            put_section(&mut self.out, section);
        }
        let length = (self.out.len() - start) as u32;
        self.out.extend_from_slice(&length.to_le_bytes());
        let sum = checksum(FileKind::Segment, self.id, start as u64, &self.out[start..]);
        self.out.extend_from_slice(&sum.to_le_bytes());
        (
            self.out,
            Index {
                record: self.record,
                catalog: self.catalog,
                catalog_blocks: self.catalog_blocks,
                sections: self.sections,
            },
        )
    }
}

fn put_section(out: &mut Vec<u8>, section: &Section) {
    put_count(out, section.source as usize);
    put_count(out, section.times.scrapes.len());
    let (mut time, mut step) = (0_i64, 0_i64);
    for scrape in &section.times.scrapes {
        let next = scrape.time.wrapping_sub(time);
        put_signed(out, next.wrapping_sub(step));
        (time, step) = (scrape.time, next);
    }
    let scrapes = section.times.scrapes.iter().enumerate();
    let missed = scrapes.filter(|(_, scrape)| scrape.missed);
    put_count(out, missed.clone().count());
    let mut next = 0;
    for (at, _) in missed {
        put_count(out, at - next);
        next = at + 1;
    }
    put_signed(out, section.span.0);
    put_signed(out, section.span.1);
    put_count(out, section.blocks.len());
    for block in &section.blocks {
        put_count(out, block.group as usize);
        put_count(out, block.len as usize);
        out.extend_from_slice(&block.sum.to_le_bytes());
    }
}
