//! One connection: a socket, HTTP/2 on it, and their tasks.

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
    observed_body::{self, ObservedBody},
    request_body_guard::{BodyCancellation, RequestBodyGuard},
    socket::{ResetOnDrop, Socket},
    tasks::Tasks,
};
use crate::{
    outbound::Outbound,
    transport::{self, Call, StreamActivity},
};

/// One connection to a gRPC server.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    requests: http2::SendRequest<ObservedBody<Body>>,
    origin: http::Uri,
    max_message_bytes: usize,
    tasks: Tasks,
    reset_on_drop: ResetOnDrop,
}

/// The receiving half of a gRPC stream.
#[derive(Debug)]
pub struct GrpcInbound {
    messages: Streaming<Bytes>,
    _guard: RequestBodyGuard,
    /// Keeps the connection open while something is received on it.
    _connection: Connection,
}

/// The method a probe calls. Any response is a sign of life, `UNIMPLEMENTED` included.
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
        // No timeout here: `open_timeout` of the session covers the dial, and dropping this future
        // abandons it.
        let reset_on_drop = ResetOnDrop::default();
        let socket = Socket::connect(&address, &options, reset_on_drop.clone())
            .await
            .map_err(|error| unreachable(Detail::new(format!("{address}: {error}"), error)))?;
        let tasks = Tasks::default();
        let (requests, connection) = http2::Builder::new(tasks.clone())
            // hyper panics without a timer if a setting needs one.
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            // It would replace the windows above by its own estimate, and with it the ratio that
            // decision 0004 asks for.
            .adaptive_window(false)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| unreachable(Detail::new(classify::chain(&error), error)))?;
        tasks.spawn_connection(connection);
        let max_message_bytes = options.max_message_bytes;
        Ok(Self {
            inner: Arc::new(Inner {
                requests,
                origin,
                max_message_bytes,
                tasks,
                reset_on_drop,
            }),
        })
    }

    fn framing(
        &self,
        activity: Arc<StreamActivity>,
        cancellation: BodyCancellation,
    ) -> Framing<Requests> {
        // Made per call: the activity and the cancellation belong to one stream.
        let requests = Requests {
            send: self.inner.requests.clone(),
            activity,
            cancellation,
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
        activity: Arc<StreamActivity>,
    ) -> impl Future<Output = Result<GrpcInbound, End>> + Send + 'static {
        let connection = self.clone();
        let request = request(call, outbound);
        async move {
            let (path, request) = request?;
            // Made before the call is awaited: dropping this future must end the request's body,
            // too.
            let guard = RequestBodyGuard::default();
            let mut framing = connection.framing(activity, guard.cancellation());
            let response = framing.streaming(request, path, Raw).await;
            let messages = response
                .map_err(|status| classify::end(&status))?
                .into_inner();
            Ok(GrpcInbound {
                messages,
                _guard: guard,
                _connection: connection,
            })
        }
    }

    fn probe(&self) -> impl Future<Output = bool> + Send + 'static {
        let guard = RequestBodyGuard::default();
        let mut framing = self.framing(Arc::default(), guard.cancellation());
        async move {
            // Moved in, so that a probe that is abandoned ends its request.
            let _guard = guard;
            let path = PathAndQuery::from_static(PROBE);
            match framing
                .unary(tonic::Request::new(Bytes::new()), path, Raw)
                .await
            {
                // Health or not, the peer responded. Most servers have no health service and say
                // so.
                Ok(_) => true,
                Err(status) => classify::is_made_by_peer(&status),
            }
        }
    }

    fn kill(&self) {
        self.inner.kill();
    }

    fn is_closed(&self) -> bool {
        // The sender learns of a kill only when hyper's task is gone, so the flag is asked first.
        self.inner.reset_on_drop.is_set() || self.inner.requests.is_closed()
    }

    fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.tasks.closed()
    }
}

impl Inner {
    fn kill(&self) {
        // The flag first: cancelling drops the socket, which looks at the flag.
        self.reset_on_drop.set();
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
                // tonic yields `None` only after an OK status.
                None => Err(End::retry(Initiator::Peer, Reason::Finished)),
            })
    }
}

fn request(
    call: &Call,
    outbound: Outbound,
) -> Result<(PathAndQuery, tonic::Request<Outbound>), End> {
    let path = PathAndQuery::try_from(call.path.as_str())
        .map_err(|error| invalid(&format!("{:?} is not a method path", call.path), error))?;
    let mut request = tonic::Request::new(outbound);
    for (name, value) in &call.metadata {
        let key = MetadataKey::from_bytes(name.as_bytes())
            .map_err(|error| invalid(&format!("{name:?} is not a metadata name"), error))?;
        let value = AsciiMetadataValue::try_from(value.as_str()).map_err(|error| {
            invalid(
                &format!("the value of metadata {name:?} is not ASCII"),
                error,
            )
        })?;
        request.metadata_mut().insert(key, value);
    }
    Ok((path, request))
}

/// Returns the end of a call that cannot be made. Every attempt would fail in the same way.
fn invalid(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> End {
    let detail = Detail::new(format!("{what}: {error}"), error);
    End::stop(Initiator::Local, Reason::Protocol(detail))
}

/// The request sender of hyper as a service for one call. It observes both bodies.
struct Requests {
    send: http2::SendRequest<ObservedBody<Body>>,
    activity: Arc<StreamActivity>,
    cancellation: BodyCancellation,
}

impl Service<http::Request<Body>> for Requests {
    type Response = http::Response<ObservedBody<Incoming>>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let activity = Arc::clone(&self.activity);
        let cancellation = self.cancellation.clone();
        let request =
            request.map(|body| ObservedBody::request(body, Arc::clone(&activity), cancellation));
        let response = self.send.send_request(request);
        Box::pin(async move {
            let mut response = response.await?;
            // A response that fails at once has its status in the headers, and no trailers.
            observed_body::remove_status_details(response.headers_mut());
            Ok(response.map(|body| ObservedBody::response(body, activity)))
        })
    }
}
