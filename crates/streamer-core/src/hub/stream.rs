//! One open stream.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use prost::Message as _;
use steadfast_session::Time;
use steadfast_wire::streamer::{StreamerMessage, streamer_message::Payload};

use super::{
    Action, StreamAccess, StreamId,
    backlog::Backlog,
    context::Context,
    end_cause::EndCause,
    outbox::Outbox,
    owners::OwnerShare,
    progress::Progress,
    session_key::SessionKey,
    snapshot_queue::SnapshotQueue,
    subscription::{Namespace, Subscription},
};
use crate::{convert::millis_to_wire, matcher::SubscriptionKey};

/// One open stream: its peer, its subscriptions, and its outbound queue.
#[derive(Debug)]
pub(super) struct Stream {
    id: StreamId,
    peer: Peer,
    /// The peer sent a message of the profile, so that it understands a final message.
    understands_final: bool,
    /// What the peer may do; `None` if nobody said so.
    access: Option<StreamAccess>,
    /// Its share in the subscriptions of its principal, if it has one.
    share: Option<OwnerShare>,
    subscriptions: BTreeSet<SubscriptionKey>,
    liveness: Liveness,
    pub(super) outbox: Outbox,
    pub(super) backlog: Backlog,
    pub(super) progress: Progress,
    pub(super) read_state: ReadState,
    pub(super) snapshots: SnapshotQueue,
    /// The time at which the stream's timer fires.
    pub(super) armed: Option<Time>,
}

/// The kind of peer. The first message decides.
#[derive(Debug)]
pub(super) enum Peer {
    /// No message was received.
    Unknown,
    /// A peer without the resume profile. It is never sent any message of the profile.
    Plain,
    /// A peer that began with hello.
    Profile(Profile),
    /// The stream is being refused. Its first message tells which ending the peer understands.
    Refused { cause: EndCause, until: Time },
}

/// The state of a profile peer.
#[derive(Debug)]
pub(super) struct Profile {
    /// The id of the session, for people.
    pub(super) session: Arc<str>,
    pub(super) key: SessionKey,
    /// The ids of the fenced stream that were not subscribed again yet.
    pub(super) inherited: BTreeSet<Box<str>>,
}

/// The part of a catch-up read that a stream takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadState {
    Idle,
    /// The stream waits for a read, at this number of the queue.
    Waiting(u64),
    /// A page is being read or matched for the stream.
    InProgress,
}

/// The signs of life of a peer.
#[derive(Debug)]
struct Liveness {
    last_message: Time,
    last_heartbeat: Option<Time>,
    /// The longest silence allowed; `None` before the first heartbeat or hello.
    silence_limit: Option<Duration>,
}

impl Stream {
    pub(super) fn new(id: StreamId, now: Time) -> Self {
        Self {
            id,
            peer: Peer::Unknown,
            understands_final: false,
            access: None,
            share: None,
            subscriptions: BTreeSet::new(),
            liveness: Liveness {
                last_message: now,
                last_heartbeat: None,
                silence_limit: None,
            },
            outbox: Outbox::new(now),
            backlog: Backlog::default(),
            progress: Progress::new(now),
            read_state: ReadState::Idle,
            snapshots: SnapshotQueue::default(),
            armed: None,
        }
    }

