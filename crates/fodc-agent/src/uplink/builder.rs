//! How an uplink is made.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use steadfast::{
    Notice,
    grpc::{Address, Grpc, InvalidAddress, Options},
    transport::{Call, Transport},
};
use steadfast_session::{
    Advice, CheckedConfig, Config, ConfigFaults, End, Liveness, Ready, Recovery,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    Inner, Uplink,
    answerer::{Clock, Patience},
    registration::{Command, Event, Registration},
    responder::Responder,
    supervisor::Supervisor,
    tally::Tally,
};
use steadfast_fodc_model::identity::{Identity, IdentityFaults};

const METHOD: &str = "/banyandb.fodc.v1.FODCService/RegisterAgent";

/// How an uplink is made. Every setting has a default; what is wrong is told by [`Builder::build`].
pub struct Builder {
    address: String,
    identity: watch::Receiver<Identity>,
    responder: Arc<dyn Responder>,
    reconnect_interval: Duration,
    heartbeat_interval: Duration,
    activity_timeout: Duration,
    message_bytes: Option<usize>,
    tune: Box<dyn Fn(Config) -> Config + Send>,
    patience: Patience,
    clock: Clock,
    options: Options,
    link: steadfast::Builder,
}

/// Everything that is wrong with the settings of an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildFaults {
    /// The address of the proxy.
    pub address: Option<InvalidAddress>,
    /// Who the agent is.
    pub identity: Option<IdentityFaults>,
    /// How the session behaves.
    pub config: Option<ConfigFaults>,
}

/// Heartbeats if neither side says how often.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// The longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Everybody who lost the same proxy comes back within this time, not at once.
const SPREAD: Duration = Duration::from_secs(1);

