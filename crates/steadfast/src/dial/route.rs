//! The steps to one server: name, socket, proxy, TLS.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use super::{
    Address, Deadline, DialCause, DialError, Dialer, Dialled, Io, ResetOnDrop, Step,
    address::Target,
    race::{interleave, race},
    socket::Socket,
};

/// The way to a server, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    server: Address,
    /// The proxy's host and port.
    proxy: Option<String>,
    pub(super) peer: Option<SocketAddr>,
}

/// Maximum number of addresses of a name that are tried in a round. The others have their turn in later
/// rounds.
const MAX_ADDRESSES: usize = 16;

/// The time after which the next address is tried beside one that has not been reached (RFC 8305).
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);

impl Way {
    pub(crate) fn failed(&self, step: Step, cause: DialCause) -> DialError {
        DialError {
            server: Some(self.server.clone()),
            proxy: self.proxy.clone(),
            peer: self.peer,
            step,
            cause,
        }
    }
}

impl Dialer {
    pub(super) async fn dial_server(
        &self,
        server: Address,
        user_timeout: Option<Duration>,
        deadline: Deadline,
    ) -> Result<Dialled, Vec<DialError>> {
        let mut way = Way {
            server: server.clone(),
            proxy: None,
            peer: None,
        };
        // One flag per connection: those of a race are reset one by one.
        let (socket, reset_on_drop) = match (&self.settings.connector, server.target()) {
            (Some(connector), _) => {
                let connect = connector.connect(&server);
                other_socket(&way, deadline, connect).await?
            }
            (None, Target::Unix(path)) => {
                other_socket(&way, deadline, connect_unix(path.clone())).await?
            }
            (None, Target::Tcp { host, port }) => {
                let proxy = self.settings.proxies.find(host, *port);
                let proxy = proxy.map_err(|cause| vec![way.failed(Step::Proxy, cause.into())])?;
                way.proxy = proxy.as_ref().map(ToString::to_string);
                let (first_host, first_port) = match &proxy {
                    Some(proxy) => (&proxy.host, proxy.port),
                    None => (host, *port),
                };
                let (mut socket, peer, reset_on_drop) = self
                    .reach(&way, first_host, first_port, user_timeout, deadline)
                    .await?;
                way.peer = Some(peer);
                if let Some(proxy) = proxy {
                    socket = deadline
                        .end(&reset_on_drop, proxy.connect(socket, host, *port))
                        .await
                        .map_err(|cause| vec![way.failed(Step::Proxy, cause)])?;
                }
                (socket, reset_on_drop)
            }
        };
        let (stream, encrypted) = self
            .encrypt(&server, socket, &reset_on_drop, deadline)
            .await
            .map_err(|cause| vec![way.failed(Step::Tls, cause)])?;
        Ok(Dialled {
            stream,
            server,
            encrypted,
            way,
            reset_on_drop,
            untried: Vec::new(),
        })
    }

    /// Connects to one of the addresses of a host.
    async fn reach(
        &self,
        way: &Way,
        host: &str,
        port: u16,
        user_timeout: Option<Duration>,
        deadline: Deadline,
    ) -> Result<(Socket, SocketAddr, ResetOnDrop), Vec<DialError>> {
        let unused = ResetOnDrop::default();
        let addresses = deadline
            .end(&unused, self.settings.lookup.lookup(host, port))
            .await
            .and_then(|addresses| {
                if addresses.is_empty() {
                    return Err(DialCause::Nothing);
                }
                Ok(addresses)
            })
            .map_err(|cause| vec![way.failed(Step::Resolve, cause)])?;
        self.race_addresses(addresses, deadline, way, |address, reset_on_drop| {
            Socket::connect_tcp(address, user_timeout, reset_on_drop)
        })
        .await
    }

