//! Figures of a hub.

use super::{Cause, Hub, Peer};

/// What a hub holds and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// What it holds now.
    pub held: Held,
    /// What it has done since it began.
    pub counters: Counters,
}

/// What a hub holds. All of it is zero when no stream is open and no read is under way; anything else
/// is a leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// Open streams, those being turned away included.
    pub streams: usize,
    /// Of them, those that speak the resume profile.
    pub profile_streams: usize,
    /// Of them, those being turned away.
    pub refused_streams: usize,
    /// Sessions with a fence.
    pub sessions: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Of them, those that are behind.
    pub behind: usize,
    /// Ids taken in the namespace of plain peers.
    pub plain_ids: usize,
    /// Bytes queued and not sent.
    pub queued_bytes: usize,
    /// Messages queued and not sent.
    pub queued_messages: usize,
    /// Reads of the log under way.
    pub reads: usize,
    /// Timers.
    pub timers: usize,
}

/// What a hub has done. Counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Streams opened.
    pub opened: u64,
    /// Streams ended, for whatever reason.
    pub ended: u64,
    /// Of them, those ended for a newer stream of the same session.
    pub fenced: u64,
    /// Of them, those that were themselves the older ones.
    pub late: u64,
    /// Of them, those that could not be kept within their limits.
    pub evicted: u64,
    /// Of them, those for which there was no place.
    pub full: u64,
    /// Of them, those that were silent for too long.
    pub silent: u64,
    /// Of them, those that broke the protocol.
    pub misused: u64,
    /// Of them, those ended by a drain.
    pub drained: u64,
    /// Of them, those ended by the log.
    pub failed: u64,
    /// Subscribe requests refused.
    pub refused_subscriptions: u64,
    /// Subscriptions that moved from an older stream to a newer one.
    pub taken_over: u64,
    /// Committed changes seen.
    pub events: u64,
    /// Of them, those whose data is no JSON object, so that no filter could look into them.
    pub unreadable: u64,
    /// Deliveries queued.
    pub deliveries: u64,
    /// Subscription ids in them.
    pub delivered_ids: u64,
    /// Times a subscription fell behind.
    pub fell_behind: u64,
    /// Times a subscription came back to the head.
    pub caught_up: u64,
    /// Times progress was told.
    pub progress: u64,
    /// Pages read.
    pub pages: u64,
    /// Changes looked at for streams that catch up.
    pub page_events: u64,
    /// Reads that failed.
    pub read_faults: u64,
    /// Times a subscription had to go on at the head.
    pub resyncs: u64,
}

impl Counters {
    pub(super) fn count_end(&mut self, cause: &Cause) {
        self.ended += 1;
        match cause {
            Cause::Finished => {}
            Cause::Late { .. } => self.late += 1,
            Cause::Fenced { .. } => self.fenced += 1,
            Cause::Unread { .. } | Cause::Stalled(_) | Cause::Lagging { .. } => self.evicted += 1,
            Cause::Full { .. } => self.full += 1,
            Cause::Drained(_) => self.drained += 1,
            Cause::Misuse(_) => self.misused += 1,
            Cause::Silent(_) => self.silent += 1,
            Cause::Storage(_) | Cause::Lost(_) => self.failed += 1,
        }
    }
}

impl Hub {
    /// What it holds and what it has done. Costs a look at each stream.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut held = Held {
            streams: self.streams.len(),
            refused_streams: self.refused.len(),
            sessions: self.sessions.len(),
            subscriptions: self.subscriptions.len(),
            plain_ids: self.plain.len(),
            reads: self.reads.under_way(),
            timers: self.agenda.len(),
            ..Held::default()
        };
        for stream in self.streams.values() {
            held.profile_streams += usize::from(matches!(stream.peer, Peer::Profile(_)));
            held.behind += stream.backlog.len();
            held.queued_bytes += stream.outbox.bytes();
            held.queued_messages += stream.outbox.messages();
        }
        Stats {
            held,
            counters: self.counters,
        }
    }
}
