//! Checks the pace of a client's attempts against a model of its own.

use std::time::Duration;

use steadfast_session::{Config, End, Reason, Time};

/// Follows the attempts of one client.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last_start: Option<Time>,
    live_since: Option<Time>,
    /// Ends in a row that came before the stream had proved itself.
    unproven: u32,
    /// The earliest moment of the next attempt, unless the caller asks for one.
    not_before: Time,
    asked: bool,
}

impl Pace {
    /// The caller asked for a stream: only the least interval holds for the next attempt.
    pub(crate) fn ask(&mut self) {
        self.asked = true;
    }

    pub(crate) fn live(&mut self, now: Time) {
        self.live_since = Some(now);
    }

    pub(crate) fn down(&mut self, now: Time, end: &End, config: &Config) {
        let proven = self
            .live_since
            .take()
            .is_some_and(|since| now.since(since) >= config.stable_after);
        if proven {
            self.unproven = 0;
        } else {
            self.unproven += 1;
        }
        let exempt = proven && matches!(end.reason, Reason::Drained(_))
            || matches!(end.reason, Reason::ProbeFailed);
        let step = self.unproven.saturating_sub(1);
        let ideal = config
            .initial_backoff
            .mul_f64(2_f64.powi(step.cast_signed()));
        let least = ideal.min(config.max_backoff).mul_f64(0.8);
        self.not_before = if exempt { now } else { now + least };
        self.asked = false;
    }

    /// An attempt begins; says what is wrong with that.
    pub(crate) fn attempt(&mut self, now: Time, config: &Config) -> Option<String> {
        let slack = Duration::from_micros(2);
        let least = config.min_interval();
        let before = self.last_start.replace(now);
        if let Some(before) = before
            && now + slack < before + least
        {
            return Some(format!(
                "two attempts within {:?}, at least {least:?}",
                now.since(before)
            ));
        }
        if !self.asked && now + slack < self.not_before {
            return Some(format!(
                "an attempt at {now} after {} unproven ends, not before {}",
                self.unproven, self.not_before
            ));
        }
        None
    }
}
