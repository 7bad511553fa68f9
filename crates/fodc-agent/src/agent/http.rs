//! The agent's HTTP server.

mod diagnostics;
mod exposition;
mod metrics;
mod negotiation;
mod own;
mod rights;
mod uplink;

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Extension, State},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use flate2::{Compression, write::GzEncoder};
use steadfast_net::{accepts_gzip, access::MayRead};
use tokio::{
    task::spawn_blocking,
    time::{Duration, timeout},
};

use self::negotiation::Names;
use super::{app_state::AppState, remote_read};

/// The time limit for a page of metrics.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The limit in bytes on the request of a remote read, which holds matchers.
const REQUEST_BYTES: usize = 1 << 20;

/// The time limit for the request of a remote read to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const INDEX: &str = "\
/metrics      the last scrape of each endpoint, and the agent's own metrics
/endpoints    the status of each endpoint as JSON
/diagnostics  the crashes that files tell of, as JSON
/api/v1/read  Prometheus remote read over the whole record
/livez        200 while the agent records
/readyz       200 while it records every endpoint without a fault; names what the proxy misses
";

pub(super) fn router(state: AppState) -> Router {
    let state = Arc::new(state);
    let guard = middleware::from_fn_with_state(Arc::clone(&state), rights::require);
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/metrics", get(metrics_page))
        .route("/endpoints", get(endpoints))
        .route("/diagnostics", get(diagnostics::page))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/api/v1/read", post(read))
        .with_state(state)
        .layer(guard)
}

async fn metrics_page(State(state): State<Arc<AppState>>, headers: HeaderMap) -> Response {
    let compress = accepts_gzip(&headers);
    let accept = headers.get_all(header::ACCEPT).into_iter();
    let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
    let names = Names::accepted(&accept.join(","));
    let build = async {
        // The wait for a permit counts towards the time limit.
        let permit = Arc::clone(&state.pages).acquire_owned().await;
        let snapshot = state.record.snapshot().await.map_err(io::Error::other)?;
        if let Some(tls) = &state.tls {
            tls.refresh().await;
        }
        // The thread holds the permit: a page whose client is gone takes memory until it is built.
        let built = spawn_blocking(move || {
            // Building a page of a hundred thousand series takes too long for an async thread.
            let page = metrics::page(&state, &snapshot, names).into_bytes();
            drop(permit);
            // The permit bounds pages in memory; compressing needs little beside the page.
            if compress { gzip(&page) } else { Ok(page) }
        });
        built.await.map_err(io::Error::other)?
    };
    let page = match timeout(PAGE_TIMEOUT, build).await {
        Ok(Ok(page)) => page,
        Ok(Err(error)) => return failure(&error.to_string()),
        Err(_) => return busy(&format!("page took longer than {PAGE_TIMEOUT:?}")),
    };
    let content_type = (header::CONTENT_TYPE, names.content_type());
    if compress {
        let encoding = (header::CONTENT_ENCODING, "gzip".to_owned());
        ([content_type, encoding], page).into_response()
    } else {
        ([content_type], page).into_response()
    }
}

async fn endpoints(State(state): State<Arc<AppState>>) -> Response {
    Json(state.status.snapshot().endpoints).into_response()
}

async fn livez(State(state): State<Arc<AppState>>) -> Response {
    if state.status.snapshot().ended {
        return failure("recording has ended");
    }
    "alive\n".into_response()
}

async fn readyz(
    State(state): State<Arc<AppState>>,
    Extension(MayRead(shows)): Extension<MayRead>,
) -> Response {
    if let Some(reason) = state.status.snapshot().unready() {
        return busy(if shows { &reason } else { "not ready" });
    }
    let uplink = state.uplink.as_ref().filter(|_| shows);
    let problem = uplink.map(uplink::problem);
    format!("ready\n{}", problem.unwrap_or_default()).into_response()
}

async fn read(State(state): State<Arc<AppState>>, body: Body) -> Response {
    // Read before a permit is taken, so that a client that sends slowly holds none.
    let request = match timeout(REQUEST_TIMEOUT, to_bytes(body, REQUEST_BYTES)).await {
        Ok(Ok(request)) => request,
        Ok(Err(_)) => {
            let text = format!("request is incomplete or longer than {REQUEST_BYTES} bytes\n");
            return (StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
        }
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    remote_read::respond(state, request).await
}

fn busy(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

fn failure(reason: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n")).into_response()
}

fn gzip(page: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    encoder.write_all(page)?;
    encoder.finish()
}
