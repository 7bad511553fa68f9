//! A stream whose peer does not speak the resume profile.
//!
//! Such a peer has no positions, so that each outage is a gap. It cannot be held back either: when
//! too many changes are queued, some are dropped and reported as a gap. Its refusals are texts, and
//! it may evict subscriptions without notice.

use bytes::Bytes;
use steadfast_session::Time;
use steadfast_wire::streamer::gateway_message::Payload;

use super::{
    Change, Config, Cx, GapReason, Item, SubscriptionId, Violation,
    backlog::Backlog,
    load::Load,
    message::Variable,
    probes::Probes,
    received::{Delivery, Response},
    refusal::RefusalKind,
    restore::Restore,
    send,
    subscription::{IdClaim, Request, SubscribeState},
    subscriptions::Subscriptions,
    violation::required,
};
use crate::{
    convert::change_from_wire,
    filter::{Filter, Op, Spelling},
};

/// The state of a stream to a plain peer.
#[derive(Debug)]
pub(super) struct PlainStream {
    restore: Restore,
    backlog: Backlog,
    probes: Probes,
}

impl PlainStream {
    /// Subscribes to everything wanted.
    pub(super) fn start(config: &Config, subscriptions: &mut Subscriptions, cx: &mut Cx) -> Self {
        let mut backlog = Backlog::new(config.limits);
        // What older streams delivered may still be queued, and takes its part of the total.
        for subscription in subscriptions.iter() {
            backlog.update(subscription.id, Load::default(), subscription.queued.load());
        }
        Self {
            restore: Restore::begin(subscriptions, cx, subscribe),
            backlog,
            probes: Probes::new(config.activity_timeout),
        }
    }

    pub(super) fn is_restored(&self) -> bool {
        self.restore.is_finished()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.probes.deadline()
    }

    pub(super) fn on_timer(&mut self, now: Time, subscriptions: &mut Subscriptions, cx: &mut Cx) {
        if let Some(probe) = self.probes.on_timer(now, subscriptions) {
            send(cx, probe);
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        id: SubscriptionId,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        send_unsubscribe(id, subscriptions, cx);
        self.forget(id, subscriptions);
        let awaited = subscriptions.remove(id);
        self.restore.on_answered(awaited, cx);
    }

    pub(super) fn on_taken(
        &mut self,
        id: SubscriptionId,
        through: u64,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        let before = subscriptions[id].queued.load();
        let (subscription, counters) = subscriptions.with_counters(id);
        subscription.on_taken(through, counters, cx);
        self.backlog.update(id, before, subscription.queued.load());
    }

    /// Queues a delivered event. The peer may deliver before it answers the request.
    pub(super) fn on_delivery(
        &mut self,
        message: &Bytes,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        let delivery = Delivery::read(message)?;
        let event = required(delivery.event, "a delivery", "event")?;
        let data = message.slice_ref(event.data);
        let change = change_from_wire(&event, data, None, &mut subscriptions.names)?;
        let number = subscriptions.next_delivery();
        for wire_id in delivery.ids {
            let Some(id) = subscriptions.find(wire_id) else {
                continue;
            };
            let (subscription, counters) = subscriptions.with_counters(id);
            if subscription.state == SubscribeState::NotSent {
                counters.premature += 1;
            } else if !subscription.is_first_mention(number) {
                counters.repeated_ids += 1;
            } else {
                // It may precede the acknowledgement, and the application relies on what follows.
                subscription.acknowledged = true;
                subscription.report_gap(counters, cx);
                self.queue(id, change.clone(), subscriptions, cx);
            }
        }
        Ok(())
    }

    /// Queues a change for a subscription, or drops one where the backlog is largest.
    fn queue(
        &mut self,
        id: SubscriptionId,
        change: Change,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        let (subscription, counters) = subscriptions.with_counters(id);
        // Without this a slow application would get a gap, one change, a gap, one change.
        if subscription.is_overflowing() {
            return subscription.drop_received(counters);
        }
        let load = subscription.queued.load();
        while let Some(loser) = self.backlog.loser(id, load) {
            let (subscription, counters) = subscriptions.with_counters(loser);
            // The queue that grew is the largest, so the new change is the one to drop.
            if loser == id {
                return subscription.drop_received(counters);
            }
            let before = subscription.queued.load();
            subscription.drop_newest(counters, cx);
            let after = subscription.queued.load();
            self.backlog.update(loser, before, after);
        }
        let (subscription, counters) = subscriptions.with_counters(id);
        subscription.queue_change(Item::Change, change, counters, cx);
        self.backlog.update(id, load, subscription.queued.load());
    }

    pub(super) fn on_response(
        &mut self,
        now: Time,
        response: &Response<'_>,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        let Some(id) = subscriptions.find(response.subscription_id) else {
            return Ok(());
        };
        match &mut subscriptions[id].state {
            SubscribeState::NotSent | SubscribeState::Active { probed: false, .. } => {
                subscriptions.counters.stray_responses += 1;
            }
            SubscribeState::Pending(request) => {
                let request = *request;
                if response.success {
                    // A plain peer does not repeat the request's number, so any response counts for
                    // the newest.
                    self.on_accepted(now, id, request, subscriptions, cx);
                } else {
                    self.on_refused(id, request, response.error, subscriptions, cx);
                }
            }
            SubscribeState::Active { probed, .. } => {
                *probed = false;
                let answer = self.probes.on_response(response);
                if answer.is_err() {
                    // A Go server evicts the whole stream and goes on acknowledging on it, but
                    // delivers nothing any more (S1), so that every subscription has a gap.
                    subscriptions.counters.evictions += 1;
                    subscriptions.set_pending_gaps(GapReason::Evicted);
                }
                return answer;
            }
        }
        Ok(())
    }

