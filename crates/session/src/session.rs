//! The machine: one entry point, every effect out before it returns.
//!
//! What an input does is told where it belongs: what callers ask for in `requests`, the way from a
//! call to a live stream in `opening`, signs of life in `liveness`, ends and the attempts after
//! them in `attempts`.

mod attempts;
mod liveness;
mod opening;
mod requests;

use std::time::Duration;

use crate::{
    Generation, Signal, Time,
    backoff::Backoff,
    config::{CheckedConfig, Config},
    end::{End, Initiator, Reason},
    session::{attempts::Credentials, liveness::Probe},
    status::{Activity, Cause, State, Status, Transition},
    timer::{Deadline, Timer, Timers},
};

/// Everything that can happen to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The caller wants a live stream. Harmless when one is held or on the way.
    Connect,
    /// The caller doubts the stream: probe it, and replace it unless it answers.
    Reconnect,
    /// The caller leaves: end the stream in order, attempt nothing afterwards. Can be connected again.
    Leave,
    /// End everything now, for good.
    Close,
    /// The connection has taken the request.
    Accepted(Generation),
    /// The response headers have arrived.
    Headers(Generation),
    /// Bytes of the response have arrived, be it a part of a message.
    Received(Generation),
    /// A whole message has arrived and is about to be told to the protocol.
    Message(Generation),
    /// The stream ended, or could not be opened.
    Ended(Generation, End),
    /// The answer to a probe: whether the peer made one.
    Probed(Generation, bool),
    /// The application does not take what was received, so nothing more is read (`true`); it does
    /// again (`false`). A peer that may not send can not be called silent.
    ReadPaused(Generation, bool),
    /// The protocol has something to say.
    Signal(Generation, Signal),
    /// A deadline may have passed.
    Tick,
}

/// Everything a session asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial and open a stream, with new credentials if `refresh`.
    Open {
        /// Names the attempt.
        generation: Generation,
        /// The peer refused the credentials of the last attempt.
        refresh: bool,
    },
    /// End our half of the stream.
    Finish(Generation),
    /// Drop the stream and the connection it dialled.
    Kill(Generation),
    /// Ask the peer whether it lives.
    Probe(Generation),
    /// Have the protocol send a heartbeat.
    Heartbeat(Generation),
    /// The stream is live.
    Up(Generation),
    /// The stream, or the attempt at it, is over.
    Down(Generation, End),
    /// Nothing more will be attempted unless the caller connects again.
    Stopped(End),
    /// The state changed.
    Changed(Transition),
}

/// The phases, each with what is known in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Idle,
    Backoff,
    Opening(Generation),
    Greeting(Generation),
    Restoring(Generation),
    Live {
        generation: Generation,
        proven: bool,
    },
    Draining {
        generation: Generation,
        /// The caller has asked for a stream again meanwhile.
        again: bool,
    },
    Closed,
}

/// The machine of one resilient stream.
///
/// ```text
///          Connect          Accepted/Headers        Greeted            Restored
///   Idle ----------> Opening ------------> Greeting -------> Restoring --------> Live
///    ^                ^    \                  | \               | \              /  |
///    |          Retry |     \  Ended, or the phase's deadline passed            /   | Leave
///    |                |      v                v                 v              v    v
///    +--- given up -- Backoff <------------------------------------------------  Draining
///    +-------------------------------------------------------------------------------+
///   Close: from everywhere to Closed.
/// ```
///
/// [`Ready`](crate::Ready) says which of the middle phases there are. Each has its own deadline and its own
/// [`Reason`].
#[derive(Debug)]
pub struct Session {
    config: CheckedConfig,
    phase: Phase,
    timers: Timers,
    backoff: Backoff,
    status: Status,
    last_start: Option<Time>,
    was_live: bool,
    credentials: Credentials,
    probe: Probe,
    heartbeat_interval: Option<Duration>,
    expects_acks: bool,
    held: bool,
    now: Time,
}

impl Session {
    /// A session that has done nothing yet. Equal seeds and inputs give equal outputs.
    #[must_use]
    pub fn new(config: CheckedConfig, seed: u64) -> Self {
        let heartbeat_interval = config.settings().heartbeat_interval;
        Self {
            config,
            phase: Phase::Idle,
            timers: Timers::default(),
            backoff: Backoff::new(seed),
            status: Status::new(),
            last_start: None,
            was_live: false,
            credentials: Credentials::Good,
            probe: Probe::None,
            heartbeat_interval,
            expects_acks: false,
            held: false,
            now: Time::ZERO,
        }
    }

