//! From a committed change to the deliveries it means.

use std::{collections::VecDeque, sync::Arc};

use prost::Message as _;
use steadfast_wire::streamer::{
    self as wire, EventDelivery, OperationType, StreamerEvent, streamer_message::Payload,
};

use super::{Action, Hub, StreamId};
use crate::{Epoch, Event, Operation, Position, matcher::SubscriptionKey};

/// The newest changes, kept in memory, without holes and up to the head.
#[derive(Debug)]
pub(super) struct Tail {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl Tail {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            max_events,
            max_bytes,
        }
    }

    /// The changes after a place, `None` if the first of them is no longer here.
    pub(super) fn after(&self, place: u64) -> Option<Vec<Arc<Event>>> {
        let first = self.events.front()?.offset;
        let skipped = usize::try_from((place + 1).checked_sub(first)?).ok()?;
        Some(self.events.iter().skip(skipped).cloned().collect())
    }

    fn push(&mut self, event: &Arc<Event>) {
        self.events.push_back(Arc::clone(event));
        self.bytes += event.weight();
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.weight();
        }
    }

    fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
    }
}

impl Hub {
    pub(super) fn on_committed(&mut self, events: Vec<Arc<Event>>, out: &mut Vec<Action>) {
        for event in events {
            let head = self.bounds.head;
            if event.offset <= head {
                continue;
            }
            if event.offset > head + 1 {
                self.miss_upto(event.offset - 1);
            }
            self.bounds.head = event.offset;
            self.tail.push(&event);
            self.counters.events += 1;
            self.fan_out(&event, out);
        }
    }

