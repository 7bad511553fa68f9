//! The keys of a JSON Web Key Set (RFC 7517).

use std::sync::Arc;

use aws_lc_rs::{
    rsa::PublicKeyComponents,
    signature::{ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::certificate::sha256;

/// A signature algorithm that is accepted. There are no others: none that uses a shared secret, and no
/// `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, and keys of at least 2,048 bits.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// The reason why a key set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The text is not a key set.
    #[error("it is not a JSON Web Key Set: {0}")]
    Json(String),
    /// A key is damaged.
    #[error("key {index} cannot be used: {what}")]
    Key {
        /// Its number in the set, from 1.
        index: usize,
        /// The reason.
        what: &'static str,
    },
    /// Two keys have one name.
    #[error("two keys have the `kid` {0:?}")]
    SameKid(String),
    /// No key verifies signatures of an accepted algorithm.
    #[error("it has no key for RS256, ES256 or EdDSA")]
    Empty,
    /// The set is larger than a set of keys can be.
    #[error("it has {0} keys; at most {MAX_KEYS} are read")]
    TooMany(usize),
}

/// The keys that verify tokens.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Arc<[Key]>);

#[derive(Debug)]
pub(crate) struct Key {
    kid: Option<String>,
    public: PublicKey,
    fingerprint: [u8; 32],
}

#[derive(Debug)]
enum PublicKey {
    Rsa(PublicKeyComponents<Vec<u8>>),
    P256(UnparsedPublicKey<Vec<u8>>),
    Ed25519(UnparsedPublicKey<Vec<u8>>),
}

/// More keys than an issuer rotates through.
const MAX_KEYS: usize = 64;

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Json>,
}

#[derive(Deserialize)]
struct WireKey {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// The private part, or a shared secret: the file is the wrong one.
    d: Option<String>,
    k: Option<String>,
}

impl Algorithm {
    /// All of them, with their names in a header.
    pub(crate) const ALL: [(&'static str, Self); 3] = [
        ("RS256", Self::Rs256),
        ("ES256", Self::Es256),
        ("EdDSA", Self::EdDsa),
    ];

    pub(super) fn from_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(of, _)| *of == name)
            .map(|(_, algorithm)| *algorithm)
    }
}

impl Keys {
    /// Reads a set. A byte order mark at its beginning is passed over. Keys of other algorithms, and keys for
    /// encryption, are left out.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, KeyFault> {
        let json = |error: serde_json::Error| KeyFault::Json(error.to_string());
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        let set: KeySet = serde_json::from_slice(text).map_err(json)?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeyFault::TooMany(set.keys.len()));
        }
        let mut keys: Vec<Key> = Vec::new();
        for (index, key) in set.keys.into_iter().enumerate() {
            let fault = |what| KeyFault::Key {
                index: index + 1,
                what,
            };
            let key: WireKey =
                serde_json::from_value(key).map_err(|_| fault("it is not a JSON Web Key"))?;
            let Some(key) = key.read().map_err(fault)? else {
                continue;
            };
            if let Some(kid) = &key.kid
                && keys.iter().any(|other| other.kid.as_ref() == Some(kid))
            {
                return Err(KeyFault::SameKid(kid.clone()));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyFault::Empty);
        }
        Ok(Self(keys.into()))
    }

    /// Returns the key of a token. Without a `kid`, the only one of the algorithm.
    pub(super) fn find(&self, algorithm: Algorithm, kid: Option<&str>) -> Option<&Key> {
        let fits = |key: &&Key| {
            key.algorithm() == algorithm && (kid.is_none() || key.kid.as_deref() == kid)
        };
        let mut fitting = self.0.iter().filter(fits);
        let key = fitting.next()?;
        fitting.next().is_none().then_some(key)
    }

    pub(crate) fn contains(&self, fingerprint: &[u8; 32]) -> bool {
        self.0.iter().any(|key| key.fingerprint == *fingerprint)
    }
}

impl Key {
    fn algorithm(&self) -> Algorithm {
        match self.public {
            PublicKey::Rsa(_) => Algorithm::Rs256,
            PublicKey::P256(_) => Algorithm::Es256,
            PublicKey::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    pub(super) fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.public {
            PublicKey::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature),
            PublicKey::P256(key) | PublicKey::Ed25519(key) => key.verify(signed, signature),
        }
        .is_ok()
    }
}

impl WireKey {
    /// Returns the key; `None` if it is for something else.
    fn read(self) -> Result<Option<Key>, &'static str> {
        if self.d.is_some() || self.k.is_some() {
            return Err("it has a private or secret part; the file must have public keys only");
        }
        if self.purpose.as_deref().is_some_and(|it| it != "sig") {
            return Ok(None);
        }
        let crv = self.crv.as_deref();
        let (algorithm, public) = match (&*self.kty, crv) {
            ("RSA", _) => ("RS256", self.rsa()?),
            ("EC", Some("P-256")) => ("ES256", self.p256()?),
            ("OKP", Some("Ed25519")) => ("EdDSA", self.ed25519()?),
            _ => return Ok(None),
        };
        if self.alg.as_deref().is_some_and(|it| it != algorithm) {
            return Ok(None);
        }
        let bytes: Vec<&[u8]> = match &public {
            PublicKey::Rsa(key) => vec![&key.n, &key.e],
            PublicKey::P256(key) | PublicKey::Ed25519(key) => vec![key.as_ref()],
        };
        let fingerprint = sha256(&[algorithm.as_bytes(), &bytes.concat()].concat());
        Ok(Some(Key {
            kid: self.kid,
            public,
            fingerprint,
        }))
    }

    fn rsa(&self) -> Result<PublicKey, &'static str> {
        let (n, e) = (decode(self.n.as_deref())?, decode(self.e.as_deref())?);
        // RFC 7518 forbids leading zeros, and aws-lc refuses them at the first token.
        if n.len() < 256 || n[0] == 0 || e.is_empty() || e[0] == 0 {
            return Err("an RSA key has at least 2048 bits, and no leading zeros");
        }
        let key = PublicKeyComponents { n, e };
        Ok(PublicKey::Rsa(key))
    }

    fn p256(&self) -> Result<PublicKey, &'static str> {
        let (x, y) = (decode(self.x.as_deref())?, decode(self.y.as_deref())?);
        if x.len() != 32 || y.len() != 32 {
            return Err("`x` and `y` of a P-256 key have 32 bytes");
        }
        // The form of a point that is not compressed.
        let point = [&[4], &*x, &*y].concat();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        key.parse().map_err(|_| "it is not a point of P-256")?;
        Ok(PublicKey::P256(key))
    }

    fn ed25519(&self) -> Result<PublicKey, &'static str> {
        let x = decode(self.x.as_deref())?;
        if x.len() != 32 {
            return Err("`x` of an Ed25519 key has 32 bytes");
        }
        let key = UnparsedPublicKey::new(&ED25519, x);
        Ok(PublicKey::Ed25519(key))
    }
}

fn decode(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let text = text.ok_or("a part of it is missing")?;
    let decoded = URL_SAFE_NO_PAD.decode(text);
    decoded.map_err(|_| "a part of it is not base64url without padding")
}
