//! Why a reading came to nothing.

/// Why a scrape was missed. Its text says what happened and, where there is something, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Miss {
    /// The host's name led to no address.
    #[error("the host's name has no address: {0}")]
    Resolve(String),
    /// Nobody listens there, or it can not be reached.
    #[error("can not connect: {0}")]
    Connect(String),
    /// The reading took longer than it may.
    #[error("no complete answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The connection broke, or what came over it is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The answer is not 200.
    #[error("the endpoint answered with status {0}")]
    Status(u16),
    /// The endpoint sends us elsewhere: to another host, or in circles.
    #[error("redirected to {0}, which is not followed: scrape that address itself")]
    Redirect(String),
    /// The answer ended before its end.
    #[error("the answer ended before its end: {0}")]
    HalfBody(String),
    /// The page is longer than it may be.
    #[error("the page is longer than {0} bytes")]
    BodyTooLarge(u64),
    /// The page is packed in a way we did not ask for.
    #[error("the page is packed as {0}, which was not asked for")]
    Encoding(String),
    /// The page is not the gzip it says it is.
    #[error("the page's gzip is damaged: {0}")]
    Gzip(String),
    /// The page is in a format that is not text.
    #[error("the page is {0}, which is not a text format of metrics")]
    ContentType(String),
    /// The page has lines, and none of them is one of metrics.
    #[error("none of the page's {0} lines can be read as metrics")]
    NotMetrics(u64),
    /// An `OpenMetrics` page without its end.
    #[error("the page does not end with `# EOF`: part of it is missing")]
    EofMissing,
    /// The record did not take the page in time.
    #[error(
        "recording is behind: of the {limit:?} that a reading may take, the page waited the last \
         {waited:?}, with {bytes} bytes of pages that are not recorded yet; the disk or the \
         processor is short, or other pages are large"
    )]
    RecordBusy {
        /// Limit on a reading.
        limit: std::time::Duration,
        /// How long the page's next piece waited for room when the time was over.
        waited: std::time::Duration,
        /// Bytes of all pages that waited to be recorded.
        bytes: usize,
    },
}

impl Miss {
    /// A word for it, fit for the value of a label.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "resolve",
            Self::Connect(_) => "connect",
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
            Self::RecordBusy { .. } => "record_busy",
        }
    }
}
