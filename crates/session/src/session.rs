//! The state machine, with one entry point: [`Session::step`].
//!
//! The handlers are grouped by concern: requests of the caller in `requests`, the way from a call to a
//! live stream in `opening`, signs of life in `liveness`, ends and the attempts after them in `retry`.

mod liveness;
mod opening;
mod phase;
mod requests;
mod retry;

use self::{
    phase::{Attempt, Phase, ProbePurpose, Stage},
    retry::RetryState,
};
use crate::{
    Generation, Signal, Time,
    config::{CheckedConfig, Config},
    end::{End, Initiator, Reason},
    status::{Activity, Cause, State, Status, Transition},
    timer::{Deadline, Timer, Timers},
};

/// Everything that can happen to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The caller wants a live stream. Has no effect while one is held or being opened.
    Connect,
    /// The caller doubts the stream: it is probed, and replaced unless the peer responds.
    Reconnect,
    /// The caller leaves: the stream ends in order and no attempt follows until the next
    /// [`Input::Connect`].
    Leave,
    /// The caller ends everything now and for good.
    Close,
    /// The connection has taken the request.
    Accepted(Generation),
    /// The response headers have arrived.
    Headers(Generation),
    /// Bytes of the response have arrived, possibly only a part of a message.
    Received(Generation),
    /// A whole message has arrived. The protocol receives it after this step.
    Message(Generation),
    /// The stream ended, or could not be opened.
    Ended(Generation, End),
    /// The result of a probe: true if the peer responded.
    Probed(Generation, bool),
    /// Reading was paused because the application's queue is full (`true`), or resumed (`false`).
    /// While it is paused, no deadline for the peer runs.
    ReadPaused(Generation, bool),
    /// The protocol signals something.
    Signal(Generation, Signal),
    /// A deadline may have passed.
    Tick,
}

/// Everything a session asks of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial and open a stream.
    Open {
        /// The attempt.
        generation: Generation,
        /// True if the peer refused the last credentials, so that new ones are needed.
        refresh: bool,
    },
    /// End our half of the stream.
    Finish(Generation),
    /// Drop the stream and the connection that was dialled for it.
    Kill(Generation),
    /// Probe the peer on the stream's connection.
    Probe(Generation),
    /// Have the protocol send a heartbeat.
    Heartbeat(Generation),
    /// The stream is live.
    Up(Generation),
    /// The stream, or the attempt to open it, is over.
    Down(Generation, End),
    /// No attempt follows until the caller connects again.
    Stopped(End),
    /// The state changed.
    Changed(Transition),
}

/// The state machine of one resilient stream.
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
/// [`Ready`](crate::Ready) selects which of the middle phases exist. Each has its own deadline and its
/// own [`Reason`].
#[derive(Debug)]
pub struct Session {
    config: CheckedConfig,
    phase: Phase,
    timers: Timers,
    retry: RetryState,
    status: Status,
    now: Time,
}

impl Session {
    /// Creates an idle session. Equal seeds and inputs give equal outputs.
    #[must_use]
    pub fn new(config: CheckedConfig, seed: u64) -> Self {
        Self {
            config,
            phase: Phase::Idle,
            timers: Timers::default(),
            retry: RetryState::new(seed),
            status: Status::new(),
            now: Time::ZERO,
        }
    }

