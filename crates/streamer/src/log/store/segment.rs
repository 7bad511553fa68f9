//! The format of a segment: a file of records, each with checksums that cover its place.
//!
//! ```text
//! header, twice (bytes 0 and 512): magic, version, salt, segment, base, size before, CRC-32
//! records, from byte 1024, each at a multiple of 4:
//!   CRC-32 of the header, CRC-32 of the body, length with kind and end mark, offset less base, body
//! zeros, to the allocated length
//! ```
//!
//! Both checksums of a record include the salt of the segment and the record's place in it. A block
//! that a disk returns for another one is therefore damage, and so is a payload that imitates a
//! record. The records of a commit are written together, and the last one carries the end mark: a
//! commit is in the log if it is whole.

use crate::log::encoding::DecodeError;

const MAGIC: [u8; 8] = *b"STDFSEG\0";
const VERSION: u8 = 3;
/// The oldest version that is read. Its events do not tell the previous ones of their documents.
const VERSION_MIN: u8 = 2;
/// Places of the two copies of the header, in different sectors.
const COPIES: [usize; 2] = [0, 512];
const COPY_BYTES: usize = 52;
/// Memory of a commit that is kept for the next one, in bytes.
const MEMORY_KEPT: usize = 1 << 20;
/// Place of the first record.
pub(super) const RECORDS: usize = 1_024;
const RECORD_HEADER: usize = 16;
/// Small, because half of it is lost with each record.
const ALIGNMENT: usize = 4;
/// Set in the length of the last record of a commit.
const END: u32 = 1 << 31;
/// Place of the kind in the length.
const KIND_SHIFT: u32 = 28;
/// The bits of the length itself.
const LENGTH: u32 = (1 << KIND_SHIFT) - 1;
/// Maximum length of the body of a record.
pub(super) const BODY_BYTES_MAX: usize = LENGTH as usize;

/// The content of a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The number of the segment. Segments are numbered in order, and numbers are never reused.
    pub(super) id: u64,
    /// The head of the log when the segment was created.
    pub(super) base: u64,
    /// The size of all records before the segment, the trimmed ones included.
    pub(super) bytes_before: u64,
    /// A random number.
    pub(super) salt: u64,
    version: u8,
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An event.
    Event = 1,
    /// The new state of a producer.
    Producer = 2,
}

/// A record whose header is intact.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// Its place in the segment.
    pub(super) at: usize,
    pub(super) kind: Kind,
    /// It is the last one of its commit.
    pub(super) is_end: bool,
    /// The offset of the event, or the head after the commit.
    pub(super) offset: u64,
    body: &'a [u8],
    is_intact: bool,
}

/// The records of one commit, encoded for their place.
#[derive(Debug)]
pub(super) struct CommitBuffer {
    header: SegmentHeader,
    at: usize,
    last: Option<usize>,
    bytes: Vec<u8>,
    /// Offset and place of each event.
    events: Vec<(u64, usize)>,
}

/// The records in a part of a segment. Damaged ones are skipped.
#[derive(Debug)]
pub(super) struct Records<'a> {
    header: SegmentHeader,
    /// Place of the part.
    start: usize,
    part: &'a [u8],
    position: usize,
}

/// The part ends before the record.
struct Incomplete;

impl SegmentHeader {
    /// Returns the header of a new segment.
    pub(super) const fn new(id: u64, base: u64, bytes_before: u64, salt: u64) -> Self {
        Self {
            id,
            base,
            bytes_before,
            salt,
            version: VERSION,
        }
    }

    /// Returns whether events of this version may be appended. A program of an older version would
    /// misread them otherwise.
    pub(super) const fn is_current(&self) -> bool {
        self.version == VERSION
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(COPY_BYTES);
        copy.extend_from_slice(&MAGIC);
        copy.extend_from_slice(&u64::from(self.version).to_le_bytes());
        for number in [self.salt, self.id, self.base, self.bytes_before] {
            copy.extend_from_slice(&number.to_le_bytes());
        }
        copy.extend_from_slice(&crc32fast::hash(&copy).to_le_bytes());
        let mut encoded = vec![0; RECORDS];
        for at in COPIES {
            encoded[at..at + COPY_BYTES].copy_from_slice(&copy);
        }
        encoded
    }

