//! Serving HTTP/1.

use std::{error::Error, pin::pin, time::Duration};

use http_body::Body;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::debug;

use crate::{Socket, Tasks};

/// The limit on the bytes of a request's head.
const HEAD_BYTES: usize = 32 << 10;

/// Serves one connection until the peer leaves, sends no complete head within `head_timeout`, or the
/// server drains. The request under way is then the last.
pub fn serve<S, B>(
    socket: Socket,
    service: S,
    head_timeout: Duration,
    tasks: &Tasks,
) -> impl Future<Output = ()> + use<S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let tasks = tasks.clone();
    let connection = http1::Builder::new()
        // hyper panics if a timeout is set without a timer.
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), service);
    async move {
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = tasks.draining() => {
                // Without a deadline here: the server cuts the task when its drain takes too long.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended.unwrap_or_else(|error| debug!(%error, "HTTP/1 connection failed"));
    }
}
