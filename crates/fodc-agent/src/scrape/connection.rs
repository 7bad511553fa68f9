//! One kept-alive HTTP connection to an endpoint.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::Miss;

/// Bytes read ahead of us, and the longest head of an answer.
const BUFFER: usize = 32 << 10;
const HEADERS: usize = 100;

/// A connection and the task that drives it. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    _driver: AbortOnDropHandle<()>,
    used: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection had been used before and ended without a byte of the answer: the endpoint
    /// closed it as we asked. A new connection is no second try of the endpoint.
    Stale,
    /// Anything else.
    Broken(Miss),
}

impl Connection {
    pub(super) async fn handshake(stream: TcpStream) -> Result<Self, Miss> {
        let (sender, connection) = Builder::new()
            .max_buf_size(BUFFER)
            .max_headers(HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Miss::Broken(told(&error)))?;
        let driver = tokio::spawn(async move {
            // What goes wrong is told to whoever waits for the answer.
            connection.await.ok();
        });
        Ok(Self {
            sender,
            _driver: AbortOnDropHandle::new(driver),
            used: false,
        })
    }

    /// Whether another request can go out on it.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let used = std::mem::replace(&mut self.used, true);
        self.sender.send_request(request).await.map_err(|error| {
            let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
            if used && closed {
                Failure::Stale
            } else {
                Failure::Broken(Miss::Broken(told(&error)))
            }
        })
    }
}

/// An error with its causes.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}
