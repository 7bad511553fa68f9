//! What a proxy is told before it starts.

use std::{fmt, net::SocketAddr, time::Duration};

/// Settings of a proxy. [`Config::check`] names everything that can not work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where agents connect. Default 127.0.0.1:17912.
    pub grpc_listen: SocketAddr,
    /// Where people and Prometheus connect. Default 127.0.0.1:17913.
    pub http_listen: SocketAddr,
    /// How often agents shall show that they live; told to them in whole seconds, and below one
    /// second not at all. Default 10 s.
    pub heartbeat_interval: Duration,
    /// An agent without a heartbeat for longer than this is not online. Default 30 s.
    pub heartbeat_timeout: Duration,
    /// An agent without a heartbeat for longer than this is forgotten. Default 5 min.
    pub cleanup_timeout: Duration,
    /// Agents that may be online. As many again are remembered that no longer are. Default 1,000.
    pub max_agents: usize,
    /// Longest message taken from an agent, bytes. Default 32 MiB.
    pub max_message_bytes: usize,
    /// How long an answer to "latest" may take. Default 2 s.
    pub agent_deadline: Duration,
    /// How long the answers to a window may take. Default 5 s.
    pub window_deadline: Duration,
    /// A stream that has owed an answer for so long is ended. Default 60 s.
    pub abandon_after: Duration,
    /// What all answers that are held at one time may weigh, bytes. Default 1 GiB.
    pub answer_bytes: usize,
    /// Connections of agents that may be open. Default 4,096.
    pub max_grpc_connections: usize,
    /// Connections to the HTTP interface that may be open. Default 256.
    pub max_http_connections: usize,
    /// Questions of the HTTP interface that are answered at one time; more are refused with 503.
    /// Default 16.
    pub max_http_requests: usize,
    /// How long the head of an HTTP request may take, and how long a connection may be idle.
    /// Default 10 s.
    pub http_read_timeout: Duration,
    /// How long the reader of an HTTP response may take nothing. Default 10 s.
    pub http_write_timeout: Duration,
}

/// Everything that is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidConfig {
    /// One for each fault.
    pub faults: Vec<ConfigFault>,
}

/// One thing that is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigFault {
    /// Name of the setting, as [`Config`] has it.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(ConfigFault::to_string).collect();
        write!(f, "the settings can not work: {}", faults.join("; "))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 17_912)),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 17_913)),
            heartbeat_interval: Duration::from_secs(10),
            heartbeat_timeout: Duration::from_secs(30),
            cleanup_timeout: Duration::from_secs(300),
            max_agents: 1_000,
            max_message_bytes: 32 << 20,
            agent_deadline: Duration::from_secs(2),
            window_deadline: Duration::from_secs(5),
            abandon_after: Duration::from_secs(60),
            answer_bytes: 1 << 30,
            max_grpc_connections: 4_096,
            max_http_connections: 256,
            max_http_requests: 16,
            http_read_timeout: Duration::from_secs(10),
            http_write_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Whether a proxy can work with these settings.
    ///
    /// # Errors
    ///
    /// All faults together.
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

    fn check_durations(&self, faults: &mut Vec<ConfigFault>) {
        for (field, value) in [
            ("heartbeat_interval", self.heartbeat_interval),
            ("agent_deadline", self.agent_deadline),
            ("window_deadline", self.window_deadline),
            ("http_read_timeout", self.http_read_timeout),
            ("http_write_timeout", self.http_write_timeout),
        ] {
            if value.is_zero() {
                let problem = "it is zero; give a time, like 10s".to_owned();
                faults.push(ConfigFault { field, problem });
            }
        }
        let intervals = (self.heartbeat_interval, self.heartbeat_timeout);
        let timeouts = (self.heartbeat_timeout, self.cleanup_timeout);
        for (field, name, (smaller, larger)) in [
            ("heartbeat_timeout", "the heartbeat interval", intervals),
            ("cleanup_timeout", "the heartbeat timeout", timeouts),
        ] {
            if smaller >= larger {
                let problem = format!("{larger:?} must be longer than {name}, {smaller:?}");
                faults.push(ConfigFault { field, problem });
            }
        }
        for (field, deadline) in [
            ("agent_deadline", self.agent_deadline),
            ("window_deadline", self.window_deadline),
        ] {
            if deadline >= self.abandon_after {
                let problem = format!(
                    "{deadline:?} must be shorter than the time after which a stream is ended that \
                     owes an answer, {:?}",
                    self.abandon_after
                );
                faults.push(ConfigFault { field, problem });
            }
        }
    }

    fn check_sizes(&self, faults: &mut Vec<ConfigFault>) {
        let mut fault = |field, problem| faults.push(ConfigFault { field, problem });
        for (field, value) in [
            ("max_agents", self.max_agents),
            ("max_grpc_connections", self.max_grpc_connections),
            ("max_http_connections", self.max_http_connections),
            ("max_http_requests", self.max_http_requests),
        ] {
            if value == 0 {
                fault(field, "it is zero; give at least 1".to_owned());
            }
        }
        let longest = self.max_message_bytes;
        if longest < MESSAGE_FLOOR {
            let problem = format!("{longest} bytes are too short; give at least {MESSAGE_FLOOR}");
            fault("max_message_bytes", problem);
        }
        if u32::try_from(longest).is_err() {
            let problem = format!("{longest} bytes can not be framed; give less than 4 GiB");
            fault("max_message_bytes", problem);
        } else if self.answer_bytes < longest {
            // The longest message has a setting that people can reach.
            let problem = format!(
                "{longest} bytes are more than all answers together may weigh, {}",
                self.answer_bytes
            );
            fault("max_message_bytes", problem);
        }
    }
}

/// Room for a registration with all its labels.
const MESSAGE_FLOOR: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn fodc_o45_a_heartbeat_interval_that_reaches_its_timeout_is_refused() {
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
    fn every_fault_is_named_together() {
        let hopeless = Config {
            heartbeat_interval: Duration::ZERO,
            cleanup_timeout: Duration::from_secs(30),
            agent_deadline: Duration::from_secs(120),
            window_deadline: Duration::from_secs(60),
            max_agents: 0,
            max_message_bytes: 1_000,
            answer_bytes: 10,
            ..Config::default()
        };
        let faults = hopeless.check().unwrap_err().faults;
        assert_eq!(faults.len(), 7, "{faults:#?}");
    }
}
