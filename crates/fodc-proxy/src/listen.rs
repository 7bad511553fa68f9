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
    time::{Instant, sleep},
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tracing::{debug, warn};

use steadfast_fodc_model::write_timeout::WriteTimeout;

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
    tcp: WriteTimeout<TcpStream>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    is_cut: bool,
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

/// What happens again and again is told at most so often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How often something has happened since it was last told, and when that was.
#[derive(Debug, Default)]
struct Tally {
    times: u64,
    told: Option<Instant>,
}

impl Tally {
    /// It has happened once more: how often in all, if it is time to tell.
    fn add(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        let recently = self.told.is_some_and(|told| now < told + TOLD_EVERY);
        (!recently).then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.times)
        })
    }
}

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
    let (mut failures, mut refusals) = (Tally::default(), Tally::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = port.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                if let Some(times) = failures.add(Instant::now()) {
                    warn!(%error, times, "can not accept connections");
                }
                tokio::select! {
                    () = port.drain.cancelled() => return,
                    () = sleep(BREATH) => continue,
                }
            }
        };
        let place = Place::take(&open);
        if open.load(Ordering::Relaxed) > port.connections {
            if let Some(times) = refusals.add(Instant::now()) {
                let limit = port.connections;
                warn!(
                    limit,
                    times, "too many connections: new ones are closed at once"
                );
            }
            continue;
        }
        if let Err(error) = set_up(&tcp) {
            debug!(%error, "can not set up a connection");
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
            tcp: WriteTimeout::new(tcp, stall),
            cut: Box::pin(cut.cancelled_owned()),
            is_cut: false,
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

    /// Waiting to write ends with the proxy.
    fn unless_cut(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            self.check(cx)?;
        }
        written
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
        self.unless_cut(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, data);
        self.unless_cut(cx, written)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_and_again_is_told_once_a_minute_with_its_count() {
        let mut tally = Tally::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(tally.add(at(0)), Some(1));
        assert_eq!([tally.add(at(1)), tally.add(at(59))], [None, None]);
        assert_eq!(tally.add(at(60)), Some(3));
        assert_eq!(tally.add(at(61)), None);
    }
}
