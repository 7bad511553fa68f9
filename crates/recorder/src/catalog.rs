//! Which series a slot stands for.
//!
//! A catalog is appended to and never changed otherwise: a slot is defined once in it. Heads and
//! segments name the catalog their slots are defined in, and a catalog goes with the last of them.
//! When too much of it is dead a new one is begun with the series that are alive, on the slots they
//! have.

use std::{collections::HashMap, sync::Arc};

use crate::{
    bytes::{Input, Malformed, put_count, put_signed},
    error::{Damage, DamageKind},
    frame::{FileKind, Frames, Header, Log, frame_start},
    labels::{HELP_BYTES_MAX, Kind, LabelsRef, Meta},
};

/// Series per block. The first has its whole key, the others what differs from the one before.
const BLOCK_SERIES: usize = 16;

/// Bytes of blocks after which a frame ends, so that damage does not take everything with it.
const FRAME_BYTES: usize = 4 << 10;

/// What a block and a meta have in memory beside their bytes.
const BLOCK_MEMORY: u64 = 32;
const META_MEMORY: u64 = 96;

/// How much of a catalog a file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    sources: usize,
    metas: usize,
    blocks: usize,
}

/// One definition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition<'a> {
    pub(crate) source: u32,
    pub(crate) slot: u32,
    pub(crate) meta: u32,
    pub(crate) key: &'a [u8],
}

/// All definitions of one catalog, as they stand in its file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) id: u64,
    sources: Vec<Arc<str>>,
    metas: Vec<Arc<Meta>>,
    blocks: Vec<Arc<[u8]>>,
    bytes: u64,
    /// How much of it the file has.
    written: Written,
    /// The last block, which is not in the file and may still grow.
    open: BlockWriter,
}

/// What one frame adds.
#[derive(Debug, Default)]
struct Addition {
    sources: Vec<Arc<str>>,
    metas: Vec<Arc<Meta>>,
    blocks: Vec<Arc<[u8]>>,
}

impl Addition {
    /// The payload of its frame.
    fn put(&self, out: &mut Vec<u8>) {
        put_count(out, self.sources.len());
        for source in &self.sources {
            put_count(out, source.len());
            out.extend_from_slice(source.as_bytes());
        }
        put_count(out, self.metas.len());
        for meta in &self.metas {
            out.push(meta.kind.to_byte());
            put_count(out, meta.help.len());
            out.extend_from_slice(meta.help.as_bytes());
        }
        put_count(out, self.blocks.len());
        for block in &self.blocks {
            put_count(out, block.len());
            out.extend_from_slice(block);
        }
    }

    fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::new(payload);
        let mut addition = Self::default();
        for _ in 0..input.count()? {
            addition.sources.push(read_text(&mut input)?.into());
        }
        for _ in 0..input.count()? {
            let kind = Kind::from_byte(input.byte()?)?;
            let help = read_text(&mut input)?.to_owned();
            addition.metas.push(Arc::new(Meta { kind, help }));
        }
        for _ in 0..input.count()? {
            let length = input.count()?;
            addition.blocks.push(input.take(length)?.into());
        }
        if input.is_empty() {
            Ok(addition)
        } else {
            Err(Malformed)
        }
    }
}

fn read_text<'a>(input: &mut Input<'a>) -> Result<&'a str, Malformed> {
    let length = input.count()?;
    str::from_utf8(input.take(length)?).map_err(|_| Malformed)
}

impl Catalog {
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// Reads a catalog's file, as far as it is good; and how far that is.
    pub(crate) fn read(id: u64, bytes: &[u8]) -> (Self, u64, Option<Damage>) {
        let mut catalog = Self::new(id);
        if let Err(kind) = Header::read(bytes, FileKind::Catalog, id) {
            let damage = Damage {
                file: FileKind::Catalog.name(id),
                offset: 0,
                kind,
            };
            return (catalog, 0, Some(damage));
        }
        let mut frames = Frames::new(FileKind::Catalog, id, bytes);
        while let Some(payload) = frames.next() {
            match Addition::read(payload)
                .and_then(|addition| catalog.check(&addition).map(|()| addition))
            {
                Ok(addition) => catalog.add(addition),
                Err(Malformed) => frames.reject(payload),
            }
        }
        (catalog, frames.good(), frames.damage())
    }

