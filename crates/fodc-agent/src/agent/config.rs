//! Settings of an agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use steadfast::{
    CallCredentials,
    dial::{InvalidAddress, Servers},
};
use steadfast_exposition::Limits as PageLimits;
use steadfast_net::Security;

use super::node_config::NodeConfig;
use crate::{
    clock::{Clock, SystemClock},
    identity::{Identity, IdentityFaults},
    scrape::{AccessFault, Endpoint, ScrapeLimits},
    sources::{crash::CrashSources, pressure::PressureProfiler},
};

/// The settings of an agent. [`Config::check`] finds their faults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The endpoints to scrape: at least one, each once.
    pub endpoints: Vec<Endpoint>,
    /// The time between two scrapes of an endpoint. Default 1 s.
    pub interval: Duration,
    /// The time limit of a scrape; `None` is the interval, at most 5 s. It may be longer than the
    /// interval: the ticks that pass meanwhile are recorded as missed.
    pub timeout: Option<Duration>,
    /// The limit on the bytes of a page, on the wire and unpacked alike. A longer page is missed.
    /// Default 64 MiB.
    pub page_bytes: u64,
    /// The limits on the contents of a page. Lines, labels and samples beyond them are counted and
    /// left out. The limits are lowered where they exceed the memory for pages.
    pub page: PageLimits,
    /// The memory for pages while they are parsed and from one to the next, in bytes. The endpoints
    /// share it equally. `None` is an eighth of the budget, at least 1 MiB per endpoint and at most
    /// 64 MiB. With a record in memory it is part of the budget, at most a quarter.
    pub page_memory: Option<u64>,
    /// Keep the timestamps on lines beside the time of the scrape. By default they are counted and
    /// dropped.
    pub honor_timestamps: bool,
    /// The storage of the record.
    pub record: Storage,
    /// The maximum size of the record in bytes; the oldest data is evicted first. With a record in
    /// memory it includes the memory for pages. Default 64 MiB.
    pub budget: u64,
    /// The time between two syncs of the record to disk. Default 5 s.
    pub sync_every: Duration,
    /// The address that serves `/metrics`, `/livez`, `/readyz` and remote read; `None` serves
    /// nothing. Default 127.0.0.1:9090: the original's port, on loopback.
    pub listen: Option<SocketAddr>,
    /// TLS of that listener, or the permission to do without where other machines can connect. Default
    /// plaintext on loopback addresses only.
    pub security: Security,
    /// The policy file: who may read the pages, and who may diagnose. It is read again when it changes. Default
    /// none: everybody may.
    pub access: Option<PathBuf>,
    /// The limits on remote reads.
    pub read: ReadLimits,
    /// The proxy and the identity of the agent; `None` runs without a proxy.
    pub uplink: Option<UplinkConfig>,
    /// The services of the database node beside the agent, for the proxy.
    pub node: NodeConfig,
    /// The files that tell of crashes. Default: none.
    pub crashes: CrashSources,
    /// The profiler that runs when memory is short; `None` runs without it.
    pub pressure: Option<PressureProfiler>,
    /// The clock that stamps scrapes.
    pub clock: Arc<dyn Clock>,
}

/// The storage of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Memory; the record ends with the process.
    Memory,
    /// Files in this directory, which is created if it is missing. The record of an earlier process
    /// is continued.
    Directory(PathBuf),
}

/// The limits on remote reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// The bytes of a response before compression; a longer one is refused. All compressed responses
    /// that clients have not read yet share as many. `None` is an eighth of the budget, at least 8 MiB
    /// and at most 64 MiB.
    pub bytes: Option<usize>,
    /// The samples of a response; a longer one is refused. Default 4 million.
    pub samples: usize,
    /// The time for a response. Default 30 s.
    pub deadline: Duration,
    /// The reads that run at once; more wait, within their deadline. Default 2.
    pub concurrent: usize,
}

/// The proxy and the identity of the agent.
#[derive(Clone, Debug)]
pub struct UplinkConfig {
    /// The way to the proxy.
    pub proxy: Servers,
    /// The identity of the agent.
    pub identity: Identity,
    /// The heartbeat interval, unless the proxy sets one. Default 10 s.
    pub heartbeat_interval: Duration,
    /// The delay before the first retry. Default 5 s.
    pub reconnect_interval: Duration,
    /// The longest delay between two attempts. `None` is 30 s after a refusal of the proxy, and the
    /// reconnect interval after anything else.
    pub reconnect_interval_max: Option<Duration>,
    /// The metadata of every call to the proxy.
    pub credentials: CallCredentials,
}

/// The faults of a [`Config`], at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults(Vec<ConfigFault>);

/// One fault of a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigFault {
    /// The path of the setting.
    pub field: &'static str,
    /// The problem with its value.
    pub problem: ConfigProblem,
}

