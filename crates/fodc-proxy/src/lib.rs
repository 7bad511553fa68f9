#![doc = include_str!("../README.md")]

mod access;
mod agent_entry;
mod agents;
mod catalog;
mod config;
mod counters;
mod crash_store;
mod crashes;
mod credentials;
mod decode;
mod filter;
mod frames;
mod gather;
mod go_json;
mod http;
mod labels;
mod lanes;
mod lifecycle;
mod profile_catalog;
mod profiles;
mod proto_json;
mod query;
mod query_queue;
mod registry;
mod rpc;
mod samples;
mod schema_consistency;
mod schema_registry;
mod state;
mod stream_queries;
mod text;
mod time;
mod topology;
mod windows;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ::http::Request;
use hyper::service::service_fn;
use hyper_util::service::TowerToHyperService;
use steadfast_access::{Faults, Source};
use steadfast_net::{
    AtLimit, CallSpawner, HostCheck, Listener, ListenerOptions, Protocol, RequestBody, Socket,
    Tasks, UnfinishedLimits, access::AccessControl, http1, http2,
};
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tracing::info;

pub use self::config::{Config, ConfigFault, ConfigProblem, InvalidConfig};
use self::{rpc::Service, state::State};

/// A running proxy. Dropping it cuts every connection; [`Proxy::drain`] ends it in order.
#[derive(Debug)]
pub struct Proxy {
    state: Arc<State>,
    grpc: SocketAddr,
    http: SocketAddr,
    /// Ends the following of the policy file with the proxy.
    _policy: Option<DropGuard>,
}

/// The error returned when a proxy cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings contradict each other or are out of range.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// An address is in use, or the process may not listen on it.
    #[error("cannot listen on {address} for {purpose}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The peers that would connect to it.
        purpose: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The policy file has faults.
    #[error("the policy file cannot be used:\n{0}")]
    Access(#[from] Faults),
    /// The reflection service could not be built.
    #[error("cannot describe the services")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Flow control of agents' connections: small stream windows bound what one agent can make the proxy
/// hold, the connection window never limits (docs/decisions/0004). An agent has seven calls open.
const HTTP2: http2::Options = http2::Options {
    stream_window: 64 << 10,
    short_frames: true,
    connection_window: 8 << 20,
    max_calls: 64,
    idle_timeout: IDLE_TIMEOUT,
    ping: None,
};

/// The service's name at the health service.
const SERVICE: &str = "banyandb.fodc.v1.FODCService";

/// A connection without calls is ended after one to two times this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The time between two checks of deadlines that no task waits for.
const TICK: Duration = Duration::from_millis(250);

/// Time after which the system gives up an agent's host that acknowledges nothing. The proxy sends no
/// HTTP/2 pings.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

impl Proxy {
    /// Listens on both addresses and serves.
    ///
    /// # Errors
    ///
    /// Returns an error if the settings are invalid or an address cannot be bound. The proxy then
    /// listens on neither.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        // Filters are of the Streamer, which may have the same file; no grant of the proxy has one.
        let source = config.access.as_deref();
        let source = source.map(|path| Source::new(path, |_| Ok(())));
        let (access, policy) = AccessControl::load(source)?;
        let state = Arc::new(State::new(config).restricted_by(access));
        let config = &state.config;
        let agents = ListenerOptions {
            // Closed beyond the limit: an agent in the backlog would wait for headers without a
            // reason to give up.
            max_connections: config.max_grpc_connections,
            at_limit: AtLimit::Close,
            // An agent that shows no life for this long counts as offline, too.
            write_timeout: Some(config.heartbeat_timeout),
            peer_timeout: Some(PEER_TIMEOUT),
            security: config.security.clone(),
            protocol: Protocol::Http2,
            max_client_connections: config.max_client_connections,
            unfinished: UnfinishedLimits {
                // The longest response, and shorter ones on the other streams of the agent.
                connection_bytes: config.max_message_bytes.saturating_mul(2),
                all_bytes: config.response_bytes.saturating_add(config.stream_bytes),
                timeout: config.abandon_after,
            },
            refusals: state.agents_refused.clone(),
            ..ListenerOptions::default()
        };
        let clients = ListenerOptions {
            max_connections: config.max_http_connections,
            // Half, so that one client does not keep all others out.
            max_client_connections: config.max_http_connections.div_ceil(2),
            for_operations: true,
            unfinished: UnfinishedLimits::default(),
            refusals: state.http_refused.clone(),
            write_timeout: Some(config.http_write_timeout),
            protocol: Protocol::Http1,
            ..agents.clone()
        };
        // Both are bound before anything is served, so that a failed start leaves nothing behind.
        let agents = listen(config.grpc_listen, "agents", agents, &state.tasks).await?;
        let clients = listen(config.http_listen, "HTTP", clients, &state.tasks).await?;
        let (grpc, http) = (agents.address(), clients.address());
        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_service_status(SERVICE, tonic_health::ServingStatus::Serving)
            .await;
        let mut others = Routes::new(health_service);
        if config.reflection {
            let reflection = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(steadfast_wire::DESCRIPTORS)
                .build_v1()?;
            others = others.add_service(reflection);
        }
        serve_agents(&state, agents, others);
        serve_http(&state, clients);
        state.tasks.spawn(tick(Arc::clone(&state)));
        // Not one of the proxy's tasks: a drain waits for those, and during a drain rights can still be
        // withdrawn from responses under way.
        let following = policy.map(|policy| {
            let stop = CancellationToken::new();
            tokio::spawn(policy.follow(|_| {}, stop.clone()));
            stop.drop_guard()
        });
        info!(%grpc, %http, "proxy is up");
        Ok(Self {
            state,
            grpc,
            http,
            _policy: following,
        })
    }

    /// Returns the address that agents connect to.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Returns the address of the HTTP interface.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Returns the number of online agents, and the number of all agents that are remembered.
    #[must_use]
    pub fn census(&self) -> (usize, usize) {
        self.state.census()
    }

    /// Ends the proxy in order: it accepts no new connection, ends every agent's streams, finishes the
    /// HTTP responses under way for at most `grace`, and cuts what is left. It returns at most a
    /// second later.
    pub async fn drain(self, grace: Duration) {
        info!(grace_ms = grace.as_millis() as u64, "draining");
        self.state.tasks.drain(grace).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.tasks.cut();
    }
}

