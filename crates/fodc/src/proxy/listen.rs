//! Listening sockets and their connections, every one of which has an owner, a bound and an end.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tracing::warn;

/// What a listener's connections have in common.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// Connections that may be open; more are closed at once.
    pub(super) connections: usize,
    /// How long a peer may not take what is written.
    pub(super) stall: Duration,
    /// No new connections; those there are end when their work is done.
    pub(super) drain: CancellationToken,
    /// All connections fail.
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// A connection that the proxy can cut, and that fails when its peer takes nothing.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    is_cut: bool,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

/// How long a dead host is believed to live: as long as agents' heartbeats may be missing, and
/// without a single HTTP/2 ping.
const KEEPALIVE: Duration = Duration::from_secs(15);
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// When the system has no descriptors left, the next try needs somebody to have given one back.
const BREATH: Duration = Duration::from_millis(100);

/// Binds `address`, or says which one could not be bound.
pub(super) async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), io::Error> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Accepts until the port drains; `serve` runs as a task of its own for each connection.
pub(super) async fn accept<F>(listener: TcpListener, port: Port, serve: impl Fn(Socket) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = tokio::select! {
            biased;
            () = port.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                warn!(%error, "can not accept");
                tokio::select! {
                    () = port.drain.cancelled() => return,
                    () = sleep(BREATH) => continue,
                }
            }
        };
        let place = Place::take(&open);
        if open.load(Ordering::Relaxed) > port.connections {
            warn!(limit = port.connections, "too many connections");
            continue;
        }
        if let Err(error) = set_up(&tcp) {
            warn!(%error, "can not set up a connection");
            continue;
        }
        let socket = Socket::new(tcp, port.cut.clone(), port.stall, place);
        port.tasks.spawn(serve(socket));
    }
}

fn set_up(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Socket {
    fn new(tcp: TcpStream, cut: CancellationToken, stall: Duration, place: Place) -> Self {
        Self {
            tcp,
            cut: Box::pin(cut.cancelled_owned()),
            is_cut: false,
            stall,
            stalled: None,
            _place: place,
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_cut = self.is_cut || self.cut.as_mut().poll(cx).is_ready();
        if self.is_cut {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the proxy has stopped",
            ));
        }
        Ok(())
    }

    /// Passes the result of a write on, unless the peer has taken nothing for too long.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        self.check(cx)?;
        let until = Instant::now() + self.stall;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        match stalled.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.stalled = None;
                let text = "the peer takes nothing";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, data);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, data);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
