//! Requests that may be repeated.
//!
//! The log keeps the newest sequence of each producer. A request with a key has a producer of its own, whose
//! name is a hash of everything that makes the request what it is, with its body; the documents are its
//! entries 1 to n. Whoever repeats the request publishes the same entries of the same producer again, and
//! the log has each once.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The keys of recent requests, and the connections of requests under way.
#[derive(Debug)]
pub(crate) struct Keys {
    known: Mutex<Known>,
    connections: Arc<Semaphore>,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Claim {
    producer: String,
    _connection: OwnedSemaphorePermit,
}

/// The bodies of recent keys, so that a key with another body is noticed.
#[derive(Debug, Default)]
struct Known {
    bodies: BTreeMap<Hash, Hash>,
    /// The keys, the oldest first.
    order: VecDeque<Hash>,
}

/// The reason why a request with a key is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("too many requests with idempotency keys at once")]
    TooMany,
    #[error("this idempotency key was used with another body or operation")]
    AnotherBody,
}

type Hash = [u8; 32];

/// The most requests with keys that publish at once: each has a connection to a Streamer.
const MAX_CONNECTIONS: usize = 64;

/// The most keys that are remembered: 100 bytes each.
const MAX_KNOWN: usize = 16_384;

impl Default for Keys {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }
}

impl Keys {
    /// Returns the claim of a request: the principal, the collection and the key are `parts`.
    pub(crate) fn claim(
        &self,
        parts: &[&str],
        is_delete: bool,
        body: &[u8],
    ) -> Result<Claim, ClaimError> {
        let key = hash(parts.iter().map(|part| part.as_bytes()));
        let is_delete = [u8::from(is_delete)];
        let body = hash([&is_delete[..], body]);
        let connection = Arc::clone(&self.connections).try_acquire_owned();
        let connection = connection.map_err(|_| ClaimError::TooMany)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.admit(key, body) {
            return Err(ClaimError::AnotherBody);
        }
        Ok(Claim {
            producer: format!("idempotent-{}", hex(&hash([&key[..], &body[..]]))),
            _connection: connection,
        })
    }
}

impl Claim {
    /// Returns the name of the producer.
    pub(crate) fn producer(&self) -> &str {
        &self.producer
    }
}

impl Known {
    /// Remembers a key, unless it is known with another body.
    fn admit(&mut self, key: Hash, body: Hash) -> bool {
        if let Some(known) = self.bodies.get(&key) {
            return *known == body;
        }
        if self.order.len() == MAX_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.bodies.remove(&oldest);
        }
        self.order.push_back(key);
        self.bodies.insert(key, body);
        true
    }
}

/// Returns the hash of parts, each with its length: two lists with the same bytes differ.
fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn hex(hash: &Hash) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer(
        keys: &Keys,
        parts: &[&str],
        is_delete: bool,
        body: &str,
    ) -> Result<String, String> {
        let claim = keys.claim(parts, is_delete, body.as_bytes());
        claim
            .map(|claim| claim.producer().to_owned())
            .map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn equal_requests_have_one_producer_in_every_gateway() {
        let of = |parts: &[&str], is_delete, body| {
            producer(&Keys::default(), parts, is_delete, body).unwrap()
        };
        let first = of(&["p", "d", "c", "k"], false, "x");
        assert_eq!(first, of(&["p", "d", "c", "k"], false, "x"));
        // The name is stored in the logs of others, so that it must never change.
        assert_eq!(
            first,
            "idempotent-3bcebc71b73abf4c6c58fe71108c10030cb965264bed2a6922034e495b168c11"
        );
        let others = [
            of(&["q", "d", "c", "k"], false, "x"),
            of(&["p", "e", "c", "k"], false, "x"),
            of(&["p", "dc", "", "k"], false, "x"),
            of(&["p", "d", "ck", ""], false, "x"),
            of(&["p", "d", "c", "l"], false, "x"),
            of(&["p", "d", "c", "k"], true, "x"),
            of(&["p", "d", "c", "k"], false, "y"),
        ];
        let mut all: Vec<_> = others.iter().chain([&first]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn key_with_another_body_is_refused_while_it_is_known() {
        let keys = Keys::default();
        let of = |key: &str, body: &str| producer(&keys, &["p", "d", "c", key], false, body);
        of("k", "x").unwrap();
        assert!(of("k", "y").unwrap_err().contains("AnotherBody"));
        of("k", "x").unwrap();
        for other in 0..MAX_KNOWN {
            of(&format!("o{other}"), "x").unwrap();
        }
        of("k", "y").unwrap();
        let known = keys.known.lock().unwrap();
        assert_eq!(
            (known.order.len(), known.bodies.len()),
            (MAX_KNOWN, MAX_KNOWN)
        );
    }

    #[test]
    fn requests_beyond_the_connections_are_refused() {
        let keys = Keys::default();
        let claim = |n: usize| keys.claim(&[&n.to_string()], false, b"x");
        let mut claims: Vec<_> = (0..MAX_CONNECTIONS).map(|n| claim(n).unwrap()).collect();
        assert!(claim(MAX_CONNECTIONS).is_err());
        claims.pop();
        claim(MAX_CONNECTIONS).unwrap();
    }
}
