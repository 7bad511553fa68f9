//! The first words of a stream, heartbeats, and the last words of the peer.

use std::{collections::VecDeque, time::Duration};

use steadfast_session::{Advice, End, Generation, Initiator, Reason, Signal, Time};
use steadfast_wire::streamer::{self as wire, gateway_message::Payload};

use super::{Core, Cx, Malformed, Notice, Peer, position};

/// Heartbeats of the current stream that are not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    /// The newest timestamp used; each is used once, so that an ack names its heartbeat.
    newest: i64,
    sent: VecDeque<(i64, Time)>,
}

impl Heartbeats {
    fn next(&mut self, now: Time, unix_ms: i64) -> i64 {
        self.newest = unix_ms.max(self.newest.saturating_add(1));
        if self.sent.len() == UNANSWERED_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.newest, now));
        self.newest
    }

    /// When the heartbeat with this timestamp was sent. It and those before it are settled.
    fn answered(&mut self, timestamp: i64) -> Option<Time> {
        let index = self.sent.iter().position(|(sent, _)| *sent == timestamp)?;
        let (_, at) = self.sent.drain(..=index).next_back()?;
        Some(at)
    }

    pub(super) fn clear(&mut self) {
        self.sent.clear();
    }
}

/// Acks are expected long before so many heartbeats are on their way; a plain peer may never ack.
const UNANSWERED_MAX: usize = 64;

impl Core {
    /// Says hello, and sends the heartbeat whose ack tells a plain peer: some servers send no
    /// headers before they have something to answer, and a plain one does not answer a hello.
    pub(super) fn greet(&mut self, now: Time, generation: Generation, cx: &mut Cx) {
        if self.config.offer_profile {
            let interval = self.config.heartbeat_interval.unwrap_or_default();
            let hello = wire::Hello {
                version: PROFILE_VERSION,
                client_id: self.config.client_id.clone(),
                session_id: self.config.session_id.clone(),
                attempt: generation.0,
                heartbeat_interval_ms: u32::try_from(interval.as_millis()).unwrap_or(u32::MAX),
            };
            super::say(cx, super::gateway(Payload::Hello(hello)));
        }
        self.send_heartbeat(now, cx);
    }

    pub(super) fn send_heartbeat(&mut self, now: Time, cx: &mut Cx) {
        let since_start = i64::try_from(now.as_micros() / 1_000).unwrap_or(i64::MAX);
        let unix_ms = self.config.unix_ms.saturating_add(since_start);
        let heartbeat = wire::Heartbeat {
            gateway_id: self.config.client_id.clone(),
            timestamp: self.heartbeats.next(now, unix_ms),
        };
        super::say(cx, super::gateway(Payload::Heartbeat(heartbeat)));
    }

    pub(super) fn on_heartbeat_ack(
        &mut self,
        now: Time,
        ack: wire::HeartbeatAck,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        match self.heartbeats.answered(ack.timestamp) {
            None => self.counters.stray_acks += 1,
            Some(sent_at) => {
                if self.peer == Peer::Unknown {
                    self.enter_plain(cx);
                }
                cx.signal(Signal::HeartbeatAcked);
                cx.emit(Notice::Rtt(now.since(sent_at)));
            }
        }
        match ack.progress {
            Some(progress) if self.peer == Peer::Profile => self.on_progress(&progress, cx),
            Some(_) | None => Ok(()),
        }
    }

    /// An ack without a welcome before it: the peer has no positions.
    fn enter_plain(&mut self, cx: &mut Cx) {
        self.peer = Peer::Plain;
        cx.emit(Notice::Greeted {
            server_id: String::new(),
            head: None,
        });
        cx.signal(Signal::Greeted);
        self.restore(cx);
    }

