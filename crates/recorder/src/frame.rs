//! Files of the record: the header each begins with, and the frames that logs are made of.
//!
//! Every checksum also covers which file it stands in and where, so that bytes that are whole but in
//! the wrong place are noticed as well.

use std::{io, sync::Arc};

use crate::{
    bytes::{Input, Malformed},
    disk::DiskFile,
    error::{Damage, DamageKind},
};

const MAGIC: [u8; 4] = *b"SfFR";
const VERSION: u8 = 1;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 44;

/// Bytes before a frame's payload: its length and its checksum.
const FRAME_BYTES: usize = 8;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    /// Definitions of series.
    Catalog = 1,
    /// Scrapes as they come, one frame each.
    Head = 2,
    /// The same scrapes by series, never changed again.
    Segment = 3,
}

impl FileKind {
    const ALL: [Self; 3] = [Self::Catalog, Self::Head, Self::Segment];

    fn extension(self) -> &'static str {
        match self {
            Self::Catalog => "names",
            Self::Head => "head",
            Self::Segment => "segment",
        }
    }

    /// The file's name.
    pub(crate) fn name(self, id: u64) -> String {
        format!("{id:016}.{}", self.extension())
    }

    /// What a file of this name is, if it is ours.
    pub(crate) fn parse(name: &str) -> Option<(Self, u64)> {
        let (digits, extension) = name.split_once('.')?;
        let kind = Self::ALL
            .into_iter()
            .find(|kind| kind.extension() == extension)?;
        let id = digits.parse().ok()?;
        (kind.name(id) == name).then_some((kind, id))
    }
}

/// The first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FileKind,
    /// Which file of its kind.
    pub(crate) id: u64,
    /// The catalog its slots are defined in; its own id for a catalog.
    pub(crate) catalog: u64,
    pub(crate) knows: Knows,
}

/// What a file knows of others, so that their loss is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Knows {
    /// A head: the head before it.
    pub(crate) head: u64,
    /// A head: the length that one had. A segment: how many blocks of the catalog it needs.
    pub(crate) extent: u64,
}

impl Header {
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.kind as u8, VERSION, 0, 0]);
        out.extend_from_slice(&self.id.to_le_bytes());
        for number in [self.catalog, self.knows.head, self.knows.extent] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let sum = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }

    /// Reads the header of the file called `name`, which says what has to be in it.
    pub(crate) fn read(bytes: &[u8], kind: FileKind, id: u64) -> Result<Self, DamageKind> {
        let mut input = Input::new(bytes.get(..HEADER_BYTES).ok_or(DamageKind::Cut)?);
        let mut read = || -> Result<_, Malformed> {
            let magic = input.take(4)?;
            let (found, version) = (input.byte()?, input.byte()?);
            input.take(2)?;
            Ok((
                magic == MAGIC,
                found,
                version,
                input.u64()?,
                input.u64()?,
                Knows {
                    head: input.u64()?,
                    extent: input.u64()?,
                },
                input.u32()?,
            ))
        };
        let (ours, found, version, found_id, catalog, knows, sum) =
            read().map_err(|Malformed| DamageKind::Cut)?;
        if !ours || crc32fast::hash(&bytes[..HEADER_BYTES - 4]) != sum {
            return Err(DamageKind::Checksum);
        }
        if version != VERSION {
            return Err(DamageKind::Version(version));
        }
        if found != kind as u8 || found_id != id {
            return Err(DamageKind::Misplaced);
        }
        Ok(Self {
            kind,
            id,
            catalog,
            knows,
        })
    }
}

