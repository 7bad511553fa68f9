//! The listener for operations: metrics, status, liveness and readiness, over HTTP/1.
//!
//! ```text
//! /metrics   figures in the Prometheus text format
//! /status    the same as JSON, with the slowest streams and the most expensive filters: Report
//! /livez     200 until the hub or the log has failed
//! /readyz    200 while the server takes subscriptions and entries; otherwise the reason
//! ```
//!
//! With a policy, figures are for administrators, and so are the reasons: others learn the state alone.

mod figures;
mod metrics;
mod report;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    extract::{Extension, RawQuery, Request, State as Shared},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::service::TowerToHyperService;
use steadfast::session::State as LinkState;
use steadfast_access::Action;
use steadfast_net::{
    OpenConnections, OperationsListener, Refusals, Security, Tls, access::AccessControl,
};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::report::{
    DurationReport, ExpensiveFilter, LagBucket, LogReport, OtherStreams, PullerReport, Report,
    SlowStream, SlowSubscription,
};
use super::{
    PullerStatus, Server, hub_handle::HubHandle, publish_service::PublishCounters,
    puller_intake::IntakeHandle,
};
use crate::{
    Bounds, Epoch,
    hub::{StreamId, Survey},
    log::{LogReader, LogStats, LogWriter, WriterStats},
};

/// The listener for operations. Dropping it cuts every connection.
///
/// It starts before its server, so that `/livez` and `/readyz` answer while a large log is opened.
///
/// ```no_run
/// use steadfast_streamer::{Epoch, SegmentLog, Server, ServerOptions, StoreOptions};
/// use steadfast_streamer::server::{Security, operations::Operations};
/// use tokio::net::TcpListener;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = TcpListener::bind("127.0.0.1:9080").await?;
/// let operations = Operations::start(listener, Security::default())?;
/// let log = SegmentLog::open("data", &StoreOptions::new(Epoch(1)))?;
/// let listener = TcpListener::bind("127.0.0.1:9000").await?;
/// let server = Server::start(listener, Box::new(log), ServerOptions::default())?;
/// operations.show(&server);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Operations {
    state: Arc<State>,
    listener: OperationsListener,
}

/// Reads the status of a server without its listener. It has none after [`Operations::stop`].
#[derive(Clone, Debug)]
pub struct StatusReader(Arc<State>);

/// The response in place of figures.
type NoFigures = (StatusCode, String);

/// The parts of a server that have figures.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) server_id: String,
    pub(super) address: SocketAddr,
    pub(super) started: Instant,
    pub(super) hub: HubHandle,
    pub(super) writer: LogWriter,
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) publishing: Arc<PublishCounters>,
    pub(super) connections: OpenConnections,
    pub(super) tls: Option<Tls>,
    pub(super) puller: Option<Arc<IntakeHandle>>,
    pub(super) access: AccessControl,
    /// Cancelled when the server drains.
    pub(super) drain: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    sources: Mutex<Option<Sources>>,
    /// What this listener has refused.
    refusals: Refusals,
    /// The last figures. The lock is held while they are gathered, so that several readers cause one
    /// survey.
    gathered: tokio::sync::Mutex<Option<Arc<Gathered>>>,
}

/// All figures of a server at about one time.
#[derive(Debug)]
struct Gathered {
    at: Instant,
    server_id: String,
    address: SocketAddr,
    uptime: Duration,
    problems: Vec<String>,
    survey: Survey,
    peers: BTreeMap<StreamId, SocketAddr>,
    epoch: Epoch,
    bounds: Bounds,
    log: LogStats,
    writer: WriterStats,
    publishing: PublishFigures,
    connections: OpenConnections,
    tls: Option<Tls>,
    puller: Option<PullerStatus>,
}

/// The counters of publishers at one time.
#[derive(Clone, Copy, Debug)]
struct PublishFigures {
    streams: u64,
    received: u64,
    appended: u64,
    duplicates: u64,
    refused: u64,
}

/// The reason why a server takes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unready {
    /// The log is being opened.
    Starting,
    /// The server stops.
    Draining,
    /// The hub or the log has stopped: only a restart helps.
    Failed(String),
}

/// Open connections at most.
const MAX_CONNECTIONS: usize = 64;
/// Longest wait for the figures, for the case of a hub that hangs.
const GATHER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for which figures are given out again. Readers at any rate cause ten surveys a second.
const FRESH: Duration = Duration::from_millis(100);
/// The streams and filters that are shown one by one. It bounds the series of the metrics page.
const ENTRIES: usize = 10;
/// Longest wait for responses when the listener is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

