//! What can go wrong, and what was found wrong.

use std::{fmt, io, path::PathBuf};

/// Why a record could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another recorder of this one, writes to the directory.
    #[error("the record in {path} is being written by somebody else; one recorder per directory")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory or a file in it can not be read or written.
    #[error("the record in {path} can not be opened: {error}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// A file was written by a newer version. Nothing was changed.
    #[error(
        "{file} has format {version}, which this version does not know; use the one that wrote it"
    )]
    Version {
        /// The file's name.
        file: String,
        /// Its format.
        version: u8,
    },
    /// The budget is below [`BUDGET_MIN`](crate::BUDGET_MIN).
    #[error("a budget of {budget} bytes is too small for any record; give at least {least}")]
    Budget {
        /// What was asked for.
        budget: u64,
        /// The least.
        least: u64,
    },
}

/// Why a scrape was not recorded. Nothing of it is; the next may be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The system did not take it; a full disk, mostly.
    #[error("{file} can not be written: {error}")]
    Io {
        /// The file's name.
        file: String,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// It does not fit the budget, not even alone.
    #[error("the scrape needs {bytes} bytes and the budget has no room for it; raise the budget")]
    Budget {
        /// What it needs.
        bytes: u64,
    },
}

/// Why a series was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The names of the series that are alive fill the part of the budget that is theirs.
    #[error("the budget has no room for another series; raise the budget or scrape less")]
    Budget,
    /// There are [`SOURCES_MAX`](crate::SOURCES_MAX) sources.
    #[error("there are too many sources")]
    Sources,
}

/// Something in the record that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at byte {offset}: {kind}")]
pub struct Damage {
    /// The file's name in the record's directory.
    pub file: String,
    /// Where it begins.
    pub offset: u64,
    /// What is wrong.
    pub kind: DamageKind,
}

impl Damage {
    /// Seen from the directory that `place` is in.
    pub(crate) fn inside(mut self, place: &str) -> Self {
        if !place.is_empty() {
            self.file = format!("{place}/{}", self.file);
        }
        self
    }
}

/// What is wrong with a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// It ends too early. At the end of the newest files this is what a killed process or a power
    /// cut leaves, and only what was being written is missing.
    Cut,
    /// A checksum does not fit.
    Checksum,
    /// Whole, but not to be understood.
    Malformed,
    /// Whole, but in the wrong place.
    Misplaced,
    /// The file is not there.
    Missing,
    /// Of another version.
    Version(u8),
    /// The system can not read it.
    Unreadable(io::ErrorKind),
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => f.write_str("it ends too early"),
            Self::Checksum => f.write_str("the checksum does not fit"),
            Self::Malformed => f.write_str("it can not be understood"),
            Self::Misplaced => f.write_str("it belongs elsewhere"),
            Self::Missing => f.write_str("it is missing"),
            Self::Version(version) => write!(f, "it has format {version}"),
            Self::Unreadable(kind) => write!(f, "it can not be read: {kind}"),
        }
    }
}
