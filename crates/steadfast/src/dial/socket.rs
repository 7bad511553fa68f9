//! A socket that can be reset.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
};

/// A connection of bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A flag that makes a socket reset its connection, instead of closing it in order, when dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResetOnDrop(Arc<AtomicBool>);

impl ResetOnDrop {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Wraps a future that owns the socket: the socket is reset if the future is dropped before it is
    /// ready. A peer that does not respond keeps no socket busy then.
    pub(super) fn unless_ready<F: Future>(&self, future: F) -> ResetUnlessReady<F> {
        ResetUnlessReady {
            armed: Armed(Some(self.clone())),
            future: Box::pin(future),
        }
    }
}

/// A future whose socket is reset if it is dropped before it is ready.
pub(super) struct ResetUnlessReady<F> {
    /// Dropped first, so that the flag is set when the socket is dropped.
    armed: Armed,
    future: Pin<Box<F>>,
}

struct Armed(Option<ResetOnDrop>);

impl Drop for Armed {
    fn drop(&mut self) {
        if let Some(flag) = &self.0 {
            flag.set();
        }
    }
}

impl<F: Future> Future for ResetUnlessReady<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let output = std::task::ready!(self.future.as_mut().poll(cx));
        self.armed.0 = None;
        Poll::Ready(output)
    }
}

/// The socket of one connection.
pub(super) struct Socket {
    stream: Stream,
    reset_on_drop: ResetOnDrop,
}

enum Stream {
    Tcp(TcpStream),
    /// A Unix socket, or one of the program's own connector. Dropping it closes it: there is no network
    /// that could hold its data.
    Other(Box<dyn Io>),
}

impl Socket {
    pub(super) async fn connect_tcp(
        address: SocketAddr,
        user_timeout: Option<Duration>,
        reset_on_drop: ResetOnDrop,
    ) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // If this future is dropped, the system may have connected already, and the peer may never
        // close its side.
        socket.set_zero_linger()?;
        let stream = socket.connect(address).await?;
        SockRef::from(&stream).set_linger(None)?;
        // Heartbeats and credit are small; Nagle's algorithm would hold them back for the peer's
        // delayed acknowledgement.
        stream.set_nodelay(true)?;
        set_user_timeout(&stream, user_timeout)?;
        Ok(Self {
            stream: Stream::Tcp(stream),
            reset_on_drop,
        })
    }

    pub(super) fn other(stream: Box<dyn Io>, reset_on_drop: ResetOnDrop) -> Self {
        Self {
            stream: Stream::Other(stream),
            reset_on_drop,
        }
    }

    fn io(self: Pin<&mut Self>) -> Pin<&mut dyn Io> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream),
            Stream::Other(stream) => Pin::new(stream.as_mut()),
        }
    }
}

#[cfg(target_os = "linux")]
fn set_user_timeout(stream: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
    timeout.map_or(Ok(()), |timeout| {
        SockRef::from(stream).set_tcp_user_timeout(Some(timeout))
    })
}

#[cfg(not(target_os = "linux"))]
fn set_user_timeout(_: &TcpStream, _: Option<Duration>) -> io::Result<()> {
    Ok(())
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Stream::Tcp(stream) = &self.stream
            && self.reset_on_drop.is_set()
        {
            // Discards unsent data and resets the connection. After an orderly close the system
            // would keep sending to a frozen peer for minutes.
            // Errors are ignored: a socket that cannot be reset any more is gone already.
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = match &self.stream {
            Stream::Tcp(stream) => Some(stream),
            Stream::Other(_) => None,
        };
        f.debug_struct("Socket")
            .field("tcp", &stream)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Other(stream) => stream.is_write_vectored(),
        }
    }
}
