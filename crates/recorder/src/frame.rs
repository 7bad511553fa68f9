//! The header of every file of a record, and the checksummed frames that logs consist of.
//!
//! A checksum also covers the file's kind and id and the offset, so that intact bytes in the wrong
//! file or at the wrong offset are detected as well.

use std::{ffi::OsStr, io, sync::Arc};

use crate::{
    bytes::{Input, Malformed},
    disk::{Disk, DiskFile},
    error::{Damage, DamageKind},
    parity::{FRAME_BYTES, Region},
};

const MAGIC: [u8; 4] = *b"SfFR";

/// The format that is written. Earlier ones are still read. The rows of format 1 have no decimals and no
/// sets, its heads no parity, and its segments no predicted columns. In format 2 a region of a head ends
/// before a frame that is longer than its first one.
const VERSION: u8 = 3;
const VERSION_MIN: u8 = 1;

/// The length of a header.
pub(crate) const HEADER_BYTES: usize = 44;

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    /// Definitions of series.
    Catalog = 1,
    /// Scrapes in the order of their commits, one frame per commit.
    Head = 2,
    /// The scrapes of a closed head, series by series. Immutable.
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

    /// Returns the name of the file of this kind with this id.
    pub(crate) fn name(self, id: u64) -> String {
        format!("{id:016}.{}", self.extension())
    }

    /// Parses the name of a record's file. Returns `None` for the name of any other file.
    pub(crate) fn parse(name: &str) -> Option<(Self, u64)> {
        let (digits, extension) = name.split_once('.')?;
        let kind = Self::ALL
            .into_iter()
            .find(|kind| kind.extension() == extension)?;
        let id = digits.parse().ok()?;
        // Rejects what `parse` accepts beyond our own spelling: a sign, other numbers of digits.
        (kind.name(id) == name).then_some((kind, id))
    }

    /// Damage of the file of this kind with this id.
    pub(crate) fn damage(self, id: u64, offset: u64, kind: DamageKind) -> Damage {
        let file = self.name(id);
        Damage { file, offset, kind }
    }

    /// Damage of a file that cannot be opened or read at all.
    pub(crate) fn unreadable(self, id: u64, error: &io::Error) -> Damage {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => DamageKind::Missing,
            kind => DamageKind::Unreadable(kind),
        };
        self.damage(id, 0, kind)
    }
}

/// The first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FileKind,
    pub(crate) version: u8,
    /// A fingerprint of the record. Ids are equal in all records, so that only this tells a file from that of
    /// another record. 0 in files of which the record is not known.
    pub(crate) record: u16,
    pub(crate) id: u64,
    /// The catalog that defines the file's slots. A catalog has its own id here.
    pub(crate) catalog: u64,
    /// In a head: the id of the head before it. 0 in other files.
    pub(crate) previous_head: u64,
    /// In a head: the length of the head before it. In a segment: the catalog blocks it needs. With
    /// it a reader detects that the other file has lost its end.
    pub(crate) extent: u64,
}

impl Header {
    pub(crate) fn new(kind: FileKind, id: u64, catalog: u64) -> Self {
        Self {
            kind,
            version: VERSION,
            record: 0,
            id,
            catalog,
            previous_head: 0,
            extent: 0,
        }
    }

    /// Returns true if frames of this version may be appended to the file.
    pub(crate) fn is_current(&self) -> bool {
        self.version == VERSION
    }

