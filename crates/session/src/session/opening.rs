//! The way from a call to a live stream that has proved itself.

use crate::{
    Generation, Time,
    config::Ready,
    session::{Action, Phase, Session, attempts::Credentials},
    status::{Cause, State},
    timer::Timer,
};

impl Session {
    pub(super) fn on_accepted(&mut self, now: Time, from: Generation, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Opening(_)) && self.config().ready == Ready::Accepted {
            self.go_live(now, from, out);
        }
    }

    pub(super) fn on_headers(&mut self, now: Time, from: Generation, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Opening(_)) {
            return;
        }
        match self.config().ready {
            Ready::Accepted | Ready::Headers => self.go_live(now, from, out),
            Ready::FirstMessage | Ready::Restored => {
                self.enter(Phase::Greeting(from));
                self.await_answer(now);
                self.begin_liveness(now);
            }
        }
    }

    pub(super) fn on_greeted(&mut self, now: Time, from: Generation, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Greeting(_)) {
            return;
        }
        if self.config().ready == Ready::Restored {
            self.enter(Phase::Restoring(from));
            self.await_answer(now);
        } else {
            self.go_live(now, from, out);
        }
    }

    pub(super) fn on_answered(&mut self, now: Time) {
        if matches!(self.phase, Phase::Restoring(_)) {
            self.await_answer(now);
        }
    }

    pub(super) fn on_restored(&mut self, now: Time, from: Generation, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Restoring(_)) {
            self.go_live(now, from, out);
        }
    }

    /// Gives the peer its time to greet, or to answer the next part of the restoration. What the
    /// application does not let through can not be answered.
    pub(super) fn await_answer(&mut self, now: Time) {
        if self.held {
            return;
        }
        let (timer, limit) = match self.phase {
            Phase::Greeting(_) => (Timer::Greet, self.config().greeting_timeout),
            Phase::Restoring(_) => (Timer::Restore, self.config().restoring_timeout),
            Phase::Idle
            | Phase::Backoff
            | Phase::Opening(_)
            | Phase::Live { .. }
            | Phase::Draining { .. }
            | Phase::Closed => return,
        };
        self.timers.arm(timer, now + limit);
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
        self.credentials.not_refused();
        self.status.streams_established += 1;
        out.push(Action::Up(generation));
        self.reach(now, State::Connected, Cause::Live, out);
    }

    /// Nothing but time makes a stream trustworthy: only here the count and the delays begin anew.
    pub(super) fn prove(&mut self) {
        if let Phase::Live { proven, .. } = &mut self.phase {
            *proven = true;
            self.status.consecutive_failures = 0;
            self.backoff.reset();
            self.credentials = Credentials::Good;
        }
    }
}
