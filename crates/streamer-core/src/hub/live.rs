//! The delivery of committed events to the subscriptions that are live.

use super::{
    context::Context,
    delivery::{OutgoingEvent, fall_behind},
    streams::Streams,
    subscriptions::Subscriptions,
};
use crate::{Event, matcher::SubscriptionKey};

/// Delivers an event to the live subscriptions that it satisfies.
pub(super) fn deliver(
    event: &Event,
    streams: &mut Streams,
    subscriptions: &mut Subscriptions,
    cx: &mut Context,
) {
    let mut keys: Vec<SubscriptionKey> = Vec::new();
    // A filter is false for an event that it cannot read. The log accepts no such events.
    let readable = subscriptions.matcher().matches(event, &mut keys);
    cx.counters.unreadable += u64::from(readable.is_err());
    let mut grouped = Vec::new();
    subscriptions.group(&keys, &mut grouped);
    if grouped.is_empty() {
        return;
    }
    let outgoing = OutgoingEvent::new(event, cx.log.epoch());
    for group in grouped.chunk_by(|one, other| one.0 == other.0) {
        let id = group[0].0;
        if let Some(stream) = streams.get_mut(id) {
            keys.clear();
            let live = group.iter().map(|(_, key)| *key);
            keys.extend(live.filter(|key| !stream.backlog.contains(*key)));
            outgoing.deliver(stream, &mut keys, subscriptions, cx);
            streams.arm(id, &cx.limits);
        }
    }
}

/// Makes every live subscription read from the log, from `offset` on.
pub(super) fn fall_behind_all(
    offset: u64,
    streams: &mut Streams,
    subscriptions: &mut Subscriptions,
    cx: &mut Context,
) {
    for stream in streams.iter_mut() {
        let keys: Vec<_> = stream.subscriptions().map(|(_, key)| key).collect();
        for key in keys {
            if !stream.backlog.contains(key) {
                fall_behind(stream, key, offset, subscriptions, cx);
            }
        }
    }
}