    /// Feeds one input, then every timer that is due, and returns the next deadline. Everything the
    /// driver must do is in `out` when this returns; nothing is left queued inside.
    ///
    /// # Panics
    ///
    /// In debug builds, if time runs backwards or an invariant is broken.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Vec<Action>) -> Option<Deadline> {
        debug_assert!(self.now <= now, "time must not run backwards");
        self.now = now;
        self.on_input(now, input, out);
        while let Some(timer) = self.timers.pop_due(now) {
            self.on_timer(now, timer, out);
        }
        self.status.next_retry_at = self.timers.armed(Timer::Retry);
        self.check();
        self.timers.next()
    }

    /// When the session must be stepped again.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.timers.next()
    }

    /// The session as an observer sees it.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The stream that is being opened or held.
    #[must_use]
    pub fn current(&self) -> Option<Generation> {
        match self.phase {
            Phase::Idle | Phase::Backoff | Phase::Closed => None,
            Phase::Opening(generation)
            | Phase::Greeting(generation)
            | Phase::Restoring(generation)
            | Phase::Live { generation, .. }
            | Phase::Draining { generation, .. } => Some(generation),
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.config.settings()
    }

    fn on_input(&mut self, now: Time, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Connect => self.on_connect(now, out),
            Input::Reconnect => self.on_reconnect(now, out),
            Input::Leave => self.on_leave(now, out),
            Input::Close => self.on_close(now, out),
            Input::Tick => {}
            Input::Accepted(from) => self.if_current(from, |s| s.on_accepted(now, from, out)),
            Input::Headers(from) => self.if_current(from, |s| s.on_headers(now, from, out)),
            Input::Received(from) => self.if_current(from, |s| s.on_received(now)),
            Input::Message(from) => self.if_current(from, |s| {
                s.on_headers(now, from, out);
                s.on_received(now);
            }),
            Input::Ended(from, end) => self.if_current(from, |s| s.lose(now, end, out)),
            Input::Probed(from, alive) => self.if_current(from, |s| s.on_probed(now, alive, out)),
            Input::ReadPaused(from, held) => self.if_current(from, |s| s.on_held(now, held)),
            Input::Signal(from, signal) => {
                self.if_current(from, |s| s.on_signal(now, from, signal, out));
            }
        }
    }

    /// Anything an older attempt still has to say is void.
    fn if_current(&mut self, from: Generation, then: impl FnOnce(&mut Self)) {
        if self.current() == Some(from) {
            then(self);
        }
    }

    fn on_signal(&mut self, now: Time, from: Generation, signal: Signal, out: &mut Vec<Action>) {
        match signal {
            Signal::Greeted => self.on_greeted(now, from, out),
            Signal::RestoreProgress => self.on_answered(now),
            Signal::Restored => self.on_restored(now, from, out),
            Signal::HeartbeatAcked => self.timers.disarm(Timer::Ack),
            Signal::ExpectAcks => self.expects_acks = true,
            Signal::HeartbeatInterval(interval) => self.on_heartbeat_interval(now, interval),
            Signal::Drain(why) => self.move_on(now, why, out),
            Signal::Fail(end) => self.lose(now, end, out),
        }
    }

    fn on_timer(&mut self, now: Time, timer: Timer, out: &mut Vec<Action>) {
        let timed_out = |reason| End::retry(Initiator::Peer, reason);
        match timer {
            Timer::Open => self.lose(
                now,
                End::retry(Initiator::Network, Reason::OpenTimeout),
                out,
            ),
            Timer::Greet => self.lose(now, timed_out(Reason::GreetingTimeout), out),
            Timer::Restore => self.lose(now, timed_out(Reason::RestoringTimeout), out),
            Timer::Activity => self.lose(now, timed_out(Reason::Silent), out),
            Timer::Ack => self.lose(now, timed_out(Reason::HeartbeatUnanswered), out),
            Timer::Ask => {
                if let Some(generation) = self.current() {
                    self.probe_for(now, generation, Probe::Life, out);
                }
            }
            Timer::Probe => self.on_probed(now, false, out),
            Timer::Heartbeat => self.beat(now, out),
            Timer::Stable => self.prove(),
            Timer::Retry => self.attempt(now, out),
            Timer::Leave => self.stop(now, Phase::Idle, out),
            Timer::Protocol => unreachable!("the endpoint keeps the protocol's timer"),
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.timers.keep_for(&phase);
        self.status.activity = phase.activity();
        self.phase = phase;
    }

    fn reach(&mut self, now: Time, state: State, cause: Cause, out: &mut Vec<Action>) {
        if let Some(transition) = self.status.reach(now, state, cause) {
            out.push(Action::Changed(transition));
        }
    }

    /// Invariants that hold between any two steps.
    fn check(&self) {
        debug_assert!(
            Timer::SESSION
                .into_iter()
                .all(|timer| self.timers.armed(timer).is_none() || timer.belongs_to(&self.phase)),
            "{:?} in {:?}",
            self.timers,
            self.phase
        );
        let waiting = self.timers.next().is_some();
        match self.phase {
            Phase::Idle | Phase::Closed => {
                debug_assert!(!waiting, "{:?} waits for nothing", self.phase);
                debug_assert_eq!(self.status.state, State::Disconnected);
            }
            Phase::Live { .. } => debug_assert_eq!(self.status.state, State::Connected),
            Phase::Greeting(_) | Phase::Restoring(_) => {
                debug_assert!(waiting || self.held, "{:?} waits for ever", self.phase);
                debug_assert_ne!(self.status.state, State::Disconnected);
            }
            Phase::Backoff | Phase::Opening(_) | Phase::Draining { .. } => {
                debug_assert!(waiting, "{:?} waits for ever", self.phase);
                debug_assert_ne!(self.status.state, State::Disconnected);
            }
        }
    }
}

impl Phase {
    pub(crate) fn activity(&self) -> Activity {
        match self {
            Self::Idle => Activity::Idle,
            Self::Backoff => Activity::Backoff,
            Self::Opening(_) => Activity::Opening,
            Self::Greeting(_) => Activity::Greeting,
            Self::Restoring(_) => Activity::Restoring,
            Self::Live { .. } => Activity::Live,
            Self::Draining { .. } => Activity::Draining,
            Self::Closed => Activity::Closed,
        }
    }
}

#[cfg(test)]
mod tests;
