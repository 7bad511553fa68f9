//! Whether the subscriptions of a stream have reached the head that its peer greeted with.

use std::{collections::BTreeSet, time::Duration};

use steadfast_session::Time;

use super::SubscriptionId;
use crate::Position;

/// The subscriptions that are still behind the head of the greeting.
///
/// A subscription that nothing is delivered to reaches the head by progress. A server sends that on
/// its own only every few seconds, so until all have arrived it is requested by heartbeats, whose
/// acknowledgements carry it. Otherwise the end of an outage would be noticed too late.
#[derive(Debug)]
pub(super) struct CatchUp {
    head: Position,
    behind: BTreeSet<SubscriptionId>,
    /// The next request for progress; `None` before the stream is live.
    next: Option<Time>,
    delay: Duration,
}

/// The delay after the first request. It doubles up to the longest one.
const MIN_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_secs(1);

impl CatchUp {
    pub(super) fn new(head: Position) -> Self {
        Self {
            head,
            behind: BTreeSet::new(),
            next: None,
            delay: MIN_DELAY,
        }
    }

    /// Returns whether a position belongs to the term that the server named in its welcome.
    pub(super) fn is_in_term(&self, at: Position) -> bool {
        at.epoch == self.head.epoch
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

    /// Begins to request progress: everything wanted is answered.
    pub(super) fn on_live(&mut self, now: Time) {
        self.next = Some(now);
    }

    /// Returns when [`CatchUp::on_timer`] is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.next.filter(|_| !self.is_done())
    }

    /// Returns whether progress is to be requested now.
    pub(super) fn on_timer(&mut self, now: Time) -> bool {
        let due = self.deadline().is_some_and(|due| due <= now);
        if due {
            self.next = Some(now + self.delay);
            // A long catch-up needs no more than one extra heartbeat a second.
            self.delay = (self.delay * 2).min(MAX_DELAY);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;

    #[test]
    fn progress_is_requested_at_growing_intervals_until_all_arrived() {
        let at = |epoch, offset| Position::new(Epoch(epoch), offset);
        let ms = |ms| Time::ZERO + Duration::from_millis(ms);
        let mut catch_up = CatchUp::new(at(1, 10));
        let [a, b] = [1, 2].map(SubscriptionId);
        catch_up.on_moved(a, at(1, 9));
        catch_up.on_moved(b, at(1, 3));
        assert_eq!((catch_up.is_done(), catch_up.deadline()), (false, None));
        assert!(!catch_up.on_timer(ms(5)), "it is not live");
        catch_up.on_live(ms(10));
        let mut due = 10;
        for delay in [50, 100, 200, 400, 800, 1_000, 1_000] {
            assert_eq!(catch_up.deadline(), Some(ms(due)));
            assert!(!catch_up.on_timer(ms(due - 1)), "early, for another timer");
            assert!(catch_up.on_timer(ms(due)));
            due += delay;
        }
        catch_up.on_moved(a, at(1, 10));
        // Another term has no order to this head.
        catch_up.on_moved(b, at(2, 1));
        assert_eq!((catch_up.is_done(), catch_up.deadline()), (true, None));
        assert!(!catch_up.on_timer(ms(due)));
        catch_up.on_moved(b, at(1, 1));
        assert_eq!(catch_up.deadline(), Some(ms(due)), "a resync goes back");
        catch_up.remove(b);
        assert!(catch_up.is_done());
    }
}
