//! Parity of a head's file, from which a damaged place is restored.
//!
//! ```text
//!   file   := region*                      the first region begins with the file's header
//!   region := frame+, frame with parity
//! ```
//!
//! Byte `n` of the parity is the XOR of the region's bytes at `n`, `n + length`, `n + 2 * length` and so
//! on. A damaged place that is shorter than the parity has at most one byte of each of these
//! classes, so that the rest of the region determines its content, and checksums confirm its position.

use std::ops::Range;

use crate::{
    bytes::{Input, Malformed, put_varint, varint_len},
    frame::{FRAME_BYTES, FileKind, Frames, HEADER_BYTES, Header, seal},
};

/// The first byte of a parity frame's payload. No entry of a head begins with it.
const PARITY: u8 = 0x40;

/// The shortest parity, so that a damaged place may cover several short frames.
const LENGTH_MIN: usize = 64;

/// The number of frames after which a region ends. So many scrapes at the end of a file have no parity.
const FRAMES_MAX: u32 = 16;

/// The length of a region in parities. A parity takes an eighth of the space that frames take.
const PARITIES: u64 = 8;

/// The longest damaged place behind which an intact frame is looked for.
const SEARCH_BYTES_MAX: usize = 1 << 20;

/// The most bytes of which checksums are computed while one is looked for. Zeros look like many short
/// frames, and other bytes mostly like one that is longer than the file.
const SEARCH_WORK_MAX: usize = 64 << 20;

/// The size of a region that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    start: u64,
    len: u64,
    frames: u32,
    parity: usize,
}

impl Extent {
    /// Returns the extent with a frame, which in the first region includes the file's header.
    fn with(self, frame: usize) -> Self {
        Self {
            len: self.len + frame as u64,
            frames: self.frames + 1,
            parity: if self.frames == 0 {
                frame.max(LENGTH_MIN)
            } else {
                self.parity
            },
            ..self
        }
    }

    fn is_complete(self) -> bool {
        // The first frame of a file has all values, and those behind it only what changed: its parity
        // would be too long for them.
        let is_long = self.frames >= FRAMES_MAX || self.len >= PARITIES * self.parity as u64;
        self.frames > 0 && (self.start == 0 || is_long)
    }

    /// Returns true if the region has to end before a frame of this length.
    fn ends_before(self, frame: usize) -> bool {
        self.is_complete() || self.frames > 0 && frame > self.parity
    }

    /// Returns the length of the parity frame.
    fn parity_frame(self) -> usize {
        FRAME_BYTES + 1 + varint_len(self.len) + self.parity
    }

    /// Returns the region that follows.
    fn next(self) -> Self {
        Self {
            start: self.start + self.len + self.parity_frame() as u64,
            ..Self::default()
        }
    }
}

/// The region at the end of a head's file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Region {
    extent: Extent,
    parity: Vec<u8>,
}

impl Region {
    /// Adds a frame, which in the first region includes the file's header.
    pub(crate) fn add(&mut self, frame: &[u8]) {
        let before = self.extent.len;
        self.extent = self.extent.with(frame.len());
        self.parity.resize(self.extent.parity, 0);
        fold(&mut self.parity, before, frame);
    }

    /// Returns true if the region has to end before a frame of this length.
    pub(crate) fn ends_before(&self, frame: usize) -> bool {
        self.extent.ends_before(frame)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.extent.is_complete()
    }

    /// Appends the payload of the parity frame, and begins the next region.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) {
        out.push(PARITY);
        put_varint(out, self.extent.len);
        out.append(&mut self.parity);
        self.extent = self.extent.next();
    }

    /// Returns the bytes of parity frames that are written with a frame of this length.
    pub(crate) fn parity_bytes_with(&self, frame: usize) -> usize {
        let (mut extent, mut bytes) = (self.extent, 0);
        if extent.ends_before(frame) {
            bytes += extent.parity_frame();
            extent = extent.next();
        }
        extent = extent.with(frame);
        if extent.is_complete() {
            bytes += extent.parity_frame();
        }
        bytes
    }
}

/// Folds bytes that stand at `offset` of a region into its parity.
fn fold(parity: &mut [u8], offset: u64, mut bytes: &[u8]) {
    let mut at = (offset % parity.len() as u64) as usize;
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(bytes.len().min(parity.len() - at));
        for (sum, byte) in parity[at..].iter_mut().zip(piece) {
            *sum ^= byte;
        }
        (bytes, at) = (rest, 0);
    }
}

