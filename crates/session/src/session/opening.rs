//! The way from a call to a live, stable stream.

use crate::{
    Time,
    config::Ready,
    session::{Action, Session, Stage},
    status::{Cause, State},
    timer::Timer,
};

impl Session {
    pub(super) fn on_accepted(&mut self, now: Time, out: &mut Vec<Action>) {
        // Only some transports can tell that the request was taken, and some peers send headers
        // hours later, with their first message.
        if self.stage() == Some(Stage::Opening) && self.config().ready == Ready::Accepted {
            self.go_live(now, out);
        }
    }

    pub(super) fn on_headers(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.stage() != Some(Stage::Opening) {
            return;
        }
        match self.config().ready {
            // Headers imply that the request was taken, even if the transport did not say so.
            Ready::Accepted | Ready::Headers => self.go_live(now, out),
            Ready::FirstMessage | Ready::Restored => {
                self.enter_stage(Stage::Greeting);
                // Each phase before live has its own deadline, and silence is limited from here on.
                // Without both, a peer that sends headers and nothing more would hold the attempt
                // for ever.
                self.arm_response_timeout(now);
                self.start_liveness(now);
            }
        }
    }

    pub(super) fn on_greeted(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.stage() != Some(Stage::Greeting) {
            return;
        }
        if self.config().ready == Ready::Restored {
            self.enter_stage(Stage::Restoring);
            self.arm_response_timeout(now);
        } else {
            self.go_live(now, out);
        }
    }

    pub(super) fn on_restore_progress(&mut self, now: Time) {
        if self.stage() == Some(Stage::Restoring) {
            self.arm_response_timeout(now);
        }
    }

    pub(super) fn on_restored(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.stage() == Some(Stage::Restoring) {
            self.go_live(now, out);
        }
    }

    /// Arms the deadline for the greeting, or for the next response while restoring. Without effect
    /// while reading is paused, because no response could be read then.
    pub(super) fn arm_response_timeout(&mut self, now: Time) {
        let Some(attempt) = self.attempt().filter(|attempt| !attempt.read_paused) else {
            return;
        };
        let (timer, timeout) = match attempt.stage {
            Stage::Greeting => (Timer::Greet, self.config().greeting_timeout),
            Stage::Restoring => (Timer::Restore, self.config().restoring_timeout),
            Stage::Opening | Stage::Live { .. } | Stage::Draining { .. } => return,
        };
        self.timers.arm(timer, now + timeout);
    }

    fn go_live(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(attempt) = self.attempt() else {
            return;
        };
        let generation = attempt.generation;
        // A greeting has started the heartbeats already; restarting them would delay the next one.
        let liveness_started = attempt.stage.uses(Timer::Heartbeat);
        self.enter_stage(Stage::Live { stable: false });
        self.timers
            .arm(Timer::Stable, now + self.config().stable_after);
        if liveness_started {
            self.on_received(now);
        } else {
            self.start_liveness(now);
        }
        // A stream that is live was authorised.
        self.retry.credentials_accepted();
        self.status.streams_established += 1;
        // Before the transition: an observer of `Connected` may use the stream at once.
        out.push(Action::Up(generation));
        self.set_state(now, State::Connected, Cause::Live, out);
    }

    /// Resets the backoff. Being live is not enough: a peer that accepts every stream and then fails
    /// must still meet growing delays.
    pub(super) fn on_stable(&mut self) {
        // Its timer exists only while live.
        self.enter_stage(Stage::Live { stable: true });
        self.status.consecutive_failures = 0;
        self.retry.reset();
    }
}
