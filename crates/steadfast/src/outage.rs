//! Measures the parts of an outage.

use std::{collections::VecDeque, fmt, time::Duration};

use steadfast_session::{Reason, Time};

/// One outage, from the last sign of life before it until the protocol has caught up.
///
/// The four durations add up to the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// The reason the stream was lost for.
    pub reason: Reason,
    /// The time of the last sign of life before the loss.
    pub began: Time,
    /// From the last sign of life until the stream was declared lost.
    pub detection: Duration,
    /// From the loss until the next live stream was opened, including failed attempts.
    pub redial: Duration,
    /// From the opening of that stream until it was live.
    pub restore: Duration,
    /// From live until the protocol had everything it had missed.
    pub catch_up: Duration,
    /// The number of attempts, including the successful one.
    pub attempts: u32,
}

impl Outage {
    /// Returns the sum of the four parts.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.detection + self.redial + self.restore + self.catch_up
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "out for {:.1?} from {}: {}; noticed after {:.1?}, reopened after {:.1?} and {} attempts, \
             live after {:.1?}, caught up after {:.1?}",
            self.duration(),
            self.began,
            self.reason,
            self.detection,
            self.redial,
            self.attempts,
            self.restore,
            self.catch_up
        )
    }
}

/// Follows a link from loss to recovery.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    /// The outage that is not over.
    current: Option<Current>,
    last_received: Time,
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

/// The number of outages kept for [`crate::Link::outages`].
const RECENT: usize = 64;

impl Outages {
    pub(crate) fn on_received(&mut self, now: Time) {
        if self.live {
            self.last_received = now;
        }
    }

    pub(crate) fn on_attempt(&mut self) {
        if let Some(current) = &mut self.current {
            current.attempts += 1;
        }
    }

    pub(crate) fn on_opened(&mut self, now: Time) {
        if let Some(current) = &mut self.current
            // With `Ready::Accepted` a stream is live before its headers arrive. They must not move
            // the opening behind the time it was live.
            && current.live.is_none()
        {
            current.opened = Some(now);
        }
    }

    pub(crate) fn on_up(&mut self, now: Time) {
        self.live = true;
        self.last_received = now;
        if let Some(current) = &mut self.current {
            current.opened.get_or_insert(now);
            current.live = Some(now);
        }
    }

    pub(crate) fn on_down(&mut self, now: Time, reason: &Reason) {
        let was_live = std::mem::replace(&mut self.live, false);
        match &mut self.current {
            // Lost again before it had caught up: for the application this is the same outage.
            Some(current) => {
                current.opened = None;
                current.live = None;
            }
            None if was_live => {
                self.current = Some(Current {
                    reason: reason.clone(),
                    began: self.last_received,
                    lost: now,
                    opened: None,
                    live: None,
                    attempts: 0,
                });
            }
            None => {}
        }
    }

    /// Ends the current outage, if a stream is live, and returns it.
    pub(crate) fn on_caught_up(&mut self, now: Time) -> Option<Outage> {
        let live = self.current.as_ref()?.live?;
        let current = self.current.take()?;
        // A transport that does not report headers has no opening of its own; the parts still add
        // up.
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

    /// Forgets the current outage, because the link stopped and no stream will end it.
    pub(crate) fn abandon(&mut self) {
        self.current = None;
        self.live = false;
    }

    /// Returns the beginning of the outage that is not over.
    #[cfg(feature = "opentelemetry")]
    pub(crate) fn began(&self) -> Option<Time> {
        self.current.as_ref().map(|current| current.began)
    }

    pub(crate) fn recent(&self) -> impl Iterator<Item = &Outage> {
        self.recent.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_outage_add_up_to_its_duration() {
        let at = |ms: u64| Time::from_micros(ms * 1_000);
        let mut outages = Outages::default();
        outages.on_up(at(0));
        outages.on_received(at(500));
        outages.on_down(at(1_500), &Reason::Silent);
        outages.on_attempt();
        outages.on_down(at(1_800), &Reason::OpenTimeout);
        outages.on_attempt();
        outages.on_opened(at(2_000));
        outages.on_up(at(2_300));
        let outage = outages.on_caught_up(at(2_900)).unwrap();
        assert_eq!(outage.duration(), at(2_900).since(at(500)));
        assert_eq!(outage.detection, Duration::from_secs(1));
        assert_eq!(outage.redial, Duration::from_millis(500));
        assert_eq!(outage.restore, Duration::from_millis(300));
        assert_eq!(outage.catch_up, Duration::from_millis(600));
        assert_eq!((outage.attempts, &outage.reason), (2, &Reason::Silent));
        assert_eq!(outages.on_caught_up(at(3_000)), None);
        assert_eq!(
            outage.to_string(),
            "out for 2.4s from 0.500000s: peer fell silent; noticed after 1.0s, reopened after \
             500.0ms and 2 attempts, live after 300.0ms, caught up after 600.0ms"
        );
    }

    #[test]
    fn headers_after_live_do_not_count_time_twice() {
        let at = |ms: u64| Time::from_micros(ms * 1_000);
        let mut outages = Outages::default();
        outages.on_up(at(0));
        outages.on_down(at(100), &Reason::Silent);
        outages.on_up(at(200));
        outages.on_opened(at(700));
        let outage = outages.on_caught_up(at(900)).unwrap();
        assert_eq!(outage.redial, Duration::from_millis(100));
        assert_eq!(outage.duration(), Duration::from_millis(900));
    }

    #[test]
    fn loss_during_catch_up_prolongs_the_outage() {
        let at = |ms: u64| Time::from_micros(ms * 1_000);
        let mut outages = Outages::default();
        outages.on_up(at(0));
        outages.on_down(at(100), &Reason::Finished);
        outages.on_up(at(200));
        outages.on_down(at(300), &Reason::Silent);
        outages.on_up(at(400));
        let outage = outages.on_caught_up(at(500)).unwrap();
        assert_eq!(outage.duration(), Duration::from_millis(500));
        assert_eq!(outage.reason, Reason::Finished);
    }
}
