//! Probes: repeated subscribe requests that find out whether a plain peer evicted subscriptions.

use std::time::Duration;

use steadfast_session::Time;

use super::{
    ClientMessage, SubscriptionId, Violation, message::Variable, received::Response,
    refusal::RefusalKind, subscription::SubscribeState, subscriptions::Subscriptions,
};

/// Repeats one subscribe request per interval. A server that still has the subscription answers
/// that its id exists.
///
/// A success proves an eviction only with a server that refuses known ids at all. The first probe
/// therefore follows the first acknowledgement at once, while nothing can have been evicted.
#[derive(Debug)]
pub(super) struct Probes {
    /// `None` sends no probes.
    interval: Option<Duration>,
    started: bool,
    next: Option<Time>,
    /// The subscription that was probed last.
    last: Option<SubscriptionId>,
    /// The peer refused the id of a living subscription, so that a success proves an eviction.
    conclusive: bool,
}

impl Probes {
    pub(super) fn new(interval: Option<Duration>) -> Self {
        Self {
            interval: interval.map(|interval| interval.max(MIN_INTERVAL)),
            started: false,
            next: None,
            last: None,
            conclusive: false,
        }
    }

    /// Returns when [`Probes::on_timer`] is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.next
    }

    /// Probes the first subscription that the peer acknowledges on this stream.
    pub(super) fn on_acknowledged(
        &mut self,
        now: Time,
        id: SubscriptionId,
        subscriptions: &mut Subscriptions,
    ) -> Option<ClientMessage> {
        // Only the first: later ones follow the timer, however many subscriptions are acknowledged.
        let interval = self.interval.filter(|_| !self.started)?;
        self.started = true;
        self.next = Some(now + interval);
        self.probe(id, subscriptions)
    }

    /// Probes the next subscription in the order of ids, if the interval has passed.
    pub(super) fn on_timer(
        &mut self,
        now: Time,
        subscriptions: &mut Subscriptions,
    ) -> Option<ClientMessage> {
        let interval = self.interval?;
        self.next.filter(|due| *due <= now)?;
        self.next = Some(now + interval);
        let after = |last: Option<SubscriptionId>| {
            let mut active = subscriptions.iter().filter(|subscription| {
                matches!(
                    subscription.state,
                    SubscribeState::Active { probed: false, .. }
                )
            });
            active
                .find(|subscription| Some(subscription.id) > last)
                .map(|subscription| subscription.id)
        };
        // In turn, from the start again after the last one. One per interval is enough, because
        // such a peer evicts the whole stream at once.
        let id = after(self.last).or_else(|| after(None))?;
        self.probe(id, subscriptions)
    }

    fn probe(
        &mut self,
        id: SubscriptionId,
        subscriptions: &mut Subscriptions,
    ) -> Option<ClientMessage> {
        let subscription = &mut subscriptions[id];
        let SubscribeState::Active {
            spelling, probed, ..
        } = &mut subscription.state
        else {
            return None;
        };
        *probed = true;
        let spelling = *spelling;
        self.last = Some(id);
        let request = subscription.request_message(spelling, Variable::default());
        subscriptions.counters.probes += 1;
        Some(request)
    }

    /// Interprets the answer to a probe.
    ///
    /// # Errors
    ///
    /// [`Violation::Evicted`] if the peer did not have the subscription any more.
    pub(super) fn on_response(&mut self, response: &Response<'_>) -> Result<(), Violation> {
        if !response.success {
            self.conclusive |= RefusalKind::classify(response.error) == RefusalKind::IdTaken;
            return Ok(());
        }
        if self.conclusive {
            return Err(Violation::Evicted);
        }
        // The peer takes a known id for a replacement, so that further probes would prove nothing.
        // Further probes would also make the peer set up the subscription anew each time.
        self.next = None;
        Ok(())
    }
}

/// The shortest interval, however short the activity timeout is.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
