//! One wanted subscription: its definition, its cursor, its queue and its state on the stream.

use bytes::Bytes;
use prost::Message as _;
use steadfast_wire::streamer::{self as wire, subscribe_request};

use super::{
    Change, ClientMessage, Counters, Cx, Event, Gap, GapReason, Item, Resync, Snapshot, Start,
    SubscribeOptions, SubscriptionId, backlog::QueuedChanges, credit::Credit, cursor::Cursor,
    load::Load, message::Variable, received::Response, snapshot::SnapshotState,
    window::WindowState,
};
use crate::{
    Position,
    filter::{Filter, Spelling},
};

/// A subscription that the application wants. It outlives streams, except for its `state` and
/// `credit`.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    /// The id on the wire. With a plain peer it may have to change.
    pub(super) wire_id: String,
    /// The times that the id on the wire was changed.
    pub(super) renames: u32,
    database: String,
    collection: String,
    pub(super) filter: Filter,
    /// The encoded part of the subscribe request that stays the same, and its operator spelling.
    encoded: Option<(Spelling, Bytes)>,
    pub(super) cursor: Cursor,
    /// Where the server is to begin. `None` once it did, or if it is to begin now or at the cursor.
    start: Option<subscribe_request::Start>,
    /// The changes by which a document may have left the filter are wanted.
    left: bool,
    pub(super) snapshot: SnapshotState,
    pub(super) window: Option<WindowState>,
    /// The fingerprint of what the client may see, as the server told it last.
    pub(super) rights: Option<u64>,
    /// Some server acknowledged it or delivered to it, so the application relies on it.
    pub(super) acknowledged: bool,
    /// The gap to report before the next delivery or with the next acknowledgement.
    pending_gap: Option<GapReason>,
    overflow: Option<Overflow>,
    pub(super) queued: QueuedChanges,
    pub(super) credit: Credit,
    /// The newest delivery that named it; some peers name an id twice in one delivery.
    last_delivery: u64,
    pub(super) state: SubscribeState,
    /// The restoration of the current stream waits for it.
    pub(super) awaited: bool,
}

/// The state of a subscription on the current stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubscribeState {
    /// No request was sent.
    NotSent,
    /// The newest request is not answered.
    Pending(Request),
    /// The server accepted it.
    Active {
        /// The number of the accepted request.
        request: u64,
        /// The spelling in which it was accepted.
        spelling: Spelling,
        /// The request was repeated to find out whether the server still has the subscription.
        probed: bool,
    },
}

/// A subscribe request that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) number: u64,
    /// The position to resume from.
    pub(super) from: Option<Position>,
    pub(super) spelling: Spelling,
    /// The peer refused the other spelling on this stream.
    pub(super) respelled: bool,
    pub(super) claim: IdClaim,
}

/// The last measure against "subscription ID already exists" from a plain peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdClaim {
    /// None was needed.
    Original,
    /// The id was unsubscribed and subscribed again.
    Reclaimed,
    /// The subscription got another id on the wire.
    Renamed,
}

/// Changes of a subscription are being dropped.
#[derive(Clone, Copy, Debug)]
struct Overflow {
    dropped: u64,
    /// The load at which changes are queued again. Half of what was left, so that an application
    /// that stays slow sees one gap and not one for each change it takes.
    resume_at: Load,
}

impl Request {
    /// A request that no peer has refused.
    pub(super) fn first(spelling: Spelling) -> Self {
        Self {
            number: 0,
            from: None,
            spelling,
            respelled: false,
            claim: IdClaim::Original,
        }
    }
}

impl Subscription {
    pub(super) fn new(
        id: SubscriptionId,
        wire_id: String,
        database: String,
        collection: String,
        filter: Filter,
        (start, options): (Start, SubscribeOptions),
    ) -> Self {
        let (from, start) = match start {
            Start::Now => (None, None),
            Start::After(position) => (Some(position), None),
            Start::Oldest => (None, Some(subscribe_request::Start::StartOffset(0))),
            Start::AtTime(ms) => (None, Some(subscribe_request::Start::StartTimeMs(ms))),
        };
        Self {
            id,
            wire_id,
            renames: 0,
            database,
            collection,
            filter,
            encoded: None,
            cursor: Cursor::new(from),
            start,
            left: options.left,
            snapshot: SnapshotState::new(options.snapshot, from),
            window: options.window.map(WindowState::new),
            rights: None,
            acknowledged: false,
            pending_gap: None,
            overflow: None,
            queued: QueuedChanges::default(),
            credit: Credit::default(),
            last_delivery: 0,
            state: SubscribeState::NotSent,
            awaited: false,
        }
    }

    /// Changes the id on the wire.
    pub(super) fn rename(&mut self, wire_id: String) {
        // It contains the old id.
        self.encoded = None;
        self.wire_id = wire_id;
        self.renames += 1;
    }

