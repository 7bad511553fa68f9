//! The HTTP interface: the paths, parameters and shapes of the releases, and `/agents`.

mod agents;
mod cluster;
mod diagnostics;
mod parameters;
mod rights;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    body::Body,
    extract::{Extension, RawQuery, Request, State as Shared},
    http::{HeaderValue, Method, Response, StatusCode, header},
    middleware::{self, Next},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body::Body as _;
use steadfast_net::{Gzip, accepts_gzip, access::MayRead};
use tokio::{sync::Semaphore, task::yield_now};

use self::parameters::{Parameters, RequestError};
use super::{
    filter::Filter,
    gather::Gathering,
    lanes::WAITING_MAX,
    query::Query,
    state::State,
    text::Text,
    windows::{Interrupted, Windows},
};

/// The state of the handlers.
#[derive(Clone, Debug)]
pub(super) struct Api {
    state: Arc<State>,
    /// One permit for each request for metrics whose agents are being queried.
    permits: Arc<Semaphore>,
    /// The permits for pages of the other streams, each kind its own.
    topology: Arc<Semaphore>,
    lifecycle: Arc<Semaphore>,
    crashes: Arc<Semaphore>,
    profiles: Arc<Semaphore>,
    /// The permits for downloads, which are held until the client has everything.
    downloads: Arc<Semaphore>,
}

/// The downloads that are served at a time. Each takes a few chunks of memory.
const DOWNLOADS_MAX: usize = 16;

/// The pieces of a page between two turns of other tasks. With one, a page of fifty pieces waited fifty times
/// for a step of every window that was being sent.
const PIECES_PER_TURN: usize = 4;

const MISSING: &str = "x-steadfast-missing";
const IGNORED: &str = "x-steadfast-ignored";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

pub(super) fn router(state: Arc<State>) -> Router {
    let permits = Arc::new(Semaphore::new(state.config.max_http_requests));
    let guard = middleware::from_fn_with_state(Arc::clone(&state), rights::require);
    Router::new()
        .route("/metrics", get(metrics))
        .route("/metrics-windows", get(windows))
        .route("/health", get(health))
        .route("/livez", get(async || "ok\n"))
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/agents", get(agents::list))
        .route("/self-metrics", get(agents::self_metrics))
        .route("/cluster/topology", get(cluster::topology))
        .route("/cluster/lifecycle", get(cluster::lifecycle))
        .route("/diagnostics", get(diagnostics::crashes))
        .route("/pressure-profiles", get(diagnostics::profiles))
        .route(
            "/pressure-profiles/{pod}/{id}/{kind}",
            get(diagnostics::download),
        )
        .with_state(Api {
            state,
            permits,
            topology: Arc::new(Semaphore::new(WAITING_MAX)),
            lifecycle: Arc::new(Semaphore::new(WAITING_MAX)),
            crashes: Arc::new(Semaphore::new(WAITING_MAX)),
            profiles: Arc::new(Semaphore::new(WAITING_MAX)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
        })
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        })
        // The text of Go's `http.NotFound`, as from the original.
        .fallback(async || (StatusCode::NOT_FOUND, "404 page not found\n"))
        .layer(middleware::from_fn(compress))
        .layer(guard)
}

/// Compresses the bodies of successful responses for clients that accept it.
async fn compress(request: Request, next: Next) -> Response<Body> {
    /// The length from which a body is compressed: a shorter one fits a packet anyway.
    const LEAST: u64 = 1_400;
    let accepts = accepts_gzip(request.headers()) && request.method() != Method::HEAD;
    let response = next.run(request).await;
    let is_short = response
        .body()
        .size_hint()
        .upper()
        .is_some_and(|most| most < LEAST);
    let is_encoded = response.headers().contains_key(header::CONTENT_ENCODING);
    if !accepts || is_short || is_encoded || response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    let gzip = HeaderValue::from_static("gzip");
    head.headers.insert(header::CONTENT_ENCODING, gzip);
    Response::from_parts(head, Body::from_stream(Gzip::new(body.into_data_stream())))
}

