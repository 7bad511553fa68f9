//! The delivery of one event to the subscriptions of one stream.

use std::cell::OnceCell;

use bytes::Bytes;
use prost::encoding::{
    WireType, bool, encode_key, encode_varint, encoded_len_varint, key_len, message, uint64,
};

use super::{
    context::{Context, Scratch},
    stream::Stream,
    subscription::{Before, Effect},
    subscriptions::Subscriptions,
};
use crate::{
    Event,
    convert::{put_bytes, put_event},
    filter::Document,
    matcher::SubscriptionKey,
};

/// An event to be delivered. It is encoded once; each stream's message is written around it.
#[derive(Debug)]
pub(super) struct OutgoingEvent<'a> {
    event: &'a Event,
    /// The field with the event, and after it the field with its position.
    encoded: Vec<u8>,
    /// The length of the field with the event.
    event_len: usize,
    /// The same without data, for subscriptions whose filter the document may have left.
    left: OnceCell<Vec<u8>>,
    /// Parsed for those subscriptions only.
    document: Document<'a>,
    before: Before<'a>,
}

impl<'a> OutgoingEvent<'a> {
    pub(super) fn new(event: &'a Event, cx: &Context) -> Self {
        let (encoded, event_len) = encode(event, cx);
        Self {
            event,
            encoded,
            event_len,
            left: OnceCell::new(),
            document: Document::of(event),
            before: Before::of(event),
        }
    }

    /// Returns the fields of a delivery that tells that the document may have left a filter.
    fn left(&self, cx: &Context) -> &[u8] {
        self.left.get_or_init(|| {
            // Whoever may not see the new state must not get it.
            let event = Event {
                data: Bytes::new(),
                ..self.event.clone()
            };
            encode(&event, cx).0
        })
    }

    /// Delivers the event to those of a stream's subscriptions that can take it. The others fall
    /// behind.
    ///
    /// Removes subscriptions without credit from `keys` and returns the number of the remaining ones,
    /// from the front, that got the event; the stream's queue is full if it is not all of them.
    pub(super) fn deliver(
        &self,
        stream: &mut Stream,
        keys: &mut Vec<SubscriptionKey>,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) -> usize {
        let max_ids_bytes = cx
            .limits
            .delivery_bytes
            // 0 for an event near the limit: it is then sent to one subscription at a time, as no
            // message can be smaller.
            .saturating_sub(self.encoded.len() + ENVELOPE_BYTES);
        let mut part = std::mem::take(&mut cx.scratch);
        let (mut sent, mut ids_bytes) = (0, 0);
        keys.retain(|key| {
            let Some(subscription) = subscriptions.get_mut(*key) else {
                return false;
            };
            if subscription.has_in_snapshot(self.event) {
                return false;
            }
            let left = match subscription.effect(&self.document, &self.before) {
                Effect::Change => false,
                Effect::Left => true,
                Effect::Nothing => return false,
            };
            if left != part.left && !part.ids.is_empty() {
                self.send(&mut part, stream, cx);
                ids_bytes = 0;
            }
            part.left = left;
            let has_credit = subscription.has_credit();
            let added = subscription.id().len() + BYTES_PER_ID;
            // Not for one without credit: it would split a message without need.
            if has_credit && !part.ids.is_empty() && ids_bytes + added > max_ids_bytes {
                self.send(&mut part, stream, cx);
                ids_bytes = 0;
            }
            // The queue can only become full between two messages.
            if !has_credit || (part.ids.is_empty() && stream.outbox.is_full()) {
                fall_behind(stream, *key, self.event.offset - 1, subscriptions, cx);
                return has_credit;
            }
            // Only now is the delivery certain: what follows counts as sent and uses credit.
            let id = subscription.id().as_bytes();
            put_bytes(tags::SUBSCRIPTION_IDS, id, &mut part.ids);
            let mut weight = self.event.weight();
            if left {
                cx.counters.left += 1;
                weight -= self.event.data.len();
            }
            let previous = subscription.on_delivery(self.event.offset, weight, &stream.progress);
            part.previous.push(previous);
            ids_bytes += added;
            sent += 1;
            true
        });
        if !part.ids.is_empty() {
            self.send(&mut part, stream, cx);
        }
        if part.ids.capacity() <= MAX_SCRATCH {
            cx.scratch = part;
        }
        sent
    }

