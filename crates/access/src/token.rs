//! Static bearer tokens.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::SystemTime,
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::certificate::sha256;

/// A static token as a policy has it: its hash, never itself.
#[derive(Clone, Debug)]
pub(crate) struct StaticToken {
    pub(crate) sha256: [u8; 32],
    pub(crate) principal: Arc<str>,
    pub(crate) expires_at: Option<SystemTime>,
}

/// A new random token. Its `Debug` form does not show it.
#[derive(Clone)]
pub struct NewToken(String);

/// The beginning of each token, by which scanners of secrets find it.
const PREFIX: &str = "sft_";

impl NewToken {
    /// Makes a token of 256 random bits.
    ///
    /// # Errors
    ///
    /// Returns `None` if the system provides no randomness.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let mut bits = [0; 32];
        rand::fill(&mut bits).ok()?;
        Some(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits))))
    }

    /// Returns the token itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the entry for a policy file.
    #[must_use]
    pub fn entry(&self, principal: &str) -> String {
        let hash = hex(&sha256(self.0.as_bytes()));
        let principal = toml::Value::from(principal);
        format!("[[tokens]]\nprincipal = {principal}\nsha256 = \"{hash}\"")
    }
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewToken")
    }
}

/// Returns the token with a hash. Each entry is compared, so that the time tells nothing of them.
///
/// SHA-256 without salt suffices, because the tokens are random and long: nobody can list them.
pub(crate) fn find<'a>(tokens: &'a [StaticToken], hash: &[u8; 32]) -> Option<&'a StaticToken> {
    let mut found = None;
    for token in tokens {
        if verify_slices_are_equal(&token.sha256, hash).is_ok() {
            found = Some(token);
        }
    }
    found
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string grows");
        text
    })
}

/// Reads 64 hexadecimal digits.
pub(crate) fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
