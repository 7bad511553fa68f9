//! The HTTP interface: paths, parameters and shapes of the releases, and `/agents`.

mod agents;
mod parameters;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State as Shared},
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::Semaphore;

use self::parameters::{Parameters, Refused};
use super::{
    asking::Question,
    gather::{Filter, Gathered, Missing, gather},
    state::State,
    text::Text,
    windows::Windows,
};

/// What the handlers share.
#[derive(Clone, Debug)]
pub(super) struct Api {
    state: Arc<State>,
    /// One permit for each question that is answered at this time.
    room: Arc<Semaphore>,
}

/// Names that the header for missing agents holds at most.
const NAMED: usize = 50;

const MISSING: &str = "x-steadfast-missing";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

pub(super) fn router(state: Arc<State>) -> Router {
    let room = Arc::new(Semaphore::new(state.config.max_http_requests));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/metrics-windows", get(windows))
        .route("/health", get(health))
        .route("/livez", get(async || "ok\n"))
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/agents", get(agents::list))
        .route("/self-metrics", get(agents::own_metrics))
        .route("/cluster/topology", get(topology))
        .route("/cluster/lifecycle", get(lifecycle))
        .route("/diagnostics", get(async || json("[]\n")))
        .route("/pressure-profiles", get(async || json("[]\n")))
        .route("/pressure-profiles/{pod}/{id}/{kind}", get(profile))
        .with_state(Api { state, room })
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        })
        .fallback(async || (StatusCode::NOT_FOUND, "404 page not found\n"))
}

async fn metrics(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, Refused> {
    let parameters = Parameters::read(query.as_deref())?;
    let gathered = api.gather(&parameters).await?;
    let missing = missing_header(&gathered);
    let filter = parameters.filter;
    let text = prepare(move || {
        let text = Text::new(gathered.told, &filter);
        if filter == Filter::default() {
            api.state.store.catalogue.rank(text.ranks());
        }
        text
    });
    let text = text.await?;
    Ok(streamed(TEXT, missing, text))
}

async fn windows(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, Refused> {
    let mut parameters = Parameters::read(query.as_deref())?;
    parameters.take_window()?;
    let gathered = api.gather(&parameters).await?;
    let missing = missing_header(&gathered);
    let windows = Windows::new(gathered.told, parameters.filter);
    Ok(streamed(JSON, missing, windows))
}

/// What it says is meant: unhealthy is a proxy that is stopping.
async fn health(Shared(api): Shared<Api>) -> Response<Body> {
    let (online, total) = api.state.census();
    let uptime = api.state.now().as_micros() / 1_000_000;
    let stopping = api.state.tasks.is_draining();
    let status = if stopping { "stopping" } else { "healthy" };
    let body = format!(
        "{{\"agents_online\":{online},\"agents_total\":{total},\"status\":\"{status}\",\
         \"uptime_seconds\":{uptime}}}\n"
    );
    let mut response = json(body);
    if stopping {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// Whether requests shall come here: not when the proxy is stopping, nor while as many questions are
/// being answered as may be.
async fn ready(Shared(api): Shared<Api>) -> (StatusCode, &'static str) {
    if api.state.tasks.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else if api.room.available_permits() == 0 {
        (StatusCode::SERVICE_UNAVAILABLE, "busy\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// Not collected yet: the shape of a cluster without agents.
async fn topology() -> Response<Body> {
    json("{\"nodes\":[],\"calls\":[]}\n")
}

/// Not collected yet, which the answer says: nobody was asked.
async fn lifecycle(Shared(api): Shared<Api>) -> Response<Body> {
    let (_, total) = api.state.census();
    json(format!(
        "{{\"agent_summary\":{{\"total\":{total},\"requested\":0,\"responded\":0,\
         \"not_responded\":0}},\"error\":\"no agent was asked: this proxy does not collect \
         lifecycle data yet\",\"groups\":[],\"lifecycle_statuses\":[]}}\n"
    ))
}

async fn profile() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "no such profile\n")
}

impl Api {
    async fn gather(&self, parameters: &Parameters) -> Result<Gathered, Refused> {
        let _permit = self.room.try_acquire().map_err(|_| Refused::Busy)?;
        let config = &self.state.config;
        let (question, patience): (Question, Duration) = match parameters.window {
            None => (Question::Latest, config.agent_deadline),
            Some(window) => (Question::Window(window), config.window_deadline),
        };
        Ok(gather(&self.state, question, &parameters.filter, patience).await)
    }
}

/// Sorting the answers of a thousand agents takes a while; nobody else shall wait for it.
async fn prepare<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Refused::Failed)
}

fn streamed(
    kind: &'static str,
    missing: Option<HeaderValue>,
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    let pieces = stream::iter(pieces.map(Ok::<_, Infallible>));
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(missing) = missing {
        headers.insert(MISSING, missing);
    }
    response
}

fn json(body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// `2; db-0=late, db-1=truncated(partly)`.
fn missing_header(gathered: &Gathered) -> Option<HeaderValue> {
    let missing = &gathered.missing;
    if missing.is_empty() {
        return None;
    }
    let names: Vec<String> = missing.iter().take(NAMED).map(named).collect();
    let text = format!("{}; {}", missing.len(), names.join(", "));
    HeaderValue::try_from(text).ok()
}

fn named(missing: &Missing) -> String {
    let name: String = missing
        .name
        .chars()
        .take(128)
        .map(|c| {
            if c.is_ascii_graphic() && c != ',' {
                c
            } else {
                '_'
            }
        })
        .collect();
    let partly = if missing.partly { "(partly)" } else { "" };
    format!("{name}={}{partly}", missing.why.as_str())
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        let status = match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{self}\n")).into_response()
    }
}
