//! The opening handshake.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Method, header};

/// An opening handshake that can be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The value of `sec-websocket-accept`.
    pub(crate) accept: HeaderValue,
    /// The subprotocols that the client offers.
    pub(crate) protocols: Vec<String>,
    /// The extensions that the client offers.
    pub(crate) extensions: String,
}

/// The text that proves that a server knows the protocol (RFC 6455, 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Reads an opening handshake.
///
/// # Errors
///
/// Returns what is wrong with it.
pub(crate) fn accept(method: &Method, headers: &HeaderMap) -> Result<Accepted, &'static str> {
    let lists = |name, token: &str| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| {
            let value = value.to_str().unwrap_or_default();
            value
                .split(',')
                .any(|it| it.trim().eq_ignore_ascii_case(token))
        })
    };
    if method != Method::GET
        || !lists(header::CONNECTION, "upgrade")
        || !lists(header::UPGRADE, "websocket")
    {
        return Err("this path is for WebSockets; send an opening handshake");
    }
    if !lists(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err("the version of WebSocket must be 13");
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or("the header sec-websocket-key is missing")?;
    let bytes = [key.as_bytes(), GUID.as_bytes()].concat();
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &bytes);
    let accept = HeaderValue::from_str(&BASE64_STANDARD.encode(digest));
    let accept = accept.map_err(|_| "the header sec-websocket-key cannot be used")?;
    let joined = |name| {
        let values = headers.get_all(name).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        texts.collect::<Vec<_>>().join(",")
    };
    let protocols = joined(header::SEC_WEBSOCKET_PROTOCOL);
    let protocols = protocols.split(',').map(str::trim);
    Ok(Accepted {
        accept,
        protocols: protocols
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect(),
        extensions: joined(header::SEC_WEBSOCKET_EXTENSIONS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(changed: (&str, &str)) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "chat, steadfast.v1"),
        ] {
            let value = if name == changed.0 { changed.1 } else { value };
            headers.insert(
                name.parse::<header::HeaderName>().unwrap(),
                value.parse().unwrap(),
            );
        }
        headers
    }

    #[test]
    fn example_of_the_standard_is_accepted() {
        let accepted = accept(&Method::GET, &headers(("", ""))).unwrap();
        assert_eq!(accepted.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accepted.protocols, ["chat", "steadfast.v1"]);
    }

    #[test]
    fn other_requests_are_no_handshake() {
        for changed in [
            ("connection", "close"),
            ("upgrade", "h2c"),
            ("sec-websocket-version", "8"),
        ] {
            assert!(
                accept(&Method::GET, &headers(changed)).is_err(),
                "{changed:?}"
            );
        }
        assert!(accept(&Method::POST, &headers(("", ""))).is_err());
    }
}
