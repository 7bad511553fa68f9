//! The subscriptions of all streams.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use steadfast_wire::streamer::{RefusalCode, SubscribeRequest};

use super::{
    Limits, StreamId,
    stream::Stream,
    subscription::{CollectionName, Subscription},
};
use crate::{
    filter::{Filter, InvalidFilter},
    matcher::{Matcher, SubscriptionKey},
};

/// The table of subscriptions, with the matcher that finds them and the ids of plain peers.
///
/// The hash maps are only looked up, never iterated, so that their order cannot show.
#[derive(Debug)]
pub(super) struct Subscriptions {
    by_key: HashMap<SubscriptionKey, Box<Subscription>, FixedState>,
    /// The owner of each id in the one namespace of all plain peers.
    plain: HashMap<Arc<str>, SubscriptionKey, FixedState>,
    /// The collections of all subscriptions, which share the names.
    collections: HashSet<Arc<CollectionName>, FixedState>,
    matcher: Matcher,
    next_key: u64,
    id_generator: ChaCha12Rng,
}

/// The reason to refuse a subscribe request. A refused request changes nothing, not even an older
/// subscription with the same id.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the subscription id has {bytes} bytes; the limit is {limit} (id_bytes)")]
    IdTooLong { bytes: usize, limit: usize },
    #[error("failed to compile filters: {0}")]
    Filters(#[from] InvalidFilter),
    /// A stream opened later has the id; the request was delayed on an older stream.
    #[error("subscription ID already exists")]
    HeldByNewer,
    #[error("the stream has {limit} subscriptions, which is its limit (subscriptions_per_stream)")]
    StreamFull { limit: usize },
    #[error(
        "the server has {limit} subscriptions, which is its limit (subscriptions); try again later"
    )]
    ServerFull { limit: usize },
}

