//! Checks the times of a client's attempts against a model of the backoff.

use std::time::Duration;

use steadfast_session::{Advice, Config, End, Reason, Time};

/// A model of one client's attempts.
#[derive(Debug, Default)]
pub(crate) struct PaceChecker {
    last_start: Option<Time>,
    live_since: Option<Time>,
    /// Ends in a row that came before the stream was stable.
    failures: u32,
    /// The peer has refused credentials since the last stable stream.
    refused: bool,
    /// The earliest time of the next attempt, unless the caller requests one.
    not_before: Time,
    connect_requested: bool,
}

/// Tolerance for times that both sides round to microseconds.
const SLACK: Duration = Duration::from_micros(2);

impl PaceChecker {
    /// Notes that the caller requested a stream: only the minimum interval limits the next attempt.
    pub(crate) fn on_connect_requested(&mut self) {
        self.connect_requested = true;
    }

    pub(crate) fn on_live(&mut self, now: Time) {
        self.live_since = Some(now);
    }

    pub(crate) fn on_down(&mut self, now: Time, end: &End, config: &Config) {
        let stable = self
            .live_since
            .take()
            .is_some_and(|since| now.since(since) >= config.stable_after);
        // Only a stable stream resets the backoff.
        if stable {
            self.failures = 0;
            self.refused = false;
        } else {
            self.failures += 1;
        }
        let is_first_refusal = end.advice == Advice::Refresh && !self.refused;
        self.refused |= end.advice == Advice::Refresh;
        // The three ends after which the session may open a stream at once.
        let exempt = stable && matches!(end.reason, Reason::Drained(_))
            || matches!(end.reason, Reason::ProbeFailed)
            || is_first_refusal;
        // The first failure waits `initial_backoff` itself.
        let step = self.failures.saturating_sub(1);
        let ideal = config
            .initial_backoff
            .mul_f64(2_f64.powi(step.cast_signed()));
        // The lower bound of R-2. The upper one is not checked: a `retry_after` may exceed it
        //
        let shortest = ideal.min(config.max_backoff).mul_f64(0.8);
        self.not_before = if exempt { now } else { now + shortest };
        // A request counts for the attempt that follows it, not for the ones after the next end.
        self.connect_requested = false;
    }

    /// Checks the start of an attempt. Returns the violation, if it is one.
    pub(crate) fn on_attempt(&mut self, now: Time, config: &Config) -> Option<String> {
        let minimum = config.min_interval();
        // R-3 holds whatever the caller does, so that it is checked before the request is
        // considered.
        let before = self.last_start.replace(now);
        if let Some(before) = before
            && now + SLACK < before + minimum
        {
            return Some(format!(
                "two attempts within {:?}, the minimum is {minimum:?}",
                now.since(before)
            ));
        }
        if !self.connect_requested && now + SLACK < self.not_before {
            return Some(format!(
                "an attempt at {now} after {} failures, not allowed before {}",
                self.failures, self.not_before
            ));
        }
        None
    }
}
