//! Accepting connections within limits.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use steadfast_tls::server::Protocol;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use crate::{
    ClientKey, KeyedPermits, Refusal, Refusals, RequestRate, RequestRates, Security, Socket, Tasks,
    UnfinishedLimits, descriptors,
    log_limiter::LogLimiter,
    permit::{ConnectionPermit, SharedLimits},
    unfinished::UnfinishedMessages,
};

/// Settings of a listener and of its connections.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// The number of connections that may be open at once.
    pub max_connections: usize,
    /// The number of connections that one address, or one /64 network of IPv6, may have open.
    /// Further ones are closed at once. On all listeners of the process together it has at most half of
    /// the descriptors, whatever this number.
    pub max_client_connections: usize,
    /// The fate of a connection beyond `max_connections`.
    pub at_limit: AtLimit,
    /// Longest time in which a peer may accept no byte of what is written; see [`Socket`]. `None`
    /// leaves it to the protocol above.
    pub write_timeout: Option<Duration>,
    /// Time after which the system gives up a peer that acknowledges nothing, neither data nor
    /// keepalive probes. `None` leaves it to the protocol above.
    pub peer_timeout: Option<Duration>,
    /// Longest time from the accept to the first complete head of a request.
    pub first_request_timeout: Duration,
    /// The requests that one address, or one /64 network of IPv6, may send. `None` is no limit.
    pub request_rate: Option<RequestRate>,
    /// Limits on messages that peers have begun and not finished.
    pub unfinished: UnfinishedLimits,
    /// Whether the listener is for operators and their probes: it may use some of the descriptors that
    /// are kept back from others.
    pub for_operations: bool,
    /// Counts what is refused.
    pub refusals: Refusals,
    /// TLS, or the permission to do without where other machines can connect.
    pub security: Security,
    /// The protocol that is served, which clients that use ALPN must offer.
    pub protocol: Protocol,
}

/// The fate of a connection that arrives when all permits are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLimit {
    /// It is accepted and closed at once, so that the peer learns of it.
    Close,
    /// It waits in the system's backlog until another connection ends.
    Wait,
}

/// A listening socket that accepts until its server drains.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    options: ListenerOptions,
    tasks: Tasks,
    permits: Arc<Semaphore>,
    client_permits: Arc<KeyedPermits>,
    limits: Arc<SharedLimits>,
    failures: LogLimiter,
    refusals: LogLimiter,
}

/// The open connections of a listener, and what it has refused.
#[derive(Clone, Debug)]
pub struct OpenConnections {
    permits: Arc<Semaphore>,
    limit: usize,
    limits: Arc<SharedLimits>,
}

/// Pause after a failed accept. Without descriptors or memory, the next attempt can only succeed once
/// a connection has ended; retrying at once would take the CPU time that ending needs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes that the system takes beyond those on their way to the peer.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;
/// Keepalive probes per `peer_timeout`: three may be lost before the fourth decides.
const PROBES: u32 = 4;

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            max_connections: 4_096,
            // Half: one address, which may be that of a relay, must not keep all others out.
            max_client_connections: 2_048,
            at_limit: AtLimit::Close,
            write_timeout: None,
            peer_timeout: None,
            first_request_timeout: Duration::from_secs(10),
            request_rate: Some(RequestRate::default()),
            unfinished: UnfinishedLimits::default(),
            for_operations: false,
            refusals: Refusals::default(),
            security: Security::default(),
            protocol: Protocol::Http2,
        }
    }
}

impl Listener {
    /// Returns a listener whose connections belong to `tasks`.
    ///
    /// # Errors
    ///
    /// Returns the system's error if the address of `tcp` cannot be read, or a
    /// [`PlaintextExposed`](crate::PlaintextExposed) in an [`io::Error`] if other machines could connect to
    /// it without TLS and that is not allowed.
    pub fn new(tcp: TcpListener, options: ListenerOptions, tasks: &Tasks) -> io::Result<Self> {
        // tokio panics above this number.
        let permits = options.max_connections.min(Semaphore::MAX_PERMITS);
        let address = tcp.local_addr()?;
        options.security.announce(address)?;
        let refusals = options.refusals.clone();
        let unfinished = UnfinishedMessages::new(options.unfinished, refusals.clone());
        Ok(Self {
            client_permits: KeyedPermits::new(options.max_client_connections),
            limits: SharedLimits::new(
                refusals,
                options.first_request_timeout,
                unfinished,
                options.request_rate.map(RequestRates::new),
            ),
            address,
            tcp,
            options,
            tasks: tasks.clone(),
            permits: Arc::new(Semaphore::new(permits)),
            failures: LogLimiter::new(),
            refusals: LogLimiter::new(),
        })
    }

