//! Groups: the subscriptions that share one filter.

use super::{SubscriptionKey, access::Access, condition::Conditions, members::Members};

/// Subscriptions whose filters are equal. Most are one cache line: an event waits once for its candidate.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Group {
    pub(super) members: Members<SubscriptionKey>,
    pub(super) conditions: Conditions,
    pub(super) access: Access,
}