    /// Handles one input, then every timer that is due, and returns the next deadline.
    ///
    /// All actions are appended to `out`; nothing stays queued inside.
    ///
    /// # Panics
    ///
    /// In debug builds, if time runs backwards or an invariant is broken.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Vec<Action>) -> Option<Deadline> {
        debug_assert!(self.now <= now, "time must not run backwards");
        self.now = now;
        // The input comes first: a driver that wakes late with a message in hand must not end a
        // healthy stream for its silence.
        self.on_input(now, input, out);
        while let Some(timer) = self.timers.pop_due(now) {
            self.on_timer(now, timer, out);
        }
        // Derived here and not set by the handlers: it then cannot disagree with the timer.
        self.status.next_retry_at = self.timers.armed(Timer::Retry);
        self.check();
        self.timers.next()
    }

    /// Returns the time by which the session must be stepped again; `None` while idle or closed.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.timers.next()
    }

    /// Returns the status of the session.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Returns the stream that is being opened, held or ended.
    #[must_use]
    pub fn current(&self) -> Option<Generation> {
        self.attempt().map(|attempt| attempt.generation)
    }

    /// Returns the settings in force.
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
            Input::Accepted(from) => self.if_current(from, |s| s.on_accepted(now, out)),
            Input::Headers(from) => self.if_current(from, |s| s.on_headers(now, out)),
            Input::Received(from) => self.if_current(from, |s| s.on_received(now)),
            Input::Message(from) => self.if_current(from, |s| {
                // A message implies the headers: a transport may report them together.
                s.on_headers(now, out);
                s.on_received(now);
            }),
            Input::Ended(from, end) => self.if_current(from, |s| s.on_ended(now, end, out)),
            Input::Probed(from, alive) => self.if_current(from, |s| s.on_probed(now, alive, out)),
            Input::ReadPaused(from, paused) => {
                self.if_current(from, |s| s.on_read_paused(now, paused));
            }
            Input::Signal(from, signal) => {
                self.if_current(from, |s| s.on_signal(now, signal, out));
            }
        }
    }

    /// Runs a handler unless the input belongs to another attempt than the current one.
    fn if_current(&mut self, from: Generation, handle: impl FnOnce(&mut Self)) {
        // A driver may deliver what an attempt left behind after the attempt was killed. Here is
        // the one place that drops it.
        if self.current() == Some(from) {
            handle(self);
        }
    }

    fn on_signal(&mut self, now: Time, signal: Signal, out: &mut Vec<Action>) {
        match signal {
            Signal::Greeted => self.on_greeted(now, out),
            Signal::RestoreProgress => self.on_restore_progress(now),
            Signal::Restored => self.on_restored(now, out),
            // Any acknowledgement clears the deadline: it covers the heartbeats before it as well.
            Signal::HeartbeatAcked => self.timers.disarm(Timer::Ack),
            Signal::ExpectAcks => self.on_expect_acks(),
            Signal::HeartbeatInterval(interval) => self.on_heartbeat_interval(now, interval),
            Signal::Drain(message) => self.on_peer_drain(now, message, out),
            Signal::Fail(end) => self.on_ended(now, end, out),
        }
    }

    fn on_timer(&mut self, now: Time, timer: Timer, out: &mut Vec<Action>) {
        let timed_out = |reason| End::retry(Initiator::Peer, reason);
        match timer {
            // Nothing of the peer was seen yet, so the path to it is as likely at fault.
            Timer::Open => {
                let end = End::retry(Initiator::Network, Reason::OpenTimeout);
                self.on_ended(now, end, out);
            }
            Timer::Greet => self.on_ended(now, timed_out(Reason::GreetingTimeout), out),
            Timer::Restore => self.on_ended(now, timed_out(Reason::RestoringTimeout), out),
            Timer::Activity => self.on_ended(now, timed_out(Reason::Silent), out),
            Timer::Ack => self.on_ended(now, timed_out(Reason::HeartbeatUnanswered), out),
            Timer::ProbeDue => self.probe(now, ProbePurpose::Liveness, out),
            Timer::Probe => self.on_probed(now, false, out),
            Timer::Heartbeat => self.on_heartbeat_due(now, out),
            Timer::Stable => self.on_stable(),
            Timer::Retry => self.start_attempt(now, out),
            // The peer did not end its half in time. The caller has left, so this is no failure.
            Timer::Leave => self.stop(now, Phase::Idle, out),
        }
    }

    fn attempt(&self) -> Option<&Attempt> {
        match &self.phase {
            Phase::Attempt(attempt) => Some(attempt),
            Phase::Idle | Phase::Backoff | Phase::Closed => None,
        }
    }

    fn attempt_mut(&mut self) -> Option<&mut Attempt> {
        match &mut self.phase {
            Phase::Attempt(attempt) => Some(attempt),
            Phase::Idle | Phase::Backoff | Phase::Closed => None,
        }
    }

    fn stage(&self) -> Option<Stage> {
        self.attempt().map(|attempt| attempt.stage)
    }

    fn enter(&mut self, phase: Phase) {
        // A timer of the phase before would end the new one, so a phase states which it uses.
        self.timers.retain(|timer| phase.uses(timer));
        self.status.activity = phase.activity();
        self.phase = phase;
    }

    fn enter_stage(&mut self, stage: Stage) {
        if let Some(attempt) = self.attempt_mut() {
            attempt.stage = stage;
            self.timers.retain(|timer| stage.uses(timer));
            self.status.activity = self.phase.activity();
        }
    }

    fn set_state(&mut self, now: Time, state: State, cause: Cause, out: &mut Vec<Action>) {
        if let Some(transition) = self.status.set_state(now, state, cause) {
            out.push(Action::Changed(transition));
        }
    }

    /// Asserts the invariants that hold between any two steps.
    fn check(&self) {
        debug_assert!(
            Timer::ALL
                .into_iter()
                .all(|timer| self.timers.armed(timer).is_none() || self.phase.uses(timer)),
            "{:?} in {:?}",
            self.timers,
            self.phase
        );
        let waiting = self.timers.next().is_some();
        let paused = self.attempt().is_some_and(|attempt| attempt.read_paused);
        match self.phase.activity() {
            Activity::Idle | Activity::Closed => {
                debug_assert!(!waiting, "{:?} waits for nothing", self.phase);
                debug_assert_eq!(self.status.state, State::Disconnected);
            }
            Activity::Live => debug_assert_eq!(self.status.state, State::Connected),
            Activity::Greeting | Activity::Restoring => {
                debug_assert!(waiting || paused, "{:?} waits for ever", self.phase);
                debug_assert_ne!(self.status.state, State::Disconnected);
            }
            Activity::Backoff | Activity::Opening | Activity::Draining => {
                debug_assert!(waiting, "{:?} waits for ever", self.phase);
                debug_assert_ne!(self.status.state, State::Disconnected);
            }
        }
    }
}

#[cfg(test)]
mod tests;