    /// Decodes the first intact copy in the first [`RECORDS`] bytes of a segment.
    pub(super) fn decode(encoded: &[u8]) -> Result<Self, DecodeError> {
        let mut error = DecodeError::Truncated;
        for at in COPIES {
            let Some(copy) = encoded.get(at..at + COPY_BYTES) else {
                continue;
            };
            let (content, checksum) = copy.split_at(COPY_BYTES - 4);
            // Damage of this copy only: the other one may be intact.
            if content[..8] != MAGIC || checksum != crc32fast::hash(content).to_le_bytes() {
                error = DecodeError::Checksum;
                continue;
            }
            let version = u8::try_from(number(content, 8)).unwrap_or(u8::MAX);
            if !(VERSION_MIN..=VERSION).contains(&version) {
                // The checksum matches, so that this is not damage and the other copy says the
                // same.
                return Err(DecodeError::UnknownFormat(version));
            }
            return Ok(Self {
                version,
                salt: number(content, 16),
                id: number(content, 24),
                base: number(content, 32),
                bytes_before: number(content, 40),
            });
        }
        Err(error)
    }

    /// Returns the size of all records and rests of segments before this place, the trimmed ones included.
    pub(super) fn bytes_before(&self, at: usize) -> u64 {
        self.bytes_before
            .saturating_add(at.saturating_sub(RECORDS) as u64)
    }

    /// Returns the checksum of a part of the record at this place.
    fn checksum(&self, at: usize, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for number in [self.salt, self.id, at as u64] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(bytes);
        hasher.finalize()
    }
}

impl<'a> Record<'a> {
    /// Returns the body.
    pub(super) fn body(&self) -> Result<&'a [u8], DecodeError> {
        if self.is_intact {
            Ok(self.body)
        } else {
            Err(DecodeError::Checksum)
        }
    }

    /// Returns the place after the record.
    pub(super) fn end(&self) -> usize {
        (self.at + RECORD_HEADER + self.body.len()).next_multiple_of(ALIGNMENT)
    }
}

impl CommitBuffer {
    /// Creates a buffer for a commit at this place.
    pub(super) fn new(header: SegmentHeader, at: usize, bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.is_empty());
        Self {
            header,
            at,
            last: None,
            bytes,
            events: Vec::new(),
        }
    }

    /// Returns an upper bound of the size of a record with a body of this length.
    pub(super) const fn bound(body: usize) -> usize {
        RECORD_HEADER + body + ALIGNMENT
    }

    /// Returns the places of the events, by their offsets.
    pub(super) fn events(&self) -> &[(u64, usize)] {
        &self.events
    }

    /// Adds a record whose body `encode` appends. The offset is at least the base of the segment.
    ///
    /// # Panics
    ///
    /// Panics if the body is longer than [`BODY_BYTES_MAX`], or the offset too far from the base: these
    /// are bugs, because entries are limited and a segment cannot hold so many events.
    pub(super) fn push(&mut self, kind: Kind, offset: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        let body = start + RECORD_HEADER;
        self.bytes.resize(body, 0);
        encode(&mut self.bytes);
        let length = self.bytes.len() - body;
        assert!(length <= BODY_BYTES_MAX, "a record of {length} bytes");
        let checksum = self.header.checksum(self.at + start, &self.bytes[body..]);
        let distance = u32::try_from(offset - self.header.base);
        let distance = distance.expect("a segment holds fewer events");
        // The checksum of the header follows in `seal`, because the end mark is part of it.
        let fields = [
            checksum,
            length as u32 | (kind as u32) << KIND_SHIFT,
            distance,
        ];
        let places = self.bytes[start + 4..body].chunks_exact_mut(4);
        for (place, field) in places.zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let padded = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(padded, 0);
        if kind == Kind::Event {
            self.events.push((offset, self.at + start));
        }
        // Only now is it known that the record before was not the last.
        if let Some(last) = self.last.replace(start) {
            self.seal(last);
        }
    }

    /// Marks the end of the commit, and returns its bytes.
    pub(super) fn finish(&mut self) -> &[u8] {
        if let Some(last) = self.last.take() {
            // Little-endian: the highest byte is the last one.
            self.bytes[last + 11] |= (END >> 24) as u8;
            self.seal(last);
        }
        &self.bytes
    }

    /// Returns the memory, for the next commit.
    pub(super) fn into_memory(mut self) -> Vec<u8> {
        self.bytes.clear();
        self.bytes.shrink_to(MEMORY_KEPT);
        self.bytes
    }

    fn seal(&mut self, start: usize) {
        let header = &self.bytes[start + 4..start + RECORD_HEADER];
        let checksum = self.header.checksum(self.at + start, header);
        self.bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    }
}

