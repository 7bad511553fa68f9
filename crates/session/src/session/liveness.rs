//! Signs of life: received bytes, acknowledged heartbeats, responses to probes.

use std::time::Duration;

use crate::{
    Time,
    config::Liveness,
    end::{End, Initiator, Reason},
    session::{Action, ProbePurpose, Session},
    timer::Timer,
};

/// The timers that blame the peer. They do not run while reading is paused.
pub(super) const PEER_TIMERS: [Timer; 5] = [
    Timer::Greet,
    Timer::Restore,
    Timer::Activity,
    Timer::Ack,
    Timer::ProbeDue,
];

/// The shortest interval of heartbeats that a peer can ask for.
// A peer that asks for less is broken; 100 heartbeats a second cost either side nothing.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(10);

impl Session {
    pub(super) fn start_liveness(&mut self, now: Time) {
        self.on_received(now);
        self.arm_heartbeat(now);
    }

    pub(super) fn on_received(&mut self, now: Time) {
        let Some(attempt) = self.attempt() else {
            return;
        };
        // Bytes received while opening are no greeting, and those read before a pause are not news.
        if attempt.read_paused || !attempt.stage.uses(Timer::Activity) {
            return;
        }
        if let Some(limit) = self.config().activity_timeout {
            self.timers.arm(Timer::Activity, now + limit);
        }
        self.schedule_probe(now);
    }

    pub(super) fn on_read_paused(&mut self, now: Time, paused: bool) {
        let Some(attempt) = self.attempt_mut() else {
            return;
        };
        // A repeated pause must not give the peer its time again.
        if attempt.read_paused == paused {
            return;
        }
        attempt.read_paused = paused;
        if paused {
            self.timers.retain(|timer| !PEER_TIMERS.contains(&timer));
        } else {
            // The peer could not be heard during the pause, so it gets its full time again.
            self.arm_response_timeout(now);
            self.on_received(now);
        }
    }

    pub(super) fn on_expect_acks(&mut self) {
        if let Some(attempt) = self.attempt_mut() {
            attempt.expects_acks = true;
        }
    }

    /// Adopts the interval that the peer asks for, within bounds: no flood, and at least two
    /// heartbeats per activity timeout where only their responses keep the stream alive.
    pub(super) fn on_heartbeat_interval(&mut self, now: Time, interval: Duration) {
        let longest = match (self.config().liveness, self.config().activity_timeout) {
            (Liveness::Received, Some(limit)) => limit / 2,
            (Liveness::Received, None) | (Liveness::Probed, _) => Duration::MAX,
        };
        if let Some(attempt) = self.attempt_mut() {
            // The lower bound comes last: half of a tiny activity timeout would be a flood.
            attempt.heartbeat_interval = Some(interval.min(longest).max(HEARTBEAT_INTERVAL_MIN));
        }
        self.arm_heartbeat(now);
    }

    pub(super) fn on_heartbeat_due(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(attempt) = self.attempt() else {
            return;
        };
        let ack_expected = attempt.expects_acks && !attempt.read_paused;
        // Heartbeats go on while reading is paused: they keep this side alive for the peer.
        out.push(Action::Heartbeat(attempt.generation));
        self.arm_heartbeat(now);
        // The oldest unacknowledged heartbeat counts: a newer one must not extend its deadline.
        if let Some(limit) = self.config().activity_timeout
            && ack_expected
            && self.timers.armed(Timer::Ack).is_none()
        {
            self.timers.arm(Timer::Ack, now + limit);
        }
    }

    fn arm_heartbeat(&mut self, now: Time) {
        if let Some(attempt) = self.attempt()
            && attempt.stage.uses(Timer::Heartbeat)
            && let Some(interval) = attempt.heartbeat_interval
        {
            self.timers.arm(Timer::Heartbeat, now + interval);
        }
    }

    /// Sends a probe unless one is outstanding. A probe for liveness that is already under way also
    /// decides a request to reconnect.
    pub(super) fn probe(&mut self, now: Time, purpose: ProbePurpose, out: &mut Vec<Action>) {
        let timeout = self.config().probe_timeout;
        let Some(attempt) = self.attempt_mut() else {
            return;
        };
        match attempt.probe {
            None => {
                attempt.probe = Some(purpose);
                out.push(Action::Probe(attempt.generation));
                self.timers.arm(Timer::Probe, now + timeout);
            }
            Some(_) if purpose == ProbePurpose::Reconnect => attempt.probe = Some(purpose),
            Some(_) => {}
        }
    }

    pub(super) fn on_probed(&mut self, now: Time, alive: bool, out: &mut Vec<Action>) {
        let purpose = self.attempt_mut().and_then(|attempt| attempt.probe.take());
        // First, because the handlers below may send the next probe, which arms it.
        self.timers.disarm(Timer::Probe);
        if alive {
            // Also after its timeout: a late response is a sign of life all the same.
            self.status.probes_answered += 1;
            self.on_received(now);
            return;
        }
        match purpose {
            Some(ProbePurpose::Reconnect) => {
                let end = End::retry(Initiator::Peer, Reason::ProbeFailed);
                self.on_ended(now, end, out);
            }
            // One lost probe proves nothing; the activity timeout decides.
            Some(ProbePurpose::Liveness) | None => self.schedule_probe(now),
        }
    }

    fn schedule_probe(&mut self, now: Time) {
        let allowed = self
            .attempt()
            .is_some_and(|attempt| !attempt.read_paused && attempt.stage.uses(Timer::ProbeDue));
        if let (Liveness::Probed, Some(limit)) =
            (self.config().liveness, self.config().activity_timeout)
            && allowed
        {
            // A third leaves time for a second probe before the activity timeout.
            self.timers.arm(Timer::ProbeDue, now + limit / 3);
        }
    }
}
