//! Whether the peer lives: what it sends, what it acknowledges, what it answers when asked.

use std::time::Duration;

use crate::{
    Generation, Time,
    config::Liveness,
    end::{End, Initiator, Reason},
    session::{Action, Session},
    timer::Timer,
};

/// What the outstanding probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    None,
    Life,
    Request,
}

/// Timers that blame the peer, and therefore rest while the application does not let it speak.
pub(super) const WAITS_FOR_THE_PEER: [Timer; 5] = [
    Timer::Greet,
    Timer::Restore,
    Timer::Activity,
    Timer::Ack,
    Timer::Ask,
];

/// A peer that asks for more heartbeats does not get them.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(10);

impl Session {
    pub(super) fn begin_liveness(&mut self, now: Time) {
        self.on_received(now);
        self.arm_heartbeat(now);
    }

    pub(super) fn on_received(&mut self, now: Time) {
        if !Timer::Activity.belongs_to(&self.phase) || self.held {
            return;
        }
        if let Some(limit) = self.config().activity_timeout {
            self.timers.arm(Timer::Activity, now + limit);
        }
        self.ask_again(now);
    }

    pub(super) fn on_held(&mut self, now: Time, held: bool) {
        if self.held == held {
            return;
        }
        self.held = held;
        if held {
            for timer in WAITS_FOR_THE_PEER {
                self.timers.disarm(timer);
            }
        } else {
            self.await_answer(now);
            self.on_received(now);
        }
    }

    /// The peer chooses the interval, but neither a flood nor one that outlasts our patience.
    pub(super) fn on_heartbeat_interval(&mut self, now: Time, interval: Duration) {
        let longest = match (self.config().liveness, self.config().activity_timeout) {
            (Liveness::Received, Some(limit)) => limit / 2,
            (Liveness::Received, None) | (Liveness::Probed, _) => Duration::MAX,
        };
        self.heartbeat_interval = Some(interval.min(longest).max(HEARTBEAT_INTERVAL_MIN));
        self.arm_heartbeat(now);
    }

    pub(super) fn beat(&mut self, now: Time, out: &mut Vec<Action>) {
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

    fn arm_heartbeat(&mut self, now: Time) {
        if let Some(interval) = self.heartbeat_interval
            && Timer::Heartbeat.belongs_to(&self.phase)
        {
            self.timers.arm(Timer::Heartbeat, now + interval);
        }
    }

    pub(super) fn probe_for(
        &mut self,
        now: Time,
        generation: Generation,
        what: Probe,
        out: &mut Vec<Action>,
    ) {
        if self.probe == Probe::None {
            out.push(Action::Probe(generation));
            self.timers
                .arm(Timer::Probe, now + self.config().probe_timeout);
            self.probe = what;
        } else if what == Probe::Request {
            self.probe = what;
        }
    }

    pub(super) fn on_probed(&mut self, now: Time, alive: bool, out: &mut Vec<Action>) {
        let asked_for = std::mem::replace(&mut self.probe, Probe::None);
        self.timers.disarm(Timer::Probe);
        if alive {
            self.status.probes_answered += 1;
            self.on_received(now);
            return;
        }
        match asked_for {
            Probe::Request => self.lose(now, End::retry(Initiator::Peer, Reason::ProbeFailed), out),
            Probe::Life | Probe::None => self.ask_again(now),
        }
    }

    fn ask_again(&mut self, now: Time) {
        if self.held || !Timer::Ask.belongs_to(&self.phase) {
            return;
        }
        if let (Liveness::Probed, Some(limit)) =
            (self.config().liveness, self.config().activity_timeout)
        {
            self.timers.arm(Timer::Ask, now + limit / 3);
        }
    }
}
