//! The settings of a link.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use steadfast_session::{Advice, Config, End};

use crate::{backpressure::Backpressure, credentials::CallCredentials, state_event::StateEvent};

/// The settings of a link. Every setting has a default.
///
/// [`LinkOptions::spawn`] and [`LinkOptions::resume`] start a link with them. Clients that are built
/// on a link take a `LinkOptions` instead of repeating its setters.
///
/// ```no_run
/// use std::time::Duration;
/// use steadfast::LinkOptions;
///
/// let options = LinkOptions::new()
///     .name("orders")
///     .configure(|config| config.max_backoff = Duration::from_secs(10))
///     .on_state_change(|event| println!("{event}"));
/// ```
pub struct LinkOptions {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) config: Config,
    pub(crate) retry_policy: RetryPolicy,
    pub(crate) default_retry_policy: RetryPolicy,
    pub(crate) credentials: CallCredentials,
    pub(crate) outbox_bytes: usize,
    pub(crate) close_timeout: Duration,
    pub(crate) max_commands: usize,
    pub(crate) max_requests: usize,
    pub(crate) request_attempts: u64,
    pub(crate) max_queued_responses: usize,
    pub(crate) seed: Option<u64>,
    pub(crate) backpressure: Option<Arc<Backpressure>>,
    pub(crate) observer: Option<Box<dyn FnMut(StateEvent) + Send>>,
    #[cfg(feature = "opentelemetry")]
    pub(crate) tracer: Option<opentelemetry::global::BoxedTracer>,
    #[cfg(feature = "metrics")]
    pub(crate) metrics_interval: Option<Duration>,
}

/// Replaces the advice of an end; `None` keeps it.
pub(crate) type RetryPolicy = Box<dyn Fn(&End) -> Option<Advice> + Send>;

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            name: None,
            config: Config::default(),
            retry_policy: Box::new(|_| None),
            default_retry_policy: Box::new(|_| None),
            credentials: CallCredentials::default(),
            // Holds the restoration of 100,000 subscriptions with some 600 bytes each.
            outbox_bytes: 64 << 20,
            close_timeout: Duration::from_secs(2),
            max_commands: 1_024,
            max_requests: 10,
            request_attempts: 3,
            max_queued_responses: 256,
            seed: None,
            backpressure: None,
            observer: None,
            #[cfg(feature = "opentelemetry")]
            tracer: None,
            #[cfg(feature = "metrics")]
            metrics_interval: None,
        }
    }
}

impl LinkOptions {
    /// Returns the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name in log lines. Default: the path of the call.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the name if none is set. A client that is built on a link uses it.
    #[must_use]
    pub fn default_name(mut self, name: &str) -> Self {
        self.name.get_or_insert_with(|| name.into());
        self
    }

    /// Changes the settings of the session: backoff, heartbeats, timeouts. They are checked when the
    /// link is spawned.
    ///
    /// A client that is built on a link calls it last for what its protocol needs, such as
    /// [`Config::ready`].
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Sets a function that may replace the advice of an end: retry, wait or stop. `None` keeps the
    /// advice of the transport or the protocol.
    #[must_use]
    pub fn retry_policy(
        mut self,
        policy: impl Fn(&End) -> Option<Advice> + Send + 'static,
    ) -> Self {
        self.retry_policy = Box::new(policy);
        self
    }

    /// Sets a policy for the ends whose advice [`LinkOptions::retry_policy`] keeps. A client that is
    /// built on a link uses it. It is not asked about refused credentials if there is a source of
    /// others.
    #[must_use]
    pub fn default_retry_policy(
        mut self,
        default: impl Fn(&End) -> Option<Advice> + Send + 'static,
    ) -> Self {
        self.default_retry_policy = Box::new(default);
        self
    }

    /// Sets the metadata of every call: a [`Metadata`](crate::Metadata), a source of
    /// [`Credentials`](crate::Credentials), or both.
    ///
    /// While there is a source, credentials that are refused again and again do not stop the link: it
    /// asks for others after every refusal, with the delays of the backoff.
    #[must_use]
    pub fn credentials(mut self, credentials: impl Into<CallCredentials>) -> Self {
        self.credentials = credentials.into();
        self
    }

