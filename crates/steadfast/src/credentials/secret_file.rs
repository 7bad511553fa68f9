//! A file with a secret.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{CredentialsError, MAX_TOKEN};
use crate::regular_file::read_regular_file;

/// The path of a file with a secret.
#[derive(Clone, Debug)]
pub(super) struct SecretFile(Arc<Path>);

impl SecretFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path.into())
    }

    /// Reads the file. A content longer than any secret is cut at twice the limit.
    pub(super) async fn read(&self) -> Result<Vec<u8>, CredentialsError> {
        let path = Arc::clone(&self.0);
        // Not on a thread of the runtime: a network file system that does not respond must not delay the link.
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        read.map_err(io::Error::other)
            .flatten()
            .map_err(|source| CredentialsError::File {
                path: self.0.to_path_buf(),
                source,
            })
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Longer than a secret may be, so that a longer one is refused and not cut.
    read_regular_file(path, MAX_TOKEN as u64 * 2)
}