    pub(super) fn on_welcome(
        &mut self,
        welcome: wire::Welcome,
        cx: &mut Cx,
    ) -> Result<(), Malformed> {
        match self.peer {
            Peer::Unknown if self.config.offer_profile => {}
            Peer::Unknown => return Err("a welcome, but there was no hello".into()),
            Peer::Plain => return Err("a welcome after the first heartbeat's ack".into()),
            Peer::Profile => return Err("a second welcome".into()),
            Peer::Away => return Ok(()),
        }
        if welcome.version != PROFILE_VERSION {
            return Err(format!(
                "a welcome to version {} of the resume profile, this side speaks {PROFILE_VERSION}",
                welcome.version
            ));
        }
        let head = position(welcome.head.ok_or("a welcome has no head position")?);
        self.peer = Peer::Profile;
        self.head = Some(head);
        cx.emit(Notice::Greeted {
            server_id: welcome.server_id,
            head: Some(head),
        });
        cx.signal(Signal::Greeted);
        cx.signal(Signal::ExpectAcks);
        if welcome.heartbeat_interval_ms > 0 {
            let interval = Duration::from_millis(welcome.heartbeat_interval_ms.into());
            cx.signal(Signal::HeartbeatInterval(interval));
        }
        self.restore(cx);
        Ok(())
    }
}

pub(super) fn on_drain(drain: wire::Drain, cx: &mut Cx) {
    cx.signal(Signal::Drain(drain.reason));
}

/// The peer said why it ends the stream; its status would not tell as much.
pub(super) fn on_final(last: &wire::Final, cx: &mut Cx) -> Result<(), Malformed> {
    let status = |code| Reason::Status {
        code,
        message: last.message.clone(),
    };
    let code = wire::FinalCode::try_from(last.code)
        .map_err(|_| format!("a final message has the unknown code {}", last.code))?;
    let reason = match code {
        wire::FinalCode::Fenced => {
            cx.fail(End::stop(Initiator::Peer, Reason::Fenced));
            return Ok(());
        }
        wire::FinalCode::Drained => Reason::Drained(last.message.clone()),
        wire::FinalCode::Unspecified => status(UNKNOWN),
        wire::FinalCode::Protocol => status(INVALID_ARGUMENT),
        wire::FinalCode::Silent => status(DEADLINE_EXCEEDED),
        wire::FinalCode::Evicted | wire::FinalCode::Limit => status(RESOURCE_EXHAUSTED),
        wire::FinalCode::Storage => status(UNAVAILABLE),
    };
    let advice = match last.retry_after_ms {
        0 => Advice::Retry,
        ms => Advice::Wait(Some(Duration::from_millis(ms.into()))),
    };
    cx.fail(End {
        initiator: Initiator::Peer,
        reason,
        advice,
    });
    Ok(())
}

/// The version of the profile that this side speaks.
const PROFILE_VERSION: u32 = 1;

// gRPC status codes; the machine does not depend on a gRPC library.
const UNKNOWN: i32 = 2;
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_distinct_even_when_the_clock_stands_still_or_goes_back() {
        let mut heartbeats = Heartbeats::default();
        let stamps = [1_000, 1_000, 900].map(|ms| heartbeats.next(Time::ZERO, ms));
        assert_eq!(stamps, [1_000, 1_001, 1_002]);
        heartbeats.clear();
        assert_eq!(heartbeats.next(Time::ZERO, 5), 1_003);
    }

    #[test]
    fn an_ack_settles_its_heartbeat_and_those_before_it() {
        let mut heartbeats = Heartbeats::default();
        let stamps = [1, 2, 3].map(|ms| heartbeats.next(Time::from_micros(ms), 10));
        assert_eq!(heartbeats.answered(stamps[1]), Some(Time::from_micros(2)));
        assert_eq!(heartbeats.answered(stamps[0]), None);
        assert_eq!(heartbeats.answered(stamps[2]), Some(Time::from_micros(3)));
    }

    #[test]
    fn heartbeats_that_nobody_answers_are_forgotten_in_the_end() {
        let mut heartbeats = Heartbeats::default();
        for round in 0..1_000 {
            heartbeats.next(Time::ZERO, round);
        }
        assert_eq!(heartbeats.sent.len(), UNANSWERED_MAX);
    }
}
