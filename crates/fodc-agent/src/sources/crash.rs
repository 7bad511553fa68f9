//! Crashes of the process beside the agent, as their files show them.
//!
//! Files are read when somebody asks: what was still being written is complete the next time, and
//! what was deleted is gone.

mod panic_record;
mod pattern;
mod response;

use std::{
    cmp::Reverse,
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use prost_types::Timestamp;
use steadfast_wire::fodc::{CrashPanicRecord, StreamCrashDiagnosticsRequest};
use tracing::debug;

pub use self::pattern::{CrashPattern, CrashPatternFault};
pub(crate) use self::response::CrashSource;
use super::folder::Folder;
use crate::uplink;

/// The places of crash files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrashSources {
    /// The directory in which each folder with a `panic.json` is a crash, as a database node writes
    /// them.
    pub directory: Option<PathBuf>,
    /// Files that are a crash each, of any process: cores, fatal error logs, core dump reports.
    pub files: Vec<CrashPattern>,
}

/// A crash that was found and not read yet.
#[derive(Debug)]
pub(crate) struct FoundCrash {
    modified: SystemTime,
    /// The directory that was searched.
    directory: PathBuf,
    name: String,
    /// A folder with a record of the panic, not a single file.
    is_folder: bool,
}

/// The crashes that are reported; of more, the newest are.
const CRASHES_MAX: usize = 32;

/// The longest record of a panic, in bytes. With the names of files, a message stays far below the
/// 4 MiB that every proxy accepts.
const RECORD_BYTES: u64 = 1 << 20;

/// The bytes of a crash file that are reported. The whole file may be a core of gigabytes.
const EXCERPT_BYTES: u64 = 64 << 10;

/// The longest first line that stands for the cause of a crash, in characters.
const CAUSE_CHARS: usize = 500;

/// The names of files that are listed for one crash.
const FILES_MAX: usize = 64;

/// The file that makes a folder a crash.
const RECORD: &str = "panic.json";

impl CrashSources {
    /// Returns true if there is any source.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.directory.is_some() || !self.files.is_empty()
    }

    /// Returns the newest crashes, the newest first. Blocks. What cannot be read is left out.
    pub(crate) fn find(&self) -> Vec<FoundCrash> {
        let mut found = Vec::new();
        if let Some(directory) = &self.directory {
            extend_logged(&mut found, directory, find_folders(directory));
        }
        for pattern in &self.files {
            let directory = pattern.directory();
            extend_logged(&mut found, directory, find_files(pattern));
        }
        // Equal times are usual where files are copied; the order is the same each time all the same.
        found.sort_by(|a, b| a.key().cmp(&b.key()));
        found.dedup_by(|a, b| a.key() == b.key());
        found.truncate(CRASHES_MAX);
        found
    }
}

fn extend_logged(found: &mut Vec<FoundCrash>, directory: &Path, more: io::Result<Vec<FoundCrash>>) {
    match more {
        Ok(more) => found.extend(more),
        // Often the directory is created only with the first crash.
        Err(error) => debug!(directory = %directory.display(), %error, "no crashes can be listed"),
    }
}

fn find_folders(directory: &Path) -> io::Result<Vec<FoundCrash>> {
    let root = Folder::open(directory)?;
    let crashes = root.names(true)?.into_iter().filter_map(|name| {
        let record = root.folder(&name).and_then(|folder| folder.file(RECORD));
        let modified = record.and_then(|record| record.metadata()?.modified());
        Some(FoundCrash {
            modified: modified.ok()?,
            directory: directory.to_owned(),
            name,
            is_folder: true,
        })
    });
    Ok(crashes.collect())
}

fn find_files(pattern: &CrashPattern) -> io::Result<Vec<FoundCrash>> {
    let folder = Folder::open(pattern.directory())?;
    let names = folder.names(false)?.into_iter();
    let files = names
        .filter(|name| pattern.matches(name))
        .filter_map(|name| {
            let modified = folder
                .file(&name)
                .and_then(|file| file.metadata()?.modified());
            Some(FoundCrash {
                modified: modified.ok()?,
                directory: pattern.directory().to_owned(),
                name,
                is_folder: false,
            })
        });
    Ok(files.collect())
}