impl<'a> Records<'a> {
    /// Returns the records in the part of a segment that begins at `start`.
    pub(super) fn new(header: SegmentHeader, start: usize, part: &'a [u8]) -> Self {
        Self {
            header,
            start,
            part,
            position: 0,
        }
    }

    /// Returns the place up to which the part was searched. A record that the part does not hold
    /// entirely begins there.
    pub(super) fn searched(&self) -> usize {
        self.start + self.position
    }

    /// Decodes the record at the position. Returns `None` if its header is damaged, and an error if the
    /// part ends before its end.
    fn decode(&self) -> Option<Result<Record<'a>, Incomplete>> {
        let at = self.start + self.position;
        let header = self
            .part
            .get(self.position..self.position + RECORD_HEADER)?;
        // Checked first: in zeros, which most of a segment is, this costs no checksum.
        let length = half(header, 8);
        let kind = match (length & !END) >> KIND_SHIFT {
            1 => Kind::Event,
            2 => Kind::Producer,
            _ => return None,
        };
        if self.header.checksum(at, &header[4..]) != half(header, 0) {
            return None;
        }
        // Used only after the checksum of the header, because a damaged length could skip intact
        // records.
        let body = self.position + RECORD_HEADER;
        let end = body + (length & LENGTH) as usize;
        let Some(body) = self.part.get(body..end) else {
            return Some(Err(Incomplete));
        };
        Some(Ok(Record {
            at,
            kind,
            is_end: length & END != 0,
            offset: self.header.base.saturating_add(half(header, 12).into()),
            body,
            // A damaged body does not end the search: its header says where the next record begins.
            is_intact: self.header.checksum(at, body) == half(header, 4),
        }))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        // A place without a record is the end, or damage: the next record may begin at any place.
        // What follows the last byte that is not zero need not be searched.
        let mut end = None;
        while self.position + RECORD_HEADER <= self.part.len() {
            match self.decode() {
                Some(Ok(record)) => {
                    self.position = record.end() - self.start;
                    return Some(record);
                }
                // The caller reads again from `searched`, with a larger part.
                Some(Err(Incomplete)) => return None,
                None => {
                    let end = *end.get_or_insert_with(|| content_end(self.part, self.position));
                    if self.position >= end {
                        // Nothing is left in this part; otherwise the caller would read it again.
                        self.position = self.part.len();
                        return None;
                    }
                    self.position += ALIGNMENT;
                }
            }
        }
        None
    }
}

