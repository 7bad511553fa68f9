//! The messages that tell progress.

use steadfast_wire::streamer as wire;

use super::{context::Context, stream::Stream, subscriptions::Subscriptions};

impl Stream {
    /// Returns true if progress to `offset` would tell something new and can be sent.
    pub(super) fn wants_progress(&self, offset: u64) -> bool {
        self.subscriptions().len() > 0 && !self.outbox.is_full() && self.progress.offset() < offset
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
            // Then most of the message would be names of subscriptions for which it says nothing.
            || behind * 2 > self.subscriptions().len()
            // Equal is allowed: heartbeat acks carry it so that a client learns that nothing is
            // missing.
            || offset < self.progress.highest_sent()
        {
            return None;
        }
        self.progress.note_progress(offset);
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

/// The maximum number of names in one progress message; 256 of the longest are 64 KiB.
const MAX_BEHIND: usize = 256;
