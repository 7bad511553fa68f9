//! A bearer token in a file.

use std::path::PathBuf;

use futures_core::future::BoxFuture;

use super::{Credentials, CredentialsError, SecretFile, bearer};
use crate::metadata::Metadata;

/// Sends the content of a file as a bearer token. The file is read again before every attempt, so
/// that a token which another program replaces is used without a restart.
#[derive(Clone, Debug)]
pub struct BearerFile {
    file: SecretFile,
}

impl BearerFile {
    /// Reads the token from the file at `path`, without the blanks and line breaks around it.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let file = SecretFile::new(path.into());
        Self { file }
    }
}

impl Credentials for BearerFile {
    fn metadata(&self, _refused: bool) -> BoxFuture<'static, Result<Metadata, CredentialsError>> {
        let file = self.file.clone();
        Box::pin(async move {
            let content = file.read().await?;
            bearer(&content, || format!("token file {file}"))
        })
    }
}
