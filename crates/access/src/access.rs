//! A whole configuration: credentials and policy.

use std::{fmt, sync::Arc, time::SystemTime};

use serde_json::Map;

use crate::{
    Action, Certificate, CertificateFault, CertificateName, Decision, Identity, JwtFault, Method,
    Node,
    certificate::sha256,
    identity::Evidence,
    jwt::JwtRules,
    policy::Policy,
    token::{self, StaticToken},
};

/// The contents of a policy file: the credentials it knows, and the rights it grants. It never changes;
/// another version of the file is another value.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub(crate) tokens: Vec<StaticToken>,
    pub(crate) jwt: Option<JwtRules>,
    pub(crate) certificates: Option<CertificateRules>,
    pub(crate) policy: Policy,
}

/// The rules by which certificates name their holders.
#[derive(Clone, Debug)]
pub(crate) struct CertificateRules {
    pub(crate) names: Vec<CertificateName>,
    /// The SHA-256 of certificates that are not valid any more.
    pub(crate) revoked: Vec<[u8; 32]>,
}

/// The credentials that a peer presents.
#[derive(Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The value of the header `authorization`.
    pub authorization: Option<&'a [u8]>,
    /// The client certificate, which the TLS library has verified.
    pub certificate: Option<&'a Certificate>,
}

/// The reason why credentials are refused. Its text is for the log of the server; strangers are told
/// [`Refused::public`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// There are none, and the policy names no anonymous peers.
    #[error("no credentials were presented")]
    Missing,
    /// The header is not `Bearer TOKEN`.
    #[error("the header `authorization` is not `Bearer TOKEN`")]
    Scheme,
    /// The token is neither a known one nor a JWT that could be accepted.
    #[error("the token is unknown")]
    UnknownToken,
    /// The token has expired, by the policy.
    #[error("the token has expired")]
    ExpiredToken,
    /// The JWT is refused.
    #[error(transparent)]
    Jwt(#[from] JwtFault),
    /// The certificate is refused.
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
    /// The name is longer than a principal may be.
    #[error("the name of the peer has {0} bytes; a principal has at most {MAX_NAME}")]
    LongName(usize),
    /// The certificate has expired.
    #[error("the certificate has expired")]
    ExpiredCertificate,
    /// The credentials of an open stream name another principal than before.
    #[error("the credentials are those of another principal now")]
    OtherPrincipal,
}

/// Shows which credentials there are, never the credentials.
impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("has_authorization", &self.authorization.is_some())
            .field("has_certificate", &self.certificate.is_some())
            .finish()
    }
}

impl Refused {
    /// Returns what a peer is told. It never says which part of the credentials is wrong. It does say that they
    /// have expired: only a peer that had valid ones can learn this.
    #[must_use]
    pub fn public(&self) -> &'static str {
        match self {
            Self::Missing => "credentials are required",
            Self::ExpiredToken | Self::ExpiredCertificate | Self::Jwt(JwtFault::Expired) => {
                "the credentials have expired"
            }
            Self::OtherPrincipal => "the credentials are those of another principal now",
            _ => "the credentials are not valid",
        }
    }

    /// Returns the word for metrics: `missing`, `expired` or `invalid`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::ExpiredToken | Self::ExpiredCertificate | Self::Jwt(JwtFault::Expired) => {
                "expired"
            }
            _ => "invalid",
        }
    }
}

impl Access {
    /// Returns who presents credentials. A token counts before a certificate, and a token that is refused is
    /// not replaced by one.
    ///
    /// # Errors
    ///
    /// If a credential is not valid at `now`, or there is none and the policy names no anonymous peers.
    pub fn authenticate(
        &self,
        presented: Presented<'_>,
        now: SystemTime,
    ) -> Result<Identity, Refused> {
        if let Some(authorization) = presented.authorization {
            return self.of_token(bearer(authorization)?, now);
        }
        if let (Some(certificate), Some(_)) = (presented.certificate, &self.certificates) {
            return self.of_certificate(Arc::new(certificate.clone()), now);
        }
        if self.policy.admits_anonymous() {
            return Ok(Identity {
                method: Method::Anonymous,
                name: "".into(),
                claims: Arc::default(),
                expires_at: None,
                evidence: Evidence::Anonymous,
            });
        }
        Err(Refused::Missing)
    }

