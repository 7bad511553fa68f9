//! The metrics of a hub.

use super::{Hub, end_cause::EndCause};

/// A snapshot of a hub's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The current amounts.
    pub gauges: Gauges,
    /// The totals since the hub was created.
    pub counters: Counters,
}

/// The amounts that a hub holds now.
///
/// All of them are zero when no stream is open, no read is in progress, and everything is matched;
/// otherwise something leaked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gauges {
    /// Open streams, including those being refused.
    pub streams: usize,
    /// Open streams that speak the resume profile.
    pub profile_streams: usize,
    /// Open streams that are being refused.
    pub refused_streams: usize,
    /// Sessions held by a stream.
    pub sessions: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Subscriptions to one document by its id.
    pub document_subscriptions: usize,
    /// Subscriptions to every document of a collection.
    pub collection_subscriptions: usize,
    /// Subscriptions with other filters.
    pub filter_subscriptions: usize,
    /// Subscriptions that are told when a document leaves their filter.
    pub left_subscriptions: usize,
    /// Subscriptions that asked for a snapshot.
    pub snapshot_subscriptions: usize,
    /// Subscriptions that are behind.
    pub behind: usize,
    /// Ids taken in the namespace of plain peers.
    pub plain_ids: usize,
    /// Bytes queued and not sent.
    pub queued_bytes: usize,
    /// Messages queued and not sent.
    pub queued_messages: usize,
    /// Pages of the log and of documents being read or matched.
    pub reads: usize,
    /// Committed events in memory that are not matched yet.
    pub unmatched: usize,
    /// Overloaded collections: more of their events wait than fit into memory, so they are read back
    /// from the log.
    pub overloaded: usize,
    /// Timers.
    pub timers: usize,
}

/// Totals of a hub since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Streams opened.
    pub opened: u64,
    /// Streams ended, for any cause.
    pub ended: u64,
    /// Streams ended because a newer stream of the session took over.
    pub fenced: u64,
    /// Streams ended because the session had a newer stream already.
    pub late: u64,
    /// Streams ended because they exceeded a limit.
    pub evicted: u64,
    /// Streams ended because the server had too many.
    pub full: u64,
    /// Streams ended because the peer was silent.
    pub silent: u64,
    /// Streams ended because the peer broke the protocol.
    pub misused: u64,
    /// Streams ended because the credentials of the peer were not valid any more.
    pub unauthenticated: u64,
    /// Streams ended because the rights of the peer changed.
    pub rights_changed: u64,
    /// Streams ended by a drain.
    pub drained: u64,
    /// Streams ended because the log failed.
    pub failed: u64,
    /// Subscribe requests refused.
    pub refused_subscriptions: u64,
    /// Subscribe requests refused because their principal had too many subscriptions.
    pub principals_full: u64,
    /// Subscriptions that moved from an older stream to a newer one.
    pub taken_over: u64,
    /// Committed events received.
    pub events: u64,
    /// Committed events whose data is not a JSON object, so that no condition was evaluated.
    pub unreadable: u64,
    /// Filters and subscriptions that were looked up as possible matches of committed events.
    pub candidates: u64,
    /// Subscriptions that committed events matched.
    pub matched: u64,
    /// Deliveries queued.
    pub deliveries: u64,
    /// Subscription ids in the deliveries.
    pub delivered_ids: u64,
    /// Times that a subscription fell behind.
    pub fell_behind: u64,
    /// Times that a subscription became live again.
    pub caught_up: u64,
    /// Progress reports sent.
    pub progress: u64,
    /// Slices of matching.
    pub slices: u64,
    /// The cost of all matching, in candidates and what costs as much as one.
    pub match_cost: u64,
    /// Times that the waiting events of a collection were dropped, to be read back from the log.
    pub overloads: u64,
    /// Documents of snapshots sent.
    pub snapshot_documents: u64,
    /// Events sent to subscriptions because their documents may have left the filter.
    pub left: u64,
    /// Pages read.
    pub pages: u64,
    /// Events matched for catch-up.
    pub page_events: u64,
    /// Reads that failed.
    pub read_faults: u64,
    /// Times that a subscription lost events and continued at the head.
    pub resyncs: u64,
}

impl Counters {
    pub(super) fn count_end(&mut self, cause: &EndCause) {
        self.ended += 1;
        match cause {
            EndCause::Finished => {}
            EndCause::StaleAttempt { .. } => self.late += 1,
            EndCause::Fenced { .. } => self.fenced += 1,
            EndCause::Unread { .. } | EndCause::Stalled(_) | EndCause::Lagging { .. } => {
                self.evicted += 1;
            }
            EndCause::ServerFull { .. } => self.full += 1,
            EndCause::Drained(_) => self.drained += 1,
            EndCause::Unauthenticated(_) => self.unauthenticated += 1,
            EndCause::RightsChanged => self.rights_changed += 1,
            EndCause::Misuse(_) => self.misused += 1,
            EndCause::Silent(_) => self.silent += 1,
            EndCause::Storage(_) | EndCause::EventsLost(_) => self.failed += 1,
        }
    }
}

impl Hub {
    /// Returns a snapshot of the metrics. Visits every stream; [`Hub::survey`] does so in slices.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut gauges = self.quick_gauges();
        for stream in self.streams.iter() {
            gauges.add_stream(stream);
        }
        Stats {
            gauges,
            counters: self.cx.counters,
        }
    }

    /// Returns the gauges that are known without a visit of each stream.
    pub(super) fn quick_gauges(&self) -> Gauges {
        Gauges {
            streams: self.streams.len(),
            refused_streams: self.streams.refused(),
            sessions: self.streams.sessions(),
            timers: self.streams.timers(),
            plain_ids: self.subscriptions.plain_ids(),
            reads: self.catch_up.pages() + self.documents.len(),
            unmatched: self.matching.events(),
            overloaded: self.matching.overloaded(),
            ..self.subscriptions.gauges()
        }
    }
}
