//! The paths of the realtime protocols: WebSocket, and server-sent events of the classic protocol.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use steadfast_access::Refused as CredentialsError;
use steadfast_net::{Peer as Connected, http1};

use crate::{
    classic::Classic,
    driver::{Driver, Newcomer},
    machine::Machine,
    metrics::{Refused, SocketKind},
    rights::{Peer, TOKEN_PARAMETERS},
    shared::Shared,
    socket::WebSocket,
    sse::Events,
    subscription::{EndCode, Event},
    v1::{SUBPROTOCOL, Session},
    websocket::{DEFLATE, accept, offers_deflate},
};

/// The parameters of a query.
type Parameters = Query<Vec<(String, String)>>;

/// The characters of an unknown parameter that are named.
const MAX_NAME: usize = 100;

/// Opens a WebSocket.
pub(super) async fn websocket(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Parameters,
    mut request: Request,
) -> Response {
    if has_query_token(&shared, &parameters) {
        return query_token();
    }
    let on_upgrade = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let peer = match identify(&shared, &head) {
        Ok(peer) => Some(peer),
        // It may still authenticate with a message.
        Err(CredentialsError::Missing) => None,
        Err(cause) => return unauthorized(&shared, &cause),
    };
    let accepted = match accept(&head.method, &head.headers) {
        Ok(accepted) => accepted,
        Err(what) => return (StatusCode::BAD_REQUEST, what).into_response(),
    };
    let newcomer = match newcomer(&shared, peer, &head) {
        Ok(newcomer) => newcomer,
        Err(what) => return too_many(what),
    };
    let NegotiatedProtocol {
        machine,
        kind,
        subprotocol,
    } = NegotiatedProtocol::choose(&accepted.protocols);
    let compresses =
        shared.options.compress && kind == SocketKind::V1 && offers_deflate(&accepted.extensions);
    let driver = Driver::new(Arc::clone(&shared), machine, kind, newcomer);
    let max_bytes = shared.options.limits.frame_bytes;
    shared.tasks.spawn(async move {
        // The connection may have ended meanwhile.
        let Ok(upgraded) = on_upgrade.await else {
            return;
        };
        let Some((io, received)) = http1::into_socket(upgraded) else {
            return;
        };
        let socket = WebSocket::new(io, &received, driver, max_bytes, compresses);
        drop(received);
        socket.run().await;
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted.accept);
    if let Some(subprotocol) = subprotocol {
        let value = HeaderValue::from_static(subprotocol);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    if compresses {
        let value = HeaderValue::from_static(DEFLATE);
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
    }
    response
}

/// The protocol of a socket.
struct NegotiatedProtocol {
    machine: Box<dyn Machine>,
    kind: SocketKind,
    /// The subprotocol that the client is told.
    subprotocol: Option<&'static str>,
}

impl NegotiatedProtocol {
    /// Chooses among the subprotocols that a client offers. Without a known one it speaks the classic protocol.
    fn choose(offered: &[String]) -> Self {
        if offered.iter().any(|it| it == SUBPROTOCOL) {
            return Self {
                machine: Box::new(Session::default()),
                kind: SocketKind::V1,
                subprotocol: Some(SUBPROTOCOL),
            };
        }
        Self {
            machine: Box::new(Classic::new()),
            kind: SocketKind::Classic,
            subprotocol: None,
        }
    }
}

/// Opens a stream of events; the database is a parameter.
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Parameters,
    request: Request,
) -> Response {
    let database = parameter(&parameters, "database").unwrap_or_default();
    let mut response = open_events(&shared, database, &parameters, request.into_parts().0).await;
    warn_of_unknown(&mut response, &parameters, &["database", "collection"]);
    response
}

/// Opens a stream of events; the database is a part of the path, as the TypeScript client has it.
pub(super) async fn events_of_database(
    State(shared): State<Arc<Shared>>,
    Path(database): Path<String>,
    Query(parameters): Parameters,
    request: Request,
) -> Response {
    let mut response = open_events(&shared, &database, &parameters, request.into_parts().0).await;
    warn_of_unknown(&mut response, &parameters, &["collection"]);
    response
}

async fn open_events(
    shared: &Arc<Shared>,
    database: &str,
    parameters: &[(String, String)],
    head: Parts,
) -> Response {
    if has_query_token(shared, parameters) {
        return query_token();
    }
    let peer = match identify(shared, &head) {
        Ok(peer) => peer,
        Err(CredentialsError::Missing) => {
            shared.metrics.refuse(Refused::Credentials);
            let text = "Authorization header required";
            return (StatusCode::UNAUTHORIZED, text).into_response();
        }
        Err(cause) => return unauthorized(shared, &cause),
    };
    if database.is_empty() {
        return (StatusCode::UNAUTHORIZED, "database required").into_response();
    }
    // The original then sent nothing for ever, and earlier versions of it everything.
    let Some(collection) = parameter(parameters, "collection") else {
        return (StatusCode::BAD_REQUEST, "collection required").into_response();
    };
    let wanted = Classic::events_request(database, collection);
    let mut handle = shared.upstream.open(wanted, &peer);
    if let Event::Ended(end) = handle.next().await {
        let status = match end.code {
            EndCode::Denied => {
                shared.metrics.refuse(Refused::Denied);
                StatusCode::FORBIDDEN
            }
            EndCode::Invalid | EndCode::Limit | EndCode::Unavailable => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        return (status, format!("failed to subscribe: {end}")).into_response();
    }
    let newcomer = match newcomer(shared, Some(peer), &head) {
        Ok(newcomer) => newcomer,
        Err(what) => return too_many(what),
    };
    let machine = Box::new(Classic::of_events());
    let mut driver = Driver::new(Arc::clone(shared), machine, SocketKind::Sse, newcomer);
    if let Err(end) = driver.adopt(Classic::EVENTS_KEY, handle) {
        return too_many(&end.message);
    }
    event_stream(Events::new(driver, shared.options.retry_after))
}

/// Names the first parameter without a meaning in a header. It is no error, because the original ignores it; but a
/// `filter` would have no effect without a word.
fn warn_of_unknown(response: &mut Response, parameters: &[(String, String)], known: &[&str]) {
    let unknown = |(name, _): &&(String, String)| !known.contains(&name.as_str());
    let Some((name, _)) = parameters.iter().find(unknown) else {
        return;
    };
    let plain = |it: char| it.is_ascii_graphic() && !['"', '\\'].contains(&it);
    let name = name.chars().take(MAX_NAME);
    let name: String = name.map(|it| if plain(it) { it } else { '?' }).collect();
    let text = format!("299 steadfast \"unknown parameter {name}\"");
    let text = HeaderValue::from_str(&text).expect("visible ASCII is the text of a header");
    response.headers_mut().insert(header::WARNING, text);
}

/// Returns the response that is a stream of events.
pub(crate) fn event_stream(events: Events) -> Response {
    let mut response = Response::new(Body::new(events));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONNECTION, "keep-alive"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Proxies that collect a response would hold the events back.
    let unbuffered = header::HeaderName::from_static("x-accel-buffering");
    headers.insert(unbuffered, HeaderValue::from_static("no"));
    response
}

fn parameter<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = parameters.iter().filter(|(key, _)| key == name);
    let value = values.next().map(|(_, value)| value.as_str());
    value.filter(|value| !value.is_empty())
}

/// Returns true if a URL contains a token. URLs are written to logs.
fn has_query_token(shared: &Shared, parameters: &[(String, String)]) -> bool {
    let mut names = TOKEN_PARAMETERS.into_iter();
    let has = names.any(|name| parameter(parameters, name).is_some());
    if has {
        shared.metrics.refuse(Refused::QueryToken);
    }
    has
}

fn query_token() -> Response {
    (StatusCode::UNAUTHORIZED, "Query token not allowed").into_response()
}

fn identify(shared: &Shared, head: &Parts) -> Result<Peer, CredentialsError> {
    // Without a policy no token is looked at, but a header that is none is a fault of the client.
    let format = head.headers.get(header::AUTHORIZATION);
    if format.is_some_and(|value| !is_bearer(value)) {
        return Err(CredentialsError::Scheme);
    }
    shared.rights.identify(&head.headers, &head.extensions)
}

fn is_bearer(value: &HeaderValue) -> bool {
    let value = value.to_str().unwrap_or_default();
    let parts = value.split_once(' ');
    parts.is_some_and(|(scheme, token)| {
        scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()
    })
}

fn unauthorized(shared: &Shared, cause: &CredentialsError) -> Response {
    tracing::debug!(%cause, "credentials refused");
    shared.metrics.refuse(Refused::Credentials);
    let text = match cause {
        CredentialsError::Scheme => "Invalid authorization header format",
        _ => "Invalid or expired token",
    };
    (StatusCode::UNAUTHORIZED, text).into_response()
}

pub(crate) fn newcomer(
    shared: &Shared,
    peer: Option<Peer>,
    head: &Parts,
) -> Result<Newcomer, &'static str> {
    let permit = match &peer {
        Some(peer) => Driver::admit(shared, peer)?,
        None => None,
    };
    Ok(Newcomer {
        peer,
        address: address(head),
        permit,
    })
}

/// Returns the address that a request came from.
pub(crate) fn address(head: &Parts) -> Option<IpAddr> {
    let connected = head.extensions.get::<Connected>()?;
    Some(connected.address?.ip())
}

fn too_many(what: &str) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    let text = format!("{what}; close some, or try again later");
    (StatusCode::TOO_MANY_REQUESTS, headers, text).into_response()
}
