//! Subscriptions: made, replaced, moved, ended.

use std::sync::Arc;

use rand_chacha::rand_core::Rng as _;
use steadfast_wire::streamer::{
    self as wire, RefusalCode, ResyncReason, SubscribeRequest, SubscribeResponse, UnsubscribeAck,
    UnsubscribeRequest, streamer_message::Payload,
};

use super::{Action, Hub, Misuse, Peer, StreamId, credit::Credit, progress::Progress};
use crate::{
    filter::{Filter, InvalidFilter},
    matcher::SubscriptionKey,
};

/// One subscription. Whether it is live or behind is known to its stream's backlog.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) stream: StreamId,
    pub(super) id: Arc<str>,
    pub(super) database: Arc<str>,
    pub(super) collection: Arc<str>,
    pub(super) filter: Filter,
    /// The number of the request that made it.
    pub(super) request: u64,
    pub(super) credit: Credit,
    /// Offset of the last place told to the client, but for the stream's progress.
    previous: u64,
    /// Progress of the stream that was told after so many counts for this one as well.
    joined: u64,
}

/// Why a subscribe request is refused. It changes nothing then, not even the subscription whose id
/// it names.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the subscription id has {bytes} bytes, the limit id_bytes is {limit}")]
    IdTooLong { bytes: usize, limit: usize },
    #[error("failed to compile filters: {0}")]
    Filters(#[from] InvalidFilter),
    /// A stream opened later has the id; the request was on its way for longer than it mattered.
    #[error("subscription ID already exists")]
    HeldByNewer,
    #[error("the stream has {limit} subscriptions, which is the limit subscriptions_per_stream")]
    StreamFull { limit: usize },
    #[error("the server has {limit} subscriptions, which is the limit subscriptions; try later")]
    ServerFull { limit: usize },
}

