//! The messages of peers.

use std::{collections::BTreeSet, time::Duration};

use steadfast_wire::streamer::{
    Credit as CreditGrant, GatewayMessage, Heartbeat, HeartbeatAck, Hello, RefusalCode,
    SubscribeRequest, SubscribeResponse, UnsubscribeAck, UnsubscribeRequest, Welcome,
    gateway_message::Payload as Request, streamer_message::Payload,
};

use super::{
    Hub, StreamId,
    access::Granted,
    credit::Credit,
    end_cause::{EndCause, Misuse},
    session_key::SessionKey,
    snapshot::Snapshot,
    stream::{Peer, Profile, Stream},
    subscription::{StateOptions, Subscription, Wants},
    subscriptions::{Admitted, Refusal},
    window::WindowState,
};
use crate::{convert::millis_to_wire, matcher::SubscriptionKey};

impl Hub {
    pub(super) fn on_message(&mut self, id: StreamId, message: GatewayMessage) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        // Even a message without a payload is a sign of life; the original server ignores it
        // otherwise.
        stream.heard(self.cx.now);
        let Some(request) = message.payload else {
            return;
        };
        // Before anything may end the stream: the final message is for peers that understand it.
        stream.identify(matches!(request, Request::Hello(_) | Request::Credit(_)));
        // After `identify`, for which the stream was kept open.
        let done = if let Peer::Refused { cause, .. } = stream.peer() {
            Err(cause.clone())
        } else {
            match request {
                Request::Hello(hello) => self.on_hello(id, hello),
                Request::Credit(grant) => self.on_credit(id, &grant),
                Request::Heartbeat(heartbeat) => {
                    self.on_heartbeat(id, &heartbeat);
                    Ok(())
                }
                Request::Subscribe(request) => {
                    self.on_subscribe(id, request);
                    Ok(())
                }
                Request::Unsubscribe(request) => {
                    self.on_unsubscribe(id, request);
                    Ok(())
                }
                // The driver reads credentials, and passes on what they mean. Without anything to
                // restrict, they mean nothing.
                Request::Authenticate(_) => Ok(()),
            }
        };
        match done {
            Ok(()) => self.after_input(id),
            Err(cause) => self.end(id, &cause),
        }
    }

    /// Begins a profile stream and ends the older stream of the same session.
    fn on_hello(&mut self, id: StreamId, hello: Hello) -> Result<(), EndCause> {
        let Some(stream) = self.streams.get(id) else {
            return Ok(());
        };
        // Before the fence: a hello with faults must not end the older stream.
        check_hello(stream, &hello, self.cx.limits.id_bytes)?;
        let owner = stream.access().map_or("", |access| &*access.owner);
        let key = SessionKey::new(owner, &hello);
        let attempt = hello.attempt;
        let mut inherited = BTreeSet::new();
        if let Some(holder) = self.streams.holder(key) {
            // A late attempt must not end the stream that replaced it.
            if attempt <= holder.attempt {
                return Err(EndCause::StaleAttempt {
                    attempt,
                    current: holder.attempt,
                });
            }
            if let Some(older) = self.streams.get(holder.stream) {
                // Only the ids: positions come from the client, which knows what it received
                //
                let id = |key| Some(self.subscriptions.get(key)?.id().into());
                inherited = older.subscriptions().filter_map(id).collect();
            }
            // Before the new stream holds the session, so that the older one gets nothing more and
            // gives its entry back.
            self.end(holder.stream, &EndCause::Fenced { by: attempt });
        }
        self.streams.hold(key, id, attempt);

        let requested = Duration::from_millis(hello.heartbeat_interval_ms.into());
        let interval = if requested.is_zero() {
            HEARTBEAT_DEFAULT
        } else {
            requested
        };
        let limits = &self.cx.limits;
        // Very short intervals would end a peer at any delay; very long ones would keep a dead one.
        let interval = interval.clamp(limits.heartbeat_min, limits.heartbeat_max);
        let stream = self.streams.get(id);
        let welcome = Welcome {
            version: VERSION,
            server_id: self.server_id.clone(),
            head: Some(self.cx.wire_position(self.cx.log.head())),
            heartbeat_interval_ms: if interval == requested {
                0
            } else {
                millis_to_wire(interval)
            },
            expires_in_ms: stream.map_or(0, |it| it.expires_in_ms(self.cx.now)),
        };
        if let Some(stream) = self.streams.get_mut(id) {
            let session = hello.session_id.into();
            stream.set_peer(Peer::Profile(Profile {
                session,
                key,
                inherited,
            }));
            stream.set_heartbeat_interval(interval);
            stream
                .progress
                .schedule(self.cx.now, self.cx.limits.progress_interval);
            stream.send(Payload::Welcome(welcome), &mut self.cx);
        }
        Ok(())
    }

    fn on_heartbeat(&mut self, id: StreamId, heartbeat: &Heartbeat) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        // The first one starts the deadline: a peer that sends none may be quiet by design.
        stream.on_heartbeat(self.cx.now, self.cx.limits.plain_silence);
        let matched = self
            .matching
            .matched_for(stream, &self.subscriptions, self.cx.log.head());
        let ack = HeartbeatAck {
            // Returned as it came: clients recognise their greeting by it.
            timestamp: heartbeat.timestamp,
            progress: stream.report_progress(matched, &self.subscriptions, &mut self.cx),
        };
        stream.send(Payload::HeartbeatAck(ack), &mut self.cx);
    }

    fn on_credit(&mut self, id: StreamId, grant: &CreditGrant) -> Result<(), EndCause> {
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        if !stream.is_profile() {
            return Err(Misuse::CreditWithoutHello.into());
        }
        // A grant that crosses the end of its subscription is normal.
        let found = self.subscriptions.find_of(stream, &grant.subscription_id);
        let Some(key) = found.map(Subscription::key) else {
            return Ok(());
        };
        // A longer one is no document's, and without it the client receives more than it keeps.
        let max_bytes = self.cx.limits.filters.max_bytes;
        if let Some(bound) = &grant.bound
            && bound.document_id.len() <= max_bytes
        {
            self.subscriptions
                .update_window(key, |window| window.narrow(bound, grant.snapshot));
        }
        if let Some(subscription) = self.subscriptions.get_mut(key) {
            subscription.grant(grant.messages, grant.bytes);
            // A grant may raise only one of the two totals.
            if subscription.is_reading_documents() {
                if subscription
                    .snapshot()
                    .is_some_and(|it| it.waits_for_credit)
                {
                    stream.queue_snapshot(key, subscription);
                }
            } else if subscription.has_credit() {
                stream.backlog.set_ready(key);
            }
        }
        Ok(())
    }

    fn on_subscribe(&mut self, id: StreamId, mut request: SubscribeRequest) {
        if request.subscription_id.is_empty() {
            request.subscription_id = self.subscriptions.generate_id();
        }
        let subscription_id = request.subscription_id.clone();
        let number = request.request;
        let Some(stream) = self.streams.get(id) else {
            return;
        };
        // All checks come first, so that a refusal leaves an older subscription as it is.
        let admitted = self.subscriptions.admit(stream, &request, &self.cx.limits);
        let mut response = match admitted {
            // A plain peer learns in this way whether it is still known. It has no position: a subscription
            // from the head on would silently miss what is committed and not matched yet.
            Ok(Admitted {
                replaces: Some(older),
                granted,
                ..
            }) if !stream.is_profile()
                && self
                    .subscriptions
                    .is_repeated(older, id, &request, &granted) =>
            {
                SubscribeResponse {
                    success: true,
                    ..SubscribeResponse::default()
                }
            }
            Ok(admitted) => {
                if let Some(older) = admitted.replaces {
                    self.replace(id, older);
                }
                let window = admitted.window.map(WindowState::new);
                self.subscribe(id, request, &admitted.granted, window)
            }
            Err(refusal) => {
                self.cx.counters.refused_subscriptions += 1;
                if let Refusal::PrincipalFull { .. } = refusal {
                    self.cx.counters.principals_full += 1;
                }
                SubscribeResponse {
                    error: refusal.to_string(),
                    code: refusal.code().into(),
                    ..SubscribeResponse::default()
                }
            }
        };
        response.subscription_id = subscription_id;
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        if stream.is_profile() {
            response.request = number;
        } else {
            // A field of the profile; the texts of the original say it.
            response.code = RefusalCode::Unspecified.into();
        }
        stream.send(Payload::SubscribeResponse(response), &mut self.cx);
    }

    /// Removes a subscription that one of a stream replaces.
    fn replace(&mut self, id: StreamId, older: SubscriptionKey) {
        if let Some(older) = self.subscriptions.remove(older) {
            self.cx.counters.taken_over += u64::from(older.stream() != id);
            // The older stream keeps its other ids: only this one moved.
            if let Some(stream) = self.streams.get_mut(older.stream()) {
                stream.detach(older.key());
            }
        }
    }

    /// Creates a subscription. It is live if it starts at the head, and behind otherwise.
    fn subscribe(
        &mut self,
        id: StreamId,
        request: SubscribeRequest,
        granted: &Granted,
        window: Option<WindowState>,
    ) -> SubscribeResponse {
        let Some(stream) = self.streams.get_mut(id) else {
            return SubscribeResponse::default();
        };
        let cx = &mut self.cx;
        let is_profile = stream.is_profile();
        let ((start, resync, snapshot), credit, wants) = if is_profile {
            let credit = Credit::limited(request.credit_messages, request.credit_bytes);
            let wants = Wants {
                snapshot: request.snapshot.is_some(),
                left: request.left,
            };
            (
                Snapshot::start(&request, granted.fingerprint, cx),
                credit,
                wants,
            )
        } else {
            let start = (cx.log.head(), None, None);
            (start, Credit::unlimited(), Wants::default())
        };
        let has_window = window.is_some();
        let has_start = is_profile && request.start.is_some();
        let name = self
            .subscriptions
            .share_name(&request.database, &request.collection);
        let key = self.subscriptions.next_key();
        let taken_over = stream.claim_inherited(&request.subscription_id);
        let mut subscription = Subscription::new(
            key,
            id,
            request.subscription_id.into(),
            name,
            request.request,
            credit,
            start,
        )
        .with(StateOptions::new(wants, granted, snapshot, window));
        let reads_documents = subscription.is_reading_documents();
        let is_live = start >= cx.log.head() && !reads_documents;
        // At the head nothing is to be read, with or without credit. Matching may be behind, but
        // what it still offers is before `start`.
        if is_live {
            subscription.go_live(start, &stream.progress);
        }
        if self.subscriptions.is_first_to_want_left(&subscription) {
            // They came while nobody wanted the states before them. Also if this one is live: a later one
            // may be behind.
            cx.log.forget_recent();
        }
        let has_credit = subscription.has_credit();
        self.subscriptions.insert(subscription, &granted.filter);
        if !is_live {
            // Changes wait until the documents were sent.
            let ready = has_credit && !reads_documents;
            stream.backlog.insert(key, start, ready);
        }
        if reads_documents && let Some(subscription) = self.subscriptions.get_mut(key) {
            stream.queue_snapshot(key, subscription);
        }
        cx.counters.taken_over += u64::from(taken_over);
        stream.attach(key);
        // Its response tells `start`, and progress below it would go back.
        stream.progress.note_sent(start);
        SubscribeResponse {
            success: true,
            taken_over,
            position: is_profile.then(|| cx.wire_position(start)),
            resync: resync.map(|reason| cx.resync(reason)),
            snapshot: wants.snapshot,
            left: wants.left,
            window: has_window,
            start: has_start,
            filters: is_profile && granted.filter.needs_profile(),
            rights: if is_profile { granted.fingerprint } else { 0 },
            ..SubscribeResponse::default()
        }
    }

    fn on_unsubscribe(&mut self, id: StreamId, request: UnsubscribeRequest) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        // Only the stream's own ids: a peer must not end the subscriptions of others.
        let found = self.subscriptions.find_of(stream, &request.subscription_id);
        if let Some(key) = found.map(Subscription::key) {
            stream.detach(key);
            self.subscriptions.remove(key);
        }
        if stream.is_profile() {
            // Given up on purpose: a later subscribe of the id takes nothing over.
            stream.claim_inherited(&request.subscription_id);
            // Also for an unknown id: the client waits for the answer, and the id is gone either
            // way.
            let ack = UnsubscribeAck {
                subscription_id: request.subscription_id,
                request: request.request,
            };
            stream.send(Payload::UnsubscribeAck(ack), &mut self.cx);
        }
    }
}

fn check_hello(stream: &Stream, hello: &Hello, max_id_bytes: usize) -> Result<(), Misuse> {
    // A second hello would move a stream with subscriptions into another session.
    if !matches!(stream.peer(), Peer::Unknown) {
        Err(Misuse::HelloNotFirst)
    } else if hello.version == 0 {
        Err(Misuse::Version)
    } else if hello.session_id.is_empty() || hello.session_id.len() > max_id_bytes {
        Err(Misuse::Session {
            limit: max_id_bytes,
        })
    } else if hello.attempt == 0 {
        // 0 is a field that was left out; attempts count from 1.
        Err(Misuse::Attempt)
    } else {
        Ok(())
    }
}

/// The version of the profile that this server speaks, also to peers with a newer one.
const VERSION: u32 = 1;
/// The heartbeat interval of a peer that names none.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(30);
