//! The progress of quiet subscriptions.

use std::time::Duration;

use steadfast_session::Time;

/// The progress sent on one stream.
///
/// It holds for every subscription that is live when it is sent, so that sending it costs nothing per
/// subscription.
#[derive(Debug)]
pub(super) struct Progress {
    /// The number of times that progress was sent.
    count: u64,
    /// The offset sent last.
    offset: u64,
    /// The highest offset sent on the stream, by progress or for a single subscription.
    highest_sent: u64,
    next_check: Time,
}

/// The offset that the client knows for one subscription.
#[derive(Debug)]
pub(super) struct KnownOffset {
    /// The offset of the last delivery or response.
    sent: u64,
    /// The stream's progress sent after this count holds for the subscription as well.
    live_since: u64,
}

impl Progress {
    pub(super) fn new(now: Time) -> Self {
        Self {
            count: 0,
            offset: 0,
            highest_sent: 0,
            // A hello sets it; for a plain peer it only schedules the check of `max_lag`.
            next_check: now,
        }
    }

    pub(super) fn next_check(&self) -> Time {
        self.next_check
    }

    /// Notes that an offset was sent for a single subscription.
    pub(super) fn note_sent(&mut self, offset: u64) {
        self.highest_sent = self.highest_sent.max(offset);
    }

    /// Returns the offset that progress sent last.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the highest offset sent on the stream.
    pub(super) fn highest_sent(&self) -> u64 {
        self.highest_sent
    }

    /// Notes that progress to an offset was sent.
    pub(super) fn note_progress(&mut self, offset: u64) {
        self.count += 1;
        self.offset = offset;
        self.highest_sent = offset;
    }

    pub(super) fn schedule(&mut self, now: Time, interval: Duration) {
        self.next_check = now + interval;
    }
}

impl KnownOffset {
    /// Returns the state of a subscription that is behind and whose start was sent as `offset`.
    pub(super) fn new(offset: u64) -> Self {
        Self {
            sent: offset,
            live_since: NEVER,
        }
    }

    /// Returns the last offset that was sent to the client in a delivery, a response, or progress.
    pub(super) fn get(&self, progress: &Progress) -> u64 {
        // Progress that was sent before the subscription was live did not hold for it: R-38 names
        // those behind.
        if progress.count > self.live_since {
            self.sent.max(progress.offset)
        } else {
            self.sent
        }
    }

    /// Notes that an offset was sent to the client for this subscription.
    pub(super) fn note_sent(&mut self, offset: u64) {
        self.sent = offset;
    }

    /// Ends the effect of the stream's progress.
    pub(super) fn fall_behind(&mut self, progress: &Progress) {
        // Frozen now: later progress of the stream names this subscription as behind.
        self.sent = self.get(progress);
        self.live_since = NEVER;
    }

    /// Begins the effect of the stream's progress.
    pub(super) fn go_live(&mut self, progress: &Progress) {
        self.live_since = progress.count;
    }
}

/// A count that no progress exceeds.
const NEVER: u64 = u64::MAX;