    /// Changes were committed that the hub was not told of: all subscriptions read them from the log.
    fn miss_upto(&mut self, head: u64) {
        let old = std::mem::replace(&mut self.bounds.head, head);
        self.tail.clear();
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            if let Some(stream) = self.streams.get_mut(&id) {
                for key in stream.ids.values() {
                    if let Some(subscription) = self.subscriptions.get_mut(key)
                        && !stream.backlog.contains(*key)
                    {
                        self.counters.fell_behind += 1;
                        subscription.fall_behind(&stream.progress);
                        let ready = subscription.credit.is_open();
                        stream.backlog.insert(*key, old, ready);
                    }
                }
            }
            self.want_read(id);
        }
    }

    fn fan_out(&mut self, event: &Arc<Event>, out: &mut Vec<Action>) {
        let mut keys = std::mem::take(&mut self.matched);
        let mut grouped = std::mem::take(&mut self.grouped);
        keys.clear();
        // Filters that can not look into an event do not hold for it; the log takes none of that kind.
        let looked = self.matcher.matches(event, &mut keys);
        self.counters.unreadable += u64::from(looked.is_err());
        self.group(&keys, &mut grouped);
        if !grouped.is_empty() {
            let wire = wire_event(self.epoch, event);
            for group in grouped.chunk_by(|one, other| one.0 == other.0) {
                let id = group[0].0;
                keys.clear();
                if let Some(stream) = self.streams.get(&id) {
                    let live = group.iter().map(|(_, key)| *key);
                    keys.extend(live.filter(|key| !stream.backlog.contains(*key)));
                }
                self.deliver(id, event, &wire, &mut keys, out);
                self.arm(id);
            }
        }
        self.matched = keys;
        self.grouped = grouped;
    }

    /// Sorts matches by stream. Within a stream their order stays.
    pub(super) fn group(
        &self,
        keys: &[SubscriptionKey],
        grouped: &mut Vec<(StreamId, SubscriptionKey)>,
    ) {
        let stream_of = |key| Some((self.subscriptions.get(key)?.stream, *key));
        grouped.clear();
        grouped.extend(keys.iter().filter_map(stream_of));
        grouped.sort_by_key(|(stream, _)| *stream);
    }

    /// Sends a change to those of a stream's subscriptions that can take it, as one message if their
    /// ids fit into one. The others are behind it from now on. Tells to how many it went: to the
    /// first ones of `keys`, which keeps only those that have credit.
    pub(super) fn deliver(
        &mut self,
        id: StreamId,
        event: &Event,
        wire: &StreamerEvent,
        keys: &mut Vec<SubscriptionKey>,
        out: &mut Vec<Action>,
    ) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        keys.retain(|key| {
            let Some(subscription) = self.subscriptions.get_mut(key) else {
                return false;
            };
            let has_credit = subscription.credit.is_open();
            if !has_credit {
                self.counters.fell_behind += 1;
                subscription.fall_behind(&stream.progress);
                stream.backlog.insert(*key, event.offset - 1, false);
            }
            has_credit
        });
        let around = wire.encoded_len() + ENVELOPE_BYTES;
        let ids_max = self.limits.delivery_bytes.saturating_sub(around);
        let mut sent = 0;
        while sent < keys.len() && !self.is_full(id) {
            sent += self.deliver_some(id, event, wire, (&keys[sent..], ids_max), out);
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            for key in &keys[sent..] {
                if let Some(subscription) = self.subscriptions.get_mut(key) {
                    self.counters.fell_behind += 1;
                    subscription.fall_behind(&stream.progress);
                    stream.backlog.insert(*key, event.offset - 1, true);
                }
            }
        }
        sent
    }

    /// One message for as many of the subscriptions as fit, at least one. Tells how many.
    fn deliver_some(
        &mut self,
        id: StreamId,
        event: &Event,
        wire: &StreamerEvent,
        (keys, ids_max): (&[SubscriptionKey], usize),
        out: &mut Vec<Action>,
    ) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else {
            return keys.len();
        };
        let is_profile = stream.peer.is_profile();
        let mut delivery = EventDelivery {
            subscription_ids: Vec::with_capacity(keys.len()),
            event: Some(wire.clone()),
            position: is_profile.then(|| to_wire(Position::new(self.epoch, event.offset))),
            previous: Vec::new(),
        };
        let (mut bytes, mut taken) = (0, 0);
        for key in keys {
            let Some(subscription) = self.subscriptions.get_mut(key) else {
                taken += 1;
                continue;
            };
            bytes += subscription.id.len() + PER_ID_BYTES;
            if bytes > ids_max && !delivery.subscription_ids.is_empty() {
                break;
            }
            taken += 1;
            delivery.subscription_ids.push(subscription.id.to_string());
            if is_profile {
                delivery
                    .previous
                    .push(subscription.previous(&stream.progress));
            }
            subscription.told(event.offset);
            subscription.credit.charge(event.weight());
        }
        self.counters.deliveries += 1;
        self.counters.delivered_ids += delivery.subscription_ids.len() as u64;
        let delivery = Payload::Delivery(delivery);
        stream.send(self.now, id, delivery, &self.limits, out);
        taken
    }

    /// Whether nothing can be delivered on a stream for now.
    pub(super) fn is_full(&self, id: StreamId) -> bool {
        let stream = self.streams.get(&id);
        stream.is_none_or(|stream| stream.outbox.is_full())
    }

    pub(super) fn wire_position(&self, offset: u64) -> wire::Position {
        to_wire(Position::new(self.epoch, offset))
    }
}

/// More than a delivery has besides its event and what there is per id: tags, lengths, the position.
const ENVELOPE_BYTES: usize = 64;
/// What an id costs besides its text: a tag, at most two bytes of length, and at most ten of the
/// place before it.
const PER_ID_BYTES: usize = 13;

fn to_wire(position: Position) -> wire::Position {
    wire::Position {
        epoch: position.epoch.0,
        offset: position.offset,
    }
}

/// The change as peers read it. Its id is its place in the log as text.
pub(super) fn wire_event(epoch: Epoch, event: &Event) -> StreamerEvent {
    let operation = match event.operation {
        Operation::Insert => OperationType::Insert,
        Operation::Update => OperationType::Update,
        Operation::Delete => OperationType::Delete,
    };
    StreamerEvent {
        event_id: Position::new(epoch, event.offset).to_string(),
        database: event.database.to_string(),
        collection: event.collection.to_string(),
        document_id: event.document_id.to_string(),
        operation: operation.into(),
        document_data: event.data.clone(),
        timestamp: event.timestamp,
    }
}