    /// Returns an identity as this configuration has it, which may be another one than the configuration
    /// that accepted its credentials.
    ///
    /// # Errors
    ///
    /// If the credentials would be refused now.
    pub fn recheck(&self, identity: &Identity, now: SystemTime) -> Result<Identity, Refused> {
        match &identity.evidence {
            Evidence::Anonymous => self.authenticate(Presented::default(), now),
            Evidence::Token(hash) => self.of_hash(hash, now),
            Evidence::Certificate(certificate) => self.of_certificate(Arc::clone(certificate), now),
            Evidence::Jwt(key, algorithm) => {
                let rules = self.jwt.as_ref().ok_or(Refused::UnknownToken)?;
                if !rules.algorithms.contains(algorithm) {
                    return Err(JwtFault::Algorithm.into());
                }
                if !rules.keys.contains(key) {
                    return Err(JwtFault::UnknownKey.into());
                }
                let (_, expires_at) = rules.check(identity.claims(), now)?;
                let expires_at = Some(expires_at);
                Ok(Identity {
                    expires_at,
                    ..identity.clone()
                })
            }
        }
    }

    /// Returns what the policy says to an action on a collection. Default: denied. Actions that concern no
    /// collection are denied here; see [`Access::allows`].
    #[must_use]
    pub fn decide(
        &self,
        identity: &Identity,
        action: Action,
        database: &str,
        collection: &str,
    ) -> Decision {
        self.policy.decide(identity, action, database, collection)
    }

    /// Returns true if the policy grants an action that concerns no collection. For [`Action::Register`]
    /// this is true if there is any node that the identity may register as.
    #[must_use]
    pub fn allows(&self, identity: &Identity, action: Action) -> bool {
        self.policy.allows(identity, action)
    }

    /// Returns true if an agent with this identity may register as a node.
    #[must_use]
    pub fn may_register(&self, identity: &Identity, node: &Node<'_>) -> bool {
        self.policy.may_register(identity, node)
    }

    fn of_token(&self, token: &str, now: SystemTime) -> Result<Identity, Refused> {
        match (self.of_hash(&sha256(token.as_bytes()), now), &self.jwt) {
            // Only the form decides: a token that is one but is refused gets its own fault.
            (Err(Refused::UnknownToken), Some(rules)) if token.contains('.') => {
                let verified = rules.verify(token, now)?;
                Ok(Identity {
                    method: Method::Jwt,
                    name: checked(&verified.subject)?,
                    claims: Arc::new(verified.claims),
                    expires_at: Some(verified.expires_at),
                    evidence: Evidence::Jwt(verified.key, verified.algorithm),
                })
            }
            (known, _) => known,
        }
    }

    fn of_hash(&self, hash: &[u8; 32], now: SystemTime) -> Result<Identity, Refused> {
        let token = token::find(&self.tokens, hash).ok_or(Refused::UnknownToken)?;
        if token.expires_at.is_some_and(|at| at <= now) {
            return Err(Refused::ExpiredToken);
        }
        Ok(Identity {
            method: Method::Token,
            name: Arc::clone(&token.principal),
            claims: Arc::new(Map::new()),
            expires_at: token.expires_at,
            evidence: Evidence::Token(*hash),
        })
    }

    fn of_certificate(
        &self,
        certificate: Arc<Certificate>,
        now: SystemTime,
    ) -> Result<Identity, Refused> {
        let rules = self.certificates.as_ref().ok_or(Refused::Missing)?;
        if rules.revoked.contains(&certificate.fingerprint) {
            return Err(CertificateFault::Revoked.into());
        }
        // TLS has checked it when the connection began, which may be long ago.
        if certificate.not_after <= now {
            return Err(Refused::ExpiredCertificate);
        }
        Ok(Identity {
            method: Method::Certificate,
            name: checked(certificate.choose(&rules.names)?)?,
            claims: Arc::default(),
            expires_at: Some(certificate.not_after),
            evidence: Evidence::Certificate(certificate),
        })
    }
}

/// The longest name of a principal, in bytes. It becomes a part of the names of producers.
const MAX_NAME: usize = 256;

fn checked(name: &str) -> Result<Arc<str>, Refused> {
    if name.len() > MAX_NAME {
        return Err(Refused::LongName(name.len()));
    }
    Ok(name.into())
}

/// Returns the token of a header.
fn bearer(authorization: &[u8]) -> Result<&str, Refused> {
    let text = str::from_utf8(authorization).map_err(|_| Refused::Scheme)?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Ok(token)
        }
        _ => Err(Refused::Scheme),
    }
}

#[cfg(test)]
mod tests;
