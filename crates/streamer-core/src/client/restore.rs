//! Asking for subscriptions, and what is made of the answers.
//!
//! The wanted set is restored, not a queue of old requests: each subscription that is wanted when a
//! stream has greeted is asked for once, all of them at once, in the order of their ids.

use std::collections::BTreeSet;

use steadfast_session::{End, Initiator, Reason, Signal};
use steadfast_wire::streamer::{self as wire, gateway_message::Payload};

use super::{
    Core, Cx, GapReason, Malformed, Notice, Peer, Refusal, Resync, ResyncReason, SubscriptionId,
    credit::Account,
    position,
    positions::Struck,
    subscription::{Claim, Question, Standing},
};
use crate::Position;

impl Core {
    /// Asks for everything wanted. The stream is restored when all of it is answered.
    pub(super) fn restore(&mut self, cx: &mut Cx) {
        let wanted: Vec<_> = self.subscriptions.keys().copied().collect();
        self.restoring = Some(wanted.iter().copied().collect());
        for id in wanted {
            self.ask(id, cx);
        }
        self.check_restored(cx);
    }

    /// Asks for one subscription on the current stream.
    pub(super) fn ask(&mut self, id: SubscriptionId, cx: &mut Cx) {
        let question = Question {
            request: 0,
            from: None,
            spelling: self.spelling,
            respelled: false,
            claim: Claim::Plain,
        };
        self.ask_again(id, question, cx);
    }

    /// Asks with a new request number, from where the subscription is now.
    pub(super) fn ask_again(&mut self, id: SubscriptionId, question: Question, cx: &mut Cx) {
        self.requests += 1;
        let number = self.requests;
        let share = self.config.limits.share(self.subscriptions.len());
        let profile = self.peer == Peer::Profile;
        let subscription = self.subscription_mut(id);
        if !profile && subscription.place.discard() {
            subscription.owe(GapReason::LeftProfile);
        }
        let from = subscription.place.last();
        let mut request = subscription.request(question.spelling);
        if profile {
            subscription.credit = Account::open(share, subscription.queued);
            request.resume = from.map(|place| wire::Position {
                epoch: place.epoch.0,
                offset: place.offset,
            });
            request.credit_messages = subscription.credit.granted.messages;
            request.credit_bytes = subscription.credit.granted.bytes;
            request.request = number;
        }
        subscription.standing = Standing::Asked(Question {
            request: number,
            from,
            ..question
        });
        super::say(cx, super::subscribe(request));
    }

    pub(super) fn send_unsubscribe(&mut self, id: SubscriptionId, cx: &mut Cx) {
        let subscription_id = self.subscription(id).wire_id.clone();
        let request = if self.peer == Peer::Profile {
            self.requests += 1;
            self.requests
        } else {
            0
        };
        super::say(
            cx,
            super::gateway(Payload::Unsubscribe(wire::UnsubscribeRequest {
                subscription_id,
                request,
            })),
        );
    }

    /// A profile peer answered a subscribe request.
    pub(super) fn on_profile_response(
        &mut self,
        response: &wire::SubscribeResponse,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        let Some(id) = self.known(&response.subscription_id) else {
            return Ok(());
        };
        let question = match &self.subscription(id).standing {
            Standing::Asked(question) if question.request == response.request => *question,
            Standing::Active { request, .. } if *request == response.request => {
                return self.on_lost_on_the_way(id, response, cx);
            }
            Standing::Asked(_) | Standing::Active { .. } | Standing::Unasked => {
                self.counters.stray_answers += 1;
                return Ok(());
            }
        };
        if response.success {
            self.on_profile_success(id, question, response, cx)
        } else {
            self.on_profile_refusal(id, question, response, cx)
        }
    }

    fn on_profile_success(
        &mut self,
        id: SubscriptionId,
        question: Question,
        response: &wire::SubscribeResponse,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        let (place, resync) = match (question.from, &response.resync) {
            (None, Some(_)) => return Err("a resync, but no position was asked for".into()),
            (Some(lost_from), Some(resync)) => {
                let (reason, resumes_at) = read_resync(resync, response.position)?;
                (resumes_at, Some((reason, lost_from)))
            }
            (from, None) => {
                let accepted = response.position.map(position);
                let accepted = accepted.ok_or("an accepted subscription has no position")?;
                if from.is_some_and(|from| !continues(from, accepted)) {
                    // It would skip what lies between without saying so.
                    self.strike(id);
                    self.ask_again(id, question, cx);
                    return Ok(());
                }
                let lost = self.subscription_mut(id).place.take_lost();
                let resync = lost.map(|lost_from| (ResyncReason::Refused, lost_from));
                (from.unwrap_or(accepted), resync)
            }
        };
        // The resync stands before the place that the acknowledgement names: whoever stores that
        // place has seen it.
        match resync {
            Some((reason, lost_from)) => self.resync(id, reason, lost_from, place, cx),
            None => self.move_to(id, place),
        }
        self.on_acknowledged(id, question, Some(place), response.taken_over, cx);
        Ok(())
    }

    /// A second answer to a request that was accepted: the server can not deliver what it meant to.
    fn on_lost_on_the_way(
        &mut self,
        id: SubscriptionId,
        response: &wire::SubscribeResponse,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        let (true, Some(resync)) = (response.success, &response.resync) else {
            self.counters.stray_answers += 1;
            return Ok(());
        };
        let (reason, resumes_at) = read_resync(resync, response.position)?;
        let lost_from = self.subscription(id).place.last();
        let lost_from = lost_from.ok_or("a resync of a subscription that has no position")?;
        if resumes_at.epoch == lost_from.epoch && resumes_at.offset < lost_from.offset {
            return Err(format!("a resync from {lost_from} back to {resumes_at}"));
        }
        self.resync(id, reason, lost_from, resumes_at, cx);
        Ok(())
    }

