//! HTTP CONNECT proxies.

use std::{fmt, io, sync::Arc};

use http::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::address::host_and_port;

/// The choice of a proxy, by the host of a server.
///
/// Connections to this machine (`localhost` and loopback addresses) and to Unix sockets never use one.
#[derive(Clone)]
pub struct Proxies(Option<Arc<Matcher>>);

/// The proxy for one server.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    authorization: Option<HeaderValue>,
}

/// The error of parsing the URL of a proxy. It does not show the URL, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the URL of the proxy is invalid; expected http://[user:password@]host:port, where user and \
     password have `%40` for `@`, `%2F` for `/`, `%3F` for `?` and `%23` for `#`"
)]
pub struct InvalidProxy;

/// The error of a proxy.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The URL of the proxy in the environment is invalid.
    #[error("{0}")]
    Invalid(#[source] InvalidProxy),
    /// The proxy is not one for HTTP CONNECT over plain TCP.
    #[error("a proxy with the scheme {0} is not supported; use one with http://")]
    Unsupported(String),
    /// The proxy requires credentials, or refused the ones it got.
    #[error(
        "the proxy requires a user and a password (407); give them in its URL, \
         http://user:password@host:port"
    )]
    Credentials,
    /// The proxy refused to connect to the server.
    #[error("the proxy refused with status {status}; check that it allows this host and port")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The response is not one of a proxy.
    #[error("no response of an HTTP proxy; check that this host and port are those of the proxy")]
    Malformed,
    /// The connection to the proxy broke.
    #[error("{0}")]
    Io(#[source] Arc<io::Error>),
}

/// The longest response head of a proxy.
const MAX_HEAD_BYTES: usize = 8 << 10;

impl Proxies {
    /// Takes the proxy of the environment: `HTTPS_PROXY`, else `ALL_PROXY`, for hosts that `NO_PROXY`
    /// does not list. Lower case is read, too. This is the default.
    ///
    /// `HTTPS_PROXY` holds for servers in plain text as well, as in other gRPC clients: either is a
    /// connection that the proxy only forwards.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(Some(Arc::new(Matcher::from_env())))
    }

    /// Uses no proxy, whatever the environment says.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Uses the proxy at `url` for every host that `exceptions` does not list, in the form of
    /// `NO_PROXY`: names, which include their subdomains, IP addresses and networks, separated by
    /// commas.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid.
    pub fn new(url: &str, exceptions: &str) -> Result<Self, InvalidProxy> {
        // The matcher would take the start of such a password for the host.
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        if let Some((_, rest)) = authority.split_once(['/', '?', '#'])
            && rest.contains('@')
        {
            return Err(InvalidProxy);
        }
        let everywhere = Self(Some(Arc::new(Matcher::builder().all(url).build())));
        match everywhere.find("proxied.invalid", 443) {
            // The matcher takes an invalid URL for none at all.
            Ok(None) | Err(ProxyError::Invalid(_)) => return Err(InvalidProxy),
            Ok(Some(_)) | Err(_) => {}
        }
        let matcher = Matcher::builder().all(url).no(exceptions).build();
        Ok(Self(Some(Arc::new(matcher))))
    }

    /// Returns the proxy that leads to a host.
    pub(super) fn find(&self, host: &str, port: u16) -> Result<Option<Proxy>, ProxyError> {
        let Some(matcher) = &self.0 else {
            return Ok(None);
        };
        // For the rules, an absolute name is the same name.
        let host = relative(host);
        // A zone means something on this machine only, and so does the address.
        if is_this_machine(host) || host.contains('%') {
            return Ok(None);
        }
        let Some(found) = destination(host, port).and_then(|uri| matcher.intercept(&uri)) else {
            return Ok(None);
        };
        let uri = found.uri();
        let scheme = uri.scheme_str().unwrap_or_default();
        if scheme != "http" {
            return Err(ProxyError::Unsupported(scheme.to_owned()));
        }
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        let host = uri.host().unwrap_or_default();
        let port = match authority.strip_prefix(host) {
            Some("") => 80,
            // The `http` crate takes a port that is out of range for none.
            Some(_) => uri.port_u16().unwrap_or(0),
            // The rest of a password with `@` stands before the host.
            None => 0,
        };
        if host.is_empty() || port == 0 {
            return Err(ProxyError::Invalid(InvalidProxy));
        }
        Ok(Some(Proxy {
            // The `http` crate keeps the brackets of an IPv6 address.
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authorization: found.basic_auth().cloned(),
        }))
    }
}