    /// Races the addresses of a host. `connect` is a parameter for tests.
    async fn race_addresses<S, F>(
        &self,
        mut addresses: Vec<SocketAddr>,
        deadline: Deadline,
        way: &Way,
        connect: impl Fn(SocketAddr, ResetOnDrop) -> F,
    ) -> Result<(S, SocketAddr, ResetOnDrop), Vec<DialError>>
    where
        F: Future<Output = io::Result<S>>,
    {
        self.peers.sort(&mut addresses);
        let mut addresses = interleave(addresses);
        addresses.truncate(MAX_ADDRESSES);
        let connect = &connect;
        race(addresses, ADDRESS_STAGGER, deadline.at, |address| {
            self.peers.note(&address);
            async move {
                let reset_on_drop = ResetOnDrop::default();
                let connected = connect(address, reset_on_drop.clone());
                match deadline.end(&reset_on_drop, connected).await {
                    Ok(socket) => Ok((socket, address, reset_on_drop)),
                    Err(cause) => {
                        let mut way = way.clone();
                        way.peer = Some(address);
                        Err(way.failed(Step::Connect, cause))
                    }
                }
            }
        })
        .await
    }

    #[cfg(feature = "tls")]
    async fn encrypt(
        &self,
        server: &Address,
        socket: Socket,
        reset_on_drop: &ResetOnDrop,
        deadline: Deadline,
    ) -> Result<(Box<dyn Io>, bool), DialCause> {
        use super::address::Scheme;

        let tls = match (server.scheme(), &self.settings.tls) {
            (Scheme::Plain, _) | (Scheme::Unstated, None) => return Ok((Box::new(socket), false)),
            (Scheme::Tls | Scheme::Unstated, Some(tls)) => Some(tls.clone()),
            (Scheme::Tls, None) => None,
        };
        let handshake = async {
            let tls = match tls {
                Some(tls) => tls,
                None => system_tls().await?,
            };
            tls.connect(server.tls_name(), socket).await
        };
        let stream = deadline.end(reset_on_drop, handshake).await?;
        Ok((Box::new(stream), true))
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_async, reason = "there is a handshake with the feature")]
    async fn encrypt(
        &self,
        _: &Address,
        socket: Socket,
        _: &ResetOnDrop,
        _: Deadline,
    ) -> Result<(Box<dyn Io>, bool), DialCause> {
        Ok((Box::new(socket), false))
    }
}

/// Connects by a way that has no socket addresses.
async fn other_socket(
    way: &Way,
    deadline: Deadline,
    connect: impl Future<Output = io::Result<Box<dyn Io>>>,
) -> Result<(Socket, ResetOnDrop), Vec<DialError>> {
    let reset_on_drop = ResetOnDrop::default();
    let stream = deadline
        .end(&reset_on_drop, connect)
        .await
        .map_err(|cause| vec![way.failed(Step::Connect, cause)])?;
    Ok((Socket::other(stream, reset_on_drop.clone()), reset_on_drop))
}

#[cfg(unix)]
async fn connect_unix(path: std::path::PathBuf) -> io::Result<Box<dyn Io>> {
    Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
}

#[cfg(not(unix))]
async fn connect_unix(_: std::path::PathBuf) -> io::Result<Box<dyn Io>> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system has no Unix sockets",
    ))
}

/// Returns the settings of `https://` addresses whose dialer has none. The authorities of the system are
/// read once per process, at the first use.
#[cfg(feature = "tls")]
async fn system_tls() -> Result<crate::tls::Tls, crate::tls::TlsError> {
    use crate::tls::{Tls, TlsError, TlsOptions};

    static SYSTEM: tokio::sync::OnceCell<Tls> = tokio::sync::OnceCell::const_new();
    let load = || async {
        // Reads some hundred files.
        tokio::task::spawn_blocking(|| TlsOptions::default().load(&[b"h2"]))
            .await
            .unwrap_or_else(|error| Err(TlsError::NoSystemRoots(error.to_string())))
    };
    SYSTEM.get_or_try_init(load).await.cloned()
}

#[cfg(test)]
mod tests;