    /// Tells that what lies between the two places is lost, and goes on at the second.
    fn resync(
        &mut self,
        id: SubscriptionId,
        reason: ResyncReason,
        lost_from: Position,
        resumes_at: Position,
        cx: &mut Cx,
    ) {
        self.move_to(id, resumes_at);
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            let resync = Resync {
                reason,
                lost_from,
                resumes_at,
            };
            subscription.queue_resync(resync, &mut self.counters, cx);
        }
    }

    fn move_to(&mut self, id: SubscriptionId, place: Position) {
        self.subscription_mut(id).place.settle(place);
        self.follow(id, place);
    }

    fn on_profile_refusal(
        &mut self,
        id: SubscriptionId,
        question: Question,
        response: &wire::SubscribeResponse,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        let code = wire::RefusalCode::try_from(response.code)
            .map_err(|_| format!("a refusal has the unknown code {}", response.code))?;
        match code {
            wire::RefusalCode::Invalid => self.refuse(id, true, &response.error, cx),
            // A full server says nothing about the position.
            wire::RefusalCode::Limit => self.on_temporary_refusal(id, &response.error, cx),
            wire::RefusalCode::Unspecified | wire::RefusalCode::Unavailable => {
                let relied_on = self.subscription(id).acknowledged;
                if relied_on && question.from.is_some() && self.strike(id) == Struck::GivenUp {
                    self.ask_again(id, question, cx);
                } else {
                    self.on_temporary_refusal(id, &response.error, cx);
                }
            }
        }
        Ok(())
    }

    /// The peer did not continue from where a subscription is.
    pub(super) fn strike(&mut self, id: SubscriptionId) -> Struck {
        let refusals_max = self.config.refusals_max;
        self.subscription_mut(id).place.strike(refusals_max)
    }

    pub(super) fn on_acknowledged(
        &mut self,
        id: SubscriptionId,
        question: Question,
        position: Option<Position>,
        taken_over: bool,
        cx: &mut Cx,
    ) {
        self.counters.acknowledged += 1;
        self.counters.taken_over += u64::from(taken_over);
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.acknowledged = true;
            subscription.standing = Standing::Active {
                request: question.request,
                spelling: question.spelling,
                probed: false,
            };
            subscription.settle_gap(&mut self.counters, cx);
        }
        cx.emit(Notice::Subscribed {
            id,
            position,
            taken_over,
        });
        self.on_answered(id, cx);
    }

    /// Notes whether a subscription still has to reach the head that the peer greeted with.
    pub(super) fn follow(&mut self, id: SubscriptionId, place: Position) {
        let reached = self
            .head
            .is_none_or(|head| head.epoch != place.epoch || head.offset <= place.offset);
        if reached {
            self.catching_up.remove(&id);
        } else {
            self.catching_up.insert(id);
        }
    }

    /// A refusal that may pass. Whoever has only just asked is told; what is relied on must be
    /// restored as a whole, so the stream ends and the next attempt waits its turn.
    pub(super) fn on_temporary_refusal(&mut self, id: SubscriptionId, error: &str, cx: &mut Cx) {
        if !self.subscription(id).acknowledged {
            self.refuse(id, false, error, cx);
            return;
        }
        self.counters.refused += 1;
        let text = format!("subscription {}: {error}", self.subscription(id).wire_id);
        cx.fail(End::retry(Initiator::Peer, Reason::RestoreRefused(text)));
    }

    /// A refusal that ends a subscription.
    pub(super) fn refuse(&mut self, id: SubscriptionId, permanent: bool, error: &str, cx: &mut Cx) {
        self.counters.refused += 1;
        self.forget(id);
        let message = error.to_owned();
        let refusal = Refusal { permanent, message };
        cx.emit(Notice::Refused { id, refusal });
        self.on_answered(id, cx);
    }

    /// Nothing more is to be waited for on account of this subscription.
    pub(super) fn on_answered(&mut self, id: SubscriptionId, cx: &mut Cx) {
        if let Some(unanswered) = &mut self.restoring
            && unanswered.remove(&id)
        {
            cx.signal(Signal::RestoreProgress);
            self.check_restored(cx);
        }
    }

    fn check_restored(&mut self, cx: &mut Cx) {
        if self.restoring.as_ref().is_some_and(BTreeSet::is_empty) {
            self.restoring = None;
            cx.signal(Signal::Restored);
        }
    }
}

/// Whether deliveries after `accepted` leave out nothing after `from`.
fn continues(from: Position, accepted: Position) -> bool {
    accepted.epoch == from.epoch && accepted.offset <= from.offset
}

/// Why the wanted place could not be honoured, and where deliveries follow instead.
fn read_resync(
    resync: &wire::Resync,
    accepted: Option<wire::Position>,
) -> Result<(ResyncReason, Position), Malformed> {
    let resumes_at = resync.resumes_at.ok_or("a resync does not say where to")?;
    if accepted.is_some_and(|accepted| accepted != resumes_at) {
        return Err("a resync and its response name different positions".into());
    }
    Ok((ResyncReason::read(resync.reason)?, position(resumes_at)))
}