impl Hub {
    pub(super) fn on_subscribe(
        &mut self,
        id: StreamId,
        mut request: SubscribeRequest,
        out: &mut Vec<Action>,
    ) {
        if request.subscription_id.is_empty() {
            request.subscription_id = self.fresh_id();
        }
        let number = request.request;
        let name: Arc<str> = Arc::from(&*request.subscription_id);
        let mut response = match self.admit(id, &name, &request) {
            Ok(filter) => self.activate(id, &name, request, filter),
            Err(refusal) => {
                self.counters.refused_subscriptions += 1;
                SubscribeResponse {
                    error: refusal.to_string(),
                    code: refusal.code().into(),
                    ..SubscribeResponse::default()
                }
            }
        };
        name.as_ref().clone_into(&mut response.subscription_id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.peer.is_profile() {
            response.request = number;
        } else {
            response.code = RefusalCode::Unspecified.into();
        }
        let response = Payload::SubscribeResponse(response);
        stream.send(self.now, id, response, &self.limits, out);
        self.want_read(id);
    }

    pub(super) fn on_unsubscribe(
        &mut self,
        id: StreamId,
        request: UnsubscribeRequest,
        out: &mut Vec<Action>,
    ) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        // Only ids of this very stream: another's subscription is not this peer's to end.
        if let Some(key) = stream.ids.get(&*request.subscription_id).copied() {
            self.remove(key);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Peer::Profile(profile) = &mut stream.peer {
            profile.inherited.remove(&*request.subscription_id);
            let ack = Payload::UnsubscribeAck(UnsubscribeAck {
                subscription_id: request.subscription_id,
                request: request.request,
            });
            stream.send(self.now, id, ack, &self.limits, out);
        }
        self.end_if_settled(id, out);
    }

    pub(super) fn on_credit(&mut self, id: StreamId, credit: &wire::Credit, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.peer.is_profile() {
            return self.misuse(id, Misuse::CreditWithoutHello, out);
        }
        // Credit for a subscription that has just ended is ordinary.
        let Some(key) = stream.ids.get(&*credit.subscription_id).copied() else {
            return;
        };
        let Some(subscription) = self.subscriptions.get_mut(&key) else {
            return;
        };
        subscription.credit.grant(credit.messages, credit.bytes);
        if subscription.credit.is_open() {
            stream.backlog.ready(key);
            self.want_read(id);
        }
    }

    /// Takes a subscription out of everything that knows it.
    pub(super) fn remove(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.remove(&key) else {
            return;
        };
        self.matcher.remove(key);
        if self.plain.get(&subscription.id) == Some(&key) {
            self.plain.remove(&subscription.id);
        }
        if let Some(stream) = self.streams.get_mut(&subscription.stream) {
            stream.ids.remove(&subscription.id);
            stream.backlog.remove(key);
        }
    }

    fn admit(
        &self,
        id: StreamId,
        name: &Arc<str>,
        request: &SubscribeRequest,
    ) -> Result<Filter, Refusal> {
        let limits = &self.limits;
        if name.len() > limits.id_bytes {
            return Err(Refusal::IdTooLong {
                bytes: name.len(),
                limit: limits.id_bytes,
            });
        }
        let filter = Filter::parse(&request.filters, &limits.filters)?;
        let held = self.streams.get(&id);
        let known_here = held.is_some_and(|stream| stream.ids.contains_key(name));
        let is_plain = held.is_some_and(|stream| !stream.peer.is_profile());
        let holder = self.plain.get(name).filter(|_| is_plain);
        let holder = holder.and_then(|key| self.subscriptions.get(key));
        if holder.is_some_and(|holder| holder.stream > id) {
            return Err(Refusal::HeldByNewer);
        }
        let known = known_here || holder.is_some();
        if !known_here
            && held.is_some_and(|stream| stream.ids.len() >= limits.subscriptions_per_stream)
        {
            return Err(Refusal::StreamFull {
                limit: limits.subscriptions_per_stream,
            });
        }
        if !known && self.subscriptions.len() >= limits.subscriptions {
            return Err(Refusal::ServerFull {
                limit: limits.subscriptions,
            });
        }
        Ok(filter)
    }

    /// Makes the subscription, in place of an older one with the same id.
    fn activate(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        request: SubscribeRequest,
        filter: Filter,
    ) -> SubscribeResponse {
        let mut response = SubscribeResponse {
            success: true,
            ..SubscribeResponse::default()
        };
        let is_profile = self
            .streams
            .get(&id)
            .is_some_and(|stream| stream.peer.is_profile());
        let replaced = if is_profile {
            self.streams
                .get(&id)
                .and_then(|stream| stream.ids.get(name))
        } else {
            self.plain.get(name)
        };
        if let Some(older) = replaced.copied() {
            let moved = self.subscriptions.get(&older).map(|older| older.stream) != Some(id);
            self.counters.taken_over += u64::from(moved);
            self.remove(older);
        }

        let (place, resync) = if is_profile {
            self.place(request.resume.as_ref())
        } else {
            (self.bounds.head, None)
        };
        let key = SubscriptionKey(self.next_key);
        self.next_key += 1;
        self.matcher
            .insert(key, &request.database, &request.collection, &filter);
        let credit = if is_profile {
            Credit::new(request.credit_messages, request.credit_bytes)
        } else {
            self.plain.insert(Arc::clone(name), key);
            Credit::Unlimited
        };
        let mut subscription = Subscription {
            stream: id,
            id: Arc::clone(name),
            database: request.database.into(),
            collection: request.collection.into(),
            filter,
            request: request.request,
            credit,
            previous: place,
            joined: BEHIND,
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.ids.insert(Arc::clone(name), key);
            if place < self.bounds.head {
                stream
                    .backlog
                    .insert(key, place, subscription.credit.is_open());
            } else {
                subscription.go_live(&stream.progress);
            }
            if let Peer::Profile(profile) = &mut stream.peer {
                response.taken_over = profile.inherited.remove(name);
                self.counters.taken_over += u64::from(response.taken_over);
            }
        }
        self.subscriptions.insert(key, subscription);
        if is_profile {
            response.position = Some(self.wire_position(place));
            response.resync = resync.map(|reason| self.resync(reason));
        }
        response
    }

    /// The place to begin at, and why it is not the wanted one.
    fn place(&self, resume: Option<&wire::Position>) -> (u64, Option<ResyncReason>) {
        let head = self.bounds.head;
        let Some(resume) = resume else {
            return (head, None);
        };
        if resume.epoch != self.epoch.0 {
            (head, Some(ResyncReason::Epoch))
        } else if resume.offset > head {
            (head, Some(ResyncReason::Future))
        } else if resume.offset < self.bounds.first {
            (head, Some(ResyncReason::Trimmed))
        } else if resume.offset < self.damaged {
            (head, Some(ResyncReason::Damaged))
        } else {
            (resume.offset, None)
        }
    }

    /// What a client is told when deliveries go on at the head although it wanted others before.
    pub(super) fn resync(&mut self, reason: ResyncReason) -> wire::Resync {
        self.counters.resyncs += 1;
        wire::Resync {
            reason: reason.into(),
            resumes_at: Some(self.wire_position(self.bounds.head)),
        }
    }

    fn fresh_id(&mut self) -> String {
        let mut bits = [0; 16];
        self.ids.fill_bytes(&mut bits);
        uuid::Builder::from_random_bytes(bits)
            .into_uuid()
            .to_string()
    }
}

impl Subscription {
    /// The last place the client was told: by a delivery, an answer, or progress.
    pub(super) fn previous(&self, progress: &Progress) -> u64 {
        if progress.count > self.joined {
            self.previous.max(progress.offset)
        } else {
            self.previous
        }
    }

    /// A place was told to the client.
    pub(super) fn told(&mut self, offset: u64) {
        self.previous = offset;
    }

    /// From here on the stream's progress does not hold for it.
    pub(super) fn fall_behind(&mut self, progress: &Progress) {
        self.previous = self.previous(progress);
        self.joined = BEHIND;
    }

    /// From here on the stream's progress holds for it.
    pub(super) fn go_live(&mut self, progress: &Progress) {
        self.joined = progress.count;
    }
}

impl Refusal {
    fn code(&self) -> RefusalCode {
        match self {
            Self::IdTooLong { .. } | Self::Filters(_) | Self::HeldByNewer => RefusalCode::Invalid,
            Self::StreamFull { .. } | Self::ServerFull { .. } => RefusalCode::Limit,
        }
    }
}

/// A count that no progress reaches: none holds for a subscription that is behind.
const BEHIND: u64 = u64::MAX;
