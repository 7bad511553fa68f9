//! Requests that may be repeated.
//!
//! The log keeps the newest sequence of each producer. A request with a key has a producer of its own, whose
//! name is a hash of everything that makes the request what it is, with its body; the documents are its
//! entries 1 to n. Whoever repeats the request publishes the same entries of the same producer again, and
//! the log has each once.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use steadfast_net::{ClientKey, KeyedPermit, KeyedPermits, RequestRate, RequestRates};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The keys of recent requests, and the connections of requests under way.
#[derive(Debug)]
pub(crate) struct Keys {
    known: Mutex<Known>,
    connections: Arc<Semaphore>,
    /// Those of each client.
    shares: Arc<KeyedPermits>,
    /// The new keys of each client: a Streamer remembers the producer of each for days.
    rates: RequestRates,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Claim {
    producer: String,
    _connection: OwnedSemaphorePermit,
    _share: KeyedPermit,
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
    #[error("too many new idempotency keys; publish several documents at once")]
    TooManyNew,
    #[error("this idempotency key was used with another body or operation")]
    AnotherBody,
}

type Hash = [u8; 32];

/// The most requests with keys that publish at once: each has a connection to a Streamer.
const MAX_CONNECTIONS: usize = 64;

/// The most of them for one client.
const CLIENT_CONNECTIONS: usize = 16;

/// The new keys of one client: at once, and per second after that.
const NEW_KEYS: RequestRate = RequestRate {
    burst: NonZeroU32::new(2_000).expect("not zero"),
    per_second: NonZeroU32::new(20).expect("not zero"),
};

/// The most keys that are remembered: 100 bytes each.
const MAX_KNOWN: usize = 16_384;

impl Default for Keys {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            shares: KeyedPermits::new(CLIENT_CONNECTIONS),
            rates: RequestRates::new(NEW_KEYS),
        }
    }
}

impl Keys {
    /// Returns the claim of a request: the principal, the collection and the key are `parts`.
    pub(crate) fn claim(
        &self,
        client: &ClientKey,
        parts: &[&str],
        is_delete: bool,
        body: &[u8],
    ) -> Result<Claim, ClaimError> {
        let key = hash(parts.iter().map(|part| part.as_bytes()));
        let is_delete = [u8::from(is_delete)];
        let body = hash([&is_delete[..], body]);
        let share = self.shares.try_acquire(client.clone());
        let share = share.ok_or(ClaimError::TooMany)?;
        let connection = Arc::clone(&self.connections).try_acquire_owned();
        let connection = connection.map_err(|_| ClaimError::TooMany)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.bodies.get(&key) {
            Some(known) if *known == body => {}
            Some(_) => return Err(ClaimError::AnotherBody),
            None => {
                let checked = self.rates.check(client);
                checked.map_err(|_| ClaimError::TooManyNew)?;
                known.insert(key, body);
            }
        }
        Ok(Claim {
            producer: format!("idempotent-{}", hex(&hash([&key[..], &body[..]]))),
            _connection: connection,
            _share: share,
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
    /// Remembers a new key.
    fn insert(&mut self, key: Hash, body: Hash) {
        if self.order.len() == MAX_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.bodies.remove(&oldest);
        }
        self.order.push_back(key);
        self.bodies.insert(key, body);
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

/// Returns bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
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
        let client = ClientKey::Principal(parts[0].into());
        let claim = keys.claim(&client, parts, is_delete, body.as_bytes());
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
            // Each of another client, as none may have so many.
            let parts = [&format!("p{other}"), "d", "c", "k"];
            producer(&keys, &parts, false, "x").unwrap();
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
        let claim = |client: usize, n: usize| {
            let (client, n) = (client.to_string(), n.to_string());
            let key = ClientKey::Principal(client.as_str().into());
            keys.claim(&key, &[&client, &n], false, b"x")
        };
        // One client has its share and no more, and leaves the others theirs.
        let of_client = |client| (0..CLIENT_CONNECTIONS).map(move |n| (client, n));
        let clients = MAX_CONNECTIONS / CLIENT_CONNECTIONS;
        let mut claims = Vec::new();
        for client in 0..clients {
            claims.extend(of_client(client).map(|(client, n)| claim(client, n).unwrap()));
            assert!(claim(client, CLIENT_CONNECTIONS).is_err());
        }
        assert!(claim(clients, 0).is_err());
        claims.pop();
        claim(clients, 0).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn new_keys_of_a_client_are_limited_and_known_ones_are_not() {
        let keys = Keys::default();
        let of = |client: &str, key: u32| producer(&keys, &[client, &key.to_string()], false, "x");
        let burst = NEW_KEYS.burst.get();
        for key in 0..burst {
            of("greedy", key).unwrap();
        }
        let refused = of("greedy", burst).unwrap_err();
        assert_eq!(refused, "TooManyNew");
        of("greedy", 0).unwrap();
        of("other", burst).unwrap();
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        let accepted = (burst..).take_while(|key| of("greedy", *key).is_ok());
        assert_eq!(accepted.count(), NEW_KEYS.per_second.get() as usize);
    }
}
