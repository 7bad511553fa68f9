//! The address of a server.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use http::uri::Authority;

/// The address of a server, as text.
///
/// | form | meaning |
/// |---|---|
/// | `host:port`, `dns:///host:port` | TLS if the dialer has TLS settings, plain text otherwise |
/// | `http://host:port` | plain text; the port is 80 by default |
/// | `https://host:port` | TLS; the port is 443 by default |
/// | `unix:/path`, `unix:///path` | a Unix socket; TLS if the dialer has TLS settings |
///
/// An IPv6 address stands in brackets, and may name its zone: `[fe80::1%eth0]:9000`. A name is resolved
/// at every attempt to connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    scheme: Scheme,
    target: Target,
}

/// The statement of an address about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// Nothing: the settings of the dialer decide.
    Unstated,
    Plain,
    Tls,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// The error of parsing an [`Address`]. It shows only what stands after the last `@`: before it may be
/// a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {problem}; expected host:port, as in 127.0.0.1:9000")]
pub struct InvalidAddress {
    text: String,
    problem: &'static str,
}

impl Address {
    /// Returns true if the address asks for plain text, whatever the settings of the dialer are.
    #[must_use]
    pub fn is_plain_text(&self) -> bool {
        self.scheme == Scheme::Plain
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the name that a certificate is checked for.
    #[cfg(feature = "tls")]
    pub(crate) fn tls_name(&self) -> &str {
        match &self.target {
            Target::Tcp { host, .. } => without_zone(host),
            Target::Unix(_) => LOCAL,
        }
    }

    /// Returns the value of the header `:authority`.
    pub(crate) fn authority(&self) -> Authority {
        let text = match &self.target {
            // A zone means something on this machine only.
            Target::Tcp { host, port } => host_and_port(without_zone(host), *port),
            Target::Unix(_) => LOCAL.to_owned(),
        };
        text.parse().expect("an address is parsed as an authority")
    }
}

/// The name of the server behind a Unix socket, as in other gRPC clients.
const LOCAL: &str = "localhost";

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|problem| InvalidAddress {
            text: text.rsplit('@').next().unwrap_or_default().to_owned(),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<Address, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = match path.strip_prefix("//") {
            // `unix:///path` has an empty authority before its path.
            Some(path) if path.is_empty() || path.starts_with('/') => path,
            Some(_) => return Err("the path is relative; write it like unix:///run/a.sock"),
            None => path,
        };
        if path.is_empty() {
            return Err("the path is missing");
        }
        return Ok(Address {
            scheme: Scheme::Unstated,
            target: Target::Unix(path.into()),
        });
    }
    let forms = [
        ("http://", Scheme::Plain, Some(80)),
        ("https://", Scheme::Tls, Some(443)),
        ("dns:///", Scheme::Unstated, None),
    ];
    let form = forms
        .iter()
        .find_map(|(prefix, scheme, port)| Some((text.strip_prefix(prefix)?, *scheme, *port)));
    let (bare, scheme, default_port) = form.unwrap_or((text, Scheme::Unstated, None));
    if scheme == Scheme::Tls && !cfg!(feature = "tls") {
        return Err("this program is built without TLS, the feature `tls`");
    }
    let bare = bare.trim_end_matches('/');
    // It would be sent to the server as a part of the host.
    if bare.contains('@') {
        return Err("user information is not supported");
    }
    let (mut host, port) = split(bare)?;
    if form.is_some() {
        // In a URI the percent sign of a zone is escaped.
        host = host.replacen("%25", "%", 1);
    }
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.ends_with('%') || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("malformed");
    }
    let port = match (port, default_port) {
        (Some(port), _) => port
            .parse()
            .map_err(|_| "the port is not a number up to 65535")?,
        (None, Some(port)) => port,
        (None, None) => return Err("the port is missing"),
    };
    if port == 0 {
        return Err("port 0 cannot be connected to");
    }
    // The strictest reader comes last: what it takes can be sent.
    let authority = host_and_port(without_zone(&host), port);
    authority.parse::<Authority>().map_err(|_| "malformed")?;
    Ok(Address {
        scheme,
        target: Target::Tcp { host, port },
    })
}

/// Splits `host:port`; the port may be absent.
fn split(text: &str) -> Result<(String, Option<&str>), &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("malformed")?;
        let literal = without_zone(host).parse::<IpAddr>();
        if !matches!(literal, Ok(IpAddr::V6(_))) || host.ends_with('%') {
            return Err("the brackets do not hold an IPv6 address");
        }
        let host = host.to_owned();
        return match after.strip_prefix(':') {
            Some(port) if !port.is_empty() => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            Some(_) => Err("the port is missing"),
            None => Err("malformed"),
        };
    }
    match text.split_once(':') {
        _ if text.contains('%') => Err("only an IPv6 address in brackets has a zone"),
        Some((_, "")) => Err("the port is missing"),
        Some((_, port)) if port.contains(':') => {
            Err("an IPv6 address stands in brackets, as in [::1]:9000")
        }
        Some((host, port)) => Ok((host.to_owned(), Some(port))),
        None => Ok((text.to_owned(), None)),
    }
}

