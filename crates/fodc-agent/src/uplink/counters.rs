//! Counters of an uplink.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that any thread may increment.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares the counters once, as shared atomics and as the public snapshot of their values.
macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// The running counters.
        #[derive(Debug, Default)]
        pub(crate) struct AtomicCounters {
            $(pub(crate) $name: Counter,)*
        }

        /// Totals since the uplink was built.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $(#[doc = $doc] pub $name: u64,)*
        }

        impl Counters {
            /// Returns the name, the description and the value of each counter.
            pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), $doc.trim().trim_end_matches('.'), self.$name),)*].into_iter()
            }
        }

        impl AtomicCounters {
            pub(crate) fn snapshot(&self) -> Counters {
                Counters {
                    $($name: self.$name.get(),)*
                }
            }
        }
    };
}

counters! {
    /// Registrations that the proxy accepted with an id.
    registrations,
    /// Registrations that the proxy refused.
    refused,
    /// Heartbeats sent.
    heartbeats,
    /// Newer credentials that the proxy accepted on an open registration.
    renewals,
    /// Metrics streams opened.
    metrics_streams,
    /// Registrations whose proxy does not implement the metrics stream.
    switched_off,
    /// Queries received.
    queries,
    /// Responses sent to the last part on the stream of their query.
    responses,
    /// Samples in those responses.
    samples,
    /// Responses that hold less than was asked for, for lack of space or time.
    truncated,
    /// Reads of the store that failed or did not finish in time.
    failed,
    /// Samples left out because the JSON of a plain proxy cannot hold NaN or infinities.
    not_finite,
}