impl Default for Proxies {
    fn default() -> Self {
        Self::from_environment()
    }
}

fn destination(host: &str, port: u16) -> Option<http::Uri> {
    http::Uri::builder()
        .scheme("https")
        .authority(host_and_port(host, port))
        .path_and_query("/")
        .build()
        .ok()
}

/// Returns a name without the dot of an absolute one.
fn relative(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

pub(super) fn is_this_machine(host: &str) -> bool {
    let host = relative(host);
    let ip = host.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl Proxy {
    /// Asks the proxy at the other end of `stream` for a connection to a server.
    pub(super) async fn connect<S>(
        &self,
        mut stream: S,
        host: &str,
        port: u16,
    ) -> Result<S, ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let target = host_and_port(host, port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(value) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let io = |error| ProxyError::Io(Arc::new(error));
        stream.write_all(&request).await.map_err(io)?;
        stream.flush().await.map_err(io)?;
        match read_status(&mut stream).await? {
            200..=299 => Ok(stream),
            407 => Err(ProxyError::Credentials),
            status => Err(ProxyError::Refused { status }),
        }
    }
}

/// Reads the head of a response and returns its status.
async fn read_status(stream: &mut (impl AsyncRead + Unpin)) -> Result<u16, ProxyError> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES {
            return Err(ProxyError::Malformed);
        }
        // One by one: the bytes after the head are the server's, and it may speak first.
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !head.is_empty() => {
                return Err(ProxyError::Malformed);
            }
            Err(error) => return Err(ProxyError::Io(Arc::new(error))),
        }
        // Something else than a proxy may never send an empty line.
        if head.len() == STATUS_LINE.len() && !is_http(&head) {
            return Err(ProxyError::Malformed);
        }
    }
    // The rest may be in any encoding, and a head that ends at once has no status.
    match head.get(STATUS_LINE.len()..STATUS_LINE.len() + 3) {
        Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
            let value = |number, digit: &u8| 10 * number + u16::from(digit - b'0');
            Ok(digits.iter().fold(0, value))
        }
        _ => Err(ProxyError::Malformed),
    }
}

const STATUS_LINE: &[u8] = b"HTTP/1.x ";