/// Returns the index after the last byte after `from` that is not zero, rounded up; `from` if all are
/// zero.
pub(super) fn content_end(bytes: &[u8], from: usize) -> usize {
    const ZEROS: [u8; 4_096] = [0; 4_096];
    let mut end = bytes.len();
    while end > from {
        // Compared as slices, which is much faster than byte by byte.
        let start = from.max(end.saturating_sub(ZEROS.len()));
        if bytes[start..end] != ZEROS[..end - start] {
            break;
        }
        end = start;
    }
    end
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes[at..].first_chunk().expect("the length was checked");
    u64::from_le_bytes(*bytes)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes[at..].first_chunk().expect("the length was checked");
    u32::from_le_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader::new(3, 40, 9, 0x5a17);
    const BODIES: [&[u8]; 3] = [b"first", b"", b"the third body"];

    fn commit(header: SegmentHeader, at: usize) -> Vec<u8> {
        let mut buffer = CommitBuffer::new(header, at, Vec::new());
        buffer.push(Kind::Event, 41, |out| out.extend(BODIES[0]));
        buffer.push(Kind::Event, 42, |out| out.extend(BODIES[1]));
        buffer.push(Kind::Producer, 42, |out| out.extend(BODIES[2]));
        buffer.finish().to_vec()
    }

    /// Returns kind, offset, end mark and intact body of each record.
    type Found = Vec<(Kind, u64, bool, Option<Vec<u8>>)>;

    fn found(header: SegmentHeader, at: usize, part: &[u8]) -> Found {
        let records = Records::new(header, at, part);
        let body = |record: &Record<'_>| record.body().ok().map(<[u8]>::to_vec);
        records
            .map(|record| (record.kind, record.offset, record.is_end, body(&record)))
            .collect()
    }

    #[test]
    fn header_survives_damage_of_either_copy() {
        let encoded = HEADER.encode();
        assert_eq!(encoded.len(), RECORDS);
        for copy in COPIES {
            for at in copy..copy + COPY_BYTES {
                let mut damaged = encoded.clone();
                damaged[at] ^= 4;
                assert_eq!(SegmentHeader::decode(&damaged), Ok(HEADER));
                damaged[COPIES[usize::from(copy == 0)]] ^= 4;
                assert!(SegmentHeader::decode(&damaged).is_err());
            }
        }
    }

    #[test]
    fn headers_of_known_versions_are_read() {
        for (version, is_current) in [(2, Some(false)), (3, Some(true)), (1, None), (4, None)] {
            let header = SegmentHeader { version, ..HEADER };
            match SegmentHeader::decode(&header.encode()) {
                Ok(read) => {
                    assert_eq!(read, header);
                    assert_eq!(Some(read.is_current()), is_current, "{version}");
                }
                Err(error) => {
                    assert_eq!(error, DecodeError::UnknownFormat(version));
                    assert_eq!(is_current, None);
                }
            }
        }
    }

    #[test]
    fn flipped_bit_costs_one_record() {
        let encoded = commit(HEADER, RECORDS);
        let whole = found(HEADER, RECORDS, &encoded);
        assert_eq!(
            whole,
            [
                (Kind::Event, 41, false, Some(BODIES[0].to_vec())),
                (Kind::Event, 42, false, Some(BODIES[1].to_vec())),
                (Kind::Producer, 42, true, Some(BODIES[2].to_vec())),
            ]
        );
        for at in 0..encoded.len() {
            for bit in 0..8 {
                let mut damaged = encoded.clone();
                damaged[at] ^= 1 << bit;
                let left = found(HEADER, RECORDS, &damaged);
                let intact: Vec<_> = left.iter().filter(|it| it.3.is_some()).collect();
                // A bit of the padding is none of a record.
                assert!(intact.len() >= 2, "byte {at}");
                assert!(intact.iter().all(|it| whole.contains(it)), "byte {at}");
            }
        }
    }

    #[test]
    fn record_at_another_place_is_none() {
        let encoded = commit(HEADER, RECORDS);
        assert_eq!(found(HEADER, RECORDS + ALIGNMENT, &encoded), []);
        for other in [
            SegmentHeader { id: 4, ..HEADER },
            SegmentHeader { salt: 1, ..HEADER },
        ] {
            assert_eq!(found(other, RECORDS, &encoded), []);
        }
    }

    #[test]
    fn records_after_zeros_and_garbage_are_found() {
        let mut part = vec![0; 10_000];
        part[8..300].fill(0xa5);
        part.extend(commit(HEADER, RECORDS + 10_000));
        part.extend([0; 50]);
        assert_eq!(found(HEADER, RECORDS, &part).len(), 3);
        assert_eq!(content_end(&[0; 9_000], 10), 10);
    }
}
