//! Documents and their changes over plain HTTP, as `docs/protocol-gateway.md` describes it.

mod changes;
mod documents;
mod error;
mod parameters;
mod publish;

use std::sync::Arc;

use axum::{
    Router,
    body::to_bytes,
    extract::{Query, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::get,
};

#[cfg(test)]
pub(crate) use self::changes::Stream;
pub(crate) use self::error::ApiError;
use crate::{metrics::Refused, rights::TOKEN_PARAMETERS, shared::Shared};

/// The position from which changes continue a snapshot.
const POSITION: HeaderName = HeaderName::from_static("steadfast-position");

/// The description of the paths, which a test compares with the server.
const OPENAPI: &str = include_str!("http/openapi.json");

/// Returns the paths.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    let collection = get(documents::read)
        .post(publish::publish)
        .fallback(not_allowed);
    Router::new()
        .route(
            "/v1/databases/{database}/collections/{collection}",
            collection,
        )
        .route(
            "/v1/databases/{database}/collections/{collection}/changes",
            get(changes::changes).fallback(not_allowed),
        )
        .route("/v1/openapi.json", get(openapi).fallback(not_allowed))
}

/// The longest text of a refusal that is not ours, in bytes.
const REFUSAL_BYTES: usize = 4_096;

/// Returns true for the paths whose errors are JSON.
fn is_below_v1(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// Refuses tokens in URLs, which are written to logs, and makes JSON of refusals that come before a handler:
/// of paths that do not exist, or whose parts are not UTF-8.
pub(crate) async fn check(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    if !is_below_v1(request.uri().path()) {
        return next.run(request).await;
    }
    let query = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    if query.is_ok_and(|query| has_token(&query)) {
        shared.metrics.refuse(Refused::QueryToken);
        let message = "a token belongs into the header `authorization`, never into a URL";
        return ApiError::unauthenticated(message).into_response();
    }
    let response = next.run(request).await;
    let status = response.status();
    let json = HeaderValue::from_static("application/json");
    let is_json = response.headers().get(header::CONTENT_TYPE) == Some(&json);
    if !(status.is_client_error() || status.is_server_error()) || is_json {
        return response;
    }
    let text = to_bytes(response.into_body(), REFUSAL_BYTES).await;
    let text = text.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let message = match text.trim_end() {
        "" => status.canonical_reason().unwrap_or("refused"),
        text => text,
    };
    ApiError::new(status, "invalid", message).into_response()
}

/// Returns true if a query contains a token.
fn has_token(query: &[(String, String)]) -> bool {
    query
        .iter()
        .any(|(name, _)| TOKEN_PARAMETERS.contains(&&**name))
}

/// Returns the refusal of a page that may not connect, in the form of its path.
pub(crate) fn refused_origin(path: &str) -> Response {
    let message = "origin not allowed";
    if is_below_v1(path) {
        ApiError::denied(message).into_response()
    } else {
        (StatusCode::FORBIDDEN, message).into_response()
    }
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn not_allowed() -> ApiError {
    let message = "this path has no such method";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid", message)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn description_is_json_of_the_stated_version() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        assert_eq!(description["openapi"], "3.1.0");
    }
}
