//! The message that a subscription's position is lost.

use steadfast_wire::streamer::{ResyncReason, SubscribeResponse, streamer_message::Payload};

use super::{context::Context, stream::Stream, subscriptions::Subscriptions};
use crate::matcher::SubscriptionKey;

/// Continues subscriptions of a profile stream at the head, and tells each that its position is lost.
pub(super) fn resync(
    stream: &mut Stream,
    keys: Vec<SubscriptionKey>,
    reason: ResyncReason,
    subscriptions: &mut Subscriptions,
    cx: &mut Context,
) {
    let head = cx.log.head();
    for key in keys {
        let Some(subscription) = subscriptions.get_mut(key) else {
            continue;
        };
        stream.backlog.remove(key);
        subscription.restart_at(head);
        if subscription.begin_snapshot(head) {
            stream.backlog.insert(key, head, false);
            stream.queue_snapshot(key, subscription);
        } else {
            subscription.go_live(head, &stream.progress);
        }
        // Matching may be behind the head, and progress below it would take the resync back.
        stream.progress.note_sent(head);
        let response = SubscribeResponse {
            subscription_id: subscription.id().to_string(),
            success: true,
            position: Some(cx.wire_position(head)),
            resync: Some(cx.resync(reason)),
            request: subscription.request(),
            snapshot: subscription.wants().snapshot,
            left: subscription.wants().left,
            window: subscription.window().is_some(),
            ..SubscribeResponse::default()
        };
        stream.send(Payload::SubscribeResponse(response), cx);
    }
}
