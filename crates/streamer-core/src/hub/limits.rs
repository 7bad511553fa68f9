//! The limits of one hub.

use std::{fmt, time::Duration};

use crate::filter::FilterLimits;

/// The limits of one hub. The defaults suit a server with a few GiB of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum number of open streams; 10,000. Further streams end with `RESOURCE_EXHAUSTED`.
    pub streams: usize,
    /// Maximum number of subscriptions of one stream; 100,000. Further requests are refused and the
    /// stream goes on.
    pub subscriptions_per_stream: usize,
    /// Maximum number of subscriptions of one principal, on all its streams; 500,000. Further requests are
    /// refused.
    pub subscriptions_per_principal: usize,
    /// Maximum number of subscriptions of all streams; 1,000,000, and at most 16,777,216. Further requests
    /// are refused.
    pub subscriptions: usize,
    /// Maximum length of a subscription id or session id, in bytes; 256.
    pub id_bytes: usize,
    /// Maximum size of the filters of one subscription. Larger requests are refused.
    pub filters: FilterLimits,
    /// Maximum size of a message from a peer, in bytes; 4 MiB. The transport enforces it.
    pub message_bytes: usize,
    /// Maximum size of a delivery, in bytes; 4 MiB, the default of gRPC receivers. An event for more
    /// subscriptions than fit, or for more than 4,096, is sent in several messages.
    pub delivery_bytes: usize,
    /// Unsent bytes at which a stream's deliveries wait in the log; 1 MiB. They resume at half of
    /// it. A larger value absorbs longer bursts and costs that much memory per slow peer.
    pub queue_bytes: usize,
    /// Unsent messages at which a stream's deliveries wait in the log; 1,024.
    pub queue_messages: usize,
    /// Unsent bytes at which a stream is ended; 16 MiB. Deliveries stop long before, so only a peer
    /// that sends requests and never reads the responses reaches it.
    pub outbound_bytes: usize,
    /// Maximum time for which a peer may read nothing of a nonempty queue; 15 minutes, so that the
    /// stream of an application that sleeps for a minute survives.
    pub stall_timeout: Duration,
    /// Maximum number of events between a subscription and the head before its stream is ended.
    /// With `None`, the default, only the log's retention limits it.
    pub max_lag: Option<u64>,
    /// Shortest silence after which a plain peer that has sent heartbeats is ended; 90 seconds. A
    /// peer with a longer interval gets three of its own intervals.
    pub plain_silence: Duration,
    /// Shortest heartbeat interval of a profile peer; 100 ms.
    pub heartbeat_min: Duration,
    /// Longest heartbeat interval of a profile peer; 60 seconds. A peer is ended after three
    /// intervals of silence.
    pub heartbeat_max: Duration,
    /// Interval at which a profile peer learns that the head moved without events for it; 10 seconds.
    pub progress_interval: Duration,
    /// Maximum number of events of one page of a catch-up read; 1,000.
    pub page_events: usize,
    /// Maximum size of one page, in bytes; 1 MiB.
    pub page_bytes: usize,
    /// Maximum number of pages being read or matched at once, and of pages kept in memory while streams
    /// need them; 16. A stream has at most one at a time.
    pub reads: usize,
    /// Maximum number of newest events kept in memory; 4,096. They let a catch-up finish while
    /// others publish.
    pub tail_events: usize,
    /// Maximum size of the newest events kept in memory, in bytes; 4 MiB.
    pub tail_bytes: usize,
    /// Budget of one slice of matching, in candidates; 16,384, a few milliseconds. The driver handles
    /// messages between slices, so it bounds how long heartbeats and requests wait.
    pub slice: u64,
    /// Maximum number of committed events waiting in memory to be matched; 16,384. Beyond it the
    /// collections with the longest queues read their events back from the log.
    pub unmatched_events: usize,
    /// Maximum size of the committed events waiting in memory to be matched, in bytes; 16 MiB.
    pub unmatched_bytes: usize,
    /// Maximum number of documents of one window, with its reserve; 2,048. Larger requests are refused. While
    /// a window begins, the server keeps the places of so many documents.
    pub window_documents: usize,
    /// Delay after which a refused profile peer may reconnect; 5 seconds.
    pub retry_after: Duration,
    /// Delay after which a profile peer of a stopping server may reconnect; 1 second.
    pub drain_retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 10_000,
            subscriptions_per_stream: 100_000,
            subscriptions_per_principal: 500_000,
            subscriptions: 1_000_000,
            id_bytes: 256,
            filters: FilterLimits::default(),
            message_bytes: 4 * MIB,
            delivery_bytes: 4 * MIB,
            queue_bytes: MIB,
            queue_messages: 1_024,
            outbound_bytes: 16 * MIB,
            stall_timeout: Duration::from_secs(15 * 60),
            max_lag: None,
            plain_silence: Duration::from_secs(90),
            heartbeat_min: Duration::from_millis(100),
            heartbeat_max: Duration::from_secs(60),
            progress_interval: Duration::from_secs(10),
            page_events: 1_000,
            page_bytes: MIB,
            reads: 16,
            tail_events: 4_096,
            tail_bytes: 4 * MIB,
            slice: 16_384,
            unmatched_events: 16_384,
            unmatched_bytes: 16 * MIB,
            window_documents: 2_048,
            retry_after: Duration::from_secs(5),
            drain_retry_after: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// Checks that the limits are consistent.
    ///
    /// # Errors
    ///
    /// Returns every inconsistency at once.
    pub fn check(&self) -> Result<(), InvalidLimits> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        for (name, value) in [
            ("streams", self.streams),
            ("subscriptions_per_stream", self.subscriptions_per_stream),
            (
                "subscriptions_per_principal",
                self.subscriptions_per_principal,
            ),
            ("subscriptions", self.subscriptions),
            ("delivery_bytes", self.delivery_bytes),
            ("queue_messages", self.queue_messages),
            ("queue_bytes", self.queue_bytes),
            ("page_events", self.page_events),
            ("page_bytes", self.page_bytes),
            ("reads", self.reads),
            ("tail_events", self.tail_events),
            ("tail_bytes", self.tail_bytes),
            ("unmatched_events", self.unmatched_events),
            ("unmatched_bytes", self.unmatched_bytes),
        ] {
            require(value > 0, format!("{name} must be at least 1"));
        }
        for (name, value) in [
            ("stall_timeout", self.stall_timeout),
            ("plain_silence", self.plain_silence),
            ("heartbeat_min", self.heartbeat_min),
            ("progress_interval", self.progress_interval),
        ] {
            require(!value.is_zero(), format!("{name} must be greater than 0"));
        }
        require(
            // A client could not name the subscription that the server named for it.
            self.id_bytes >= UUID_BYTES,
            format!(
                "id_bytes ({}) must be at least {UUID_BYTES}, the length of an id that the server assigns",
                self.id_bytes
            ),
        );
        require(
            // Otherwise deliveries alone would end a stream, before they wait in the log.
            self.outbound_bytes > self.queue_bytes,
            format!(
                "outbound_bytes ({}) must be greater than queue_bytes ({})",
                self.outbound_bytes, self.queue_bytes
            ),
        );
        require(
            self.heartbeat_max >= self.heartbeat_min,
            format!(
                "heartbeat_max ({:?}) must be at least heartbeat_min ({:?})",
                self.heartbeat_max, self.heartbeat_min
            ),
        );
        require(
            self.subscriptions <= MAX_SUBSCRIPTIONS,
            format!("subscriptions must be at most {MAX_SUBSCRIPTIONS}"),
        );
        require(self.slice > 0, "slice must be at least 1".to_owned());
        require(
            self.max_lag != Some(0),
            "max_lag must be at least 1, or unset".to_owned(),
        );
        if faults.is_empty() {
            Ok(())
        } else {
            Err(InvalidLimits { faults })
        }
    }
}

/// An error: the limits are inconsistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLimits {
    /// One sentence for each inconsistency.
    pub faults: Vec<String>,
}

impl fmt::Display for InvalidLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid limits: {}", self.faults.join("; "))
    }
}

impl std::error::Error for InvalidLimits {}

/// The largest number of subscriptions; a power of two.
pub(super) const MAX_SUBSCRIPTIONS: usize = 1 << 24;

const MIB: usize = 1024 * 1024;
/// The length of a UUID as text.
const UUID_BYTES: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_limits_are_consistent() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn check_reports_every_inconsistency() {
        let limits = Limits {
            streams: 0,
            reads: 0,
            id_bytes: 8,
            outbound_bytes: 10,
            queue_bytes: 10,
            max_lag: Some(0),
            stall_timeout: Duration::ZERO,
            heartbeat_max: Duration::from_millis(1),
            subscriptions: MAX_SUBSCRIPTIONS + 1,
            ..Limits::default()
        };
        let faults = limits.check().unwrap_err().faults;
        assert_eq!(faults.len(), 8, "{faults:#?}");
    }
}
