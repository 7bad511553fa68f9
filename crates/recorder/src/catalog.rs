//! Catalogs: the definitions of series by slot.
//!
//! A catalog is append-only, and defines each slot at most once. Every head and segment names the
//! catalog that defines its slots, and a catalog is removed with the last part that needs it. When too
//! many of the definitions are dead, a new catalog starts with the live series, which keep their slots.

use std::{collections::HashMap, sync::Arc};

use crate::{
    bytes::{Input, Malformed, put_count, put_signed},
    error::{Damage, DamageKind},
    frame::{FileKind, Frames, HEADER_BYTES, Header, Log, begin_frame},
    labels::{HELP_BYTES_MAX, LabelsRef, Meta, kind_from_byte, kind_to_byte},
};

/// The maximum number of series in a block. Keys are prefix-compressed inside a block, so that a lookup
/// decodes one block at most.
const BLOCK_SERIES: usize = 16;

/// The size of blocks at which a frame ends, which bounds the loss from one damaged frame.
const FRAME_BYTES: usize = 4 << 10;

/// The memory that a block and a meta take beside their bytes.
const BLOCK_MEMORY: u64 = 32;
const META_MEMORY: u64 = 96;

/// The size of a catalog or of its written part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    sources: usize,
    metas: usize,
    blocks: usize,
}

/// The definition of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition<'a> {
    pub(crate) source: u32,
    pub(crate) slot: u32,
    pub(crate) meta: u32,
    pub(crate) key: &'a [u8],
}

/// The definitions of one catalog, in the form that its file has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) id: u64,
    /// The record's fingerprint, if the file's header has it.
    pub(crate) record: u16,
    sources: Vec<Arc<str>>,
    metas: Vec<Arc<Meta>>,
    blocks: Vec<Arc<[u8]>>,
    bytes: u64,
    /// The part that the file has.
    written: Extent,
    /// The last block as long as it is not written and may grow.
    open: BlockWriter,
}

/// The content of one frame.
#[derive(Debug, Default)]
struct Addition {
    sources: Vec<Arc<str>>,
    metas: Vec<Arc<Meta>>,
    blocks: Vec<Arc<[u8]>>,
}

