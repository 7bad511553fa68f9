//! The progress of restoring the wanted subscriptions on a new stream.

use steadfast_session::Signal;

use super::{Cx, SubscriptionId, subscriptions::Subscriptions};

/// The subscriptions that a new stream restores and that the peer has not answered. Each of them is marked as
/// [`awaited`](super::subscription::Subscription::awaited).
///
/// A subscription made after the restoration began does not delay it.
#[derive(Debug)]
pub(super) struct Restore {
    unanswered: usize,
    finished: bool,
}

impl Restore {
    /// Requests everything wanted. With nothing to wait for, the stream is restored at once.
    pub(super) fn begin(
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
        request: fn(SubscriptionId, &mut Subscriptions, &mut Cx),
    ) -> Self {
        let mut restore = Self {
            unanswered: 0,
            finished: false,
        };
        for id in subscriptions.ids() {
            request(id, subscriptions, cx);
            // A request that the peer cannot serve was refused at once.
            if let Some(subscription) = subscriptions.get_mut(id) {
                subscription.awaited = true;
                restore.unanswered += 1;
            }
        }
        restore.finish_if_answered(cx);
        restore
    }

    /// Notes that nothing more is to be waited for on behalf of a subscription, which was or was not
    /// `awaited`: it was accepted, refused or unsubscribed.
    pub(super) fn on_answered(&mut self, awaited: bool, cx: &mut Cx) {
        // A response for a later subscription is no progress of the restoration: it must not extend
        // the deadline.
        if awaited {
            self.unanswered -= 1;
            cx.signal(Signal::RestoreProgress);
            self.finish_if_answered(cx);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    fn finish_if_answered(&mut self, cx: &mut Cx) {
        if self.unanswered == 0 && !self.finished {
            self.finished = true;
            cx.signal(Signal::Restored);
        }
    }
}
