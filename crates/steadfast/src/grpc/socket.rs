//! A TCP socket with a kill switch.

use std::{
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
    net::{TcpStream, lookup_host},
};

use super::{Options, address::Address};

/// Says that a socket is to be reset, not closed in order, when it is dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct KillSwitch(Arc<AtomicBool>);

impl KillSwitch {
    pub(super) fn pull(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_pulled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The socket. When it is dropped after the switch was pulled, what it had not sent is thrown away
/// and the peer gets a reset: otherwise the system would go on sending to a frozen peer for minutes.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    switch: KillSwitch,
}

impl Socket {
    pub(super) async fn dial(
        address: &Address,
        options: &Options,
        switch: KillSwitch,
    ) -> io::Result<Self> {
        let stream = connect(address).await?;
        stream.set_nodelay(true)?;
        user_timeout(&stream, options.user_timeout)?;
        Ok(Self { stream, switch })
    }
}

/// Connects to the first address of the host that answers; if none does, each is told.
async fn connect(address: &Address) -> io::Result<TcpStream> {
    let mut failures: Vec<(SocketAddr, io::Error)> = Vec::new();
    for candidate in lookup_host((address.host(), address.port())).await? {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failures.push((candidate, error)),
        }
    }
    let kind = failures.last().map(|(_, error)| error.kind());
    let told = failures
        .iter()
        .map(|(candidate, error)| format!("{candidate}: {error}"));
    let told: Vec<_> = told.collect();
    Err(match (failures.pop(), kind) {
        (Some((_, only)), Some(_)) if told.len() == 1 => only,
        (Some(_), Some(kind)) => io::Error::new(kind, told.join("; ")),
        _ => io::Error::new(io::ErrorKind::NotFound, "the host has no address"),
    })
}

#[cfg(target_os = "linux")]
fn user_timeout(stream: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
    timeout.map_or(Ok(()), |timeout| {
        SockRef::from(stream).set_tcp_user_timeout(Some(timeout))
    })
}

#[cfg(not(target_os = "linux"))]
fn user_timeout(_: &TcpStream, _: Option<Duration>) -> io::Result<()> {
    Ok(())
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.switch.is_pulled() {
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