fn without_zone(host: &str) -> &str {
    host.split('%').next().unwrap_or(host)
}

pub(super) fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
            Target::Tcp { host, port } => {
                let scheme = match self.scheme {
                    Scheme::Unstated => return f.write_str(&host_and_port(host, *port)),
                    Scheme::Plain => "http",
                    Scheme::Tls => "https",
                };
                let host = host.replacen('%', "%25", 1);
                write!(f, "{scheme}://{}", host_and_port(&host, *port))
            }
        }
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(address: std::net::SocketAddr) -> Self {
        let mut host = address.ip().to_string();
        if let std::net::SocketAddr::V6(address) = address
            && address.scope_id() != 0
        {
            host = format!("{host}%{}", address.scope_id());
        }
        Self {
            scheme: Scheme::Unstated,
            target: Target::Tcp {
                host,
                port: address.port(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_address_forms_are_accepted() {
        for (text, shown, authority) in [
            ("localhost:9000", "localhost:9000", "localhost:9000"),
            (
                "http://127.0.0.1:9000/",
                "http://127.0.0.1:9000",
                "127.0.0.1:9000",
            ),
            ("http://db", "http://db:80", "db:80"),
            (
                "dns:///streamer.svc:80",
                "streamer.svc:80",
                "streamer.svc:80",
            ),
            ("[::1]:9000", "[::1]:9000", "[::1]:9000"),
            (
                "[fe80::1%eth0]:9000",
                "[fe80::1%eth0]:9000",
                "[fe80::1]:9000",
            ),
            (
                "http://[fe80::1%25eth0]:9000",
                "http://[fe80::1%25eth0]:9000",
                "[fe80::1]:9000",
            ),
            (
                "dns:///[fe80::1%25eth0]:9000",
                "[fe80::1%eth0]:9000",
                "[fe80::1]:9000",
            ),
            // Interface 251.
            ("[fe80::1%251]:9000", "[fe80::1%251]:9000", "[fe80::1]:9000"),
            (
                "http://[fe80::1%25251]:9000",
                "http://[fe80::1%25251]:9000",
                "[fe80::1]:9000",
            ),
            ("unix:/run/a.sock", "unix:/run/a.sock", "localhost"),
            ("unix:///run/a.sock", "unix:/run/a.sock", "localhost"),
            ("unix:a.sock", "unix:a.sock", "localhost"),
            #[cfg(feature = "tls")]
            (
                "https://db.example",
                "https://db.example:443",
                "db.example:443",
            ),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(address.authority(), authority, "{text}");
            assert_eq!(shown.parse::<Address>().unwrap(), address, "{text}");
        }
    }

    #[test]
    fn malformed_address_error_names_the_problem() {
        for (text, problem) in [
            ("localhost", "the port is missing"),
            ("localhost:0", "port 0"),
            ("", "host is missing"),
            (":9000", "host is missing"),
            ("a b:1", "malformed"),
            ("a/b:1", "malformed"),
            ("localhost:99999", "the port is not a number up to 65535"),
            ("[::1]:99999", "the port is not a number up to 65535"),
            ("[::1]", "the port is missing"),
            ("[::1]:", "the port is missing"),
            ("[::1:9000", "malformed"),
            ("[localhost]:1", "do not hold an IPv6 address"),
            ("[fe80::1%]:1", "do not hold an IPv6 address"),
            ("::1:9000", "stands in brackets"),
            ("localhost:", "the port is missing"),
            ("user@localhost:1", "user information"),
            ("http://[fe80::1%25]:1", "malformed"),
            ("[fe80::1%e th]:1", "malformed"),
            ("[fe80::1%e\nth]:1", "malformed"),
            ("[fe80::1%\u{a0}]:1", "malformed"),
            ("db\n:1", "malformed"),
            ("db%eth0:1", "only an IPv6 address in brackets"),
            ("127.0.0.1%lo:1", "only an IPv6 address in brackets"),
            ("unix:", "the path is missing"),
            ("unix://", "the path is missing"),
            ("unix://run/a.sock", "unix:///run/a.sock"),
            #[cfg(not(feature = "tls"))]
            ("https://localhost:1", "without TLS"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn address_error_shows_no_password() {
        for text in [
            "me:secret@db:1",
            "https://me:se/cret@db:1",
            "http://me:se@cret@db:1",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.starts_with("\"db:1\" is not"), "{error}");
        }
        let list = "https://me:se,cret@db:1".parse::<crate::dial::Dialer>();
        let error = list.unwrap_err().to_string();
        assert!(error.starts_with("\"db:1\" is not"), "{error}");
    }

    #[test]
    fn socket_addresses_become_addresses() {
        for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%3]:80"] {
            let address = Address::from(text.parse::<std::net::SocketAddr>().unwrap());
            assert_eq!(address.to_string(), text);
        }
    }
}