/// The checksum of bytes that stand at `offset` of a file.
pub(crate) fn checksum(kind: FileKind, id: u64, offset: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind as u8]);
    hasher.update(&id.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// A file that frames are appended to.
#[derive(Debug)]
pub(crate) struct Log {
    kind: FileKind,
    id: u64,
    catalog: u64,
    knows: Knows,
    /// None in memory.
    file: Option<Arc<dyn DiskFile>>,
    len: u64,
    unsynced: bool,
}

impl Log {
    /// A log that has nothing yet; its header goes with the first frame.
    pub(crate) fn new(kind: FileKind, id: u64, catalog: u64) -> Self {
        Self {
            kind,
            id,
            catalog,
            knows: Knows::default(),
            file: None,
            len: 0,
            unsynced: false,
        }
    }

    /// The log of a head that follows `before`.
    pub(crate) fn following(id: u64, catalog: u64, before: &Self) -> Self {
        let knows = if before.len == 0 {
            before.knows
        } else {
            Knows {
                head: before.id,
                extent: before.len,
            }
        };
        Self {
            knows,
            ..Self::new(FileKind::Head, id, catalog)
        }
    }

    /// A log whose first `len` bytes are good.
    pub(crate) fn resumed(header: Header, file: Arc<dyn DiskFile>, len: u64) -> Self {
        let Header {
            kind,
            id,
            catalog,
            knows,
        } = header;
        Self {
            kind,
            id,
            catalog,
            knows,
            file: Some(file),
            len,
            unsynced: true,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn catalog(&self) -> u64 {
        self.catalog
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn name(&self) -> String {
        self.kind.name(self.id)
    }

    /// Bytes the file gets longer by with a payload of `payload` bytes.
    pub(crate) fn growth(&self, payload: usize) -> u64 {
        let header = if self.len == 0 { HEADER_BYTES } else { 0 };
        (header + FRAME_BYTES + payload) as u64
    }

    /// True while there is no file.
    pub(crate) fn is_new(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn attach(&mut self, file: Arc<dyn DiskFile>) {
        self.file = Some(file);
    }

    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// The file, if something was written since it was last taken to be synced.
    pub(crate) fn take_unsynced(&mut self) -> Option<Arc<dyn DiskFile>> {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.file.clone().filter(|_| unsynced)
    }

    /// Writes one frame, with one write. `frame` has [`frame_start`]'s room in front of the payload.
    /// After an error the log is as it was before.
    pub(crate) fn append(&mut self, frame: &mut Vec<u8>) -> io::Result<()> {
        let before = self.len;
        self.seal_frame(frame);
        if let Some(file) = &self.file {
            self.unsynced = true;
            if let Err(error) = file.write_at(before, frame) {
                // What stays behind when this fails too is overwritten by the next frame, and is
                // no frame of its own: its checksum is not that of its place.
                self.len = before;
                file.set_len(before).ok();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Completes a frame that will be the log's next, with the file's header if it is the first.
    pub(crate) fn seal_frame(&mut self, frame: &mut Vec<u8>) {
        let mut header = Vec::new();
        if self.len == 0 {
            Header {
                kind: self.kind,
                id: self.id,
                catalog: self.catalog,
                knows: self.knows,
            }
            .put(&mut header);
        }
        let offset = self.len + header.len() as u64;
        let length = (frame.len() - FRAME_BYTES) as u32;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(self.kind, self.id, offset, &frame[FRAME_BYTES..]);
        frame[4..FRAME_BYTES].copy_from_slice(&sum.to_le_bytes());
        frame.splice(..0, header);
        self.len += frame.len() as u64;
    }
}

/// Room in front of a frame's payload.
pub(crate) fn frame_start(out: &mut Vec<u8>) {
    out.clear();
    out.resize(FRAME_BYTES, 0);
}

/// Walks through the frames of a log's bytes. Stops at the first that is not whole.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    kind: FileKind,
    id: u64,
    bytes: &'a [u8],
    offset: usize,
    damage: Option<DamageKind>,
}

impl<'a> Frames<'a> {
    /// The frames after the header.
    pub(crate) fn new(kind: FileKind, id: u64, bytes: &'a [u8]) -> Self {
        Self {
            kind,
            id,
            bytes,
            offset: HEADER_BYTES,
            damage: None,
        }
    }

    /// Length of what is whole.
    pub(crate) fn good(&self) -> u64 {
        self.offset as u64
    }

    /// Gives the last frame back as one that can not be understood.
    pub(crate) fn reject(&mut self, payload: &[u8]) {
        self.offset -= payload.len() + FRAME_BYTES;
        self.damage = Some(DamageKind::Malformed);
    }

    /// Where and why the walk ended before the end.
    pub(crate) fn damage(&self) -> Option<Damage> {
        let kind = self.damage?;
        Some(Damage {
            file: self.kind.name(self.id),
            offset: self.offset as u64,
            kind,
        })
    }

    fn read(&self) -> Result<&'a [u8], DamageKind> {
        let mut input = Input::new(&self.bytes[self.offset..]);
        let cut = |Malformed| DamageKind::Cut;
        let length = input.u32().map_err(cut)?;
        let sum = input.u32().map_err(cut)?;
        let payload = input.take(length as usize).map_err(cut)?;
        if length == 0 || checksum(self.kind, self.id, self.offset as u64, payload) != sum {
            return Err(DamageKind::Checksum);
        }
        Ok(payload)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.damage.is_some() || self.offset == self.bytes.len() {
            return None;
        }
        match self.read() {
            Ok(payload) => {
                self.offset += FRAME_BYTES + payload.len();
                Some(payload)
            }
            Err(kind) => {
                self.damage = Some(kind);
                None
            }
        }
    }
}
