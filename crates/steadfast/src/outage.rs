//! Measures what an outage consists of.

use std::{collections::VecDeque, time::Duration};

use steadfast_session::{Reason, Time};

/// One outage, from the last sign of life before it until the protocol had caught up.
///
/// The four parts add up to the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Why the stream was lost.
    pub reason: Reason,
    /// When the last sign of life was received before it.
    pub began: Time,
    /// From the last sign of life to the verdict that the stream is lost.
    pub detection: Duration,
    /// From the verdict to the opening of the stream that became live, failed attempts included.
    pub redial: Duration,
    /// From its opening to its being live.
    pub restore: Duration,
    /// From its being live until the protocol had what it had missed.
    pub catch_up: Duration,
    /// Attempts it took, the last included.
    pub attempts: u32,
}

impl Outage {
    /// The sum of the parts.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.detection + self.redial + self.restore + self.catch_up
    }
}

/// Follows a link from loss to recovery.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    current: Option<Current>,
    last_life: Time,
    live: bool,
    recent: VecDeque<Outage>,
}

#[derive(Debug)]
struct Current {
    reason: Reason,
    began: Time,
    lost: Time,
    opened: Option<Time>,
    live: Option<Time>,
    attempts: u32,
}

/// How many outages are remembered.
const RECENT: usize = 64;

impl Outages {
    pub(crate) fn life(&mut self, now: Time) {
        if self.live {
            self.last_life = now;
        }
    }

    pub(crate) fn attempt(&mut self) {
        if let Some(current) = &mut self.current {
            current.attempts += 1;
        }
    }

    /// Headers that come when the stream is live already, on the word of the connection, change
    /// nothing about when it opened.
    pub(crate) fn opened(&mut self, now: Time) {
        if let Some(current) = &mut self.current
            && current.live.is_none()
        {
            current.opened = Some(now);
        }
    }

    pub(crate) fn up(&mut self, now: Time) {
        self.live = true;
        self.last_life = now;
        if let Some(current) = &mut self.current {
            current.opened.get_or_insert(now);
            current.live = Some(now);
        }
    }

    pub(crate) fn down(&mut self, now: Time, reason: &Reason) {
        let was_live = std::mem::replace(&mut self.live, false);
        match &mut self.current {
            // Lost again before it had caught up: still the same outage for the application.
            Some(current) => {
                current.opened = None;
                current.live = None;
            }
            None if was_live => {
                self.current = Some(Current {
                    reason: reason.clone(),
                    began: self.last_life,
                    lost: now,
                    opened: None,
                    live: None,
                    attempts: 0,
                });
            }
            None => {}
        }
    }

    /// The protocol has what it had missed. Returns the outage that this ends.
    pub(crate) fn caught_up(&mut self, now: Time) -> Option<Outage> {
        let live = self.current.as_ref()?.live?;
        let current = self.current.take()?;
        let opened = current.opened.unwrap_or(live);
        let outage = Outage {
            reason: current.reason,
            began: current.began,
            detection: current.lost.since(current.began),
            redial: opened.since(current.lost),
            restore: live.since(opened),
            catch_up: now.since(live),
            attempts: current.attempts,
        };
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(outage.clone());
        Some(outage)
    }

    pub(crate) fn abandon(&mut self) {
        self.current = None;
        self.live = false;
    }

    pub(crate) fn recent(&self) -> impl Iterator<Item = &Outage> {
        self.recent.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_outage_add_up_to_it() {
        let at = |ms: u64| Time::from_micros(ms * 1_000);
        let mut outages = Outages::default();
        outages.up(at(0));
        outages.life(at(500));
        outages.down(at(1_500), &Reason::Silent);
        outages.attempt();
        outages.down(at(1_800), &Reason::OpenTimeout);
        outages.attempt();
        outages.opened(at(2_000));
        outages.up(at(2_300));
        let outage = outages.caught_up(at(2_900)).unwrap();
        assert_eq!(outage.duration(), at(2_900).since(at(500)));
        assert_eq!(outage.detection, Duration::from_secs(1));
        assert_eq!(outage.redial, Duration::from_millis(500));
        assert_eq!(outage.restore, Duration::from_millis(300));
        assert_eq!(outage.catch_up, Duration::from_millis(600));
        assert_eq!((outage.attempts, outage.reason), (2, Reason::Silent));
        assert_eq!(outages.caught_up(at(3_000)), None);
    }

    #[test]
    fn i25_headers_that_come_after_the_stream_is_live_do_not_count_time_twice() {
        let at = |ms: u64| Time::from_micros(ms * 1_000);
        let mut outages = Outages::default();
        outages.up(at(0));
        outages.down(at(100), &Reason::Silent);
        outages.up(at(200));
        outages.opened(at(700));
        let outage = outages.caught_up(at(900)).unwrap();
        assert_eq!(outage.redial, Duration::from_millis(100));
        assert_eq!(outage.duration(), Duration::from_millis(900));
    }

    #[test]
    fn a_loss_while_catching_up_prolongs_the_outage() {
        let at = |ms: u64| Time::from_micros(ms * 1_000);
        let mut outages = Outages::default();
        outages.up(at(0));
        outages.down(at(100), &Reason::Finished);
        outages.up(at(200));
        outages.down(at(300), &Reason::Silent);
        outages.up(at(400));
        let outage = outages.caught_up(at(500)).unwrap();
        assert_eq!(outage.duration(), Duration::from_millis(500));
        assert_eq!(outage.reason, Reason::Finished);
    }
}
