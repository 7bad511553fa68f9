//! The agent: scrapes endpoints, records their samples and serves the record.
//!
//! ```text
//!   endpoints ──> pollers (one task each) ──> recording thread ──> record
//!                                                                   │ Reader
//!                        /metrics, /readyz, remote read <───────────┼──> uplink ──> proxy
//! ```
//!
//! Without a proxy it is a recorder and exporter, and with one it remains that whatever the proxy
//! does: no part waits for another. Reading the record does not interrupt recording.

mod app_state;
mod config;
mod http;
mod memory_budget;
mod node_config;
mod record_queries;
mod recorded_memory;
mod recording;
mod remote_read;
mod sample_store;
mod source_views;
mod status;
mod target_labels;
mod unread;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::service::TowerToHyperService;
use steadfast::LinkOptions;
use steadfast_access::{Faults, Source};
use steadfast_net::{OperationsListener, access::AccessControl};
use steadfast_recorder::{LimitError, OpenError, OpenReport, Options, Reader, Recorders};
use steadfast_session::Status;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{self, Instant, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::config::{
    Config, ConfigFault, ConfigFaults, ConfigProblem, ReadLimits, Storage, UplinkConfig,
};
pub use self::node_config::NodeConfig;
use self::{
    app_state::{AppState, MAX_CONNECTIONS},
    memory_budget::MemoryBudget,
    recorded_memory::RecordedMemory,
    recording::{Recording, RecordingQueue, sync_regularly},
    sample_store::RecordSampleStore,
    source_views::SourceViews,
    status::AgentStatus,
};
use crate::{
    identity::{Identity, IdentityFaults},
    scrape::{Endpoint, Poller},
    sources::{
        crash::CrashSource,
        pressure::{PressureWatcher, ProfileStore},
    },
    uplink::{BuildFaults, Uplink},
};

/// A running agent. Dropping it cuts everything; [`Agent::stop`] ends it in order.
///
/// ```no_run
/// use std::time::Duration;
///
/// use steadfast_fodc_agent::{Agent, Config, Storage, scrape::Endpoint};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::new(vec![Endpoint::new("http://localhost:9100/metrics")?]);
/// config.record = Storage::Directory("record".into());
/// let agent = Agent::start(config).await?;
/// println!("metrics at {:?}", agent.addresses().http);
/// agent.stop(Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Agent {
    addresses: Addresses,
    opened: OpenReport,
    status: Arc<AgentStatus>,
    stop: DropGuard,
    pollers: JoinSet<()>,
    server: Option<OperationsListener>,
    uplink: Option<(Uplink, watch::Sender<Identity>)>,
    recording: Recording,
}

/// The addresses on which an agent listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Addresses {
    /// The address of the HTTP server, with the port that the system chose for port 0.
    pub http: Option<SocketAddr>,
}

