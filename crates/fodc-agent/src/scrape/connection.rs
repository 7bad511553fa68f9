//! One kept-alive HTTP connection to an endpoint.

use std::{error::Error as _, io};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use super::ScrapeError;

/// The bytes of the read buffer, and the limit on the head of a response.
const BUFFER: usize = 32 << 10;
const HEADERS: usize = 100;

/// A connection and the task that drives it. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    _driver: AbortOnDropHandle<()>,
    used: bool,
}

/// The reason why a request got no response.
#[derive(Debug)]
pub(super) enum Failure {
    /// The endpoint closed a connection that had been used before, without a byte of the response.
    /// It did so before it saw the request, so a new connection does not repeat the scrape.
    Stale,
    /// Any other fault.
    Broken(ScrapeError),
}

impl Connection {
    pub(super) async fn handshake<S>(stream: S) -> Result<Self, ScrapeError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = Builder::new()
            .max_buf_size(BUFFER)
            .max_headers(HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ScrapeError::Broken(error.into()))?;
        let driver = tokio::spawn(async move {
            // Whoever waits for the response gets the same error.
            connection.await.ok();
        });
        Ok(Self {
            sender,
            _driver: AbortOnDropHandle::new(driver),
            used: false,
        })
    }

    /// Waits until the connection can take a request, and returns false if it has ended.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let used = std::mem::replace(&mut self.used, true);
        self.sender.send_request(request).await.map_err(|error| {
            // hyper reports a close before the response in three ways, depending on when it sees it, and
            // an endpoint that closes without reading the request resets the connection.
            let closed = error.is_incomplete_message()
                || error.is_canceled()
                || error.is_closed()
                || is_reset(&error);
            if used && closed {
                Failure::Stale
            } else {
                Failure::Broken(ScrapeError::Broken(error.into()))
            }
        })
    }
}

/// Returns true if the peer's system ended the connection.
fn is_reset(error: &hyper::Error) -> bool {
    let source = error
        .source()
        .and_then(|error| error.downcast_ref::<io::Error>());
    source.is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        )
    })
}