    /// The address that peers connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns a handle that counts the open connections and the refusals.
    #[must_use]
    pub fn connections(&self) -> OpenConnections {
        OpenConnections {
            permits: Arc::clone(&self.permits),
            limit: self.options.max_connections.min(Semaphore::MAX_PERMITS),
            limits: Arc::clone(&self.limits),
        }
    }

    /// Spawns a task for each connection, and returns when the server drains. The task does the
    /// handshake of TLS, if there is TLS, and then what `serve` returns.
    pub async fn serve<F>(mut self, serve: impl Fn(Socket) -> F + Send + Sync + 'static)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let serve = Arc::new(serve);
        let (tls, protocol) = (self.options.security.tls.clone(), self.options.protocol);
        while let Some(socket) = self.accept().await {
            let Some(tls) = tls.clone() else {
                self.tasks.spawn(serve(socket));
                continue;
            };
            let (serve, tasks) = (Arc::clone(&serve), self.tasks.clone());
            self.tasks.spawn(async move {
                // Boxed, so that the connection does not keep the space of its handshake.
                let handshake = Box::pin(socket.handshake(&tls, protocol));
                let socket = tokio::select! {
                    socket = handshake => socket,
                    () = tasks.draining() => None,
                };
                if let Some(socket) = socket {
                    serve(socket).await;
                }
            });
        }
    }

    /// Returns the next connection, or `None` when the server drains. Failures to accept are logged
    /// at most once a minute and retried.
    ///
    /// # Cancel safety
    ///
    /// No accepted connection is lost when the future is dropped.
    async fn accept(&mut self) -> Option<Socket> {
        loop {
            let tasks = self.tasks.clone();
            let (tcp, peer, permit) = tokio::select! {
                biased;
                // The drain goes first, however many peers are connecting.
                () = tasks.draining() => return None,
                accepted = self.accept_one() => match accepted {
                    Ok(accepted) => accepted,
                    // That peer has left; others are not affected, so that there is no pause.
                    Err(error) if concerns_one_connection(&error) => continue,
                    Err(error) => {
                        if let Some(times) = self.failures.count(Instant::now()) {
                            warn!(address = %self.address, %error, times, "cannot accept connections");
                        }
                        tokio::select! {
                            () = tasks.draining() => return None,
                            () = sleep(ACCEPT_PAUSE) => continue,
                        }
                    }
                },
            };
            let Some(permit) = self.permit(peer, permit) else {
                continue;
            };
            match self.set_up(&tcp) {
                Ok(()) => return Some(Socket::new(tcp, self.options.write_timeout, permit)),
                // The peer may have left already. The permit is returned here, by its drop.
                Err(error) => debug!(%error, "cannot set up a connection"),
            }
        }
    }

    async fn accept_one(
        &self,
    ) -> io::Result<(TcpStream, SocketAddr, Option<OwnedSemaphorePermit>)> {
        let permit = match self.options.at_limit {
            AtLimit::Close => None,
            AtLimit::Wait => {
                // Before the accept, so that further peers stay in the system's backlog.
                let permit = Arc::clone(&self.permits).acquire_owned().await;
                Some(permit.expect("the semaphore is never closed"))
            }
        };
        let (tcp, peer) = self.tcp.accept().await?;
        Ok((tcp, peer, permit))
    }

    /// Returns the permit of an accepted connection, or `None` if a limit is reached.
    fn permit(
        &mut self,
        peer: SocketAddr,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<Arc<ConnectionPermit>> {
        let client = ClientKey::from(peer.ip());
        let of_client = self.client_permits.try_acquire(client.clone());
        // To close a connection, one has to accept it: that permit is taken afterwards.
        let permit = permit.or_else(|| Arc::clone(&self.permits).try_acquire_owned().ok());
        let descriptor = descriptors::try_acquire(&client, self.options.for_operations);
        let (refusal, limit) = match (permit, of_client, descriptor) {
            (Some(permit), Some(of_client), Ok(descriptor)) => {
                let permits = (permit, descriptor, of_client);
                return Some(ConnectionPermit::new(client, &self.limits, permits));
            }
            (None, ..) => (Refusal::Connections, self.options.max_connections),
            (_, None, _) => (
                Refusal::ClientConnections,
                self.options.max_client_connections,
            ),
            (_, _, Err(reached)) => reached,
        };
        self.limits.refusals.count(refusal);
        if let Some(times) = self.refusals.count(Instant::now()) {
            let (address, reason) = (self.address, refusal.name());
            warn!(%address, reason, limit, %peer, times, "limit reached; closing new connections");
        }
        None
    }

    fn set_up(&self, tcp: &TcpStream) -> io::Result<()> {
        // Otherwise a small message waits until the peer has acknowledged the one before, up to 40
        // ms.
        tcp.set_nodelay(true)?;
        // Otherwise the system takes megabytes, and more only when a third of them was acknowledged: a slow
        // peer would seem to accept nothing for longer than the write timeout.
        #[cfg(target_os = "linux")]
        if self.options.write_timeout.is_some() {
            SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES)?;
        }
        if let Some(timeout) = self.options.peer_timeout {
            let socket = SockRef::from(tcp);
            let interval = timeout / PROBES;
            let keepalive = TcpKeepalive::new()
                .with_time(interval)
                .with_interval(interval);
            socket.set_tcp_keepalive(&keepalive)?;
            // Probes are sent only while nothing is unacknowledged; this covers the other case.
            #[cfg(target_os = "linux")]
            // On Linux it also decides when unanswered probes end the connection (tcp(7)).
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(())
    }
}

impl OpenConnections {
    /// Returns the number of open connections.
    #[must_use]
    pub fn count(&self) -> usize {
        self.limit - self.permits.available_permits()
    }

