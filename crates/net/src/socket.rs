//! An accepted connection.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use steadfast_tls::server::{Protocol, TlsStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tracing::warn;

use crate::{Tls, log_limiter::LogLimiter, permit::ConnectionPermit, write_timeout::WriteTimeout};

/// A connection that a [`Listener`](crate::Listener) has accepted, after its handshake if there is TLS.
///
/// Writing fails with [`io::ErrorKind::TimedOut`] once the peer has accepted no byte for the write
/// timeout. A peer that is slow but accepts something keeps the connection. Dropping the socket closes
/// the connection and returns its permit to the listener.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    peer: Peer,
    permit: Arc<ConnectionPermit>,
}

/// The other side of a connection. It is an extension of each request on it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Peer {
    /// Its address, or `None` if it had left before the address was read.
    pub address: Option<SocketAddr>,
    /// Its certificate in DER, if it presented one; it is then verified.
    pub certificate: Option<Arc<[u8]>>,
}

#[derive(Debug)]
enum Stream {
    /// Without TLS; `begun` is set once something has arrived.
    Plain {
        io: WriteTimeout<TcpStream>,
        begun: bool,
    },
    /// Boxed: a connection without TLS must not have the size of one with it.
    Tls(Box<TlsStream<WriteTimeout<TcpStream>>>),
}

/// The first byte of a connection with TLS: the type of a handshake record. No text and no HTTP/2 preface
/// begins with it.
const TLS_HANDSHAKE: u8 = 22;

impl Socket {
    pub(crate) fn new(
        stream: TcpStream,
        write_timeout: Option<Duration>,
        permit: Arc<ConnectionPermit>,
    ) -> Self {
        let address = stream.peer_addr().ok();
        let io = WriteTimeout::new(stream, write_timeout, Arc::clone(&permit.write_waits));
        Self {
            stream: Stream::Plain { io, begun: false },
            peer: Peer {
                address,
                certificate: None,
            },
            permit,
        }
    }

    /// Returns the limits that apply to the connection.
    pub(crate) fn permit(&self) -> &Arc<ConnectionPermit> {
        &self.permit
    }

    /// Does the handshake of a server. Returns `None` if it fails.
    pub(crate) async fn handshake(self, tls: &Tls, protocol: Protocol) -> Option<Self> {
        let Stream::Plain { io, .. } = self.stream else {
            unreachable!("a connection has one handshake");
        };
        let deadline = self.permit.first_request_deadline();
        let accepting = tls.accept(protocol, io, self.peer.address, deadline);
        let stream = accepting.await?;
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = chain.and_then(|chain| chain.first());
        Some(Self {
            peer: Peer {
                certificate: certificate.map(|certificate| certificate.as_ref().into()),
                ..self.peer
            },
            stream: Stream::Tls(Box::new(stream)),
            permit: self.permit,
        })
    }

    /// Returns the other side of the connection.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Stream {
    fn io(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Self::Plain { io, .. } => Pin::new(io),
            Self::Tls(tls) => Pin::new(tls.as_mut()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Unlimited: whether silence is a fault is known only to the protocol above.
        let (io, begun) = match &mut this.stream {
            Stream::Tls(tls) => return Pin::new(tls.as_mut()).poll_read(cx, buffer),
            Stream::Plain { io, begun } => (io, begun),
        };
        let before = buffer.filled().len();
        ready!(Pin::new(io).poll_read(cx, buffer))?;
        if let (false, Some(first)) = (*begun, buffer.filled().get(before)) {
            *begun = true;
            if *first == TLS_HANDSHAKE {
                return Poll::Ready(Err(unexpected_tls(this.peer.address)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.io().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.io().poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain { io, .. } => io.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.io().poll_flush(cx)
    }

    /// With TLS, tells the peer first that nothing follows (close-notify).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.io().poll_shutdown(cx)
    }
}

/// Logs at most once a minute that a client speaks TLS to a listener without it.
fn unexpected_tls(peer: Option<SocketAddr>) -> io::Error {
    static LIMITER: Mutex<LogLimiter> = Mutex::new(LogLimiter::new());
    let what = "the client speaks TLS, and this listener has none: give the server a certificate, \
                or the client http://";
    let mut limiter = LIMITER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(times) = limiter.count(Instant::now()) {
        warn!(peer = peer.map(display), times, "{what}");
    }
    io::Error::new(io::ErrorKind::InvalidData, what)
}
