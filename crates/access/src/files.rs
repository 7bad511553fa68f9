//! Policy files, and the files that they name.

use std::{
    fs::File,
    hash::{BuildHasher as _, Hasher, RandomState},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::{Access, Condition, Fault, FaultKind, Faults};

/// A policy file that is read again when it, or the key set that it names, has changed.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    understands: fn(&Condition) -> Result<(), String>,
    /// The fingerprint of the files as they were returned last.
    returned: Option<u64>,
    /// The fingerprint of the files at the last call.
    last: Option<u64>,
    /// The fingerprint of the policy that was parsed last, and the files that it names.
    named: Option<(u64, Vec<String>)>,
    hasher: RandomState,
}

/// The largest file.
const MAX_BYTES: u64 = 4 << 20;

impl Source {
    /// Creates a source. `understands` checks the conditions of filters.
    #[must_use]
    pub fn new(path: &Path, understands: fn(&Condition) -> Result<(), String>) -> Self {
        Self {
            path: path.to_owned(),
            understands,
            returned: None,
            last: None,
            named: None,
            hasher: RandomState::new(),
        }
    }

    /// Returns the path of the policy file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the files, and returns their contents or faults if they are not those that were returned last.
    /// A change is returned by the second call that finds the same, since the first may have found a file
    /// that is being written. A file that stays bad is returned once. Blocks.
    pub fn poll(&mut self) -> Option<Result<Access, Faults>> {
        // The contents and not the times of the files: a time can stay the same.
        let mut hash = self.hasher.build_hasher();
        let policy = read(&self.path);
        write(&mut hash, &policy);
        let of_policy = hash.finish();
        let folder = self.path.parent().unwrap_or(Path::new(""));
        // Almost always nothing has changed, and parsing costs more than reading.
        if let Some((_, names)) = self.named.as_ref().filter(|(of, _)| *of == of_policy) {
            let mut hash = hash.clone();
            for name in names {
                write(&mut hash, &read(&folder.join(name)));
            }
            let fingerprint = Some(hash.finish());
            if self.returned == fingerprint {
                self.last = fingerprint;
                return None;
            }
        }
        let name = self.path.display().to_string();
        let mut names = Vec::new();
        let read = match policy {
            Ok(text) => {
                let read_keys = |path: &str| {
                    names.push(path.to_owned());
                    let keys = read(&folder.join(path));
                    write(&mut hash, &keys);
                    keys
                };
                Access::parse(&name, &text, read_keys, self.understands)
            }
            Err(error) => {
                let kind = FaultKind::Unreadable(error.to_string());
                let (line, column) = (1, 1);
                Err(Faults(vec![Fault {
                    file: name,
                    line,
                    column,
                    kind,
                }]))
            }
        };
        self.named = Some((of_policy, names));
        let fingerprint = Some(hash.finish());
        let is_first = self.returned.is_none();
        let is_settled = std::mem::replace(&mut self.last, fingerprint) == fingerprint;
        if self.returned == fingerprint || !(is_first || is_settled) {
            return None;
        }
        self.returned = fingerprint;
        Some(read)
    }
}

fn write(hash: &mut impl Hasher, read: &io::Result<String>) {
    match read {
        Ok(text) => hash.write(text.as_bytes()),
        Err(error) => hash.write(error.to_string().as_bytes()),
    }
}

