//! The progress of publishing a file. It is kept beside the file, so that a killed publisher continues.
//!
//! The state names the producer before the first document is sent, and the server knows the last sequence
//! of every producer: what was sent and not noted here is sent again with the same sequences, and stored
//! once. The sequences follow from the lines, so that the file must not change meanwhile.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use steadfast_files::private;

use super::Counts;

/// The progress of publishing one file, and the place where it is kept.
#[derive(Debug)]
pub(super) struct Progress {
    path: PathBuf,
    /// An earlier run stored it, and may have sent more than it says.
    pub(super) is_resumed: bool,
    pub(super) state: State,
}

/// The content of a file of progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct State {
    /// The version of this format.
    version: u32,
    pub(super) producer: String,
    database: String,
    collection: String,
    file: Identity,
    pub(super) settled: Settled,
}

/// The length and time of a file, which differ if it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Identity {
    length: u64,
    modified_ns: u64,
}

/// The lines that need not be read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Settled {
    /// The number of lines.
    pub(super) lines: u64,
    /// The place in the file after them.
    pub(super) bytes: u64,
    /// The sequence of the last document among them.
    pub(super) sequence: u64,
    /// The results of these lines.
    pub(super) counts: Counts,
}

/// The version of the format.
const VERSION: u32 = 1;

/// Returns the usual place of the progress of a file.
pub(super) fn beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".progress");
    name.into()
}

impl Identity {
    pub(super) fn of(file: &Metadata) -> Self {
        let modified = file.modified().unwrap_or(UNIX_EPOCH);
        let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            length: file.len(),
            modified_ns: u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

impl Progress {
    /// Reads the progress at `path`, or begins with the first line. Fails if it is that of another
    /// publication.
    pub(super) fn open(
        path: PathBuf,
        file: Identity,
        (database, collection): (&str, &str),
    ) -> anyhow::Result<Self> {
        let known = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let Some(known) = known else {
            let state = State {
                version: VERSION,
                producer: new_producer(),
                database: database.to_owned(),
                collection: collection.to_owned(),
                file,
                settled: Settled::default(),
            };
            return Ok(Self {
                path,
                is_resumed: false,
                state,
            });
        };
        let remedy = || {
            let path = path.display();
            format!("remove {path} to publish all of the file, under another name")
        };
        let state: State = serde_json::from_slice(&known)
            .with_context(|| format!("{} is no progress of this version", path.display()))
            .with_context(remedy)?;
        if state.version != VERSION {
            bail!(
                "{} has the version {}; {}",
                path.display(),
                state.version,
                remedy()
            );
        }
        if (&*state.database, &*state.collection) != (database, collection) {
            let (database, collection) = (&state.database, &state.collection);
            bail!(
                "the file was published to {database}/{collection} in part; {}",
                remedy()
            );
        }
        if state.file != file {
            bail!(
                "the file has changed since a part of it was published: lines would be left out or \
                 repeated; restore it, or {}",
                remedy()
            );
        }
        Ok(Self {
            path,
            is_resumed: true,
            state,
        })
    }

    /// Stores the progress. A crash or power cut leaves the old or the new one.
    pub(super) fn store(&self) -> io::Result<()> {
        let mut new = OsString::from(&self.path);
        new.push(".new");
        // What an interrupted run has left, or somebody else who could read the new one through it.
        if Path::new(&new).symlink_metadata().is_ok() {
            fs::remove_file(&new)?;
        }
        // The progress tells what is published.
        let mut file = private().write(true).create_new(true).open(&new)?;
        serde_json::to_writer(&mut file, &self.state)?;
        file.write_all(b"\n")?;
        // Before the rename, which could otherwise be durable without the content.
        file.sync_all()?;
        fs::rename(new, &self.path)?;
        // The name, too: after a power cut there would be no progress of what was sent.
        let directory = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Removes the progress: the file is published.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns a name that no other producer has.
pub(super) fn new_producer() -> String {
    format!("cli-{}", uuid::Uuid::new_v4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn progress_is_not_written_into_a_file_of_another() {
        use std::os::unix::fs::MetadataExt as _;

        let dir = tempfile::tempdir().unwrap();
        let (file, foreign) = (dir.path().join("f.ndjson"), dir.path().join("foreign"));
        fs::write(&file, "{}\n").unwrap();
        fs::write(&foreign, "kept").unwrap();
        let progress = beside(&file);
        let mut new = OsString::from(&progress);
        new.push(".new");
        // A hard link is no symbolic one: only a new file is certainly ours.
        fs::hard_link(&foreign, new).unwrap();
        let identity = Identity::of(&fs::metadata(&file).unwrap());
        let opened = Progress::open(progress.clone(), identity, ("d", "c")).unwrap();
        opened.store().unwrap();
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "kept");
        assert_eq!(fs::metadata(&progress).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn progress_is_only_that_of_the_same_publication() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.ndjson");
        fs::write(&file, "{}\n").unwrap();
        let identity = || Identity::of(&fs::metadata(&file).unwrap());
        let open = |to| Progress::open(beside(&file), identity(), to);
        let mut first = open(("d", "c")).unwrap();
        assert!(!first.is_resumed);
        assert_eq!(first.state.settled, Settled::default());
        first.state.settled.lines = 7;
        first.store().unwrap();
        let again = open(("d", "c")).unwrap();
        assert!(again.is_resumed);
        assert_eq!(again.state, first.state);
        let producer = first.state.producer.clone();
        let refused = |to| format!("{:#}", open(to).unwrap_err());
        assert!(refused(("d", "other")).contains("to d/c in part"));
        fs::write(&file, "{}\n{}\n").unwrap();
        assert!(refused(("d", "c")).contains("has changed"));
        fs::write(beside(&file), "{}").unwrap();
        assert!(refused(("d", "c")).contains("remove "));
        first.remove().unwrap();
        first.remove().unwrap();
        assert_ne!(open(("d", "c")).unwrap().state.producer, producer);
    }
}
