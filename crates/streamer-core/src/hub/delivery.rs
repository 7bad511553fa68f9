//! The delivery of one event to the subscriptions of one stream.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, message, uint64},
};

use super::{
    context::Context, stream::Stream, subscription::Subscription, subscriptions::Subscriptions,
};
use crate::{Epoch, Event, convert::event_to_wire, matcher::SubscriptionKey};

/// An event to be delivered. It is encoded once; each stream's message is written around it.
#[derive(Debug)]
pub(super) struct OutgoingEvent<'a> {
    event: &'a Event,
    encoded: Vec<u8>,
}

impl<'a> OutgoingEvent<'a> {
    pub(super) fn new(event: &'a Event, epoch: Epoch) -> Self {
        Self {
            event,
            encoded: event_to_wire(epoch, event).encode_to_vec(),
        }
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
        keys.retain(|key| {
            let credit = subscriptions.get(*key).map(Subscription::has_credit);
            if credit == Some(false) {
                fall_behind(stream, *key, self.event.offset - 1, subscriptions, cx);
            }
            credit == Some(true)
        });
        let mut sent = 0;
        while sent < keys.len() && !stream.outbox.is_full() {
            sent += self.send_part(stream, &keys[sent..], subscriptions, cx);
        }
        for key in &keys[sent..] {
            fall_behind(stream, *key, self.event.offset - 1, subscriptions, cx);
        }
        sent
    }

    /// Sends one message to as many of the subscriptions as fit, at least one, and returns their
    /// number.
    fn send_part(
        &self,
        stream: &mut Stream,
        keys: &[SubscriptionKey],
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) -> usize {
        let is_profile = stream.is_profile();
        let max_ids_bytes = cx
            .limits
            .delivery_bytes
            .saturating_sub(self.encoded.len() + ENVELOPE_BYTES);
        let mut ids = Vec::new();
        let mut previous = Vec::new();
        let (mut sent, mut ids_bytes) = (0, 0);
        for key in keys {
            let Some(subscription) = subscriptions.get_mut(*key) else {
                unreachable!("a key without subscription was removed before");
            };
            ids_bytes += subscription.id().len() + BYTES_PER_ID;
            if ids_bytes > max_ids_bytes && sent > 0 {
                break;
            }
            put_bytes(
                tags::SUBSCRIPTION_IDS,
                subscription.id().as_bytes(),
                &mut ids,
            );
            let known = subscription.on_delivery(self.event, &stream.progress);
            if is_profile {
                previous.push(known);
            }
            sent += 1;
        }
        stream.progress.note_told(self.event.offset);
        cx.counters.deliveries += 1;
        cx.counters.delivered_ids += sent as u64;
        let message = self.encode(&ids, is_profile.then_some(&previous), cx);
        stream.send_encoded(message, cx);
        sent
    }

    /// Writes a `StreamerMessage` with a delivery. `previous` is for profile peers, together with the
    /// position.
    fn encode(&self, ids: &[u8], previous: Option<&Vec<u64>>, cx: &Context) -> Bytes {
        let position = cx.wire_position(self.event.offset);
        let profile_len = previous.map_or(0, |previous| {
            message::encoded_len(tags::POSITION, &position)
                + uint64::encoded_len_packed(tags::PREVIOUS, previous)
        });
        let delivery_len = ids.len() + bytes_len(tags::EVENT, &self.encoded) + profile_len;
        let header_len = key_len(tags::DELIVERY) + encoded_len_varint(delivery_len as u64);
        let mut out = BytesMut::with_capacity(header_len + delivery_len);
        encode_key(tags::DELIVERY, WireType::LengthDelimited, &mut out);
        encode_varint(delivery_len as u64, &mut out);
        out.put_slice(ids);
        put_bytes(tags::EVENT, &self.encoded, &mut out);
        if let Some(previous) = previous {
            message::encode(tags::POSITION, &position, &mut out);
            uint64::encode_packed(tags::PREVIOUS, previous, &mut out);
        }
        debug_assert_eq!(out.len(), header_len + delivery_len);
        out.freeze()
    }
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
            .insert(key, offset, subscription.has_credit());
    }
}

/// Writes a field of bytes, text or an encoded message.
fn put_bytes(tag: u32, bytes: &[u8], out: &mut impl bytes::BufMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn bytes_len(tag: u32, bytes: &[u8]) -> usize {
    key_len(tag) + encoded_len_varint(bytes.len() as u64) + bytes.len()
}

/// The field numbers of `StreamerMessage.delivery` and of `EventDelivery`.
mod tags {
    pub(super) const DELIVERY: u32 = 1;
    pub(super) const SUBSCRIPTION_IDS: u32 = 1;
    pub(super) const EVENT: u32 = 2;
    pub(super) const POSITION: u32 = 100;
    pub(super) const PREVIOUS: u32 = 101;
}

/// An upper bound of the bytes of a delivery besides its event and its ids: tags, lengths, position.
const ENVELOPE_BYTES: usize = 64;
/// An upper bound of the bytes per id besides its text: a tag, two bytes of length, and ten bytes of
/// the previous offset.
const BYTES_PER_ID: usize = 13;