const INDEX: &str = "\
/metrics  figures in the Prometheus text format
/status   figures as JSON, with the slowest streams and the most expensive filters
/livez    200 until the hub or the log has failed
/readyz   200 while the server takes subscriptions and entries; otherwise the reason
";

impl Operations {
    /// Starts to listen. `/readyz` says that the server starts until [`Operations::show`].
    ///
    /// # Errors
    ///
    /// Returns the system's error if the address of the listener cannot be read, or an error if other
    /// machines could connect without TLS and that is not allowed.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn start(tcp: TcpListener, security: Security) -> io::Result<Self> {
        let state = Arc::<State>::default();
        let service = TowerToHyperService::new(router(Arc::clone(&state)));
        let refusals = state.refusals.clone();
        let listener =
            OperationsListener::start(tcp, service, MAX_CONNECTIONS, security, refusals)?;
        Ok(Self { state, listener })
    }

    /// Shows this server from now on.
    pub fn show(&self, server: &Server) {
        *self.state.sources() = Some(server.sources.clone());
    }

    /// Returns the address of the listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Returns a reader of the status for other parts of this process. It needs no credentials.
    #[must_use]
    pub fn status_reader(&self) -> StatusReader {
        StatusReader(Arc::clone(&self.state))
    }

    /// Accepts no more requests, lets those in progress end for a second, and cuts the rest.
    pub async fn stop(self) {
        // The sources keep the log open.
        *self.state.sources() = None;
        self.listener.stop(STOP_TIMEOUT).await;
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl State {
    fn sources(&self) -> std::sync::MutexGuard<'_, Option<Sources>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is served, or the reason why nothing is.
    fn ready(&self) -> Result<Sources, Unready> {
        let sources = self.sources().clone().ok_or(Unready::Starting)?;
        sources.check().map(|()| sources)
    }

    async fn gather(&self) -> Result<Arc<Gathered>, NoFigures> {
        let sources = self.sources().clone();
        let sources = sources.ok_or_else(|| Unready::Starting.respond(true))?;
        let gathering = async {
            let mut last = self.gathered.lock().await;
            if let Some(last) = &*last
                && last.at.elapsed() < FRESH
            {
                return Some(Arc::clone(last));
            }
            let gathered = Arc::new(sources.gather().await?);
            *last = Some(Arc::clone(&gathered));
            Some(gathered)
        };
        match timeout(GATHER_TIMEOUT, gathering).await {
            Ok(Some(gathered)) => Ok(gathered),
            Ok(None) => {
                Err(Unready::Failed("the hub of the server has stopped".to_owned()).respond(true))
            }
            Err(_) => {
                let text = format!("the hub did not answer within {GATHER_TIMEOUT:?}\n");
                Err((StatusCode::SERVICE_UNAVAILABLE, text))
            }
        }
    }

    async fn report(&self) -> Result<Report, NoFigures> {
        let gathered = self.gather().await?;
        Ok(Report::new(&gathered, self.ready().err().as_ref()))
    }
}

impl StatusReader {
    /// Returns what `/status` shows.
    ///
    /// # Errors
    ///
    /// The reason why there are no figures.
    pub async fn read(&self) -> Result<Report, String> {
        let report = self.0.report().await;
        report.map_err(|(_, reason)| reason.trim_end().to_owned())
    }
}

impl Sources {
    fn check(&self) -> Result<(), Unready> {
        // First, because a server whose log has failed also drains.
        if let Some(failure) = self.writer.stats().failure {
            return Err(Unready::Failed(failure));
        }
        if self.drain.is_cancelled() {
            return Err(Unready::Draining);
        }
        if self.hub.is_stopped() {
            let what = "the hub of the server has stopped";
            return Err(Unready::Failed(what.to_owned()));
        }
        Ok(())
    }

    /// Returns what an operator should know although the server is ready.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.writer.stats().is_full {
            let what = "the disk accepts no data: entries are refused, changes are delivered";
            problems.push(what.to_owned());
        }
        problems.extend(report::doubt(self.reader.stats().lost_changes));
        if let Some(puller) = &self.puller {
            let status = puller.status();
            if status.link.state != LinkState::Connected {
                let cause = &status.link.cause;
                problems.push(format!("not connected to the Puller: {cause}"));
            }
            if status.counters.waits_for_space {
                problems.push("the intake from the Puller waits for space on the disk".to_owned());
            }
        }
        problems
    }

    async fn gather(&self) -> Option<Gathered> {
        let (survey, peers) = self.hub.survey(ENTRIES).await?;
        if let Some(tls) = &self.tls {
            tls.refresh().await;
        }
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Some(Gathered {
            at: Instant::now(),
            server_id: self.server_id.clone(),
            address: self.address,
            uptime: self.started.elapsed(),
            problems: self.problems(),
            survey,
            peers,
            epoch: self.reader.epoch(),
            bounds: self.reader.bounds(),
            log: self.reader.stats(),
            writer: self.writer.stats(),
            publishing: PublishFigures {
                streams: count(&self.publishing.streams),
                received: count(&self.publishing.received),
                appended: count(&self.publishing.appended),
                duplicates: count(&self.publishing.duplicates),
                refused: count(&self.publishing.refused),
            },
            connections: self.connections.clone(),
            tls: self.tls.clone(),
            puller: self.puller.as_ref().map(|puller| puller.status()),
        })
    }
}

