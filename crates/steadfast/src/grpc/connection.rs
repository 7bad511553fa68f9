//! One connection: a socket, HTTP/2 on it, and the tasks of both.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream as _;
use http::uri::PathAndQuery;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use steadfast_session::{Detail, End, Initiator, Reason};
use tonic::{
    Streaming,
    body::Body,
    client::Grpc as Framing,
    metadata::{AsciiMetadataValue, MetadataKey},
};
use tower_service::Service;

use super::{
    Options,
    address::Address,
    classify,
    codec::Raw,
    lifeline::{Lifeline, Sending},
    socket::{KillSwitch, Socket},
    tap::{self, Tapped},
    tasks::Tasks,
};
use crate::{
    outbound::Outbound,
    transport::{self, Call, Tap},
};

/// One connection to a gRPC server.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    requests: http2::SendRequest<Tapped<Body>>,
    origin: http::Uri,
    max_message_bytes: usize,
    tasks: Tasks,
    switch: KillSwitch,
}

/// The receiving half of a gRPC stream.
#[derive(Debug)]
pub struct GrpcInbound {
    messages: Streaming<Bytes>,
    _lifeline: Lifeline,
    /// Keeps the connection as long as something is received on it.
    _connection: Connection,
}

/// Any answer to this call is life, whatever the peer makes of it.
const PROBE: &str = "/grpc.health.v1.Health/Check";

impl Connection {
    pub(super) async fn dial(address: Address, options: Options) -> Result<Self, End> {
        let unreachable = |why: Detail| End::retry(Initiator::Network, Reason::Unreachable(why));
        let origin = http::Uri::builder()
            .scheme("http")
            .authority(address.authority().clone())
            .path_and_query("/")
            .build()
            .map_err(|error| unreachable(Detail::from_error(error)))?;
        let switch = KillSwitch::default();
        let socket = Socket::dial(&address, &options, switch.clone())
            .await
            .map_err(|error| unreachable(Detail::new(format!("{address}: {error}"), error)))?;
        let tasks = Tasks::default();
        let (requests, connection) = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .adaptive_window(false)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| unreachable(Detail::new(classify::chain(&error), error)))?;
        tasks.run(connection);
        let max_message_bytes = options.max_message_bytes;
        Ok(Self {
            inner: Arc::new(Inner {
                requests,
                origin,
                max_message_bytes,
                tasks,
                switch,
            }),
        })
    }

    fn framing(&self, tap: Arc<Tap>, sending: Sending) -> Framing<Requests> {
        let requests = Requests {
            send: self.inner.requests.clone(),
            tap,
            sending,
        };
        Framing::with_origin(requests, self.inner.origin.clone())
            .max_decoding_message_size(self.inner.max_message_bytes)
    }
}

impl transport::Connection for Connection {
    type Inbound = GrpcInbound;

    fn open(
        &self,
        call: &Call,
        outbound: Outbound,
        tap: Arc<Tap>,
    ) -> impl Future<Output = Result<GrpcInbound, End>> + Send + 'static {
        let connection = self.clone();
        let request = request(call, outbound);
        async move {
            let (path, request) = request?;
            let lifeline = Lifeline::default();
            let mut framing = connection.framing(tap, lifeline.sending());
            let response = framing.streaming(request, path, Raw).await;
            let messages = response
                .map_err(|status| classify::end(&status))?
                .into_inner();
            Ok(GrpcInbound {
                messages,
                _lifeline: lifeline,
                _connection: connection,
            })
        }
    }

    fn probe(&self) -> impl Future<Output = bool> + Send + 'static {
        let lifeline = Lifeline::default();
        let mut framing = self.framing(Arc::default(), lifeline.sending());
        async move {
            let _lifeline = lifeline;
            let path = PathAndQuery::from_static(PROBE);
            match framing
                .unary(tonic::Request::new(Bytes::new()), path, Raw)
                .await
            {
                Ok(_) => true,
                Err(status) => classify::is_made_by_peer(&status),
            }
        }
    }

    fn kill(&self) {
        self.inner.kill();
    }

    fn is_dead(&self) -> bool {
        self.inner.switch.is_pulled() || self.inner.requests.is_closed()
    }

    fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.tasks.gone()
    }
}

impl Inner {
    fn kill(&self) {
        self.switch.pull();
        self.tasks.cancel();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl transport::Inbound for GrpcInbound {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        Pin::new(&mut self.messages)
            .poll_next(cx)
            .map(|next| match next {
                Some(Ok(message)) => Ok(message),
                Some(Err(status)) => Err(classify::end(&status)),
                None => Err(End::retry(Initiator::Peer, Reason::Finished)),
            })
    }
}

fn request(
    call: &Call,
    outbound: Outbound,
) -> Result<(PathAndQuery, tonic::Request<Outbound>), End> {
    let invalid = |what: String| End::stop(Initiator::Local, Reason::Protocol(what.into()));
    let path = PathAndQuery::try_from(call.path.as_str())
        .map_err(|error| invalid(format!("{:?} is not a method path: {error}", call.path)))?;
    let mut request = tonic::Request::new(outbound);
    for (name, value) in &call.metadata {
        let key = MetadataKey::from_bytes(name.as_bytes())
            .map_err(|error| invalid(format!("{name:?} is not a metadata name: {error}")))?;
        let value = AsciiMetadataValue::try_from(value.as_str())
            .map_err(|error| invalid(format!("the metadata {name:?} is not ASCII: {error}")))?;
        request.metadata_mut().insert(key, value);
    }
    Ok((path, request))
}

/// hyper's request sender as a service for one call, with a tap on both bodies.
struct Requests {
    send: http2::SendRequest<Tapped<Body>>,
    tap: Arc<Tap>,
    sending: Sending,
}

impl Service<http::Request<Body>> for Requests {
    type Response = http::Response<Tapped<Incoming>>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let tap = Arc::clone(&self.tap);
        let sending = self.sending.clone();
        let request = request.map(|body| Tapped::request(body, Arc::clone(&tap), sending));
        let response = self.send.send_request(request);
        Box::pin(async move {
            let mut response = response.await?;
            tap::without_details(response.headers_mut());
            Ok(response.map(|body| Tapped::response(body, tap)))
        })
    }
}
