//! A bearer token in a file.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_core::future::BoxFuture;

use super::{Credentials, CredentialsError, MAX_TOKEN, bearer};
use crate::metadata::Metadata;

/// Sends the content of a file as a bearer token. The file is read again before every attempt, so
/// that a token which another program replaces is used without a restart.
#[derive(Clone, Debug)]
pub struct BearerFile {
    path: Arc<Path>,
}

impl BearerFile {
    /// Reads the token from the file at `path`, without the blanks and line breaks around it.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into().into();
        Self { path }
    }
}

impl Credentials for BearerFile {
    fn metadata(&self, _refused: bool) -> BoxFuture<'static, Result<Metadata, CredentialsError>> {
        let path = Arc::clone(&self.path);
        Box::pin(async move {
            let file = Arc::clone(&path);
            // On a thread of its own: a network file system that does not respond must not delay the
            // link.
            let read = tokio::task::spawn_blocking(move || read(&file)).await;
            let bytes = read.map_err(io::Error::other).flatten().map_err(|source| {
                CredentialsError::File {
                    path: path.to_path_buf(),
                    source,
                }
            })?;
            bearer(&bytes, || format!("token file {}", path.display()))
        })
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe waits for its writer, and nothing could end that wait.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    // One more than a token may have, so that a longer one is refused and not cut; the rest is for
    // blanks around it.
    let limit = MAX_TOKEN as u64 * 2;
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