/// Tells whether a payload is that of a parity frame.
pub(crate) fn is_parity(payload: &[u8]) -> bool {
    payload.first() == Some(&PARITY)
}

/// Restores the damaged place that begins at `offset` of a head's file. `region` is the one that the
/// intact bytes before it lead to. Returns the place, or `None` if it cannot be restored.
pub(crate) fn restore(
    id: u64,
    bytes: &mut [u8],
    offset: usize,
    region: &Region,
) -> Option<Range<usize>> {
    if let Some(place) = restore_parity(id, bytes, offset, region) {
        return Some(place);
    }
    let end = find_frame(id, bytes, offset)?;
    // The parity of the region that has the place, if it did not end there.
    let mut frames = Frames::at(FileKind::Head, id, bytes, end);
    let payload = frames.by_ref().find(|payload| is_parity(payload))?;
    let parity_at = frames.intact_len() as usize - payload.len() - FRAME_BYTES;
    let mut input = Input::new(payload);
    let mut parse = || -> Result<_, Malformed> {
        input.byte()?;
        input.count_up_to(parity_at)
    };
    let start = parity_at - parse().ok()?;
    if start > offset {
        return None;
    }
    // What remains of the parity are the errors of its classes.
    let mut errors = input.rest().to_vec();
    fold(&mut errors, 0, &bytes[start..parity_at]);
    let class = |at: usize| (at - start) % errors.len();
    let mut work = SEARCH_WORK_MAX;
    for at in offset..end {
        // The place begins behind a class without an error, or where the damaged frame begins.
        if errors[class(at)] == 0 || at > offset && errors[class(at - 1)] != 0 {
            continue;
        }
        work = work.checked_sub(end - offset)?;
        let place = at..end.min(at + errors.len());
        let correct = |bytes: &mut [u8]| {
            for (at, byte) in place.clone().zip(&mut bytes[place.clone()]) {
                *byte ^= errors[class(at)];
            }
        };
        correct(bytes);
        if is_intact(id, bytes, offset..end) {
            let last = place.clone().rposition(|at| errors[class(at)] != 0);
            return Some(at..at + last? + 1);
        }
        correct(bytes);
    }
    None
}

/// Restores a parity frame, of which the frames before it determine every byte.
fn restore_parity(
    id: u64,
    bytes: &mut [u8],
    offset: usize,
    region: &Region,
) -> Option<Range<usize>> {
    let place = offset..offset + region.extent.parity_frame();
    // A region that is not complete ends only before a frame that is longer than its parity. Nothing else
    // may be taken for a parity frame: the scrape that it replaces would be lost without a word.
    let ends_here = || {
        let frame = Frames::at(FileKind::Head, id, bytes, place.end).next();
        frame.is_some_and(|payload| region.ends_before(FRAME_BYTES + payload.len()))
    };
    if place.end > bytes.len() || !(region.is_complete() || ends_here()) {
        return None;
    }
    let mut frame = vec![0; FRAME_BYTES];
    region.clone().end(&mut frame);
    seal(FileKind::Head, id, offset as u64, &mut frame);
    bytes[place.clone()].copy_from_slice(&frame);
    Some(place)
}

/// Returns true if the range is the file's header, or consists of whole frames, and is intact.
fn is_intact(id: u64, bytes: &[u8], range: Range<usize>) -> bool {
    let start = range.start.max(HEADER_BYTES);
    let mut frames = Frames::at(FileKind::Head, id, &bytes[..range.end], start);
    frames.by_ref().for_each(drop);
    let has_header = || Header::read(bytes, FileKind::Head, id).is_ok();
    frames.damage().is_none() && (range.start > 0 || has_header())
}

/// Returns the offset of the first intact frame behind a damaged one.
fn find_frame(id: u64, bytes: &[u8], damaged: usize) -> Option<usize> {
    let mut work = SEARCH_WORK_MAX;
    let last = bytes.len().min(damaged + SEARCH_BYTES_MAX);
    for offset in damaged + 1..last {
        let head = bytes.get(offset..offset + 4)?;
        let length = u32::from_le_bytes(head.try_into().ok()?) as usize;
        if length == 0 || length > bytes.len() - offset {
            continue;
        }
        work = work.checked_sub(length)?;
        if Frames::at(FileKind::Head, id, bytes, offset)
            .next()
            .is_some()
        {
            return Some(offset);
        }
    }
    None
}
