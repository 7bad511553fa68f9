//! The way to a server: addresses, names, TCP and Unix sockets, proxies, TLS.
//!
//! ```text
//!   list of servers ── race ──> name ── race ──> socket ──> proxy ──> TLS ──> bytes
//! ```
//!
//! A [`Dialer`] makes one connection per call and never retries by itself: a round over all servers is
//! one attempt, and the session above decides when the next one starts. One deadline holds for the
//! whole round.

mod address;
mod error;
mod lookup;
mod order;
mod proxy;
mod race;
mod route;
mod socket;

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

#[cfg(feature = "tls")]
use crate::tls::Tls;

pub use self::{
    address::{Address, InvalidAddress},
    error::{DialCause, DialError, DialErrors, Step},
    lookup::{BoxFuture, Lookup, SystemLookup},
    proxy::{InvalidProxy, Proxies, ProxyError},
    socket::Io,
};
use self::{
    address::{Scheme, Target},
    order::Order,
    proxy::is_this_machine,
    race::race,
};
pub(crate) use self::{route::Way, socket::ResetOnDrop};

/// Connects to one of several servers.
///
/// In a round the servers are tried one after the other: the next one begins when one has failed or has
/// not been reached within a second, and the first that is reached is taken. In the next round the server
/// that was taken, or else tried last, comes last, so that a drain leads elsewhere at once.
///
/// If the server that was taken refuses a link's call for now, before the headers of its response, the
/// round goes on: the link calls the next server at once, without a delay of the backoff.
///
/// The names are resolved in every round. The addresses of a name are raced in the same way with 250 ms
/// between them, IPv6 and IPv4 in turn (RFC 8305).
///
/// ```
/// use steadfast::{dial::Dialer, grpc::Grpc};
///
/// let servers: Dialer = "db-1.example:9000,db-2.example:9000".parse()?;
/// let transport = Grpc::with_dialer(servers);
/// # Ok::<(), steadfast::dial::InvalidAddress>(())
/// ```
pub struct Dialer {
    settings: Settings,
    /// The servers and the socket addresses that were used last. Not shared by clones, which would
    /// change each other's order.
    servers: Order<Address>,
    peers: Order<SocketAddr>,
    rest: Mutex<Option<Rest>>,
}

/// The servers that a round still has, because the one that it led to refused the call.
struct Rest {
    servers: Vec<Address>,
    /// The time of the refusal.
    at: Instant,
}

#[derive(Clone)]
struct Settings {
    list: ServerList,
    lookup: Arc<dyn Lookup>,
    connector: Option<Arc<dyn Connector>>,
    proxies: Proxies,
    timeout: Duration,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

#[derive(Clone)]
enum ServerList {
    Fixed(Arc<[Address]>),
    Asked(Arc<dyn Resolver>),
}

/// A source of the list of servers, such as a service registry.
///
/// Closures that return a future implement it.
pub trait Resolver: Send + Sync + 'static {
    /// Returns the servers, best first. Called in every round, under its deadline. No more than 16 are
    /// tried.
    fn servers(&self) -> BoxFuture<io::Result<Vec<Address>>>;
}

/// The program's own way to a server, in place of sockets, names and proxies. TLS is done on top if the
/// address or the dialer asks for it.
///
/// Closures that return a future implement it.
pub trait Connector: Send + Sync + 'static {
    /// Connects to a server. Called once per connection.
    ///
    /// # Cancel safety
    ///
    /// The future and the connection are dropped when the attempt is over; nothing may be left then.
    fn connect(&self, server: &Address) -> BoxFuture<io::Result<Box<dyn Io>>>;
}

impl<F> Resolver for F
where
    F: Fn() -> BoxFuture<io::Result<Vec<Address>>> + Send + Sync + 'static,
{
    fn servers(&self) -> BoxFuture<io::Result<Vec<Address>>> {
        self()
    }
}

impl<F> Connector for F
where
    F: Fn(&Address) -> BoxFuture<io::Result<Box<dyn Io>>> + Send + Sync + 'static,
{
    fn connect(&self, server: &Address) -> BoxFuture<io::Result<Box<dyn Io>>> {
        self(server)
    }
}

/// A connection that a [`Dialer`] made.
#[non_exhaustive]
pub struct Dialled {
    /// The bytes: those of the socket, or those in TLS.
    pub stream: Box<dyn Io>,
    /// The server.
    pub server: Address,
    /// The connection is encrypted.
    pub encrypted: bool,
    pub(crate) way: Way,
    pub(crate) reset_on_drop: ResetOnDrop,
    /// The other servers of the round that have not failed. Those whose attempts were still running come
    /// last.
    pub(crate) untried: Vec<Address>,
}