    /// Returns a subscribe request.
    pub(super) fn request_message(
        &mut self,
        spelling: Spelling,
        variable: Variable,
    ) -> ClientMessage {
        let fixed = match self.encoded.take() {
            // Taken out and put back, because `encode` borrows all of the subscription.
            Some((kept, fixed)) if kept == spelling => fixed,
            Some(_) | None => self.encode(spelling),
        };
        self.encoded = Some((spelling, fixed.clone()));
        ClientMessage::subscribe(self.with_snapshot(fixed), variable)
    }

    /// Appends the request for a snapshot, if one is wanted, to an encoded request.
    fn with_snapshot(&self, fixed: Bytes) -> Bytes {
        let Some(cursor) = self.snapshot.request() else {
            return fixed;
        };
        let request = wire::SubscribeRequest {
            snapshot: Some(wire::SnapshotRequest { cursor }),
            window: self.window.as_ref().map(WindowState::to_wire).map(Box::new),
            rights: self.rights,
            ..wire::SubscribeRequest::default()
        };
        // Protobuf merges the fields of two messages that follow one another.
        [&*fixed, &*request.encode_to_vec()].concat().into()
    }

    /// Returns whether the subscription needs a server with the resume profile.
    pub(super) fn needs_profile(&self) -> bool {
        self.left
            || self.snapshot.is_wanted()
            || self.start.is_some()
            || self.filter.needs_profile()
    }

    /// Returns whether a server has understood everything that was asked for.
    pub(super) fn is_understood(&self, response: &Response<'_>) -> bool {
        (response.left || !self.left)
            && (response.snapshot || !self.snapshot.is_wanted())
            && (response.window || self.window.is_none())
            && (response.start || self.start.is_none())
            && (response.filters || !self.filter.needs_profile())
    }

    /// Notes what the client may see now. Documents from other rights are not continued: the server sends
    /// them anew.
    pub(super) fn on_rights(&mut self, rights: u64) {
        if self
            .rights
            .replace(rights)
            .is_some_and(|known| known != rights)
        {
            self.snapshot.on_position_lost();
        }
    }

    /// Notes that a server began where it was to. Later requests continue by position, and one that has
    /// none begins from now: the same start would repeat changes, or skip some.
    pub(super) fn on_started(&mut self) {
        if self.start.take().is_some() {
            // It contains the start.
            self.encoded = None;
        }
    }

    fn encode(&self, spelling: Spelling) -> Bytes {
        let request = wire::SubscribeRequest {
            subscription_id: self.wire_id.clone(),
            collection: self.collection.clone(),
            filters: self.filter.to_wire(spelling),
            database: self.database.clone(),
            left: self.left,
            start: self.start,
            ..wire::SubscribeRequest::default()
        };
        request.encode_to_vec().into()
    }

    /// Notes that a delivery named this subscription. Returns `false` if it did so before.
    pub(super) fn is_first_mention(&mut self, delivery: u64) -> bool {
        std::mem::replace(&mut self.last_delivery, delivery) != delivery
    }

    /// Queues a change for the application, as an item of some kind.
    pub(super) fn queue_change(
        &mut self,
        item: fn(Change) -> Item,
        mut change: Change,
        counters: &mut Counters,
        cx: &mut Cx,
    ) {
        // Counted here, for both kinds of peer, so that the sum agrees with what applications
        // receive.
        counters.delivered += 1;
        self.queued.push(change.weight());
        if self.snapshot.is_open() {
            // Whoever continued from it later would miss documents.
            change.position = None;
        }
        self.emit(item(change), cx);
    }

    /// Queues the beginning of a snapshot, whose documents changes after `follows` make whole.
    pub(super) fn queue_snapshot_begin(
        &mut self,
        follows: Position,
        counters: &mut Counters,
        cx: &mut Cx,
    ) {
        counters.snapshots += 1;
        self.emit(Item::Snapshot(Snapshot::Begin { follows }), cx);
        if let Some(window) = &self.window {
            self.emit(Item::Snapshot(window.item()), cx);
        }
    }

    /// Queues a document of a snapshot.
    pub(super) fn queue_document(&mut self, change: Change, counters: &mut Counters, cx: &mut Cx) {
        counters.snapshot_documents += 1;
        self.queued.push(change.weight());
        self.emit(Item::Snapshot(Snapshot::Document(change)), cx);
    }

    /// Ends the snapshot before a change that is beyond it.
    pub(super) fn end_snapshot_before(&mut self, offset: u64, cx: &mut Cx) {
        if let Some(at) = self.snapshot.ends_before(offset) {
            self.end_snapshot_at(at, cx);
        }
    }

    /// Ends the snapshot if it is whole at a position.
    pub(super) fn end_snapshot_at(&mut self, at: Position, cx: &mut Cx) {
        if self.snapshot.end_at(at.offset) {
            self.emit(Item::Snapshot(Snapshot::End(at)), cx);
        }
    }

