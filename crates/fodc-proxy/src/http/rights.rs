//! The rights of those who read the pages, by the policy file.

use std::{convert::Infallible, sync::Arc};

use axum::{
    BoxError,
    body::Body,
    extract::{Request, State as Shared},
    http::Response,
    middleware::Next,
    response::IntoResponse as _,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use http_body::Body as _;
use steadfast_access::Action;
use steadfast_net::access::{Denied, FollowedPeer};

use crate::state::State;

/// Whether the figures of the proxy may be shown, as an extension of requests that need no rights.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShowsFigures(pub(super) bool);

/// What a peer without the right is told.
const FORBIDDEN: &str = "you may not see this page";

/// Resolves when a right ends; never with another value.
type Withdrawn = BoxFuture<'static, Result<Infallible, Denied>>;

/// Refuses a request whose peer may not do what its page does. A path without a page needs the right to
/// read: a peer without any learns nothing of the paths.
pub(super) async fn require(
    Shared(state): Shared<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let access = &state.access;
    let Some(action) = action(request.uri().path()) else {
        let read = access.require(request.headers(), request.extensions(), Action::Read);
        request.extensions_mut().insert(ShowsFigures(read.is_ok()));
        return next.run(request).await;
    };
    let known = match access.require(request.headers(), request.extensions(), action) {
        Ok(known) => known,
        Err(denied) => return respond(&denied, &state),
    };
    let Some(followed) = known.and_then(|known| access.follow(known)) else {
        return next.run(request).await;
    };
    let mut withdrawn: Withdrawn = Box::pin(until_withdrawn(followed, action));
    // Some pages wait for agents for most of a minute.
    let response = tokio::select! {
        biased;
        Err(denied) = &mut withdrawn => return respond(&denied, &state),
        response = next.run(request) => response,
    };
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let (head, body) = response.into_parts();
    let pieces = (body.into_data_stream(), withdrawn);
    let pieces = stream::try_unfold(pieces, move |(mut pieces, mut withdrawn)| {
        let state = Arc::clone(&state);
        async move {
            tokio::select! {
                biased;
                Err(denied) = &mut withdrawn => {
                    count(&denied, &state);
                    Err(BoxError::from(denied.text(FORBIDDEN)))
                }
                piece = pieces.next() => {
                    let piece = piece.transpose()?;
                    Ok(piece.map(|piece| (piece, (pieces, withdrawn))))
                }
            }
        }
    });
    Response::from_parts(head, Body::from_stream(pieces))
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

async fn until_withdrawn(mut followed: FollowedPeer, action: Action) -> Result<Infallible, Denied> {
    loop {
        followed.changed().await.map_err(Denied::Credentials)?;
        followed.peer().require(action)?;
    }
}

fn respond(denied: &Denied, state: &State) -> Response<Body> {
    count(denied, state);
    denied.respond(FORBIDDEN).into_response()
}

fn count(denied: &Denied, state: &State) {
    state.counters.refused_readers.add(denied.label());
}