fn read(path: &Path) -> io::Result<String> {
    // Opening a pipe waits for its writer, and nothing could end that wait.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    let length = File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)?;
    if length as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    /// Returns what the second of two calls finds, which follow a change.
    fn settled(source: &mut Source) -> Option<Result<Access, Faults>> {
        assert!(source.poll().is_none(), "the file may be half written");
        source.poll()
    }

    #[test]
    fn changed_files_are_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        let mut source = Source::new(&path, |_| Ok(()));
        assert!(
            source
                .poll()
                .unwrap()
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
        assert!(source.poll().is_none(), "the same fault is told once");
        fs::write(&path, "").unwrap();
        settled(&mut source).unwrap().unwrap();
        assert!(source.poll().is_none());
        let with_keys = "[jwt]\nkeys = 'keys.json'\nissuer = 'i'\naudience = 'a'\n";
        fs::write(&path, with_keys).unwrap();
        let faults = settled(&mut source).unwrap().unwrap_err();
        assert!(
            faults
                .to_string()
                .starts_with(&format!("{}:2:8: the key set", path.display()))
        );
        assert!(source.poll().is_none());
        // Only the other file changes.
        let keys = include_str!("../tests/data/ed25519.jwks.json");
        fs::write(folder.path().join("keys.json"), keys).unwrap();
        settled(&mut source).unwrap().unwrap();
        assert!(source.poll().is_none());
        fs::write(folder.path().join("keys.json"), "{}").unwrap();
        assert!(settled(&mut source).unwrap().is_err());
        fs::write(folder.path().join("keys.json"), keys).unwrap();
        settled(&mut source).unwrap().unwrap();
    }

    #[test]
    fn unchanged_files_are_not_parsed_again() {
        static PARSED: AtomicUsize = AtomicUsize::new(0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        let policy = |field: &str| {
            format!(
                "[[grants]]\nrole = 'a'\ndatabases = ['a']\ncollections = ['a']\n\
                 actions = ['subscribe']\nfilter = ['{field} == 1']\n"
            )
        };
        fs::write(&path, policy("n")).unwrap();
        let mut source = Source::new(&path, |_| {
            PARSED.fetch_add(1, Relaxed);
            Ok(())
        });
        source.poll().unwrap().unwrap();
        let first = PARSED.load(Relaxed);
        assert!(first > 0);
        for _ in 0..5 {
            assert!(source.poll().is_none());
        }
        assert_eq!(PARSED.load(Relaxed), first);
        fs::write(&path, policy("m")).unwrap();
        settled(&mut source).unwrap().unwrap();
        assert!(PARSED.load(Relaxed) > first);
    }

    #[test]
    fn only_regular_files_of_4_mib_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        let fault = || {
            let read = Source::new(&path, |_| Ok(())).poll().unwrap();
            read.map_err(|faults| faults.to_string())
        };
        fs::create_dir(&path).unwrap();
        assert!(fault().unwrap_err().contains("not a regular file"));
        fs::remove_dir(&path).unwrap();
        for (more, is_read) in [(0, true), (1, false)] {
            fs::write(&path, vec![b'\n'; (4 << 20) + more]).unwrap();
            assert_eq!(fault().is_ok(), is_read, "{more}");
        }
        assert!(fault().unwrap_err().contains("larger than 4 MiB"));
    }

    #[test]
    fn key_sets_that_cannot_be_used_are_faults_of_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let (path, keys) = (
            folder.path().join("access.toml"),
            folder.path().join("keys.json"),
        );
        let policy = "[jwt]\nkeys = 'keys.json'\nissuer = 'i'\naudience = 'a'\n";
        fs::write(&path, policy).unwrap();
        let good = include_str!("../tests/data/ed25519.jwks.json");
        fs::write(&keys, good).unwrap();
        let mut source = Source::new(&path, |_| Ok(()));
        source.poll().unwrap().unwrap();
        let fault = |source: &mut Source| settled(source).unwrap().unwrap_err().to_string();
        // A set that is too large, one that is gone, and a folder in its place.
        let large = vec![b' '; (4 << 20) + 1];
        fs::write(&keys, large).unwrap();
        assert!(fault(&mut source).contains("larger than 4 MiB"));
        fs::remove_file(&keys).unwrap();
        let gone = fault(&mut source);
        assert!(gone.contains(":2:8: the key set keys.json"), "{gone}");
        fs::create_dir(&keys).unwrap();
        assert!(fault(&mut source).contains("not a regular file"));
        fs::remove_dir(&keys).unwrap();
        // Bytes that are no text.
        fs::write(&keys, [0xff, 0xfe]).unwrap();
        assert!(fault(&mut source).contains("UTF-8"));
        // As orchestrators mount it: a link to a file that another one replaces.
        #[cfg(unix)]
        {
            fs::remove_file(&keys).unwrap();
            fs::write(folder.path().join("v2"), good).unwrap();
            std::os::unix::fs::symlink("v2", &keys).unwrap();
            settled(&mut source).unwrap().unwrap();
        }
    }

    #[test]
    fn half_written_files_never_take_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        let grant = "[[grants]]\nrole = 'a'\nactions = ['admin']\n";
        fs::write(&path, grant).unwrap();
        let mut source = Source::new(&path, |_| Ok(()));
        source.poll().unwrap().unwrap();
        // Truncated, then half of it, then all: each call finds another text.
        for half in ["", &grant[..20], grant] {
            fs::write(&path, half).unwrap();
            assert!(source.poll().is_none(), "{half:?}");
        }
        assert!(source.poll().is_none(), "the text is what it was");
        fs::write(&path, "").unwrap();
        settled(&mut source).unwrap().unwrap();
    }
}
