//! The file that says how far the log reaches.
//!
//! What was cut from the end of a log looks like an interrupted commit, unless something else knows of it.
//! This file is written after a commit is durable, at most ten times per second, and at a clean stop. It
//! is never ahead of the segments, so that what they lack of it is damage.
//!
//! ```text
//! magic, format, head, 1 after a clean stop and 0 before, CRC-32
//! ```

use std::{io, sync::Arc};

use super::disk::{Disk, DiskFile, open_error, write_error};
use crate::log::{LogError, encoding::DecodeError};

pub(super) const HEAD_FILE: &str = "head";

/// Interval of the writes: without a clean stop, the events of this time can vanish with their file
/// unnoticed. Each costs a few microseconds and no sync.
pub(super) const INTERVAL_MS: i64 = 100;

const MAGIC: [u8; 8] = *b"STDFHEAD";
const FORMAT: u64 = 1;
const CONTENT_BYTES: usize = 36;

/// The content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownHead {
    /// All events up to this one were committed and durable.
    pub(super) head: u64,
    /// The log was closed with this head. Otherwise it may have later events.
    pub(super) is_closed: bool,
}

/// The writing side.
#[derive(Debug)]
pub(super) struct HeadFile {
    file: Arc<dyn DiskFile>,
    written: u64,
    /// The time of the last write, by the system's clock.
    pub(super) written_ms: Option<i64>,
}

impl KnownHead {
    /// Reads the file in a directory.
    pub(super) fn read(disk: &dyn Disk) -> Result<Result<Self, DecodeError>, LogError> {
        let file = match disk.open_to_read(HEAD_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err(DecodeError::Missing));
            }
            opened => opened.map_err(|error| open_error(HEAD_FILE, error))?,
        };
        if file.length().map_err(LogError::storage)? < CONTENT_BYTES as u64 {
            return Ok(Err(DecodeError::Truncated));
        }
        let mut content = [0; CONTENT_BYTES];
        file.read(0, &mut content).map_err(LogError::storage)?;
        Ok(Self::decode(&content))
    }

    fn encode(self) -> [u8; CONTENT_BYTES] {
        let mut content = [0; CONTENT_BYTES];
        content[..8].copy_from_slice(&MAGIC);
        let numbers = [FORMAT, self.head, self.is_closed.into()];
        for (place, number) in content[8..32].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&content[..32]);
        content[32..].copy_from_slice(&checksum.to_le_bytes());
        content
    }

    fn decode(content: &[u8; CONTENT_BYTES]) -> Result<Self, DecodeError> {
        let (fields, checksum) = content.split_at(32);
        if fields[..8] != MAGIC || checksum != crc32fast::hash(fields).to_le_bytes() {
            return Err(DecodeError::Checksum);
        }
        let [format, head, closed] = [8, 16, 24].map(|at| {
            let bytes = fields[at..].first_chunk().expect("the length is constant");
            u64::from_le_bytes(*bytes)
        });
        if format != FORMAT {
            return Err(DecodeError::UnknownFormat(fields[8]));
        }
        Ok(Self {
            head,
            is_closed: closed == 1,
        })
    }
}

impl HeadFile {
    /// Opens the file for a log with this head. Creates it if it does not exist.
    pub(super) fn open(disk: &dyn Disk, head: u64) -> Result<Self, LogError> {
        let known = KnownHead {
            head,
            is_closed: false,
        };
        let content = known.encode();
        let file = match disk.open(HEAD_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let length = CONTENT_BYTES as u64;
                let created = disk.create(HEAD_FILE, length, &content);
                created.map_err(write_error)?
            }
            opened => opened.map_err(|error| open_error(HEAD_FILE, error))?,
        };
        let mut opened = Self {
            file,
            written: head,
            written_ms: None,
        };
        opened.write(known)?;
        // Otherwise a power cut could leave the mark of the last clean stop beside later events.
        opened.file.sync().map_err(LogError::storage)?;
        Ok(opened)
    }

    pub(super) const fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    pub(super) const fn is_behind(&self, head: u64) -> bool {
        self.written < head
    }

    /// Names a head that is durable. Not synced itself: it is read again after the end of the process,
    /// and a power cut costs about what the system writes back late.
    pub(super) fn advance(&mut self, head: u64, now_ms: i64) -> Result<(), LogError> {
        // Before the write: one that finds no space is repeated after the interval.
        self.written_ms = Some(now_ms);
        self.write(KnownHead {
            head,
            is_closed: false,
        })
    }

    /// Names the head at a clean stop.
    pub(super) fn close(&mut self, head: u64) -> Result<(), LogError> {
        self.write(KnownHead {
            head,
            is_closed: true,
        })?;
        self.file.sync().map_err(LogError::storage)
    }

    fn write(&mut self, known: KnownHead) -> Result<(), LogError> {
        self.file.write(0, &known.encode()).map_err(write_error)?;
        self.written = known.head;
        Ok(())
    }
}
