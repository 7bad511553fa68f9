//! The directory of captured profiles: a folder for each capture, with `meta.json` written last.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp as Instant;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use steadfast_files::private;
use steadfast_wire::fodc::{PressureProfileInfo, PressureProfileRecord};
use tracing::{debug, warn};

use super::PressureProfiler;
use crate::sources::folder::Folder;

/// The captured profiles on disk. All methods block.
#[derive(Clone, Debug)]
pub(crate) struct ProfileStore {
    directory: PathBuf,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    artifacts: usize,
    bytes: u64,
    age: Option<Duration>,
}

/// The contents of `meta.json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Meta {
    pub(super) profile_id: String,
    pub(super) captured_at: Instant,
    pub(super) source_endpoint: String,
    pub(super) rss_bytes: u64,
    pub(super) cgroup_limit_bytes: u64,
    pub(super) trigger_percent: u32,
    pub(super) threshold_bytes: u64,
}

/// One capture as far as eviction needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Artifact {
    id: String,
    /// 0 if it is not known: a capture that cannot be listed goes first.
    rss_bytes: u64,
    bytes: u64,
}

/// The reason why a requested file is not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PathRefused {
    /// The wording of the original, which its tests look for.
    #[error("filepath escapes pressure-profiler dir")]
    Escapes,
    #[error("no such profile: {0}")]
    Missing(#[from] io::Error),
}

const META: &str = "meta.json";

/// The longest `meta.json`, in bytes.
const META_BYTES: u64 = 64 << 10;

/// The types of profiles, and with `.pprof` the names of their files.
const TYPES: [&str; 2] = ["heap", "goroutine"];

impl ProfileStore {
    pub(crate) fn new(settings: &PressureProfiler) -> Self {
        Self {
            directory: settings.directory.clone(),
            limits: Limits {
                artifacts: settings.max_artifacts,
                bytes: settings.max_disk_bytes,
                age: settings.max_age,
            },
        }
    }

    /// Returns the complete captures, oldest first.
    pub(crate) fn list(&self) -> Vec<PressureProfileRecord> {
        let Ok(root) = Folder::open(&self.directory) else {
            // Created with the first capture.
            return Vec::new();
        };
        let mut ids = self.ids(&root);
        ids.sort_unstable();
        let records = ids.into_iter().filter_map(|id| {
            let folder = root.folder(&id).ok()?;
            // A capture under way has no meta.json yet, and one under removal no more.
            let meta = read_meta(&folder)?;
            Some(self.record(&id, meta, &folder))
        });
        records.collect()
    }

