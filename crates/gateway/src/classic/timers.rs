//! The times of a socket: heartbeats, pings, silence, and the wait for credentials.

use std::time::Duration;

use steadfast_session::Time;

use super::{UNAUTHORIZED, message};
use crate::machine::{Action, Actions, LATE};

/// None of them runs for a stream of events.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heartbeat: Option<Time>,
    ping: Option<Time>,
    /// The client is given up.
    silence: Option<Time>,
    /// It was pinged since it was heard last.
    was_pinged: bool,
    /// The client must have authenticated.
    authentication: Option<Time>,
}

/// The interval of heartbeats. The client gives up after 90 s without a message, and sees no pings.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(30);
/// The interval of pings.
pub(super) const PING: Duration = Duration::from_secs(25);
/// The longest silence of a client, which answers pings.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// The time within which a client authenticates, at first and after its credentials ended.
pub(super) const AUTHENTICATION: Duration = Duration::from_secs(60);

impl Timers {
    /// Starts those of a socket that has opened.
    pub(super) fn start(&mut self, now: Time) {
        self.heartbeat = Some(now + HEARTBEAT);
        self.ping = Some(now + PING);
        self.await_credentials(now);
        self.on_heard(now);
    }

    pub(super) fn on_heard(&mut self, now: Time) {
        self.silence = Some(now + SILENCE);
        self.was_pinged = false;
    }

    pub(super) fn await_credentials(&mut self, now: Time) {
        self.authentication = Some(now + AUTHENTICATION);
    }

    pub(super) fn on_authenticated(&mut self) {
        self.authentication = None;
    }

    /// Returns the time at which [`on_time`](Self::on_time) has something to do.
    pub(super) fn next(&self) -> Option<Time> {
        let all = [self.heartbeat, self.ping, self.silence, self.authentication];
        all.into_iter().flatten().min()
    }

    pub(super) fn on_time(&mut self, now: Time, out: &mut Actions) {
        let is_due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if let Some(at) = self.silence.filter(|at| *at <= now) {
            if self.was_pinged && now <= at + LATE {
                // A close frame would only wait for a peer that is gone.
                out.push(Action::Cut);
                return;
            }
            // It was not asked, or its answer may wait to be read: it has another interval.
            self.silence = Some(now + SILENCE);
            self.ping = Some(now);
        }
        if is_due(self.authentication) {
            out.push(Action::Close {
                code: UNAUTHORIZED,
                reason: "unauthorized: no auth message came in time",
            });
            return;
        }
        if is_due(self.heartbeat) {
            self.heartbeat = Some(now + HEARTBEAT);
            out.send(message::HEARTBEAT);
        }
        if is_due(self.ping) {
            self.ping = Some(now + PING);
            self.was_pinged = true;
            out.push(Action::Ping);
        }
    }
}