impl Addition {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(out, self.sources.len());
        for source in &self.sources {
            put_count(out, source.len());
            out.extend_from_slice(source.as_bytes());
        }
        put_count(out, self.metas.len());
        for meta in &self.metas {
            out.push(kind_to_byte(meta.kind));
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
            // Every item has a byte at least: a damaged count ends with the payload.
            addition.sources.push(read_text(&mut input)?.into());
        }
        for _ in 0..input.count()? {
            let kind = kind_from_byte(input.byte()?)?;
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
    pub(crate) fn new(id: u64, record: u16) -> Self {
        Self {
            id,
            record,
            ..Self::default()
        }
    }

    /// Reads the intact part of a catalog's file. Returns the length of that part, too.
    pub(crate) fn read(id: u64, bytes: &[u8]) -> (Self, u64, Option<Damage>) {
        let mut catalog = Self::new(id, 0);
        let mut frames = Frames::new(FileKind::Catalog, id, bytes);
        let damage = |kind| FileKind::Catalog.damage(id, 0, kind);
        let restored = match Header::read(bytes, FileKind::Catalog, id) {
            Ok(header) => {
                catalog.record = header.record;
                None
            }
            // Everything else in it follows from the file's name, which the checksum of each frame confirms.
            Err(DamageKind::Checksum) if frames.clone().next().is_some() => {
                Some(damage(DamageKind::Restored(HEADER_BYTES)))
            }
            Err(kind) => return (catalog, 0, Some(damage(kind))),
        };
        while let Some(payload) = frames.next() {
            match Addition::read(payload)
                .and_then(|addition| catalog.check(&addition).map(|()| addition))
            {
                Ok(addition) => catalog.add(addition),
                // Later frames may refer to this one, so that the intact part ends here.
                Err(Malformed) => frames.reject(payload),
            }
        }
        let damage = frames.damage();
        // An end that is missing is noticed by what the parts need; a header that is, by nothing else.
        let is_worse = |damage: &Damage| restored.is_none() || !damage.is_truncation();
        let damage = damage.filter(is_worse).or_else(|| restored.clone());
        (catalog, frames.intact_len(), damage)
    }

    fn check(&self, addition: &Addition) -> Result<(), Malformed> {
        let sources = self.sources.len() + addition.sources.len();
        let metas = self.metas.len() + addition.metas.len();
        for block in &addition.blocks {
            // Readers index sources and metas, and decode keys, without checking again.
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

    /// Defines a slot that has no definition yet. Returns the index of its block.
    pub(crate) fn define(&mut self, definition: Definition<'_>) -> usize {
        // A block that is in the file is closed for good, even if it is not full.
        let open = self.blocks.len() > self.written.blocks && self.open.count > 0;
        // A block names its source once, for all of its definitions.
        if !open || self.open.count == BLOCK_SERIES || self.open.source != definition.source {
            self.open.clear();
            self.blocks.push(Arc::from([]));
            self.bytes += BLOCK_MEMORY;
        }
        let before = self.open.bytes.len();
        self.open.put(definition);
        self.bytes += (self.open.bytes.len() - before) as u64;
        let index = self.blocks.len() - 1;
        // Snapshots share blocks, so that the open block is replaced and never changed.
        self.blocks[index] = Arc::from(&self.open.bytes[..]);
        index
    }

    fn extent(&self) -> Extent {
        Extent {
            sources: self.sources.len(),
            metas: self.metas.len(),
            blocks: self.blocks.len(),
        }
    }

    /// Appends the payload of the next frame of a file that has `from`. Returns the part that the file
    /// has with the frame, or `None` if it is complete.
    pub(crate) fn put_unwritten(&self, from: Extent, out: &mut Vec<u8>) -> Option<Extent> {
        if from == self.extent() {
            return None;
        }
        let mut bytes = 0;
        let mut end = from.blocks;
        while end < self.blocks.len() && bytes < FRAME_BYTES {
            bytes += self.blocks[end].len();
            end += 1;
        }
        // All sources and metas go first: the blocks of later frames refer to them.
        let addition = Addition {
            sources: self.sources[from.sources..].to_vec(),
            metas: self.metas[from.metas..].to_vec(),
            blocks: self.blocks[from.blocks..end].to_vec(),
        };
        addition.put(out);
        Some(Extent {
            blocks: end,
            ..self.extent()
        })
    }

    /// Encodes the whole catalog as a file.
    pub(crate) fn to_file(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut log = Log::new(self.header());
        let (mut from, mut frame) = (Extent::default(), Vec::new());
        loop {
            begin_frame(&mut frame);
            let Some(written) = self.put_unwritten(from, &mut frame) else {
                return bytes;
            };
            log.seal_frame(&mut frame);
            bytes.extend_from_slice(&frame);
            from = written;
        }
    }

    /// Returns the header of the catalog's file.
    pub(crate) fn header(&self) -> Header {
        Header {
            record: self.record,
            ..Header::new(FileKind::Catalog, self.id, self.id)
        }
    }

    /// Returns the number of blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Returns the number of blocks in the file.
    pub(crate) fn written_blocks(&self) -> u64 {
        self.written.blocks as u64
    }

    pub(crate) fn written(&self) -> Extent {
        self.written
    }

    /// Notes that the file has this part.
    pub(crate) fn mark_written(&mut self, written: Extent) {
        self.written = written;
    }

    /// Returns the memory it takes, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn sources(&self) -> &[Arc<str>] {
        &self.sources
    }

    pub(crate) fn metas(&self) -> &[Arc<Meta>] {
        &self.metas
    }

    /// Returns true if `meta`, cut to the stored length, is the meta with this index.
    pub(crate) fn is_meta(&self, index: u32, meta: &Meta) -> bool {
        let stored = &self.metas[index as usize];
        // `truncated` copies the text: only texts that differ may need it.
        stored.kind == meta.kind
            && (stored.help == meta.help || stored.help == truncated(meta).help)
    }

    /// Calls `visit` with the block's index and the definition, for each in the order of creation.
    pub(crate) fn walk(&self, mut visit: impl FnMut(usize, Definition<'_>)) {
        for (index, block) in self.blocks.iter().enumerate() {
            let walked = walk_block(block, |definition| {
                visit(index, definition);
                Ok(())
            });
            debug_assert_eq!(walked, Ok(()), "blocks are checked before they are added");
        }
    }

    /// Calls `then` with the definition of a slot, if this block has it.
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
                // Only an error ends the walk early.
                return Err(Malformed);
            }
            Ok(())
        });
        debug_assert!(
            walked.is_err() == found.is_some(),
            "blocks are checked before they are added"
        );
        found
    }
}

/// Cuts the help text to [`HELP_BYTES_MAX`] bytes.
pub(crate) fn truncated(meta: &Meta) -> Meta {
    let mut end = meta.help.len().min(HELP_BYTES_MAX);
    while !meta.help.is_char_boundary(end) {
        end -= 1;
    }
    Meta {
        kind: meta.kind,
        help: meta.help[..end].to_owned(),
    }
}

/// An index of metas, so that a catalog stores each once.
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

    /// Returns the index of a meta, which is added to the catalog if it is new.
    pub(crate) fn find_or_add(&mut self, meta: &Arc<Meta>, catalog: &mut Catalog) -> u32 {
        if let Some(index) = self.by_meta.get(meta) {
            return *index;
        }
        let index = catalog.add_meta(Arc::clone(meta));
        self.by_meta.insert(Arc::clone(meta), index);
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
        // New slots mostly follow each other: their distance to this is zero.
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
        // A damaged distance may lead out of the range of slots.
        let slot = next.checked_add(input.signed()?).ok_or(Malformed)?;
        let slot = u32::try_from(slot).map_err(|_| Malformed)?;
        let meta = index(input.count()?)?;
        // The first key of a block has no prefix, because `key` is empty then.
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
