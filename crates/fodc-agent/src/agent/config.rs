//! Settings of an agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use steadfast::grpc::Address;
use steadfast_exposition::Limits as PageLimits;

use super::{Clock, SystemClock, room::EACH_MIN};
use crate::{
    identity::Identity,
    scrape::{Endpoint, FetchLimits},
};

/// Settings of an agent: plain fields with defaults. [`Config::check`] tells what is wrong with them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// What is scraped. At least one; each page once.
    pub endpoints: Vec<Endpoint>,
    /// How often each endpoint is read. Default 1 s.
    pub interval: Duration,
    /// Limit on one reading; `None` is the interval, or 5 s if that is shorter. A longer one than
    /// the interval is allowed: the ticks that pass meanwhile are recorded as missed.
    pub timeout: Option<Duration>,
    /// Bytes of one page, on the wire and unpacked alike; a longer one is missed. Default 64 MiB.
    pub page_bytes: u64,
    /// What is taken of one page at most: lines, labels and samples beyond it are counted and left
    /// out. Less is taken where that would not fit the memory for pages.
    pub page: PageLimits,
    /// Bytes of memory that pages take while they are read, and from one to the next, of all
    /// endpoints together; each has the same share. `None` is an eighth of the budget, but at least
    /// 1 MiB for each endpoint and at most 64 MiB. A budget in memory includes it, up to a quarter.
    pub page_memory: Option<u64>,
    /// Whether timestamps on lines are kept beside the time of the reading. Default no: they are
    /// counted.
    pub honor_timestamps: bool,
    /// Where the record is.
    pub record: RecordPlace,
    /// Bytes of the record on disk, or of record and pages in memory; the oldest data leaves first.
    /// Default 64 MiB.
    pub budget: u64,
    /// How often the record is made safe against the loss of power. Default 5 s.
    pub sync_every: Duration,
    /// Where to serve `/metrics`, `/livez`, `/readyz` and remote read; `None` serves nothing.
    /// Default 127.0.0.1:9090, the original's port on loopback.
    pub listen: Option<SocketAddr>,
    /// What one remote read may cost.
    pub read: ReadLimits,
    /// The proxy, and who the agent is to it; `None` runs without one.
    pub uplink: Option<UplinkConfig>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

/// Where the record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordPlace {
    /// In memory: it ends with the process.
    Memory,
    /// In files of this directory, which is made if it is not there; the record of an earlier
    /// process is continued.
    Directory(PathBuf),
}

/// What one remote read may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Bytes of an answer before it is packed; a longer one is refused. Default 64 MiB.
    pub bytes: usize,
    /// How long an answer may take. Default 30 s.
    pub deadline: Duration,
    /// Reads under way at once; more wait, within their deadline. Default 2.
    pub concurrent: usize,
}

/// The proxy, and who the agent is to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Where the proxy is: `host:port`.
    pub proxy: String,
    /// Who the agent is.
    pub identity: Identity,
    /// How often it says that it lives, unless the proxy says how often. Default 10 s.
    pub heartbeat_interval: Duration,
    /// The first delay before it tries again. Default 5 s.
    pub reconnect_interval: Duration,
}

/// Everything that is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults(Vec<ConfigFault>);

/// One thing that is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigFault {
    /// Name of the setting.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Endpoints of one agent.
const ENDPOINTS_MAX: usize = steadfast_recorder::SOURCES_MAX / SOURCES_PER_ENDPOINT;

/// An endpoint's page, and what the agent says about reading it.
const SOURCES_PER_ENDPOINT: usize = 2;

/// The shortest interval: ticks are timed in milliseconds.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// A record smaller than this holds nothing worth having.
pub(super) const BUDGET_MIN: u64 = 64 << 10;

