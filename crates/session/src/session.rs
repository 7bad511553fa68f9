//! The machine: one entry point, every effect out before it returns.

use std::time::Duration;

use crate::{
    Generation, Signal, Time,
    backoff::Backoff,
    config::{CheckedConfig, Config, Liveness, Ready},
    end::{Advice, By, End, Reason},
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
    Held(Generation, bool),
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
    Draining(Generation),
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
/// [`Ready`] says which of the middle phases there are. Each has its own deadline and its own
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
    refresh: Refresh,
    probe: Probe,
    heartbeat_interval: Option<Duration>,
    expects_acks: bool,
    held: bool,
    now: Time,
}

/// Where the session stands with its credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresh {
    Fresh,
    Wanted,
    Tried,
}

/// What the outstanding probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    None,
    Life,
    Request,
}

/// When the attempt after an end is due.
enum Next {
    AtOnce,
    After(Duration),
    Never,
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
            refresh: Refresh::Fresh,
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
            | Phase::Draining(generation) => Some(generation),
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
            Input::Ended(from, end) => self.if_current(from, |s| s.on_ended(now, end, out)),
            Input::Probed(from, alive) => self.if_current(from, |s| s.on_probed(now, alive, out)),
            Input::Held(from, held) => self.if_current(from, |s| s.on_held(now, held)),
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

    // What callers ask for.