async fn metrics(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, RequestError> {
    let parameters = Parameters::parse_without_times(query.as_deref())?;
    let ignored = parameters.ignored();
    let gathered = api.gather(&parameters).await?.all().await;
    let missing = missing_header(gathered.missing_text());
    let filter = parameters.filter;
    let text = run_blocking(move || {
        if filter != Filter::default() {
            return Text::new(gathered, &filter, "");
        }
        let own = api.state.schema().text();
        let text = Text::new(gathered, &filter, &own);
        // Only a page of all agents and metrics ranks every series.
        api.state.store.catalog.set_ranks(text.ranks());
        text
    });
    let text = text.await?;
    let response = streamed(TEXT, missing, in_turns(text));
    Ok(with_ignored(response, ignored))
}

/// Returns the pieces of a page, and lets other tasks run after each few: a piece takes about a millisecond,
/// and the socket may take one after the other.
fn in_turns(text: impl Iterator<Item = Bytes>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::iter(text)
        .enumerate()
        .then(async |(number, piece)| {
            if number % PIECES_PER_TURN == 0 {
                yield_now().await;
            }
            Ok(piece)
        })
}

async fn windows(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, RequestError> {
    let mut parameters = Parameters::parse(query.as_deref())?;
    parameters.parse_window()?;
    let ignored = parameters.ignored();
    let gathering = api.gather(&parameters).await?;
    let (windows, missing) = Windows::start(&api.state, gathering, parameters.filter).await;
    let pieces = stream::try_unfold(windows, async |mut windows| {
        let piece = windows.next().await?;
        Ok::<_, Interrupted>(piece.map(|piece| (piece, windows)))
    });
    let response = streamed(JSON, missing_header(missing), pieces);
    Ok(with_ignored(response, ignored))
}

/// Unlike that of the original, the status is real: a draining proxy is not healthy.
async fn health(
    Shared(api): Shared<Api>,
    Extension(MayRead(shows)): Extension<MayRead>,
) -> Response<Body> {
    let (online, total) = api.state.census();
    let uptime = api.state.now().as_micros() / 1_000_000;
    let stopping = api.state.tasks.is_draining();
    let status = if stopping { "stopping" } else { "healthy" };
    let mut body = format!(
        "{{\"agents_online\":{online},\"agents_total\":{total},\"status\":\"{status}\",\
         \"uptime_seconds\":{uptime}}}\n"
    );
    if !shows {
        body = format!("{{\"status\":\"{status}\"}}\n");
    }
    let mut response = json(body);
    if stopping {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// Returns 503 while the proxy drains, or serves as many requests as it may.
async fn ready(Shared(api): Shared<Api>) -> (StatusCode, &'static str) {
    if api.state.tasks.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else if api.permits.available_permits() == 0 {
        (StatusCode::SERVICE_UNAVAILABLE, "busy\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

impl Api {
    async fn gather(&self, parameters: &Parameters) -> Result<Gathering, RequestError> {
        // Refused, not queued: a scraper gives up at its own timeout, and the agents would be asked
        // for nobody.
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit.map_err(|_| RequestError::Busy)?;
        let (state, filter) = (Arc::clone(&self.state), &parameters.filter);
        let config = &self.state.config;
        let (query, time_limit): (Query, Duration) = match parameters.window {
            None => (Query::Latest, config.agent_deadline),
            Some(window) => (Query::Window(window), config.window_deadline),
        };
        Ok(Gathering::start(state, permit, query, filter, time_limit).await)
    }
}

/// Runs `work` on a thread of its own: sorting the responses of a thousand agents takes long.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RequestError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| RequestError::Failed)
}

fn streamed<E: Into<BoxError> + 'static>(
    content_type: &'static str,
    missing: Option<HeaderValue>,
    pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
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

fn missing_header(text: Option<String>) -> Option<HeaderValue> {
    HeaderValue::try_from(text?).ok()
}

/// Names the parameters of the request that have no effect, for whoever misspelt one.
fn with_ignored(mut response: Response<Body>, ignored: Option<String>) -> Response<Body> {
    if let Some(ignored) = ignored.and_then(|text| HeaderValue::try_from(text).ok()) {
        response.headers_mut().insert(IGNORED, ignored);
    }
    response
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response<Body> {
        let status = match self {
            Self::Parameter(_) => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{self}\n")).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn page_takes_a_turn_for_every_four_pieces() {
        let text = std::iter::repeat_n(Bytes::from_static(b"m 1\n"), 4 * PIECES_PER_TURN);
        let mut pieces = std::pin::pin!(in_turns(text));
        let mut cx = Context::from_waker(Waker::noop());
        let (mut count, mut turns) = (0, 0);
        loop {
            match pieces.as_mut().poll_next(&mut cx) {
                Poll::Ready(Some(piece)) => count += usize::from(piece.is_ok()),
                Poll::Ready(None) => break,
                Poll::Pending => turns += 1,
            }
        }
        assert_eq!((count, turns), (4 * PIECES_PER_TURN, 4));
    }
}