impl Config {
    /// Scrapes these, and is otherwise as the fields say by default.
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
            record: RecordPlace::Memory,
            budget: 64 << 20,
            sync_every: Duration::from_secs(5),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9_090))),
            read: ReadLimits::default(),
            uplink: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Looks at every setting.
    ///
    /// # Errors
    ///
    /// All faults at once.
    pub fn check(&self) -> Result<(), ConfigFaults> {
        let mut faults = Vec::new();
        let mut fault = |field, problem: String| faults.push(ConfigFault { field, problem });
        self.check_endpoints(&mut fault);
        if self.interval < INTERVAL_MIN {
            fault(
                "interval",
                format!("is {:?}, must be at least {INTERVAL_MIN:?}", self.interval),
            );
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            fault("timeout", "is zero: nothing could be read".to_owned());
        }
        if self.page_bytes == 0 {
            fault("page_bytes", "is zero: nothing could be read".to_owned());
        }
        if self.page.samples == 0 {
            fault(
                "page.samples",
                "is zero: nothing would be recorded".to_owned(),
            );
        }
        self.check_memory(&mut fault);
        // Each endpoint has its share.
        let least = BUDGET_MIN * self.endpoints.len().max(1) as u64;
        if self.budget < least {
            let (budget, count) = (self.budget, self.endpoints.len());
            fault(
                "budget",
                format!("is {budget} bytes, must be at least {least} for {count} endpoints"),
            );
        }
        if self.sync_every < INTERVAL_MIN {
            fault("sync_every", format!("must be at least {INTERVAL_MIN:?}"));
        }
        if self.read.bytes == 0 || self.read.concurrent == 0 || self.read.deadline.is_zero() {
            fault(
                "read",
                "no limit may be zero: nothing could be answered".to_owned(),
            );
        }
        if let Some(uplink) = &self.uplink {
            uplink.check(&mut fault);
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(ConfigFaults(faults))
        }
    }

    fn check_endpoints(&self, fault: &mut impl FnMut(&'static str, String)) {
        if self.endpoints.is_empty() {
            fault(
                "endpoints",
                "there is none: nothing could be recorded".to_owned(),
            );
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            let count = self.endpoints.len();
            fault(
                "endpoints",
                format!("are {count}, at most {ENDPOINTS_MAX} are scraped"),
            );
        }
        let (mut sources, mut labels) = (BTreeSet::new(), BTreeMap::new());
        for endpoint in &self.endpoints {
            let source = endpoint.source();
            if !sources.insert(source.clone()) {
                fault("endpoints", format!("{source} stands there twice"));
            } else if let Some(other) = labels.insert(endpoint.labels(), source.clone()) {
                fault(
                    "endpoints",
                    format!(
                        "{source} and {other} have the same labels: queries could not tell them apart"
                    ),
                );
            }
            for name in endpoint.labels().keys() {
                if name.is_empty() || name == steadfast_recorder::NAME {
                    fault("endpoints", format!("{source} has a label named `{name}`"));
                }
            }
        }
    }

    fn check_memory(&self, fault: &mut impl FnMut(&'static str, String)) {
        let Some(memory) = self.page_memory else {
            return;
        };
        let least = EACH_MIN * self.endpoints.len() as u64;
        if memory < least {
            let count = self.endpoints.len();
            fault(
                "page_memory",
                format!(
                    "is {memory} bytes, must be at least {least}: {EACH_MIN} for each of {count} endpoints"
                ),
            );
        }
        if self.record == RecordPlace::Memory && memory > self.budget / 4 {
            fault(
                "page_memory",
                format!(
                    "is {memory} bytes, must be at most a quarter of the budget in memory, {}",
                    self.budget / 4
                ),
            );
        }
    }

    pub(super) fn fetch_limits(&self) -> FetchLimits {
        let usual = self.interval.min(Duration::from_secs(5));
        FetchLimits {
            timeout: self.timeout.unwrap_or(usual),
            body_bytes: self.page_bytes,
        }
    }
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            deadline: Duration::from_secs(30),
            concurrent: 2,
        }
    }
}

impl UplinkConfig {
    /// Registers there as `identity`.
    #[must_use]
    pub fn new(proxy: impl Into<String>, identity: Identity) -> Self {
        Self {
            proxy: proxy.into(),
            identity,
            heartbeat_interval: Duration::from_secs(10),
            reconnect_interval: Duration::from_secs(5),
        }
    }

    fn check(&self, fault: &mut impl FnMut(&'static str, String)) {
        if let Err(invalid) = self.proxy.parse::<Address>() {
            fault("uplink.proxy", invalid.to_string());
        }
        if let Err(faults) = self.identity.check() {
            fault("uplink.identity", faults.to_string());
        }
        for (field, span) in [
            ("uplink.heartbeat_interval", self.heartbeat_interval),
            ("uplink.reconnect_interval", self.reconnect_interval),
        ] {
            if span < INTERVAL_MIN {
                fault(field, format!("must be at least {INTERVAL_MIN:?}"));
            }
        }
    }
}

impl ConfigFaults {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigFault> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}