    /// Opens the file at a path that was listed, or that somebody made up.
    pub(crate) fn open(&self, filepath: &str) -> Result<File, PathRefused> {
        let path = Path::new(filepath);
        // The directory itself may be a relative path, and then the listed ones are, too.
        let relative = match path.strip_prefix(&self.directory) {
            Ok(inside) => inside,
            Err(_) if path.is_absolute() => return Err(PathRefused::Escapes),
            Err(_) => path,
        };
        let mut names = Vec::new();
        for component in relative.components() {
            match component {
                Component::Normal(name) => names.push(name.to_str().ok_or(PathRefused::Escapes)?),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(PathRefused::Escapes);
                }
            }
        }
        let [id, name] = names[..] else {
            return Err(PathRefused::Missing(io::ErrorKind::NotFound.into()));
        };
        let is_profile = name
            .strip_suffix(".pprof")
            .is_some_and(|kind| TYPES.contains(&kind));
        if !is_profile_id(id) || !is_profile {
            return Err(PathRefused::Missing(io::ErrorKind::NotFound.into()));
        }
        Ok(Folder::open(&self.directory)?.folder(id)?.file(name)?)
    }

    /// Creates the folder of a new capture.
    pub(super) fn begin(&self, id: &str) -> io::Result<PathBuf> {
        let mut builder = DirBuilder::new();
        // Profiles show what a process holds in memory.
        builder.mode(0o700);
        builder.recursive(true).create(&self.directory)?;
        let folder = self.directory.join(id);
        builder.recursive(false).create(&folder)?;
        Ok(folder)
    }

    /// Makes a capture visible, and evicts others for it.
    pub(super) fn commit(&self, meta: &Meta) -> io::Result<()> {
        let folder = self.directory.join(&meta.profile_id);
        let partial = folder.join("meta.json.partial");
        let mut file = private().write(true).create_new(true).open(&partial)?;
        file.write_all(&serde_json::to_vec(meta)?)?;
        file.sync_all()?;
        fs::rename(partial, folder.join(META))?;
        self.evict(Some(&meta.profile_id), meta.captured_at);
        Ok(())
    }

    /// Removes a capture that failed.
    pub(super) fn abort(&self, id: &str) {
        self.remove(id);
    }

    /// Removes captures that a process which was killed left half-written, and evicts what exceeds
    /// the limits.
    pub(super) fn clean(&self, now: Instant) {
        let Ok(root) = Folder::open(&self.directory) else {
            return;
        };
        for id in self.ids(&root) {
            let meta = root.folder(&id).and_then(|folder| folder.file(META));
            if meta.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                self.remove(&id);
            }
        }
        self.evict(None, now);
    }

    /// Removes captures until the limits hold.
    pub(super) fn evict(&self, newest: Option<&str>, now: Instant) {
        let Ok(root) = Folder::open(&self.directory) else {
            return;
        };
        let artifacts = self.ids(&root).into_iter().map(|id| {
            let folder = root.folder(&id).ok();
            let meta = folder.as_ref().and_then(read_meta);
            Artifact {
                rss_bytes: meta.map_or(0, |meta| meta.rss_bytes),
                bytes: folder.as_ref().map_or(0, size),
                id,
            }
        });
        // An age that reaches beyond the calendar is none.
        let age = self.limits.age;
        let oldest = age
            .and_then(|age| now.checked_sub(age).ok())
            .map(profile_id);
        for id in self
            .limits
            .evicted(artifacts.collect(), newest, oldest.as_deref())
        {
            debug!(id, "evicting a profile");
            self.remove(&id);
        }
    }

    fn remove(&self, id: &str) {
        debug_assert!(is_profile_id(id));
        // It does not follow links.
        if let Err(error) = fs::remove_dir_all(self.directory.join(id)) {
            warn!(id, %error, "profile cannot be removed");
        }
    }

    /// Returns the captures, complete or not. Nothing else in the directory is ever touched.
    fn ids(&self, root: &Folder) -> Vec<String> {
        let names = root.names(true).unwrap_or_else(|error| {
            warn!(directory = %self.directory.display(), %error, "profiles cannot be listed");
            Vec::new()
        });
        names
            .into_iter()
            .filter(|name| is_profile_id(name))
            .collect()
    }

    fn record(&self, id: &str, meta: Meta, folder: &Folder) -> PressureProfileRecord {
        let profiles = TYPES.iter().filter_map(|kind| {
            let filename = format!("{kind}.pprof");
            let size = folder
                .file(&filename)
                .and_then(|file| file.metadata())
                .ok()?;
            Some(PressureProfileInfo {
                r#type: (*kind).to_owned(),
                filepath: self
                    .directory
                    .join(id)
                    .join(&filename)
                    .display()
                    .to_string(),
                filename,
                format: "pprof".to_owned(),
                size_bytes: size.len().cast_signed(),
            })
        });
        PressureProfileRecord {
            // The folder's name, not what the file says: it is what `open` finds.
            profile_id: id.to_owned(),
            captured_at: Some(Timestamp {
                seconds: meta.captured_at.as_second(),
                nanos: meta.captured_at.subsec_nanosecond(),
            }),
            source_endpoint: meta.source_endpoint,
            rss_bytes: meta.rss_bytes,
            cgroup_limit_bytes: meta.cgroup_limit_bytes,
            trigger_percent: meta.trigger_percent,
            threshold_bytes: meta.threshold_bytes,
            profiles: profiles.collect(),
        }
    }
}

impl Limits {
    /// Returns the captures to remove: those that are too old, and then those with the least memory
    /// in use. The newest one goes only if it exceeds the limit alone.
    fn evicted(
        self,
        mut artifacts: Vec<Artifact>,
        newest: Option<&str>,
        oldest: Option<&str>,
    ) -> Vec<String> {
        let mut evicted = Vec::new();
        // Ids are times, of equal length up to the fraction of a second.
        artifacts.retain(|artifact| {
            let keep = oldest.is_none_or(|oldest| artifact.id.as_str() >= oldest);
            if !keep {
                evicted.push(artifact.id.clone());
            }
            keep
        });
        artifacts.sort_by(|a, b| {
            let key = |artifact: &Artifact| (Some(&*artifact.id) == newest, artifact.rss_bytes);
            (key(a), &a.id).cmp(&(key(b), &b.id))
        });
        let mut count = artifacts.len();
        let mut bytes: u64 = artifacts.iter().map(|artifact| artifact.bytes).sum();
        for artifact in artifacts {
            if count <= self.artifacts && bytes <= self.bytes {
                break;
            }
            count -= 1;
            bytes -= artifact.bytes;
            evicted.push(artifact.id);
        }
        evicted
    }
}

fn read_meta(folder: &Folder) -> Option<Meta> {
    let mut contents = Vec::new();
    let file = folder.file(META).ok()?;
    file.take(META_BYTES).read_to_end(&mut contents).ok()?;
    serde_json::from_slice(&contents).ok()
}

fn size(folder: &Folder) -> u64 {
    let names = folder.names(false).unwrap_or_default().into_iter();
    names
        .filter_map(|name| folder.file(&name).and_then(|file| file.metadata()).ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Returns the id of a capture at this time.
pub(super) fn profile_id(time: Instant) -> String {
    time.strftime("%Y%m%dT%H%M%S.%9fZ").to_string()
}

/// Returns true for a name like `20260301T080000.123456789Z`.
fn is_profile_id(name: &str) -> bool {
    let bytes = name.as_bytes();
    let digits = |range: &[u8]| !range.is_empty() && range.iter().all(u8::is_ascii_digit);
    (18..=26).contains(&bytes.len())
        && digits(&bytes[..8])
        && bytes[8] == b'T'
        && digits(&bytes[9..15])
        && bytes[15] == b'.'
        && digits(&bytes[16..bytes.len() - 1])
        && bytes.ends_with(b"Z")
}

#[cfg(test)]
mod tests;