async fn listen(
    address: SocketAddr,
    purpose: &'static str,
    options: ListenerOptions,
    tasks: &Tasks,
) -> Result<Listener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound
        .and_then(|tcp| Listener::new(tcp, options, tasks))
        .map_err(|source| StartError::Bind {
            address,
            purpose,
            source,
        })
}

fn serve_agents(state: &Arc<State>, listener: Listener, others: Routes) {
    let service = Service::new(Arc::clone(state), others);
    let tasks = state.tasks.clone();
    state.tasks.spawn(listener.serve(move |socket: Socket| {
        let calls = CallSpawner::default();
        let service = service.spawning(calls.clone());
        let service = service_fn(move |request: Request<RequestBody>| service.serve(request));
        http2::serve_spawning(socket, service, calls, &HTTP2, &tasks)
    }));
}

fn serve_http(state: &Arc<State>, listener: Listener) {
    let service = TowerToHyperService::new(http::router(Arc::clone(state)));
    let (security, refusals) = (&state.config.security, state.http_refused.clone());
    let service = HostCheck::new(service, listener.address(), security, refusals);
    let (tasks, head_timeout) = (state.tasks.clone(), state.config.http_read_timeout);
    state.tasks.spawn(
        listener.serve(move |socket: Socket| {
            http1::serve(socket, service.clone(), head_timeout, &tasks)
        }),
    );
}

/// Lets deadlines pass that no task waits for.
async fn tick(state: Arc<State>) {
    let mut ticks = interval(TICK);
    // One late tick makes up for all: deadlines are compared with the clock, not counted in ticks.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = state.tasks.draining() => return,
            _ = ticks.tick() => {}
        }
        state.on_tick(state.now());
        state.store.catalog.sweep_when_grown();
    }
}

#[cfg(test)]
mod tests;
