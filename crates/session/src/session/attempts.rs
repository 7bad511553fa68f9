//! How streams and attempts end, and when the next attempt is made.

use std::time::Duration;

use crate::{
    Generation, Time,
    end::{Advice, End, Initiator, Reason},
    session::{Action, Phase, Session, liveness::Probe},
    status::{Cause, State},
    timer::Timer,
};

/// How the credentials have fared since a stream last proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    Good,
    /// Refused: the next attempt brings new ones.
    Refused,
    /// New, and nothing is known of them yet.
    Renewed,
    /// New, and not refused so far. They may expire too, but a peer that says so over and over is
    /// not obeyed at once.
    Doubtful,
}

/// When the attempt after an end is due.
enum Next {
    AtOnce,
    After(Duration),
    Never,
}

impl Session {
    /// Schedules the next attempt, never closer to the last one than the least interval.
    pub(super) fn attempt_after(&mut self, now: Time, delay: Duration, out: &mut Vec<Action>) {
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

    pub(super) fn attempt(&mut self, now: Time, out: &mut Vec<Action>) {
        let generation = Generation(self.status.generation.0 + 1);
        let refresh = self.credentials.renew();
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

    /// The one place where a stream, or an attempt at one, comes to an end that was not asked for.
    pub(super) fn lose(&mut self, now: Time, end: End, out: &mut Vec<Action>) {
        let Some(generation) = self.current() else {
            return;
        };
        if matches!(self.phase, Phase::Draining { .. }) {
            self.stop(now, Phase::Idle, out);
            return;
        }
        let proven = matches!(self.phase, Phase::Live { proven: true, .. });
        if !proven {
            self.status.consecutive_failures = self.status.consecutive_failures.saturating_add(1);
            self.status.failed_attempts += 1;
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
    pub(super) fn move_on(&mut self, now: Time, why: String, out: &mut Vec<Action>) {
        let end = End::retry(Initiator::Peer, Reason::Drained(why.clone()));
        match self.phase {
            Phase::Live {
                generation,
                proven: true,
            } => {
                out.push(Action::Kill(generation));
                out.push(Action::Down(generation, end));
                self.enter(Phase::Backoff);
                self.reach(now, State::Connected, Cause::PeerDraining(why), out);
                self.attempt_after(now, Duration::ZERO, out);
            }
            Phase::Opening(_)
            | Phase::Greeting(_)
            | Phase::Restoring(_)
            | Phase::Live { proven: false, .. } => self.lose(now, end, out),
            // Our own orderly end is on its way already, and what is queued may still arrive.
            Phase::Draining { .. } | Phase::Idle | Phase::Backoff | Phase::Closed => {}
        }
    }

    fn next_after(&mut self, end: &End, proven: bool) -> Next {
        let config = self.config.settings();
        let spent =
            config.max_retries > 0 && self.status.consecutive_failures >= config.max_retries;
        if spent && !proven {
            return Next::Never;
        }
        let ordinary = if proven {
            self.backoff.recovery(config)
        } else {
            self.backoff.next(config)
        };
        if end.advice != Advice::Refresh {
            self.credentials.not_refused();
        }
        match (end.advice, &end.reason) {
            (Advice::Stop, _) => Next::Never,
            (Advice::Refresh, _) => self.credentials.refused(ordinary),
            (Advice::Wait(None), _) => Next::After(self.backoff.longest(config)),
            (Advice::Wait(Some(wait)), _) => {
                let wait = wait.min(config.retry_after_max);
                Next::After(self.backoff.at_least(config, wait).max(ordinary))
            }
            (Advice::Retry, Reason::ProbeFailed) => Next::AtOnce,
            (Advice::Retry, _) => Next::After(ordinary),
        }
    }

    fn give_up(&mut self, now: Time, end: End, out: &mut Vec<Action>) {
        self.enter(Phase::Idle);
        out.push(Action::Stopped(end.clone()));
        self.reach(now, State::Disconnected, Cause::Ended(end), out);
    }
}

impl Credentials {
    /// Whether the attempt that begins has to bring new ones.
    fn renew(&mut self) -> bool {
        let refused = *self == Self::Refused;
        if refused {
            *self = Self::Renewed;
        }
        refused
    }

    /// The peer took them, or refused something else.
    pub(super) fn not_refused(&mut self) {
        if *self == Self::Renewed {
            *self = Self::Doubtful;
        }
    }

    fn refused(&mut self, ordinary: Duration) -> Next {
        let next = match self {
            Self::Good => Next::AtOnce,
            Self::Doubtful => Next::After(ordinary),
            Self::Refused | Self::Renewed => return Next::Never,
        };
        *self = Self::Refused;
        next
    }
}
