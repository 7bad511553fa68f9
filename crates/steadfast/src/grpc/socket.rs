//! A TCP socket that can be reset.

use std::{
    error::Error,
    fmt, io,
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
    net::{TcpStream, lookup_host},
};

use super::{Options, address::Address};

/// A flag that makes a socket reset its connection, instead of closing it in order, when dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct ResetOnDrop(Arc<AtomicBool>);

impl ResetOnDrop {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The socket of one connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    reset_on_drop: ResetOnDrop,
}

impl Socket {
    pub(super) async fn connect(
        address: &Address,
        options: &Options,
        reset_on_drop: ResetOnDrop,
    ) -> io::Result<Self> {
        let stream = connect_to_any(address).await?;
        // Heartbeats and credit are small; Nagle's algorithm would hold them back for the peer's
        // delayed acknowledgement.
        stream.set_nodelay(true)?;
        set_user_timeout(&stream, options.user_timeout)?;
        Ok(Self {
            stream,
            reset_on_drop,
        })
    }
}

/// The errors of all IP addresses of a host, in the order in which they were tried.
#[derive(Debug)]
struct NoneAccepted(Vec<(SocketAddr, io::Error)>);

impl fmt::Display for NoneAccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (candidate, error)) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{candidate}: {error}")?;
        }
        Ok(())
    }
}

impl Error for NoneAccepted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.last().map(|(_, error)| error as _)
    }
}

/// Connects to the first IP address of the host that accepts. If none does, the error lists all.
async fn connect_to_any(address: &Address) -> io::Result<TcpStream> {
    let mut failures = Vec::new();
    // One after the other: a host with several addresses is rare here, and the open timeout of the
    // session bounds them together.
    for candidate in lookup_host((address.host(), address.port())).await? {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failures.push((candidate, error)),
        }
    }
    match failures.pop() {
        Some((_, only)) if failures.is_empty() => Err(only),
        Some(last) => {
            let kind = last.1.kind();
            failures.push(last);
            Err(io::Error::new(kind, NoneAccepted(failures)))
        }
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the host has no address",
        )),
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
        if self.reset_on_drop.is_set() {
            // Discards unsent data and resets the connection. After an orderly close the system
            // would keep sending to a frozen peer for minutes.
            // Errors are ignored: a socket that cannot be reset any more is gone already.
            SockRef::from(&self.stream)
                .set_linger(Some(Duration::ZERO))
                .ok();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