/// For the orderly end of a registration, in which nobody has to say anything.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Builder {
    pub(super) fn new(
        address: String,
        identity: watch::Receiver<Identity>,
        responder: Arc<dyn Responder>,
    ) -> Self {
        Self {
            address,
            identity,
            responder,
            reconnect_interval: Duration::from_secs(5),
            heartbeat_interval: HEARTBEAT_INTERVAL,
            activity_timeout: Duration::from_secs(90),
            message_bytes: None,
            tune: Box::new(|config| config),
            patience: Patience::default(),
            clock: Arc::new(unix_millis),
            options: Options::default(),
            link: steadfast::Builder::new(Call::new(METHOD)).name("fodc registration"),
        }
    }

    /// The delay after the first failed attempt; it doubles up to 30 s. The first attempt is made at
    /// once, and a registration that held for 30 s is replaced within a second. Default 5 s.
    #[must_use]
    pub fn reconnect_interval(mut self, interval: Duration) -> Self {
        self.reconnect_interval = interval;
        self
    }

    /// How often heartbeats are sent to a proxy that does not say how often. Zero leaves it at the
    /// default, 10 s.
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = if interval.is_zero() {
            HEARTBEAT_INTERVAL
        } else {
            interval
        };
        self
    }

    /// How long a dead proxy may go unnoticed. After a third of it in silence the proxy is asked for
    /// life. Default 90 s.
    #[must_use]
    pub fn activity_timeout(mut self, limit: Duration) -> Self {
        self.activity_timeout = limit;
        self.options.user_timeout = Some(limit);
        self
    }

    /// The longest message a proxy takes that does not say so itself, bytes; between 64 KiB and
    /// 32 MiB. Default: 4 MiB, as all releases have it, or 32 MiB where the proxy is found to be of
    /// the version that has that.
    #[must_use]
    pub fn message_bytes(mut self, limit: usize) -> Self {
        self.message_bytes = Some(limit);
        self
    }

    /// Changes how the sessions of both streams behave, for tests and unusual networks.
    #[must_use]
    pub fn tune(mut self, tune: impl Fn(Config) -> Config + Send + 'static) -> Self {
        self.tune = Box::new(tune);
        self
    }

    /// How long an answer may take, in tests.
    #[must_use]
    pub fn answer_within(mut self, limit: Duration) -> Self {
        self.patience = Patience {
            hurry: limit / 2,
            over: limit,
            without: limit + limit / 8,
            ..self.patience
        };
        self
    }

    /// The clock that answers are stamped with, Unix milliseconds. Default: the system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Is told of every change of the state, on a task of its own. It may call back into the uplink.
    #[must_use]
    pub fn on_notice(mut self, observer: impl FnMut(Notice) + Send + 'static) -> Self {
        self.link = self.link.on_notice(observer);
        self
    }

    /// The seed of the jitter. Default: random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.link = self.link.seed(seed);
        self
    }

    /// Makes the uplink on the current tokio runtime. It attempts nothing before
    /// [`Uplink::start`] or [`Uplink::connect`].
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the address, the identity and the settings, at once.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build(self) -> Result<Uplink, BuildFaults> {
        let address = self.address.parse::<Address>();
        let (address, fault) = match address {
            Ok(address) => (Some(address), None),
            Err(fault) => (None, Some(fault)),
        };
        let checked = self.check();
        match (address, checked) {
            (Some(address), Ok(checked)) => {
                let transport = Grpc::new(address).with_options(self.options.clone());
                Ok(self.assemble(transport, checked))
            }
            (_, checked) => Err(BuildFaults {
                address: fault,
                ..checked.err().unwrap_or_default()
            }),
        }
    }

    /// As [`Builder::build`], on another transport; the address is not used.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the identity and the settings, at once.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build_on<T: Transport>(
        self,
        transport: T,
    ) -> Result<Uplink<T::Connection>, BuildFaults> {
        let checked = self.check()?;
        Ok(self.assemble(transport, checked))
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
                config: registration.err().or(metrics.err()),
            }),
        }
    }

    /// A plain proxy never speaks unasked, so its life is asked for. Nothing it says is final.
    fn registration(&self) -> Config {
        (self.tune)(Config {
            initial_backoff: self.reconnect_interval,
            max_backoff: MAX_BACKOFF.max(self.reconnect_interval),
            recovery: Recovery::Spread(SPREAD),
            max_retries: 0,
            ready: Ready::FirstMessage,
            heartbeat_interval: Some(self.heartbeat_interval),
            activity_timeout: Some(self.activity_timeout),
            liveness: Liveness::Probed,
            drain_timeout: DRAIN_TIMEOUT,
            ..Config::default()
        })
    }

    /// A new stream on a connection that is there costs little, so it begins again sooner; life is the
    /// registration's business.
    fn metrics(&self) -> Config {
        (self.tune)(Config {
            initial_backoff: self.reconnect_interval.min(SPREAD),
            max_backoff: MAX_BACKOFF.max(self.reconnect_interval),
            recovery: Recovery::Spread(SPREAD),
            max_retries: 0,
            ready: Ready::Accepted,
            heartbeat_interval: None,
            activity_timeout: None,
            liveness: Liveness::Received,
            drain_timeout: DRAIN_TIMEOUT,
            ..Config::default()
        })
    }

    fn assemble<T: Transport>(
        self,
        transport: T,
        (registration, metrics): (CheckedConfig, CheckedConfig),
    ) -> Uplink<T::Connection> {
        let mut wished = self.identity;
        let identity = watch::Sender::new(Arc::new(wished.borrow_and_update().clone()));
        let registered = Arc::new(watch::Sender::new(None));
        let tally = Arc::new(Tally::default());
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let protocol = Registration::new(identity.borrow().clone(), instance);
        let (told, counts) = (Arc::clone(&registered), Arc::clone(&tally));
        let sink = move |event| match event {
            Event::Registered(registered) => {
                counts.registrations.count();
                told.send_replace(Some(registered));
            }
            Event::Refused => counts.refused.count(),
            Event::Beat => counts.heartbeats.count(),
            Event::Down => {
                told.send_if_modified(|told| told.take().is_some());
            }
        };
        let link = self
            .link
            .config(registration.settings().clone())
            .policy(advice)
            .spawn(transport, protocol, sink)
            .expect("the settings were checked");
        let metrics_shown = Arc::new(watch::Sender::new(None));
        let supervisor = Supervisor {
            registered: registered.subscribe(),
            connection: link.connection(),
            identity: identity.subscribe(),
            responder: self.responder,
            config: metrics,
            message_bytes: self.message_bytes,
            patience: self.patience,
            clock: self.clock,
            tally: Arc::clone(&tally),
            shown: Arc::clone(&metrics_shown),
        };
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(supervisor.run(cancel.clone()));
        let inner = Arc::new(Inner {
            link,
            registered,
            metrics: metrics_shown,
            tally,
            tasks: tasks.clone(),
            cancel: cancel.clone(),
            _cancel_on_drop: cancel.clone().drop_guard(),
        });
        let weak = Arc::downgrade(&inner);
        let become_that = move |identity| match weak.upgrade() {
            // A closed link is nobody any more.
            Some(inner) => inner.link.command(Command::Become(identity)).is_ok(),
            None => false,
        };
        let following = follow(wished, identity, become_that);
        tasks.spawn(async move {
            cancel.run_until_cancelled(following).await;
        });
        tasks.close();
        Uplink { inner }
    }
}

/// Passes on who the agent is now. An identity with faults is not taken over.
async fn follow(
    mut wished: watch::Receiver<Identity>,
    identity: watch::Sender<Arc<Identity>>,
    become_that: impl Fn(Arc<Identity>) -> bool,
) {
    // It may have changed since the link was given the first one.
    wished.mark_changed();
    while wished.changed().await.is_ok() {
        let now = Arc::new(wished.borrow_and_update().clone());
        if let Err(faults) = now.check() {
            warn!(%faults, "the new identity is not taken over");
            continue;
        }
        identity.send_replace(Arc::clone(&now));
        if !become_that(now) {
            return;
        }
    }
}

/// Nothing a proxy says is final: it may be replaced by a better one.
fn advice(end: &End) -> Option<Advice> {
    match end.advice {
        Advice::Stop | Advice::Refresh => Some(Advice::Wait(None)),
        Advice::Retry | Advice::Wait(_) => None,
    }
}

fn unix_millis() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
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
            .field("address", &self.address)
            .field("reconnect_interval", &self.reconnect_interval)
            .finish_non_exhaustive()
    }
}