/// Maximum number of servers of a round.
const MAX_SERVERS: usize = 16;

/// The time within which the rest of a round is tried. A session dials at once after a refusal; whoever
/// dials later begins a round of their own, with the list as it is then.
const REST_MAX_AGE: Duration = Duration::from_secs(3);

/// The time after which the next server is tried beside one that has not been reached.
const SERVER_STAGGER: Duration = Duration::from_secs(1);

impl Dialer {
    /// Creates a dialer to these servers, best first. No more than 16 are tried in a round.
    #[must_use]
    pub fn new(servers: impl IntoIterator<Item = Address>) -> Self {
        Self::with_list(ServerList::Fixed(servers.into_iter().collect()))
    }

    /// Creates a dialer that asks `resolver` for the list of servers in every round.
    #[must_use]
    pub fn with_resolver(resolver: impl Resolver) -> Self {
        Self::with_list(ServerList::Asked(Arc::new(resolver)))
    }

    fn with_list(list: ServerList) -> Self {
        Settings {
            list,
            lookup: Arc::new(SystemLookup),
            connector: None,
            proxies: Proxies::default(),
            timeout: Duration::from_secs(8),
            #[cfg(feature = "tls")]
            tls: None,
        }
        .into()
    }

    /// Sets the settings of TLS, for `https://` addresses and for those that do not state a scheme.
    /// Without them, `https://` addresses are trusted as the system trusts, and the others are plain text.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// Sets the proxies. Default: those of the environment.
    #[must_use]
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.settings.proxies = proxies;
        self
    }

    /// Sets the resolver of names. Default: [`SystemLookup`].
    #[must_use]
    pub fn lookup(mut self, lookup: impl Lookup) -> Self {
        self.settings.lookup = Arc::new(lookup);
        self
    }

    /// Connects with `connector` instead of sockets, names and proxies.
    #[must_use]
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.settings.connector = Some(Arc::new(connector));
        self
    }

    /// Sets the longest time of a round. Default 8 s.
    ///
    /// Below the session's `open_timeout` (10 s), so that a round which hangs ends with an error that
    /// says where.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Returns the servers, if they were given as a list.
    #[must_use]
    pub fn fixed_servers(&self) -> &[Address] {
        match &self.settings.list {
            ServerList::Fixed(servers) => servers,
            ServerList::Asked(_) => &[],
        }
    }

    /// Returns the first server of the list that is on another machine and is reached without encryption.
    /// `None` if the list comes from a [`Resolver`].
    #[must_use]
    pub fn unencrypted_server(&self) -> Option<&Address> {
        #[cfg(feature = "tls")]
        let by_default = self.settings.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let by_default = false;
        let mut servers = self.fixed_servers().iter();
        servers.find(|server| match (server.scheme(), server.target()) {
            (Scheme::Tls, _) | (_, Target::Unix(_)) => false,
            (Scheme::Unstated, _) if by_default => false,
            (Scheme::Plain | Scheme::Unstated, Target::Tcp { host, .. }) => !is_this_machine(host),
        })
    }

    /// Connects to a server: one round.
    ///
    /// # Errors
    ///
    /// Returns the failures of all servers and addresses that were tried.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no task and no socket behind. A call of the system's resolver may still
    /// run on its thread.
    pub async fn connect(&self) -> Result<Dialled, DialErrors> {
        self.dial(None, self.deadline()).await
    }

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline {
            at: Instant::now() + self.settings.timeout,
            whole: self.settings.timeout,
        }
    }

    /// As [`Dialer::connect`], with the age of unacknowledged data at which TCP gives up.
    pub(crate) async fn dial(
        &self,
        user_timeout: Option<Duration>,
        deadline: Deadline,
    ) -> Result<Dialled, DialErrors> {
        let servers = self
            .servers_of_round(deadline)
            .await
            .map_err(|error| DialErrors::from(vec![error]))?;
        let first = servers.first().cloned();
        let untried = Mutex::new(servers.clone());
        let tried = &|server: &Address| {
            let mut untried = untried.lock().unwrap_or_else(PoisonError::into_inner);
            untried.retain(|other| other != server);
        };
        let mut dialled = race(servers, SERVER_STAGGER, deadline.at, |server| {
            // Noted at the start: the attempt may be abandoned at any time, and this server must come
            // last in the next one.
            self.servers.note(&server);
            async move {
                let result = self.dial_server(server.clone(), user_timeout, deadline);
                let result = result.await;
                // An attempt that loses the race says nothing about its server.
                tried(&server);
                result
            }
        })
        .await
        .map_err(|errors| {
            let mut errors: Vec<_> = errors.into_iter().flatten().collect();
            if errors.is_empty() {
                // The time was over before an attempt could start.
                errors.push(DialError {
                    server: first,
                    proxy: None,
                    peer: None,
                    step: Step::Connect,
                    cause: DialCause::TimedOut(deadline.whole),
                });
            }
            DialErrors::from(errors)
        })?;
        // Noted again, because slower ones may have started after it.
        self.servers.note(&dialled.server);
        if let Some(peer) = &dialled.way.peer {
            self.peers.note(peer);
        }
        dialled.untried = untried.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.servers.sort(&mut dialled.untried);
        Ok(dialled)
    }

    /// Has the next dial try these servers alone if it begins soon, because the one that the last dial
    /// reached refused the call.
    pub(crate) fn continue_round(&self, untried: Vec<Address>) {
        let at = Instant::now();
        *self.rest() = Some(Rest {
            servers: untried,
            at,
        });
    }

    fn rest(&self) -> MutexGuard<'_, Option<Rest>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the servers to try, in order: the rest of a round, or those of a new one.
    async fn servers_of_round(&self, deadline: Deadline) -> Result<Vec<Address>, DialError> {
        let rest = self.rest().take();
        if let Some(rest) = rest.filter(|rest| rest.at.elapsed() <= REST_MAX_AGE) {
            return Ok(rest.servers);
        }
        let mut servers = self.list(deadline).await?;
        self.servers.sort(&mut servers);
        servers.truncate(MAX_SERVERS);
        Ok(servers)
    }

    async fn list(&self, deadline: Deadline) -> Result<Vec<Address>, DialError> {
        let servers = match &self.settings.list {
            ServerList::Fixed(servers) => Ok(servers.to_vec()),
            ServerList::Asked(resolver) => {
                // Nothing is connected yet that could be reset.
                let unused = ResetOnDrop::default();
                deadline.end(&unused, resolver.servers()).await
            }
        };
        let failed = |cause| DialError {
            server: None,
            proxy: None,
            peer: None,
            step: Step::Servers,
            cause,
        };
        match servers {
            Ok(servers) if servers.is_empty() => Err(failed(DialCause::Nothing)),
            servers => servers.map_err(failed),
        }
    }
}

