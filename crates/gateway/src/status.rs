//! `GET /v1/status`: the figures of the gateway and its Streamer as JSON, for the console.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use steadfast_net::{OpenConnections, access::Denied};

use crate::{http::ApiError, shared::Shared};

/// The response to `GET /v1/status` (docs/protocol-gateway.md).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The gateway itself.
    pub gateway: GatewayStatus,
    /// The status of the Streamer: `steadfast_streamer::server::operations::Report`.
    pub streamer: Option<Box<RawValue>>,
    /// The reason why there is no status of the Streamer.
    pub problem: Option<String>,
}

/// The figures of a gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct GatewayStatus {
    /// The version of the gateway.
    pub version: String,
    /// The name of the gateway process.
    pub server: String,
    /// `ready`, `draining` or `disconnected`.
    pub state: String,
    /// The time since the start, in seconds.
    pub uptime_seconds: f64,
    /// All single numbers, by the name of their metric without prefix and `_total`.
    pub figures: BTreeMap<String, u64>,
    /// The sockets that were opened last, the newest first.
    pub sockets: Vec<SocketStatus>,
    /// The number of all others.
    pub other_sockets: usize,
}

/// A socket of a gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SocketStatus {
    /// The number of the socket since the start of the gateway.
    pub socket: u64,
    /// `classic`, `v1` or `sse`.
    pub protocol: String,
    /// The address of the peer.
    pub peer: Option<IpAddr>,
    /// The principal, while the client has valid credentials.
    pub principal: Option<String>,
    /// The number of subscriptions.
    pub subscriptions: u32,
    /// The items that were passed on since the socket was opened.
    pub items: u64,
    /// The time since then, in seconds.
    pub open_seconds: f64,
}

/// The sockets that are shown one by one.
const SOCKETS: usize = 100;

const NO_SOURCE: &str = "the gateway does not know the Streamer's listener for operations; start it \
                         with --streamer-operations HOST:PORT";

/// Responds with the figures. They are for administrators, if there is a policy.
pub(crate) async fn status(
    State((shared, connections)): State<(Arc<Shared>, OpenConnections)>,
    request: Request,
) -> Result<Response, ApiError> {
    shared
        .rights
        .require_admin(request.headers(), request.extensions())
        .map_err(|denied| match denied {
            Denied::Credentials(cause) => cause.into(),
            Denied::Forbidden => ApiError::denied("the figures are for administrators"),
        })?;
    let read = match &shared.options.streamer_status {
        Some(source) => source.read().await,
        None => Err(NO_SOURCE.to_owned()),
    };
    let (streamer, problem) = match read {
        Ok(streamer) => (Some(streamer), None),
        Err(problem) => (None, Some(problem)),
    };
    let status = Status {
        gateway: GatewayStatus::new(&shared, &connections),
        streamer,
        problem,
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(status)).into_response())
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
                protocol: figures.kind.name().to_owned(),
                peer: figures.address,
                principal: figures.principal().map(|name| name.to_string()),
                subscriptions: figures.subscriptions.load(Relaxed),
                items: figures.items.load(Relaxed),
                open_seconds: figures.opened.elapsed().as_secs_f64(),
            }
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            server: shared.server.to_string(),
            state: state.to_owned(),
            uptime_seconds: shared.started.elapsed().as_secs_f64(),
            figures: shared.metrics.all(connections, connected),
            sockets: sockets.collect(),
            other_sockets,
        }
    }
}
