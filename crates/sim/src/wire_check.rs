//! Checks the messages of one stream of the server against the rules of the resume profile.
//!
//! The clients under test forgive much: they drop what is repeated and request again what is missing.
//! A server that makes them do so breaks its promise all the same, so it is judged by what it sends.

use std::collections::BTreeMap;

use steadfast_wire::streamer::{
    EventDelivery, GatewayMessage, Progress, Snapshot, StreamerMessage, SubscribeResponse,
    gateway_message::Payload as Request, streamer_message::Payload,
};

/// The subscriptions of one profile stream, each with the offset that its client was sent last.
#[derive(Debug, Default)]
pub(crate) struct WireCheck {
    last_sent: BTreeMap<String, u64>,
}

impl WireCheck {
    /// Notes a request that the server handles now.
    pub(crate) fn on_request(&mut self, message: &GatewayMessage) {
        if let Some(Request::Unsubscribe(request)) = &message.payload {
            // When the server handles it, not when the client sends it: deliveries sent before are
            // allowed.
            self.last_sent.remove(&request.subscription_id);
        }
    }

    /// Checks a message that the server sends.
    pub(crate) fn check(&mut self, message: &StreamerMessage) -> Result<(), String> {
        match &message.payload {
            Some(Payload::SubscribeResponse(response)) => self.on_response(response),
            Some(Payload::Delivery(delivery)) => self.on_delivery(delivery),
            Some(Payload::Snapshot(snapshot)) => self.on_snapshot(snapshot),
            Some(Payload::Progress(progress)) => self.on_progress(progress),
            Some(Payload::HeartbeatAck(ack)) => ack
                .progress
                .as_ref()
                .map_or(Ok(()), |it| self.on_progress(it)),
            Some(
                Payload::Welcome(_)
                | Payload::UnsubscribeAck(_)
                | Payload::Drain(_)
                | Payload::Authenticated(_)
                | Payload::Final(_),
            )
            | None => Ok(()),
        }
    }

    fn on_response(&mut self, response: &SubscribeResponse) -> Result<(), String> {
        let id = &response.subscription_id;
        if response.success {
            let at = response.position.as_ref();
            let at = at.ok_or_else(|| format!("{id} is accepted without a position"))?;
            // Replaces an older offset: subscribing again may go back.
            self.last_sent.insert(id.clone(), at.offset);
        }
        Ok(())
    }

    /// Documents are for a subscription, and the changes after them follow one position.
    fn on_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let id = &snapshot.subscription_id;
        let Some(last) = self.last_sent.get_mut(id) else {
            return Err(format!("documents for {id}, which is not subscribed"));
        };
        let follows = snapshot.follows.as_ref().map_or(0, |at| at.offset);
        // A snapshot that begins may go back; one that continues keeps its position.
        if !snapshot.begins && *last != follows {
            return Err(format!("documents for {id} move {last} to {follows}"));
        }
        *last = follows;
        Ok(())
    }

    /// a delivery comes after everything that was sent before, and says what that was.
    fn on_delivery(&mut self, delivery: &EventDelivery) -> Result<(), String> {
        let at = delivery.position.as_ref().map_or(0, |at| at.offset);
        if delivery.subscription_ids.len() != delivery.previous.len() {
            return Err(format!(
                "delivery {at} does not pair ids and previous offsets"
            ));
        }
        for (id, previous) in delivery.subscription_ids.iter().zip(&delivery.previous) {
            let Some(last) = self.last_sent.get_mut(id) else {
                return Err(format!(
                    "delivery {at} is for {id}, which is not subscribed"
                ));
            };
            // Equal as well: a position is never delivered twice to one id.
            if *last >= at {
                return Err(format!(
                    "delivery {at} for {id} repeats: {last} was sent before"
                ));
            }
            if previous != last {
                return Err(format!(
                    "delivery {at} for {id} follows {previous}, but {last} was sent last"
                ));
            }
            *last = at;
        }
        Ok(())
    }

    /// progress moves every subscription that it does not name as behind, never back.
    fn on_progress(&mut self, progress: &Progress) -> Result<(), String> {
        let at = progress.position.as_ref().map_or(0, |at| at.offset);
        for (id, last) in &mut self.last_sent {
            // Their deliveries come from the log later, below this position.
            if progress.behind.contains(id) {
                continue;
            }
            // Equal is allowed: without events, progress repeats the same position.
            if *last > at {
                return Err(format!("progress to {at} is behind {last}, sent to {id}"));
            }
            *last = at;
        }
        Ok(())
    }
}
