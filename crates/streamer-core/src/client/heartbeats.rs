//! Heartbeats and the round trips they measure.

use std::collections::VecDeque;

use steadfast_session::Time;
use steadfast_wire::streamer as wire;

/// Sends heartbeats and matches each acknowledgement to its heartbeat.
#[derive(Debug)]
pub(super) struct Heartbeats {
    gateway_id: String,
    /// The wall clock at [`Time::ZERO`], Unix milliseconds.
    unix_ms: i64,
    /// The newest timestamp used. Each is used once, so that an acknowledgement names one heartbeat.
    newest: i64,
    /// The heartbeats of the current stream that are not acknowledged, oldest first.
    unacknowledged: VecDeque<(i64, Time)>,
}

impl Heartbeats {
    pub(super) fn new(gateway_id: String, unix_ms: i64) -> Self {
        Self {
            gateway_id,
            unix_ms,
            newest: 0,
            unacknowledged: VecDeque::new(),
        }
    }

    /// Returns the next heartbeat to send.
    pub(super) fn next(&mut self, now: Time) -> wire::Heartbeat {
        let since_start = i64::try_from(now.as_micros() / 1_000).unwrap_or(i64::MAX);
        let unix_ms = self.unix_ms.saturating_add(since_start);
        // Two heartbeats within a millisecond must not share a timestamp, which is all that an
        // acknowledgement repeats.
        self.newest = unix_ms.max(self.newest.saturating_add(1));
        if self.unacknowledged.len() == MAX_UNACKNOWLEDGED {
            self.unacknowledged.pop_front();
        }
        self.unacknowledged.push_back((self.newest, now));
        wire::Heartbeat {
            gateway_id: self.gateway_id.clone(),
            timestamp: self.newest,
        }
    }

    /// Returns when the heartbeat with this timestamp was sent, and forgets it and every older one.
    pub(super) fn acknowledge(&mut self, timestamp: i64) -> Option<Time> {
        let index = self
            .unacknowledged
            .iter()
            .position(|(sent, _)| *sent == timestamp)?;
        // The peer answers in order, so the older ones will not be acknowledged any more.
        let (_, at) = self.unacknowledged.drain(..=index).next_back()?;
        Some(at)
    }

    /// Forgets the heartbeats of a stream that is gone.
    pub(super) fn clear(&mut self) {
        self.unacknowledged.clear();
    }
}

/// A healthy peer acknowledges long before; a plain one may never acknowledge at all.
const MAX_UNACKNOWLEDGED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeats(unix_ms: i64) -> Heartbeats {
        Heartbeats::new("gw".to_owned(), unix_ms)
    }

    #[test]
    fn timestamps_are_distinct_while_the_clock_stands_still() {
        let mut heartbeats = heartbeats(1_000);
        let stamps = [0, 0, 1_000].map(|us| heartbeats.next(Time::from_micros(us)).timestamp);
        assert_eq!(stamps, [1_000, 1_001, 1_002]);
        heartbeats.clear();
        assert_eq!(heartbeats.next(Time::ZERO).timestamp, 1_003);
    }

    #[test]
    fn an_acknowledgement_covers_older_heartbeats() {
        let mut heartbeats = heartbeats(10);
        let stamps = [1, 2, 3].map(|us| heartbeats.next(Time::from_micros(us)).timestamp);
        let sent = |us| Some(Time::from_micros(us));
        assert_eq!(heartbeats.acknowledge(stamps[1]), sent(2));
        assert_eq!(heartbeats.acknowledge(stamps[0]), None);
        assert_eq!(heartbeats.acknowledge(stamps[2]), sent(3));
    }

    #[test]
    fn unacknowledged_heartbeats_are_bounded() {
        let mut heartbeats = heartbeats(0);
        let sent: Vec<_> = (0..1_000)
            .map(|_| heartbeats.next(Time::ZERO).timestamp)
            .collect();
        let [forgotten @ .., oldest] = &sent[..=1_000 - MAX_UNACKNOWLEDGED] else {
            panic!("more are sent than kept");
        };
        assert_eq!(heartbeats.unacknowledged.len(), MAX_UNACKNOWLEDGED);
        assert_eq!(heartbeats.acknowledge(forgotten[forgotten.len() - 1]), None);
        assert_eq!(heartbeats.acknowledge(*oldest), Some(Time::ZERO));
    }
}
