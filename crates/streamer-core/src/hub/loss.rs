//! The announcement to every subscription that changes are missing which the log never had.
//!
//! Each subscription gets a message, so that this is done in slices, as matching is. Until all have theirs,
//! nothing is matched and no documents are sent: a subscription that received a later event first would
//! have a position that does not show the loss. This does not cover events that were matched before the
//! hub learned of the loss: whoever received one, and resumes from it later, does not learn of the loss.

use std::collections::VecDeque;

use steadfast_wire::streamer::ResyncReason;

use super::{EndCause, Hub, StreamId, resync, stream::Stream};
use crate::matcher::SubscriptionKey;

/// The subscriptions that are still to be told.
#[derive(Debug)]
pub(super) struct PendingLoss {
    /// The offset up to which nothing is missing.
    after: u64,
    /// The streams whose subscriptions are not all told.
    streams: VecDeque<StreamId>,
    /// The first subscription of the first stream that is not told.
    next: SubscriptionKey,
    /// The first subscription that was made after the loss, and learns it from its position.
    end: SubscriptionKey,
}

impl Hub {
    /// Begins to tell every subscription of a loss. Nobody meets it by reading, so that those who come
    /// later learn it from their position.
    pub(super) fn on_lost(&mut self, before: u64) {
        self.cx.log.mark_damaged(before);
        let after = before.saturating_sub(1);
        // An older loss that was not told to all is part of this one.
        let older = self.loss.as_ref().map_or(after, |older| older.after);
        let loss = PendingLoss {
            after: after.min(older),
            streams: self.streams.ids().into(),
            next: SubscriptionKey(0),
            end: self.subscriptions.next_key(),
        };
        // Progress to a later position would hide the loss from whoever resumes there.
        self.matching.hold_after(Some(loss.after));
        self.loss = Some(loss);
        self.announce_loss();
    }

    /// Tells the loss to as many subscriptions as fit into one slice.
    pub(super) fn announce_loss(&mut self) {
        let mut budget = self.cx.limits.slice;
        self.cx.counters.slices += 1;
        // Terminates: each turn uses budget.
        while budget > 0
            && let Some(loss) = &mut self.loss
        {
            let Some(id) = loss.streams.front().copied() else {
                self.loss = None;
                self.matching.hold_after(None);
                return;
            };
            let max = budget.div_ceil(ANNOUNCE_COST) as usize;
            let keys = loss.take(self.streams.get(id), max);
            let cost = (ANNOUNCE_COST * keys.len() as u64).clamp(1, budget);
            budget -= cost;
            self.cx.counters.match_cost += cost;
            self.announce_to(id, keys);
        }
    }

    fn announce_to(&mut self, id: StreamId, keys: Vec<SubscriptionKey>) {
        match self.streams.get_mut(id) {
            Some(stream) if stream.is_profile() && !keys.is_empty() => {
                let reason = ResyncReason::Damaged;
                resync(stream, keys, reason, &mut self.subscriptions, &mut self.cx);
                self.after_input(id);
            }
            Some(_) if !keys.is_empty() => {
                // A plain peer has no message for lost events, and silence would hide the loss.
                let what = "the source of the log no longer had them";
                self.end(id, &EndCause::EventsLost(what.to_owned()));
            }
            Some(_) | None => {}
        }
    }
}

impl PendingLoss {
    /// Takes up to `max` subscriptions of the first stream, which is removed if there are no more.
    fn take(&mut self, stream: Option<&Stream>, max: usize) -> Vec<SubscriptionKey> {
        let from = stream.map(|stream| stream.subscriptions_from(self.next));
        let mut left = from.into_iter().flatten().take_while(|key| *key < self.end);
        let taken = left.by_ref().take(max).collect();
        if let Some(next) = left.next() {
            self.next = next;
        } else {
            self.streams.pop_front();
            self.next = SubscriptionKey(0);
        }
        taken
    }
}

/// The cost of telling one subscription, in candidates: a message is made and encoded.
const ANNOUNCE_COST: u64 = 4;
