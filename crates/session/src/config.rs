//! Settings of a session: plain fields with defaults, checked once.

use std::{fmt, time::Duration};

/// The settings of a session. [`Config::check`] turns them into the type that [`Session::new`] accepts.
///
/// ```
/// use std::time::Duration;
/// use steadfast_session::Config;
///
/// let mut config = Config::default();
/// config.max_backoff = Duration::from_millis(100);
/// let faults = config.check().expect_err("shorter than initial_backoff");
/// assert_eq!(faults.to_string(), "max_backoff: is 100ms, less than initial_backoff (1s)");
/// ```
///
/// [`Session::new`]: crate::Session::new
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The delay before the second attempt. Default 1 s.
    pub initial_backoff: Duration,
    /// The longest delay of the backoff, jitter included. Default 30 s.
    pub max_backoff: Duration,
    /// The factor from one delay to the next, up to the maximum. Default 2.0.
    pub backoff_multiplier: f64,
    /// The spread of delays. Default ±20 %.
    pub jitter: Jitter,
    /// The first delay after the loss of a stable stream, and after the first orderly end of a live one.
    /// Default [`Recovery::Backoff`].
    pub recovery: Recovery,
    /// The number of consecutive failed attempts, the first included, after which the session gives up;
    /// 0 never gives up. Default 0.
    pub max_retries: u32,
    /// The event that makes a stream live. Default [`Ready::Headers`].
    pub ready: Ready,
    /// Limit on dialling and opening together. Default 10 s.
    pub open_timeout: Duration,
    /// Limit on the wait for the peer's greeting. Default 10 s.
    pub greeting_timeout: Duration,
    /// Limit on the wait for the next response while restoring. Default 30 s.
    pub restoring_timeout: Duration,
    /// Limit on the wait for the result of a probe. Default 5 s.
    pub probe_timeout: Duration,
    /// Limit on our own orderly end. Default 10 s.
    pub drain_timeout: Duration,
    /// The interval of heartbeats; `None` sends none. Default 30 s.
    pub heartbeat_interval: Option<Duration>,
    /// The silence after which the peer counts as dead; `None` leaves it to the transport. Default 90 s.
    /// Shorter values find a dead peer earlier and end more streams that were only slow.
    pub activity_timeout: Option<Duration>,
    /// The source of signs of life. Default [`Liveness::Received`].
    pub liveness: Liveness,
    /// The duration after which a live stream counts as stable and resets the backoff. Default 30 s.
    pub stable_after: Duration,
    /// The longest delay that a peer can ask for, before jitter. Default 5 min.
    pub retry_after_max: Duration,
    /// New credentials can be obtained after every refusal: credentials that are refused again and
    /// again meet the backoff and do not stop the session. Default false.
    pub renews_credentials: bool,
}

/// The spread of a delay `d`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Jitter {
    /// Uniform in `[(1 − f)·d, min((1 + f)·d, max_backoff)]`; `f` is in `0..=1`. A delay `w` that
    /// the peer asked for is uniform in `[w, w + f·min(w, max_backoff)]`.
    Proportional(f64),
    /// Uniform in `[min_interval, max(d, min_interval)]`; spreads many clients best. A delay `w` that the
    /// peer asked for is uniform in `[w, w + min(w, max_backoff)]`.
    Full,
}

/// The first delay after the loss of a stable stream, and after an orderly end of a live stream if no
/// attempt has failed since a stream was stable: a peer that is replaced says goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// The first delay of the backoff.
    Backoff,
    /// Uniform between zero and this.
    Spread(Duration),
}

/// The event that makes a stream live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Ready {
    /// The connection has taken the request.
    Accepted,
    /// The response headers have arrived.
    Headers,
    /// The peer has greeted the protocol.
    FirstMessage,
    /// The peer has acknowledged everything that the protocol restored.
    Restored,
}

/// The source of signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Liveness {
    /// Received bytes: the peer sends by itself or acknowledges heartbeats.
    Received,
    /// Received bytes and probes. A probe is sent on the same connection after a third of the activity
    /// timeout without a byte, for peers that may rightly send nothing.
    Probed,
}

/// All faults of a [`Config`], at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults(Vec<ConfigFault>);

/// One fault of a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
#[non_exhaustive]
pub struct ConfigFault {
    /// The name of the setting.
    pub field: &'static str,
    /// The problem.
    pub problem: ConfigProblem,
}