/// The problem with the value of a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// No endpoint is configured.
    #[error("no endpoint is configured")]
    NoEndpoints,
    /// More endpoints than an agent can scrape.
    #[error("{0} endpoints are configured; the limit is {ENDPOINTS_MAX}")]
    TooManyEndpoints(usize),
    /// An endpoint is configured twice.
    #[error("{0} is configured twice")]
    DuplicateEndpoint(String),
    /// Two endpoints cannot be told apart.
    #[error("{0} and {1} have the same labels, so queries cannot tell them apart")]
    SameLabels(String, String),
    /// A label has a name that is empty or reserved.
    #[error("{endpoint} has a label named `{label}`")]
    LabelName {
        /// The URL of the endpoint.
        endpoint: String,
        /// The name of the label.
        label: String,
    },
    /// What an endpoint demands of a client cannot be met.
    #[error("{endpoint}: {fault}")]
    Access {
        /// The URL of the endpoint.
        endpoint: String,
        /// The fault.
        fault: AccessFault,
    },
    /// A value must not be zero.
    #[error("must not be zero")]
    Zero,
    /// A duration is too short.
    #[error("is {value:?}; must be at least {least:?}")]
    TooShort {
        /// The value.
        value: Duration,
        /// The least value.
        least: Duration,
    },
    /// A size is too small for the number of endpoints.
    #[error("is {bytes} bytes; must be at least {least} for {endpoints} endpoints")]
    TooSmall {
        /// The value.
        bytes: u64,
        /// The least value.
        least: u64,
        /// The number of endpoints.
        endpoints: usize,
    },
    /// The memory for pages leaves too little for the record.
    #[error("is {bytes} bytes; must be at most a quarter of the budget in memory, {most}")]
    TooLarge {
        /// The value.
        bytes: u64,
        /// The largest value.
        most: u64,
    },
    /// A share is out of range.
    #[error("is {0}; must be from 1 to 100")]
    Percent(u32),
    /// The address of the proxy is invalid.
    #[error(transparent)]
    Address(InvalidAddress),
    /// The identity of the agent is invalid.
    #[error(transparent)]
    Identity(IdentityFaults),
}

/// The most endpoints of one agent. Each needs two sources of the record: one for its page and one
/// for the health of its scrapes.
const ENDPOINTS_MAX: usize = steadfast_recorder::SOURCES_MAX / 2;

/// The shortest interval: ticks are timed in milliseconds.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// The smallest record per endpoint that can hold a useful history, in bytes.
pub(super) const BUDGET_MIN: u64 = 64 << 10;

/// The smallest memory for the pages of an endpoint, enough for a page of a thousand series.
pub(super) const PAGE_MEMORY_MIN: u64 = 1 << 20;

impl Config {
    /// Creates settings for these endpoints, with the defaults of the fields.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            interval: Duration::from_secs(1),
            timeout: None,
            page_bytes: 64 << 20,
            page: PageLimits::default(),
            page_memory: None,
            honor_timestamps: false,
            record: Storage::Memory,
            budget: 64 << 20,
            sync_every: Duration::from_secs(5),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9_090))),
            security: Security::default(),
            access: None,
            read: ReadLimits::default(),
            uplink: None,
            node: NodeConfig::default(),
            crashes: CrashSources::default(),
            pressure: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// All faults at once.
    pub fn check(&self) -> Result<(), ConfigFaults> {
        let mut faults = Vec::new();
        let mut fault = |field, problem| faults.push(ConfigFault { field, problem });
        self.check_endpoints(&mut fault);
        check_interval("interval", self.interval, &mut fault);
        check_interval("sync_every", self.sync_every, &mut fault);
        for (field, zero) in [
            (
                "timeout",
                self.timeout.is_some_and(|timeout| timeout.is_zero()),
            ),
            ("page_bytes", self.page_bytes == 0),
            ("page.samples", self.page.samples == 0),
            ("read.bytes", self.read.bytes == Some(0)),
            ("read.samples", self.read.samples == 0),
            ("read.deadline", self.read.deadline.is_zero()),
            ("read.concurrent", self.read.concurrent == 0),
            (
                "node.cluster_state_interval",
                self.node.cluster_state_interval.is_zero(),
            ),
        ] {
            if zero {
                fault(field, ConfigProblem::Zero);
            }
        }
        self.check_memory(&mut fault);
        if let Some(uplink) = &self.uplink {
            uplink.check(&mut fault);
        }
        if let Some(pressure) = &self.pressure {
            check_pressure(pressure, &mut fault);
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(ConfigFaults(faults))
        }
    }

    fn check_endpoints(&self, fault: &mut impl FnMut(&'static str, ConfigProblem)) {
        let mut fault = |problem| fault("endpoints", problem);
        if self.endpoints.is_empty() {
            fault(ConfigProblem::NoEndpoints);
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            fault(ConfigProblem::TooManyEndpoints(self.endpoints.len()));
        }
        let (mut sources, mut labels) = (BTreeSet::new(), BTreeMap::new());
        for endpoint in &self.endpoints {
            let source = endpoint.source();
            // An endpoint that is listed twice has the same labels as well: one fault says it.
            if !sources.insert(source.clone()) {
                fault(ConfigProblem::DuplicateEndpoint(source.clone()));
            } else if let Some(other) = labels.insert(endpoint.labels(), source.clone()) {
                fault(ConfigProblem::SameLabels(source.clone(), other));
            }
            if let Err(found) = endpoint.check_access() {
                fault(ConfigProblem::Access {
                    endpoint: source.clone(),
                    fault: found,
                });
            }
            for label in endpoint.labels().keys() {
                // The name of a metric is a label, which one from the configuration would replace.
                if label.is_empty() || label == steadfast_recorder::NAME {
                    fault(ConfigProblem::LabelName {
                        endpoint: source.clone(),
                        label: label.clone(),
                    });
                }
            }
        }
    }

    fn check_memory(&self, fault: &mut impl FnMut(&'static str, ConfigProblem)) {
        let endpoints = self.endpoints.len();
        let mut at_least = |field, bytes, each, endpoints: usize| {
            let least = each * endpoints as u64;
            if bytes < least {
                fault(
                    field,
                    ConfigProblem::TooSmall {
                        bytes,
                        least,
                        endpoints,
                    },
                );
            }
        };
        at_least("budget", self.budget, BUDGET_MIN, endpoints.max(1));
        let Some(memory) = self.page_memory else {
            return;
        };
        at_least("page_memory", memory, PAGE_MEMORY_MIN, endpoints);
        // The same quarter as in `MemoryBudget`.
        let most = self.budget / 4;
        if self.record == Storage::Memory && memory > most {
            fault(
                "page_memory",
                ConfigProblem::TooLarge {
                    bytes: memory,
                    most,
                },
            );
        }
    }

    pub(super) fn read_bytes(&self) -> usize {
        // As much as pages take by default. Clamped first, so that it fits every `usize`.
        let default = (self.budget / 8).clamp(8 << 20, 64 << 20) as usize;
        self.read.bytes.unwrap_or(default)
    }

    pub(super) fn scrape_limits(&self) -> ScrapeLimits {
        // Prometheus limits a scrape to the interval, too; 5 s keeps a long interval responsive.
        let usual = self.interval.min(Duration::from_secs(5));
        ScrapeLimits {
            timeout: self.timeout.unwrap_or(usual),
            body_bytes: self.page_bytes,
        }
    }
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            bytes: None,
            samples: 4_000_000,
            deadline: Duration::from_secs(30),
            concurrent: 2,
        }
    }
}

