//! The settings of a proxy.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use steadfast_net::Security;

use super::query_queue::QueryLimits;

/// Settings of a proxy. [`Config::check`] reports every fault.
///
/// ```
/// use std::time::Duration;
///
/// let mut config = steadfast_fodc_proxy::Config::default();
/// config.agent_deadline = Duration::from_secs(120);
/// let fault = &config.check().unwrap_err().faults[0];
/// assert_eq!(fault.field, "agent_deadline"); // It must be shorter than `abandon_after`.
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The address that agents connect to. Default 127.0.0.1:17912.
    pub grpc_listen: SocketAddr,
    /// The address of the HTTP interface. Default 127.0.0.1:17913.
    pub http_listen: SocketAddr,
    /// TLS of both listeners, or the permission to do without where other machines can connect. Default
    /// plaintext on loopback addresses only.
    pub security: Security,
    /// The time between two heartbeats of an agent. Agents are told whole seconds, and an interval
    /// below one second not at all. Default 10 s.
    pub heartbeat_interval: Duration,
    /// Time without a heartbeat after which an agent is not online. Default 30 s.
    pub heartbeat_timeout: Duration,
    /// Time without a heartbeat after which an agent is forgotten. Default 5 min.
    pub cleanup_timeout: Duration,
    /// The number of agents that may be online. As many again are remembered after they left. Default
    /// 1,000.
    pub max_agents: usize,
    /// The longest message accepted from an agent, in bytes. Default 32 MiB.
    pub max_message_bytes: usize,
    /// Time limit of a query for the latest values. Default 2 s.
    pub agent_deadline: Duration,
    /// Time limit of a query for a window. Default 5 s.
    pub window_deadline: Duration,
    /// Time without a response after which the agent's stream is ended. Default 60 s.
    pub abandon_after: Duration,
    /// Memory budget for the responses held at one time, in bytes. Default 1 GiB.
    pub response_bytes: usize,
    /// Memory budget for the responses on the streams other than the metrics stream, in bytes. Default
    /// 256 MiB.
    pub stream_bytes: usize,
    /// The number of open connections of agents. Default 4,096.
    pub max_grpc_connections: usize,
    /// The number of open connections of agents at one address, or in one /64 network of IPv6. Default
    /// 2,048.
    pub max_client_connections: usize,
    /// The calls that the agents of one principal may have open; an agent has seven. Without a policy there are no
    /// principals. Default `None`: 16 for each of `max_agents`.
    pub max_principal_calls: Option<usize>,
    /// Offer gRPC reflection to everyone who can connect. Default false.
    pub reflection: bool,
    /// The policy file: the agents that may register, and who may read and diagnose. It is read again when
    /// it changes. Default none: everybody may do everything.
    pub access: Option<PathBuf>,
    /// The number of open connections to the HTTP interface, half of them of one client. Default 256.
    pub max_http_connections: usize,
    /// The number of HTTP requests for metrics that are served at one time; more are refused with
    /// status 503. Default 16.
    pub max_http_requests: usize,
    /// Longest wait for the head of an HTTP request, and for the next request on a connection.
    /// Default 10 s.
    pub http_read_timeout: Duration,
    /// Longest time in which a client may accept no byte of an HTTP response. Default 10 s.
    pub http_write_timeout: Duration,
}

/// All faults of a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidConfig {
    /// The faults, at least one.
    pub faults: Vec<ConfigFault>,
}

/// One fault of a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigFault {
    /// The name of the field.
    pub field: &'static str,
    /// The fault and its remedy.
    pub problem: ConfigProblem,
}

