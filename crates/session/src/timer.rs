//! Named timers in one table.

use crate::Time;

/// The purpose of a session's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Limit on dialling and opening.
    Open,
    /// Limit on the wait for the peer's greeting.
    Greet,
    /// Limit on the wait for the next response while restoring.
    Restore,
    /// Limit on the peer's silence.
    Activity,
    /// Limit on the wait for a heartbeat's acknowledgement.
    Ack,
    /// Silence after which the peer is probed.
    ProbeDue,
    /// Limit on the wait for the result of a probe.
    Probe,
    /// The next heartbeat.
    Heartbeat,
    /// The time from which a live stream counts as stable.
    Stable,
    /// The next attempt.
    Retry,
    /// Limit on our own orderly end.
    Leave,
}

/// The time by which a session must be stepped again, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time.
    pub at: Time,
    /// The timer that expires then.
    pub timer: Timer,
}

/// The armed timers of a session.
#[derive(Debug, Default)]
pub(crate) struct Timers([Option<Time>; Timer::ALL.len()]);

impl Timer {
    pub(crate) const ALL: [Self; 11] = [
        Self::Open,
        Self::Greet,
        Self::Restore,
        Self::Activity,
        Self::Ack,
        Self::ProbeDue,
        Self::Probe,
        Self::Heartbeat,
        Self::Stable,
        Self::Retry,
        Self::Leave,
    ];
}

/// A time that saturated.
const END_OF_TIME: Time = Time::from_micros(u64::MAX);

const _: () = assert!(Timer::Leave as usize + 1 == Timer::ALL.len());

impl Timers {
    pub(crate) fn arm(&mut self, timer: Timer, at: Time) {
        self.0[timer as usize] = Some(at);
    }

    pub(crate) fn disarm(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// Returns the time at which the timer expires, if it is armed.
    pub(crate) fn armed(&self, timer: Timer) -> Option<Time> {
        self.0[timer as usize]
    }

    /// Disarms every timer for which `keep` returns false.
    pub(crate) fn retain(&mut self, keep: impl Fn(Timer) -> bool) {
        for timer in Timer::ALL {
            if !keep(timer) {
                self.disarm(timer);
            }
        }
    }

    /// Returns the earliest deadline; of equal ones, that of the first timer in [`Timer::ALL`].
    pub(crate) fn next(&self) -> Option<Deadline> {
        // Eleven entries are scanned faster than a heap is kept, and the scan needs no removal of
        // stale entries. It is done several times for each message, so that it must not branch: a scan
        // that skipped the others took a fifth of a client's time.
        let (mut first, mut earliest) = (0, END_OF_TIME);
        for (index, at) in self.0.iter().enumerate() {
            let at = at.unwrap_or(END_OF_TIME);
            // Only an earlier one, so that the first of equal deadlines is found and traces replay.
            first = if at < earliest { index } else { first };
            earliest = earliest.min(at);
        }
        let timer = if earliest < END_OF_TIME {
            Timer::ALL[first]
        } else {
            // A timer that never expires is armed, too.
            let mut all = Timer::ALL.into_iter();
            all.find(|timer| self.armed(*timer).is_some())?
        };
        let at = earliest;
        Some(Deadline { at, timer })
    }

    /// Disarms and returns the earliest timer that has expired by `now`.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let due = self.next().filter(|deadline| deadline.at <= now)?;
        // Before the handler runs, because the handler may arm it again.
        self.disarm(due.timer);
        Some(due.timer)
    }
}
