//! The subscriptions of all streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::BuildHasher as _,
    sync::Arc,
};

use foldhash::fast::FixedState;
use hashbrown::{Equivalent, HashSet};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use steadfast_wire::streamer::{RefusalCode, SubscribeRequest, subscribe_request};

use super::{
    Gauges, Limits, StreamId,
    access::{Grant, Granted, Rights},
    stream::Stream,
    subscription::{CollectionName, INDEX_BITS, Namespace, Subscription, Wants, index_of},
    window::WindowState,
    window_index::WindowIndex,
};
use crate::{
    Event,
    arena::Arena,
    filter::{Document, Filter, InvalidFilter},
    index_table::IndexTable,
    matcher::{FilterKind, Matcher, SubscriptionKey},
    window::{InvalidWindow, Place, Window},
};

/// The table of subscriptions, with the matcher that finds them.
///
/// Hash tables are only looked up, never iterated, so that their order cannot show.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// The subscriptions, at the indices that their keys contain.
    table: Arena<Subscription>,
    /// The indices in `table`, by the hash of namespace and id.
    by_id: IndexTable,
    hasher: FixedState,
    /// The number of subscriptions of plain peers.
    plain: usize,
    /// A stream whose peer was not authorized gets nothing.
    restricted: bool,
    /// The numbers of subscriptions by what they ask for.
    kinds: Kinds,
    /// The collections of all subscriptions, which share the names.
    collections: HashSet<Arc<CollectionName>, FixedState>,
    /// The subscriptions that are told of documents that leave, by collection.
    want_left: BTreeMap<Arc<CollectionName>, BTreeSet<SubscriptionKey>>,
    /// Finds all subscriptions but those of `windows`.
    matcher: Matcher,
    windows: WindowIndex,
    /// The number of subscriptions so far.
    serial: u64,
    id_generator: ChaCha12Rng,
}

/// The numbers of subscriptions by what they ask for.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds {
    documents: usize,
    collections: usize,
    filters: usize,
    left: usize,
    snapshots: usize,
}