impl UplinkConfig {
    /// Creates settings for this proxy and identity, with the defaults of the fields.
    #[must_use]
    pub fn new(proxy: impl Into<Servers>, identity: Identity) -> Self {
        Self {
            proxy: proxy.into(),
            identity,
            heartbeat_interval: Duration::from_secs(10),
            reconnect_interval: Duration::from_secs(5),
            reconnect_interval_max: None,
            credentials: CallCredentials::default(),
        }
    }

    fn check(&self, fault: &mut impl FnMut(&'static str, ConfigProblem)) {
        if let Err(invalid) = self.proxy.dialer() {
            fault("uplink.proxy", ConfigProblem::Address(invalid));
        }
        if let Err(faults) = self.identity.check() {
            fault("uplink.identity", ConfigProblem::Identity(faults));
        }
        check_interval("uplink.heartbeat_interval", self.heartbeat_interval, fault);
        check_interval("uplink.reconnect_interval", self.reconnect_interval, fault);
        if let Some(value) = self.reconnect_interval_max
            && value < self.reconnect_interval
        {
            let least = self.reconnect_interval;
            fault(
                "uplink.reconnect_interval_max",
                ConfigProblem::TooShort { value, least },
            );
        }
    }
}

fn check_pressure(
    pressure: &PressureProfiler,
    fault: &mut impl FnMut(&'static str, ConfigProblem),
) {
    let percent = pressure.trigger_percent;
    if !(1..=100).contains(&percent) {
        fault("pressure.trigger_percent", ConfigProblem::Percent(percent));
    }
    for (field, zero) in [
        ("pressure.max_artifacts", pressure.max_artifacts == 0),
        ("pressure.max_disk_bytes", pressure.max_disk_bytes == 0),
    ] {
        if zero {
            fault(field, ConfigProblem::Zero);
        }
    }
}

fn check_interval(
    field: &'static str,
    value: Duration,
    fault: &mut impl FnMut(&'static str, ConfigProblem),
) {
    if value < INTERVAL_MIN {
        let least = INTERVAL_MIN;
        fault(field, ConfigProblem::TooShort { value, least });
    }
}

impl ConfigFaults {
    /// Returns the faults.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigFault> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_remote_reads_follow_the_budget() {
        let mut config = Config::new(vec![Endpoint::local(1)]);
        for (budget, expected) in [(16, 8), (64, 8), (256, 32), (4096, 64)] {
            config.budget = budget << 20;
            assert_eq!(config.read_bytes(), expected << 20, "{budget} MiB");
        }
        config.read.bytes = Some(5);
        assert_eq!(config.read_bytes(), 5);
    }
}
