//! One subscription.

use std::sync::Arc;

use super::{
    StreamId,
    credit::Credit,
    limits::MAX_SUBSCRIPTIONS,
    progress::{KnownOffset, Progress},
};
use crate::{Event, matcher::SubscriptionKey};

/// One subscription. It is behind if the backlog of its stream contains it, and live otherwise.
///
/// It takes 104 bytes and those of its id; its filter is kept by the matcher alone.
#[derive(Debug)]
pub(super) struct Subscription {
    key: SubscriptionKey,
    stream: StreamId,
    id: Box<str>,
    name: Arc<CollectionName>,
    /// The number of the request that created the subscription.
    request: u64,
    credit: Credit,
    known: KnownOffset,
    /// The offset of the last event that was delivered or read from the log. Matching may be behind
    /// it.
    handled: u64,
}

impl Subscription {
    /// Creates a subscription that is behind at the offset `start`.
    pub(super) fn new(
        key: SubscriptionKey,
        stream: StreamId,
        id: Box<str>,
        name: Arc<CollectionName>,
        request: u64,
        credit: Credit,
        start: u64,
    ) -> Self {
        Self {
            key,
            stream,
            id,
            name,
            request,
            credit,
            known: KnownOffset::new(start),
            handled: start,
        }
    }

    pub(super) fn key(&self) -> SubscriptionKey {
        self.key
    }

    pub(super) fn stream(&self) -> StreamId {
        self.stream
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns true if the peer grants no credit, as only plain peers do. Their ids share a namespace.
    pub(super) fn is_plain(&self) -> bool {
        self.credit.is_unlimited()
    }

    pub(super) fn name(&self) -> &Arc<CollectionName> {
        &self.name
    }

    pub(super) fn database(&self) -> &Arc<str> {
        &self.name.0
    }

    pub(super) fn collection(&self) -> &Arc<str> {
        &self.name.1
    }

    pub(super) fn namespace(&self) -> Namespace {
        if self.is_plain() {
            Namespace::Plain
        } else {
            Namespace::Stream(self.stream)
        }
    }

    pub(super) fn request(&self) -> u64 {
        self.request
    }

    pub(super) fn has_credit(&self) -> bool {
        self.credit.is_open()
    }

    pub(super) fn grant(&mut self, total_messages: u64, total_bytes: u64) {
        self.credit.grant(total_messages, total_bytes);
    }

    /// Counts a delivery and returns the offset that the client knew before it.
    pub(super) fn on_delivery(&mut self, event: &Event, progress: &Progress) -> u64 {
        let previous = self.known.get(progress);
        self.known.told(event.offset);
        // A page may deliver ahead of matching, which then offers the same event once more.
        self.handled = event.offset;
        self.credit.charge(event.weight());
        previous
    }

    /// Notes that the client was told to continue at an offset.
    pub(super) fn restart_at(&mut self, offset: u64) {
        self.known.told(offset);
    }

    pub(super) fn fall_behind(&mut self, progress: &Progress) {
        self.known.fall_behind(progress);
    }

    /// Makes the subscription live. Everything up to `offset` was delivered or did not match.
    pub(super) fn go_live(&mut self, offset: u64, progress: &Progress) {
        self.handled = offset;
        self.known.go_live(progress);
    }

    /// Returns the offset up to which a live subscription has nothing more to get.
    pub(super) fn handled(&self) -> u64 {
        self.handled
    }
}

/// A database and a collection.
pub(super) type CollectionName = (Arc<str>, Arc<str>);

/// The subscriptions among which an id is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Namespace {
    /// Those of all plain peers. Gateways expect it of the original, which knows no sessions.
    Plain,
    /// Those of one profile stream.
    Stream(StreamId),
}

/// The bits of a key that are the index. 16 million subscriptions fill memory first, and at 10,000 new
/// ones in a second the other 40 bits last for three years.
pub(super) const INDEX_BITS: u32 = MAX_SUBSCRIPTIONS.ilog2();

/// Returns the index that a key contains.
pub(super) fn index_of(key: SubscriptionKey) -> usize {
    key.0 as usize & (MAX_SUBSCRIPTIONS - 1)
}
