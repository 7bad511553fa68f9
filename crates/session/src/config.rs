//! How a session behaves: plain fields with defaults, checked once.

use std::{fmt, time::Duration};

/// Settings of a session. [`Config::check`] turns it into the type a session accepts.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Delay before the second attempt. Default 1 s.
    pub initial_backoff: Duration,
    /// No delay of the backoff is longer, jitter included. Default 30 s.
    pub max_backoff: Duration,
    /// Each delay is the one before times this, up to the maximum. Default 2.0.
    pub backoff_multiplier: f64,
    /// How delays are spread. Default ±20 %.
    pub jitter: Jitter,
    /// How the first delay after the loss of a stable stream is chosen. Default [`Recovery::Backoff`].
    pub recovery: Recovery,
    /// Give up after this many failed attempts in a row, the first included; 0 never gives up.
    /// Default 0.
    pub max_retries: u32,
    /// What must have happened for the stream to be live. Default [`Ready::Headers`].
    pub ready: Ready,
    /// Limit on dialling and opening together. Default 10 s.
    pub open_timeout: Duration,
    /// Limit on the wait for the peer's greeting. Default 10 s.
    pub greeting_timeout: Duration,
    /// Limit on the wait for the next answer while restoring. Default 30 s.
    pub restoring_timeout: Duration,
    /// Limit on the wait for the answer to a probe. Default 5 s.
    pub probe_timeout: Duration,
    /// Limit on our own orderly end. Default 10 s.
    pub drain_timeout: Duration,
    /// How often heartbeats are sent; `None` sends none. Default 30 s.
    pub heartbeat_interval: Option<Duration>,
    /// Silence that means the peer is dead; `None` waits for the transport to notice. Default 90 s.
    pub activity_timeout: Option<Duration>,
    /// Whether silence is broken by asking. Default [`Liveness::Received`].
    pub liveness: Liveness,
    /// A live stream that has lasted this long has proved itself. Default 30 s.
    pub stable_after: Duration,
    /// Longest delay a peer can ask for, before jitter. Default 5 min.
    pub retry_after_max: Duration,
}

/// How a delay `d` is spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Jitter {
    /// Uniform in `[(1 − f)·d, min((1 + f)·d, max_backoff)]`; `f` is in `0..=1`. A delay `w` that
    /// the peer asked for is uniform in `[w, w + f·min(w, max_backoff)]`.
    Proportional(f64),
    /// Uniform in `[min_interval, max(d, min_interval)]`: best against herds. A delay `w` that the
    /// peer asked for is uniform in `[w, w + min(w, max_backoff)]`.
    Full,
}

/// The first delay after the loss of a stable stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The first delay of the backoff.
    Backoff,
    /// Uniform between zero and this.
    Spread(Duration),
}

/// What must have happened for a stream to be live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ready {
    /// The connection has taken the request.
    Accepted,
    /// The response headers have arrived.
    Headers,
    /// The protocol has been greeted.
    FirstMessage,
    /// Everything the protocol restored is answered.
    Restored,
}

/// How a session knows that the peer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// By what it receives: the peer speaks by itself or answers heartbeats.
    Received,
    /// By asking on the same connection after a third of the activity timeout has passed in
    /// silence: for peers that never speak unasked.
    Probed,
}

/// Every fault of a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults(Vec<ConfigFault>);

/// One fault of a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigFault {
    /// Name of the setting.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// A [`Config`] without faults.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedConfig(Config);

impl Default for Config {
    fn default() -> Self {
        Self {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(30),
            backoff_multiplier: 2.0,
            jitter: Jitter::Proportional(0.2),
            recovery: Recovery::Backoff,
            max_retries: 0,
            ready: Ready::Headers,
            open_timeout: Duration::from_secs(10),
            greeting_timeout: Duration::from_secs(10),
            restoring_timeout: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
            heartbeat_interval: Some(Duration::from_secs(30)),
            activity_timeout: Some(Duration::from_secs(90)),
            liveness: Liveness::Received,
            stable_after: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(300),
        }
    }
}

impl Config {
    /// Looks at every setting.
    ///
    /// # Errors
    ///
    /// All faults at once.
    pub fn check(self) -> Result<CheckedConfig, ConfigFaults> {
        let mut faults = Vec::new();
        let mut fault = |field, problem: String| faults.push(ConfigFault { field, problem });
        for (field, span) in self.spans() {
            if span.is_some_and(|span| span < Duration::from_micros(1)) {
                fault(field, "must be at least 1 µs".to_owned());
            }
        }
        if self.max_backoff < self.initial_backoff {
            fault(
                "max_backoff",
                format!(
                    "is {:?}, less than initial_backoff ({:?})",
                    self.max_backoff, self.initial_backoff
                ),
            );
        }
        if !(self.backoff_multiplier.is_finite() && self.backoff_multiplier >= 1.0) {
            fault(
                "backoff_multiplier",
                format!(
                    "is {}, must be a number of at least 1",
                    self.backoff_multiplier
                ),
            );
        }
        if let Jitter::Proportional(fraction) = self.jitter
            && !(0.0..=1.0).contains(&fraction)
        {
            fault("jitter", format!("is {fraction}, must be between 0 and 1"));
        }
        if let (Liveness::Received, Some(heartbeat), Some(activity)) = (
            self.liveness,
            self.heartbeat_interval,
            self.activity_timeout,
        ) && activity <= heartbeat
        {
            fault(
                "activity_timeout",
                format!(
                    "is {activity:?}, must be longer than heartbeat_interval ({heartbeat:?}), or \
                     a healthy peer looks dead between two heartbeats"
                ),
            );
        }
        if self.liveness == Liveness::Probed && self.activity_timeout.is_none() {
            fault(
                "activity_timeout",
                "must be set when the peer's life is asked for".to_owned(),
            );
        }
        if faults.is_empty() {
            Ok(CheckedConfig(self))
        } else {
            Err(ConfigFaults(faults))
        }
    }

    fn spans(&self) -> [(&'static str, Option<Duration>); 12] {
        [
            ("initial_backoff", Some(self.initial_backoff)),
            ("max_backoff", Some(self.max_backoff)),
            ("open_timeout", Some(self.open_timeout)),
            ("greeting_timeout", Some(self.greeting_timeout)),
            ("restoring_timeout", Some(self.restoring_timeout)),
            ("probe_timeout", Some(self.probe_timeout)),
            ("drain_timeout", Some(self.drain_timeout)),
            ("heartbeat_interval", self.heartbeat_interval),
            ("activity_timeout", self.activity_timeout),
            ("stable_after", Some(self.stable_after)),
            ("retry_after_max", Some(self.retry_after_max)),
            (
                "recovery",
                match self.recovery {
                    Recovery::Backoff => None,
                    Recovery::Spread(span) => Some(span),
                },
            ),
        ]
    }

    /// The least time between the starts of two attempts, whatever the peer or the caller does:
    /// `min(0.8·initial_backoff, 500 ms)`.
    #[must_use]
    pub fn min_interval(&self) -> Duration {
        self.initial_backoff
            .mul_f64(0.8)
            .min(Duration::from_millis(500))
    }
}

impl CheckedConfig {
    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Config {
        &self.0
    }
}

impl ConfigFaults {
    /// The faults, at least one.
    #[must_use]
    pub fn faults(&self) -> &[ConfigFault] {
        &self.0
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}