    /// Queues a resync.
    pub(super) fn queue_resync(&mut self, resync: Resync, counters: &mut Counters, cx: &mut Cx) {
        counters.resyncs += 1;
        self.emit(Item::Resync(resync), cx);
    }

    fn queue_gap(&mut self, reason: GapReason, counters: &mut Counters, cx: &mut Cx) {
        *match reason {
            GapReason::Disconnected => &mut counters.gaps_disconnected,
            GapReason::Overflow { .. } => &mut counters.gaps_overflow,
            GapReason::Evicted => &mut counters.gaps_evicted,
            GapReason::LeftProfile => &mut counters.gaps_left_profile,
            GapReason::TooLarge => &mut counters.gaps_too_large,
        } += 1;
        self.emit(Item::Gap(Gap { reason }), cx);
    }

    fn emit(&self, item: Item, cx: &mut Cx) {
        cx.emit(Event::Item { id: self.id, item });
    }

    /// Schedules a gap for later. One per outage: a gap that is already pending stays.
    pub(super) fn set_pending_gap(&mut self, reason: GapReason) {
        self.pending_gap.get_or_insert(reason);
    }

    /// Reports the pending gap, if any.
    pub(super) fn report_gap(&mut self, counters: &mut Counters, cx: &mut Cx) {
        if let Some(reason) = self.pending_gap.take() {
            // The overflow happened before the outage, so its gap stands before the other.
            self.report_overflow(counters, cx);
            self.queue_gap(reason, counters, cx);
        }
    }

    fn report_overflow(&mut self, counters: &mut Counters, cx: &mut Cx) {
        if let Some(Overflow { dropped, .. }) = self.overflow.take() {
            self.queue_gap(GapReason::Overflow { dropped }, counters, cx);
        }
    }

    /// Returns whether changes are being dropped until the application has taken more.
    pub(super) fn is_overflowing(&self) -> bool {
        self.overflow.is_some()
    }

    /// Drops a change that was just received.
    pub(super) fn drop_received(&mut self, counters: &mut Counters) {
        counters.overflowed += 1;
        let overflow = self.overflow.get_or_insert(Overflow {
            dropped: 0,
            resume_at: self.queued.load().half(),
        });
        overflow.dropped += 1;
    }

    /// Drops the newest queued change, to make room for another subscription.
    pub(super) fn drop_newest(&mut self, counters: &mut Counters, cx: &mut Cx) {
        let Some(from) = self.queued.discard_newest() else {
            return;
        };
        cx.emit(Event::Discard { id: self.id, from });
        counters.overflowed += 1;
        let dropped = self.overflow.map_or(0, |overflow| overflow.dropped) + 1;
        // What is discarded here is no progress of the application: only taking ends an overflow.
        let resume_at = self.queued.load().half();
        self.overflow = Some(Overflow { dropped, resume_at });
        // Nothing is left for the application to take, and only taking would report it.
        if self.queued.load() == Load::default() {
            self.report_overflow(counters, cx);
        }
    }

    /// Notes that the application took the changes up to a number.
    pub(super) fn on_taken(&mut self, through: u64, counters: &mut Counters, cx: &mut Cx) {
        self.queued.take_through(through);
        if let Some(overflow) = self.overflow
            && self.queued.load().is_within(overflow.resume_at)
        {
            self.report_overflow(counters, cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Direction, Window,
        filter::tests::{message_on_keys, parse, text},
    };

    #[test]
    fn each_wish_needs_the_profile_and_its_own_answer() {
        let bits = |set: u32| [1, 2, 4, 8, 16].map(|bit| set & bit > 0);
        for wishes in 0..32 {
            let [left, snapshot, window, start, filters] = bits(wishes);
            let filter = if filters {
                parse(&[message_on_keys(&["a.b"], "==", text("x"))]).expect("a filter")
            } else {
                Filter::all()
            };
            let options = SubscribeOptions {
                snapshot,
                left,
                window: window.then(|| Window::new("n", Direction::Ascending, 3)),
            };
            let start = if start { Start::Oldest } else { Start::Now };
            let (id, name) = (SubscriptionId(1), String::new);
            let wanted = Subscription::new(id, name(), name(), name(), filter, (start, options));
            // Applications ask for a window with the other two.
            let needs = bits(wishes & !4).contains(&true);
            assert_eq!(wanted.needs_profile(), needs, "{wishes:b}");
            for answers in 0..32 {
                let [left, snapshot, window, start, filters] = bits(answers);
                let response = Response {
                    snapshot,
                    left,
                    window,
                    start,
                    filters,
                    ..Response::default()
                };
                let understood = wishes & !answers == 0;
                assert_eq!(
                    wanted.is_understood(&response),
                    understood,
                    "{wishes:b} {answers:b}"
                );
            }
        }
    }
}
