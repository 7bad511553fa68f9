//! The identity of a peer.

use std::{fmt, sync::Arc, time::SystemTime};

use serde_json::{Map, Value as Json};

use crate::{Algorithm, Certificate};

/// A peer whose credentials were accepted.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(crate) method: Method,
    pub(crate) name: Arc<str>,
    pub(crate) claims: Arc<Map<String, Json>>,
    pub(crate) expires_at: Option<SystemTime>,
    pub(crate) evidence: Evidence,
}

/// The kind of credentials by which a peer is known.
///
/// It is a part of the principal: whoever issues one kind of credentials cannot make a principal of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// A static bearer token.
    Token,
    /// A JSON Web Token.
    Jwt,
    /// A client certificate.
    Certificate,
    /// None. Policies name it explicitly, or it may do nothing.
    Anonymous,
}

/// The credential that made an identity valid. It stays valid for as long as the configuration accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    Anonymous,
    /// The hash of the token.
    Token([u8; 32]),
    /// The fingerprint of the key that has verified the token, and the algorithm of its header.
    Jwt([u8; 32], Algorithm),
    /// All that it says.
    Certificate(Arc<Certificate>),
}

impl Identity {
    /// Returns the kind of credentials.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Returns the name within its method: the `sub` of a JWT, the principal of a token, a name of a
    /// certificate.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the claims of the JWT; empty for other methods.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Json> {
        &self.claims
    }

    /// Returns the time from which the credentials are not valid.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Returns the principal, by which two connections of the same peer are known: `jwt:alice`.
    #[must_use]
    pub fn principal(&self) -> String {
        self.to_string()
    }
}

impl Method {
    /// Returns the word before the colon of a principal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Jwt => "jwt",
            Self::Certificate => "certificate",
            Self::Anonymous => "anonymous",
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method.as_str())?;
        if self.method == Method::Anonymous {
            return Ok(());
        }
        // Issuers choose names, and they reach log lines.
        write!(f, ":{}", self.name.escape_debug())
    }
}
