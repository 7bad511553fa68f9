//! Folders that nothing is read outside of.

use std::{fs::File, io, os::fd::OwnedFd, path::Path};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, openat};

/// An open folder. Names in it are single components, and symbolic links are not followed, so that
/// whoever writes into the folder cannot show a file outside of it.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

/// The entries of a folder that are looked at. A folder with more is not listed whole.
pub(crate) const ENTRIES_MAX: usize = 4096;

impl Folder {
    /// Opens the folder at a configured path, which may be a symbolic link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens a folder in this one.
    pub(crate) fn folder(&self, name: &str) -> io::Result<Self> {
        Ok(Self(self.open_in(name, OFlags::DIRECTORY)?))
    }

    /// Opens a regular file in this folder.
    pub(crate) fn file(&self, name: &str) -> io::Result<File> {
        // Without NONBLOCK, opening a pipe would wait for its writer.
        let file = File::from(self.open_in(name, OFlags::NONBLOCK)?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::other("not a regular file"))
        }
    }

    fn open_in(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(io::Error::other("not the name of an entry"));
        }
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::empty())?)
    }

    /// Returns the names of the folders in this one, or of its regular files, in the system's order.
    /// Names that are not UTF-8 are left out: no message can carry them.
    pub(crate) fn names(&self, folders: bool) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)?.take(ENTRIES_MAX) {
            let entry = entry?;
            let wanted = match entry.file_type() {
                FileType::Directory => folders,
                FileType::RegularFile => !folders,
                // Some file systems do not tell; opening it does.
                FileType::Unknown => true,
                _ => false,
            };
            match entry.file_name().to_str() {
                Ok(name) if wanted && name != "." && name != ".." => names.push(name.to_owned()),
                _ => {}
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn links_pipes_and_paths_are_not_opened() {
        let temp = tempfile::tempdir().unwrap();
        let inside = temp.path().join("inside");
        fs::create_dir_all(inside.join("sub")).unwrap();
        fs::write(temp.path().join("secret"), "secret").unwrap();
        fs::write(inside.join("plain"), "plain").unwrap();
        symlink("../secret", inside.join("link")).unwrap();
        symlink("..", inside.join("up")).unwrap();
        let pipe = inside.join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();

        let folder = Folder::open(&inside).unwrap();
        assert!(folder.file("plain").is_ok());
        for name in [
            "link",
            "pipe",
            "sub",
            "../secret",
            "..",
            "",
            "up/secret",
            "a\0b",
            "gone",
        ] {
            assert!(folder.file(name).is_err(), "{name:?}");
        }
        assert!(folder.folder("sub").is_ok());
        for name in ["up", "..", ".", "plain", "sub/.."] {
            assert!(folder.folder(name).is_err(), "{name:?}");
        }
        assert_eq!(folder.names(true).unwrap(), ["sub"]);
        assert_eq!(folder.names(false).unwrap(), ["plain"]);
    }
}
