//! Files that only their owner can read, in a directory that only their owner can enter.

use std::{
    fs::{self, DirBuilder},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use steadfast_files::private;

/// A file to write.
pub(super) struct File {
    name: String,
    contents: String,
}

impl File {
    pub(super) fn new(name: &str, contents: String) -> Self {
        let name = name.to_owned();
        Self { name, contents }
    }
}

/// Writes all files, or none if one exists and `force` is not set. Symbolic links are neither followed
/// nor kept.
pub(super) fn write(directory: &Path, files: &[File], force: bool) -> anyhow::Result<()> {
    prepare(directory)?;
    let existing = files.iter().find(|file| {
        // A dangling link exists, too.
        directory.join(&file.name).symlink_metadata().is_ok()
    });
    if let (false, Some(file)) = (force, existing) {
        let path = directory.join(&file.name);
        bail!(
            "{} exists; give --force to replace it, or another --out",
            path.display()
        );
    }
    for file in files {
        let path = directory.join(&file.name);
        replace(&path, &file.contents).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn prepare(directory: &Path) -> anyhow::Result<()> {
    let shown = directory.display();
    match directory.symlink_metadata() {
        Ok(found) if !found.is_dir() => {
            bail!("{shown} is not a directory; give another --out")
        }
        // Others could exchange the files that are made there.
        Ok(found) if found.permissions().mode() & 0o022 != 0 => {
            bail!("others can write into {shown}; give another --out, or take that right from them")
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory);
            made.with_context(|| format!("make the directory {shown}"))
        }
        Err(error) => Err(error).with_context(|| format!("look at {shown}")),
    }
}

/// Writes beside the file and renames: whoever reads the file finds the old or the new contents whole.
fn replace(path: &Path, contents: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    // What an interrupted run has left.
    if new.symlink_metadata().is_ok() {
        fs::remove_file(new)?;
    }
    let mut file = private().write(true).create_new(true).open(new)?;
    file.write_all(contents.as_bytes())?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_private_and_never_replaced_silently() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("certs");
        let files = |text: &str| ["a", "b"].map(|name| File::new(name, text.to_owned()));
        write(&directory, &files("one"), false).unwrap();
        assert_eq!(
            (mode(&directory), mode(&directory.join("a"))),
            (0o700, 0o600)
        );
        fs::remove_file(directory.join("a")).unwrap();
        let refused = write(&directory, &files("two"), false).unwrap_err();
        assert!(refused.to_string().contains("--force"), "{refused}");
        // All or nothing.
        assert!(!directory.join("a").exists());
        write(&directory, &files("two"), true).unwrap();
        assert_eq!(fs::read_to_string(directory.join("b")).unwrap(), "two");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let (outside, directory) = (parent.path().join("outside"), parent.path().join("certs"));
        fs::write(&outside, "untouched").unwrap();
        DirBuilder::new().mode(0o700).create(&directory).unwrap();
        for name in ["a", "a.new"] {
            symlink(&outside, directory.join(name)).unwrap();
        }
        let file = [File::new("a", "secret".to_owned())];
        write(&directory, &file, false).unwrap_err();
        write(&directory, &file, true).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
        assert!(directory.join("a").symlink_metadata().unwrap().is_file());
        let link = parent.path().join("link");
        symlink(&directory, &link).unwrap();
        write(&link, &file, true).unwrap_err();
    }

    #[test]
    fn directory_that_others_can_write_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let file = [File::new("a", "secret".to_owned())];
        let refused = write(parent.path(), &file, true).unwrap_err().to_string();
        assert!(refused.contains("others can write"), "{refused}");
    }
}