    fn on_accepted(
        &mut self,
        now: Time,
        id: SubscriptionId,
        request: Request,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        // A filter without such operators says nothing about the peer's spelling.
        if has_two_spellings(&subscriptions[id].filter) {
            subscriptions.spelling = request.spelling;
        }
        let awaited = subscriptions.acknowledge(id, request, None, false, cx);
        self.restore.on_answered(awaited, cx);
        if let Some(probe) = self.probes.on_acknowledged(now, id, subscriptions) {
            send(cx, probe);
        }
    }

    fn on_refused(
        &mut self,
        id: SubscriptionId,
        request: Request,
        error: &str,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        match RefusalKind::classify(error) {
            RefusalKind::IdTaken => {
                let claim = match request.claim {
                    IdClaim::Original => {
                        // The stream that held the id is dead, and a Go server lets any stream
                        // unsubscribe it.
                        subscriptions.counters.reclaimed += 1;
                        send_unsubscribe(id, subscriptions, cx);
                        IdClaim::Reclaimed
                    }
                    IdClaim::Reclaimed => {
                        subscriptions.counters.renamed += 1;
                        subscriptions.rename(id);
                        IdClaim::Renamed
                    }
                    IdClaim::Renamed => {
                        return self.on_temporary_refusal(id, error, subscriptions, cx);
                    }
                };
                send_request(id, Request { claim, ..request }, subscriptions, cx);
            }
            RefusalKind::UnknownOperator
                if !request.respelled && has_two_spellings(&subscriptions[id].filter) =>
            {
                subscriptions.counters.respelled += 1;
                let request = Request {
                    spelling: other(request.spelling),
                    respelled: true,
                    ..request
                };
                send_request(id, request, subscriptions, cx);
            }
            RefusalKind::UnknownOperator | RefusalKind::Permanent => {
                self.refuse(id, true, error, subscriptions, cx);
            }
            RefusalKind::Temporary => self.on_temporary_refusal(id, error, subscriptions, cx),
        }
    }

    fn on_temporary_refusal(
        &mut self,
        id: SubscriptionId,
        error: &str,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        // The application relies on it, so it must not end because a server is full for a moment.
        if subscriptions[id].acknowledged {
            subscriptions.fail_restore(id, error, cx);
        } else {
            self.refuse(id, false, error, subscriptions, cx);
        }
    }

    fn refuse(
        &mut self,
        id: SubscriptionId,
        permanent: bool,
        error: &str,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        self.forget(id, subscriptions);
        let awaited = subscriptions.refuse(id, permanent, error, cx);
        self.restore.on_answered(awaited, cx);
    }

    fn forget(&mut self, id: SubscriptionId, subscriptions: &Subscriptions) {
        let load = subscriptions[id].queued.load();
        self.backlog.update(id, load, Load::default());
    }
}

/// The reason to refuse what only a peer with the resume profile has.
const NO_PROFILE: &str = "the server has neither snapshots, nor notes of documents that leave, nor \
    starts other than now, nor filters on null or on keys with dots: it lacks the resume profile";

/// Requests a subscription that this stream has not requested.
pub(super) fn subscribe(id: SubscriptionId, subscriptions: &mut Subscriptions, cx: &mut Cx) {
    if subscriptions[id].needs_profile() {
        // Without the documents, the application would take an empty state for a whole one; a start
        // from now would skip older changes without a gap; and a key with a dot would be another field.
        subscriptions.refuse(id, true, NO_PROFILE, cx);
        return;
    }
    let request = Request::first(subscriptions.spelling);
    send_request(id, request, subscriptions, cx);
}

/// Sends a subscribe request without anything of the profile.
fn send_request(
    id: SubscriptionId,
    request: Request,
    subscriptions: &mut Subscriptions,
    cx: &mut Cx,
) {
    let number = subscriptions.next_request();
    let subscription = &mut subscriptions[id];
    // The position is useless from here on: this peer moves on without reporting positions.
    if subscription.cursor.clear() {
        subscription.set_pending_gap(GapReason::LeftProfile);
    }
    subscription.state = SubscribeState::Pending(Request { number, ..request });
    let message = subscription.request_message(request.spelling, Variable::default());
    send(cx, message);
}

fn send_unsubscribe(id: SubscriptionId, subscriptions: &mut Subscriptions, cx: &mut Cx) {
    let request = subscriptions.unsubscribe_request(id, false);
    send(cx, Payload::Unsubscribe(request));
}

/// Returns the spelling to try when a peer refuses one.
fn other(spelling: Spelling) -> Spelling {
    match spelling {
        Spelling::Symbols => Spelling::Words,
        Spelling::Words => Spelling::Symbols,
    }
}

/// Returns whether the filter differs between the two spellings.
fn has_two_spellings(filter: &Filter) -> bool {
    let differs = |op: Op| op.spelled(Spelling::Symbols) != op.spelled(Spelling::Words);
    filter
        .conditions()
        .iter()
        .any(|condition| differs(condition.op))
}
