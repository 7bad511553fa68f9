//! A user and a password in a file.

use std::path::PathBuf;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_core::future::BoxFuture;

use super::{Credentials, CredentialsError, SecretFile};
use crate::metadata::Metadata;

/// Sends a user and the content of a file as its password (HTTP basic authentication). The file is read
/// again before every attempt.
#[derive(Clone, Debug)]
pub struct BasicFile {
    user: String,
    file: SecretFile,
}

impl BasicFile {
    /// Sends `user` with the password in the file at `path`, without the line break at its end.
    #[must_use]
    pub fn new(user: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            user: user.into(),
            file: SecretFile::new(path.into()),
        }
    }
}

impl Credentials for BasicFile {
    fn metadata(&self, _refused: bool) -> BoxFuture<'static, Result<Metadata, CredentialsError>> {
        let Self { user, file } = self.clone();
        Box::pin(async move {
            let content = file.read().await?;
            // Blanks may belong to a password, the line break of an editor does not.
            let end = content.iter().rposition(|byte| !b"\r\n".contains(byte));
            let password = &content[..end.map_or(0, |last| last + 1)];
            let pair = [user.as_bytes(), b":", password].concat();
            let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
            Ok(Metadata::new().with("authorization", value)?)
        })
    }
}
