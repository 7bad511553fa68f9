//! Signed tokens and policies for tests.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKey, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value as Json, json};

use crate::{Access, Condition};

/// A key pair for each algorithm, and one of a stranger.
pub(crate) struct TestKeys {
    pub(crate) rsa: RsaKey,
    pub(crate) p256: EcdsaKeyPair,
    pub(crate) ed25519: Ed25519KeyPair,
    pub(crate) stranger: RsaKey,
}

/// Made once: RSA keys take long.
pub(crate) static KEYS: LazyLock<TestKeys> = LazyLock::new(|| TestKeys {
    rsa: RsaKey::generate(KeySize::Rsa2048).unwrap(),
    p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    ed25519: Ed25519KeyPair::generate().unwrap(),
    stranger: RsaKey::generate(KeySize::Rsa2048).unwrap(),
});

/// The time of the tests, in Unix seconds.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn rsa_parts(key: &RsaKey) -> (String, String) {
    // The DER of two integers: 2,048 bits after a zero, and three bytes.
    let public = key.public_key().as_ref();
    (encode(&public[9..265]), encode(&public[267..270]))
}

/// The key set with `r1`, `p1` and `e1`.
pub(crate) fn key_set() -> Json {
    let (n, e) = rsa_parts(&KEYS.rsa);
    let point = KEYS.p256.public_key().as_ref();
    json!({"keys": [
        {"kty": "RSA", "kid": "r1", "use": "sig", "alg": "RS256", "n": n, "e": e},
        {"kty": "EC", "kid": "p1", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])},
        {"kty": "OKP", "kid": "e1", "crv": "Ed25519", "x": encode(KEYS.ed25519.public_key())},
        // Those of other purposes and algorithms are no faults.
        {"kty": "RSA", "kid": "x1", "use": "enc", "n": "AQAB", "e": "AQAB"},
        {"kty": "EC", "kid": "x2", "crv": "P-521", "x": "", "y": ""},
    ]})
}

pub(crate) fn sign(key: &RsaKey, signed: &str) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    let random = SystemRandom::new();
    key.sign(
        &RSA_PKCS1_SHA256,
        &random,
        signed.as_bytes(),
        &mut signature,
    )
    .unwrap();
    signature
}

/// Returns a token with a right signature of the key that `alg` names.
pub(crate) fn token(header: &Json, claims: &Json) -> String {
    signed(
        &header.to_string(),
        &claims.to_string(),
        header["alg"].as_str().unwrap(),
    )
}

/// Returns a token of any texts with a right signature.
pub(crate) fn signed(header: &str, claims: &str, alg: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = match alg {
        "RS256" => sign(&KEYS.rsa, &signed),
        "ES256" => {
            let random = SystemRandom::new();
            KEYS.p256
                .sign(&random, signed.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec()
        }
        _ => KEYS.ed25519.sign(signed.as_bytes()).as_ref().to_vec(),
    };
    format!("{signed}.{}", encode(signature))
}

pub(crate) fn claims() -> Json {
    json!({"iss": "login", "aud": "steadfast", "sub": "alice", "exp": NOW + 60})
}

/// Returns the configuration of a policy. The key set is [`key_set`].
pub(crate) fn access(policy: &str) -> Access {
    let understands = |_: &Condition| Ok(());
    Access::parse(
        "policy.toml",
        policy,
        |_| Ok(key_set().to_string()),
        understands,
    )
    .unwrap()
}
