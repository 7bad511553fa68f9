//! One wanted subscription: what it is, where it is, and how it stands on the current stream.

use steadfast_wire::streamer as wire;

use super::{
    Change, Counters, Cx, Gap, GapReason, Item, Notice, Resync, SubscriptionId,
    credit::{Account, Load},
    positions::Place,
};
use crate::{
    Position,
    filter::{Filter, Spelling},
};

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    /// Its name on the wire; with a plain peer it may have to change.
    pub(super) wire_id: String,
    pub(super) database: String,
    pub(super) collection: String,
    pub(super) filter: Filter,
    pub(super) place: Place,
    /// Some server acknowledged it, or delivered to it, at some time, so its owner relies on it.
    pub(super) acknowledged: bool,
    /// A gap to be told before the next delivery or with the next acknowledgement.
    pub(super) owed: Option<GapReason>,
    /// Changes dropped since the queue was full; while there are any, more are dropped.
    pub(super) dropped: u64,
    /// What the application has not taken yet.
    pub(super) queued: Load,
    pub(super) credit: Account,
    /// The newest delivery that named it, since some peers name an id twice.
    pub(super) named_by: u64,
    pub(super) standing: Standing,
}

/// How a subscription stands on the current stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing was sent for it.
    Unasked,
    /// The newest request for it is not answered.
    Asked(Question),
    /// The server has it.
    Active {
        /// The request that was accepted.
        request: u64,
        /// Spelling in which it was accepted.
        spelling: Spelling,
        /// A repetition is on its way, to see whether the server still has it.
        probed: bool,
    },
}

/// A subscribe request that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) request: u64,
    /// The place asked for.
    pub(super) from: Option<Position>,
    pub(super) spelling: Spelling,
    /// The other spelling was refused on this stream.
    pub(super) respelled: bool,
    pub(super) claim: Claim,
}

/// What was done about an id that a plain peer says is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nothing yet.
    Plain,
    /// It was unsubscribed first.
    Reclaimed,
    /// It got another wire id.
    Renamed,
}

impl Subscription {
    /// A request for it, without anything of the profile.
    pub(super) fn request(&self, spelling: Spelling) -> wire::SubscribeRequest {
        wire::SubscribeRequest {
            subscription_id: self.wire_id.clone(),
            collection: self.collection.clone(),
            filters: self.filter.to_wire(spelling),
            database: self.database.clone(),
            ..wire::SubscribeRequest::default()
        }
    }

    /// Queues an item.
    pub(super) fn queue(&mut self, item: Item, counters: &mut Counters, cx: &mut Cx) {
        match &item {
            Item::Change(change) => {
                counters.delivered += 1;
                self.queued.add(change.weight());
            }
            Item::Gap(gap) => match gap.reason {
                GapReason::Disconnected => counters.gaps_disconnected += 1,
                GapReason::Overflow { .. } => counters.gaps_overflow += 1,
                GapReason::Evicted => counters.gaps_evicted += 1,
                GapReason::LeftProfile => counters.gaps_left_profile += 1,
            },
            Item::Resync(_) => counters.resyncs += 1,
        }
        cx.emit(Notice::Item { id: self.id, item });
    }

    pub(super) fn queue_change(&mut self, change: Change, counters: &mut Counters, cx: &mut Cx) {
        self.queue(Item::Change(change), counters, cx);
    }

    pub(super) fn queue_resync(&mut self, resync: Resync, counters: &mut Counters, cx: &mut Cx) {
        self.queue(Item::Resync(resync), counters, cx);
    }

    /// Remembers that a gap must be told. One per outage: what is owed already stays.
    pub(super) fn owe(&mut self, reason: GapReason) {
        self.owed.get_or_insert(reason);
    }

    /// Tells the gap that is owed, if any. An overflow before it comes first, in its place.
    pub(super) fn settle_gap(&mut self, counters: &mut Counters, cx: &mut Cx) {
        if let Some(reason) = self.owed.take() {
            self.settle_overflow(counters, cx);
            self.queue(Item::Gap(Gap { reason }), counters, cx);
        }
    }

    /// Tells how many changes were dropped, if any; the queue takes changes again.
    pub(super) fn settle_overflow(&mut self, counters: &mut Counters, cx: &mut Cx) {
        if self.dropped > 0 {
            let reason = GapReason::Overflow {
                dropped: self.dropped,
            };
            self.dropped = 0;
            self.queue(Item::Gap(Gap { reason }), counters, cx);
        }
    }
}
