//! One stream's outbound queue.

use std::time::Duration;

use bytes::{BufMut as _, Bytes};
use steadfast_session::Time;

use super::{FRAME_HEAD, Limits, context::Context};

/// The messages of the current step for a peer, and counters of all that are queued. Earlier messages are
/// with the driver.
#[derive(Debug)]
pub(super) struct Outbox {
    /// The framed messages of the current step.
    frames: Vec<u8>,
    /// The number of messages in `frames`.
    framed: u32,
    /// The length of the frames of the last step with messages, a hint for the next one.
    last_length: u32,
    bytes: usize,
    messages: usize,
    full: bool,
    /// The last time a message was sent, or was queued while the queue was empty.
    moved: Time,
}

impl Outbox {
    pub(super) fn new(now: Time) -> Self {
        Self {
            frames: Vec::new(),
            framed: 0,
            last_length: 0,
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

    /// Returns the last time at which a message was sent, or was queued while the queue was empty.
    pub(super) fn moved(&self) -> Time {
        self.moved
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

    /// Returns true if no message was queued in the current step.
    pub(super) fn is_flushed(&self) -> bool {
        self.frames.is_empty()
    }

    /// Queues a message of this length and returns the buffer to which it must be appended.
    pub(super) fn enqueue(&mut self, now: Time, length: usize, limits: &Limits) -> &mut Vec<u8> {
        // The time without a message is the server's silence and no stall of the peer.
        if self.messages == 0 {
            self.moved = now;
        }
        let framed_length = FRAME_HEAD + length;
        self.bytes += framed_length;
        self.messages += 1;
        // Responses count but are never held back: only deliveries and progress wait for the queue.
        if self.bytes >= limits.queue_bytes || self.messages >= limits.queue_messages {
            self.full = true;
        }
        if self.frames.is_empty() {
            // Bursts resemble each other: a buffer of about the last size need not grow.
            let hint = (self.last_length as usize / 8 * 9).min(MAX_HINT);
            self.frames.reserve_exact(framed_length.max(hint));
        }
        self.framed += 1;
        put_frame_head(length, &mut self.frames);
        &mut self.frames
    }

    /// Takes the framed messages of the current step, and their number.
    pub(super) fn take_frames(&mut self) -> (Bytes, usize) {
        self.last_length = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        let frames = std::mem::take(&mut self.frames);
        (frames.into(), std::mem::take(&mut self.framed) as usize)
    }

    pub(super) fn sent(&mut self, now: Time, bytes: usize, messages: usize, limits: &Limits) {
        debug_assert!(
            bytes <= self.bytes && messages <= self.messages,
            "more was sent than was queued"
        );
        // A driver that reports too much must not wrap the sum and with it end the stream.
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

/// Writes what gRPC puts before a message that is not compressed: a flag, and the length.
pub(super) fn put_frame_head(length: usize, out: &mut Vec<u8>) {
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("limits keep messages far below 4 GiB"));
}

/// The largest buffer that is allocated because the last one was as large.
const MAX_HINT: usize = 32 << 10;

/// The longest time for which a peer may read nothing, if it has read nothing since a drain began.
const DRAIN_STALL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_full_at_either_limit_and_open_at_half_of_both() {
        let limits = Limits {
            queue_bytes: 1_000,
            queue_messages: 4,
            ..Limits::default()
        };
        let framed = |bytes: usize| bytes - FRAME_HEAD;
        // Each: the messages queued, how many of them are sent, and whether the queue is full before
        // and after that.
        for (queued, sent, before, after) in [
            (&[999][..], 0, false, false),
            (&[1_000], 0, true, true),
            (&[500, 500], 1, true, false),
            (&[499, 501], 1, true, true),
            (&[10, 10, 10], 0, false, false),
            (&[10, 10, 10, 10], 1, true, true),
            (&[10, 10, 10, 10], 2, true, false),
        ] {
            let mut outbox = Outbox::new(Time::ZERO);
            for bytes in queued {
                outbox.enqueue(Time::ZERO, framed(*bytes), &limits);
            }
            assert_eq!(outbox.is_full(), before, "{queued:?}");
            let total: usize = queued.iter().sum();
            assert_eq!(outbox.capacity_left(&limits), 1_000 - total);
            let bytes = queued[..sent].iter().sum();
            outbox.sent(Time::ZERO, bytes, sent, &limits);
            assert_eq!(outbox.is_full(), after, "{queued:?}, {sent} sent");
            assert_eq!(outbox.bytes(), total - bytes);
        }
    }
}
