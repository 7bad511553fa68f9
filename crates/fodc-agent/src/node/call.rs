//! Calls of a node: one connection for each.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};
use tonic::{Code, Status, body::Body};
use tower_service::Service;

use crate::scrape::error_chain;

/// The longest message of a node, in bytes: what its proxy would accept at most.
pub(crate) const MESSAGE_BYTES: usize = 32 << 20;

/// One connection to a node, for the generated clients.
#[derive(Clone, Debug)]
pub(crate) struct NodeConnection(SendRequest<Body>);

/// The reason why a call of a node failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("cannot connect to the node at {address}: {source}")]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("node at {address} does not speak HTTP/2: {text}")]
    Handshake { address: SocketAddr, text: String },
    #[error("node at {address}: {} ({:?})", .status.message(), .status.code())]
    Status {
        address: SocketAddr,
        status: Box<Status>,
    },
    #[error("node at {address} has not responded within {limit:?}")]
    TimedOut {
        address: SocketAddr,
        limit: Duration,
    },
}

impl NodeError {
    /// Returns true if the node does not have the service.
    pub(crate) fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.code() == Code::Unimplemented)
    }
}

/// Dials a node, runs `call` on the connection, and hangs up, all within `limit`.
///
/// # Cancel safety
///
/// Dropping the future hangs up.
pub(crate) async fn call<T, F>(
    address: SocketAddr,
    limit: Duration,
    call: impl FnOnce(NodeConnection, Uri) -> F,
) -> Result<T, NodeError>
where
    F: Future<Output = Result<T, Status>>,
{
    let calling = async {
        let socket = TcpStream::connect(address).await;
        let socket = socket.map_err(|source| NodeError::Connect { address, source })?;
        let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .map_err(|error| NodeError::Handshake {
                address,
                text: error_chain(&error),
            })?;
        let called = call(NodeConnection(requests), origin(address));
        let lost = |text: String| Box::new(Status::unavailable(text));
        tokio::select! {
            // First the call: a response that has arrived counts, whatever became of the connection.
            biased;
            result = called => result.map_err(Box::new),
            // The call waits for a connection that this future drives.
            ended = connection => Err(lost(match ended {
                Ok(()) => "connection closed".to_owned(),
                Err(error) => error_chain(&error),
            })),
        }
        .map_err(|status| NodeError::Status { address, status })
    };
    let called = timeout(limit, calling).await;
    called.unwrap_or(Err(NodeError::TimedOut { address, limit }))
}

fn origin(address: SocketAddr) -> Uri {
    let origin = format!("http://{address}");
    origin.parse().expect("an address is an authority")
}

impl Service<Request<Body>> for NodeConnection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
