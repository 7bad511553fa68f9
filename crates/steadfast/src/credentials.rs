//! Credentials: metadata that a source provides for every attempt.

mod basic_file;
mod bearer_command;
mod bearer_file;
mod renewal;
mod secret_file;

use std::{
    error::Error,
    fmt, io,
    path::PathBuf,
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_core::future::BoxFuture;
use steadfast_session::{Detail, End, Initiator, Reason};

use self::secret_file::SecretFile;
pub use self::{
    basic_file::BasicFile,
    bearer_command::BearerCommand,
    bearer_file::BearerFile,
    renewal::{RenewalRequests, Renewer},
};
use crate::metadata::{InvalidMetadata, Metadata};

/// A source of credentials. A link asks it once per attempt, before it dials, and a client whose protocol
/// can replace them on an open stream also before they expire.
///
/// A function that returns a future is a source:
///
/// ```
/// use steadfast::{CredentialsError, LinkOptions, Metadata};
///
/// async fn login(refused: bool) -> Result<Metadata, CredentialsError> {
///     let token = if refused { "new" } else { "old" };
///     Ok(Metadata::new().with("authorization", format!("Bearer {token}"))?)
/// }
/// let options = LinkOptions::new().credentials(login);
/// ```
pub trait Credentials: Send + Sync + 'static {
    /// Returns the credentials for the next attempt. `refused` is true if the peer refused the last
    /// ones, so that the same again would be refused too.
    ///
    /// The session's `open_timeout` covers the dial and this.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future must leave no task and no process behind: it is dropped when the link
    /// closes.
    fn metadata(&self, refused: bool) -> BoxFuture<'static, Result<Metadata, CredentialsError>>;
}

impl<F, R> Credentials for F
where
    F: Fn(bool) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Metadata, CredentialsError>> + Send + 'static,
{
    fn metadata(&self, refused: bool) -> BoxFuture<'static, Result<Metadata, CredentialsError>> {
        Box::pin(self(refused))
    }
}

/// The metadata of every call of a link: entries that never change, and a source of others.
#[derive(Clone, Default)]
pub struct CallCredentials {
    metadata: Metadata,
    source: Option<Arc<dyn Credentials>>,
}

/// The error of a source of credentials. Its text never contains a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file with the token or the password cannot be read.
    #[error("cannot read the secret in {}: {source}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The command cannot be started.
    #[error("cannot start the token command `{program}`: {source}")]
    Start {
        /// The program, without its arguments.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// The command failed.
    #[error(
        "the token command `{program}` failed ({status}); run it by hand to see its error output"
    )]
    Failed {
        /// The program, without its arguments.
        program: String,
        /// The status it ended with.
        status: ExitStatus,
    },
    /// The command took too long and was killed.
    #[error("the token command `{program}` took longer than {timeout:?} and was killed")]
    TimedOut {
        /// The program, without its arguments.
        program: String,
        /// The limit.
        timeout: Duration,
    },
    /// The file or the command returned something that is no token.
    #[error("{origin}: {problem}")]
    Token {
        /// The file or the command.
        origin: String,
        /// The problem.
        problem: TokenProblem,
    },
    /// The source returned metadata that cannot be sent.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
    /// The error of a source that is not of this crate. Its text is shown: keep secrets out of it.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}

/// The problem of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenProblem {
    /// There is none.
    #[error("the token is empty")]
    Empty,
    /// It is longer than servers accept.
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// It has a blank or a character outside ASCII inside.
    #[error("the token has a blank, a line break or a character outside ASCII inside")]
    Malformed,
}

/// The longest token, in bytes. Servers accept 8 to 16 KiB of headers.
const MAX_TOKEN: usize = 16 << 10;

impl CallCredentials {
    /// Returns credentials with `metadata` in every call.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Returns credentials that ask `source` before every attempt. What it returns replaces entries
    /// of the same names.
    #[must_use]
    pub fn with_source(mut self, source: impl Credentials) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Returns true if calls have a source of credentials, or metadata `authorization`.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.source.is_some() || self.metadata.get("authorization").is_some()
    }

    /// Returns true if there is a source, which may return other credentials the next time.
    #[must_use]
    pub fn is_renewable(&self) -> bool {
        self.source.is_some()
    }

    /// Returns the metadata of a call. `refused` is true if the peer refused the last ones.
    ///
    /// # Errors
    ///
    /// The source has none.
    pub async fn obtain(&self, refused: bool) -> Result<Metadata, CredentialsError> {
        let mut metadata = self.metadata.clone();
        if let Some(source) = &self.source {
            metadata.merge(source.metadata(refused).await?);
        }
        Ok(metadata)
    }
}

impl<C: Credentials> From<C> for CallCredentials {
    fn from(source: C) -> Self {
        Self::default().with_source(source)
    }
}

impl From<Metadata> for CallCredentials {
    fn from(metadata: Metadata) -> Self {
        Self::default().with_metadata(metadata)
    }
}

impl fmt::Debug for CallCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallCredentials")
            .field("metadata", &self.metadata)
            .field("has_source", &self.source.is_some())
            .finish()
    }
}

/// The credentials of one link, and the peer's last verdict on them.
#[derive(Debug)]
pub(crate) struct LinkCredentials {
    credentials: CallCredentials,
    /// The peer refused the newest credentials, and none were obtained since.
    refused: Arc<AtomicBool>,
}

impl LinkCredentials {
    pub(crate) fn new(credentials: CallCredentials) -> Self {
        let refused = Arc::default();
        Self {
            credentials,
            refused,
        }
    }

    /// Returns true if other credentials can be obtained after a refusal.
    pub(crate) fn is_renewable(&self) -> bool {
        self.credentials.is_renewable()
    }

    pub(crate) fn on_refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Obtains the metadata of the next attempt.
    pub(crate) fn obtain(
        &self,
    ) -> impl Future<Output = Result<Metadata, End>> + Send + 'static + use<> {
        let (credentials, flag) = (self.credentials.clone(), Arc::clone(&self.refused));
        async move {
            let refused = flag.load(Ordering::Relaxed);
            let metadata = credentials.obtain(refused).await.map_err(unavailable)?;
            // Only now: after a failure of the source, the refused credentials are still its newest.
            flag.store(false, Ordering::Relaxed);
            Ok(metadata)
        }
    }
}

fn unavailable(error: CredentialsError) -> End {
    let reason = Reason::Credentials(Detail::from_error(error));
    End::retry(Initiator::Local, reason)
}

/// Makes the metadata of a bearer token out of the bytes that `origin` returned.
fn bearer(bytes: &[u8], origin: impl FnOnce() -> String) -> Result<Metadata, CredentialsError> {
    // Editors and `echo` end a file with a line break.
    let token = bytes.trim_ascii();
    let problem = if token.is_empty() {
        TokenProblem::Empty
    } else if token.len() > MAX_TOKEN {
        TokenProblem::TooLong
    } else if let Ok(token) = std::str::from_utf8(token)
        && token.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Ok(Metadata::new().with("authorization", format!("Bearer {token}"))?);
    } else {
        TokenProblem::Malformed
    };
    Err(CredentialsError::Token {
        origin: origin(),
        problem,
    })
}

#[cfg(test)]
mod tests;