/// The problem with the value of a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// A duration must not be zero.
    #[error("is zero; give a duration such as 10s")]
    ZeroDuration,
    /// A number must not be zero.
    #[error("is zero; give at least 1")]
    Zero,
    /// A duration must be longer than another setting.
    #[error("{value:?} must be longer than {other}, {limit:?}")]
    TooShort {
        /// The value.
        value: Duration,
        /// The other setting.
        other: &'static str,
        /// The value of the other setting.
        limit: Duration,
    },
    /// A duration must be shorter than another setting.
    #[error("{value:?} must be shorter than {other}, {limit:?}")]
    TooLong {
        /// The value.
        value: Duration,
        /// The other setting.
        other: &'static str,
        /// The value of the other setting.
        limit: Duration,
    },
    /// A message limit in which a registration does not fit.
    #[error("{0} bytes are too few; give at least {MESSAGE_FLOOR}")]
    TooFewBytes(usize),
    /// A message limit that gRPC cannot express.
    #[error("{0} bytes cannot be framed; give less than 4 GiB")]
    TooManyBytes(usize),
    /// A message limit above the memory budget.
    #[error("{bytes} bytes exceed the memory budget for all responses, {budget}")]
    ExceedsBudget {
        /// The value.
        bytes: usize,
        /// The memory budget.
        budget: usize,
    },
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(ConfigFault::to_string).collect();
        write!(f, "invalid settings: {}", faults.join("; "))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // The ports of the original.
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 17_912)),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 17_913)),
            security: Security::default(),
            // The defaults of the original, down to `max_agents`.
            heartbeat_interval: Duration::from_secs(10),
            heartbeat_timeout: Duration::from_secs(30),
            cleanup_timeout: Duration::from_secs(300),
            max_agents: 1_000,
            // What the newest original accepts; its releases stop at 4 MiB.
            max_message_bytes: 32 << 20,
            agent_deadline: Duration::from_secs(2),
            window_deadline: Duration::from_secs(5),
            abandon_after: Duration::from_secs(60),
            response_bytes: 1 << 30,
            stream_bytes: 256 << 20,
            max_grpc_connections: 4_096,
            max_client_connections: 2_048,
            max_principal_calls: None,
            reflection: false,
            access: None,
            max_http_connections: 256,
            max_http_requests: 16,
            http_read_timeout: Duration::from_secs(10),
            http_write_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Checks that the settings are in range and do not contradict each other.
    ///
    /// # Errors
    ///
    /// Returns every fault.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let mut faults = Vec::new();
        self.check_durations(&mut faults);
        self.check_sizes(&mut faults);
        if faults.is_empty() {
            Ok(())
        } else {
            Err(InvalidConfig { faults })
        }
    }

    pub(super) fn principal_calls(&self) -> usize {
        // All agents may have one principal, and each its calls once more while its old connection looks alive.
        let calls = self.max_principal_calls;
        calls.unwrap_or_else(|| self.max_agents.saturating_mul(16))
    }

    pub(super) fn query_limits(&self) -> QueryLimits {
        // The agents that are queried last must be known as unresponsive at the deadline, too.
        let timeout = |deadline: Duration| deadline.saturating_sub(dispatch_time(deadline));
        QueryLimits {
            latest_timeout: timeout(self.agent_deadline),
            window_timeout: timeout(self.window_deadline),
            abandon_after: self.abandon_after,
            slice_bytes: self.max_message_bytes / SLICE_SHARE,
        }
    }

    fn check_durations(&self, faults: &mut Vec<ConfigFault>) {
        for (field, value) in [
            ("heartbeat_interval", self.heartbeat_interval),
            ("agent_deadline", self.agent_deadline),
            ("window_deadline", self.window_deadline),
            ("http_read_timeout", self.http_read_timeout),
            ("http_write_timeout", self.http_write_timeout),
        ] {
            if value.is_zero() {
                let problem = ConfigProblem::ZeroDuration;
                faults.push(ConfigFault { field, problem });
            }
        }
        let intervals = (self.heartbeat_interval, self.heartbeat_timeout);
        let timeouts = (self.heartbeat_timeout, self.cleanup_timeout);
        for (field, other, (limit, value)) in [
            ("heartbeat_timeout", "the heartbeat interval", intervals),
            ("cleanup_timeout", "the heartbeat timeout", timeouts),
        ] {
            if limit >= value {
                let problem = ConfigProblem::TooShort {
                    value,
                    other,
                    limit,
                };
                faults.push(ConfigFault { field, problem });
            }
        }
        for (field, deadline) in [
            ("agent_deadline", self.agent_deadline),
            ("window_deadline", self.window_deadline),
        ] {
            // A stream must not be ended while its response could still be in time.
            if deadline >= self.abandon_after {
                let problem = ConfigProblem::TooLong {
                    value: deadline,
                    other: "abandon_after",
                    limit: self.abandon_after,
                };
                faults.push(ConfigFault { field, problem });
            }
        }
    }

    fn check_sizes(&self, faults: &mut Vec<ConfigFault>) {
        let mut fault = |field, problem| faults.push(ConfigFault { field, problem });
        for (field, value) in [
            ("max_agents", self.max_agents),
            ("max_grpc_connections", self.max_grpc_connections),
            ("max_client_connections", self.max_client_connections),
            ("max_principal_calls", self.max_principal_calls.unwrap_or(1)),
            ("max_http_connections", self.max_http_connections),
            ("max_http_requests", self.max_http_requests),
        ] {
            if value == 0 {
                fault(field, ConfigProblem::Zero);
            }
        }
        let longest = self.max_message_bytes;
        if longest < MESSAGE_FLOOR {
            let problem = ConfigProblem::TooFewBytes(longest);
            fault("max_message_bytes", problem);
        }
        if u32::try_from(longest).is_err() {
            let problem = ConfigProblem::TooManyBytes(longest);
            fault("max_message_bytes", problem);
        } else if self.response_bytes < longest {
            // The command line has an option for the longest message, and none for `response_bytes`.
            let problem = ConfigProblem::ExceedsBudget {
                bytes: longest,
                budget: self.response_bytes,
            };
            fault("max_message_bytes", problem);
        } else if self.stream_bytes < longest {
            let problem = ConfigProblem::ExceedsBudget {
                bytes: longest,
                budget: self.stream_bytes,
            };
            fault("max_message_bytes", problem);
        }
    }
}

/// Longest time until the last agents are queried, in batches that each wait for the one before. It is
/// taken from the time limit of the query, and the rest is for all agents.
pub(super) fn dispatch_time(time_limit: Duration) -> Duration {
    (time_limit / 4).min(Duration::from_millis(500))
}

/// A slice of a window aims at this share of the longest message: samples are spread unevenly, and
/// a slice four times as dense as the one before still fits.
const SLICE_SHARE: usize = 4;

/// A registration with all its labels fits into this.
const MESSAGE_FLOOR: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_config_is_valid() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn heartbeat_interval_must_be_shorter_than_its_timeout() {
        let equal = Config {
            heartbeat_interval: Duration::from_secs(30),
            ..Config::default()
        };
        let faults = equal.check().unwrap_err().faults;
        let [fault] = &*faults else {
            panic!("{faults:?}")
        };
        assert_eq!(
            fault.to_string(),
            "heartbeat_timeout: 30s must be longer than the heartbeat interval, 30s"
        );
    }

    #[test]
    fn all_config_faults_are_reported_together() {
        let hopeless = Config {
            heartbeat_interval: Duration::ZERO,
            cleanup_timeout: Duration::from_secs(30),
            agent_deadline: Duration::from_secs(120),
            window_deadline: Duration::from_secs(60),
            max_agents: 0,
            max_message_bytes: 1_000,
            response_bytes: 10,
            ..Config::default()
        };
        let faults = hopeless.check().unwrap_err().faults;
        assert_eq!(faults.len(), 7, "{faults:#?}");
    }
}
