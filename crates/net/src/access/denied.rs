//! The right to see a page over HTTP.

use http::{Extensions, HeaderMap, HeaderValue, Response, StatusCode, header};
use steadfast_access::{Action, Refused};
use tracing::debug;

use super::{AccessControl, KnownPeer};

/// The reason why a request is refused, or its response cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The credentials are refused.
    Credentials(Refused),
    /// The peer lacks the right.
    Forbidden,
}

impl AccessControl {
    /// Returns the peer of a request that may do something that concerns no collection, or `None` if everybody
    /// may do everything. The arguments are those of [`AccessControl::identify`].
    ///
    /// # Errors
    ///
    /// If its credentials are refused, or it may not.
    pub fn require(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        action: Action,
    ) -> Result<Option<KnownPeer>, Denied> {
        let known = self.identify(headers, extensions);
        let known = known.map_err(Denied::Credentials)?;
        known.as_ref().map_or(Ok(()), |it| it.require(action))?;
        Ok(known)
    }
}

impl KnownPeer {
    /// Does nothing if the peer may do something that concerns no collection.
    ///
    /// # Errors
    ///
    /// If it may not.
    pub fn require(&self, action: Action) -> Result<(), Denied> {
        self.allows(action).then_some(()).ok_or(Denied::Forbidden)
    }
}

impl Denied {
    /// All words for reasons in metrics.
    pub(super) const LABELS: [&str; 4] = ["missing", "expired", "invalid", "forbidden"];

    /// Returns the word for the reason in metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Credentials(cause) => cause.label(),
            Self::Forbidden => "forbidden",
        }
    }

    /// Returns what the peer is told; `forbidden` if it lacks the right.
    #[must_use]
    pub fn text<'a>(&self, forbidden: &'a str) -> &'a str {
        match self {
            Self::Credentials(cause) => cause.public(),
            Self::Forbidden => forbidden,
        }
    }

    /// Returns the response with that text, and logs the cause, which the peer is not told.
    #[must_use]
    pub fn respond(&self, forbidden: &str) -> Response<String> {
        let mut response = Response::new(format!("{}\n", self.text(forbidden)));
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        match self {
            Self::Credentials(cause) => {
                debug!(%cause, "credentials refused");
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                let challenge = HeaderValue::from_static("Bearer");
                let headers = response.headers_mut();
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::Forbidden => *response.status_mut() = StatusCode::FORBIDDEN,
        }
        response
    }
}
