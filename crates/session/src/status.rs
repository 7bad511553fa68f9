//! The status of a session, as an observer sees it.

use std::{collections::VecDeque, fmt, sync::Arc};

use crate::{End, Generation, Time, one_line::OneLine};

/// The connection state that users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// No stream is held and none is attempted: not connected yet, left, closed or given up.
    Disconnected,
    /// Working towards the first live stream.
    Connecting,
    /// A stream is live: everything to restore is restored and acknowledged.
    Connected,
    /// Working towards a live stream after the loss of one.
    Reconnecting,
}

/// The current activity of a session, finer than its [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// None.
    Idle,
    /// Waiting for the next attempt.
    Backoff,
    /// Dialling and opening a stream.
    Opening,
    /// Waiting for the peer's greeting.
    Greeting,
    /// Waiting for the responses to the restoration.
    Restoring,
    /// Holding a live stream.
    Live,
    /// Ending its stream in order.
    Draining,
    /// None, for good.
    Closed,
}

/// The cause of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The caller requested it.
    Requested,
    /// A stream became live.
    Live,
    /// A stream or an attempt ended.
    Ended(End),
    /// The peer announced that it stops, with this message; a new stream is being opened.
    PeerDraining(String),
}

/// One change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The number of the transition; the session's first is 1.
    pub number: u64,
    /// The time of the change.
    pub at: Time,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// The cause of the change.
    pub cause: Cause,
    /// The newest attempt at that time.
    pub generation: Generation,
}

/// A snapshot of a session. Cheap to clone and to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The connection state.
    pub state: State,
    /// The current activity.
    pub activity: Activity,
    /// The cause of the state; while reconnecting, the newest failure.
    pub cause: Cause,
    /// The time since which the session is in its state.
    pub since: Time,
    /// The newest attempt; the first is 1.
    pub generation: Generation,
    /// Failed attempts since a stream was last stable.
    pub consecutive_failures: u32,
    /// Failed attempts since the session was created.
    pub failed_attempts: u64,
    /// Streams that became live since the session was created.
    pub streams_established: u64,
    /// Probes that the peer answered since the session was created.
    pub probes_answered: u64,
    /// The time of the next attempt, while one is scheduled.
    pub next_retry_at: Option<Time>,
    /// The number of transitions since the session was created.
    pub transitions: u64,
    /// The newest transitions, at most [`Status::RECENT`], oldest first.
    pub recent: Arc<VecDeque<Transition>>,
}

impl Status {
    /// The maximum number of transitions that a status keeps.
    pub const RECENT: usize = 64;

    pub(crate) fn new() -> Self {
        Self {
            state: State::Disconnected,
            activity: Activity::Idle,
            cause: Cause::Requested,
            since: Time::ZERO,
            generation: Generation(0),
            consecutive_failures: 0,
            failed_attempts: 0,
            streams_established: 0,
            probes_answered: 0,
            next_retry_at: None,
            transitions: 0,
            recent: Arc::default(),
        }
    }

    /// Sets the state and its cause. Returns the transition if the state is a new one.
    pub(crate) fn set_state(
        &mut self,
        now: Time,
        state: State,
        cause: Cause,
    ) -> Option<Transition> {
        let from = self.state;
        // Also without a transition: while reconnecting, the newest failure is the cause.
        self.cause = cause.clone();
        if from == state {
            return None;
        }
        self.state = state;
        self.since = now;
        self.transitions += 1;
        let transition = Transition {
            number: self.transitions,
            at: now,
            from,
            to: state,
            cause,
            generation: self.generation,
        };
        // Copies the list only when an observer still holds the one before. Sharing it keeps equal
        // statuses cheap to compare: an `Arc` is compared by its address first.
        let recent = Arc::make_mut(&mut self.recent);
        if recent.len() == Self::RECENT {
            recent.pop_front();
        }
        recent.push_back(transition.clone());
        Some(transition)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Reconnecting => "reconnecting",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("requested"),
            Self::Live => f.write_str("stream is live"),
            Self::Ended(end) => end.fmt(f),
            Self::PeerDraining(message) => write!(f, "peer is draining: {}", OneLine(message)),
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Backoff => "waiting for the next attempt",
            Self::Opening => "opening",
            Self::Greeting => "waiting for the greeting",
            Self::Restoring => "restoring",
            Self::Live => "live",
            Self::Draining => "draining",
            Self::Closed => "closed",
        })
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number: _,
            at,
            from,
            to,
            cause,
            generation: Generation(attempt),
        } = self;
        write!(f, "{at}: {from} -> {to}, attempt {attempt}: {cause}")
    }
}

/// One line: the state, what the session is doing, why, and what comes next. Times are counted from the
/// start of the driver.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Generation(attempt) = self.generation;
        write!(
            f,
            "{} since {} ({}, attempt {attempt}): {}",
            self.state, self.since, self.activity, self.cause
        )?;
        if self.consecutive_failures > 0 {
            write!(
                f,
                "; failed attempts in a row: {}",
                self.consecutive_failures
            )?;
        }
        if let Some(at) = self.next_retry_at {
            write!(f, "; next attempt at {at}")?;
        }
        Ok(())
    }
}
