//! Named timers in one table.

use crate::{Time, session::Phase};

/// What a deadline is for. One timer, one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Dialling and opening.
    Open,
    /// The peer's greeting.
    Greet,
    /// The next answer of the restoration.
    Restore,
    /// Silence of the peer.
    Activity,
    /// A heartbeat that is not acknowledged.
    Ack,
    /// Silence after which the peer is asked.
    Ask,
    /// The answer to a probe.
    Probe,
    /// The next heartbeat.
    Heartbeat,
    /// The stream proves itself.
    Stable,
    /// The next attempt.
    Retry,
    /// Our own orderly end.
    Leave,
    /// The protocol's own.
    Protocol,
}

/// When the machine must be stepped again, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The moment.
    pub at: Time,
    /// The timer that asked for it.
    pub timer: Timer,
}

/// The armed timers of a session.
#[derive(Debug, Default)]
pub(crate) struct Timers([Option<Time>; Timer::SESSION.len()]);

impl Timer {
    pub(crate) const SESSION: [Self; 11] = [
        Self::Open,
        Self::Greet,
        Self::Restore,
        Self::Activity,
        Self::Ack,
        Self::Ask,
        Self::Probe,
        Self::Heartbeat,
        Self::Stable,
        Self::Retry,
        Self::Leave,
    ];

    /// Whether the timer means something in the phase. A transition clears all that do not.
    pub(crate) fn belongs_to(self, phase: &Phase) -> bool {
        match self {
            Self::Open => matches!(phase, Phase::Opening(_)),
            Self::Greet => matches!(phase, Phase::Greeting(_)),
            Self::Restore => matches!(phase, Phase::Restoring(_)),
            Self::Activity | Self::Ack | Self::Heartbeat => matches!(
                phase,
                Phase::Greeting(_) | Phase::Restoring(_) | Phase::Live { .. }
            ),
            Self::Ask | Self::Probe | Self::Stable => {
                matches!(phase, Phase::Live { .. })
            }
            Self::Retry => matches!(phase, Phase::Backoff),
            Self::Leave => matches!(phase, Phase::Draining { .. }),
            Self::Protocol => false,
        }
    }
}

const _: () = assert!(Timer::Leave as usize + 1 == Timer::SESSION.len());

impl Timers {
    pub(crate) fn arm(&mut self, timer: Timer, at: Time) {
        self.0[timer as usize] = Some(at);
    }

    pub(crate) fn disarm(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn armed(&self, timer: Timer) -> Option<Time> {
        self.0[timer as usize]
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Drops every timer that means nothing in the phase.
    pub(crate) fn keep_for(&mut self, phase: &Phase) {
        for timer in Timer::SESSION {
            if !timer.belongs_to(phase) {
                self.disarm(timer);
            }
        }
    }

    pub(crate) fn next(&self) -> Option<Deadline> {
        Timer::SESSION
            .into_iter()
            .filter_map(|timer| {
                Some(Deadline {
                    at: self.armed(timer)?,
                    timer,
                })
            })
            .min_by_key(|deadline| deadline.at)
    }

    pub(crate) fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let due = self.next().filter(|deadline| deadline.at <= now)?;
        self.disarm(due.timer);
        Some(due.timer)
    }
}
