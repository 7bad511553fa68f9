//! Deliveries and progress.

use std::collections::BTreeSet;

use steadfast_wire::streamer as wire;

use super::{
    Change, Core, Cx, Malformed, Notice, position,
    positions::{Struck, Verdict},
    subscription::{Claim, Question, Standing},
};

impl Core {
    /// A plain peer delivered. It may do so before it answers the request.
    pub(super) fn on_plain_delivery(
        &mut self,
        delivery: wire::EventDelivery,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        let event = delivery.event.ok_or("a delivery has no event")?;
        let change = Change::read(event, None)?;
        let room = self.config.limits.room(self.subscriptions.len());
        self.deliveries += 1;
        for wire_id in &delivery.subscription_ids {
            let Some(id) = self.known(wire_id) else {
                continue;
            };
            let (delivery, counters) = (self.deliveries, &mut self.counters);
            let Some(subscription) = self.subscriptions.get_mut(&id) else {
                continue;
            };
            if subscription.named_by == delivery {
                counters.repeated_ids += 1;
            } else if subscription.standing == Standing::Unasked {
                counters.premature += 1;
            } else {
                subscription.named_by = delivery;
                // The peer has it, whenever it says so: what follows is relied on to follow.
                subscription.acknowledged = true;
                subscription.settle_gap(counters, cx);
                if subscription.dropped > 0 || !subscription.queued.has_room(room) {
                    subscription.dropped += 1;
                    counters.overflowed += 1;
                } else {
                    subscription.queue_change(change.clone(), counters, cx);
                }
            }
        }
        Ok(())
    }

    /// A profile peer delivered.
    pub(super) fn on_profile_delivery(
        &mut self,
        delivery: wire::EventDelivery,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        let at = position(delivery.position.ok_or("a delivery has no position")?);
        let ids = &delivery.subscription_ids;
        if ids.len() != delivery.previous.len() {
            return Err(format!(
                "the delivery at {at} has {} subscriptions and {} previous positions",
                ids.len(),
                delivery.previous.len()
            ));
        }
        let event = delivery
            .event
            .ok_or_else(|| format!("the delivery at {at} has no event"))?;
        let change = Change::read(event, Some(at))?;
        self.deliveries += 1;
        for (wire_id, previous) in ids.iter().zip(delivery.previous) {
            if previous >= at.offset {
                return Err(format!(
                    "the delivery at {at} says that {previous} was sent before it"
                ));
            }
            self.on_profile_delivery_for(wire_id, previous, &change, cx)?;
        }
        Ok(())
    }

    fn on_profile_delivery_for(
        &mut self,
        wire_id: &str,
        previous: u64,
        change: &Change,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        let Some(id) = self.known(wire_id) else {
            return Ok(());
        };
        let (delivery, counters) = (self.deliveries, &mut self.counters);
        let (Some(subscription), Some(at)) = (self.subscriptions.get_mut(&id), change.position)
        else {
            return Ok(());
        };
        let spelling = match &subscription.standing {
            Standing::Active { spelling, .. } => *spelling,
            // It follows an older request; the answer to the newer one says where it continues.
            Standing::Asked(_) | Standing::Unasked => {
                counters.premature += 1;
                return Ok(());
            }
        };
        if subscription.named_by == delivery {
            counters.repeated_ids += 1;
            return Ok(());
        }
        subscription.named_by = delivery;
        if !subscription.credit.spend(change.weight()) {
            return Err(format!(
                "the delivery at {at} to {wire_id} is beyond its credit"
            ));
        }
        match subscription.place.judge(previous, at) {
            Verdict::Accept => {
                subscription.place.settle(at);
                subscription.queue_change(change.clone(), counters, cx);
                self.follow(id, at);
            }
            Verdict::Duplicate => counters.duplicates += 1,
            Verdict::OtherEpoch => {
                return Err(format!(
                    "the delivery at {at} to {wire_id}, which follows another log"
                ));
            }
            Verdict::Hole => {
                counters.holes += 1;
                match self.strike(id) {
                    // Either way it is asked for anew: from the same place, or from now.
                    Struck::Kept | Struck::GivenUp => {}
                }
                let question = Question {
                    request: 0,
                    from: None,
                    spelling,
                    respelled: false,
                    claim: Claim::Plain,
                };
                self.ask_again(id, question, cx);
            }
        }
        Ok(())
    }

    /// A profile peer said how far it has looked.
    pub(super) fn on_progress(
        &mut self,
        progress: &wire::Progress,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        let at = position(progress.position.ok_or("progress has no position")?);
        let behind: BTreeSet<_> = progress
            .behind
            .iter()
            .filter_map(|wire_id| self.wire_ids.get(wire_id))
            .collect();
        let mut moved = Vec::new();
        for (id, subscription) in &mut self.subscriptions {
            let Some(last) = subscription.place.last() else {
                continue;
            };
            if !matches!(subscription.standing, Standing::Active { .. }) || behind.contains(id) {
                continue;
            }
            if last.epoch != at.epoch {
                return Err(format!(
                    "progress to {at} for {}, which is at {last}",
                    subscription.wire_id
                ));
            }
            if at.offset > last.offset {
                subscription.place.settle(at);
                cx.emit(Notice::Marker {
                    id: *id,
                    position: at,
                });
                moved.push(*id);
            }
        }
        for id in moved {
            self.follow(id, at);
        }
        Ok(())
    }
}