fn is_http(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.") && head.ends_with(b" ")
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_and_port(&self.host, self.port))
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No URL: what the matcher takes for the host may be a part of a password.
        let choice = if self.0.is_some() { "by rules" } else { "none" };
        write!(f, "Proxies({choice})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://me:secret@proxy:3128";

    #[test]
    fn hosts_that_use_the_proxy_are_those_not_excepted() {
        let exceptions = "example.com, 10.0.0.0/8, fd00::/8, .internal";
        let proxies = Proxies::new(URL, exceptions).unwrap();
        for (host, proxied) in [
            ("db.test", true),
            ("example.org", true),
            ("notexample.com", true),
            ("192.0.2.1", true),
            ("2001:db8::1", true),
            ("example.com", false),
            ("db.example.com", false),
            ("db.internal", false),
            ("10.1.2.3", false),
            ("fd00::1", false),
            ("localhost", false),
            ("127.0.0.2", false),
            ("::1", false),
            ("example.org.", true),
            ("db.example.com.", false),
            ("localhost.", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:192.0.2.1", true),
            ("fe80::1", true),
            ("fe80::1%eth0", false),
        ] {
            let found = proxies.find(host, 9000).unwrap();
            assert_eq!(found.is_some(), proxied, "{host}");
        }
        assert!(Proxies::none().find("db.test", 1).unwrap().is_none());
        assert!(
            Proxies::new(URL, "*")
                .unwrap()
                .find("db.test", 1)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn proxy_urls_are_read_and_wrong_ones_refused() {
        for (url, shown) in [
            ("http://proxy:3128", "proxy:3128"),
            ("proxy:3128", "proxy:3128"),
            ("http://proxy", "proxy:80"),
            ("http://[::1]:3128/", "[::1]:3128"),
            ("http://me:s%40e%2Fcret@proxy:1", "proxy:1"),
        ] {
            let proxy = Proxies::new(url, "").unwrap().find("db", 1).unwrap();
            assert_eq!(proxy.unwrap().to_string(), shown, "{url}");
        }
        for url in [
            "",
            "ftp://proxy:1",
            "http://",
            "two words",
            "http://proxy:65536",
            "http://proxy:0",
            "http://proxy:",
            "http://me:se@cret@proxy:1",
            "http://me:se/cret@proxy:1",
            "http://me:12/cret@proxy:1",
            "http://me:12?cret@proxy:1",
            "me:se/cret@proxy:1",
        ] {
            assert_eq!(
                Proxies::new(url, "").map(|_| ()).unwrap_err(),
                InvalidProxy,
                "{url}"
            );
        }
        for url in ["https://proxy:1", "socks5://proxy:1"] {
            let refused = Proxies::new(url, "").unwrap().find("db", 1).map(|_| ());
            assert!(matches!(refused, Err(ProxyError::Unsupported(_))), "{url}");
        }
    }

    #[test]
    fn debug_output_has_no_password() {
        let proxies = Proxies::new(URL, "").unwrap();
        // As the environment is read, which cannot refuse.
        let matcher = Matcher::builder().all("http://secret:80/x@proxy:1").build();
        for proxies in [proxies, Proxies(Some(Arc::new(matcher)))] {
            assert!(!format!("{proxies:?}").contains("secret"), "{proxies:?}");
        }
    }

    /// Plays a proxy that sends `response` and closes. Returns the outcome and the request.
    async fn ask(response: &[u8]) -> (Result<Vec<u8>, String>, String) {
        let proxy = Proxies::new(URL, "")
            .unwrap()
            .find("db", 1)
            .unwrap()
            .unwrap();
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        theirs.write_all(response).await.unwrap();
        theirs.shutdown().await.unwrap();
        let outcome = match proxy.connect(ours, "2001:db8::1", 9000).await {
            Ok(mut stream) => {
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                Ok(rest)
            }
            Err(error) => Err(error.to_string()),
        };
        let mut request = Vec::new();
        theirs.read_to_end(&mut request).await.unwrap();
        (outcome, String::from_utf8(request).unwrap())
    }

    #[tokio::test]
    async fn bytes_behind_the_response_belong_to_the_server() {
        // The reason is in Latin-1.
        let response = b"HTTP/1.1 200 Connexion \xe9tablie\r\nVia: x\r\n\r\nserver first";
        let (outcome, request) = ask(response).await;
        assert_eq!(outcome.unwrap(), b"server first");
        let expected = "CONNECT [2001:db8::1]:9000 HTTP/1.1\r\nHost: [2001:db8::1]:9000\r\n\
                        Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n";
        assert_eq!(request, expected);
    }

    #[tokio::test]
    async fn refusals_of_a_proxy_say_what_to_do() {
        let endless = [b"HTTP/1.1 200 OK\r\n".as_slice(), &[b'x'; 9 << 10]].concat();
        for (response, text) in [
            (
                b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".as_slice(),
                "user:password",
            ),
            (b"HTTP/1.0 403 Forbidden\r\n\r\n", "refused with status 403"),
            (b"SSH-2.0-OpenSSH\r\n", "no response of an HTTP proxy"),
            (b"HTTP/1.1 2x0 OK\r\n\r\n", "no response of an HTTP proxy"),
            (b"HTTP/1.1 +20 OK\r\n\r\n", "no response of an HTTP proxy"),
            (b"HTTP/1.1 \r\n\r\n", "no response of an HTTP proxy"),
            (b"\r\n\r\n", "no response of an HTTP proxy"),
            (b"OK\r\n\r\n", "no response of an HTTP proxy"),
            (b"HTTP/1.1 200 OK\r\n", "no response of an HTTP proxy"),
            (b"", "end of file"),
            (&endless, "no response of an HTTP proxy"),
        ] {
            let (outcome, _) = ask(response).await;
            let error = outcome.unwrap_err();
            assert!(error.contains(text), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
