//! What callers ask for: a stream, a look at it, an orderly end, the end of everything.

use std::time::Duration;

use crate::{
    Time,
    end::{End, Initiator, Reason},
    session::{Action, Phase, Session, attempts::Credentials, liveness::Probe},
    status::{Cause, State},
    timer::Timer,
};

impl Session {
    pub(super) fn on_connect(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Idle => {
                self.was_live = false;
                self.status.consecutive_failures = 0;
                self.backoff.reset();
                self.credentials = Credentials::Good;
                self.reach(now, State::Connecting, Cause::Requested, out);
                self.attempt_after(now, Duration::ZERO, out);
            }
            Phase::Backoff => self.attempt_after(now, Duration::ZERO, out),
            Phase::Draining { generation, .. } => {
                self.phase = Phase::Draining {
                    generation,
                    again: true,
                };
            }
            Phase::Opening(_)
            | Phase::Greeting(_)
            | Phase::Restoring(_)
            | Phase::Live { .. }
            | Phase::Closed => {}
        }
    }

    pub(super) fn on_reconnect(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Live { generation, .. } => self.probe_for(now, generation, Probe::Request, out),
            Phase::Idle | Phase::Backoff | Phase::Draining { .. } => self.on_connect(now, out),
            Phase::Opening(_) | Phase::Greeting(_) | Phase::Restoring(_) | Phase::Closed => {}
        }
    }

    pub(super) fn on_leave(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Live { generation, .. } => {
                self.enter(Phase::Draining {
                    generation,
                    again: false,
                });
                self.timers
                    .arm(Timer::Leave, now + self.config().drain_timeout);
                out.push(Action::Finish(generation));
            }
            Phase::Opening(_) | Phase::Greeting(_) | Phase::Restoring(_) | Phase::Backoff => {
                self.stop(now, Phase::Idle, out);
            }
            Phase::Draining { generation, .. } => {
                self.phase = Phase::Draining {
                    generation,
                    again: false,
                };
            }
            Phase::Idle | Phase::Closed => {}
        }
    }

    pub(super) fn on_close(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.phase != Phase::Closed {
            self.stop(now, Phase::Closed, out);
        }
    }

    /// The caller's end of everything: to `Idle`, from where it can connect again, or to `Closed`.
    pub(super) fn stop(&mut self, now: Time, to: Phase, out: &mut Vec<Action>) {
        let end = End::stop(Initiator::Local, Reason::Left);
        let running = self.phase != Phase::Idle;
        let closing = to == Phase::Closed;
        let again = !closing && matches!(self.phase, Phase::Draining { again: true, .. });
        if let Some(generation) = self.current() {
            out.push(Action::Kill(generation));
            out.push(Action::Down(generation, end.clone()));
        }
        self.enter(to);
        if running || closing {
            out.push(Action::Stopped(end));
        }
        self.reach(now, State::Disconnected, Cause::Requested, out);
        if again {
            self.on_connect(now, out);
        }
    }
}