    /// Writes a `StreamerMessage` with a delivery, and clears its parts. The position and the previous
    /// offsets are for profile peers.
    fn send(&self, part: &mut Scratch, stream: &mut Stream, cx: &mut Context) {
        // Matching may be behind for other collections: progress below this offset would go back.
        stream.progress.note_sent(self.event.offset);
        cx.counters.deliveries += 1;
        cx.counters.delivered_ids += part.previous.len() as u64;
        let is_profile = stream.is_profile();
        let event = match (part.left, is_profile) {
            (true, _) => self.left(cx),
            (false, true) => &self.encoded[..],
            (false, false) => &self.encoded[..self.event_len],
        };
        let mut profile_len = 0;
        if is_profile {
            profile_len += uint64::encoded_len_packed(tags::PREVIOUS, &part.previous);
        }
        if part.left {
            profile_len += bool::encoded_len(tags::LEFT, &true);
        }
        let delivery_len = part.ids.len() + event.len() + profile_len;
        let head_len = key_len(tags::DELIVERY) + encoded_len_varint(delivery_len as u64);
        let out = stream.enqueue(head_len + delivery_len, cx);
        let start = out.len();
        encode_key(tags::DELIVERY, WireType::LengthDelimited, out);
        encode_varint(delivery_len as u64, out);
        out.extend_from_slice(&part.ids);
        out.extend_from_slice(event);
        if is_profile {
            uint64::encode_packed(tags::PREVIOUS, &part.previous, out);
        }
        if part.left {
            bool::encode(tags::LEFT, &true, out);
        }
        debug_assert_eq!(out.len(), start + head_len + delivery_len);
        part.ids.clear();
        part.previous.clear();
    }
}

/// Returns the field with an event, followed by the field with its position, and the length of the first.
fn encode(event: &Event, cx: &Context) -> (Vec<u8>, usize) {
    let mut encoded = Vec::with_capacity(event.weight() + ENVELOPE_BYTES);
    // The term of writing, so that the event's id survives a restart; its position is of the current
    // term.
    let epoch = cx.log.written_in(event.offset);
    put_event(tags::EVENT, epoch, event, &mut encoded);
    let event_len = encoded.len();
    // In this order: a plain peer gets a prefix of the same bytes.
    message::encode(
        tags::POSITION,
        &cx.wire_position(event.offset),
        &mut encoded,
    );
    (encoded, event_len)
}

/// Makes a live subscription read from the log, from `offset` on.
pub(super) fn fall_behind(
    stream: &mut Stream,
    key: SubscriptionKey,
    offset: u64,
    subscriptions: &mut Subscriptions,
    cx: &mut Context,
) {
    if let Some(subscription) = subscriptions.get_mut(key) {
        cx.counters.fell_behind += 1;
        subscription.fall_behind(&stream.progress);
        stream
            .backlog
            // Without credit it is not ready: a page would read events that nobody may get.
            .insert(key, offset, subscription.has_credit());
    }
}

/// The field numbers of `StreamerMessage.delivery` and of `EventDelivery`.
mod tags {
    pub(super) const DELIVERY: u32 = 1;
    pub(super) const SUBSCRIPTION_IDS: u32 = 1;
    pub(super) const EVENT: u32 = 2;
    pub(super) const POSITION: u32 = 100;
    pub(super) const PREVIOUS: u32 = 101;
    pub(super) const LEFT: u32 = 102;
}

/// An upper bound of the bytes of a delivery besides its event and its ids: tags, lengths, position.
const ENVELOPE_BYTES: usize = 64;
/// An upper bound of the bytes per id besides its text: a tag, two bytes of length, and ten bytes of
/// the previous offset.
const BYTES_PER_ID: usize = 13;
/// The largest buffer of ids that is kept.
const MAX_SCRATCH: usize = 64 << 10;