    /// Returns true if a head of this version has parity.
    pub(crate) fn has_parity(&self) -> bool {
        self.version >= 2
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.kind as u8, self.version]);
        out.extend_from_slice(&self.record.to_le_bytes());
        for number in [self.id, self.catalog, self.previous_head, self.extent] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let sum = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }

    /// Reads the header of the file of this kind with this id.
    pub(crate) fn read(bytes: &[u8], kind: FileKind, id: u64) -> Result<Self, DamageKind> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(DamageKind::Truncated)?;
        let mut input = Input::new(bytes);
        let mut read = || -> Result<_, Malformed> {
            let magic = input.take(4)?;
            let (found_kind, version) = (input.byte()?, input.byte()?);
            let header = Self {
                kind,
                version,
                record: u16::from_le_bytes([input.byte()?, input.byte()?]),
                id: input.u64()?,
                catalog: input.u64()?,
                previous_head: input.u64()?,
                extent: input.u64()?,
            };
            Ok((magic == MAGIC, found_kind, header, input.u32()?))
        };
        let (is_ours, found_kind, header, sum) =
            read().map_err(|Malformed| DamageKind::Truncated)?;
        if !is_ours || crc32fast::hash(&bytes[..HEADER_BYTES - 4]) != sum {
            return Err(DamageKind::Checksum);
        }
        // After the checksum: damaged bytes must not ask for a newer program.
        if !(VERSION_MIN..=VERSION).contains(&header.version) {
            return Err(DamageKind::Version(header.version));
        }
        // An intact header under another name: someone copied or renamed the file.
        if found_kind != kind as u8 || header.id != id {
            return Err(DamageKind::Misplaced);
        }
        Ok(header)
    }
}

/// Returns the fingerprint of a record that is created under this name. A record that is renamed keeps it.
pub(crate) fn record_fingerprint(name: &OsStr) -> u16 {
    (crc32fast::hash(name.as_encoded_bytes()) as u16).max(1)
}

/// Returns the checksum of bytes at `offset` of a file.
pub(crate) fn checksum(kind: FileKind, id: u64, offset: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind as u8]);
    hasher.update(&id.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// A catalog or head that frames are appended to.
#[derive(Debug)]
pub(crate) struct Log {
    header: Header,
    /// `None` in memory, and before the first frame.
    file: Option<Arc<dyn DiskFile>>,
    len: u64,
    unsynced: bool,
    /// The region at the end of a head's file.
    region: Region,
}

impl Log {
    /// Creates an empty log. Its header is written with the first frame.
    pub(crate) fn new(header: Header) -> Self {
        Self {
            header,
            file: None,
            len: 0,
            unsynced: false,
            region: Region::default(),
        }
    }

    /// Creates the head that follows `previous`.
    pub(crate) fn following(id: u64, catalog: u64, previous: &Self) -> Self {
        // A head without frames has no file: the next one still follows the head before that.
        let (previous_head, extent) = if previous.is_empty() {
            (previous.header.previous_head, previous.header.extent)
        } else {
            (previous.id(), previous.len)
        };
        Self::new(Header {
            previous_head,
            extent,
            record: previous.header.record,
            ..Header::new(FileKind::Head, id, catalog)
        })
    }

    /// Continues a log of which the first `len` bytes are intact.
    pub(crate) fn resumed(header: Header, file: Arc<dyn DiskFile>, len: u64) -> Self {
        Self {
            header,
            file: Some(file),
            len,
            // The process that wrote these bytes may have ended before it synced them.
            unsynced: true,
            region: Region::default(),
        }
    }

    /// Continues a head's file, which ends with this region.
    pub(crate) fn with_region(mut self, region: Region) -> Self {
        self.region = region;
        self
    }

    pub(crate) fn id(&self) -> u64 {
        self.header.id
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The length of the file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn name(&self) -> String {
        self.header.kind.name(self.id())
    }

    /// Returns the length of the file after the next frame, given the frame's payload with
    /// [`begin_frame`]'s space in front.
    pub(crate) fn len_with(&self, frame: &[u8]) -> u64 {
        let header = if self.is_empty() { HEADER_BYTES } else { 0 };
        let bytes = header + frame.len();
        let parity = match self.header.kind {
            FileKind::Head => self.region.parity_bytes_with(bytes),
            FileKind::Catalog | FileKind::Segment => 0,
        };
        self.len + (bytes + parity) as u64
    }

    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the file if it was written to since the last call.
    pub(crate) fn take_unsynced(&mut self) -> Option<Arc<dyn DiskFile>> {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.file.clone().filter(|_| unsynced)
    }

    /// Creates the file, which replaces one of the same name.
    pub(crate) fn create_file(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.file = Some(disk.create(&self.name())?);
        Ok(())
    }

    /// Appends one frame, with one write, and returns the number of bytes that were put in front of it.
    /// `frame` has [`begin_frame`]'s space in front of the payload. After an error the log is as it was
    /// before.
    pub(crate) fn append(&mut self, frame: &mut Vec<u8>) -> io::Result<usize> {
        let Some(file) = self.file.clone() else {
            return Ok(self.seal_frame(frame));
        };
        let (before, extent) = (self.len, self.region.extent());
        let in_front = match self.header.kind {
            FileKind::Head => self.seal_with_parity(frame),
            FileKind::Catalog | FileKind::Segment => self.seal_frame(frame),
        };
        // Even if the write fails: it may leave some of the bytes.
        self.unsynced = true;
        if let Err(error) = file.write_at(before, frame) {
            // Bytes stay behind if truncating fails too. The next frame overwrites their beginning, and
            // the rest does not pass for a frame: checksums cover the offset.
            self.len = before;
            self.region.rewind(extent);
            file.set_len(before).ok();
            return Err(error);
        }
        if self.region.is_complete() {
            self.region.end();
        }
        Ok(in_front)
    }

    /// Completes the log's next frame, with the file's header in front if it is the first. Returns the
    /// number of bytes in front of the frame.
    pub(crate) fn seal_frame(&mut self, frame: &mut Vec<u8>) -> usize {
        let mut header = Vec::new();
        if self.is_empty() {
            self.header.put(&mut header);
        }
        let in_front = header.len();
        seal(
            self.header.kind,
            self.id(),
            self.len + in_front as u64,
            frame,
        );
        frame.splice(..0, header);
        self.len += frame.len() as u64;
        in_front
    }

    /// Completes the next frame of a head, with the parity of the region behind it if it is the last one
    /// there.
    fn seal_with_parity(&mut self, frame: &mut Vec<u8>) -> usize {
        let in_front = self.seal_frame(frame);
        self.region.add(frame);
        if self.region.is_complete() {
            let mut parity = Vec::new();
            begin_frame(&mut parity);
            self.region.put_parity(&mut parity);
            self.seal_frame(&mut parity);
            frame.append(&mut parity);
        }
        in_front
    }
}

/// Completes the length and the checksum of a frame at this offset.
pub(crate) fn seal(kind: FileKind, id: u64, offset: u64, frame: &mut [u8]) {
    let (head, payload) = frame.split_at_mut(FRAME_BYTES);
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&checksum(kind, id, offset, payload).to_le_bytes());
}

/// Clears `out` and leaves space for a frame's length and checksum in front of the payload.
pub(crate) fn begin_frame(out: &mut Vec<u8>) {
    out.clear();
    out.resize(FRAME_BYTES, 0);
}

/// An iterator over the payloads of a log's frames. It stops at the first damaged frame.
#[derive(Clone, Debug)]
pub(crate) struct Frames<'a> {
    kind: FileKind,
    id: u64,
    bytes: &'a [u8],
    offset: usize,
    damage: Option<DamageKind>,
}

