//! A stream whose peer speaks the resume profile: positions, credit and progress.

use std::collections::BTreeSet;

use bytes::Bytes;
use steadfast_session::Time;
use steadfast_wire::streamer::{self as wire, gateway_message::Payload};

use super::{
    Change, Cx, Event, Item, Resync, ResyncReason, SubscriptionId, Violation,
    catch_up::CatchUp,
    credit::Credit,
    cursor::{Continuity, Rejected},
    message::Variable,
    received::{Delivery, ReceivedEvent, Response},
    restore::Restore,
    send,
    snapshot::SnapshotState,
    subscription::{Request, SubscribeState},
    subscriptions::Subscriptions,
    violation::{required, unknown},
    window::WindowState,
};
use crate::{
    Position,
    convert::{LastNames, change_from_wire},
};

/// The state of a stream to a peer with the resume profile.
#[derive(Debug)]
pub(super) struct ProfileStream {
    restore: Restore,
    catch_up: CatchUp,
}

impl ProfileStream {
    /// Resumes everything wanted. `head` is the newest position of the peer's log.
    pub(super) fn start(head: Position, subscriptions: &mut Subscriptions, cx: &mut Cx) -> Self {
        Self {
            restore: Restore::begin(subscriptions, cx, subscribe),
            catch_up: CatchUp::new(head),
        }
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.restore.is_finished() && self.catch_up.is_done()
    }

    pub(super) fn on_live(&mut self, now: Time) {
        self.catch_up.on_live(now);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.catch_up.deadline()
    }

    /// Returns whether a heartbeat is to be sent for the progress in its acknowledgement.
    pub(super) fn needs_progress(&mut self, now: Time) -> bool {
        self.catch_up.on_timer(now)
    }

    pub(super) fn unsubscribe(
        &mut self,
        id: SubscriptionId,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        let request = subscriptions.unsubscribe_request(id, true);
        send(cx, Payload::Unsubscribe(request));
        // Removed at once: the server's acknowledgement changes nothing for the application.
        self.catch_up.remove(id);
        let awaited = subscriptions.remove(id);
        self.restore.on_answered(awaited, cx);
    }

