//! The size of one stream's outbound queue.

use std::time::Duration;

use steadfast_session::Time;

use super::{Limits, context::Context};

/// Counters of the messages queued for a peer. The messages themselves are with the driver.
#[derive(Debug)]
pub(super) struct Outbox {
    bytes: usize,
    messages: usize,
    full: bool,
    /// The last time a message was sent, or was queued while the queue was empty.
    moved: Time,
}

impl Outbox {
    pub(super) fn new(now: Time) -> Self {
        Self {
            bytes: 0,
            messages: 0,
            full: false,
            moved: now,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// Returns true if deliveries must wait in the log.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Returns the bytes that may still be queued.
    pub(super) fn capacity_left(&self, limits: &Limits) -> usize {
        limits.queue_bytes.saturating_sub(self.bytes)
    }

    /// Returns the time at which the peer has left its queue untouched for too long.
    pub(super) fn stalls_at(&self, cx: &Context) -> Option<Time> {
        // A connection that died before a drain must not use up the time of the drain.
        let was_idle = cx.drain_start.is_some_and(|start| self.moved < start);
        let timeout = if was_idle {
            cx.limits.stall_timeout.min(DRAIN_STALL)
        } else {
            cx.limits.stall_timeout
        };
        (self.messages > 0).then(|| self.moved + timeout)
    }

    pub(super) fn enqueued(&mut self, now: Time, bytes: usize, limits: &Limits) {
        if self.messages == 0 {
            self.moved = now;
        }
        self.bytes += bytes;
        self.messages += 1;
        if self.bytes >= limits.queue_bytes || self.messages >= limits.queue_messages {
            self.full = true;
        }
    }

    pub(super) fn sent(&mut self, now: Time, bytes: usize, messages: usize, limits: &Limits) {
        debug_assert!(
            bytes <= self.bytes && messages <= self.messages,
            "more was sent than was queued"
        );
        self.bytes = self.bytes.saturating_sub(bytes);
        self.messages = self.messages.saturating_sub(messages);
        self.moved = now;
        // Deliveries resume only at half of the limit: at the limit, each message sent would cost a
        // read of the log.
        if self.bytes <= limits.queue_bytes / 2 && self.messages <= limits.queue_messages / 2 {
            self.full = false;
        }
    }
}

/// The longest time for which a peer may read nothing, if it has read nothing since a drain began.
const DRAIN_STALL: Duration = Duration::from_secs(5);
