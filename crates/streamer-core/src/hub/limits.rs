//! What one server takes on, and for how long it waits.

use std::{fmt, time::Duration};

use crate::filter::FilterLimits;

/// Bounds of one hub. The defaults fit a server with a few GiB of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Streams open at once; 10,000. One more is refused with `RESOURCE_EXHAUSTED`.
    pub streams: usize,
    /// Subscriptions of one stream; 100,000. One more is refused, the stream goes on.
    pub subscriptions_per_stream: usize,
    /// Subscriptions of all streams; 1,000,000. One more is refused.
    pub subscriptions: usize,
    /// Length of a subscription id and of a session id, bytes; 256.
    pub id_bytes: usize,
    /// Filters of one subscription. More are refused.
    pub filters: FilterLimits,
    /// Largest message taken from a peer, bytes; 4 MiB. The transport holds it, before the hub.
    pub message_bytes: usize,
    /// Largest delivery sent; 4 MiB, which is what gRPC peers take unless told otherwise. The ids of
    /// more subscriptions go out in further messages; each has at least one.
    pub delivery_bytes: usize,
    /// Unsent bytes of one stream from which on deliveries wait in the log instead; 1 MiB. They
    /// start again at half of it. A larger value smooths bursts and costs this much per slow peer.
    pub queue_bytes: usize,
    /// Unsent messages of one stream from which on deliveries wait in the log; 1,024.
    pub queue_messages: usize,
    /// Unsent bytes of one stream at which it is ended; 16 MiB. Deliveries stop long before, so only
    /// answers get there: those to a peer which asks and never reads.
    pub outbound_bytes: usize,
    /// How long a stream may leave what was queued for it untouched; 15 minutes. An application that
    /// sleeps for a minute is not dead.
    pub stall_timeout: Duration,
    /// How many events a subscription may be behind the head before its stream is ended; `None`, the
    /// default, leaves it to the log's retention.
    pub max_lag: Option<u64>,
    /// Shortest silence after which a plain peer that has sent heartbeats is given up; 90 seconds.
    /// One that sends them more rarely is given three times its own interval.
    pub plain_silence: Duration,
    /// Shortest heartbeat interval of a profile peer; 100 ms.
    pub heartbeat_min: Duration,
    /// Longest heartbeat interval of a profile peer; 60 seconds. A peer that is silent for three of
    /// its intervals is given up.
    pub heartbeat_max: Duration,
    /// How often a profile peer hears of a head that moved without anything for it; 10 seconds.
    pub progress_interval: Duration,
    /// Events of one page read from the log for a stream that catches up; 1,000.
    pub page_events: usize,
    /// Bytes of one page; 1 MiB.
    pub page_bytes: usize,
    /// Pages being read at once, one per stream at most; 16.
    pub reads: usize,
    /// Newest events kept in memory, so that catching up has an end while others publish; 4,096.
    pub tail_events: usize,
    /// Bytes of the newest events kept in memory; 4 MiB.
    pub tail_bytes: usize,
    /// When a refused profile peer may come back; 5 seconds.
    pub retry_after: Duration,
    /// When a profile peer of a server that stops may come back; 1 second.
    pub drain_retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 10_000,
            subscriptions_per_stream: 100_000,
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
            retry_after: Duration::from_secs(5),
            drain_retry_after: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// Checks that the limits can work together.
    ///
    /// # Errors
    ///
    /// With every fault at once.
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
            ("subscriptions", self.subscriptions),
            ("delivery_bytes", self.delivery_bytes),
            ("queue_messages", self.queue_messages),
            ("queue_bytes", self.queue_bytes),
            ("page_events", self.page_events),
            ("page_bytes", self.page_bytes),
            ("reads", self.reads),
            ("tail_events", self.tail_events),
            ("tail_bytes", self.tail_bytes),
        ] {
            require(value > 0, format!("{name} must be at least 1"));
        }
        for (name, value) in [
            ("stall_timeout", self.stall_timeout),
            ("plain_silence", self.plain_silence),
            ("heartbeat_min", self.heartbeat_min),
            ("progress_interval", self.progress_interval),
        ] {
            require(!value.is_zero(), format!("{name} must be longer than 0"));
        }
        require(
            self.id_bytes >= UUID_BYTES,
            format!(
                "id_bytes is {}, ids made by the server need {UUID_BYTES}",
                self.id_bytes
            ),
        );
        require(
            self.outbound_bytes > self.queue_bytes,
            format!(
                "outbound_bytes ({}) must be more than queue_bytes ({})",
                self.outbound_bytes, self.queue_bytes
            ),
        );
        require(
            self.heartbeat_max >= self.heartbeat_min,
            format!(
                "heartbeat_max ({:?}) must not be below heartbeat_min ({:?})",
                self.heartbeat_max, self.heartbeat_min
            ),
        );
        require(
            self.max_lag != Some(0),
            "max_lag must be at least 1, or absent".to_owned(),
        );
        if faults.is_empty() {
            Ok(())
        } else {
            Err(InvalidLimits { faults })
        }
    }
}

/// Limits that can not work, every fault of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLimits {
    /// One sentence each.
    pub faults: Vec<String>,
}

impl fmt::Display for InvalidLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid limits: {}", self.faults.join("; "))
    }
}

impl std::error::Error for InvalidLimits {}

const MIB: usize = 1024 * 1024;
/// Length of a UUID as text.
const UUID_BYTES: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_together() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let limits = Limits {
            streams: 0,
            reads: 0,
            id_bytes: 8,
            outbound_bytes: 10,
            queue_bytes: 10,
            max_lag: Some(0),
            stall_timeout: Duration::ZERO,
            heartbeat_max: Duration::from_millis(1),
            ..Limits::default()
        };
        let faults = limits.check().unwrap_err().faults;
        assert_eq!(faults.len(), 7, "{faults:#?}");
    }
}
