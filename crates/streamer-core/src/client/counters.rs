//! What a core counted.

/// Totals since the client began. Every message that was not delivered is in one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Changes queued for subscriptions; a message for three of them counts three times.
    pub delivered: u64,
    /// Changes dropped because they had been queued before.
    pub duplicates: u64,
    /// Deliveries before which something was missing.
    pub holes: u64,
    /// Deliveries dropped because the subscription had just been asked for anew.
    pub premature: u64,
    /// Ids of deliveries and answers that no subscription has: cancelled, or never made.
    pub unknown_ids: u64,
    /// Ids that stood twice in one delivery.
    pub repeated_ids: u64,
    /// Answers to requests that are no longer current.
    pub stray_answers: u64,
    /// Messages with no payload, or one unknown to this version.
    pub unknown_messages: u64,
    /// Heartbeat acks that answer no heartbeat of the stream.
    pub stray_acks: u64,
    /// Subscriptions acknowledged.
    pub acknowledged: u64,
    /// Of these, taken over from an older stream.
    pub taken_over: u64,
    /// Subscriptions refused for good, or for now.
    pub refused: u64,
    /// Resync items.
    pub resyncs: u64,
    /// Gap items after a cut.
    pub gaps_disconnected: u64,
    /// Gap items after an overflow.
    pub gaps_overflow: u64,
    /// Gap items after a silent eviction.
    pub gaps_evicted: u64,
    /// Gap items because a position could not be used.
    pub gaps_left_profile: u64,
    /// Changes dropped because a queue was full.
    pub overflowed: u64,
    /// Subscriptions sent again because their id was still taken.
    pub reclaimed: u64,
    /// Subscriptions sent again under another wire id.
    pub renamed: u64,
    /// Subscriptions sent again in the other spelling of operators.
    pub respelled: u64,
    /// Subscriptions repeated to find out whether the peer still has them.
    pub probes: u64,
    /// Probes that proved an eviction.
    pub evictions: u64,
}
