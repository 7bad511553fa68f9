//! The listener for operations of a gateway: metrics, liveness and readiness, over HTTP/1.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::service::TowerToHyperService;
use steadfast_net::{OpenConnections, OperationsListener, Refusals, Security};
use tokio::net::TcpListener;

use crate::{server::Gateway, shared::Shared};

/// The listener for operations. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Operations(OperationsListener);

#[derive(Debug)]
struct Sources {
    shared: Arc<Shared>,
    connections: OpenConnections,
    /// What this listener has refused.
    refusals: Refusals,
}

/// Open connections at most.
const MAX_CONNECTIONS: usize = 64;
/// Longest wait for responses when the listener is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

const INDEX: &str = "\
/metrics  figures in the Prometheus text format
/livez    200 while the gateway runs
/readyz   200 while the gateway takes sockets and has a Streamer; otherwise the reason
";

impl Operations {
    /// Starts to listen for a gateway.
    ///
    /// # Errors
    ///
    /// Returns the system's error if the address of the listener cannot be read, or an error if other
    /// machines could connect without TLS and that is not allowed.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn start(tcp: TcpListener, gateway: &Gateway, security: Security) -> io::Result<Self> {
        let refusals = Refusals::default();
        let (shared, connections) = gateway.sources();
        let router = router(Arc::new(Sources {
            shared,
            connections,
            refusals: refusals.clone(),
        }));
        let service = TowerToHyperService::new(router);
        OperationsListener::start(tcp, service, MAX_CONNECTIONS, security, refusals).map(Self)
    }

    /// Returns the address of the listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Accepts no more requests, lets those in progress end for a second, and cuts the rest.
    pub async fn stop(self) {
        self.0.stop(STOP_TIMEOUT).await;
    }
}

fn router(sources: Arc<Sources>) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .with_state(sources)
}

/// Figures are for administrators, if there is a policy.
async fn metrics(State(sources): State<Arc<Sources>>, request: Request) -> Response {
    let Sources {
        shared,
        connections,
        refusals,
    } = &*sources;
    let admin = shared
        .rights
        .require_admin(request.headers(), request.extensions());
    if let Err(denied) = admin {
        let forbidden = "only an administrator may see this page";
        return denied.respond(forbidden).into_response();
    }
    let tls = shared.options.security.tls.as_ref();
    if let Some(tls) = tls {
        tls.refresh().await;
    }
    let connected = shared.upstream.connected();
    let page = shared.metrics.page(connections, connected, tls, refusals);
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], page).into_response()
}

/// A gateway without a Streamer takes sockets, whose subscriptions wait; a balancer should prefer others.
async fn readyz(State(sources): State<Arc<Sources>>, request: Request) -> Response {
    let shared = &sources.shared;
    let (state, reason) = if shared.tasks.is_draining() {
        ("draining", Some("the gateway stops".to_owned()))
    } else {
        match shared.upstream.problem() {
            None => return "ready\n".into_response(),
            Some(problem) => ("not connected to a Streamer", Some(problem)),
        }
    };
    let admin = shared
        .rights
        .require_admin(request.headers(), request.extensions());
    // Probes have no credentials, and learn no more than the state.
    let reason = reason.filter(|_| admin.is_ok());
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let text = format!("{state}{reason}\n");
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