impl<'a> Frames<'a> {
    /// The frames behind the header.
    pub(crate) fn new(kind: FileKind, id: u64, bytes: &'a [u8]) -> Self {
        Self::at(kind, id, bytes, HEADER_BYTES)
    }

    /// The frames from this offset on.
    pub(crate) fn at(kind: FileKind, id: u64, bytes: &'a [u8], offset: usize) -> Self {
        Self {
            kind,
            id,
            bytes,
            offset,
            damage: None,
        }
    }

    /// Returns the length of the intact part so far.
    pub(crate) fn intact_len(&self) -> u64 {
        self.offset as u64
    }

    /// Declares the last frame malformed, which ends the iteration in front of it.
    pub(crate) fn reject(&mut self, payload: &[u8]) {
        self.offset -= payload.len() + FRAME_BYTES;
        self.damage = Some(DamageKind::Malformed);
    }

    /// Returns the damage that ended the iteration before the end of the file.
    pub(crate) fn damage(&self) -> Option<Damage> {
        let kind = self.damage?;
        Some(self.kind.damage(self.id, self.offset as u64, kind))
    }

    fn read(&self) -> Result<&'a [u8], DamageKind> {
        let mut input = Input::new(&self.bytes[self.offset..]);
        let truncated = |Malformed| DamageKind::Truncated;
        let length = input.u32().map_err(truncated)?;
        let sum = input.u32().map_err(truncated)?;
        let payload = input.take(length as usize).map_err(truncated)?;
        // A crash can leave zeros behind the end of a file, and no frame is empty.
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
