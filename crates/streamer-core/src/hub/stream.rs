//! What is known of one stream.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use steadfast_session::Time;
use steadfast_wire::streamer::{StreamerMessage, streamer_message::Payload};

use super::{
    Action, Limits, StreamId, backlog::Backlog, catch_up::Reading, end::Cause, progress::Progress,
};
use crate::matcher::SubscriptionKey;

/// One open stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) peer: Peer,
    /// Whether anything of the profile came from it, so that a final message may go to it.
    pub(super) speaks_profile: bool,
    /// Its subscriptions.
    pub(super) ids: BTreeMap<Arc<str>, SubscriptionKey>,
    pub(super) outbox: Outbox,
    /// Those of its subscriptions that are behind.
    pub(super) backlog: Backlog,
    pub(super) reading: Reading,
    pub(super) progress: Progress,
    /// When the peer was last heard.
    pub(super) heard: Time,
    /// How long it may be silent; none before its first heartbeat or hello.
    pub(super) silence: Option<Duration>,
    /// When the last heartbeat came.
    pub(super) heartbeat: Option<Time>,
    /// When this stream is looked at next.
    pub(super) armed: Option<Time>,
}

/// Who is at the other end. The first message decides.
#[derive(Debug)]
pub(super) enum Peer {
    /// It has said nothing yet.
    Unknown,
    /// It does not speak the resume profile, and is never sent any of it.
    Plain,
    /// It began with hello.
    Profile(Profile),
    /// It is not taken; waits for the first message, to know which answer it understands.
    Refused { cause: Cause, until: Time },
}

/// What hello said.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) session: Arc<str>,
    /// Ids that the stream fenced by this one held and this one has not asked for yet.
    pub(super) inherited: BTreeSet<Arc<str>>,
}

/// What is queued for a peer and not sent: figures only, the messages are with the driver.
#[derive(Debug)]
pub(super) struct Outbox {
    bytes: usize,
    messages: usize,
    full: bool,
    /// When something was last sent, or queued behind nothing.
    moved: Time,
}

impl Stream {
    pub(super) fn new(now: Time) -> Self {
        Self {
            peer: Peer::Unknown,
            speaks_profile: false,
            ids: BTreeMap::new(),
            outbox: Outbox {
                bytes: 0,
                messages: 0,
                full: false,
                moved: now,
            },
            backlog: Backlog::default(),
            reading: Reading::Idle,
            progress: Progress::new(now),
            heard: now,
            silence: None,
            heartbeat: None,
            armed: None,
        }
    }

    /// Queues a message.
    pub(super) fn send(
        &mut self,
        now: Time,
        stream: StreamId,
        payload: Payload,
        limits: &Limits,
        out: &mut Vec<Action>,
    ) {
        let message = StreamerMessage {
            payload: Some(payload),
        };
        let bytes = message.encoded_len();
        self.outbox.queue(now, bytes, limits);
        out.push(Action::Send {
            stream,
            message,
            bytes,
        });
    }

    /// The earliest moment at which something may be due.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Time> {
        let looks = match &self.peer {
            Peer::Refused { until, .. } => return Some(*until),
            Peer::Unknown => false,
            Peer::Profile(_) => true,
            Peer::Plain => limits.max_lag.is_some(),
        };
        [
            self.silence.map(|silence| self.heard + silence),
            self.outbox.stalls_at(limits),
            looks.then_some(self.progress.next),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether nothing that was committed is still to be sent.
    pub(super) fn is_settled(&self) -> bool {
        self.outbox.messages == 0 && self.backlog.is_empty()
    }
}

impl Peer {
    pub(super) fn is_profile(&self) -> bool {
        matches!(self, Self::Profile(_))
    }

    /// A message that plain peers send as well came: without a hello before it, this is one.
    pub(super) fn settle_plain(&mut self) {
        if matches!(self, Self::Unknown) {
            *self = Self::Plain;
        }
    }
}

impl Outbox {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// Whether deliveries are to wait in the log.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Bytes that may still be queued.
    pub(super) fn room(&self, limits: &Limits) -> usize {
        limits.queue_bytes.saturating_sub(self.bytes)
    }

    pub(super) fn sent(&mut self, now: Time, bytes: usize, messages: usize, limits: &Limits) {
        debug_assert!(
            bytes <= self.bytes && messages <= self.messages,
            "more was sent than was queued"
        );
        self.bytes = self.bytes.saturating_sub(bytes);
        self.messages = self.messages.saturating_sub(messages);
        self.moved = now;
        // Starting again only at half of it spares a read of the log per message.
        if self.bytes <= limits.queue_bytes / 2 && self.messages <= limits.queue_messages / 2 {
            self.full = false;
        }
    }

    /// When the peer has left its queue untouched for too long.
    pub(super) fn stalls_at(&self, limits: &Limits) -> Option<Time> {
        (self.messages > 0).then(|| self.moved + limits.stall_timeout)
    }

    fn queue(&mut self, now: Time, bytes: usize, limits: &Limits) {
        if self.messages == 0 {
            self.moved = now;
        }
        self.bytes += bytes;
        self.messages += 1;
        if self.bytes >= limits.queue_bytes || self.messages >= limits.queue_messages {
            self.full = true;
        }
    }
}