/// The reason to refuse a subscribe request. A refused request changes nothing, not even an older
/// subscription with the same id.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the subscription id has {bytes} bytes; the limit is {limit} (id_bytes)")]
    IdTooLong { bytes: usize, limit: usize },
    #[error("you may not subscribe to this collection")]
    Denied,
    #[error("failed to compile filters: {0}")]
    Filters(#[from] InvalidFilter),
    #[error(transparent)]
    Window(#[from] InvalidWindow),
    #[error(
        "a snapshot shows the documents as they are now; ask for it, or for a start, but not both"
    )]
    SnapshotWithStart,
    #[error("the log could not be searched for a time; try again later")]
    TimeNotFound,
    /// A stream opened later has the id; the request was delayed on an older stream.
    #[error("subscription ID already exists")]
    HeldByNewer,
    #[error("the stream has {limit} subscriptions, which is its limit (subscriptions_per_stream)")]
    StreamFull { limit: usize },
    #[error(
        "you have {limit} subscriptions, which is the limit of one principal \
         (subscriptions_per_principal)"
    )]
    PrincipalFull { limit: usize },
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
        let hasher = FixedState::with_seed(hash_seed);
        Self {
            table: Arena::new(),
            by_id: IndexTable::default(),
            plain: 0,
            restricted: false,
            kinds: Kinds::default(),
            want_left: BTreeMap::new(),
            collections: HashSet::with_hasher(hasher.clone()),
            hasher,
            matcher: Matcher::new(hash_seed),
            windows: WindowIndex::default(),
            serial: 0,
            id_generator: ChaCha12Rng::from_seed(seed),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn plain_ids(&self) -> usize {
        self.plain
    }

    /// Returns the numbers of subscriptions.
    pub(super) fn gauges(&self) -> Gauges {
        Gauges {
            subscriptions: self.len(),
            document_subscriptions: self.kinds.documents,
            collection_subscriptions: self.kinds.collections,
            filter_subscriptions: self.kinds.filters,
            left_subscriptions: self.kinds.left,
            snapshot_subscriptions: self.kinds.snapshots,
            ..Gauges::default()
        }
    }

    /// Counts a subscription of some kind, or one less.
    fn count(&mut self, kind: FilterKind, wants: Wants, change: isize) {
        let Kinds {
            documents,
            collections,
            filters,
            left,
            snapshots,
        } = &mut self.kinds;
        let of_kind = match kind {
            FilterKind::Document => documents,
            FilterKind::Collection => collections,
            FilterKind::Conditions => filters,
        };
        for (count, counts) in [
            (of_kind, true),
            (left, wants.left),
            (snapshots, wants.snapshot),
        ] {
            *count = count.saturating_add_signed(if counts { change } else { 0 });
        }
    }

    /// Returns the number of subscriptions that can be found by their ids.
    #[cfg(test)]
    pub(super) fn ids(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    pub(super) fn get(&self, key: SubscriptionKey) -> Option<&Subscription> {
        let subscription = self.table.get(index_of(key))?;
        // Another subscription may have the index by now.
        (subscription.key() == key).then_some(subscription)
    }

    pub(super) fn get_mut(&mut self, key: SubscriptionKey) -> Option<&mut Subscription> {
        let subscription = self.table.get_mut(index_of(key))?;
        (subscription.key() == key).then_some(subscription)
    }

    /// Returns the windows without conditions.
    pub(super) fn windows(&self) -> &WindowIndex {
        &self.windows
    }

    /// Changes the window of a subscription. Its bound must not change in any other way.
    pub(super) fn update_window(
        &mut self,
        key: SubscriptionKey,
        change: impl FnOnce(&mut WindowState),
    ) {
        let subscription = self.table.get_mut(index_of(key));
        let Some(subscription) = subscription.filter(|it| it.key() == key) else {
            return;
        };
        self.windows.remove(subscription);
        if let Some(window) = subscription.window_mut() {
            let (_, before) = window.bound();
            change(window);
            if window.bound().1 != before {
                self.windows.note_new_bound();
            }
        }
        self.windows.insert(subscription);
    }

    /// Returns the rank of a subscription's kind in the order of the matcher, and whether an event may
    /// concern it. `None` if the subscription is not known.
    pub(super) fn evaluate(
        &self,
        key: SubscriptionKey,
        document: &Document<'_>,
    ) -> Option<(u8, bool)> {
        let found = self.matcher.evaluate(key, document);
        found.or_else(|| {
            let subscription = self.get(key)?;
            subscription.unconditional_window()?;
            let event = document.event();
            let is_inside = *subscription.database() == event.database
                && *subscription.collection() == event.collection;
            Some((WHOLE_COLLECTION, is_inside))
        })
    }

    /// Returns the subscriptions to an event's collection that are told of documents that leave; `None` if
    /// there are none.
    pub(super) fn that_want_left(&self, event: &Event) -> Option<&BTreeSet<SubscriptionKey>> {
        // Most servers have none, and names would be compared for each event.
        if self.want_left.is_empty() {
            return None;
        }
        let name = (Arc::clone(&event.database), Arc::clone(&event.collection));
        self.want_left.get(&name)
    }

    /// Returns true if a subscription is told of documents that leave, and no other one of its collection
    /// is.
    pub(super) fn is_first_to_want_left(&self, subscription: &Subscription) -> bool {
        subscription.wants_left() && !self.want_left.contains_key(subscription.name())
    }

    /// Returns the subscription with this id.
    pub(super) fn find(&self, namespace: Namespace, id: &str) -> Option<&Subscription> {
        let hash = self.hash(namespace, id);
        let has_id = |index: u32| {
            let subscription = self.table.get(index as usize);
            subscription.is_some_and(|it| it.id() == id && self.namespace_of(it) == namespace)
        };
        let index = self.by_id.find(hash, has_id)?;
        self.table.get(index as usize)
    }

    /// Returns the subscription of a stream with this id.
    pub(super) fn find_of(&self, stream: &Stream, id: &str) -> Option<&Subscription> {
        let found = self.find(stream.namespace(), id);
        found.filter(|found| found.stream() == stream.id())
    }

    fn hash(&self, namespace: Namespace, id: &str) -> u32 {
        self.hasher.hash_one((namespace, id)) as u32
    }

    /// Adds a subscription of the next key. No other has its id.
    pub(super) fn insert(&mut self, subscription: Subscription, filter: &Filter) {
        debug_assert_eq!(subscription.key(), self.next_key());
        self.serial += 1;
        if subscription.wants_left() {
            let name = Arc::clone(subscription.name());
            let keys = self.want_left.entry(name).or_default();
            keys.insert(subscription.key());
        }
        if !self.windows.insert(&subscription) {
            self.matcher.insert(
                subscription.key(),
                subscription.database(),
                subscription.collection(),
                filter,
            );
        }
        self.plain += usize::from(subscription.is_plain());
        let hash = self.hash(self.namespace_of(&subscription), subscription.id());
        self.count(FilterKind::of(filter), subscription.wants(), 1);
        let index = self.table.insert(subscription) as u32;
        self.by_id.insert(hash, index);
    }

    /// Returns the name of a collection, shared with its other subscriptions.
    pub(super) fn share_name(&mut self, database: &str, collection: &str) -> Arc<CollectionName> {
        let name = self
            .collections
            // Many subscriptions have few collections: two texts each would be most of their
            // memory.
            .get_or_insert_with(&BorrowedName(database, collection), |name| {
                Arc::new((name.0.into(), name.1.into()))
            });
        Arc::clone(name)
    }

    /// Removes a subscription. Its stream still knows it.
    pub(super) fn remove(&mut self, key: SubscriptionKey) -> Option<Subscription> {
        let wants = self.get(key)?.wants();
        // While the matcher still knows it. Only windows without conditions are not there.
        let kind = self.matcher.kind(key).unwrap_or(FilterKind::Collection);
        self.count(kind, wants, -1);
        let subscription = self.table.remove(index_of(key))?;
        self.windows.remove(&subscription);
        self.matcher.remove(key);
        if let Some(keys) = self.want_left.get_mut(subscription.name()) {
            keys.remove(&key);
            if keys.is_empty() {
                self.want_left.remove(subscription.name());
            }
        }
        self.plain -= usize::from(subscription.is_plain());
        let hash = self.hash(self.namespace_of(&subscription), subscription.id());
        let is_own = |index: u32| index as usize == index_of(key);
        self.by_id.remove(hash, is_own);
        // The last one holds its name together with the table. Those that are told of documents that leave
        // were removed above, so that their list does not count.
        if Arc::strong_count(subscription.name()) == 2 {
            self.collections.remove(subscription.name());
        }
        Some(subscription)
    }

    /// Returns the key of the next subscription. Keys rise, and contain the index of the subscription.
    pub(super) fn next_key(&self) -> SubscriptionKey {
        SubscriptionKey(self.serial << INDEX_BITS | self.table.next_index() as u64)
    }

    /// Returns matches sorted by stream, in their order within each stream.
    pub(super) fn group(&self, keys: &[SubscriptionKey]) -> Vec<(StreamId, SubscriptionKey)> {
        let with_stream = |key: &SubscriptionKey| Some((self.get(*key)?.stream(), *key));
        let mut grouped: Vec<_> = keys.iter().filter_map(with_stream).collect();
        // Stable: the order within a stream is that of the matcher, and peers rely on it
        // (docs/protocol-filters.md).
        grouped.sort_by_key(|(stream, _)| *stream);
        grouped
    }

    /// Checks a subscribe request and returns its parts.
    pub(super) fn admit(
        &self,
        stream: &Stream,
        request: &SubscribeRequest,
        limits: &Limits,
    ) -> Result<Admitted, Refusal> {
        let id = request.subscription_id.as_str();
        if id.len() > limits.id_bytes {
            return Err(Refusal::IdTooLong {
                bytes: id.len(),
                limit: limits.id_bytes,
            });
        }
        // Before capacity: a permanent refusal is more useful to the client than a temporary one
        //
        let grant = self.grant(stream, &request.database, &request.collection);
        // Before the filter is looked at: a stranger learns nothing from its faults.
        if grant == Grant::Nothing {
            return Err(Refusal::Denied);
        }
        let filter = Filter::parse(&request.filters, &limits.filters)?;
        let granted = grant.restrict(filter).ok_or(Refusal::Denied)?;
        if stream.is_profile() {
            check_start(request)?;
        }
        let window = if stream.is_profile() {
            Window::of_wire(request, (limits.filters.max_bytes, limits.window_documents))?
        } else {
            None
        };
        let owner = self.find(stream.namespace(), id);
        let own = owner.is_some_and(|owner| owner.stream() == stream.id());
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
        if !own && stream.principal_subscriptions() >= limits.subscriptions_per_principal {
            return Err(Refusal::PrincipalFull {
                limit: limits.subscriptions_per_principal,
            });
        }
        // A subscription that replaces another one takes no additional capacity.
        if !own && owner.is_none() && self.len() >= limits.subscriptions {
            return Err(Refusal::ServerFull {
                limit: limits.subscriptions,
            });
        }
        Ok(Admitted {
            granted,
            window,
            replaces: owner.map(Subscription::key),
        })
    }

    /// Returns true if a stream has exactly the subscription that it asks for.
    pub(super) fn is_repeated(
        &self,
        older: SubscriptionKey,
        stream: StreamId,
        request: &SubscribeRequest,
        granted: &Granted,
    ) -> bool {
        let is_own = self.get(older).is_some_and(|it| it.stream() == stream);
        let name = (&*request.database, &*request.collection);
        is_own && self.matcher.has_filter(older, name, &granted.filter)
    }

    /// Returns what a stream's peer may see of a collection.
    fn grant(&self, stream: &Stream, database: &str, collection: &str) -> Grant {
        match stream.access() {
            Some(access) => access.rights.grant(database, collection),
            None if self.restricted => Grant::Nothing,
            None => Grant::Everything,
        }
    }

    /// Returns true if rights grant to each subscription of a stream what its peer has now.
    pub(super) fn grants_same(&self, stream: &Stream, rights: &dyn Rights) -> bool {
        // A stream has many subscriptions and few collections, and each comparison reads filters.
        let collections: BTreeSet<_> = stream
            .subscriptions()
            .filter_map(|key| self.get(key))
            .map(|subscription| (subscription.database(), subscription.collection()))
            .collect();
        collections.into_iter().all(|(database, collection)| {
            self.grant(stream, database, collection) == rights.grant(database, collection)
        })
    }

    /// Requires rights for every subscription.
    pub(super) fn restrict(&mut self) {
        self.restricted = true;
    }

    fn namespace_of(&self, subscription: &Subscription) -> Namespace {
        if self.restricted || !subscription.is_plain() {
            Namespace::Stream(subscription.stream())
        } else {
            Namespace::Plain
        }
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

/// A [`CollectionName`] as it is looked up. It has the same hash.
#[derive(Hash)]
struct BorrowedName<'a>(&'a str, &'a str);

impl Equivalent<Arc<CollectionName>> for BorrowedName<'_> {
    fn equivalent(&self, name: &Arc<CollectionName>) -> bool {
        *self.0 == *name.0 && *self.1 == *name.1
    }
}

/// Checks where a subscription is to begin. A request with a position continues there instead.
fn check_start(request: &SubscribeRequest) -> Result<(), Refusal> {
    match (request.start, &request.resume) {
        (Some(_), None) if request.snapshot.is_some() => Err(Refusal::SnapshotWithStart),
        // The driver replaces each time by an offset before the hub sees it.
        (Some(subscribe_request::Start::StartTimeMs(_)), None) => Err(Refusal::TimeNotFound),
        _ => Ok(()),
    }
}

/// What a subscribe request asks for, checked.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The filter, as far as the peer may see.
    pub(super) granted: Granted,
    /// The window, with the bound of its client.
    pub(super) window: Option<(Window, Option<Place>)>,
    /// The subscription with the same id, which the new one replaces: one of the same profile stream, or one
    /// of any plain stream.
    pub(super) replaces: Option<SubscriptionKey>,
}

/// The rank of subscriptions to a whole collection, as the matcher has it.
const WHOLE_COLLECTION: u8 = 1;

impl Refusal {
    pub(super) fn code(&self) -> RefusalCode {
        match self {
            Self::IdTooLong { .. }
            | Self::Filters(_)
            | Self::Window(_)
            | Self::SnapshotWithStart
            | Self::HeldByNewer => RefusalCode::Invalid,
            Self::Denied => RefusalCode::Denied,
            Self::TimeNotFound => RefusalCode::Unavailable,
            Self::StreamFull { .. } | Self::PrincipalFull { .. } | Self::ServerFull { .. } => {
                RefusalCode::Limit
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::credit::Credit;

    impl Subscriptions {
        /// Checks what is kept of some subscriptions against all of them.
        pub(in crate::hub) fn audit<'a>(&'a self, all: impl Iterator<Item = &'a Subscription>) {
            let (mut left, mut snapshots, mut plain) = (0, 0, 0);
            let mut want_left = BTreeMap::<_, BTreeSet<_>>::new();
            let mut names = BTreeSet::new();
            for subscription in all {
                let wants = subscription.wants();
                left += usize::from(wants.left);
                snapshots += usize::from(wants.snapshot);
                plain += usize::from(subscription.is_plain());
                names.insert(Arc::as_ptr(subscription.name()));
                if subscription.wants_left() {
                    let name = Arc::clone(subscription.name());
                    want_left
                        .entry(name)
                        .or_default()
                        .insert(subscription.key());
                }
            }
            assert_eq!((self.kinds.left, self.kinds.snapshots), (left, snapshots));
            assert_eq!(self.plain, plain);
            assert_eq!(self.want_left, want_left);
            assert_eq!(self.collections.len(), names.len(), "a name for nobody");
        }
    }

    #[test]
    fn key_of_a_subscription_that_left_finds_no_other() {
        let mut subscriptions = Subscriptions::new([7; 32]);
        let insert = |subscriptions: &mut Subscriptions| {
            let key = subscriptions.next_key();
            let name = subscriptions.share_name("d", "c");
            let credit = Credit::unlimited();
            let subscription = Subscription::new(key, StreamId(1), "a".into(), name, 0, credit, 0);
            subscriptions.insert(subscription, &Filter::all());
            key
        };
        let left = insert(&mut subscriptions);
        assert!(subscriptions.remove(left).is_some());
        let next = insert(&mut subscriptions);
        assert_eq!(index_of(left), index_of(next));
        assert!(left < next, "keys rise");
        assert!(subscriptions.get(left).is_none() && subscriptions.get_mut(left).is_none());
        assert!(subscriptions.remove(left).is_none());
        let found = subscriptions.find(Namespace::Plain, "a");
        assert_eq!(found.map(Subscription::key), Some(next));
        assert_eq!((subscriptions.len(), subscriptions.ids()), (1, 1));
    }
}
