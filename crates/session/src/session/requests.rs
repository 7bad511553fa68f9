//! Requests of the caller: a stream, a check of it, an orderly end, the end of everything.

use std::time::Duration;

use crate::{
    Time,
    end::{End, Initiator, Reason},
    session::{Action, Phase, ProbePurpose, Session, Stage},
    status::{Activity, Cause, State},
    timer::Timer,
};

impl Session {
    pub(super) fn on_connect(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase.activity() {
            Activity::Idle => {
                // The caller asks anew after the session gave up or was left, so its retries count
                // from one.
                self.status.consecutive_failures = 0;
                self.retry.reset();
                self.set_state(now, State::Connecting, Cause::Requested, out);
                self.schedule_attempt(now, Duration::ZERO);
            }
            // The caller may know that the peer is back. The minimum interval still holds, so
            // asking in a loop cannot storm the peer.
            Activity::Backoff => self.schedule_attempt(now, Duration::ZERO),
            // The stream that ends in order cannot be kept: its half is finished. A new one follows
            // it.
            Activity::Draining => self.enter_stage(Stage::Draining { reconnect: true }),
            Activity::Opening
            | Activity::Greeting
            | Activity::Restoring
            | Activity::Live
            | Activity::Closed => {}
        }
    }

    pub(super) fn on_reconnect(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase.activity() {
            // To replace a healthy stream would cost the peer a restoration for nothing.
            Activity::Live => self.probe(now, ProbePurpose::Reconnect, out),
            Activity::Idle | Activity::Backoff | Activity::Draining => self.on_connect(now, out),
            Activity::Opening | Activity::Greeting | Activity::Restoring | Activity::Closed => {}
        }
    }

    pub(super) fn on_leave(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase.activity() {
            Activity::Live => {
                self.enter_stage(Stage::Draining { reconnect: false });
                self.timers
                    .arm(Timer::Leave, now + self.config().drain_timeout);
                // The peer still has messages on their way; the stream ends when the peer ends its
                // half, or at the deadline.
                out.extend(self.current().map(Action::Finish));
            }
            // Nothing was delivered on such a stream yet, so there is nothing to end in order.
            Activity::Opening | Activity::Greeting | Activity::Restoring | Activity::Backoff => {
                self.stop(now, Phase::Idle, out);
            }
            Activity::Draining => self.enter_stage(Stage::Draining { reconnect: false }),
            Activity::Idle | Activity::Closed => {}
        }
    }

    pub(super) fn on_close(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.phase != Phase::Closed {
            self.stop(now, Phase::Closed, out);
        }
    }

    /// Ends everything because the caller asked for it: in `Idle`, from where the caller can connect
    /// again, or in `Closed`.
    pub(super) fn stop(&mut self, now: Time, to: Phase, out: &mut Vec<Action>) {
        let end = End::stop(Initiator::Local, Reason::Left);
        // Read before `enter` drops the stage. A closed session ignores it.
        let reconnect = self.stage() == Some(Stage::Draining { reconnect: true });
        if let Some(generation) = self.current() {
            out.push(Action::Kill(generation));
            out.push(Action::Down(generation, end.clone()));
        }
        self.enter(to);
        // Also when an idle session is closed: that ends its handles.
        out.push(Action::Stopped(end));
        self.set_state(now, State::Disconnected, Cause::Requested, out);
        if reconnect {
            self.on_connect(now, out);
        }
    }
}
