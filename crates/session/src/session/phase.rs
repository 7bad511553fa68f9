//! The phases of a session, each with the state that exists only in it.

use std::time::Duration;

use crate::{Generation, status::Activity, timer::Timer};

/// The phase of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No stream is wanted.
    Idle,
    /// The next attempt is scheduled.
    Backoff,
    /// A stream is being opened, held or ended.
    Attempt(Attempt),
    /// Closed for good.
    Closed,
}

/// One attempt to hold a stream. All of this ends with the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) generation: Generation,
    pub(super) stage: Stage,
    /// The configured interval, or the one that the peer asked for.
    pub(super) heartbeat_interval: Option<Duration>,
    /// The peer has promised to acknowledge heartbeats.
    pub(super) expects_acks: bool,
    /// The application reads nothing, so the peer's silence proves nothing.
    pub(super) read_paused: bool,
    /// The purpose of the outstanding probe.
    pub(super) probe: Option<ProbePurpose>,
}

/// The progress of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Opening,
    Greeting,
    Restoring,
    Live {
        /// The stream has lasted for `stable_after`.
        stable: bool,
    },
    Draining {
        /// The caller asked for a new stream after it had left.
        reconnect: bool,
    },
}

/// The purpose of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbePurpose {
    /// To break the peer's silence. A failure is followed by another probe.
    Liveness,
    /// To answer [`Input::Reconnect`](super::Input::Reconnect). A failure replaces the stream.
    Reconnect,
}

impl Phase {
    pub(super) fn activity(&self) -> Activity {
        match self {
            Self::Idle => Activity::Idle,
            Self::Backoff => Activity::Backoff,
            Self::Attempt(attempt) => match attempt.stage {
                Stage::Opening => Activity::Opening,
                Stage::Greeting => Activity::Greeting,
                Stage::Restoring => Activity::Restoring,
                Stage::Live { .. } => Activity::Live,
                Stage::Draining { .. } => Activity::Draining,
            },
            Self::Closed => Activity::Closed,
        }
    }

    /// Returns true if the timer can be armed in this phase. Every transition disarms the others.
    pub(super) fn uses(&self, timer: Timer) -> bool {
        match self {
            Self::Idle | Self::Closed => false,
            Self::Backoff => timer == Timer::Retry,
            Self::Attempt(attempt) => attempt.stage.uses(timer),
        }
    }
}

impl Attempt {
    pub(super) fn new(generation: Generation, heartbeat_interval: Option<Duration>) -> Self {
        Self {
            generation,
            stage: Stage::Opening,
            heartbeat_interval,
            expects_acks: false,
            read_paused: false,
            probe: None,
        }
    }
}

impl Stage {
    pub(super) fn uses(self, timer: Timer) -> bool {
        match timer {
            Timer::Open => self == Self::Opening,
            Timer::Greet => self == Self::Greeting,
            Timer::Restore => self == Self::Restoring,
            Timer::Activity | Timer::Ack | Timer::Heartbeat => {
                matches!(self, Self::Greeting | Self::Restoring | Self::Live { .. })
            }
            // Before live the deadlines of the phases find a dead peer sooner than a probe would.
            Timer::ProbeDue | Timer::Probe | Timer::Stable => matches!(self, Self::Live { .. }),
            Timer::Leave => matches!(self, Self::Draining { .. }),
            // It belongs to `Phase::Backoff`, when there is no attempt.
            Timer::Retry => false,
        }
    }
}
