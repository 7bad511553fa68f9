//! Whether the subscriptions of a stream have reached the head that its peer greeted with.

use std::collections::BTreeSet;

use super::SubscriptionId;
use crate::Position;

/// The subscriptions that are still behind the head of the greeting.
#[derive(Debug)]
pub(super) struct CatchUp {
    head: Position,
    behind: BTreeSet<SubscriptionId>,
}

impl CatchUp {
    pub(super) fn new(head: Position) -> Self {
        Self {
            head,
            behind: BTreeSet::new(),
        }
    }

    /// Notes the new position of a subscription.
    pub(super) fn on_moved(&mut self, id: SubscriptionId, to: Position) {
        // Another epoch has no order to this head: nothing known is missing there.
        if to.epoch != self.head.epoch || to.offset >= self.head.offset {
            self.behind.remove(&id);
        } else {
            self.behind.insert(id);
        }
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) {
        self.behind.remove(&id);
    }

    pub(super) fn is_done(&self) -> bool {
        self.behind.is_empty()
    }
}
