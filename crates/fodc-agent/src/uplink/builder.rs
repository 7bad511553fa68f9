//! The builder of an uplink.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use steadfast::{
    CallCredentials, Link, LinkOptions, RenewalRequests,
    dial::{InvalidAddress, Servers},
    grpc::{Grpc, Options},
    transport::{Call, Connection, Transport},
};
use steadfast_fodc_model::identity::{Identity, IdentityFaults};
use steadfast_session::{CheckedConfig, Config, ConfigFaults, Liveness, Ready, Recovery};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    Inner, Uplink,
    counters::AtomicCounters,
    metrics_stream::MetricsStream,
    query_responder::{Responding, Timeouts},
    refusals::{self, Refusals},
    registration::{Command, Event, Registered, Registration},
    sample_store::SampleStore,
    source::{Source, SourceKind, Sources},
    source_stream::{SourceCounters, SourceStatus, SourceStream},
    supervisor::Supervisor,
};
use crate::clock::{Clock, SystemClock};

const METHOD: &str = "/banyandb.fodc.v1.FODCService/RegisterAgent";

/// The settings of an uplink. Each has a default; [`Builder::build`] checks them.
pub struct Builder {
    proxy: Servers,
    identity: watch::Receiver<Identity>,
    store: Arc<dyn SampleStore>,
    sources: Sources,
    reconnect_interval: Duration,
    reconnect_interval_max: Option<Duration>,
    heartbeat_interval: Duration,
    activity_timeout: Duration,
    message_bytes: Option<usize>,
    tune: Box<dyn Fn(Config) -> Config + Send>,
    timeouts: Timeouts,
    clock: Arc<dyn Clock>,
    options: Options,
    link: LinkOptions,
}

/// The faults of an uplink's settings, at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildFaults {
    /// The fault of the proxy's address.
    pub address: Option<InvalidAddress>,
    /// The faults of the agent's identity.
    pub identity: Option<IdentityFaults>,
    /// The faults of the session settings.
    pub config: Option<ConfigFaults>,
}

/// The heartbeat interval if neither side sets one.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// The longest delay between two metrics streams of one registration that the proxy refuses. They cost a
/// connection nothing, but nobody waits for them either.
const METRICS_MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The time over which agents that lost the same proxy spread their reconnects.
const SPREAD: Duration = Duration::from_secs(1);