impl Unready {
    /// Returns the response, without the reason for those who may not see it.
    fn respond(&self, tells: bool) -> NoFigures {
        let (state, reason) = match self {
            Self::Starting => ("starting", "the log is being opened"),
            Self::Draining => ("draining", "the server stops"),
            Self::Failed(why) => ("failed", &*format!("{why}; restart the server")),
        };
        let reason = if tells {
            format!(": {reason}")
        } else {
            String::new()
        };
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{state}{reason}\n"),
        )
    }
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/metrics", get(metrics_page))
        .route("/status", get(status))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            require_admin,
        ))
        .with_state(state)
        .layer(middleware::from_fn(refuse_parameters))
}

/// Refuses parameters, which would be ignored silently: no page has any.
async fn refuse_parameters(RawQuery(query): RawQuery, request: Request, next: Next) -> Response {
    match query.filter(|query| !query.is_empty()) {
        None => next.run(request).await,
        Some(_) => (StatusCode::BAD_REQUEST, "the page has no parameters\n").into_response(),
    }
}

/// Whether the reasons of a state may be told, as an extension of requests that need no credentials.
#[derive(Clone, Copy, Debug)]
struct MaySeeReasons(bool);

/// Refuses the figures to everybody who is no administrator. Probes of an orchestrator have no
/// credentials, and learn no more than whether the server works.
async fn require_admin(
    Shared(state): Shared<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_open = matches!(request.uri().path(), "/" | "/livez" | "/readyz");
    let access = state.sources().as_ref().map(|it| it.access.clone());
    let admin = access.map_or(Ok(None), |access| {
        access.require(request.headers(), request.extensions(), Action::Admin)
    });
    match admin {
        Err(denied) if !is_open => {
            let forbidden = "only an administrator may see this page";
            denied.respond(forbidden).into_response()
        }
        admin => {
            let may_see = MaySeeReasons(admin.is_ok());
            request.extensions_mut().insert(may_see);
            next.run(request).await
        }
    }
}

async fn metrics_page(Shared(state): Shared<Arc<State>>) -> Result<Response, NoFigures> {
    let gathered = state.gather().await?;
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    let page = metrics::page(&gathered, &state.refusals);
    Ok(([(header::CONTENT_TYPE, content_type)], page).into_response())
}

async fn status(Shared(state): Shared<Arc<State>>) -> Result<Response, NoFigures> {
    let json = serde_json::to_vec(&state.report().await?)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

async fn livez(
    Shared(state): Shared<Arc<State>>,
    Extension(MaySeeReasons(tells)): Extension<MaySeeReasons>,
) -> Response {
    match state.ready() {
        // A restart during a start or a drain would only take longer.
        Ok(_) | Err(Unready::Starting | Unready::Draining) => "alive\n".into_response(),
        Err(failed @ Unready::Failed(_)) => failed.respond(tells).into_response(),
    }
}

async fn readyz(
    Shared(state): Shared<Arc<State>>,
    Extension(MaySeeReasons(tells)): Extension<MaySeeReasons>,
) -> Response {
    match state.ready() {
        Ok(sources) => {
            let problems = if tells {
                sources.problems()
            } else {
                Vec::new()
            };
            let lines = problems.into_iter().map(|it| it + "\n");
            format!("ready\n{}", lines.collect::<String>()).into_response()
        }
        Err(unready) => unready.respond(tells).into_response(),
    }
}
