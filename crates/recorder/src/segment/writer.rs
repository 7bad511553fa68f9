//! Making a segment of a head.

use super::{Index, Place, Section};
use crate::{
    bytes::{Malformed, put_count, put_signed},
    codec::Encoder,
    column::Column,
    frame::{FileKind, Header, Knows, checksum},
    rows::bits,
    track::{Expanded, Track},
};

/// Columns of one step.
pub(crate) const STEP_COLUMNS: usize = 32;

/// Turns the tracks of a head into a segment, some columns at a time.
#[derive(Debug)]
pub(crate) struct Writer {
    id: u64,
    catalog: u64,
    names: u64,
    out: Vec<u8>,
    sections: Vec<Section>,
    /// The next group to be written, of the last section.
    group: usize,
    /// Its rows as columns, once it has been begun.
    expanded: Expanded,
    /// Its slots that were there, and those whose columns are not written.
    used: u128,
    left: u128,
    column: Column,
    encoder: Encoder,
    /// What is written of it.
    chunks: Vec<u8>,
    lengths: Vec<usize>,
}

impl Writer {
    /// A segment in place of the head `id`, whose slots are defined in the first `names` blocks of
    /// `catalog`.
    pub(crate) fn new(id: u64, catalog: u64, names: u64) -> Self {
        let mut out = Vec::new();
        Header {
            kind: FileKind::Segment,
            id,
            catalog,
            knows: Knows {
                head: 0,
                extent: names,
            },
        }
        .put(&mut out);
        Self {
            id,
            catalog,
            names,
            out,
            sections: Vec::new(),
            group: 0,
            expanded: Expanded::default(),
            column: Column::default(),
            encoder: Encoder::default(),
            chunks: Vec::new(),
            lengths: Vec::new(),
            used: 0,
            left: 0,
        }
    }

    /// Bytes it holds.
    pub(crate) fn memory(&self) -> u64 {
        self.out.capacity() as u64
    }

    /// Does a bounded step, of at most [`STEP_COLUMNS`] columns. False when there is none left.
    pub(crate) fn step(&mut self, tracks: &[Option<Track>]) -> Result<bool, Malformed> {
        loop {
            let source = self.sections.last().map(|section| section.source as usize);
            let track = source.and_then(|source| tracks.get(source)?.as_ref());
            if let Some(track) = track
                && self.group < track.groups()
            {
                if self.lengths.is_empty() {
                    track.expand(self.group, &mut self.expanded)?;
                    self.used = self.expanded.used();
                    self.left = self.used;
                }
                self.put_columns(track.times.rows);
                if self.left == 0 {
                    self.finish_group();
                }
                return Ok(true);
            }
            let next = source.map_or(0, |source| source + 1);
            let Some(source) = (next..tracks.len()).find(|source| tracks[*source].is_some()) else {
                return Ok(false);
            };
            let track = tracks[source].as_ref();
            let (track, span) = track
                .and_then(|track| Some((track, track.span?)))
                .ok_or(Malformed)?;
            self.group = 0;
            self.sections.push(Section {
                source: source as u32,
                times: track.times.clone(),
                span,
                blocks: Vec::new(),
            });
        }
    }

    fn put_columns(&mut self, rows: u32) {
        for slot in bits(self.left).take(STEP_COLUMNS) {
            self.expanded.column(slot, &mut self.column);
            let start = self.chunks.len();
            self.column.put(&mut self.encoder, rows, &mut self.chunks);
            self.left &= !(1 << slot);
            self.lengths.push(self.chunks.len() - start);
        }
    }

    fn finish_group(&mut self) {
        let (group, offset) = (self.group as u32, self.out.len());
        self.group += 1;
        if self.used == 0 {
            return;
        }
        self.out.extend_from_slice(&self.used.to_le_bytes());
        for length in self.lengths.drain(..) {
            put_count(&mut self.out, length);
        }
        self.out.append(&mut self.chunks);
        let block = &self.out[offset..];
        let place = Place {
            group,
            offset: offset as u64,
            len: block.len() as u32,
            sum: checksum(FileKind::Segment, self.id, offset as u64, block),
        };
        if let Some(section) = self.sections.last_mut() {
            section.blocks.push(place);
        }
    }

    /// The whole file, once there is no group left.
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
                catalog: self.catalog,
                names: self.names,
                sections: self.sections,
            },
        )
    }
}

fn put_section(out: &mut Vec<u8>, section: &Section) {
    put_count(out, section.source as usize);
    put_count(out, section.times.scrapes.len());
    let (mut time, mut step) = (0_i64, 0_i64);
    for scraped in &section.times.scrapes {
        let next = scraped.time.wrapping_sub(time);
        put_signed(out, next.wrapping_sub(step));
        (time, step) = (scraped.time, next);
    }
    let missed = section
        .times
        .scrapes
        .iter()
        .enumerate()
        .filter(|(_, scraped)| scraped.missed);
    put_count(out, missed.clone().count());
    let mut next = 0;
    for (at, _) in missed {
        put_count(out, at - next);
        next = at + 1;
    }
    put_signed(out, section.span.0);
    put_signed(out, section.span.1);
    put_count(out, section.blocks.len());
    for place in &section.blocks {
        put_count(out, place.group as usize);
        put_count(out, place.len as usize);
        out.extend_from_slice(&place.sum.to_le_bytes());
    }
}
