//! Parity of a head's file, from which a damaged place is restored (see [`repair`](crate::repair)).
//!
//! ```text
//!   file   := region*                      the first region begins with the file's header
//!   region := frame+, frame with parity
//! ```
//!
//! Byte `n` of the parity is the XOR of the region's bytes at `n`, `n + length`, `n + 2 * length` and so
//! on. A damaged place that is shorter than the parity has at most one byte of each of these
//! classes, so that the rest of the region determines its content, and checksums confirm its position.

use crate::bytes::{Input, Malformed, put_varint, varint_len};

/// The length and the checksum in front of a frame's payload.
pub(crate) const FRAME_BYTES: usize = 8;

/// The first byte of a parity frame's payload. No entry of a head begins with it.
const PARITY: u8 = 0x40;

/// The shortest parity, so that a damaged place may cover several short frames.
const LENGTH_MIN: usize = 64;

/// The number of frames after which a region ends. So many scrapes at the end of a file have no parity.
const FRAMES_MAX: u32 = 16;

/// The length of a region in parities. A parity takes a tenth of the space that frames take.
const PARITIES: u64 = 10;

/// The size of a region that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    start: u64,
    len: u64,
    frames: u32,
    /// As long as the longest frame, because a damaged place may be a whole one.
    parity: usize,
}

impl Extent {
    /// Returns the extent with a frame, which in the first region includes the file's header.
    fn with(self, frame: usize) -> Self {
        Self {
            len: self.len + frame as u64,
            frames: self.frames + 1,
            parity: self.parity.max(frame).max(LENGTH_MIN),
            ..self
        }
    }

    fn is_complete(self) -> bool {
        // The first frame of a file has all values, and those behind it only what changed: its parity
        // would be too long for them.
        let is_long = self.frames >= FRAMES_MAX || self.len >= PARITIES * self.parity as u64;
        self.frames > 0 && (self.start == 0 || is_long)
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
    /// The frames, because the length of the parity is not known before the last of them.
    bytes: Vec<u8>,
}

impl Region {
    /// Adds a frame, which in the first region includes the file's header.
    pub(crate) fn add(&mut self, frame: &[u8]) {
        self.extent = self.extent.with(frame.len());
        self.bytes.extend_from_slice(frame);
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    /// Removes the frames that were added since the region had this extent.
    pub(crate) fn rewind(&mut self, extent: Extent) {
        self.extent = extent;
        self.bytes.truncate(extent.len as usize);
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.extent.is_complete()
    }

    /// Appends the payload of the parity frame.
    pub(crate) fn put_parity(&self, out: &mut Vec<u8>) {
        out.push(PARITY);
        put_varint(out, self.extent.len);
        let start = out.len();
        out.resize(start + self.extent.parity, 0);
        fold(&mut out[start..], 0, &self.bytes);
    }

    /// Begins the next region, behind the parity of this one.
    pub(crate) fn end(&mut self) {
        self.extent = self.extent.next();
        self.bytes.clear();
    }

    /// Returns the length of the parity frame, and `None` if the region has no frame.
    pub(crate) fn parity_frame(&self) -> Option<usize> {
        (self.extent.frames > 0).then(|| self.extent.parity_frame())
    }

    /// Returns the bytes of the parity frame that is written with a frame of this length.
    pub(crate) fn parity_bytes_with(&self, frame: usize) -> usize {
        let extent = self.extent.with(frame);
        if extent.is_complete() {
            extent.parity_frame()
        } else {
            0
        }
    }
}

/// Folds bytes that stand at `offset` of a region into its parity.
pub(crate) fn fold(parity: &mut [u8], offset: u64, mut bytes: &[u8]) {
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

/// Reads the payload of a parity frame: the length of the region, and the parity.
pub(crate) fn read_parity(payload: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    let mut input = Input::new(payload);
    input.byte()?;
    Ok((input.count()?, input.rest()))
}