    fn check(&self, addition: &Addition) -> Result<(), Malformed> {
        let sources = self.sources.len() + addition.sources.len();
        let metas = self.metas.len() + addition.metas.len();
        for block in &addition.blocks {
            walk_block(block, |definition| {
                LabelsRef::checked(definition.key)?;
                let known =
                    (definition.source as usize) < sources && (definition.meta as usize) < metas;
                if known { Ok(()) } else { Err(Malformed) }
            })?;
        }
        Ok(())
    }

    fn add(&mut self, addition: Addition) {
        for source in addition.sources {
            self.add_source(source);
        }
        for meta in addition.metas {
            self.add_meta(meta);
        }
        for block in addition.blocks {
            self.bytes += block.len() as u64 + BLOCK_MEMORY;
            self.blocks.push(block);
        }
        self.written = self.extent();
    }

    pub(crate) fn add_source(&mut self, name: Arc<str>) {
        self.bytes += name.len() as u64 + 32;
        self.sources.push(name);
    }

    pub(crate) fn add_meta(&mut self, meta: Arc<Meta>) -> u32 {
        self.bytes += meta.help.len() as u64 + META_MEMORY;
        self.metas.push(meta);
        self.metas.len() as u32 - 1
    }

    /// Defines a slot that has no definition yet; tells in which block.
    pub(crate) fn define(&mut self, definition: Definition<'_>) -> usize {
        let open = self.blocks.len() > self.written.blocks && self.open.count > 0;
        if !open || self.open.count == BLOCK_SERIES || self.open.source != definition.source {
            self.open.clear();
            self.blocks.push(Arc::from([]));
            self.bytes += BLOCK_MEMORY;
        }
        let before = self.open.bytes.len();
        self.open.put(definition);
        self.bytes += (self.open.bytes.len() - before) as u64;
        let index = self.blocks.len() - 1;
        self.blocks[index] = Arc::from(&self.open.bytes[..]);
        index
    }

    fn extent(&self) -> Written {
        Written {
            sources: self.sources.len(),
            metas: self.metas.len(),
            blocks: self.blocks.len(),
        }
    }

    /// Puts a good part of what a file that has `from` lacks into the payload of a frame, and tells
    /// what it has then. Nothing when it has everything.
    pub(crate) fn put_unwritten(&self, from: Written, out: &mut Vec<u8>) -> Option<Written> {
        if from == self.extent() {
            return None;
        }
        let mut bytes = 0;
        let mut end = from.blocks;
        while end < self.blocks.len() && bytes < FRAME_BYTES {
            bytes += self.blocks[end].len();
            end += 1;
        }
        let addition = Addition {
            sources: self.sources[from.sources..].to_vec(),
            metas: self.metas[from.metas..].to_vec(),
            blocks: self.blocks[from.blocks..end].to_vec(),
        };
        addition.put(out);
        Some(Written {
            blocks: end,
            ..self.extent()
        })
    }