    fn on_connect(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Idle => {
                self.was_live = false;
                self.status.failures = 0;
                self.backoff.reset();
                self.refresh = Refresh::Fresh;
                self.reach(now, State::Connecting, Cause::Asked, out);
                self.attempt_after(now, Duration::ZERO, out);
            }
            Phase::Backoff => self.attempt_after(now, Duration::ZERO, out),
            Phase::Opening(_)
            | Phase::Greeting(_)
            | Phase::Restoring(_)
            | Phase::Live { .. }
            | Phase::Draining(_)
            | Phase::Closed => {}
        }
    }

    fn on_reconnect(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Live { generation, .. } => self.probe_for(now, generation, Probe::Request, out),
            Phase::Idle | Phase::Backoff => self.on_connect(now, out),
            Phase::Opening(_)
            | Phase::Greeting(_)
            | Phase::Restoring(_)
            | Phase::Draining(_)
            | Phase::Closed => {}
        }
    }

    fn on_leave(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Live { generation, .. } => {
                self.enter(Phase::Draining(generation));
                self.timers
                    .arm(Timer::Leave, now + self.config().drain_timeout);
                out.push(Action::Finish(generation));
            }
            Phase::Opening(_) | Phase::Greeting(_) | Phase::Restoring(_) | Phase::Backoff => {
                self.stop(now, Phase::Idle, left(), out);
            }
            Phase::Idle | Phase::Draining(_) | Phase::Closed => {}
        }
    }

    fn on_close(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.phase != Phase::Closed {
            self.stop(now, Phase::Closed, left(), out);
        }
    }

    // What the stream reports.

    fn on_accepted(&mut self, now: Time, from: Generation, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Opening(_)) && self.config().ready == Ready::Accepted {
            self.go_live(now, from, out);
        }
    }

    fn on_headers(&mut self, now: Time, from: Generation, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Opening(_)) {
            return;
        }
        match self.config().ready {
            Ready::Accepted | Ready::Headers => self.go_live(now, from, out),
            Ready::FirstMessage | Ready::Restored => {
                self.enter(Phase::Greeting(from));
                self.timers
                    .arm(Timer::Greet, now + self.config().greeting_timeout);
                self.begin_liveness(now);
            }
        }
    }

    fn on_received(&mut self, now: Time) {
        if !Timer::Activity.belongs_to(&self.phase) || self.held {
            return;
        }
        if let Some(limit) = self.config().activity_timeout {
            self.timers.arm(Timer::Activity, now + limit);
            if self.config().liveness == Liveness::Asked && Timer::Ask.belongs_to(&self.phase) {
                self.timers.arm(Timer::Ask, now + limit / 3);
            }
        }
    }

    fn on_ended(&mut self, now: Time, end: End, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Draining(_)) {
            self.stop(now, Phase::Idle, left(), out);
        } else {
            self.lose(now, end, out);
        }
    }

    fn on_probed(&mut self, now: Time, alive: bool, out: &mut Vec<Action>) {
        let asked_for = std::mem::replace(&mut self.probe, Probe::None);
        self.timers.disarm(Timer::Probe);
        if alive {
            self.status.probed += 1;
            self.on_received(now);
            return;
        }
        match asked_for {
            Probe::Request => self.lose(now, End::retry(By::Peer, Reason::ProbeFailed), out),
            Probe::Life | Probe::None => self.ask_again(now),
        }
    }

    fn on_held(&mut self, now: Time, held: bool) {
        self.held = held;
        if held {
            for timer in [Timer::Activity, Timer::Ack, Timer::Ask] {
                self.timers.disarm(timer);
            }
        } else {
            self.on_received(now);
        }
    }

    fn on_signal(&mut self, now: Time, from: Generation, signal: Signal, out: &mut Vec<Action>) {
        match signal {
            Signal::Greeted => self.on_greeted(now, from, out),
            Signal::Answered => {
                if matches!(self.phase, Phase::Restoring(_)) {
                    self.timers
                        .arm(Timer::Restore, now + self.config().restoring_timeout);
                }
            }
            Signal::Restored => {
                if matches!(self.phase, Phase::Restoring(_)) {
                    self.go_live(now, from, out);
                }
            }
            Signal::HeartbeatAcked => self.timers.disarm(Timer::Ack),
            Signal::ExpectAcks => self.expects_acks = true,
            Signal::HeartbeatInterval(interval) => {
                self.heartbeat_interval = Some(interval.max(Duration::from_millis(1)));
                self.arm_heartbeat(now);
            }
            Signal::Drain(why) => self.move_on(now, why, out),
            Signal::Fail(end) => self.lose(now, end, out),
        }
    }

    fn on_greeted(&mut self, now: Time, from: Generation, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Greeting(_)) {
            return;
        }
        if self.config().ready == Ready::Restored {
            self.enter(Phase::Restoring(from));
            self.timers
                .arm(Timer::Restore, now + self.config().restoring_timeout);
        } else {
            self.go_live(now, from, out);
        }
    }

    // What the timers say.

    fn on_timer(&mut self, now: Time, timer: Timer, out: &mut Vec<Action>) {
        let timed_out = |reason| End::retry(By::Peer, reason);
        match timer {
            Timer::Open => self.lose(now, End::retry(By::Network, Reason::OpenTimeout), out),
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
            Timer::Leave => self.stop(now, Phase::Idle, left(), out),
            Timer::Protocol => unreachable!("the endpoint keeps the protocol's timer"),
        }
    }

    fn beat(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(generation) = self.current() else {
            return;
        };
        out.push(Action::Heartbeat(generation));
        self.arm_heartbeat(now);
        if let Some(limit) = self.config().activity_timeout
            && self.expects_acks
            && !self.held
            && self.timers.armed(Timer::Ack).is_none()
        {
            self.timers.arm(Timer::Ack, now + limit);
        }
    }

    fn prove(&mut self) {
        if let Phase::Live { proven, .. } = &mut self.phase {
            *proven = true;
            self.status.failures = 0;
            self.backoff.reset();
        }
    }

    fn probe_for(&mut self, now: Time, generation: Generation, what: Probe, out: &mut Vec<Action>) {
        if self.probe == Probe::None {
            out.push(Action::Probe(generation));
            self.timers
                .arm(Timer::Probe, now + self.config().probe_timeout);
            self.probe = what;
        } else if what == Probe::Request {
            self.probe = what;
        }
    }

    fn ask_again(&mut self, now: Time) {
        if let (Liveness::Asked, Some(limit)) =
            (self.config().liveness, self.config().activity_timeout)
        {
            self.timers.arm(Timer::Ask, now + limit / 3);
        }
    }

    // Transitions.

    fn enter(&mut self, phase: Phase) {
        self.timers.keep_for(&phase);
        self.status.activity = phase.activity();
        self.phase = phase;
    }

    /// Schedules the next attempt, never closer to the last one than the least interval.
    fn attempt_after(&mut self, now: Time, delay: Duration, out: &mut Vec<Action>) {
        let earliest = self
            .last_start
            .map(|start| start + self.config().min_interval());
        let at = (now + delay).max(earliest.unwrap_or(now));
        if at <= now {
            self.attempt(now, out);
        } else {
            self.enter(Phase::Backoff);
            self.timers.arm(Timer::Retry, at);
        }
    }

    fn attempt(&mut self, now: Time, out: &mut Vec<Action>) {
        let generation = Generation(self.status.generation.0 + 1);
        let refresh = self.refresh == Refresh::Wanted;
        if refresh {
            self.refresh = Refresh::Tried;
        }
        self.status.generation = generation;
        self.last_start = Some(now);
        self.probe = Probe::None;
        self.expects_acks = false;
        self.held = false;
        self.heartbeat_interval = self.config().heartbeat_interval;
        self.timers.clear();
        self.enter(Phase::Opening(generation));
        self.timers
            .arm(Timer::Open, now + self.config().open_timeout);
        out.push(Action::Open {
            generation,
            refresh,
        });
    }

    fn go_live(&mut self, now: Time, generation: Generation, out: &mut Vec<Action>) {
        let began = Timer::Activity.belongs_to(&self.phase);
        self.enter(Phase::Live {
            generation,
            proven: false,
        });
        self.timers
            .arm(Timer::Stable, now + self.config().stable_after);
        if !began {
            self.begin_liveness(now);
        }
        self.on_received(now);
        self.was_live = true;
        self.refresh = Refresh::Fresh;
        self.status.lives += 1;
        out.push(Action::Up(generation));
        self.reach(now, State::Connected, Cause::Live, out);
    }

    fn begin_liveness(&mut self, now: Time) {
        self.on_received(now);
        self.arm_heartbeat(now);
    }

    fn arm_heartbeat(&mut self, now: Time) {
        if let Some(interval) = self.heartbeat_interval
            && Timer::Heartbeat.belongs_to(&self.phase)
        {
            self.timers.arm(Timer::Heartbeat, now + interval);
        }
    }

    /// The one place where a stream, or an attempt at one, comes to an end that was not asked for.
    fn lose(&mut self, now: Time, end: End, out: &mut Vec<Action>) {
        let Some(generation) = self.current() else {
            return;
        };
        if matches!(self.phase, Phase::Draining(_)) {
            self.stop(now, Phase::Idle, left(), out);
            return;
        }
        let proven = matches!(self.phase, Phase::Live { proven: true, .. });
        if !proven {
            self.status.failures = self.status.failures.saturating_add(1);
            self.status.failed += 1;
        }
        out.push(Action::Kill(generation));
        out.push(Action::Down(generation, end.clone()));
        match self.next_after(&end, proven) {
            Next::Never => self.give_up(now, end, out),
            Next::AtOnce => self.retry(now, Duration::ZERO, end, out),
            Next::After(delay) => self.retry(now, delay, end, out),
        }
    }

    fn retry(&mut self, now: Time, delay: Duration, end: End, out: &mut Vec<Action>) {
        self.enter(Phase::Backoff);
        let state = if self.was_live {
            State::Reconnecting
        } else {
            State::Connecting
        };
        self.reach(now, state, Cause::Ended(end), out);
        self.attempt_after(now, delay, out);
    }

    /// The peer stops: go elsewhere, or come back, without calling it an outage. Only a stream that
    /// has proved itself earns this; any other peer that says so meets the backoff.
    fn move_on(&mut self, now: Time, why: String, out: &mut Vec<Action>) {
        let Phase::Live {
            generation,
            proven: true,
        } = self.phase
        else {
            self.lose(now, End::retry(By::Peer, Reason::Drained(why)), out);
            return;
        };
        out.push(Action::Kill(generation));
        out.push(Action::Down(
            generation,
            End::retry(By::Peer, Reason::Drained(why.clone())),
        ));
        self.enter(Phase::Backoff);
        self.reach(now, State::Connected, Cause::Moving(why), out);
        self.attempt_after(now, Duration::ZERO, out);
    }

    fn next_after(&mut self, end: &End, proven: bool) -> Next {
        let config = self.config.settings();
        let spent = config.max_retries > 0 && self.status.failures >= config.max_retries;
        if spent && !proven {
            return Next::Never;
        }
        let ordinary = if proven {
            self.backoff.recovery(config)
        } else {
            self.backoff.next(config)
        };
        match (end.advice, &end.reason) {
            (Advice::Stop, _) => Next::Never,
            (Advice::Refresh, _) => match self.refresh {
                Refresh::Fresh => {
                    self.refresh = Refresh::Wanted;
                    Next::AtOnce
                }
                Refresh::Wanted | Refresh::Tried => Next::Never,
            },
            (Advice::Wait(None), _) => Next::After(self.backoff.longest(config)),
            (Advice::Wait(Some(wait)), _) => {
                Next::After(wait.min(config.retry_after_max).max(ordinary))
            }
            (Advice::Retry, Reason::ProbeFailed | Reason::ReconnectRequested) => Next::AtOnce,
            (Advice::Retry, _) => Next::After(ordinary),
        }
    }

    fn give_up(&mut self, now: Time, end: End, out: &mut Vec<Action>) {
        self.enter(Phase::Idle);
        out.push(Action::Stopped(end.clone()));
        self.reach(now, State::Disconnected, Cause::Ended(end), out);
    }

    /// The caller's end of everything: to `Idle`, from where it can connect again, or to `Closed`.
    fn stop(&mut self, now: Time, to: Phase, end: End, out: &mut Vec<Action>) {
        let running = self.phase != Phase::Idle;
        if let Some(generation) = self.current() {
            out.push(Action::Kill(generation));
            out.push(Action::Down(generation, end.clone()));
        }
        let closing = to == Phase::Closed;
        self.enter(to);
        if running || closing {
            out.push(Action::Stopped(end));
        }
        self.reach(now, State::Disconnected, Cause::Asked, out);
    }

    fn reach(&mut self, now: Time, state: State, cause: Cause, out: &mut Vec<Action>) {
        if let Some(transition) = self.status.reach(now, state, cause) {
            out.push(Action::Changed(transition));
        }
    }

    /// Invariants that hold between any two steps.
    fn check(&self) {
        let waiting = self.timers.next().is_some();
        match self.phase {
            Phase::Idle | Phase::Closed => {
                debug_assert!(!waiting, "{:?} waits for nothing", self.phase);
                debug_assert_eq!(self.status.state, State::Disconnected);
            }
            Phase::Live { .. } => debug_assert_eq!(self.status.state, State::Connected),
            Phase::Backoff
            | Phase::Opening(_)
            | Phase::Greeting(_)
            | Phase::Restoring(_)
            | Phase::Draining(_) => {
                debug_assert!(waiting, "{:?} would wait for ever", self.phase);
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
            Self::Draining(_) => Activity::Draining,
            Self::Closed => Activity::Closed,
        }
    }
}

fn left() -> End {
    End::stop(By::Us, Reason::Left)
}

#[cfg(test)]
mod tests;