    pub(super) fn on_delivery(
        &mut self,
        message: &Bytes,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        let delivery = Delivery::read(message)?;
        let at = required(delivery.position(), "a delivery", "position")?;
        let ids = &delivery.ids;
        // A shorter list would leave a subscription without its check for holes.
        if ids.len() != delivery.previous.len() {
            return Err(Violation::UnpairedIds {
                at,
                ids: ids.len(),
                previous: delivery.previous.len(),
            });
        }
        let event = required(delivery.event, "a delivery", "event")?;
        let data = message.slice_ref(event.data);
        let change = change_from_wire(&event, data, Some(at), &mut subscriptions.names)?;
        let mut change = Some(change);
        let item = if delivery.left {
            Item::Left
        } else {
            Item::Change
        };
        let number = subscriptions.next_delivery();
        let mut pairs = ids.iter().zip(delivery.previous).peekable();
        while let Some((wire_id, previous)) = pairs.next() {
            // Otherwise the check for holes would pass for any cursor.
            if previous >= at.offset {
                return Err(Violation::PreviousNotBefore { at, previous });
            }
            let is_last = pairs.peek().is_none();
            if let Some(id) = subscriptions.find(wire_id)
                // Most deliveries name one subscription, which gets the change itself and no clone.
                && let Some(change) = if is_last { change.take() } else { change.clone() }
            {
                let delivered = Delivered {
                    number,
                    previous,
                    at,
                    item,
                    change,
                };
                self.deliver(id, delivered, subscriptions, cx)?;
            }
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        id: SubscriptionId,
        delivered: Delivered,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        let Delivered { at, change, .. } = delivered;
        let (subscription, counters) = subscriptions.with_counters(id);
        let SubscribeState::Active { spelling, .. } = subscription.state else {
            // It follows an older request. The response to the newer one says where it continues.
            counters.premature += 1;
            return Ok(());
        };
        if !subscription.is_first_mention(delivered.number) {
            counters.repeated_ids += 1;
            return Ok(());
        }
        // Counted before the check for duplicates: the server has spent it on those, too.
        if !subscription.credit.spend(change.weight()) {
            let wire_id = subscription.wire_id.clone();
            return Err(Violation::CreditExceeded { at, wire_id });
        }
        match subscription.cursor.check(delivered.previous, at) {
            Continuity::Next => {
                subscription.cursor.advance(at);
                subscription.end_snapshot_before(at.offset, cx);
                subscription.queue_change(delivered.item, change, counters, cx);
                subscription.end_snapshot_at(at, cx);
                self.catch_up.on_moved(id, at);
            }
            Continuity::Duplicate => {
                counters.duplicates += 1;
                // Nothing was queued that the application could take, so its credit returns here. A
                // peer that resumes far back would otherwise use up all of it.
                grant_credit(id, subscriptions, cx);
            }
            Continuity::OtherEpoch => {
                let wire_id = subscription.wire_id.clone();
                return Err(Violation::OtherEpoch { at, wire_id });
            }
            Continuity::Hole => {
                counters.holes += 1;
                // Whether the position is kept or given up, the next request says so.
                let (Rejected::Kept | Rejected::GivenUp) = subscriptions.reject(id);
                send_request(id, Request::first(spelling), subscriptions, cx);
            }
        }
        Ok(())
    }

    /// Moves every quiet subscription to the position up to which the peer has looked.
    pub(super) fn on_progress(
        &mut self,
        progress: &wire::Progress,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        let to = Position::from(required(progress.position, "progress", "position")?);
        let behind: BTreeSet<_> = progress
            .behind
            .iter()
            .filter_map(|wire_id| subscriptions.find_uncounted(wire_id))
            .collect();
        for subscription in subscriptions.iter_mut() {
            // No acknowledgement has fixed its start yet, so it has nothing to move.
            let Some(at) = subscription.cursor.last() else {
                continue;
            };
            let active = matches!(subscription.state, SubscribeState::Active { .. });
            let awaits_documents = subscription.snapshot.needs_documents();
            if !active || awaits_documents || behind.contains(&subscription.id) {
                continue;
            }
            if at.epoch != to.epoch {
                let wire_id = subscription.wire_id.clone();
                return Err(Violation::ProgressOfOtherEpoch { to, at, wire_id });
            }
            // Progress may repeat an older position, and never moves one back.
            if to.offset > at.offset {
                subscription.cursor.advance(to);
                subscription.end_snapshot_at(to, cx);
                self.catch_up.on_moved(subscription.id, to);
                if !subscription.snapshot.is_open() {
                    cx.emit(Event::Marker {
                        id: subscription.id,
                        position: to,
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn on_response(
        &mut self,
        response: &Response<'_>,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        let Some(id) = subscriptions.find(response.subscription_id) else {
            return Ok(());
        };
        // By number: a subscription that is requested again may get the response to its older
        // request.
        match subscriptions[id].state {
            SubscribeState::Pending(request) if request.number == response.request => {
                if response.success {
                    self.on_accepted(id, request, response, subscriptions, cx)
                } else {
                    self.on_refused(id, request, response, subscriptions, cx)
                }
            }
            SubscribeState::Active { request, .. } if request == response.request => {
                self.on_late_resync(id, response, subscriptions, cx)
            }
            SubscribeState::Pending(_)
            | SubscribeState::Active { .. }
            | SubscribeState::NotSent => {
                subscriptions.counters.stray_responses += 1;
                Ok(())
            }
        }
    }

    fn on_accepted(
        &mut self,
        id: SubscriptionId,
        request: Request,
        response: &Response<'_>,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        if !subscriptions[id].is_understood(response) {
            let unsubscribe = subscriptions.unsubscribe_request(id, true);
            send(cx, Payload::Unsubscribe(unsubscribe));
            self.refuse(id, true, NOT_UNDERSTOOD, subscriptions, cx);
            return Ok(());
        }
        let (resumes_at, resync) = match (request.from, &response.resync) {
            (None, Some(_)) => return Err(Violation::UnrequestedResync),
            (Some(lost_from), Some(resync)) => {
                let (reason, resumes_at) = read_resync(resync, response.position)?;
                (resumes_at, Some((reason, lost_from)))
            }
            (from, None) => {
                let accepted = required(response.position, "an accepted subscription", "position")?;
                let accepted = Position::from(accepted);
                if from.is_some_and(|from| !self.continues(from, accepted)) {
                    // To accept it would skip what lies between without a resync.
                    subscriptions.reject(id);
                    send_request(id, request, subscriptions, cx);
                    return Ok(());
                }
                let lost = subscriptions[id].cursor.take_lost();
                let resync = lost.map(|lost_from| (ResyncReason::Refused, lost_from));
                // The server may accept from further back; what it repeats is dropped as a
                // duplicate.
                let offset = from.map_or(accepted.offset, |from| from.offset);
                (Position::new(accepted.epoch, offset), resync)
            }
        };
        subscriptions[id].on_started();
        subscriptions[id].on_rights(response.rights);
        // The resync is queued before the acknowledged position is announced: an application that
        // stores that position has seen the resync.
        match resync {
            Some((reason, lost_from)) => {
                let resync = Resync {
                    reason,
                    lost_from,
                    resumes_at,
                    snapshot_follows: false,
                };
                self.resync(id, resync, subscriptions, cx);
            }
            // The first documents tell what follows them.
            None if subscriptions[id].snapshot.needs_documents() => {}
            None => self.advance(id, resumes_at, subscriptions),
        }
        let is_open = subscriptions[id].snapshot.is_open();
        let position = (!is_open).then_some(resumes_at);
        let awaited = subscriptions.acknowledge(id, request, position, response.taken_over, cx);
        self.restore.on_answered(awaited, cx);
        Ok(())
    }

    /// Returns whether deliveries after `accepted` omit nothing after `from`. The terms may differ: the
    /// server knows which ones belong to its log, and answers a position of any other with a resync.
    fn continues(&self, from: Position, accepted: Position) -> bool {
        self.catch_up.is_in_term(accepted) && accepted.offset <= from.offset
    }

    /// Handles a second response to an accepted request: the server cannot deliver what it
    /// accepted, for example because a part of its log is damaged.
    fn on_late_resync(
        &mut self,
        id: SubscriptionId,
        response: &Response<'_>,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        let (true, Some(resync)) = (response.success, &response.resync) else {
            subscriptions.counters.stray_responses += 1;
            return Ok(());
        };
        let (reason, resumes_at) = read_resync(resync, response.position)?;
        let from = subscriptions[id].cursor.last();
        if from.is_none() && subscriptions[id].snapshot.is_wanted() {
            // Nothing was received yet that could be lost.
            return Ok(());
        }
        let lost_from = required(from, "a resynced subscription", "position")?;
        if resumes_at.epoch == lost_from.epoch && resumes_at.offset < lost_from.offset {
            return Err(Violation::ResyncBackwards {
                from: lost_from,
                to: resumes_at,
            });
        }
        let resync = Resync {
            reason,
            lost_from,
            resumes_at,
            snapshot_follows: false,
        };
        self.resync(id, resync, subscriptions, cx);
        Ok(())
    }

    /// Takes documents of a snapshot.
    pub(super) fn on_snapshot(
        &mut self,
        message: wire::Snapshot,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        let Some(id) = subscriptions.find(&message.subscription_id) else {
            return Ok(());
        };
        let follows = required(message.follows, "a snapshot", "position")?.into();
        let (subscription, counters) = subscriptions.with_counters(id);
        match subscription.state {
            SubscribeState::Active { request, .. } if request == message.request => {}
            SubscribeState::Active { .. }
            | SubscribeState::Pending(_)
            | SubscribeState::NotSent => {
                counters.premature += 1;
                return Ok(());
            }
        }
        if message.begins && subscription.snapshot.is_wanted() {
            if let Some(window) = &mut subscription.window {
                window.begin(message.bound.as_deref(), message.number);
            }
            subscription.queue_snapshot_begin(follows, counters, cx);
            subscription.snapshot = SnapshotState::Reading(Bytes::new());
        }
        if !matches!(subscription.snapshot, SnapshotState::Reading(_)) {
            let wire_id = subscription.wire_id.clone();
            return Err(Violation::UnexpectedDocuments { wire_id });
        }
        // It may be before the position of an older snapshot.
        subscription.cursor.advance(follows);
        let mut names = LastNames::default();
        for document in message.documents {
            let event = ReceivedEvent::from(&document);
            let data = document.document_data.clone();
            let document = change_from_wire(&event, data, None, &mut names)?;
            if !subscription.credit.spend(document.weight()) {
                let wire_id = subscription.wire_id.clone();
                return Err(Violation::CreditExceeded {
                    at: follows,
                    wire_id,
                });
            }
            subscription.queue_document(document, counters, cx);
        }
        subscription.snapshot = match message.whole_at {
            Some(whole_at) => SnapshotState::Following(message.cursor, whole_at.into()),
            None => SnapshotState::Reading(message.cursor),
        };
        subscription.end_snapshot_at(follows, cx);
        self.catch_up.on_moved(id, follows);
        Ok(())
    }

    fn resync(
        &mut self,
        id: SubscriptionId,
        mut resync: Resync,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        self.advance(id, resync.resumes_at, subscriptions);
        let (subscription, counters) = subscriptions.with_counters(id);
        resync.snapshot_follows = subscription.snapshot.is_wanted();
        subscription.snapshot.on_position_lost();
        subscription.queue_resync(resync, counters, cx);
    }

    fn advance(&mut self, id: SubscriptionId, to: Position, subscriptions: &mut Subscriptions) {
        subscriptions[id].cursor.advance(to);
        self.catch_up.on_moved(id, to);
    }

    fn on_refused(
        &mut self,
        id: SubscriptionId,
        request: Request,
        response: &Response<'_>,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        let code = wire::RefusalCode::try_from(response.code)
            .map_err(|_| unknown("a refusal", "code", response.code))?;
        let relied_on = subscriptions[id].acknowledged;
        let rejects_position = match code {
            wire::RefusalCode::Invalid | wire::RefusalCode::Denied => {
                self.refuse(id, true, response.error, subscriptions, cx);
                return Ok(());
            }
            // A full server says nothing about the position.
            wire::RefusalCode::Limit => false,
            wire::RefusalCode::Unspecified | wire::RefusalCode::Unavailable => {
                relied_on && request.from.is_some()
            }
        };
        // A server that cannot read one position may refuse it for ever, and with it hold up the
        // restoration of all others. After some attempts the position is given up instead.
        if rejects_position && subscriptions.reject(id) == Rejected::GivenUp {
            send_request(id, request, subscriptions, cx);
        } else if relied_on {
            subscriptions.fail_restore(id, response.error, cx);
        } else {
            self.refuse(id, false, response.error, subscriptions, cx);
        }
        Ok(())
    }

    fn refuse(
        &mut self,
        id: SubscriptionId,
        permanent: bool,
        error: &str,
        subscriptions: &mut Subscriptions,
        cx: &mut Cx,
    ) {
        self.catch_up.remove(id);
        let awaited = subscriptions.refuse(id, permanent, error, cx);
        self.restore.on_answered(awaited, cx);
    }
}

/// The reason to refuse a server that ignored a part of the request.
const NOT_UNDERSTOOD: &str = "the server does not know snapshots, documents that leave, windows, \
    starts at the oldest event or a time, or filters on keys with dots: its version is too old";

/// One delivery, as it concerns one subscription.
struct Delivered {
    /// The number of the delivery.
    number: u64,
    /// The offset that the server sent to the subscription before it.
    previous: u64,
    at: Position,
    item: fn(Change) -> Item,
    change: Change,
}

/// Notes that the application took changes, and grants new credit for them.
pub(super) fn on_taken(
    id: SubscriptionId,
    through: u64,
    subscriptions: &mut Subscriptions,
    cx: &mut Cx,
) {
    let (subscription, counters) = subscriptions.with_counters(id);
    subscription.on_taken(through, counters, cx);
    grant_credit(id, subscriptions, cx);
}

/// Grants the free capacity of a subscription's queue, if it is worth a message.
fn grant_credit(id: SubscriptionId, subscriptions: &mut Subscriptions, cx: &mut Cx) {
    // The share of now: it has shrunk if subscriptions were added since the last grant.
    let share = subscriptions.limits.share(subscriptions.len());
    let subscription = &mut subscriptions[id];
    let queued = subscription.queued.load();
    if let Some(total) = subscription.credit.grant(share, queued) {
        let credit = wire::Credit {
            subscription_id: subscription.wire_id.clone(),
            messages: total.messages,
            bytes: total.bytes,
            ..wire::Credit::default()
        };
        send(cx, Payload::Credit(credit));
    }
}

/// Tells the peer the place up to which the application keeps documents of a window.
pub(super) fn narrow(id: SubscriptionId, subscriptions: &mut Subscriptions, cx: &mut Cx) {
    let subscription = &subscriptions[id];
    // Otherwise the next request contains it.
    if subscription.state != SubscribeState::NotSent
        && let Some((bound, snapshot)) = subscription.window.as_ref().and_then(WindowState::bound)
    {
        let granted = subscription.credit.granted;
        let credit = wire::Credit {
            subscription_id: subscription.wire_id.clone(),
            messages: granted.messages,
            bytes: granted.bytes,
            bound: Some(Box::new(bound.to_wire())),
            snapshot,
        };
        send(cx, Payload::Credit(credit));
    }
}

/// Requests a snapshot for a window of which too little is left.
pub(super) fn refill(id: SubscriptionId, subscriptions: &mut Subscriptions, cx: &mut Cx) {
    match subscriptions[id].state {
        // The request of the next stream asks for it.
        SubscribeState::NotSent => {}
        SubscribeState::Pending(Request { spelling, .. })
        | SubscribeState::Active { spelling, .. } => {
            send_request(id, Request::first(spelling), subscriptions, cx);
        }
    }
}

/// Requests a subscription that this stream has not requested.
pub(super) fn subscribe(id: SubscriptionId, subscriptions: &mut Subscriptions, cx: &mut Cx) {
    let request = Request::first(subscriptions.spelling);
    send_request(id, request, subscriptions, cx);
}

/// Sends a request to resume from the cursor, with the credit for what the queue has room for.
fn send_request(
    id: SubscriptionId,
    request: Request,
    subscriptions: &mut Subscriptions,
    cx: &mut Cx,
) {
    let number = subscriptions.next_request();
    let share = subscriptions.limits.share(subscriptions.len());
    let subscription = &mut subscriptions[id];
    // A snapshot continues by its cursor.
    let from = subscription.cursor.last();
    let from = from.filter(|_| !subscription.snapshot.needs_documents());
    subscription.credit = Credit::new(share, subscription.queued.load());
    if let Some(window) = &mut subscription.window {
        window.on_request();
    }
    subscription.state = SubscribeState::Pending(Request {
        number,
        from,
        ..request
    });
    let variable = Variable {
        resume: from,
        credit: subscription.credit.granted,
        request: number,
    };
    let message = subscription.request_message(request.spelling, variable);
    send(cx, message);
}

/// Reads why the requested position cannot be resumed, and where deliveries continue instead.
fn read_resync(
    resync: &wire::Resync,
    accepted: Option<wire::Position>,
) -> Result<(ResyncReason, Position), Violation> {
    let resumes_at = required(resync.resumes_at, "a resync", "position to resume at")?;
    // Two positions in one response: whichever is taken, changes could be lost without a trace.
    if accepted.is_some_and(|accepted| accepted != resumes_at) {
        return Err(Violation::ResyncMismatch);
    }
    let reason = wire::ResyncReason::try_from(resync.reason)
        .map_err(|_| unknown("a resync", "reason", resync.reason))?;
    Ok((reason.into(), resumes_at.into()))
}
