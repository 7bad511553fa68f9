//! Delays after registrations that the proxy refuses.
//!
//! A proxy that is away is tried again after each reconnect interval, so that its agents are back as soon
//! as it is. One that says no will say so again: the delay doubles with each refusal in a row.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use steadfast_session::{Advice, End, Reason};

/// The longest delay after a refusal, unless the settings name one.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// The refusals since the last registration, and the delays that follow from them.
#[derive(Debug)]
pub(super) struct Refusals {
    interval: Duration,
    longest: Duration,
    count: AtomicU32,
}

impl Refusals {
    pub(super) fn new(interval: Duration, longest: Duration) -> Self {
        Self {
            interval,
            longest,
            count: AtomicU32::new(0),
        }
    }

    /// Forgets the refusals, because the proxy has accepted the agent.
    pub(super) fn reset(&self) {
        self.count.store(0, Ordering::Relaxed);
    }

    /// Returns the advice after the end of a registration stream, or `None` to keep the end's own.
    pub(super) fn advice(&self, end: &End, is_registered: bool) -> Option<Advice> {
        if !is_registered && is_refusal(&end.reason) {
            let count = self.count.fetch_add(1, Ordering::Relaxed);
            let delay = self.interval.saturating_mul(1 << count.min(16));
            return Some(Advice::Wait(Some(delay.min(self.longest))));
        }
        match end.advice {
            // Whatever the proxy says: it may be replaced by one that accepts the agent.
            Advice::Stop | Advice::Refresh => Some(Advice::Wait(None)),
            Advice::Retry | Advice::NextServer | Advice::Wait(_) => None,
        }
    }
}

/// Tells whether the application behind the connection has refused the agent. A relay in front of a proxy
/// that is away uses other codes.
fn is_refusal(reason: &Reason) -> bool {
    /// Cancelled, deadline exceeded, internal, unavailable and data loss.
    const TRANSIENT: [i32; 5] = [1, 4, 13, 14, 15];
    match reason {
        Reason::Refused(_) => true,
        Reason::Status { code, .. } => *code != 0 && !TRANSIENT.contains(code),
        _ => false,
    }
}
