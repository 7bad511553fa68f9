//! Counters of what happened since the start.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of the streams other than the metrics stream, by kind.
#[derive(Debug, Default)]
pub(super) struct AllStreamCounters([StreamCounters; STREAM_KINDS.len()]);

/// The counters of one kind of stream.
#[derive(Debug, Default)]
pub(super) struct StreamCounters {
    pub(super) queries: Counter,
    pub(super) failed: Counter,
    pub(super) messages: Counter,
}

/// The names of the kinds of streams.
pub(super) const STREAM_KINDS: [&str; 5] = ["topology", "lifecycle", "crash", "pressure", "schema"];

impl AllStreamCounters {
    /// Returns the counters of a kind.
    pub(super) fn of(&self, kind: &'static str) -> &StreamCounters {
        let index = STREAM_KINDS.iter().position(|known| *known == kind);
        &self.0[index.expect("every kind is listed")]
    }

    /// Returns the name and the help text of each counter, and its value for a kind.
    pub(super) fn all(
        &self,
    ) -> [(
        &'static str,
        &'static str,
        impl Fn(&'static str) -> u64 + '_,
    ); 3] {
        type Pick = fn(&StreamCounters) -> &Counter;
        let families: [(_, _, Pick); 3] = [
            ("queries_total", "Queries to agents.", |all| &all.queries),
            (
                "failures_total",
                "Queries without a complete response.",
                |all| &all.failed,
            ),
            ("messages_total", "Messages of responses.", |all| {
                &all.messages
            }),
        ];
        families.map(|(name, help, pick)| (name, help, move |kind| pick(self.of(kind)).get()))
    }
}

/// The reasons for which the policy refuses a peer.
pub(super) const ACCESS_REASONS: [&str; 4] = ["missing", "expired", "invalid", "forbidden"];

/// The reasons for which a registration is refused.
pub(super) const REGISTRATION_REASONS: [&str; 7] = [
    "full",
    "node",
    "identity",
    "forbidden",
    "missing",
    "expired",
    "invalid",
];

/// A counter for each of several reasons.
#[derive(Debug)]
pub(super) struct ByReason<const N: usize> {
    reasons: [&'static str; N],
    counts: [Counter; N],
}

impl<const N: usize> ByReason<N> {
    pub(super) fn new(reasons: [&'static str; N]) -> Self {
        let counts = std::array::from_fn(|_| Counter::default());
        Self { reasons, counts }
    }

    pub(super) fn add(&self, reason: &'static str) {
        let index = self.reasons.iter().position(|known| *known == reason);
        self.counts[index.expect("every reason is listed")].add(1);
    }

    /// Returns the number for each reason.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts.iter().map(Counter::get);
        self.reasons.into_iter().zip(counts)
    }
}

/// Declares each counter once: its field, and its name and help text on `/self-metrics`.
macro_rules! counters {
    ($($field:ident: $name:literal, $help:literal;)*) => {
        /// The proxy's counters, as `/self-metrics` shows them.
        #[derive(Debug)]
        pub(super) struct Counters {
            $(pub(super) $field: Counter,)*
            pub(super) streams: AllStreamCounters,
            /// Registrations that were refused.
            pub(super) refused: ByReason<{ REGISTRATION_REASONS.len() }>,
            /// Streams of agents that the policy refused or ended.
            pub(super) refused_agents: ByReason<{ ACCESS_REASONS.len() }>,
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($field: Counter::default(),)*
                    streams: AllStreamCounters::default(),
                    refused: ByReason::new(REGISTRATION_REASONS),
                    refused_agents: ByReason::new(ACCESS_REASONS),
                }
            }
        }

        impl Counters {
            /// Returns the name, the help text and the value of each counter.
            pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$(($name, $help, self.$field.get()),)*].into_iter()
            }
        }
    };
}

counters! {
    registrations: "registrations_total", "Registrations accepted.";
    replaced: "agents_replaced_total", "Agents that a newer one replaced.";
    forgotten: "agents_forgotten_total", "Agents without a heartbeat for too long.";
    heartbeats: "heartbeats_total", "Heartbeats.";
    renewals: "renewals_total", "Newer credentials accepted on open registrations.";
    requests: "requests_total", "Requests sent to agents.";
    response_parts: "replies_total", "Messages with responses.";
    samples: "samples_total", "Samples taken.";
    rejected: "samples_rejected_total", "Metrics that were invalid.";
    ignored_messages: "messages_dropped_total", "Messages on other streams than the metrics stream that no query asked for.";
    unnamed_streams: "unnamed_streams_total", "Streams without an agent id.";
    unknown_agents: "unknown_agents_total", "Streams of unknown agents.";
    panics: "panics_total", "Handlers that panicked.";
}
