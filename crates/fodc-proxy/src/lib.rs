//! The proxy: knows the agents, asks them, and shows their metrics as one.
//!
//! ```text
//!   agent ── RegisterAgent ──> rpc ──> registry: who they are, and which live
//!         <─ StreamMetrics ──  rpc <── asking: one question at a time to each
//!         ── answers ────────> reply ──> answer ──┐
//!                                                 v
//!   Prometheus, people <──── http <── text, windows <── gather
//! ```
//!
//! `registry` and `asking` are machines without clock or sockets; `state` holds them under one lock
//! and does what they say. What is promised to peers stands in `docs/protocol-fodc.md`.

mod answer;
mod asking;
mod config;
mod frames;
mod gather;
mod http;
mod labels;
mod listen;
mod moment;
mod registry;
mod reply;
mod rpc;
mod series;
mod state;
mod text;
mod windows;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use ::http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    time::{interval, sleep},
};
use tokio_util::{future::FutureExt as _, sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tracing::{debug, info, warn};

pub use self::config::{Config, ConfigFault, InvalidConfig};
use self::{
    listen::{Port, Socket, accept, bind},
    rpc::{Calls, Service},
    state::State,
};
use steadfast_fodc_model::http1;

/// A running proxy. Dropping it cuts everything; [`Proxy::drain`] ends it in order.
#[derive(Debug)]
pub struct Proxy {
    state: Arc<State>,
    grpc: SocketAddr,
    http: SocketAddr,
    /// No new connection is taken.
    refuse: CancellationToken,
    /// Every connection and task ends.
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings can not work.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// A port is taken, or not ours to take.
    #[error("can not listen on {address} for {purpose}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The reflection service could not be built.
    #[error("can not describe the services")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// HTTP/2 windows (docs/decisions/0004).
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Calls that may be open on one connection: an agent has seven.
const CALLS_PER_CONNECTION: u32 = 64;

/// A connection without calls is closed after one to two times this.
const IDLE: Duration = Duration::from_secs(30);

/// How precisely deadlines are kept that nobody waits for.
const TICK: Duration = Duration::from_millis(250);

/// How long what was cut may take to be gone.
const GRACE: Duration = Duration::from_secs(1);

impl Proxy {
    /// Listens on both ports and serves.
    ///
    /// # Errors
    ///
    /// When the settings can not work, or one of the ports can not be bound; nothing is listening
    /// then.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let (agents, grpc) = listen(config.grpc_listen, "agents").await?;
        let (people, http) = listen(config.http_listen, "HTTP").await?;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(steadfast_wire::DESCRIPTORS)
            .build_v1()?;
        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_service_status(SERVICE, tonic_health::ServingStatus::Serving)
            .await;
        let others = Routes::new(health_service).add_service(reflection);
        let proxy = Self {
            state: Arc::new(State::new(config)),
            grpc,
            http,
            refuse: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        proxy.serve_agents(agents, others);
        proxy.serve_people(people);
        proxy.keep_time();
        info!(%grpc, %http, "proxy is up");
        Ok(proxy)
    }

    /// Where agents connect.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where people and Prometheus connect.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Agents that are online, and all that are remembered.
    #[must_use]
    pub fn census(&self) -> (usize, usize) {
        self.state.census()
    }

    /// Ends the proxy in order: takes no new connection, tells every agent that it stops, finishes
    /// the HTTP responses under way for at most `grace`, and cuts what is left. At most a second
    /// later no task and no socket of it is left.
    pub async fn drain(self, grace: Duration) {
        info!(grace_ms = grace.as_millis() as u64, "draining");
        self.refuse.cancel();
        self.state.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait())
            .await
            .is_err()
        {
            debug!("connections were still open at the drain deadline and are cut");
        }
        self.cut.cancel();
        if tokio::time::timeout(GRACE, self.tasks.wait())
            .await
            .is_err()
        {
            warn!(tasks = self.tasks.len(), "tasks were left after a drain");
        }
    }

    fn port(&self, connections: usize, stall: Duration) -> Port {
        Port {
            connections,
            stall,
            drain: self.refuse.clone(),
            cut: self.cut.clone(),
            tasks: self.tasks.clone(),
        }
    }

    fn serve_agents(&self, listener: TcpListener, others: Routes) {
        let config = &self.state.config;
        let port = self.port(config.max_grpc_connections, config.heartbeat_timeout);
        let tasks = Tasks {
            tracker: self.tasks.clone(),
            cut: self.cut.clone(),
        };
        let service = Service::new(Arc::clone(&self.state), tasks.clone(), others);
        let refuse = self.refuse.clone();
        let serve = move |socket: Socket| {
            serve_agent(socket, tasks.clone(), service.connected(), refuse.clone())
        };
        self.tasks.spawn(accept(listener, port, serve));
    }

    fn serve_people(&self, listener: TcpListener) {
        let config = &self.state.config;
        let port = self.port(config.max_http_connections, config.http_write_timeout);
        let router = http::router(Arc::clone(&self.state));
        let refuse = self.refuse.clone();
        let patience = config.http_read_timeout;
        let serve =
            move |socket: Socket| http1::serve(socket, router.clone(), patience, refuse.clone());
        self.tasks.spawn(accept(listener, port, serve));
    }

    /// Lets deadlines pass that nobody waits for.
    fn keep_time(&self) {
        let (state, stop) = (Arc::clone(&self.state), self.refuse.clone());
        self.tasks.spawn(async move {
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                state.tick(state.now());
                state.store.catalogue.sweep_when_grown();
            }
        });
    }
}

/// One connection of an agent, until it ends, is idle for too long, or the proxy stops.
fn serve_agent(
    socket: Socket,
    tasks: Tasks,
    (service, calls): (Service, Arc<Calls>),
    refuse: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let service = service_fn(move |request: Request<Incoming>| service.clone().serve(request));
    let mut http2 = http2::Builder::new(tasks);
    http2
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_concurrent_streams(CALLS_PER_CONNECTION);
    let mut connection = Box::pin(http2.serve_connection(TokioIo::new(socket), service));
    async move {
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = until_idle(&calls) => Ok(()),
            () = refuse.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended.unwrap_or_else(|error| debug!(%error, "an agent's connection ended"));
    }
}

/// Resolves when no call has been open at the beginning and at the end of a stretch, nor between.
async fn until_idle(calls: &Calls) {
    let mut before = None;
    loop {
        sleep(IDLE).await;
        let now = calls.quiet();
        if now.is_some() && now == before {
            return;
        }
        before = now;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse.cancel();
        self.state.stopping.cancel();
        self.cut.cancel();
    }
}

/// The tasks of all calls: each ends with the proxy.
#[derive(Clone, Debug)]
struct Tasks {
    tracker: TaskTracker,
    cut: CancellationToken,
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output: Send> + Send + 'static) {
        // An async block would hold room for the task twice, and there are five for each agent.
        let task = task.with_cancellation_token_owned(self.cut.clone());
        self.tracker.spawn(task);
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

/// The service's name at the health service.
const SERVICE: &str = "banyandb.fodc.v1.FODCService";

async fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    bind(address).await.map_err(|source| StartError::Bind {
        address,
        purpose,
        source,
    })
}
