#![doc = include_str!("../README.md")]

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    path::Path,
};

/// Returns options for a file: only its owner may read it if it is created, a symbolic link in its place is an
/// error, and a pipe in its place is not waited for.
#[must_use]
pub fn private() -> OpenOptions {
    #[allow(unused_mut, reason = "other systems have neither")]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        // Whoever may write into the directory could otherwise have any file of the process overwritten.
        // And a pipe in place of a file would be waited for until somebody opens its other end.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    options
}

/// Creates a directory, and those above it, that only its owner may enter. One that exists stays as it is.
///
/// # Errors
///
/// If the system does not create it.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn symbolic_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
        fs::write(&victim, "kept").unwrap();
        for target in [&victim, &folder.path().join("missing")] {
            symlink(target, &link).unwrap();
            for options in [
                private().write(true).create(true).truncate(true).clone(),
                private().read(true).write(true).clone(),
                private().append(true).create(true).clone(),
                private().write(true).create_new(true).clone(),
            ] {
                options.open(&link).unwrap_err();
            }
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert!(!folder.path().join("missing").exists());
        // Through a linked directory, which is the operator's choice.
        symlink(folder.path(), &link).unwrap();
        private().write(true).open(link.join("victim")).unwrap();
    }

    #[test]
    fn pipe_in_place_of_a_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        private().read(true).open(&pipe).unwrap();
        private().write(true).open(&pipe).unwrap_err();
    }

    #[test]
    fn files_and_directories_are_for_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("a/b");
        create_private_directory(&directory).unwrap();
        let file = directory.join("file");
        private()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&file)
            .unwrap();
        for (path, mode) in [
            (&folder.path().join("a"), 0o700),
            (&directory, 0o700),
            (&file, 0o600),
        ] {
            let permissions = path.symlink_metadata().unwrap().permissions();
            assert_eq!(permissions.mode() & 0o777, mode, "{}", path.display());
        }
    }
}
