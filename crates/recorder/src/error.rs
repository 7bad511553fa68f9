//! Errors, and damage found in a record.

use std::{fmt, io, path::PathBuf};

/// An error from opening a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another recorder, in this process or another, writes to the directory.
    #[error(
        "the record in {path} is in use by another recorder; stop that one or use another directory"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory or a file in it cannot be read or written.
    #[error("cannot open the record in {path}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// A newer version wrote a file. Nothing was changed.
    #[error(
        "{file} has format {version}, which this version cannot read; use the version that wrote it"
    )]
    Version {
        /// The file's name.
        file: String,
        /// The file's format.
        version: u8,
    },
    /// The budget is below [`BUDGET_MIN`](crate::BUDGET_MIN) per recorder.
    #[error("the budget of {budget} bytes is too small; the minimum is {least} bytes")]
    Budget {
        /// The budget given.
        budget: u64,
        /// The minimum.
        least: u64,
    },
}

/// An error from committing a scrape. None of the scrape is recorded; the next one may succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A file cannot be written, mostly because the disk is full.
    #[error("cannot write {file}")]
    Io {
        /// The file's name.
        file: String,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// The scrape does not fit the budget even after everything else was evicted.
    #[error("the scrape needs {bytes} bytes, which the budget does not have; raise the budget")]
    Budget {
        /// The bytes needed.
        bytes: u64,
    },
}

/// An error from making a record durable.
#[derive(Debug, thiserror::Error)]
#[error("cannot sync the record in {directory}")]
pub struct SyncError {
    /// The record's directory inside the recorders' directory.
    pub directory: String,
    /// The system's error.
    #[source]
    pub error: io::Error,
}

/// A limit that prevents a new series or source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The definitions of series fill their part of the budget.
    #[error("the budget cannot hold another series; raise the budget or scrape fewer series")]
    Budget,
    /// The recorder has [`SOURCES_MAX`](crate::SOURCES_MAX) sources.
    #[error(
        "the recorder cannot take another source; the maximum is {}",
        crate::SOURCES_MAX
    )]
    Sources,
}

/// A damaged part of a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {kind}", self.place())]
pub struct Damage {
    /// The file's name in the record's directory.
    pub file: String,
    /// The offset at which the damage begins.
    pub offset: u64,
    /// The kind of damage.
    pub kind: DamageKind,
}

impl Damage {
    /// Returns the text about the place of the damage, for kinds that have one.
    fn place(&self) -> String {
        match self.kind {
            DamageKind::Missing | DamageKind::Unreadable(_) | DamageKind::Version(_) => {
                String::new()
            }
            DamageKind::Truncated
            | DamageKind::Checksum
            | DamageKind::Malformed
            | DamageKind::Misplaced
            | DamageKind::Restored(_) => format!(" is damaged at byte {}", self.offset),
        }
    }

    /// Prefixes the file's name with the record's directory, unless that is empty.
    pub(crate) fn inside(mut self, directory: &str) -> Self {
        if !directory.is_empty() {
            self.file = format!("{directory}/{}", self.file);
        }
        self
    }

    pub(crate) fn is_truncation(&self) -> bool {
        self.kind == DamageKind::Truncated
    }
}

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// The file ends too early. A killed process or a power cut leaves the newest files like this;
    /// only what was being written is missing then.
    Truncated,
    /// A checksum does not match.
    Checksum,
    /// The checksum matches, but the content is invalid.
    Malformed,
    /// The content is that of another file.
    Misplaced,
    /// The file does not exist.
    Missing,
    /// So many bytes were damaged and are restored from the rest of the file. Nothing is lost.
    Restored(usize),
    /// The file has another format.
    Version(u8),
    /// The system cannot read the file.
    Unreadable(io::ErrorKind),
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the file ends too early"),
            Self::Checksum => f.write_str("the checksum does not match"),
            Self::Malformed => f.write_str("the content is invalid"),
            Self::Misplaced => f.write_str("the content belongs to another file"),
            Self::Missing => f.write_str("the file is missing"),
            Self::Restored(1) => f.write_str("the byte is restored; nothing is lost"),
            Self::Restored(bytes) => write!(f, "{bytes} bytes are restored; nothing is lost"),
            Self::Version(version) => write!(f, "the file has format {version}"),
            Self::Unreadable(kind) => write!(f, "the file cannot be read ({kind})"),
        }
    }
}