impl Subscriptions {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        let (hash_seed, _) = seed.as_chunks::<8>();
        // Secret, because clients choose the ids that are hashed: known, they could make all of
        // them collide.
        let hash_seed = u64::from_le_bytes(hash_seed[0]);
        let state = || FixedState::with_seed(hash_seed);
        Self {
            by_key: HashMap::with_hasher(state()),
            plain: HashMap::with_hasher(state()),
            collections: HashSet::with_hasher(state()),
            matcher: Matcher::new(hash_seed),
            next_key: 0,
            id_generator: ChaCha12Rng::from_seed(seed),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn plain_ids(&self) -> usize {
        self.plain.len()
    }

    pub(super) fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    pub(super) fn get(&self, key: SubscriptionKey) -> Option<&Subscription> {
        self.by_key.get(&key).map(|subscription| &**subscription)
    }

    pub(super) fn get_mut(&mut self, key: SubscriptionKey) -> Option<&mut Subscription> {
        let subscription = self.by_key.get_mut(&key)?;
        Some(&mut **subscription)
    }

    /// Returns the subscription of a plain peer that has this id.
    pub(super) fn plain_owner(&self, id: &str) -> Option<SubscriptionKey> {
        self.plain.get(id).copied()
    }

    /// Adds a subscription.
    pub(super) fn insert(&mut self, subscription: Subscription, is_plain: bool) -> SubscriptionKey {
        let key = SubscriptionKey(self.next_key);
        self.next_key += 1;
        self.matcher.insert(
            key,
            subscription.database(),
            subscription.collection(),
            subscription.filter(),
        );
        if is_plain {
            self.plain.insert(Arc::clone(subscription.id()), key);
        }
        self.by_key.insert(key, Box::new(subscription));
        key
    }

    /// Returns the name of a collection, shared with its other subscriptions.
    pub(super) fn share_name(
        &mut self,
        database: String,
        collection: String,
    ) -> Arc<CollectionName> {
        let name = (database.into(), collection.into());
        let name = self
            .collections
            // Many subscriptions have few collections: two texts each would be most of their
            // memory.
            .get_or_insert_with(&name, |name| Arc::new(name.clone()));
        Arc::clone(name)
    }

    /// Removes a subscription. Its stream still knows it.
    pub(super) fn remove(&mut self, key: SubscriptionKey) -> Option<Subscription> {
        let subscription = self.by_key.remove(&key)?;
        self.matcher.remove(key);
        // The id may have a newer owner, whose entry must stay.
        if self.plain.get(subscription.id()) == Some(&key) {
            self.plain.remove(subscription.id());
        }
        // The last one holds its name together with the table.
        if Arc::strong_count(subscription.name()) == 2 {
            self.collections.remove(subscription.name());
        }
        // A table stays as large as it ever was. Only far below its size: a stream that leaves and
        // restores would otherwise pay for both.
        if self.by_key.len() < self.by_key.capacity() / SPARSE {
            self.by_key.shrink_to_fit();
            self.plain.shrink_to_fit();
        }
        Some(*subscription)
    }

    /// Returns the key of the next subscription.
    pub(super) fn next_key(&self) -> SubscriptionKey {
        SubscriptionKey(self.next_key)
    }

    /// Returns matches sorted by stream, in their order within each stream.
    pub(super) fn group(&self, keys: &[SubscriptionKey]) -> Vec<(StreamId, SubscriptionKey)> {
        let with_stream = |key: &SubscriptionKey| Some((self.by_key.get(key)?.stream(), *key));
        let mut grouped: Vec<_> = keys.iter().filter_map(with_stream).collect();
        // Stable: the order within a stream is that of the matcher, and peers rely on it
        // (docs/protocol-filters.md).
        grouped.sort_by_key(|(stream, _)| *stream);
        grouped
    }

    /// Checks a subscribe request and returns its filter.
    pub(super) fn admit(
        &self,
        stream: &Stream,
        request: &SubscribeRequest,
        limits: &Limits,
    ) -> Result<Filter, Refusal> {
        let id = request.subscription_id.as_str();
        if id.len() > limits.id_bytes {
            return Err(Refusal::IdTooLong {
                bytes: id.len(),
                limit: limits.id_bytes,
            });
        }
        // Before capacity: a permanent refusal is more useful to the client than a temporary one
        //
        let filter = Filter::parse(&request.filters, &limits.filters)?;
        let own = stream.subscription(id).is_some();
        let owner = self.plain_owner(id).filter(|_| !stream.is_profile());
        let owner = owner.and_then(|key| self.get(key));
        // Ids of streams rise as they open. A gateway whose old connection lingers must not win
        // over its own new one.
        if owner.is_some_and(|owner| owner.stream() > stream.id()) {
            return Err(Refusal::HeldByNewer);
        }
        if !own && stream.subscriptions().len() >= limits.subscriptions_per_stream {
            return Err(Refusal::StreamFull {
                limit: limits.subscriptions_per_stream,
            });
        }
        // A subscription that replaces another one takes no additional capacity.
        if !own && owner.is_none() && self.len() >= limits.subscriptions {
            return Err(Refusal::ServerFull {
                limit: limits.subscriptions,
            });
        }
        Ok(filter)
    }

    /// Returns an id for a subscription that came without one.
    pub(super) fn generate_id(&mut self) -> String {
        let mut bits = [0; 16];
        self.id_generator.fill_bytes(&mut bits);
        uuid::Builder::from_random_bytes(bits)
            .into_uuid()
            .to_string()
    }
}

/// The factor by which a table is larger than its contents when it is made smaller.
const SPARSE: usize = 8;

impl Refusal {
    pub(super) fn code(&self) -> RefusalCode {
        match self {
            Self::IdTooLong { .. } | Self::Filters(_) | Self::HeldByNewer => RefusalCode::Invalid,
            Self::StreamFull { .. } | Self::ServerFull { .. } => RefusalCode::Limit,
        }
    }
}