/// The reason why an agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings are invalid.
    #[error(transparent)]
    Config(#[from] ConfigFaults),
    /// The record cannot be opened.
    #[error(transparent)]
    Record(#[from] OpenError),
    /// The record has no capacity for the sources of all endpoints.
    #[error("record cannot hold all endpoints: {0}")]
    Sources(#[from] LimitError),
    /// The settings of the uplink are invalid.
    #[error("uplink: {0}")]
    Uplink(#[from] BuildFaults),
    /// The address is in use or not available.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The policy file has faults.
    #[error("the policy file cannot be used:\n{0}")]
    Access(#[from] Faults),
    /// Another operation of the system failed.
    #[error("cannot start the agent: {0}")]
    Io(#[from] io::Error),
}

/// The error of a stop whose deadline passed before the record was durable. The system still has
/// the recorded data and writes it when the disk responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("disk of the record did not respond within {0:?}")]
pub struct StopTimeout(pub Duration);

/// Longest wait for the role of the node before the agent registers. The releases ignore a role that
/// comes with a heartbeat, so that an agent that registers too early would keep the unknown one.
const ROLE_TIMEOUT: Duration = Duration::from_secs(25);

impl Agent {
    /// Starts an agent. When this returns, the listener is bound, the record is open and the first
    /// scrapes are under way.
    ///
    /// # Errors
    ///
    /// All faults of the settings at once, or an error of the system. Nothing runs then.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with timers and sockets.
    pub async fn start(mut config: Config) -> Result<Self, StartError> {
        config.check()?;
        let budget = MemoryBudget::new(&config);
        config.page = budget.page_limits(config.page);
        // From here on the budget is that of the record alone.
        config.budget = budget.record;
        // Filters are of the Streamer, which may have the same file; no grant to read has one.
        let source = config.access.as_deref();
        let source = source.map(|path| Source::new(path, |_| Ok(())));
        let (access, policy) = AccessControl::load(source)?;
        // The port comes first: a second agent must not touch the record of the first.
        let listener = match config.listen {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|source| StartError::Listen { address, source })?)
            }
            None => None,
        };
        let (recorders, opened) = open(&config).await?;
        let urls = config.endpoints.iter().map(Endpoint::source);
        let status = Arc::new(AgentStatus::new(urls));
        let (recording, queues) = Recording::start(recorders, &config, Arc::clone(&status))?;

        let views = Arc::new(SourceViews::new(&config.endpoints));
        let uplink = match &config.uplink {
            Some(settings) => {
                let store = RecordSampleStore::new(recording.record(), Arc::clone(&views));
                Some(start_uplink(settings, &config, store)?)
            }
            None => None,
        };
        let memory = RecordedMemory::new(recording.record(), Arc::clone(&views));
        let watcher = config.pressure.clone().map(|settings| {
            let clock = Arc::clone(&config.clock);
            PressureWatcher::new(settings, memory, config.interval, clock)
        });
        let server = match listener {
            Some(listener) => {
                let security = config.security.clone();
                let state = AppState::new(
                    &config,
                    Arc::clone(&views),
                    recording.record(),
                    Arc::clone(&status),
                    uplink.as_ref().map(|(uplink, _)| uplink.clone()),
                    watcher
                        .as_ref()
                        .map(|watcher| Arc::clone(&watcher.counters)),
                    access,
                );
                let refused = state.refused.clone();
                let service = TowerToHyperService::new(http::router(state));
                Some(OperationsListener::start(
                    listener,
                    service,
                    MAX_CONNECTIONS,
                    security,
                    refused,
                )?)
            }
            None => None,
        };
        let stop = CancellationToken::new();
        // Last: an agent that fails to start has scraped nothing.
        let mut pollers = start_pollers(&config, queues, &stop);
        if let Some((uplink, identity)) = &uplink {
            register(&config, uplink, identity, &mut pollers, &stop);
        }
        if let Some(watcher) = watcher {
            pollers.spawn(watcher.run(stop.clone()));
        }
        if let Some(policy) = policy {
            pollers.spawn(policy.follow(|_| {}, stop.clone()));
        }
        Ok(Self {
            addresses: Addresses {
                http: server.as_ref().map(OperationsListener::address),
            },
            opened,
            status,
            stop: stop.drop_guard(),
            pollers,
            server,
            uplink,
            recording,
        })
    }

    /// Returns the addresses on which it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Returns the report of opening the record. It is empty for a record in memory.
    #[must_use]
    pub fn opened(&self) -> &OpenReport {
        &self.opened
    }

    /// Returns the uplink to the proxy, if one is configured.
    #[must_use]
    pub fn uplink(&self) -> Option<&Uplink> {
        self.uplink.as_ref().map(|(uplink, _)| uplink)
    }

    /// Returns the status of the registration with the proxy; `None` without one.
    #[must_use]
    pub fn uplink_state(&self) -> Option<Status> {
        self.uplink().map(Uplink::status)
    }

    /// Replaces the identity under which the agent is registered. Without a proxy it does nothing.
    ///
    /// # Errors
    ///
    /// The faults of the identity, which is then not replaced.
    pub fn set_identity(&self, identity: Identity) -> Result<(), IdentityFaults> {
        identity.check()?;
        if let Some((_, current)) = &self.uplink {
            current.send_replace(identity);
        }
        Ok(())
    }

    /// Returns the current record; `None` if recording has ended.
    pub async fn reader(&self) -> Option<Reader> {
        let snapshot = self.recording.record().snapshot().await;
        snapshot.ok().map(|snapshot| snapshot.reader)
    }

    /// Returns the reason why the agent is not ready, as `/readyz` does; `None` if it is.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        self.status.snapshot().unready()
    }

    /// Waits until recording ends by itself, which only a bug of this program causes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn failed(&mut self) {
        self.recording.ended().await;
    }

    /// Stops the agent in order: stops scraping, answers the requests under way, leaves the proxy and
    /// makes the record durable. No task, thread or socket is left within `timeout`.
    ///
    /// # Errors
    ///
    /// If the disk of the record does not respond in time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts what is left, as dropping the agent does.
    pub async fn stop(mut self, timeout: Duration) -> Result<(), StopTimeout> {
        let deadline = Instant::now() + timeout;
        self.stop.disarm().cancel();
        let (server, uplink) = (self.server.take(), self.uplink.take());
        let serving = async {
            if let Some(server) = server {
                // Half of the time, so that the record has the other half to sync.
                server.stop(timeout / 2).await;
            }
        };
        let leaving = async {
            if let Some((uplink, _identity)) = uplink {
                time::timeout(timeout / 2, uplink.disconnect()).await.ok();
                uplink.close().await;
            }
        };
        // The recording thread ends only after its last queue, and each poller holds one.
        let scraping = async { while self.pollers.join_next().await.is_some() {} };
        // The record ends last: until then a response would otherwise be empty.
        let ended = timeout_at(deadline, async {
            tokio::join!(serving, leaving, scraping);
            self.recording.end().await;
        });
        ended.await.map_err(|_| StopTimeout(timeout))
    }
}