/// The time at which a round ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    whole: Duration,
}

impl Deadline {
    /// Awaits a step of a dial. A socket that the step owns is reset if the step does not end.
    pub(crate) async fn end<T, E: Into<DialCause>>(
        self,
        reset_on_drop: &ResetOnDrop,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, DialCause> {
        // A future is polled once even after its deadline, which would open a socket for nothing.
        if Instant::now() < self.at
            && let Ok(result) = timeout_at(self.at, reset_on_drop.unless_ready(step)).await
        {
            return result.map_err(Into::into);
        }
        Err(DialCause::TimedOut(self.whole))
    }
}

impl From<Settings> for Dialer {
    fn from(settings: Settings) -> Self {
        Self {
            settings,
            servers: Order::default(),
            peers: Order::default(),
            rest: Mutex::default(),
        }
    }
}

impl From<Address> for Dialer {
    fn from(server: Address) -> Self {
        Self::new([server])
    }
}

/// Parses addresses that are separated by commas.
impl std::str::FromStr for Dialer {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let servers = text.split(',').map(|address| address.trim().parse());
        let servers: Result<Vec<Address>, InvalidAddress> = servers.collect();
        // A comma in a password would cut it, and the error show its beginning.
        let whole = || text.parse::<Address>().err().filter(|_| text.contains('@'));
        servers
            .map(Self::new)
            .map_err(|invalid| whole().unwrap_or(invalid))
    }
}

/// The servers that a client is built for: a [`Dialer`], or text that is parsed as one.
///
/// Clients take `impl Into<Servers>` and report invalid text when they are built.
#[derive(Clone, Debug)]
pub struct Servers(Result<Dialer, InvalidAddress>);

impl Servers {
    /// Returns the dialer.
    ///
    /// # Errors
    ///
    /// Returns an error if the text was invalid.
    pub fn dialer(&self) -> Result<Dialer, InvalidAddress> {
        self.0.clone()
    }
}

impl From<Dialer> for Servers {
    fn from(dialer: Dialer) -> Self {
        Self(Ok(dialer))
    }
}

impl From<&str> for Servers {
    fn from(text: &str) -> Self {
        Self(text.parse())
    }
}

impl From<String> for Servers {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&String> for Servers {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

/// The clone begins with the first server.
impl Clone for Dialer {
    fn clone(&self) -> Self {
        self.settings.clone().into()
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("servers", &self.fixed_servers())
            .field("proxies", &self.settings.proxies)
            .field("timeout", &self.settings.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialled")
            .field("server", &self.server)
            .field("peer", &self.way.peer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