    pub(super) fn id(&self) -> StreamId {
        self.id
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn set_peer(&mut self, peer: Peer) {
        self.peer = peer;
    }

    pub(super) fn access(&self) -> Option<&StreamAccess> {
        self.access.as_ref()
    }

    pub(super) fn set_access(&mut self, access: StreamAccess) {
        self.access = Some(access);
    }

    pub(super) fn set_share(&mut self, share: OwnerShare) {
        debug_assert!(self.subscriptions.is_empty(), "nothing was served before");
        self.share = Some(share);
    }

    /// Returns the subscriptions of all streams of the peer's principal; 0 if it has none.
    pub(super) fn principal_subscriptions(&self) -> usize {
        self.share.as_ref().map_or(0, OwnerShare::total)
    }

    /// Returns the time that is left of the peer's credentials, as the wire has it.
    pub(super) fn expires_in_ms(&self, now: Time) -> u64 {
        let expires_at = self.access.as_ref().and_then(|it| it.expires_at);
        // At least 1, because 0 is never.
        expires_at.map_or(0, |at| u64::from(millis_to_wire(at - now)).max(1))
    }

    pub(super) fn is_profile(&self) -> bool {
        matches!(self.peer, Peer::Profile(_))
    }

    pub(super) fn understands_final(&self) -> bool {
        self.understands_final
    }

    /// Queues a message.
    pub(super) fn send(&mut self, payload: Payload, cx: &mut Context) {
        let message = StreamerMessage {
            payload: Some(payload),
        };
        let out = self.enqueue(message.encoded_len(), cx);
        message.encode(out).expect("a vector grows");
    }

    /// Queues an encoded `StreamerMessage` of this length and returns the buffer to which it must be
    /// appended.
    pub(super) fn enqueue(&mut self, length: usize, cx: &mut Context) -> &mut Vec<u8> {
        if self.outbox.is_flushed() {
            cx.unflushed.push(self.id);
        }
        self.outbox.enqueue(cx.now, length, &cx.limits)
    }

    /// Passes the messages of the current step on to the driver.
    pub(super) fn flush(&mut self, cx: &mut Context) {
        if !self.outbox.is_flushed() {
            let (frames, messages) = self.outbox.take_frames();
            cx.actions.push(Action::Send {
                stream: self.id,
                frames,
                messages,
            });
        }
    }

    /// Returns the subscriptions among which the stream's ids are unique.
    pub(super) fn namespace(&self) -> Namespace {
        // Where principals are known, none may take the ids of another. A reconnected plain peer then finds
        // its ids free, and those of its older stream end with it.
        if self.is_profile() || self.access.is_some() {
            Namespace::Stream(self.id)
        } else {
            Namespace::Plain
        }
    }

    /// Returns the subscriptions, oldest first.
    pub(super) fn subscriptions(&self) -> impl ExactSizeIterator<Item = SubscriptionKey> {
        self.subscriptions.iter().copied()
    }

    /// Returns the subscriptions from a key on, oldest first.
    pub(super) fn subscriptions_from(
        &self,
        key: SubscriptionKey,
    ) -> impl Iterator<Item = SubscriptionKey> {
        self.subscriptions.range(key..).copied()
    }

    pub(super) fn attach(&mut self, key: SubscriptionKey) {
        if self.subscriptions.insert(key)
            && let Some(share) = &mut self.share
        {
            share.add();
        }
    }

    pub(super) fn detach(&mut self, key: SubscriptionKey) {
        if self.subscriptions.remove(&key)
            && let Some(share) = &mut self.share
        {
            share.remove();
        }
        self.backlog.remove(key);
    }

    /// Queues a subscription for a page of documents, if it has credit for them.
    pub(super) fn queue_snapshot(&mut self, key: SubscriptionKey, subscription: &mut Subscription) {
        let has_credit = subscription.has_credit();
        if let Some(snapshot) = subscription.snapshot_mut() {
            snapshot.waits_for_credit = !has_credit;
            if has_credit {
                self.snapshots.push(key);
            }
        }
    }

    /// Removes an id from those of the fenced stream. Returns false if it was not one of them.
    pub(super) fn claim_inherited(&mut self, id: &str) -> bool {
        match &mut self.peer {
            Peer::Profile(profile) => profile.inherited.remove(id),
            Peer::Unknown | Peer::Plain | Peer::Refused { .. } => false,
        }
    }

    /// Notes that the peer is alive.
    pub(super) fn heard(&mut self, now: Time) {
        self.liveness.last_message = now;
    }

    /// Learns the kind of peer from a message. `of_profile` is true for one that no plain peer sends.
    pub(super) fn identify(&mut self, of_profile: bool) {
        if of_profile {
            // Also by a credit without hello, which is an error: the peer speaks the profile.
            self.understands_final = true;
        } else if matches!(self.peer, Peer::Unknown) {
            self.peer = Peer::Plain;
        }
    }

    pub(super) fn on_heartbeat(&mut self, now: Time, plain_silence: Duration) {
        if !self.is_profile() {
            // A plain peer does not tell its interval, so that it is measured.
            let interval = self
                .liveness
                .last_heartbeat
                .map_or(Duration::ZERO, |last| now - last);
            // Without a maximum, a peer that was paused for an hour would be allowed three hours of
            // silence.
            let own = (interval * SILENT_INTERVALS).min(PLAIN_SILENCE_MAX);
            self.liveness.silence_limit = Some(own.max(plain_silence));
        }
        self.liveness.last_heartbeat = Some(now);
    }

    pub(super) fn set_heartbeat_interval(&mut self, interval: Duration) {
        self.liveness.silence_limit = Some(interval * SILENT_INTERVALS);
    }

    /// Returns the earliest time at which something may be due.
    pub(super) fn deadline(&self, cx: &Context) -> Option<Time> {
        let checks_progress = match &self.peer {
            Peer::Refused { until, .. } => return Some(*until),
            // No deadline for the first message: HTTP/2 pings find a dead peer.
            Peer::Unknown => false,
            Peer::Profile(_) => true,
            // Progress is not told to plain peers, but the same check enforces max_lag.
            Peer::Plain => cx.limits.max_lag.is_some(),
        };
        [
            self.access.as_ref().and_then(|it| it.expires_at),
            self.silent_at().map(|(at, _)| at),
            self.outbox.stalls_at(cx),
            checks_progress.then(|| self.progress.next_check()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Returns the cause for which the stream must end now, if there is one.
    pub(super) fn overdue(&self, cx: &Context) -> Option<EndCause> {
        if let Peer::Refused { cause, until } = &self.peer {
            return (*until <= cx.now).then(|| cause.clone());
        }
        let expires_at = self.access.as_ref().and_then(|it| it.expires_at);
        if expires_at.is_some_and(|at| at <= cx.now) {
            let text = "the credentials have expired".to_owned();
            return Some(EndCause::Unauthenticated(text));
        }
        if let Some((at, limit)) = self.silent_at()
            && at <= cx.now
        {
            return Some(EndCause::Silent(limit));
        }
        let stalls_at = self.outbox.stalls_at(cx)?;
        (stalls_at <= cx.now).then_some(EndCause::Stalled(cx.limits.stall_timeout))
    }

    /// Returns true if every event for the stream was sent.
    pub(super) fn is_settled(&self) -> bool {
        self.outbox.messages() == 0 && self.backlog.is_empty()
    }

    /// Returns true if the peer has missed a heartbeat.
    pub(super) fn is_late(&self, now: Time) -> bool {
        self.liveness
            .silence_limit
            // Half of three intervals is one and a half: a heartbeat is overdue.
            .is_some_and(|limit| self.liveness.last_message + limit / 2 <= now)
    }

    fn silent_at(&self) -> Option<(Time, Duration)> {
        let limit = self.liveness.silence_limit?;
        Some((self.liveness.last_message + limit, limit))
    }
}

/// The number of heartbeat intervals without a message after which a peer is ended.
const SILENT_INTERVALS: u32 = 3;
/// The longest silence allowed for a plain peer, however rare its heartbeats are.
const PLAIN_SILENCE_MAX: Duration = Duration::from_secs(15 * 60);
