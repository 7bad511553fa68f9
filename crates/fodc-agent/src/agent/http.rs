//! The agent's face in HTTP.

mod exposition;
mod metrics;
mod own;
mod serve;

use std::{collections::BTreeMap, io::Write as _, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use flate2::{Compression, write::GzEncoder};
use steadfast_exposition::Format;
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Duration, timeout},
};

pub(super) use self::serve::Server;
use super::{Config, ReadLimits, board::Board, recording::Window, remote_read, views::Views};
use crate::scrape::FetchLimits;

/// What answers are made of.
#[derive(Debug)]
pub(super) struct Face {
    pub(super) window: Window,
    board: Arc<Board>,
    pub(super) views: Arc<Views>,
    /// Of each endpoint.
    labels: Vec<BTreeMap<String, String>>,
    pub(super) read: ReadLimits,
    pub(super) fetch: FetchLimits,
    pub(super) interval: Duration,
    pub(super) clock: Arc<dyn super::Clock>,
    /// Pages that are built at once.
    pages: Arc<Semaphore>,
    /// Remote reads under way.
    pub(super) reads: Arc<Semaphore>,
}

/// Pages of metrics that are built at once; others wait.
const PAGES: usize = 2;

/// Limit on the wait for a page of metrics.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a remote read's request. It holds matchers.
const REQUEST_BYTES: usize = 1 << 20;

/// Limit on the arrival of a remote read's request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const INDEX: &str = "\
/metrics      what the last reading of each endpoint showed, and the agent's own metrics
/endpoints    how each endpoint is, as JSON
/api/v1/read  Prometheus remote read over everything that is recorded
/livez        200 while the agent records
/readyz       200 while it does so without fault
";

impl Face {
    pub(super) fn new(
        config: &Config,
        views: Arc<Views>,
        window: Window,
        board: Arc<Board>,
    ) -> Self {
        Self {
            window,
            board,
            views,
            labels: config
                .endpoints
                .iter()
                .map(|endpoint| endpoint.labels().clone())
                .collect(),
            read: config.read,
            fetch: config.fetch_limits(),
            interval: config.interval,
            clock: Arc::clone(&config.clock),
            pages: Arc::new(Semaphore::new(PAGES)),
            reads: Arc::new(Semaphore::new(config.read.concurrent)),
        }
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/", get(|| async { INDEX }))
            .route("/metrics", get(page_of_metrics))
            .route("/endpoints", get(endpoints))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/api/v1/read", post(read))
            .with_state(Arc::new(self))
    }
}

async fn page_of_metrics(State(face): State<Arc<Face>>, headers: HeaderMap) -> Response {
    let packed = accepts_gzip(&headers);
    let build = async {
        let turn = Arc::clone(&face.pages).acquire_owned().await;
        let snapshot = face.window.look().await.map_err(std::io::Error::other)?;
        let built = spawn_blocking(move || {
            let page = metrics::page(&face, &snapshot).into_bytes();
            drop(turn);
            if packed { gzip(&page) } else { Ok(page) }
        });
        built.await.map_err(std::io::Error::other)?
    };
    let page = match timeout(PAGE_TIMEOUT, build).await {
        Ok(Ok(page)) => page,
        Ok(Err(error)) => return failure(&error.to_string()),
        Err(_) => return busy(&format!("the page took longer than {PAGE_TIMEOUT:?}")),
    };
    let content_type = (header::CONTENT_TYPE, Format::Prometheus.content_type());
    if packed {
        ([content_type, (header::CONTENT_ENCODING, "gzip")], page).into_response()
    } else {
        ([content_type], page).into_response()
    }
}

async fn endpoints(State(face): State<Arc<Face>>) -> Response {
    Json(face.board.read().endpoints).into_response()
}

async fn livez(State(face): State<Arc<Face>>) -> Response {
    if face.board.read().ended {
        return failure("recording has ended");
    }
    "alive\n".into_response()
}

async fn readyz(State(face): State<Arc<Face>>) -> Response {
    match face.board.read().unready() {
        Some(why) => busy(&why),
        None => "ready\n".into_response(),
    }
}

async fn read(State(face): State<Arc<Face>>, body: Body) -> Response {
    let request = match timeout(REQUEST_TIMEOUT, to_bytes(body, REQUEST_BYTES)).await {
        Ok(Ok(request)) => request,
        Ok(Err(_)) => {
            let text = format!("the request is longer than {REQUEST_BYTES} bytes, or broke off\n");
            return (StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
        }
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    remote_read::answer(face, request).await
}

fn busy(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

fn failure(why: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response()
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    accepted
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value.split(',').any(|item| {
                let (name, weight) = item.split_once(';').unwrap_or((item, ""));
                name.trim().eq_ignore_ascii_case("gzip") && !weight.trim().starts_with("q=0")
                    || name.trim().eq_ignore_ascii_case("gzip") && weight.trim().starts_with("q=0.")
            })
        })
}

fn gzip(page: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    encoder.write_all(page)?;
    encoder.finish()
}
