//! JSON Web Tokens (RFC 7515, RFC 7519), read strictly.
//!
//! Forbidden parts of a token are refused, not skipped: header parameters that name a key or must be
//! understood, fields that occur twice, numbers that are not whole, and padding.

mod keys;
mod object;

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value as Json};

pub(crate) use self::keys::Keys;
pub use self::keys::{Algorithm, KeyFault};
use self::object::StrictObject;

/// The demands of a policy on JWTs.
#[derive(Clone, Debug)]
pub(crate) struct JwtRules {
    pub(crate) keys: Keys,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) issuer: String,
    pub(crate) audience: String,
    /// The difference that the clocks of issuer and server may have.
    pub(crate) leeway: Duration,
    pub(crate) max_bytes: usize,
}

/// A token that was verified.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) subject: String,
    pub(crate) claims: Map<String, Json>,
    pub(crate) expires_at: SystemTime,
    /// The fingerprint of the key.
    pub(crate) key: [u8; 32],
    pub(crate) algorithm: Algorithm,
}

/// The reason why a JWT is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtFault {
    /// It is longer than the policy allows.
    #[error("the token has {bytes} bytes; the limit is {limit} (max_bytes)")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It does not consist of three parts in base64url.
    #[error("the token is not three parts in base64url without padding")]
    Form,
    /// The header or the claims are not one JSON object without repeated names.
    #[error("the {0} of the token is not a JSON object without repeated names")]
    Json(&'static str),
    /// The header has a parameter that is never accepted.
    #[error("the header of the token has `{0}`, which is not accepted")]
    Header(&'static str),
    /// The algorithm is not one of those allowed.
    #[error("the algorithm of the token is not one of those allowed")]
    Algorithm,
    /// No key of the file fits the token.
    #[error("no key of the key set has the `kid` and the algorithm of the token")]
    UnknownKey,
    /// The signature does not fit the key.
    #[error("the signature is wrong")]
    Signature,
    /// A claim is missing, or has the wrong type or value.
    #[error("the claim `{0}` is missing or wrong")]
    Claim(&'static str),
    /// The token is not valid yet.
    #[error("the token is not valid yet (`nbf`)")]
    NotYet,
    /// The token has expired.
    #[error("the token has expired (`exp`)")]
    Expired,
}

/// Parameters of the header that would choose a key, or change what the rest means.
const REFUSED_PARAMETERS: [&str; 8] = ["crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"];

/// The end of the year 9999. A time later than that is no time that somebody means.
const MAX_SECONDS: u64 = 253_402_300_799;

impl JwtRules {
    /// Verifies a token: its key and signature first, its claims only then.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Verified, JwtFault> {
        if token.len() > self.max_bytes {
            return Err(JwtFault::TooLong {
                bytes: token.len(),
                limit: self.max_bytes,
            });
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtFault::Form);
        };
        let signed = &token[..header.len() + 1 + payload.len()];
        let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtFault::Form);
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let (algorithm, kid) = self.read_header(&header)?;
        let key = self.keys.find(algorithm, kid.as_deref());
        let key = key.ok_or(JwtFault::UnknownKey)?;
        if !key.verifies(signed.as_bytes(), &signature) {
            return Err(JwtFault::Signature);
        }
        let claims = StrictObject::parse(&payload).ok_or(JwtFault::Json("payload"))?;
        let (subject, expires_at) = self.check(&claims, now)?;
        Ok(Verified {
            subject,
            claims,
            expires_at,
            key: key.fingerprint(),
            algorithm,
        })
    }

    fn read_header(&self, header: &[u8]) -> Result<(Algorithm, Option<String>), JwtFault> {
        let mut header = StrictObject::parse(header).ok_or(JwtFault::Json("header"))?;
        if let Some(name) = REFUSED_PARAMETERS
            .iter()
            .find(|it| header.contains_key(**it))
        {
            return Err(JwtFault::Header(name));
        }
        match header.get("typ") {
            None => {}
            // RFC 9068 calls access tokens `at+jwt`.
            Some(Json::String(kind))
                if kind.eq_ignore_ascii_case("jwt") || kind.eq_ignore_ascii_case("at+jwt") => {}
            Some(_) => return Err(JwtFault::Header("typ")),
        }
        let algorithm = header.get("alg").and_then(Json::as_str);
        let algorithm = algorithm.and_then(Algorithm::from_name);
        let algorithm = algorithm.filter(|it| self.algorithms.contains(it));
        let algorithm = algorithm.ok_or(JwtFault::Algorithm)?;
        match header.remove("kid") {
            None => Ok((algorithm, None)),
            Some(Json::String(kid)) => Ok((algorithm, Some(kid))),
            Some(_) => Err(JwtFault::Header("kid")),
        }
    }

    /// Checks the claims of a token whose signature was verified, now or earlier.
    pub(crate) fn check(
        &self,
        claims: &Map<String, Json>,
        now: SystemTime,
    ) -> Result<(String, SystemTime), JwtFault> {
        let issuer = claims.get("iss").and_then(Json::as_str);
        if issuer != Some(&*self.issuer) {
            return Err(JwtFault::Claim("iss"));
        }
        let is_ours = match claims.get("aud") {
            Some(Json::String(audience)) => *audience == self.audience,
            Some(Json::Array(all)) => {
                all.iter().all(Json::is_string) && all.contains(&Json::from(&*self.audience))
            }
            _ => false,
        };
        if !is_ours {
            return Err(JwtFault::Claim("aud"));
        }
        let expires = seconds(claims, "exp")?.ok_or(JwtFault::Claim("exp"))?;
        let not_before = seconds(claims, "nbf")?;
        // Only its type: no rule says how old a token may be.
        seconds(claims, "iat")?;
        let expires_at = SystemTime::UNIX_EPOCH + expires + self.leeway;
        if expires_at <= now {
            return Err(JwtFault::Expired);
        }
        if not_before.is_some_and(|at| SystemTime::UNIX_EPOCH + at > now + self.leeway) {
            return Err(JwtFault::NotYet);
        }
        match claims.get("sub").and_then(Json::as_str) {
            Some(subject) if !subject.is_empty() => Ok((subject.to_owned(), expires_at)),
            _ => Err(JwtFault::Claim("sub")),
        }
    }
}

/// Returns a time claim. RFC 7519 allows fractions; issuers send whole seconds, and only these are read.
fn seconds(claims: &Map<String, Json>, name: &'static str) -> Result<Option<Duration>, JwtFault> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = value.as_u64().filter(|it| *it <= MAX_SECONDS);
    let seconds = seconds.ok_or(JwtFault::Claim(name))?;
    Ok(Some(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests;
