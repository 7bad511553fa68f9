//! The rights of those who read the pages, by the policy file.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State as Shared},
    http::Response,
    middleware::Next,
    response::IntoResponse as _,
};
use steadfast_access::Action;

use crate::state::State;

/// Refuses a request whose peer may not do what its page does. A path without a page needs the right to
/// read: a peer without any learns nothing of the paths.
pub(super) async fn require(
    Shared(state): Shared<Arc<State>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let action = action(request.uri().path());
    let served = state
        .pages
        .serve(action, request, |request| next.run(request));
    match served.await {
        Ok(response) => response.map(Body::new),
        Err(refused) => refused.into_response(),
    }
}

/// Returns the right that a page needs; `None` for those that every probe may see.
fn action(path: &str) -> Option<Action> {
    match path {
        "/livez" | "/ready" | "/readyz" | "/health" => None,
        // It makes every agent inspect its database.
        "/cluster/lifecycle" | "/diagnostics" | "/pressure-profiles" => Some(Action::Diagnose),
        _ if path.starts_with("/pressure-profiles/") => Some(Action::Diagnose),
        _ => Some(Action::Read),
    }
}
