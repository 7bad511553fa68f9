//! Errors of a scrape.

use std::{error::Error, io, sync::Arc, time::Duration};

use steadfast::{
    CredentialsError,
    dial::{DialErrors, Step},
    tls::TlsError,
};

/// The reason why a scrape was missed. Its text says what happened and what can be done, its sources
/// why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScrapeError {
    /// No connection could be made. The text has every address, with the step that failed.
    #[error("cannot connect: {0}")]
    Unreachable(DialErrors),
    /// The files of TLS cannot be used.
    #[error(transparent)]
    Tls(TlsError),
    /// The credentials could not be read.
    #[error(transparent)]
    Credentials(CredentialsError),
    /// The page was not complete in time.
    #[error("no complete response within {0:?}")]
    Timeout(Duration),
    /// The connection failed, or the peer does not speak HTTP.
    #[error("connection failed")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    /// The status of the response is not 200.
    #[error("endpoint responded with status {0}")]
    Status(u16),
    /// The endpoint redirects to another host, or too often.
    #[error("redirected to {0}, which is not followed: scrape that address itself")]
    Redirect(String),
    /// The body ended early.
    #[error("response is incomplete")]
    HalfBody(#[source] Box<dyn Error + Send + Sync>),
    /// The page exceeds the limit in bytes.
    #[error("page is longer than {0} bytes")]
    BodyTooLarge(u64),
    /// The content encoding was not requested.
    #[error("page has content encoding {0}, which was not requested")]
    Encoding(String),
    /// The gzip data is invalid.
    #[error("page has invalid gzip data")]
    Gzip(#[source] io::Error),
    /// The page is not in a text format.
    #[error("page has content type {0}, which is not a text format of metrics")]
    ContentType(String),
    /// No line of the page is a sample.
    #[error("none of the page's {0} lines can be read as metrics")]
    NotMetrics(u64),
    /// An `OpenMetrics` page lacks its end.
    #[error("page does not end with `# EOF`: part of it is missing")]
    EofMissing,
    /// The page was complete but could not be written.
    #[error("page is not recorded")]
    NotRecorded(#[source] Arc<dyn Error + Send + Sync>),
    /// The recording thread did not take the page in time.
    #[error(
        "recording is behind: the page waited for the last {waited:?} of the scrape's {limit:?}, \
         with {bytes} bytes of pages queued; the disk or CPU is too slow, or other pages are large"
    )]
    RecordBusy {
        /// The time limit of a scrape.
        limit: Duration,
        /// The time that the next piece of the page had waited at the limit.
        waited: Duration,
        /// The bytes of all pages that were queued.
        bytes: usize,
    },
}

impl ScrapeError {
    /// Returns the reason as the value of a label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(errors) => match errors.errors().last().map(|error| error.step) {
                Some(Step::Resolve) => "resolve",
                Some(Step::Tls) => "tls",
                _ => "connect",
            },
            Self::Tls(_) => "tls",
            Self::Credentials(_) => "credentials",
            Self::Timeout(_) => "timeout",
            Self::Broken(_) => "broken",
            Self::Status(_) => "status",
            Self::Redirect(_) => "redirect",
            Self::HalfBody(_) => "half_body",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::Encoding(_) => "encoding",
            Self::Gzip(_) => "gzip",
            Self::ContentType(_) => "content_type",
            Self::NotMetrics(_) => "not_metrics",
            Self::EofMissing => "eof_missing",
            Self::NotRecorded(_) => "not_recorded",
            Self::RecordBusy { .. } => "record_busy",
        }
    }
}

/// Returns the text of an error and its sources.
pub(crate) fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
