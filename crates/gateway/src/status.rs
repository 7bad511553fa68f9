//! `GET /v1/status`: the figures of the gateway and its Streamer as JSON, for the console.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::value::RawValue;
use steadfast_net::OpenConnections;
use steadfast_streamer::server::operations::StatusReader;

use crate::shared::Shared;

/// Reads the status of the Streamer: JSON, or the reason why there is none.
#[derive(Clone)]
pub struct StreamerStatus(Arc<ReadStatus>);

type ReadStatus =
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<Box<RawValue>, String>> + Send>> + Send + Sync;

impl StreamerStatus {
    /// Reads it with a function of the program. It must have a deadline of its own.
    pub fn new<F>(read: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Box<RawValue>, String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(read())))
    }
}

impl From<StatusReader> for StreamerStatus {
    /// Reads that of a Streamer in the same process.
    fn from(reader: StatusReader) -> Self {
        Self::new(move || {
            let reader = reader.clone();
            async move {
                let report = reader.read().await?;
                serde_json::value::to_raw_value(&report).map_err(|error| error.to_string())
            }
        })
    }
}

impl fmt::Debug for StreamerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamerStatus").finish_non_exhaustive()
    }
}

/// The response.
#[derive(Serialize)]
struct Status {
    gateway: GatewayStatus,
    /// The status of the Streamer (docs/operations.md).
    streamer: Option<Box<RawValue>>,
    /// The reason why there is no status of the Streamer.
    problem: Option<String>,
}

/// The gateway itself.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayStatus {
    version: &'static str,
    server: String,
    /// `ready`, `draining` or `disconnected`.
    state: &'static str,
    uptime_seconds: f64,
    /// All single numbers, by the name of their metric without prefix and `_total`.
    figures: BTreeMap<&'static str, u64>,
    /// The sockets that were opened last, the newest first.
    sockets: Vec<SocketStatus>,
    /// The number of all others.
    other_sockets: usize,
}

/// A socket.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SocketStatus {
    socket: u64,
    protocol: &'static str,
    peer: Option<IpAddr>,
    principal: Option<String>,
    subscriptions: u32,
    items: u64,
    open_seconds: f64,
}

/// The sockets that are shown one by one.
const SOCKETS: usize = 100;

const NO_SOURCE: &str = "the gateway does not know the Streamer's listener for operations; start it \
                         with --streamer-operations HOST:PORT";

/// Responds with the figures. They are for administrators, if there is a policy.
pub(crate) async fn status(
    State((shared, connections)): State<(Arc<Shared>, OpenConnections)>,
    request: Request,
) -> Response {
    let peer = shared
        .rights
        .identify(request.headers(), request.extensions());
    match peer {
        Ok(peer) if peer.is_admin() => {}
        Ok(_) => {
            let text = "the figures are for administrators";
            return refusal(StatusCode::FORBIDDEN, "denied", text);
        }
        Err(cause) => {
            let mut response = refusal(StatusCode::UNAUTHORIZED, "unauthenticated", cause.public());
            let challenge = header::HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
            return response;
        }
    }
    let read = match &shared.options.streamer_status {
        Some(StreamerStatus(read)) => read().await,
        None => Err(NO_SOURCE.to_owned()),
    };
    let (streamer, problem) = match read {
        Ok(streamer) => (Some(streamer), None),
        Err(problem) => (None, Some(problem)),
    };
    json(
        StatusCode::OK,
        &Status {
            gateway: GatewayStatus::new(&shared, &connections),
            streamer,
            problem,
        },
    )
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    let error = serde_json::json!({"error": {"code": code, "message": message}});
    json(status, &error)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("texts and numbers are JSON");
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}

impl GatewayStatus {
    fn new(shared: &Shared, connections: &OpenConnections) -> Self {
        let connected = shared.upstream.connected();
        let state = if shared.tasks.is_draining() {
            "draining"
        } else if shared.upstream.problem().is_some() {
            "disconnected"
        } else {
            "ready"
        };
        let (newest, other_sockets) = shared.sockets.newest(SOCKETS);
        let sockets = newest.into_iter().map(|(socket, signals)| {
            let figures = &signals.figures;
            SocketStatus {
                socket,
                protocol: figures.kind.name(),
                peer: figures.address,
                principal: figures.principal().map(|name| name.to_string()),
                subscriptions: figures.subscriptions.load(Relaxed),
                items: figures.items.load(Relaxed),
                open_seconds: figures.opened.elapsed().as_secs_f64(),
            }
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            server: shared.server.to_string(),
            state,
            uptime_seconds: shared.started.elapsed().as_secs_f64(),
            figures: shared.metrics.all(connections, connected),
            sockets: sockets.collect(),
            other_sockets,
        }
    }
}
