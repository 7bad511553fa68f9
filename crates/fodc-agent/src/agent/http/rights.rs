//! The rights of those who read the pages, by the policy file.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::Response,
    middleware::Next,
    response::IntoResponse as _,
};
use steadfast_access::Action;

use crate::agent::app_state::AppState;

/// Refuses a request whose peer may not do what its page does. A path without a page needs the right to
/// read: a peer without any learns nothing of the paths.
pub(super) async fn require(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let action = action(request.uri().path());
    let served = state
        .rights
        .serve(action, request, |request| next.run(request));
    match served.await {
        Ok(response) => response.map(Body::new),
        Err(refused) => refused.into_response(),
    }
}

/// Returns the right that a page needs; `None` for those that every probe may see.
fn action(path: &str) -> Option<Action> {
    match path {
        "/livez" | "/readyz" => None,
        // It has what processes wrote when they crashed.
        "/diagnostics" => Some(Action::Diagnose),
        _ => Some(Action::Read),
    }
}
