//! Serving HTTP/1.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http_body::Body;
use hyper::{Request, Response, server::conn::http1, service::Service, upgrade::Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::{
    RequestBody, Socket, Tasks,
    connection::{self, Requests},
    with_peer::WithPeer,
};

/// The limit on the bytes of a request's head.
const HEAD_BYTES: usize = 32 << 10;

/// Serves one connection until the peer leaves, is silent for too long, or the server drains. The request
/// under way is then the last. `head_timeout` limits the wait for the head of a request after the
/// first, for which [`ListenerOptions`](crate::ListenerOptions) has a limit. When a response switches to another
/// protocol, the future ends, and [`into_socket`] has the connection.
pub fn serve<S, B>(
    socket: Socket,
    service: S,
    head_timeout: Duration,
    tasks: &Tasks,
) -> impl Future<Output = ()> + use<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let requests = Requests::new(socket.permit());
    let service = WithPeer::new(service, socket.peer());
    let connection = http1::Builder::new()
        // hyper panics if a timeout is set without a timer.
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), requests.limit(service))
        .with_upgrades();
    let end = http1::UpgradeableConnection::graceful_shutdown;
    // Without an idle timeout, which is what `head_timeout` is between two requests.
    connection::run(connection, end, requests, None, tasks.clone())
}

/// Returns the connection that switched to another protocol, and what the peer has sent in it already.
/// `None` if it is not one of a [`Listener`](crate::Listener).
#[must_use]
pub fn into_socket(upgraded: Upgraded) -> Option<(Socket, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Socket>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}