/// The time for the orderly end of a registration, which needs no response.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Builder {
    pub(super) fn new(
        proxy: Servers,
        identity: watch::Receiver<Identity>,
        store: Arc<dyn SampleStore>,
    ) -> Self {
        Self {
            proxy,
            identity,
            store,
            sources: Sources::default(),
            reconnect_interval: Duration::from_secs(5),
            reconnect_interval_max: None,
            heartbeat_interval: HEARTBEAT_INTERVAL,
            activity_timeout: Duration::from_secs(90),
            message_bytes: None,
            tune: Box::new(|config| config),
            timeouts: Timeouts::default(),
            clock: Arc::new(SystemClock),
            options: Options::default(),
            link: LinkOptions::new(),
        }
    }

    /// Sets the delay after the first failed attempt. Default 5 s.
    ///
    /// After a refusal of the proxy it doubles, up to [`Builder::reconnect_interval_max`].
    ///
    /// The first attempt is made at once. A registration that was stable for 30 s, or that the proxy
    /// ended in order, is replaced within a second.
    #[must_use]
    pub fn reconnect_interval(mut self, interval: Duration) -> Self {
        self.reconnect_interval = interval;
        self
    }

    /// Sets the longest delay between two attempts, jitter included, up to which the delays double.
    ///
    /// By default it is 30 s after a refusal, and the reconnect interval after anything else: the agent
    /// is back that long after its proxy, as the original is. A longer one spares the network of many
    /// agents during a long outage.
    #[must_use]
    pub fn reconnect_interval_max(mut self, longest: Duration) -> Self {
        self.reconnect_interval_max = Some(longest);
        self
    }

    /// Sets the heartbeat interval for a proxy that sets none. Zero keeps the default, 10 s.
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = if interval.is_zero() {
            HEARTBEAT_INTERVAL
        } else {
            interval
        };
        self
    }

    /// Sets the time after which a silent proxy counts as dead. It is probed after a third of that.
    /// Default 90 s.
    #[must_use]
    pub fn activity_timeout(mut self, limit: Duration) -> Self {
        self.activity_timeout = limit;
        // TCP gives up just then, so that unacknowledged data does not outlive the session.
        self.options.user_timeout = Some(limit);
        self
    }

    /// Sets the longest message, in bytes, for a proxy that announces no limit: between 64 KiB and
    /// 32 MiB. By default it is the 4 MiB of all releases, or 32 MiB if a probe finds the newest
    /// version.
    #[must_use]
    pub fn message_bytes(mut self, limit: usize) -> Self {
        self.message_bytes = Some(limit);
        self
    }

    /// Adjusts the session settings of both streams, for tests and unusual networks.
    #[must_use]
    pub fn tune(mut self, tune: impl Fn(Config) -> Config + Send + 'static) -> Self {
        self.tune = Box::new(tune);
        self
    }

    /// Sets the time limit of a response, for tests. Default 4 s.
    #[must_use]
    pub fn response_timeout(mut self, limit: Duration) -> Self {
        self.timeouts = Timeouts {
            stop_reading: limit / 2,
            stop_sending: limit,
            // In the proportions of the defaults: 2, 4 and 4.5 s.
            give_up: limit + limit / 8,
            ..self.timeouts
        };
        self
    }

    /// Sets the clock that responses are stamped with. Default: [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets the sources that answer on other streams than the metrics stream.
    pub(crate) fn sources(mut self, sources: Sources) -> Self {
        self.sources = sources;
        self
    }

    /// Sets the options of the link that registers: the seed of its jitter, the observer of its
    /// state, the credentials, which every stream of the uplink sends. The session configuration is
    /// always the uplink's own.
    #[must_use]
    pub fn link(mut self, options: LinkOptions) -> Self {
        self.link = options;
        self
    }

    /// Creates the uplink on the current tokio runtime. It is idle until [`Uplink::start`] or
    /// [`Uplink::connect`].
    ///
    /// # Errors
    ///
    /// All faults of the address, the identity and the settings at once.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build(self) -> Result<Uplink, BuildFaults> {
        match (self.proxy.dialer(), self.check()) {
            (Ok(dialer), Ok(checked)) => {
                let transport = Grpc::with_dialer(dialer).with_options(self.options.clone());
                Ok(self.spawn(transport, checked))
            }
            (address, checked) => Err(BuildFaults {
                address: address.err(),
                ..checked.err().unwrap_or_default()
            }),
        }
    }

    /// Does the same as [`Builder::build`] over another transport; the address is not used.
    ///
    /// # Errors
    ///
    /// All faults of the identity and the settings at once.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build_on<T: Transport>(
        self,
        transport: T,
    ) -> Result<Uplink<T::Connection>, BuildFaults> {
        let checked = self.check()?;
        Ok(self.spawn(transport, checked))
    }

    fn check(&self) -> Result<(CheckedConfig, CheckedConfig), BuildFaults> {
        let registration = self.registration().check();
        let metrics = self.metrics().check();
        let identity = self.identity.borrow().check();
        match (registration, metrics, identity) {
            (Ok(registration), Ok(metrics), Ok(())) => Ok((registration, metrics)),
            (registration, metrics, identity) => Err(BuildFaults {
                address: None,
                identity: identity.err(),
                // Both streams share most settings, so that the faults of one say enough.
                config: registration.err().or(metrics.err()),
            }),
        }
    }

    fn registration(&self) -> Config {
        let mut config = Self::both_streams();
        config.initial_backoff = self.reconnect_interval;
        config.max_backoff = self.longest_interval();
        config.ready = Ready::FirstMessage;
        config.heartbeat_interval = Some(self.heartbeat_interval);
        config.activity_timeout = Some(self.activity_timeout);
        // A plain proxy sends nothing by itself, so it is probed.
        config.liveness = Liveness::Probed;
        (self.tune)(config)
    }

    fn longest_interval(&self) -> Duration {
        // A reconnect interval of zero is one fault, not two.
        let default = self.reconnect_interval.max(Duration::from_micros(1));
        self.reconnect_interval_max.unwrap_or(default)
    }

    fn metrics(&self) -> Config {
        let mut config = Self::both_streams();
        // A new stream on an open connection is cheap, so its first retry comes sooner.
        config.initial_backoff = self.reconnect_interval.min(SPREAD);
        config.max_backoff = METRICS_MAX_BACKOFF.max(self.reconnect_interval);
        // A plain proxy sends headers with its first query, which may come hours later.
        config.ready = Ready::Accepted;
        // The registration detects a dead proxy for both streams.
        config.heartbeat_interval = None;
        config.activity_timeout = None;
        (self.tune)(config)
    }

    fn both_streams() -> Config {
        let mut config = Config::default();
        config.recovery = Recovery::Spread(SPREAD);
        config.drain_timeout = DRAIN_TIMEOUT;
        config
    }

    fn spawn<T: Transport>(
        self,
        transport: T,
        (registration, metrics): (CheckedConfig, CheckedConfig),
    ) -> Uplink<T::Connection> {
        let counters = Arc::new(AtomicCounters::default());
        let registered = Arc::new(watch::Sender::new(None));
        let mut requested = self.identity;
        // A channel of its own: the caller's may hold an identity that fails the check.
        let identity = watch::Sender::new(Arc::new(requested.borrow_and_update().clone()));

        let longest = self.reconnect_interval_max.unwrap_or(refusals::LONGEST);
        let refusals = Arc::new(Refusals::new(
            self.reconnect_interval,
            longest.max(self.reconnect_interval),
        ));
        // Lets a proxy with the profile tell a restarted agent from one that reconnects.
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let credentials = self.link.call_credentials().clone();
        let (renewals, renewer) = RenewalRequests::new();
        let sink = RegistrationSink {
            registered: Arc::clone(&registered),
            counters: Arc::clone(&counters),
            refusals: Arc::clone(&refusals),
            renewals,
        };
        let link = self
            .link
            .configure(|config| config.clone_from(registration.settings()))
            .default_name("fodc registration")
            .default_retry_policy({
                let registered = Arc::clone(&registered);
                move |end| refusals.advice(end, registered.borrow().is_some())
            })
            .spawn(
                Call::new(METHOD),
                transport,
                Registration::new(identity.borrow().clone(), instance),
                move |event| sink.on_event(event),
            )
            .expect("the settings were checked");

        let metrics_status = Arc::new(watch::Sender::new(None));
        let responding = Responding {
            store: self.store,
            identity: identity.subscribe(),
            message_bytes: self.message_bytes,
            timeouts: self.timeouts,
            clock: self.clock,
            counters: Arc::clone(&counters),
        };
        let supervisor = Supervisor {
            registered: registered.subscribe(),
            connection: link.connection(),
            opener: MetricsStream {
                config: metrics.clone(),
                credentials: credentials.clone(),
                responding,
            },
            status: Arc::clone(&metrics_status),
        };
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(supervisor.run(cancel.clone()));
        let spawner = SourceSpawner {
            link: &link,
            registered: &registered,
            // As on the metrics stream, a plain proxy sends headers with its first query.
            config: &metrics,
            credentials: &credentials,
            message_bytes: self.message_bytes,
            tasks: &tasks,
            cancel: &cancel,
        };
        let sources = spawner.spawn_all(self.sources);
        let inner = Arc::new(Inner {
            link,
            identity: requested.clone(),
            registered,
            metrics: metrics_status,
            sources,
            counters,
            tasks: tasks.clone(),
            cancel: cancel.clone(),
            _cancel_on_drop: cancel.clone().drop_guard(),
        });
        let link = &inner.link;
        tasks.spawn(link.renew_credentials(renewer, credentials, Command::Authenticate));
        let following = follow_identity(requested, identity, Arc::downgrade(&inner));
        tasks.spawn(cancel.run_until_cancelled_owned(following));
        tasks.close();
        Uplink { inner }
    }
}

