//! Reads of segments, in parts.

use std::{io, sync::Arc};

use super::{disk::DiskFile, segment::content_end};
use crate::log::LogError;

/// Size of one read, in bytes. Larger records are read with larger ones.
pub(super) const CHUNK: usize = 64 << 10;
/// Size of the first read for a single event: what lies between two entries of a segment's index, and a usual
/// record after it.
const SINGLE: usize = 16 << 10;

/// The reads of one or more visits. The file of the last one is kept open, and what was read of it last.
#[derive(Debug)]
pub(super) struct Reads {
    /// The id of its segment, and the file.
    pub(super) open: Option<(u64, Arc<dyn DiskFile>)>,
    /// The part of the file that was read last, and its place.
    part: (usize, Vec<u8>),
    /// Offset and place of the last event visited there.
    pub(super) last: (u64, usize),
    /// The size of the first read of a visit.
    pub(super) first: usize,
}

impl Reads {
    /// For visits of many events.
    pub(super) const fn of_many() -> Self {
        Self::beginning_with(CHUNK)
    }

    /// For visits of single events.
    pub(super) const fn of_single_events() -> Self {
        Self::beginning_with(SINGLE)
    }

    const fn beginning_with(first: usize) -> Self {
        Self {
            open: None,
            part: (0, Vec::new()),
            last: (0, 0),
            first,
        }
    }

    /// Forgets the file, and keeps another one.
    pub(super) fn open(&mut self, id: u64, file: &Arc<dyn DiskFile>) {
        *self = Self::beginning_with(self.first);
        self.open = Some((id, Arc::clone(file)));
    }

    /// Returns a place before an event: the given one, or that of the last event visited, if it is nearer.
    pub(super) fn nearest(&self, offset: u64, place: usize) -> usize {
        let (last, at) = self.last;
        if last < offset { place.max(at) } else { place }
    }

    /// Returns the file from this place on: what is left of the last read, or else as many bytes.
    pub(super) fn from(
        &mut self,
        file: &dyn DiskFile,
        at: usize,
        bytes: usize,
    ) -> Result<&[u8], LogError> {
        let (start, part) = &self.part;
        let is_held = (*start..start + part.len()).contains(&at);
        if !is_held {
            self.part = (at, read(file, at, bytes)?);
        }
        let (start, part) = &self.part;
        Ok(&part[at - start..])
    }

    /// Makes the next read one of the file.
    pub(super) fn read_again(&mut self) {
        self.part.1.clear();
    }
}

pub(super) fn read(file: &dyn DiskFile, at: usize, bytes: usize) -> Result<Vec<u8>, LogError> {
    let mut part = vec![0; bytes];
    read_into(file, at, &mut part)?;
    Ok(part)
}

/// Reads zeros from where a file is cut that was longer when it was opened first: its events are missing,
/// as those of a file that was removed.
fn read_into(file: &dyn DiskFile, at: usize, out: &mut [u8]) -> Result<(), LogError> {
    let whole = file.read(at as u64, out);
    if !matches!(&whole, Err(error) if error.kind() == io::ErrorKind::UnexpectedEof) {
        return whole.map_err(LogError::storage);
    }
    let length = file.length().map_err(LogError::storage)?;
    let length = usize::try_from(length).map_err(LogError::storage)?;
    let (left, cut) = out.split_at_mut(length.saturating_sub(at).min(out.len()));
    cut.fill(0);
    file.read(at as u64, left).map_err(LogError::storage)
}

/// Reads a whole segment. Most of the last one is zeros, which take no memory.
pub(super) fn read_all(file: &dyn DiskFile, length: usize) -> Result<Vec<u8>, LogError> {
    let mut content = vec![0; length];
    let mut chunk = vec![0; CHUNK];
    for at in (0..length).step_by(CHUNK) {
        let part = &mut chunk[..CHUNK.min(length - at)];
        read_into(file, at, part)?;
        // Not copied: the system then never allocates these pages of `content`.
        if content_end(part, 0) > 0 {
            content[at..at + part.len()].copy_from_slice(part);
        }
    }
    Ok(content)
}
