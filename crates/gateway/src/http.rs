//! Documents and their changes over plain HTTP, as `docs/protocol-gateway.md` describes it.

mod changes;
mod documents;
mod error;
mod parameters;
mod publish;

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderName, StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use self::error::ApiError;
use crate::shared::Shared;

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
