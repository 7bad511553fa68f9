//! The errors of a dial: the server, the address, the step, the cause, and what to do.

use std::{error::Error, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use super::{Address, proxy::ProxyError};

/// The step of a dial that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The list of servers was asked for.
    Servers,
    /// The name of the server, or of the proxy, was resolved.
    Resolve,
    /// The socket was connected, or the program's own connector was called.
    Connect,
    /// The proxy was asked for a connection.
    Proxy,
    /// The handshake of TLS.
    Tls,
    /// The first bytes of HTTP/2.
    Http2,
    /// The call was sent, and the response headers did not arrive.
    Headers,
}

/// The failure of one way to one server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DialError {
    /// The server; `None` if the list of servers is the problem.
    pub server: Option<Address>,
    /// The proxy that leads to it, without its credentials.
    pub proxy: Option<String>,
    /// The socket address that was tried, of the server or of the proxy.
    pub peer: Option<SocketAddr>,
    /// The step that failed.
    pub step: Step,
    /// The cause.
    pub cause: DialCause,
}

/// The cause of a [`DialError`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialCause {
    /// There is nothing to connect to: no server in the list, or no address for the name.
    #[error("none found")]
    Nothing,
    /// The step did not end within the time for the whole dial.
    #[error("no response within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// An error of the system, of the program's own connector, or of the connection.
    #[error("{0}")]
    Io(#[source] Arc<io::Error>),
    /// An error of TLS.
    #[cfg(feature = "tls")]
    #[error("{0}")]
    Tls(#[source] crate::tls::TlsError),
    /// An error of the proxy.
    #[error("{0}")]
    Proxy(#[source] ProxyError),
    /// An error of the layers above the connection.
    #[error("{text}")]
    Other {
        /// The text of the error and its sources.
        text: String,
        /// The remedy, where one is known.
        remedy: Option<&'static str>,
        /// The error.
        source: Arc<dyn Error + Send + Sync>,
    },
}

/// The failures of a dial, one for each server and address that was tried.
#[derive(Clone, Debug)]
pub struct DialErrors(Vec<DialError>);

/// The failures that the text of a [`DialErrors`] names.
const MAX_NAMED: usize = 4;

impl DialErrors {
    /// Returns the failures, in the order in which they happened. There is at least one.
    #[must_use]
    pub fn errors(&self) -> &[DialError] {
        &self.0
    }
}

impl From<Vec<DialError>> for DialErrors {
    fn from(errors: Vec<DialError>) -> Self {
        Self(errors)
    }
}

impl From<io::Error> for DialCause {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<ProxyError> for DialCause {
    fn from(error: ProxyError) -> Self {
        Self::Proxy(error)
    }
}

#[cfg(feature = "tls")]
impl From<crate::tls::TlsError> for DialCause {
    fn from(error: crate::tls::TlsError) -> Self {
        Self::Tls(error)
    }
}

impl DialError {
    /// Returns what to do about it, where that is known.
    fn remedy(&self) -> Option<&'static str> {
        Some(match (&self.cause, self.step) {
            (DialCause::Nothing, Step::Servers) => "the list of servers is empty",
            (DialCause::Nothing, _) => "check the spelling, and that the name has an address",
            (DialCause::TimedOut(_), Step::Resolve) => "check the resolver of this machine",
            (DialCause::TimedOut(_), Step::Connect) => "check the address, routes and firewalls",
            (DialCause::TimedOut(_), Step::Proxy) => "check that the proxy can reach the server",
            (DialCause::TimedOut(_), Step::Tls) => "check that the port is one for TLS",
            (DialCause::Io(error), Step::Resolve) if error.kind() != io::ErrorKind::Other => {
                "check the name, and the resolver of this machine"
            }
            (DialCause::Io(error), Step::Connect) => return connect_remedy(error.kind()),
            (DialCause::Other { remedy, .. }, _) => return *remedy,
            _ => return None,
        })
    }
}

fn connect_remedy(kind: io::ErrorKind) -> Option<&'static str> {
    Some(match kind {
        io::ErrorKind::ConnectionRefused => "check the port, and that the server is running",
        io::ErrorKind::NotFound => "check the path, and that the server is running",
        io::ErrorKind::PermissionDenied => "check the permissions of the socket, and firewalls",
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            "check the address and the routes of this machine"
        }
        _ => return None,
    })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Servers => "list of servers",
            Self::Resolve => "resolving the name",
            Self::Connect => "connecting",
            Self::Proxy => "asking the proxy",
            Self::Tls => "TLS",
            Self::Http2 => "HTTP/2",
            Self::Headers => "waiting for headers",
        })
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(server) = &self.server {
            write!(f, "{server}")?;
            let peer = self.peer.map(|peer| peer.to_string());
            // An address that is written as an IP address says it already.
            let peer = peer.filter(|peer| !server.to_string().ends_with(peer.as_str()));
            match (&self.proxy, peer) {
                (Some(proxy), Some(peer)) => write!(f, " (proxy {proxy}, {peer})")?,
                (Some(proxy), None) => write!(f, " (proxy {proxy})")?,
                (None, Some(peer)) => write!(f, " ({peer})")?,
                (None, None) => {}
            }
            f.write_str(": ")?;
        }
        write!(f, "{}: {}", self.step, self.cause)?;
        match self.remedy() {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for DialErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().take(MAX_NAMED).enumerate() {
            let separator = if number > 0 { " | " } else { "" };
            write!(f, "{separator}{error}")?;
        }
        match self.0.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, " | and {more} more"),
        }
    }
}

impl Error for DialError {
    /// Returns the error below the cause.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            DialCause::Nothing | DialCause::TimedOut(_) => None,
            DialCause::Io(error) => Some(error.as_ref()),
            #[cfg(feature = "tls")]
            DialCause::Tls(error) => Some(error),
            DialCause::Proxy(error) => Some(error),
            DialCause::Other { source, .. } => Some(source.as_ref()),
        }
    }
}

impl Error for DialErrors {
    /// Returns the last failure.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.last().map(|error| error as _)
    }
}