fn start_uplink(
    settings: &UplinkConfig,
    config: &Config,
    store: RecordSampleStore,
) -> Result<(Uplink, watch::Sender<Identity>), StartError> {
    let identity = watch::Sender::new(settings.identity.clone());
    let mut sources = config.node.sources(&identity, &config.clock);
    if config.crashes.is_configured() {
        let source = CrashSource::new(config.crashes.clone(), Arc::clone(&config.clock));
        sources.crashes = Some(Arc::new(source));
    }
    if let Some(pressure) = &config.pressure {
        sources.profiles = Some(Arc::new(ProfileStore::new(pressure)));
    }
    let mut uplink = Uplink::builder(settings.proxy.clone(), identity.subscribe(), store)
        .heartbeat_interval(settings.heartbeat_interval)
        .reconnect_interval(settings.reconnect_interval)
        .link(LinkOptions::new().credentials(settings.credentials.clone()))
        .sources(sources);
    // Without one, the delays after refusals have a limit of their own.
    if let Some(longest) = settings.reconnect_interval_max {
        uplink = uplink.reconnect_interval_max(longest);
    }
    Ok((uplink.build()?, identity))
}

/// Starts to register: at once, or when the role of the node is known.
fn register(
    config: &Config,
    uplink: &Uplink,
    identity: &watch::Sender<Identity>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let Some(discovery) = config.node.role_discovery(identity) else {
        uplink.start();
        return;
    };
    let (uplink, mut known, stop) = (uplink.clone(), identity.subscribe(), stop.clone());
    tasks.spawn(discovery.run(stop.clone()));
    tasks.spawn(async move {
        let resolved = known.wait_for(|identity| identity.role != Identity::ROLE_UNKNOWN);
        let waited = stop.run_until_cancelled(timeout(ROLE_TIMEOUT, resolved));
        if waited.await.is_some() {
            uplink.start();
        }
    });
}

/// Starts the task of each endpoint, and one that syncs the record.
fn start_pollers(
    config: &Config,
    queues: Vec<RecordingQueue>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut pollers = JoinSet::new();
    if let Some(queue) = queues.first() {
        let queue = queue.clone();
        pollers.spawn(sync_regularly(queue, config.sync_every, stop.clone()));
    }
    for (endpoint, queue) in config.endpoints.iter().zip(queues) {
        let poller = Poller::new(
            endpoint.clone(),
            config.interval,
            config.scrape_limits(),
            Arc::clone(&config.clock),
            queue,
        );
        pollers.spawn(poller.run(stop.clone()));
    }
    pollers
}

async fn open(config: &Config) -> Result<(Recorders, OpenReport), StartError> {
    let mut options = Options::default();
    options.budget = config.budget;
    options.honor_timestamps = config.honor_timestamps;
    let storage = config.record.clone();
    // The files of an earlier process are read and checked first, which may take long.
    let opened = spawn_blocking(move || match storage {
        Storage::Memory => {
            Recorders::in_memory(options).map(|recorders| (recorders, OpenReport::default()))
        }
        Storage::Directory(path) => Recorders::open(&path, options),
    });
    let opened = opened.await.map_err(io::Error::other)?;
    Ok(opened?)
}