/// Starts the supervisors of sources.
struct SourceSpawner<'a, C: Connection> {
    link: &'a Link<Registration, C>,
    registered: &'a watch::Sender<Option<Registered>>,
    config: &'a CheckedConfig,
    credentials: &'a CallCredentials,
    message_bytes: Option<usize>,
    tasks: &'a TaskTracker,
    cancel: &'a CancellationToken,
}

impl<C: Connection> SourceSpawner<'_, C> {
    /// Starts the supervisor of each source that is configured.
    fn spawn_all(&self, sources: Sources) -> Vec<SourceStatus> {
        let statuses = [
            sources.topology.map(|source| self.spawn(source)),
            sources.lifecycle.map(|source| self.spawn(source)),
            sources.crashes.map(|source| self.spawn(source)),
            sources.profiles.map(|source| self.spawn(source)),
            sources.schema.map(|source| self.spawn(source)),
        ];
        statuses.into_iter().flatten().collect()
    }

    fn spawn<K: SourceKind>(&self, source: Arc<dyn Source<K>>) -> SourceStatus {
        let counters = Arc::<SourceCounters>::default();
        let status = Arc::new(watch::Sender::new(None));
        let supervisor = Supervisor {
            registered: self.registered.subscribe(),
            connection: self.link.connection(),
            opener: SourceStream {
                config: self.config.clone(),
                credentials: self.credentials.clone(),
                source,
                message_bytes: self.message_bytes,
                counters: Arc::clone(&counters),
            },
            status: Arc::clone(&status),
        };
        self.tasks.spawn(supervisor.run(self.cancel.clone()));
        SourceStatus {
            name: K::NAME,
            status,
            counters,
        }
    }
}

