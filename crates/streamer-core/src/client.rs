//! The client core: which subscriptions are wanted, where each of them is, and what the peer at the
//! other end makes of that.
//!
//! Sans-IO. The session below it decides when streams begin and end; [`Core`] gives them their
//! meaning. What is wanted and where it is survives streams; how it stands on a stream does not.

mod command;
mod config;
mod counters;
mod credit;
mod delivery;
mod greeting;
mod item;
mod plain;
mod positions;
pub mod queue;
mod restore;
mod subscription;

use std::collections::{BTreeMap, BTreeSet};

use steadfast_session::{Context, End, Generation, Initiator, Protocol, Reason, Time};
use steadfast_wire::streamer::{self as wire, GatewayMessage, StreamerMessage};

pub use self::{
    command::{Command, Notice, Refusal, Start, SubscriptionId},
    config::Config,
    counters::Counters,
    credit::Limits,
    item::{Change, Gap, GapReason, Item, Resync, ResyncReason},
};
use self::{
    credit::{Account, Load},
    greeting::Heartbeats,
    plain::Probing,
    positions::Place,
    subscription::{Standing, Subscription},
};
use crate::{
    Epoch, Position,
    filter::{Filter, Spelling},
};

/// The meaning of a Streamer stream, client side.
#[derive(Debug)]
pub struct Core {
    config: Config,
    /// The wanted set.
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    wire_ids: BTreeMap<String, SubscriptionId>,
    /// Number of the newest request of the session.
    requests: u64,
    /// Number of the newest delivery.
    deliveries: u64,
    heartbeats: Heartbeats,
    /// The current stream's peer.
    peer: Peer,
    /// What must be answered before the current stream is restored; `None` once it is.
    restoring: Option<BTreeSet<SubscriptionId>>,
    /// The head that the current stream's peer greeted with.
    head: Option<Position>,
    /// Subscriptions that have not reached it.
    catching_up: BTreeSet<SubscriptionId>,
    /// The spelling that plain peers took last.
    spelling: Spelling,
    probing: Probing,
    counters: Counters,
}

/// Who is at the other end of the current stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// Nobody: there is no stream.
    Away,
    /// It has not greeted.
    Unknown,
    /// A peer without the resume profile.
    Plain,
    /// A peer that speaks the resume profile.
    Profile,
}

/// What a message did wrong.
type Malformed = String;

type Cx = Context<GatewayMessage, Notice>;

impl Core {
    /// A core that wants nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            subscriptions: BTreeMap::new(),
            wire_ids: BTreeMap::new(),
            requests: 0,
            deliveries: 0,
            heartbeats: Heartbeats::default(),
            peer: Peer::Away,
            restoring: None,
            head: None,
            catching_up: BTreeSet::new(),
            spelling: Spelling::default(),
            probing: Probing::default(),
            counters: Counters::default(),
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many subscriptions are wanted.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    fn want(
        &mut self,
        id: SubscriptionId,
        database: String,
        collection: String,
        filter: Filter,
        start: Start,
    ) {
        let wire_id = format!("{}-{id}", self.config.session_id);
        self.wire_ids.insert(wire_id.clone(), id);
        let last = match start {
            Start::Now => None,
            Start::After(position) => Some(position),
        };
        let subscription = Subscription {
            id,
            wire_id,
            database,
            collection,
            filter,
            place: Place::new(last),
            acknowledged: false,
            owed: None,
            dropped: 0,
            queued: Load::default(),
            credit: Account::default(),
            named_by: 0,
            standing: Standing::Unasked,
        };
        let before = self.subscriptions.insert(id, subscription);
        debug_assert!(before.is_none(), "subscription {id} was made twice");
    }

    fn unsubscribe(&mut self, id: SubscriptionId, cx: &mut Cx) {
        let Some(subscription) = self.subscriptions.get(&id) else {
            return;
        };
        if subscription.standing != Standing::Unasked {
            self.send_unsubscribe(id, cx);
        }
        self.forget(id);
        self.on_answered(id, cx);
    }

