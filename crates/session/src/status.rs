//! What a session shows of itself.

use std::{collections::VecDeque, fmt};

use crate::{End, Generation, Time};

/// The four states people know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing is held and nothing is tried: not begun, left, closed or given up.
    Disconnected,
    /// Working towards the first live stream.
    Connecting,
    /// A stream is live: whatever was to be restored is restored and acknowledged.
    Connected,
    /// Working towards a live stream after the loss of one.
    Reconnecting,
}

/// What a session is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// Waiting for the next attempt.
    Backoff,
    /// Dialling and opening a stream.
    Opening,
    /// Waiting for the peer's greeting.
    Greeting,
    /// Waiting for the answers to the restoration.
    Restoring,
    /// Holding a live stream.
    Live,
    /// Ending its stream in order.
    Draining,
    /// Nothing, for good.
    Closed,
}

/// Why a session is in its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The caller wished it.
    Requested,
    /// A stream became live.
    Live,
    /// A stream or an attempt ended.
    Ended(End),
    /// The peer announced that it stops; a new stream is on the way.
    PeerDraining(String),
}

/// One change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Counts the transitions of the session from 1.
    pub number: u64,
    /// When.
    pub at: Time,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// The newest attempt at that moment.
    pub generation: Generation,
}

/// A session as an observer sees it. The newest value always tells the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// One of the four states.
    pub state: State,
    /// What the session is busy with.
    pub activity: Activity,
    /// Why it is in its state; while reconnecting, the newest failure.
    pub cause: Cause,
    /// Since when it is in its state.
    pub since: Time,
    /// The newest attempt; counts from 1.
    pub generation: Generation,
    /// Failed attempts in a row.
    pub consecutive_failures: u32,
    /// Attempts that failed since the session was made.
    pub failed_attempts: u64,
    /// Streams that became live since the session was made.
    pub streams_established: u64,
    /// Probes that the peer answered since the session was made.
    pub probes_answered: u64,
    /// When the next attempt is due.
    pub next_retry_at: Option<Time>,
    /// How many transitions there have been.
    pub transitions: u64,
    /// The newest transitions, at most [`Status::RECENT`], oldest first.
    pub recent: VecDeque<Transition>,
}

impl Status {
    /// How many transitions a status remembers.
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
            recent: VecDeque::new(),
        }
    }

    /// Records the state reached, and the transition if it is another one.
    pub(crate) fn reach(&mut self, now: Time, state: State, cause: Cause) -> Option<Transition> {
        let from = self.state;
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
        if self.recent.len() == Self::RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(transition.clone());
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
            Self::Requested => f.write_str("asked for"),
            Self::Live => f.write_str("a stream is live"),
            Self::Ended(end) => end.fmt(f),
            Self::PeerDraining(why) => write!(f, "moving: {why}"),
        }
    }
}
