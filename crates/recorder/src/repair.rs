//! Restoring a damaged place of a head's file from its parity (see [`parity`](crate::parity)).

use std::ops::Range;

use crate::{
    frame::{FileKind, Frames, HEADER_BYTES, Header, seal},
    parity::{FRAME_BYTES, Region, fold, is_parity, read_parity},
};

/// The longest damaged place behind which an intact frame is looked for.
const SEARCH_BYTES_MAX: usize = 1 << 20;

/// The most bytes of which checksums are computed while one is looked for. Zeros look like many short
/// frames, and other bytes mostly like one that is longer than the file.
const SEARCH_WORK_MAX: usize = 64 << 20;

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
    let (length, parity) = read_parity(payload).ok()?;
    let start = parity_at
        .checked_sub(length)
        .filter(|start| *start <= offset)?;
    if parity.is_empty() {
        return None;
    }
    // What remains of the parity are the errors of its classes.
    let mut errors = parity.to_vec();
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
    let place = offset..offset + region.parity_frame()?;
    // Nothing else may be taken for a parity frame: the scrape that it replaces would be lost without a
    // word.
    if place.end > bytes.len() || !region.is_complete() {
        return None;
    }
    let mut frame = vec![0; FRAME_BYTES];
    region.put_parity(&mut frame);
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
