//! The gateway as a server: its listener, its paths, and its orderly end.

pub(crate) mod realtime;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::future::{Fuse, FutureExt as _};
use hyper_util::service::TowerToHyperService;
use steadfast::session::ConfigFaults;
use steadfast_access::Faults;
use steadfast_net::{
    AtLimit, Listener, ListenerOptions, OpenConnections, Protocol, Tasks, UnfinishedLimits, http1,
};

use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    assets, http, idempotency::Keys, limits::Permits, metrics::Metrics, options::GatewayOptions,
    origin, rights::Rights, shared::Shared, sockets::Sockets, status, upstream::Upstream,
};

/// A running gateway. Dropping it cuts every connection; [`Gateway::drain`] shuts it down in order.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    shared: Arc<Shared>,
    connections: OpenConnections,
    accepting: Fuse<JoinHandle<Option<()>>>,
    stop_policy: CancellationToken,
}

/// The reason why a gateway did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The system did not provide a resource.
    #[error("cannot start the gateway")]
    Io(#[from] io::Error),
    /// The settings of the sessions with the Streamers contradict each other.
    #[error(transparent)]
    Upstream(#[from] ConfigFaults),
    /// The policy file has faults.
    #[error("the policy file cannot be used:\n{0}")]
    Access(#[from] Faults),
}

/// Longest wait for the head of a request after the first one of its connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time in which a client may acknowledge nothing. Streams of events have no other sign of life.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

impl Gateway {
    /// Starts serving on `tcp`. Connects to the Streamers in the background.
    ///
    /// # Errors
    ///
    /// Returns an error if other machines could connect without TLS and that is not allowed, if the policy file
    /// has faults, or if settings contradict each other.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn start(tcp: TcpListener, options: GatewayOptions) -> Result<Self, StartError> {
        let tasks = Tasks::new();
        let listener = Listener::new(tcp, listener_options(&options), &tasks)?;
        let (address, connections) = (listener.address(), listener.connections());
        let (rights, policy) = Rights::load(options.access.as_deref())?;
        let sockets = Arc::<Sockets>::default();
        let stop_policy = CancellationToken::new();
        if let Some(policy) = policy {
            let sockets = Arc::clone(&sockets);
            let stop = stop_policy.clone();
            // Not one of `tasks`: sockets last while the gateway drains, and so do the rules for them.
            tokio::spawn(async move {
                policy.follow(move |_| sockets.signal_rights(), stop).await;
            });
        }
        let shared = Arc::new(Shared {
            server: uuid::Uuid::new_v4().to_string().into(),
            upstream: Upstream::start(options.upstream.clone())?,
            keys: Keys::default(),
            rights,
            permits: Permits::new(&options.limits),
            metrics: Arc::<Metrics>::default(),
            sockets,
            tasks: tasks.clone(),
            unfinished: Arc::default(),
            waiting: Arc::default(),
            is_loopback: address.ip().to_canonical().is_loopback(),
            started: Instant::now(),
            options,
        });
        let router = router(Arc::clone(&shared), connections.clone());
        let scope = tasks.clone();
        let accepting = tasks.spawn(listener.serve(move |socket| {
            let service = TowerToHyperService::new(router.clone());
            http1::serve(socket, service, HEAD_TIMEOUT, &scope)
        }));
        Ok(Self {
            address,
            shared,
            connections,
            accepting: accepting.fuse(),
            stop_policy,
        })
    }

    /// Returns the address that the gateway listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the gateway stops because of a failure, and returns a description of it. Resolves once
    /// only.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn failed(&mut self) -> String {
        match (&mut self.accepting).await {
            Ok(_) => "its listener ended".to_owned(),
            Err(error) => format!("its listener panicked: {error}"),
        }
    }

    /// Shuts the gateway down in order: accepts no more connections, closes every socket with a hint when to
    /// come back, waits for at most `grace`, cuts the rest, and leaves the Streamers.
    pub async fn drain(self, grace: Duration) {
        // Before the sockets learn of it: a client that connects again must not arrive here.
        self.shared.tasks.start_drain();
        self.shared.sockets.signal_drain();
        self.shared.tasks.drain(grace).await;
        self.stop_policy.cancel();
        self.shared.upstream.close().await;
    }

    pub(crate) fn sources(&self) -> (Arc<Shared>, OpenConnections) {
        (Arc::clone(&self.shared), self.connections.clone())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.tasks.cut();
        self.stop_policy.cancel();
    }
}

fn listener_options(options: &GatewayOptions) -> ListenerOptions {
    ListenerOptions {
        max_connections: options.limits.connections,
        max_client_connections: options.limits.client_connections,
        at_limit: AtLimit::Close,
        write_timeout: Some(options.write_timeout),
        peer_timeout: Some(PEER_TIMEOUT),
        security: options.security.clone(),
        protocol: Protocol::Http1,
        request_rate: options.request_rate,
        unfinished: UnfinishedLimits::default(),
        ..ListenerOptions::default()
    }
}

/// Returns all paths of the gateway.
fn router(shared: Arc<Shared>, connections: OpenConnections) -> Router {
    let status = get(status::status).with_state((Arc::clone(&shared), connections));
    Router::new()
        .route("/realtime/ws", get(realtime::websocket))
        .route("/realtime/sse", get(realtime::events))
        .route(
            "/realtime/v1/databases/{database}/sse",
            get(realtime::events_of_database),
        )
        .route("/v1/status", status)
        .merge(http::routes())
        .fallback(asset)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            http::check,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            origin::check,
        ))
        .with_state(shared)
}

/// Serves a file of the console, or says that there is nothing.
async fn asset(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let is_get = matches!(request.method().as_str(), "GET" | "HEAD");
    let asset = (is_get && shared.options.console)
        .then(|| assets::respond(request.uri().path(), request.headers()))
        .flatten();
    asset.unwrap_or_else(|| (StatusCode::NOT_FOUND, "there is nothing here\n").into_response())
}
