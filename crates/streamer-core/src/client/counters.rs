//! The counters of a client.

/// Totals since the client began. Each message that was not delivered is counted in one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Changes queued for subscriptions; a message for three of them counts three times.
    pub delivered: u64,
    /// Snapshots begun.
    pub snapshots: u64,
    /// Documents of snapshots queued.
    pub snapshot_documents: u64,
    /// Changes dropped because they had been queued before.
    pub duplicates: u64,
    /// Deliveries with a hole before them.
    pub holes: u64,
    /// Deliveries dropped because a newer subscribe request was pending.
    pub premature: u64,
    /// Ids in deliveries and responses that no subscription has: cancelled, or never made.
    pub unknown_ids: u64,
    /// Ids that were repeated within one delivery.
    pub repeated_ids: u64,
    /// Responses to requests that are no longer current.
    pub stray_responses: u64,
    /// Messages with no payload, or with one unknown to this version.
    pub unknown_messages: u64,
    /// Acknowledgements that match no heartbeat of the stream.
    pub stray_acks: u64,
    /// Newer credentials that the server accepted on an open stream.
    pub renewals: u64,
    /// Subscriptions acknowledged.
    pub acknowledged: u64,
    /// Acknowledged subscriptions that were taken over from an older stream.
    pub taken_over: u64,
    /// Subscriptions refused, for good or for now.
    pub refused: u64,
    /// Resync items.
    pub resyncs: u64,
    /// Gap items after an outage.
    pub gaps_disconnected: u64,
    /// Gap items after an overflow.
    pub gaps_overflow: u64,
    /// Gap items after a silent eviction.
    pub gaps_evicted: u64,
    /// Gap items for positions that a plain peer cannot use.
    pub gaps_left_profile: u64,
    /// Gap items after a message that exceeded the limit.
    pub gaps_too_large: u64,
    /// Changes dropped because too many were queued.
    pub overflowed: u64,
    /// Subscriptions requested again because their id was still taken.
    pub reclaimed: u64,
    /// Subscriptions requested again under another wire id.
    pub renamed: u64,
    /// Subscriptions requested again in the other operator spelling.
    pub respelled: u64,
    /// Subscriptions repeated to find out whether the peer still has them.
    pub probes: u64,
    /// Probes that proved an eviction.
    pub evictions: u64,
}
