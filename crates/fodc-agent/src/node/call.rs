//! Calls of a node: one connection for each.

use std::{
    future::Future,
    io,
    marker::PhantomData,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf as _;
use http::{Request, Response, Uri, uri::PathAndQuery};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use steadfast_wire::decoded_size::MessageType;
use tokio::{net::TcpStream, time::timeout};
use tonic::{
    Code, Status, Streaming,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tower_service::Service;

use crate::scrape::error_chain;

/// The longest message of a node, in bytes: what its proxy would accept at most.
const MESSAGE_BYTES: usize = 32 << 20;

/// The memory that a message of a node may take, in bytes.
const DECODED_BYTES: usize = 48 << 20;

/// A message of a node.
pub(crate) trait NodeMessage: Message + Default + 'static {
    /// The full name of its type.
    const NAME: &'static str;
}

/// One connection to a node.
#[derive(Debug)]
pub(crate) struct NodeConnection(Grpc<Http2>);

#[derive(Clone, Debug)]
struct Http2(SendRequest<Body>);

/// Encodes requests, and decodes responses whose size in memory is within the limit.
struct BoundedCodec<Q, R>(PhantomData<(Q, R)>);

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
    call: impl FnOnce(NodeConnection) -> F,
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
        let grpc = Grpc::with_origin(Http2(requests), origin(address));
        let called = call(NodeConnection(
            grpc.max_decoding_message_size(MESSAGE_BYTES),
        ));
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

impl NodeConnection {
    /// Calls a method of the node, by its path, with one response.
    pub(crate) async fn unary<R: NodeMessage>(
        &mut self,
        path: &'static str,
        request: impl Message + 'static,
    ) -> Result<R, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(path);
        let response = self.0.unary(
            tonic::Request::new(request),
            path,
            BoundedCodec(PhantomData),
        );
        Ok(response.await?.into_inner())
    }

    /// Calls a method of the node, by its path, with a stream of responses.
    pub(crate) async fn server_streaming<R: NodeMessage>(
        &mut self,
        path: &'static str,
        request: impl Message + 'static,
    ) -> Result<Streaming<R>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(path);
        let request = tonic::Request::new(request);
        let responses = self
            .0
            .server_streaming(request, path, BoundedCodec(PhantomData));
        Ok(responses.await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unavailable(error_chain(&error)))
    }
}

impl<Q: Message + 'static, R: NodeMessage> Codec for BoundedCodec<Q, R> {
    type Encode = Q;
    type Decode = R;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<Q: Message, R> Encoder for BoundedCodec<Q, R> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, request: Q, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = request.encode(out);
        encoded.map_err(|error| Status::internal(error.to_string()))
    }
}

impl<Q, R: NodeMessage> Decoder for BoundedCodec<Q, R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let message = message.copy_to_bytes(message.remaining());
        let kind = MessageType::named(R::NAME).expect("the type is generated");
        let name = R::NAME.rsplit('.').next().unwrap_or_default();
        let malformed = || Status::internal(format!("message is no {name}"));
        let size = kind.decoded_size(&message).ok_or_else(malformed)?;
        if size > DECODED_BYTES {
            return Err(Status::resource_exhausted(format!(
                "{name} takes {size} bytes in memory; the limit is {DECODED_BYTES}"
            )));
        }
        R::decode(message).map(Some).map_err(|_| malformed())
    }
}

impl Service<Request<Body>> for Http2 {
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