/// The problem of one setting, and the values that it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// The duration is shorter than the resolution of [`Time`](crate::Time).
    #[error("must be at least 1 µs")]
    TooShort,
    /// The longest delay is shorter than the first one.
    #[error("is {max:?}, less than initial_backoff ({initial:?})")]
    BelowInitialBackoff {
        /// The longest delay.
        max: Duration,
        /// The first delay.
        initial: Duration,
    },
    /// The factor would shrink the delays, or is no number.
    #[error("must be a finite number of at least 1")]
    NotAFactor,
    /// The fraction is outside `0..=1`.
    #[error("must be between 0 and 1")]
    NotAFraction,
    /// A healthy peer would look dead between two heartbeats.
    #[error(
        "is {activity:?}, must be longer than heartbeat_interval ({heartbeat:?}), or a healthy \
         peer looks dead between two heartbeats"
    )]
    WithinHeartbeat {
        /// The activity timeout.
        activity: Duration,
        /// The heartbeat interval.
        heartbeat: Duration,
    },
    /// Nothing would decide when to probe.
    #[error("must be set when liveness is Probed")]
    MissingForProbes,
}

/// A [`Config`] without faults.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedConfig(Config);

impl Default for Config {
    fn default() -> Self {
        Self {
            // The delays of the clients that this session replaces, so that a fleet may mix both.
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(30),
            backoff_multiplier: 2.0,
            // ±20 % as in the gRPC connection backoff specification.
            jitter: Jitter::Proportional(0.2),
            recovery: Recovery::Backoff,
            max_retries: 0,
            ready: Ready::Headers,
            open_timeout: Duration::from_secs(10),
            greeting_timeout: Duration::from_secs(10),
            restoring_timeout: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
            // Below the 60 s after which common load balancers drop an idle connection. Two in a
            // row may be lost before the activity timeout.
            heartbeat_interval: Some(Duration::from_secs(30)),
            activity_timeout: Some(Duration::from_secs(90)),
            liveness: Liveness::Received,
            // As long as the longest backoff: a peer that fails every stream after a moment never
            // resets it.
            stable_after: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(300),
            renews_credentials: false,
        }
    }
}

impl Config {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// Returns all faults at once.
    pub fn check(self) -> Result<CheckedConfig, ConfigFaults> {
        let mut faults = Vec::new();
        let mut fault = |field, problem| faults.push(ConfigFault { field, problem });
        // `Time` counts microseconds: a shorter duration would be a deadline that is always due.
        for (field, span) in self.spans() {
            if span.is_some_and(|span| span < Duration::from_micros(1)) {
                fault(field, ConfigProblem::TooShort);
            }
        }
        let (max, initial) = (self.max_backoff, self.initial_backoff);
        if max < initial {
            let problem = ConfigProblem::BelowInitialBackoff { max, initial };
            fault("max_backoff", problem);
        }
        if !(self.backoff_multiplier.is_finite() && self.backoff_multiplier >= 1.0) {
            fault("backoff_multiplier", ConfigProblem::NotAFactor);
        }
        if let Jitter::Proportional(fraction) = self.jitter
            // Written so that a fraction that is no number is a fault, too.
            && !(0.0..=1.0).contains(&fraction)
        {
            fault("jitter", ConfigProblem::NotAFraction);
        }
        match (
            self.liveness,
            self.heartbeat_interval,
            self.activity_timeout,
        ) {
            (Liveness::Received, Some(heartbeat), Some(activity)) if activity <= heartbeat => {
                let problem = ConfigProblem::WithinHeartbeat {
                    activity,
                    heartbeat,
                };
                fault("activity_timeout", problem);
            }
            (Liveness::Probed, _, None) => {
                fault("activity_timeout", ConfigProblem::MissingForProbes);
            }
            (Liveness::Received | Liveness::Probed, _, _) => {}
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

    /// Returns the minimum time between the starts of two attempts, whatever the peer or the caller
    /// does: `min(0.8·initial_backoff, 500 ms)`.
    #[must_use]
    pub fn min_interval(&self) -> Duration {
        // The shortest first delay with the default jitter, so that the default backoff never meets
        // this limit.
        self.initial_backoff
            .mul_f64(0.8)
            .min(Duration::from_millis(500))
    }
}

impl CheckedConfig {
    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &Config {
        &self.0
    }
}

impl ConfigFaults {
    /// Returns the faults.
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

#[cfg(test)]
mod tests;
