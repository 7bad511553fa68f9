//! The way to an endpoint: TLS, authentication, and headers of the user's own.

use std::{fmt, path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use steadfast::{
    BasicFile, BearerFile, CallCredentials,
    tls::{Tls, TlsError, TlsOptions},
};
use tokio::task::spawn_blocking;

use super::ScrapeError;

/// The demands of an endpoint on a client. Secrets are in files, which are read again for every scrape.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// The settings of TLS, for `https://`.
    pub tls: TlsOptions,
    /// The file with a bearer token.
    pub bearer_file: Option<PathBuf>,
    /// A user, and the file with its password.
    pub basic: Option<(String, PathBuf)>,
    /// Further headers. Their values may be secrets.
    pub headers: Vec<(String, String)>,
}

/// The fault of an [`Access`]. It never repeats a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessFault {
    /// A header cannot be sent.
    #[error("`{0}` is not a header with printable text")]
    Header(String),
    /// A header is one that the scraper sets itself.
    #[error("the header `{0}` is set by the scraper, or by another setting")]
    Reserved(String),
    /// There are two kinds of authentication.
    #[error("there are a bearer token and a user; give one of them")]
    TwoCredentials,
    /// There are settings of TLS for an address in plain text.
    #[error("there are settings of TLS, and the address is plain text; write https://")]
    PlainText,
    /// The settings of TLS cannot be used.
    #[error("{0}")]
    Tls(String),
}

/// Headers that the scraper sets, or that would change the framing of the request.
const RESERVED: [&str; 9] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The application protocol of a scrape.
const ALPN: &[&[u8]] = &[b"http/1.1"];

impl Access {
    /// Checks everything, files of TLS included.
    pub(crate) fn check(&self, encrypted: bool) -> Result<(), AccessFault> {
        for (name, value) in &self.headers {
            let reserved = RESERVED.contains(&name.to_ascii_lowercase().as_str());
            if reserved {
                return Err(AccessFault::Reserved(name.clone()));
            }
            if header(name, value).is_none() {
                return Err(AccessFault::Header(name.clone()));
            }
        }
        if self.bearer_file.is_some() && self.basic.is_some() {
            return Err(AccessFault::TwoCredentials);
        }
        if encrypted {
            let loaded = self.tls.load(ALPN);
            loaded.map_err(|error| AccessFault::Tls(error.to_string()))?;
        } else if self.tls != TlsOptions::default() {
            return Err(AccessFault::PlainText);
        }
        Ok(())
    }

    /// Reads the files of TLS.
    pub(super) async fn load_tls(&self) -> Result<Tls, ScrapeError> {
        let options = self.tls.clone();
        // Not on a thread of the runtime: the authorities of the system are some hundred files.
        spawn_blocking(move || options.load(ALPN))
            .await
            .unwrap_or_else(|failed| Err(TlsError::Handshake(Arc::new(failed.into()))))
            .map_err(ScrapeError::Tls)
    }

    /// Returns the source of the credentials. A client keeps it: the reads of a file that does not respond then
    /// occupy one thread, and not one per scrape.
    pub(super) fn credentials(&self) -> CallCredentials {
        match (&self.bearer_file, &self.basic) {
            (Some(file), _) => BearerFile::new(file).into(),
            (None, Some((user, file))) => BasicFile::new(user, file).into(),
            (None, None) => CallCredentials::default(),
        }
    }

    /// Returns the headers of the next scrape.
    pub(super) async fn headers(
        &self,
        credentials: &CallCredentials,
    ) -> Result<HeaderMap, ScrapeError> {
        let credentials = credentials.obtain(false).await;
        let credentials = credentials.map_err(ScrapeError::Credentials)?;
        let own = self.headers.iter().map(|(name, value)| (&**name, &**value));
        Ok(own
            .chain(credentials.iter())
            .filter_map(|(name, value)| header(name, value))
            .collect())
    }
}

/// Shows no value of a header.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.headers.iter().map(|(name, _)| name);
        f.debug_struct("Access")
            .field("tls", &self.tls)
            .field("bearer_file", &self.bearer_file)
            .field("basic", &self.basic)
            .field("headers", &names.collect::<Vec<_>>())
            .finish()
    }
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}