    /// What a file of it holds, as far as it is written.
    pub(crate) fn to_file(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut log = Log::new(FileKind::Catalog, self.id, self.id);
        let (mut from, mut frame) = (Written::default(), Vec::new());
        loop {
            frame_start(&mut frame);
            let Some(written) = self.put_unwritten(from, &mut frame) else {
                return bytes;
            };
            log.seal_frame(&mut frame);
            bytes.extend_from_slice(&frame);
            from = written;
        }
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// How many blocks the file has.
    pub(crate) fn written_blocks(&self) -> u64 {
        self.written.blocks as u64
    }

    pub(crate) fn written(&self) -> Written {
        self.written
    }

    /// The file now has this much of it.
    pub(crate) fn mark_written(&mut self, written: Written) {
        self.written = written;
    }

    /// Bytes it has in memory.
    pub(crate) fn memory(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn sources(&self) -> &[Arc<str>] {
        &self.sources
    }

    pub(crate) fn metas(&self) -> &[Arc<Meta>] {
        &self.metas
    }

    /// Whether a meta is this one, as far as it is kept.
    pub(crate) fn says(&self, index: u32, meta: &Meta) -> bool {
        let kept = &self.metas[index as usize];
        kept.kind == meta.kind && (kept.help == meta.help || kept.help == bounded_meta(meta).help)
    }

    /// True when the file has everything.
    pub(crate) fn is_written(&self) -> bool {
        self.written == self.extent()
    }

    /// Calls `visit` with the index of its block and every definition, in the order they were made.
    pub(crate) fn walk(&self, mut visit: impl FnMut(usize, Definition<'_>)) {
        for (index, block) in self.blocks.iter().enumerate() {
            let walked = walk_block(block, |definition| {
                visit(index, definition);
                Ok(())
            });
            debug_assert_eq!(
                walked,
                Ok(()),
                "a block is looked through before it is kept"
            );
        }
    }

    /// The definition of a slot that stands in this block.
    pub(crate) fn with_slot<T>(
        &self,
        block: usize,
        slot: u32,
        mut then: impl FnMut(Definition<'_>) -> T,
    ) -> Option<T> {
        let mut found = None;
        let walked = walk_block(self.blocks.get(block)?, |definition| {
            if definition.slot == slot {
                found = Some(then(definition));
                // Stops the walk; what was looked for is found.
                return Err(Malformed);
            }
            Ok(())
        });
        debug_assert!(
            walked.is_err() == found.is_some(),
            "a block is looked through before it is kept"
        );
        found
    }
}

/// A help text of at most [`HELP_BYTES_MAX`] bytes.
pub(crate) fn bounded_meta(meta: &Meta) -> Meta {
    let mut end = meta.help.len().min(HELP_BYTES_MAX);
    while !meta.help.is_char_boundary(end) {
        end -= 1;
    }
    Meta {
        kind: meta.kind,
        help: meta.help[..end].to_owned(),
    }
}

/// Metas by what they say, so that each is kept once.
#[derive(Debug, Default)]
pub(crate) struct MetaIndex {
    by_meta: HashMap<Arc<Meta>, u32>,
}

impl MetaIndex {
    pub(crate) fn new(metas: &[Arc<Meta>]) -> Self {
        let by_meta = metas
            .iter()
            .zip(0..)
            .map(|(meta, index)| (Arc::clone(meta), index))
            .collect();
        Self { by_meta }
    }

    pub(crate) fn find(&self, meta: &Meta) -> Option<u32> {
        self.by_meta.get(meta).copied()
    }

    pub(crate) fn insert(&mut self, meta: Arc<Meta>) -> u32 {
        let index = self.by_meta.len() as u32;
        self.by_meta.insert(meta, index);
        index
    }
}

#[derive(Clone, Debug, Default)]
struct BlockWriter {
    source: u32,
    count: usize,
    slot: u32,
    key: Vec<u8>,
    bytes: Vec<u8>,
}

impl BlockWriter {
    fn put(&mut self, definition: Definition<'_>) {
        if self.count == 0 {
            self.source = definition.source;
            put_count(&mut self.bytes, definition.source as usize);
            self.slot = 0;
            self.key.clear();
        }
        put_signed(
            &mut self.bytes,
            i64::from(definition.slot) - i64::from(self.slot),
        );
        put_count(&mut self.bytes, definition.meta as usize);
        let shared = self
            .key
            .iter()
            .zip(definition.key)
            .take_while(|(a, b)| a == b)
            .count();
        put_count(&mut self.bytes, shared);
        put_count(&mut self.bytes, definition.key.len() - shared);
        self.bytes.extend_from_slice(&definition.key[shared..]);
        self.key.truncate(shared);
        self.key.extend_from_slice(&definition.key[shared..]);
        self.slot = definition.slot + 1;
        self.count += 1;
    }

    fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
    }
}

fn walk_block(
    block: &[u8],
    mut visit: impl FnMut(Definition<'_>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut input = Input::new(block);
    let index = |count: usize| u32::try_from(count).map_err(|_| Malformed);
    let source = index(input.count()?)?;
    let mut next = 0_i64;
    let mut key = Vec::new();
    while !input.is_empty() {
        let slot = next.checked_add(input.signed()?).ok_or(Malformed)?;
        let slot = u32::try_from(slot).map_err(|_| Malformed)?;
        let meta = index(input.count()?)?;
        let shared = input.count_up_to(key.len())?;
        let length = input.count()?;
        key.truncate(shared);
        key.extend_from_slice(input.take(length)?);
        visit(Definition {
            source,
            slot,
            meta,
            key: &key,
        })?;
        next = i64::from(slot) + 1;
    }
    Ok(())
}

/// The damage of a catalog that is not there.
pub(crate) fn unreadable(id: u64, error: &std::io::Error) -> Damage {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => DamageKind::Missing,
        kind => DamageKind::Unreadable(kind),
    };
    Damage {
        file: FileKind::Catalog.name(id),
        offset: 0,
        kind,
    }
}
