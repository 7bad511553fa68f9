//! Groups: the subscriptions that share one filter.

use super::{SubscriptionKey, access::Access, condition::Condition, members::Members};

/// Subscriptions whose filters are equal.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) members: Members<SubscriptionKey>,
    pub(super) conditions: Box<[Condition]>,
    pub(super) access: Access,
}
