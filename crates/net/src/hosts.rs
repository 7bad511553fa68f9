//! The hosts that requests to a listener on loopback may name.

use std::{
    error::Error,
    future::{Ready, ready},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    TryFutureExt as _,
    future::{Either as EitherFuture, MapOk},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::service::Service;

use crate::{Refusal, Refusals, Security};

/// A service that refuses requests to a listener on loopback that name another machine.
///
/// A page in a browser can give its own name an address of loopback (DNS rebinding). Its requests then reach
/// this machine, and the browser lets it read the responses; only `Host` still has its name.
#[derive(Clone, Debug)]
pub struct HostCheck<S> {
    service: S,
    /// `None` if the listener is not on loopback.
    allowed: Option<Arc<[String]>>,
    refusals: Refusals,
}

/// The body of a response of a [`HostCheck`].
pub type CheckedBody<B> = Either<B, Full<Bytes>>;

const REFUSED: &str = "\
this listener is on loopback, and the request names another host than localhost or an address of loopback;
if that is meant, name the host with --allow-host
";

impl<S> HostCheck<S> {
    /// Returns a check before `service`, whose listener has this address and this security.
    pub fn new(service: S, address: SocketAddr, security: &Security, refusals: Refusals) -> Self {
        let is_loopback = address.ip().to_canonical().is_loopback();
        Self {
            service,
            allowed: is_loopback.then(|| security.allow_hosts.as_slice().into()),
            refusals,
        }
    }
}

impl<S, R, B> Service<Request<R>> for HostCheck<S>
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    type Response = Response<CheckedBody<B>>;
    type Error = S::Error;
    type Future = EitherFuture<
        MapOk<S::Future, fn(Response<B>) -> Self::Response>,
        Ready<Result<Self::Response, S::Error>>,
    >;

    fn call(&self, request: Request<R>) -> Self::Future {
        if let Some(allowed) = &self.allowed
            && !names_this_machine(request.headers(), request.uri(), allowed.iter())
        {
            self.refusals.count(Refusal::Host);
            return EitherFuture::Right(ready(Ok(refused())));
        }
        let served: fn(Response<B>) -> Self::Response = |response| response.map(Either::Left);
        EitherFuture::Left(self.service.call(request).map_ok(served))
    }
}

fn refused<B>() -> Response<CheckedBody<B>> {
    let mut response = Response::new(Either::Right(Full::from(REFUSED)));
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Returns true if a request names this machine, by `localhost` or an address of loopback, or one of the
/// allowed hosts. Ports are not compared. A request without a host is not one of a browser.
pub fn names_this_machine(
    headers: &HeaderMap,
    uri: &Uri,
    allowed: impl IntoIterator<Item: AsRef<str>>,
) -> bool {
    let Some(host) = host(headers, uri) else {
        return true;
    };
    let host = without_port(host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse::<IpAddr>();
    let mut allowed = allowed.into_iter();
    ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
        || host.eq_ignore_ascii_case("localhost")
        || allowed.any(|allowed| without_port(allowed.as_ref()).eq_ignore_ascii_case(host))
}

/// Returns the host of a request, with its port. One that is no text is the empty host, which names nobody.
pub fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let host = headers.get(header::HOST);
    let host = host.map(|host| host.to_str().unwrap_or_default());
    host.or_else(|| uri.authority().map(http::uri::Authority::as_str))
}

/// Returns a host without its port.
#[must_use]
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // Not within the brackets of an IPv6 address.
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, Empty};
    use hyper::service::service_fn;

    use super::*;

    #[test]
    fn names_that_were_given_an_address_of_loopback_are_not_local() {
        let allowed = ["app.example:8080"];
        for (host, expected) in [
            ("localhost:8080", true),
            ("LOCALHOST", true),
            ("127.0.0.1", true),
            ("127.8.9.1:80", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]", true),
            ("app.example", true),
            ("App.example:443", true),
            ("evil.example:8080", false),
            ("evil.app.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
            ("", false),
            ("h\u{f6}st.example", false),
        ] {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_bytes(host.as_bytes()).unwrap();
            headers.insert(header::HOST, value);
            let uri = Uri::from_static("/");
            let is_local = names_this_machine(&headers, &uri, allowed);
            assert_eq!(is_local, expected, "{host}");
        }
    }

    #[test]
    fn host_of_the_target_counts_if_there_is_no_header() {
        let none: [&str; 0] = [];
        for (uri, expected) in [
            ("/metrics", true),
            ("http://localhost:1/metrics", true),
            ("http://evil.example/metrics", false),
        ] {
            let uri = uri.parse().unwrap();
            let is_local = names_this_machine(&HeaderMap::new(), &uri, none);
            assert_eq!(is_local, expected, "{uri}");
        }
    }

    #[tokio::test]
    async fn listeners_beyond_loopback_answer_to_any_name() {
        for (address, host, expected) in [
            ("127.0.0.1:80", "evil.example", 421),
            ("[::1]:80", "evil.example", 421),
            ("[::ffff:127.0.0.1]:80", "evil.example", 421),
            ("127.0.0.1:80", "localhost", 200),
            ("127.0.0.1:80", "metrics.example", 200),
            ("10.0.0.1:80", "node-7.example", 200),
            ("0.0.0.0:80", "node-7.example", 200),
        ] {
            let service = service_fn(|_: Request<Empty<Bytes>>| async {
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            let security = Security {
                allow_hosts: vec!["metrics.example".to_owned()],
                ..Security::default()
            };
            let refusals = Refusals::default();
            let address = address.parse().unwrap();
            let check = HostCheck::new(service, address, &security, refusals.clone());
            let request = Request::builder().header(header::HOST, host);
            let response = check
                .call(request.body(Empty::new()).unwrap())
                .await
                .unwrap();
            assert_eq!(response.status(), expected, "{host} at {address}");
            let is_refused = u64::from(expected == 421);
            assert_eq!(refusals.of(Refusal::Host), is_refused);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let text = str::from_utf8(&body).unwrap();
            assert_eq!(text.contains("--allow-host"), expected == 421, "{text}");
        }
    }
}