impl FoundCrash {
    fn key(&self) -> (Reverse<SystemTime>, &str, &Path) {
        (Reverse(self.modified), &self.name, &self.directory)
    }

    /// Reads the crash; `None` if it has vanished. Blocks.
    pub(crate) fn read(&self, now_ms: i64) -> Option<StreamCrashDiagnosticsRequest> {
        let (panic_record, files) = if self.is_folder {
            self.read_folder()
        } else {
            self.read_file()
        }
        .ok()?;
        Some(StreamCrashDiagnosticsRequest {
            fetched_at: Some(uplink::timestamp(now_ms)),
            source_endpoint: format!("file://{}", self.directory.display()),
            artifact_dir: self.artifact(),
            panic_record,
            files,
            complete: false,
        })
    }

    /// Returns the name under which peers keep the crash.
    fn artifact(&self) -> String {
        if self.is_folder {
            return self.name.clone();
        }
        // The next crash of a process may overwrite the file of the last one.
        format!("{}@{}", self.name, timestamp(self.modified).seconds)
    }

    fn read_folder(&self) -> io::Result<(Option<CrashPanicRecord>, Vec<String>)> {
        let folder = Folder::open(&self.directory)?.folder(&self.name)?;
        let mut files = folder.names(false)?;
        files.sort_unstable();
        files.truncate(FILES_MAX);
        let mut file = folder.file(RECORD)?;
        let bytes = file.metadata()?.len();
        if bytes > RECORD_BYTES {
            let panic_value =
                format!("{RECORD} has {bytes} bytes; at most {RECORD_BYTES} are read");
            let occurred_at = Some(timestamp(self.modified));
            let record = CrashPanicRecord {
                occurred_at,
                panic_value,
                ..Default::default()
            };
            return Ok((Some(record), files));
        }
        let contents = read_at_most(&mut file, RECORD_BYTES)?;
        let record = panic_record::parse(&contents).inspect_err(|error| {
            // Without a record, the crash is still listed with its files.
            debug!(crash = self.name, %error, "record of a panic cannot be read yet");
        });
        Ok((record.ok(), files))
    }

    fn read_file(&self) -> io::Result<(Option<CrashPanicRecord>, Vec<String>)> {
        let mut file = Folder::open(&self.directory)?.file(&self.name)?;
        let bytes = file.metadata()?.len();
        let excerpt = read_at_most(&mut file, EXCERPT_BYTES)?;
        let text = if excerpt.contains(&0) {
            String::new()
        } else {
            String::from_utf8_lossy(&excerpt).into_owned()
        };
        let line = text.lines().map(str::trim).find(|line| !line.is_empty());
        let panic_value = match line {
            Some(line) => line.chars().take(CAUSE_CHARS).collect(),
            None => format!("binary file of {bytes} bytes"),
        };
        let facts = [
            (
                "path",
                self.directory.join(&self.name).display().to_string(),
            ),
            ("size_bytes", bytes.to_string()),
        ];
        let record = CrashPanicRecord {
            occurred_at: Some(timestamp(self.modified)),
            panic_value,
            goroutine_stack: text,
            process_metadata: facts.map(|(name, value)| (name.to_owned(), value)).into(),
            ..Default::default()
        };
        Ok((Some(record), vec![self.name.clone()]))
    }
}

fn read_at_most(file: &mut File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    file.take(bytes).read_to_end(&mut contents)?;
    Ok(contents)
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: since.as_secs().cast_signed(),
        nanos: since.subsec_nanos().cast_signed(),
    }
}

impl fmt::Display for CrashSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.directory.iter().map(|path| path.display().to_string());
        let files = self.files.iter().map(CrashPattern::to_string);
        let all: Vec<_> = directory.chain(files).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests;
