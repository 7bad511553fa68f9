//! The address of a server.

use std::{fmt, str::FromStr};

use http::uri::Authority;

/// The host and port of a server.
///
/// Written as `host:port`, `http://host:port` or `dns:///host:port`. The name is resolved at every
/// attempt to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Authority);

/// The error of parsing an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {problem}; expected host:port, as in 127.0.0.1:9000")]
pub struct InvalidAddress {
    text: String,
    problem: &'static str,
}

impl Address {
    pub(super) fn authority(&self) -> &Authority {
        &self.0
    }

    pub(super) fn host(&self) -> &str {
        // The `http` crate keeps the brackets of an IPv6 address, and the resolver does not take
        // them.
        self.0.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self) -> u16 {
        self.0
            .port_u16()
            .expect("an address is parsed with its port")
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |problem| InvalidAddress {
            text: text.to_owned(),
            problem,
        };
        if text.starts_with("https://") {
            return Err(invalid("TLS is not supported"));
        }
        // Both forms are what other gRPC clients are configured with.
        let bare = ["http://", "dns:///"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text)
            .trim_end_matches('/');
        let authority: Authority = bare.parse().map_err(|_| invalid("malformed"))?;
        if authority.host().is_empty() {
            return Err(invalid("the host is missing"));
        }
        // `Authority` accepts it and would send it to the server as a part of the host.
        if bare.contains('@') {
            return Err(invalid("user information is not supported"));
        }
        match authority.port_u16() {
            Some(0) => Err(invalid("port 0 cannot be connected to")),
            Some(_) => Ok(Self(authority)),
            // The `http` crate reports a port over 65535 as absent.
            None => match authority.as_str().rsplit_once(':') {
                Some((_, port)) if !port.is_empty() && !port.ends_with(']') => {
                    Err(invalid("the port is not a number up to 65535"))
                }
                Some(_) | None => Err(invalid("the port is missing")),
            },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(address: std::net::SocketAddr) -> Self {
        Self(
            address
                .to_string()
                .parse()
                .expect("a socket address is an authority"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_address_forms_are_accepted() {
        for (text, host, port) in [
            ("localhost:9000", "localhost", 9000),
            ("http://127.0.0.1:9000/", "127.0.0.1", 9000),
            ("dns:///streamer.svc:80", "streamer.svc", 80),
            ("[::1]:9000", "::1", 9000),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host(), address.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn malformed_address_error_names_the_problem() {
        for (text, problem) in [
            ("localhost", "the port is missing"),
            ("https://localhost:1", "TLS"),
            ("localhost:0", "port 0"),
            ("", "malformed"),
            (":9000", "host is missing"),
            ("a b:1", "malformed"),
            ("localhost:99999", "the port is not a number up to 65535"),
            ("[::1]:99999", "the port is not a number up to 65535"),
            ("[::1]", "the port is missing"),
            ("localhost:", "the port is missing"),
            ("user@localhost:1", "user information"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
