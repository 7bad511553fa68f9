//! The rights of those who read the pages, by the policy file.

use std::{convert::Infallible, sync::Arc};

use axum::{
    BoxError,
    body::Body,
    extract::{Request, State as Shared},
    http::{HeaderValue, Response, StatusCode, header},
    middleware::Next,
    response::IntoResponse as _,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use http_body::Body as _;
use steadfast_access::{Action, Refused};
use steadfast_net::access::{FollowedPeer, KnownPeer};

use crate::state::State;

/// Whether the figures of the proxy may be shown, as an extension of requests that need no rights.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShowsFigures(pub(super) bool);

/// The reason why a request is refused, or its response cut.
#[derive(Clone, Debug)]
enum Denied {
    Credentials(Refused),
    Forbidden,
}

/// Resolves when a right ends; never with another value.
type Withdrawn = BoxFuture<'static, Result<Infallible, Denied>>;

/// Refuses a request whose peer may not do what its page does. A path without a page needs the right to
/// read: a peer without any learns nothing of the paths.
pub(super) async fn require(
    Shared(state): Shared<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let action = action(request.uri().path());
    let known = state
        .access
        .identify(request.headers(), request.extensions());
    let Some(action) = action else {
        let shows = match &known {
            Ok(peer) => peer.as_ref().is_none_or(|it| it.allows(Action::Read)),
            Err(_) => false,
        };
        request.extensions_mut().insert(ShowsFigures(shows));
        return next.run(request).await;
    };
    let followed = match known.map_err(Denied::Credentials) {
        Ok(None) => return next.run(request).await,
        Ok(Some(peer)) => check(&peer, action).map(|()| state.access.follow(peer)),
        Err(denied) => Err(denied),
    };
    let mut withdrawn: Withdrawn = match followed {
        Ok(None) => return next.run(request).await,
        Ok(Some(followed)) => Box::pin(until_withdrawn(followed, action)),
        Err(denied) => return denied.respond(&state),
    };
    // Some pages wait for agents for most of a minute.
    let response = tokio::select! {
        biased;
        Err(denied) = &mut withdrawn => return denied.respond(&state),
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
                    denied.count(&state);
                    Err(BoxError::from(denied.text()))
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

fn check(peer: &KnownPeer, action: Action) -> Result<(), Denied> {
    peer.allows(action).then_some(()).ok_or(Denied::Forbidden)
}

async fn until_withdrawn(mut followed: FollowedPeer, action: Action) -> Result<Infallible, Denied> {
    loop {
        followed.changed().await.map_err(Denied::Credentials)?;
        check(followed.peer(), action)?;
    }
}

impl Denied {
    fn text(&self) -> &'static str {
        match self {
            Self::Credentials(cause) => cause.public(),
            Self::Forbidden => "you may not see this page",
        }
    }

    fn count(&self, state: &State) {
        let reason = match self {
            Self::Credentials(cause) => cause.label(),
            Self::Forbidden => "forbidden",
        };
        state.counters.refused_readers.add(reason);
    }

    fn respond(&self, state: &State) -> Response<Body> {
        self.count(state);
        let text = format!("{}\n", self.text());
        match self {
            Self::Forbidden => (StatusCode::FORBIDDEN, text).into_response(),
            Self::Credentials(_) => {
                let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
                (StatusCode::UNAUTHORIZED, challenge, text).into_response()
            }
        }
    }
}
