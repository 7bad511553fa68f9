//! The progress of restoring the wanted subscriptions on a new stream.

use foldhash::quality::FixedState;
use hashbrown::HashSet;
use steadfast_session::Signal;

use super::{Cx, SubscriptionId, subscriptions::Subscriptions};

/// The subscriptions that a new stream restores and that the peer has not answered.
///
/// A subscription made after the restoration began does not delay it.
#[derive(Debug)]
pub(super) struct Restore {
    /// Never iterated, so that its order cannot show.
    unanswered: HashSet<SubscriptionId, FixedState>,
    finished: bool,
}

impl Restore {
    /// Requests everything wanted. With nothing to wait for, the stream is restored at once.
    pub(super) fn begin(
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
        request: fn(SubscriptionId, &mut Subscriptions, &mut Cx),
    ) -> Self {
        let ids = subscriptions.ids();
        for id in &ids {
            request(*id, subscriptions, cx);
        }
        let mut restore = Self {
            // A request that the peer cannot serve was refused at once.
            unanswered: ids
                .into_iter()
                .filter(|id| subscriptions.contains(*id))
                .collect(),
            finished: false,
        };
        restore.finish_if_answered(cx);
        restore
    }

    /// Notes that nothing more is to be waited for on behalf of a subscription: it was accepted,
    /// refused or unsubscribed.
    pub(super) fn on_answered(&mut self, id: SubscriptionId, cx: &mut Cx) {
        // A response for a later subscription is no progress of the restoration: it must not extend
        // the deadline.
        if self.unanswered.remove(&id) {
            cx.signal(Signal::RestoreProgress);
            self.finish_if_answered(cx);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    fn finish_if_answered(&mut self, cx: &mut Cx) {
        if self.unanswered.is_empty() && !self.finished {
            self.finished = true;
            cx.signal(Signal::Restored);
        }
    }
}
