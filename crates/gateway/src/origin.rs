//! The pages that may connect.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use steadfast_net::{host, names_this_machine, without_port};

use crate::{http::refused_origin, metrics::Refused, shared::Shared};

/// The headers that pages of other hosts may send.
const REQUEST_HEADERS: &str = "authorization, content-type, idempotency-key, last-event-id";
/// The headers of responses that they may read.
const RESPONSE_HEADERS: &str = "steadfast-position, retry-after";
const METHODS: &str = "GET, POST";

/// Refuses requests of pages that may not connect, answers the questions of browsers before a request, and
/// tells them what the page may read.
pub(crate) async fn check(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let (headers, uri) = (request.headers(), request.uri());
    let allowed = &shared.options.allow_origins;
    let hosts = allowed.iter().map(|allowed| host_of(allowed));
    let hosts = hosts.chain(
        shared
            .options
            .security
            .allow_hosts
            .iter()
            .map(|host| &**host),
    );
    // A page of another host can give its name an address of loopback, and would then be of the same host as
    // the gateway.
    let is_local = !shared.is_loopback || names_this_machine(headers, uri, hosts);
    if !is_local || !is_allowed(headers, uri, allowed) {
        shared.metrics.refuse(Refused::Origin);
        return refused_origin(uri.path());
    }
    let Some(origin) = headers.get(header::ORIGIN).cloned() else {
        let mut response = next.run(request).await;
        // Also here: a cache must not give this response to a page.
        vary(response.headers_mut());
        return response;
    };
    let asks = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if request.method() == Method::OPTIONS && asks {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    vary(headers);
    response
}

fn vary(headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}

/// Returns true if the origin of a request may use the gateway: the page is of the same host, or its origin
/// is one of those allowed. A request without an origin is not one of a page.
pub(crate) fn is_allowed(headers: &HeaderMap, uri: &Uri, allowed: &[String]) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return true;
    };
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    // `null` is that of a file or of a page in a sandbox, and names nobody.
    let Some((scheme, rest)) = origin.split_once("://") else {
        return false;
    };
    if origins.next().is_some() {
        return false;
    }
    let own = host(headers, uri);
    if own.is_some_and(|own| without_port(own).eq_ignore_ascii_case(without_port(rest))) {
        return true;
    }
    allowed
        .iter()
        .any(|allowed| match allowed.split_once("://") {
            Some((of, host)) => {
                of.eq_ignore_ascii_case(scheme)
                    && without_port(host).eq_ignore_ascii_case(without_port(rest))
            }
            None => without_port(allowed).eq_ignore_ascii_case(without_port(rest)),
        })
}

/// Returns the host of an allowed origin.
fn host_of(allowed: &str) -> &str {
    allowed.split_once("://").map_or(allowed, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_of_the_same_host_or_listed() {
        let allowed = [
            "https://app.example".to_owned(),
            "other.example:80".to_owned(),
        ];
        for (origin, host, expected) in [
            (None, "gateway:8080", true),
            (Some("http://gateway:3000"), "gateway:8080", true),
            (Some("https://GATEWAY"), "gateway:8080", true),
            (Some("http://[::1]:3000"), "[::1]:8080", true),
            (Some("http://[::2]:3000"), "[::1]:8080", false),
            (Some("https://app.example:444"), "gateway", true),
            (Some("http://app.example"), "gateway", false),
            (Some("http://other.example"), "gateway", true),
            (Some("https://app.example.evil"), "gateway", false),
            (Some("https://evil.app.example"), "gateway", false),
            (Some("null"), "gateway", false),
            (Some(""), "", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            let uri = Uri::from_static("/realtime/ws");
            let is_allowed = is_allowed(&headers, &uri, &allowed);
            assert_eq!(is_allowed, expected, "{origin:?} at {host}");
        }
    }
}