    fn on_taken(&mut self, id: SubscriptionId, changes: u64, bytes: u64, cx: &mut Cx) {
        let share = self.config.limits.share(self.subscriptions.len());
        let room = self.config.limits.room(self.subscriptions.len());
        let Some(subscription) = self.subscriptions.get_mut(&id) else {
            return;
        };
        subscription.queued.take(changes, bytes);
        if subscription.queued.is_relieved(room) {
            subscription.settle_overflow(&mut self.counters, cx);
        }
        if self.peer == Peer::Profile
            && subscription.standing != Standing::Unasked
            && let Some(total) = subscription.credit.grant(share, subscription.queued)
        {
            let credit = wire::Credit {
                subscription_id: subscription.wire_id.clone(),
                messages: total.messages,
                bytes: total.bytes,
            };
            say(cx, gateway(wire::gateway_message::Payload::Credit(credit)));
        }
    }

    /// Gives a subscription another name on the wire.
    fn rename(&mut self, id: SubscriptionId) {
        self.requests += 1;
        let wire_id = format!("{}-{id}.{}", self.config.session_id, self.requests);
        let subscription = self.subscription_mut(id);
        let before = std::mem::replace(&mut subscription.wire_id, wire_id.clone());
        self.wire_ids.remove(&before);
        self.wire_ids.insert(wire_id, id);
    }

    fn forget(&mut self, id: SubscriptionId) {
        if let Some(subscription) = self.subscriptions.remove(&id) {
            self.wire_ids.remove(&subscription.wire_id);
            self.catching_up.remove(&id);
        }
    }

    /// The subscription of a wire id; one that nobody has is counted.
    fn known(&mut self, wire_id: &str) -> Option<SubscriptionId> {
        let id = self.wire_ids.get(wire_id).copied();
        self.counters.unknown_ids += u64::from(id.is_none());
        id
    }

    fn subscription(&self, id: SubscriptionId) -> &Subscription {
        self.subscriptions
            .get(&id)
            .expect("ids come from the set and leave it last")
    }

    fn subscription_mut(&mut self, id: SubscriptionId) -> &mut Subscription {
        self.subscriptions
            .get_mut(&id)
            .expect("ids come from the set and leave it last")
    }

    fn receive(
        &mut self,
        now: Time,
        message: StreamerMessage,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        use wire::streamer_message::Payload;

        match (message.payload, self.peer) {
            (Some(Payload::HeartbeatAck(ack)), _) => self.on_heartbeat_ack(now, ack, cx),
            (Some(Payload::Welcome(welcome)), _) => self.on_welcome(welcome, cx),
            (Some(Payload::Final(last)), _) => greeting::on_final(&last, cx),
            (Some(Payload::Drain(drain)), _) => {
                greeting::on_drain(drain, cx);
                Ok(())
            }
            (Some(Payload::Delivery(delivery)), Peer::Plain) => {
                self.on_plain_delivery(delivery, cx)
            }
            (Some(Payload::Delivery(delivery)), Peer::Profile) => {
                self.on_profile_delivery(delivery, cx)
            }
            (Some(Payload::Delivery(delivery)), Peer::Unknown | Peer::Away) => {
                // Nothing was asked for yet.
                self.counters.unknown_ids += delivery.subscription_ids.len() as u64;
                Ok(())
            }
            (Some(Payload::SubscribeResponse(response)), Peer::Plain) => {
                self.on_plain_response(now, &response, cx);
                Ok(())
            }
            (Some(Payload::SubscribeResponse(response)), Peer::Profile) => {
                self.on_profile_response(&response, cx)
            }
            (Some(Payload::SubscribeResponse(_)), Peer::Unknown | Peer::Away) => {
                self.counters.stray_answers += 1;
                Ok(())
            }
            (Some(Payload::Progress(progress)), Peer::Profile) => self.on_progress(&progress, cx),
            // An unsubscribe is never waited for.
            (Some(Payload::UnsubscribeAck(_)), Peer::Profile) => Ok(()),
            (Some(Payload::Progress(_) | Payload::UnsubscribeAck(_)) | None, _) => {
                self.counters.unknown_messages += 1;
                Ok(())
            }
        }
    }