    /// Returns the number of connections that may be open.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the counters of refusals.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.limits.refusals
    }

    /// Returns the bytes of the messages that peers have begun and not finished.
    #[must_use]
    pub fn unfinished_bytes(&self) -> usize {
        self.limits.unfinished.bytes()
    }
}

/// Returns true if only the connection that was about to be accepted failed: its peer has left.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpSocket,
        time::{error::Elapsed, timeout},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn listener(at_limit: AtLimit, tasks: &Tasks) -> Listener {
        let options = ListenerOptions {
            max_connections: 1,
            at_limit,
            write_timeout: Some(SOON),
            peer_timeout: Some(SOON),
            ..ListenerOptions::default()
        };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Listener::new(tcp, options, tasks).unwrap()
    }

    async fn soon<T>(future: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout(SOON, future).await
    }

    #[tokio::test]
    async fn connection_beyond_the_limit_is_closed_or_waits() {
        for at_limit in [AtLimit::Close, AtLimit::Wait] {
            let tasks = Tasks::new();
            let mut listener = listener(at_limit, &tasks).await;
            let first = TcpStream::connect(listener.address()).await.unwrap();
            let connections = listener.connections();
            assert_eq!((connections.count(), connections.limit()), (0, 1));
            let accepted = soon(listener.accept()).await.unwrap().unwrap();
            assert_eq!(connections.count(), 1);
            assert_eq!(accepted.peer().address, first.local_addr().ok());
            let mut second = TcpStream::connect(listener.address()).await.unwrap();
            if at_limit == AtLimit::Close {
                let mut buffer = [0];
                let closed = tokio::select! {
                    _ = listener.accept() => unreachable!("there is no permit"),
                    read = second.read(&mut buffer) => read,
                };
                assert_eq!(closed.unwrap_or_default(), 0);
                second = TcpStream::connect(listener.address()).await.unwrap();
            }
            drop(accepted);
            assert!(soon(listener.accept()).await.unwrap().is_some());
            drop(second);
        }
    }

    #[tokio::test]
    async fn draining_ends_accept_while_it_waits_for_a_permit() {
        let tasks = Tasks::new();
        let mut listener = listener(AtLimit::Wait, &tasks).await;
        let _peer = TcpStream::connect(listener.address()).await.unwrap();
        let _held = soon(listener.accept()).await.unwrap();
        assert!(listener.accept().now_or_never().is_none());
        tasks.start_drain();
        assert!(soon(listener.accept()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn cut_ends_connections_whatever_they_wait_for() {
        let tasks = Tasks::new();
        let listener = listener(AtLimit::Close, &tasks).await;
        let mut peer = TcpStream::connect(listener.address()).await.unwrap();
        tasks.spawn(listener.serve(|socket| async move {
            std::future::pending::<()>().await;
            drop(socket);
        }));
        assert!(
            timeout(Duration::from_millis(50), peer.read_u8())
                .await
                .is_err()
        );
        tasks.cut();
        assert!(soon(peer.read_u8()).await.unwrap().is_err());
        soon(tasks.drain(SOON)).await.unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn reader_that_is_slow_but_steady_is_not_timed_out() {
        const BYTES: usize = 8 << 20;
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = ListenerOptions {
            write_timeout: Some(Duration::from_secs(2)),
            ..ListenerOptions::default()
        };
        let tasks = Tasks::new();
        let mut listener = Listener::new(tcp, options, &tasks).unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let mut client = socket.connect(listener.address()).await.unwrap();
        let mut accepted = listener.accept().await.unwrap();
        let writing = tokio::spawn(async move { accepted.write_all(&vec![0; BYTES]).await });
        let mut piece = vec![0; 32 << 10];
        // 320 KB/s: a third of a full send buffer would take longer than the timeout.
        for _ in 0..60 {
            sleep(Duration::from_millis(100)).await;
            client.read_exact(&mut piece).await.unwrap();
        }
        let rest = BYTES - 60 * piece.len();
        client.read_exact(&mut vec![0; rest]).await.unwrap();
        soon(writing).await.unwrap().unwrap().unwrap();
    }
}