/// Publishes the registration and counts its events.
struct RegistrationSink {
    registered: Arc<watch::Sender<Option<Registered>>>,
    counters: Arc<AtomicCounters>,
    refusals: Arc<Refusals>,
    renewals: RenewalRequests,
}

impl RegistrationSink {
    fn on_event(&self, event: Event) {
        let Self {
            registered,
            counters,
            ..
        } = self;
        match event {
            Event::Registered(registration) => {
                self.refusals.reset();
                counters.registrations.increment();
                registered.send_replace(Some(registration));
            }
            Event::Refused => counters.refused.increment(),
            Event::HeartbeatSent => counters.heartbeats.increment(),
            Event::CredentialsDue => self.renewals.request(),
            Event::Renewed => counters.renewals.increment(),
            Event::Down => {
                // Nobody is woken by a stream that ended before it was accepted.
                registered.send_if_modified(|registered| registered.take().is_some());
            }
        }
    }
}

/// Passes each change of the identity on to the streams. An invalid identity is ignored.
async fn follow_identity<C: Connection>(
    mut requested: watch::Receiver<Identity>,
    identity: watch::Sender<Arc<Identity>>,
    uplink: Weak<Inner<C>>,
) {
    // It may have changed since the link was given the first one.
    requested.mark_changed();
    while requested.changed().await.is_ok() {
        let now = Arc::new(requested.borrow_and_update().clone());
        if let Err(faults) = now.check() {
            warn!(%faults, "new identity is invalid; keeping the current one");
            continue;
        }
        // Before the heartbeat, because samples are stamped as of their query.
        identity.send_replace(Arc::clone(&now));
        let Some(uplink) = uplink.upgrade() else {
            return;
        };
        let sent = uplink.link.send_command(Command::SetIdentity(now)).await;
        if sent.is_err() {
            return;
        }
    }
}

impl fmt::Display for BuildFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: [Option<&dyn fmt::Display>; 3] = [
            self.address.as_ref().map(|fault| fault as _),
            self.identity.as_ref().map(|fault| fault as _),
            self.config.as_ref().map(|fault| fault as _),
        ];
        for (index, fault) in faults.into_iter().flatten().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildFaults {}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("proxy", &self.proxy)
            .field("reconnect_interval", &self.reconnect_interval)
            .finish_non_exhaustive()
    }
}