    /// Forgets how things stood on the stream that is gone.
    fn leave_stream(&mut self) {
        let cut_plain = self.peer == Peer::Plain;
        for subscription in self.subscriptions.values_mut() {
            subscription.standing = Standing::Unasked;
            if cut_plain && subscription.acknowledged {
                subscription.owe(GapReason::Disconnected);
            }
        }
        self.peer = Peer::Away;
        self.restoring = None;
        self.head = None;
        self.catching_up.clear();
        self.probing = Probing::default();
        self.heartbeats.clear();
    }
}

impl Protocol for Core {
    type Send = GatewayMessage;
    type Receive = StreamerMessage;
    type Command = Command;
    type Event = Notice;

    fn on_open(&mut self, now: Time, generation: Generation, cx: &mut Cx) {
        self.leave_stream();
        self.peer = Peer::Unknown;
        self.greet(now, generation, cx);
    }

    fn on_message(&mut self, now: Time, message: StreamerMessage, cx: &mut Cx) {
        if let Err(what) = self.receive(now, message, cx) {
            cx.fail(End::retry(Initiator::Peer, Reason::Protocol(what.into())));
        }
    }

    fn on_command(&mut self, _now: Time, command: Command, cx: &mut Cx) {
        match command {
            Command::Subscribe {
                id,
                database,
                collection,
                filter,
                start,
            } => {
                self.want(id, database, collection, filter, start);
                match self.peer {
                    Peer::Plain | Peer::Profile => self.ask(id, cx),
                    // It is asked for with everything else once a peer has greeted.
                    Peer::Unknown | Peer::Away => {}
                }
            }
            Command::Unsubscribe { id } => self.unsubscribe(id, cx),
            Command::Taken { id, changes, bytes } => self.on_taken(id, changes, bytes, cx),
            Command::Report => cx.emit(Notice::Counters(Box::new(self.counters))),
        }
    }

    fn on_heartbeat(&mut self, now: Time, cx: &mut Cx) {
        self.send_heartbeat(now, cx);
    }

    fn on_down(&mut self, _now: Time, _end: &End, _cx: &mut Cx) {
        self.leave_stream();
    }

    fn on_stop(&mut self, _now: Time, end: &End, cx: &mut Cx) {
        self.leave_stream();
        self.wire_ids.clear();
        self.subscriptions.clear();
        cx.emit(Notice::Stopped(end.clone()));
    }

    fn caught_up(&self) -> bool {
        self.restoring.is_none() && self.catching_up.is_empty()
    }

    fn deadline(&self) -> Option<Time> {
        self.probing.next
    }

    fn on_timer(&mut self, now: Time, cx: &mut Cx) {
        match (self.probing.next, self.config.activity_timeout) {
            (Some(due), Some(interval)) if due <= now => self.on_probe_due(now, interval, cx),
            (Some(_) | None, Some(_) | None) => {}
        }
    }
}

/// Sends, unless the session is leaving: it still receives then, but says nothing more.
fn say(cx: &mut Cx, message: GatewayMessage) {
    if cx.is_open() {
        cx.send(message);
    }
}

fn gateway(payload: wire::gateway_message::Payload) -> GatewayMessage {
    GatewayMessage {
        payload: Some(payload),
    }
}

fn subscribe(request: wire::SubscribeRequest) -> GatewayMessage {
    gateway(wire::gateway_message::Payload::Subscribe(request))
}

fn position(wire: wire::Position) -> Position {
    Position::new(Epoch(wire.epoch), wire.offset)
}

#[cfg(test)]
mod tests;