    /// Returns what [`LinkOptions::credentials`] was set to. A client that opens further streams uses
    /// it for their links.
    #[must_use]
    pub fn call_credentials(&self) -> &CallCredentials {
        &self.credentials
    }

    /// Sets the limit of unsent bytes. A stream that exceeds it is ended, because its peer does not
    /// read. Default 64 MiB.
    #[must_use]
    pub fn outbox_bytes(mut self, limit: usize) -> Self {
        self.outbox_bytes = limit;
        self
    }

    /// Sets the longest wait for tasks and sockets in `Link::close`. Default 2 s.
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets how many commands may wait for the driver. Default 1,024; 0 counts as 1.
    #[must_use]
    pub fn max_commands(mut self, limit: usize) -> Self {
        self.max_commands = limit.max(1);
        self
    }

    /// Sets how many calls of `Link::connect` and `Link::reconnect` may wait at a time.
    /// Default 10.
    #[must_use]
    pub fn max_requests(mut self, limit: usize) -> Self {
        self.max_requests = limit;
        self
    }

    /// Sets how many failed attempts end a call of `Link::connect` or `Link::reconnect` with an
    /// error. The link itself keeps trying. Default 3; 0 counts as 1.
    #[must_use]
    pub fn request_attempts(mut self, attempts: u64) -> Self {
        self.request_attempts = attempts.max(1);
        self
    }

    /// Sets how many responses of a `Resumed` stream may wait for the application before reading
    /// pauses. Default 256.
    #[must_use]
    pub fn max_queued_responses(mut self, limit: usize) -> Self {
        self.max_queued_responses = limit;
        self
    }

    /// Sets the seed of the backoff's jitter. Default: random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Pauses reading while `backpressure` is at its limit.
    #[must_use]
    pub fn backpressure(mut self, backpressure: Arc<Backpressure>) -> Self {
        self.backpressure = Some(backpressure);
        self
    }

    /// Calls `observer` for every state transition, on a task of its own. The observer may call back
    /// into the link.
    #[must_use]
    pub fn on_state_change(mut self, observer: impl FnMut(StateEvent) + Send + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Makes a span of every attempt and every outage, and sends the context of the attempt's span
    /// (`traceparent`) in the metadata of its call. The context in which the link is spawned is the
    /// parent.
    ///
    /// ```
    /// let options = steadfast::LinkOptions::new().tracer(opentelemetry::global::tracer("orders"));
    /// ```
    #[cfg(feature = "opentelemetry")]
    #[must_use]
    pub fn tracer(mut self, tracer: opentelemetry::global::BoxedTracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Copies the counters of the link to the recorder of the [`metrics`] facade at this interval, and
    /// when the link closes. Their label `link` is the name of the link.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics_interval(mut self, interval: Duration) -> Self {
        self.metrics_interval = Some(interval);
        self
    }

    /// Returns the seed that was set, or a random one.
    pub(crate) fn seed_or_random(&self) -> u64 {
        self.seed
            // The standard library's hasher has random keys: a seed without a dependency. It
            // spreads delays and protects nothing.
            .unwrap_or_else(|| RandomState::new().build_hasher().finish())
    }
}

/// Combines the policy of the caller with that of the client.
pub(crate) fn combine(
    policy: RetryPolicy,
    default: RetryPolicy,
    renews_credentials: bool,
) -> RetryPolicy {
    Box::new(move |end| {
        // The default of a client stands for credentials that never change.
        let renewed = renews_credentials && end.advice == Advice::Refresh;
        policy(end).or_else(|| if renewed { None } else { default(end) })
    })
}

impl From<Config> for LinkOptions {
    fn from(config: Config) -> Self {
        Self {
            config,
            ..Self::new()
        }
    }
}

impl fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkOptions")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
