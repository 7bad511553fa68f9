//! The progress of quiet subscriptions.

use std::time::Duration;

use steadfast_session::Time;
use steadfast_wire::streamer as wire;

use super::{context::Context, stream::Stream, subscriptions::Subscriptions};

/// The progress told on one stream.
///
/// It holds for every subscription that is live when it is told, so that telling it costs nothing per
/// subscription.
#[derive(Debug)]
pub(super) struct Progress {
    /// The number of times that progress was told.
    count: u64,
    /// The offset told last.
    offset: u64,
    /// The highest offset told on the stream, by progress or for a single subscription.
    highest_told: u64,
    next_check: Time,
}

/// The offset that the client knows for one subscription.
#[derive(Debug)]
pub(super) struct KnownOffset {
    /// The offset of the last delivery or response.
    told: u64,
    /// The stream's progress told after this count holds for the subscription as well.
    live_since: u64,
}

impl Progress {
    pub(super) fn new(now: Time) -> Self {
        Self {
            count: 0,
            offset: 0,
            highest_told: 0,
            next_check: now,
        }
    }

    pub(super) fn next_check(&self) -> Time {
        self.next_check
    }

    /// Notes that an offset was told for a single subscription.
    pub(super) fn note_told(&mut self, offset: u64) {
        self.highest_told = self.highest_told.max(offset);
    }

    pub(super) fn schedule(&mut self, now: Time, interval: Duration) {
        self.next_check = now + interval;
    }
}

impl KnownOffset {
    /// Returns the state of a subscription that is behind and whose start was told as `offset`.
    pub(super) fn new(offset: u64) -> Self {
        Self {
            told: offset,
            live_since: NEVER,
        }
    }

    /// Returns the last offset that the client was told by a delivery, a response, or progress.
    pub(super) fn get(&self, progress: &Progress) -> u64 {
        if progress.count > self.live_since {
            self.told.max(progress.offset)
        } else {
            self.told
        }
    }

    /// Notes that the client was told an offset for this subscription.
    pub(super) fn told(&mut self, offset: u64) {
        self.told = offset;
    }

    /// Ends the effect of the stream's progress.
    pub(super) fn fall_behind(&mut self, progress: &Progress) {
        self.told = self.get(progress);
        self.live_since = NEVER;
    }

    /// Begins the effect of the stream's progress.
    pub(super) fn go_live(&mut self, progress: &Progress) {
        self.live_since = progress.count;
    }
}

impl Stream {
    /// Returns true if progress to `offset` would tell something new and can be sent.
    pub(super) fn wants_progress(&self, offset: u64) -> bool {
        self.subscriptions().len() > 0 && !self.outbox.is_full() && self.progress.offset < offset
    }

    /// Counts progress to `offset` as told and returns its message.
    ///
    /// Returns `None` for a plain peer, and if so many subscriptions are behind that their names would
    /// cost more than the progress is worth. Also returns `None` while `offset` is lower than one that
    /// was told before: progress never goes back, whatever the peer makes of it.
    pub(super) fn report_progress(
        &mut self,
        offset: u64,
        subscriptions: &Subscriptions,
        cx: &mut Context,
    ) -> Option<wire::Progress> {
        let behind = self.backlog.len();
        if !self.is_profile()
            || behind > MAX_BEHIND
            || behind * 2 > self.subscriptions().len()
            || offset < self.progress.highest_told
        {
            return None;
        }
        self.progress.count += 1;
        self.progress.offset = offset;
        self.progress.highest_told = offset;
        cx.counters.progress += 1;
        let keys = self.backlog.keys();
        Some(wire::Progress {
            position: Some(cx.wire_position(offset)),
            behind: keys
                .filter_map(|key| Some(subscriptions.get(key)?.id().to_string()))
                .collect(),
        })
    }
}

/// A count that no progress exceeds.
const NEVER: u64 = u64::MAX;
/// The maximum number of names in one progress message; 256 of the longest are 64 KiB.
const MAX_BEHIND: usize = 256;
