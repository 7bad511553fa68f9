//! TLS of listeners.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use steadfast_tls::{
    TlsCounters, TlsError,
    server::{HandshakeFailure, Protocol, ServerTls, ServerTlsOptions, TlsAcceptor, TlsStream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

use crate::log_limiter::LogLimiter;

/// TLS of the listeners of a process. Clones share everything.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    files: ServerTls,
    handshake_timeout: Duration,
    handshakes: AtomicU64,
    failures: [AtomicU64; HandshakeFailure::ALL.len()],
    log_limits: Mutex<[LogLimiter; HandshakeFailure::ALL.len()]>,
}

/// What has happened to a [`Tls`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsStats {
    /// The time at which the first certificate of the chain in use expires, if all are readable.
    pub not_after: Option<SystemTime>,
    /// Completed handshakes.
    pub handshakes: u64,
    /// Failed handshakes, in the order of [`HandshakeFailure::ALL`].
    pub failures: [u64; HandshakeFailure::ALL.len()],
    /// Changed files that were taken, and those that could not be used.
    pub files: TlsCounters,
}

/// One figure of a [`TlsStats`], for a page of metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct TlsFigure {
    /// The name of the metric, without the prefix of the program.
    pub name: &'static str,
    /// The text that explains it.
    pub help: &'static str,
    /// Whether it counts; it is a gauge otherwise.
    pub is_counter: bool,
    /// The label `reason`, of the metrics that have it.
    pub reason: Option<&'static str>,
    /// The value.
    pub value: f64,
}

/// Longest wait for a refused client to read the reason. Closed at once, a connection on which the client
/// has sent more than was read is reset, and the reset overtakes the alert.
const LINGER: Duration = Duration::from_secs(1);
/// The bytes that a refused client may still send meanwhile.
const LINGER_BYTES: u64 = 64 << 10;

impl Tls {
    /// The usual limit on the time of a handshake.
    pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

    /// Reads the files. A handshake that takes longer than `handshake_timeout`, or than the listener's
    /// time to the first request, is ended.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or used, or if clients cannot be verified as wanted.
    pub fn load(options: &ServerTlsOptions, handshake_timeout: Duration) -> Result<Self, TlsError> {
        Ok(Self {
            shared: Arc::new(Shared {
                files: ServerTls::load(options)?,
                handshake_timeout,
                handshakes: AtomicU64::new(0),
                failures: Default::default(),
                log_limits: Mutex::new([const { LogLimiter::new() }; HandshakeFailure::ALL.len()]),
            }),
        })
    }

    /// Returns what has happened so far.
    #[must_use]
    pub fn stats(&self) -> TlsStats {
        let shared = &self.shared;
        TlsStats {
            not_after: shared.files.not_after(),
            handshakes: shared.handshakes.load(Relaxed),
            failures: std::array::from_fn(|at| shared.failures[at].load(Relaxed)),
            files: shared.files.counters(),
        }
    }

    /// Looks at the files, at most once a second, so that the figures are those of the next handshake.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn refresh(&self) {
        // The protocol does not matter: the files are the same.
        self.shared.files.config(Protocol::Http1).await;
    }

    /// Returns the figures for a page of metrics. Those of one name follow each other.
    pub fn figures(&self) -> impl Iterator<Item = TlsFigure> + use<> {
        let stats = self.stats();
        let counter = |name, help, value: u64| TlsFigure {
            name,
            help,
            is_counter: true,
            reason: None,
            value: value as f64,
        };
        let expires = stats.not_after.map(|time| TlsFigure {
            name: "tls_certificate_not_after_timestamp_seconds",
            help: "Time at which the first certificate of the chain in use expires",
            is_counter: false,
            reason: None,
            value: time
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0.0, |it| it.as_secs_f64()),
        });
        let failures = HandshakeFailure::ALL.into_iter().zip(stats.failures);
        let failures = failures.map(move |(failure, count)| TlsFigure {
            reason: Some(failure.name()),
            ..counter(
                "tls_handshake_failures_total",
                "Failed handshakes by reason",
                count,
            )
        });
        let others = [
            (
                "tls_handshakes_total",
                "Completed handshakes",
                stats.handshakes,
            ),
            (
                "tls_reloads_total",
                "Changed certificate files that are in use",
                stats.files.reloads,
            ),
            (
                "tls_failed_reloads_total",
                "Changed certificate files that cannot be used",
                stats.files.failed_reloads,
            ),
        ]
        .map(|(name, help, value)| counter(name, help, value));
        expires.into_iter().chain(others).chain(failures)
    }

    /// Does the handshake of a server, until `latest` at most. Returns `None` if it fails, which is counted
    /// and logged.
    pub(crate) async fn accept<S>(
        &self,
        protocol: Protocol,
        stream: S,
        peer: Option<SocketAddr>,
        latest: Instant,
    ) -> Option<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let deadline = latest.min(Instant::now() + self.shared.handshake_timeout);
        let handshake = async {
            let config = self.shared.files.config(protocol).await;
            let accepting = TlsAcceptor::from(config).accept(stream);
            accepting.into_fallible().await
        };
        match timeout_at(deadline, handshake).await {
            Ok(Ok(stream)) => {
                self.shared.handshakes.fetch_add(1, Relaxed);
                Some(stream)
            }
            Ok(Err((error, stream))) => {
                self.failed(HandshakeFailure::of(&error), &error, peer);
                linger(stream).await;
                None
            }
            Err(elapsed) => {
                self.failed(HandshakeFailure::Timeout, &elapsed, peer);
                None
            }
        }
    }

    fn failed(
        &self,
        failure: HandshakeFailure,
        error: &dyn fmt::Display,
        peer: Option<SocketAddr>,
    ) {
        let shared = &self.shared;
        shared.failures[failure as usize].fetch_add(1, Relaxed);
        let (reason, explanation) = (failure.name(), failure.explanation());
        // Probes of load balancers connect and leave, and so does whoever was interrupted.
        let times = if failure == HandshakeFailure::Disconnected {
            None
        } else {
            let mut limits = shared
                .log_limits
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            limits[failure as usize].count(Instant::now())
        };
        if let Some(times) = times {
            warn!(peer = peer.map(display), reason, %error, times, "TLS handshake failed: {explanation}");
        } else {
            debug!(peer = peer.map(display), reason, %error, "TLS handshake failed: {explanation}");
        }
    }
}

/// Ends a connection after an alert so that the alert arrives.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let read_on = async {
        if stream.shutdown().await.is_ok() {
            let mut rest = stream.take(LINGER_BYTES);
            let mut buffer = [0; 1 << 10];
            while rest.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
    };
    // Whether it read the alert in time is the client's affair.
    timeout(LINGER, read_on).await.ok();
}

/// Equal are clones.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.shared.files)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
