//! The delivery of one event to the subscriptions of one stream.

use prost::Message as _;
use steadfast_wire::streamer::{EventDelivery, StreamerEvent, streamer_message::Payload};

use super::{
    context::Context, stream::Stream, subscription::Subscription, subscriptions::Subscriptions,
};
use crate::{Epoch, Event, convert::event_to_wire, matcher::SubscriptionKey};

/// An event to be delivered, converted to its message once for all streams.
#[derive(Debug)]
pub(super) struct OutgoingEvent<'a> {
    event: &'a Event,
    wire: StreamerEvent,
}

impl<'a> OutgoingEvent<'a> {
    pub(super) fn new(event: &'a Event, epoch: Epoch) -> Self {
        Self {
            event,
            wire: event_to_wire(epoch, event),
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
            .saturating_sub(self.wire.encoded_len() + ENVELOPE_BYTES);
        let mut delivery = EventDelivery {
            subscription_ids: Vec::with_capacity(keys.len()),
            event: Some(self.wire.clone()),
            position: is_profile.then(|| cx.wire_position(self.event.offset)),
            previous: Vec::new(),
        };
        let mut ids_bytes = 0;
        for key in keys {
            let Some(subscription) = subscriptions.get_mut(*key) else {
                unreachable!("a key without subscription was removed before");
            };
            ids_bytes += subscription.id().len() + BYTES_PER_ID;
            if ids_bytes > max_ids_bytes && !delivery.subscription_ids.is_empty() {
                break;
            }
            let id = subscription.id().to_string();
            let previous = subscription.on_delivery(self.event, &stream.progress);
            delivery.subscription_ids.push(id);
            if is_profile {
                delivery.previous.push(previous);
            }
        }
        stream.progress.note_told(self.event.offset);
        let sent = delivery.subscription_ids.len();
        cx.counters.deliveries += 1;
        cx.counters.delivered_ids += sent as u64;
        stream.send(Payload::Delivery(delivery), cx);
        sent
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

/// An upper bound of the bytes of a delivery besides its event and its ids: tags, lengths, position.
const ENVELOPE_BYTES: usize = 64;
/// An upper bound of the bytes per id besides its text: a tag, two bytes of length, and ten bytes of
/// the previous offset.
const BYTES_PER_ID: usize = 13;
