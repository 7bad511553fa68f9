//! What an uplink has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// One count, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

/// What is counted while it happens.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) registrations: Count,
    pub(crate) refused: Count,
    pub(crate) heartbeats: Count,
    pub(crate) metrics_streams: Count,
    pub(crate) switched_off: Count,
    pub(crate) questions: Count,
    pub(crate) answers: Count,
    pub(crate) samples: Count,
    pub(crate) cut: Count,
    pub(crate) failed: Count,
}

/// Totals since the uplink was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Registrations that the proxy answered with success and an id.
    pub registrations: u64,
    /// Registrations that it refused.
    pub refused: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Metrics streams begun.
    pub metrics_streams: u64,
    /// Registrations on which the metrics stream was switched off, as not implemented by the proxy.
    pub switched_off: u64,
    /// Questions received.
    pub questions: u64,
    /// Answers sent whole to the last part, on the stream that asked.
    pub answers: u64,
    /// Samples in them.
    pub samples: u64,
    /// Answers with less than was asked for, for want of room or time.
    pub cut: u64,
    /// Times the record could not be read, or not in time.
    pub failed: u64,
}

impl Count {
    pub(crate) fn count(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    pub(crate) fn now(&self) -> Counters {
        Counters {
            registrations: self.registrations.now(),
            refused: self.refused.now(),
            heartbeats: self.heartbeats.now(),
            metrics_streams: self.metrics_streams.now(),
            switched_off: self.switched_off.now(),
            questions: self.questions.now(),
            answers: self.answers.now(),
            samples: self.samples.now(),
            cut: self.cut.now(),
            failed: self.failed.now(),
        }
    }
}
