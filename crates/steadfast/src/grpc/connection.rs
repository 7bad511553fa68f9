//! One connection: a socket, HTTP/2 on it, and their tasks.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream as _;
use http::{HeaderMap, HeaderName, HeaderValue, uri::PathAndQuery};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use steadfast_session::{Advice, Detail, End, Initiator, Reason};
use tonic::{Status, Streaming, body::Body, client::Grpc as Framing, metadata::MetadataMap};
use tower_service::Service;

use super::{
    Options, classify,
    codec::Raw,
    observed_body::{self, ObservedBody},
    request_body_guard::{BodyCancellation, RequestBodyGuard},
    tasks::Tasks,
};
use crate::{
    dial::{Address, DialCause, DialErrors, Dialer, ResetOnDrop, Step, Way},
    metadata::Metadata,
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
    way: Way,
    max_message_bytes: usize,
    tasks: Tasks,
    reset_on_drop: ResetOnDrop,
    dialer: Arc<Dialer>,
    /// The other servers of the dial's round that have not failed. Empty once a call has had an outcome.
    untried: Mutex<Vec<Address>>,
    failure: Failure,
}

/// The error that ended the connection.
type Failure = Arc<Mutex<Option<hyper::Error>>>;

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
    pub(super) async fn dial(dialer: Arc<Dialer>, options: Options) -> Result<Self, End> {
        let deadline = dialer.deadline();
        let dialled = dialer.dial(options.user_timeout, deadline).await;
        let dialled = dialled.map_err(unreachable)?;
        let origin = http::Uri::builder()
            .scheme(if dialled.encrypted { "https" } else { "http" })
            .authority(dialled.server.authority())
            .path_and_query("/")
            .build()
            .expect("its parts are valid");
        let (way, reset_on_drop) = (dialled.way, dialled.reset_on_drop);
        let untried = Mutex::new(dialled.untried);
        let tasks = Tasks::default();
        let handshake = http2::Builder::new(tasks.clone())
            // hyper panics without a timer if a setting needs one.
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            // It would replace the windows above by its own estimate, and with it the ratio that
            // decision 0004 asks for.
            .adaptive_window(false)
            .handshake(TokioIo::new(dialled.stream));
        let (requests, connection) = deadline
            .end(&reset_on_drop, async { handshake.await.map_err(other) })
            .await
            .map_err(|cause| unreachable(vec![way.failed(Step::Http2, cause)].into()))?;
        let failure = Failure::default();
        let noted = Arc::clone(&failure);
        tasks.spawn_connection(async move {
            let error = connection.await.err();
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = error;
        });
        Ok(Self {
            inner: Arc::new(Inner {
                requests,
                origin,
                way,
                max_message_bytes: options.max_message_bytes,
                tasks,
                reset_on_drop,
                dialer,
                untried,
                failure,
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
            // The first call decides: later ones do not belong to the dial any more.
            let untried = connection.inner.take_untried();
            let messages = match response {
                Ok(response) => response.into_inner(),
                Err(status) => return Err(connection.inner.refused(status, untried)),
            };
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

fn unreachable(errors: DialErrors) -> End {
    End::retry(
        Initiator::Network,
        Reason::Unreachable(Detail::from_error(errors)),
    )
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> DialCause {
    DialCause::Other {
        text: classify::chain(&error),
        remedy: None,
        source: Arc::new(error),
    }
}

impl Inner {
    /// Returns the status of the connection's own error if the call only learned that the connection is
    /// gone: a server that refuses a client's certificate may end it before the call is sent.
    fn cause(&self, status: Status) -> Status {
        if !classify::is_cancelled(&status) {
            return status;
        }
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let error = failure.take();
        error.map_or(status, |error| Status::from_error(Box::new(error)))
    }

    fn is_encrypted(&self) -> bool {
        self.origin.scheme() == Some(&http::uri::Scheme::HTTPS)
    }

    fn take_untried(&self) -> Vec<Address> {
        std::mem::take(&mut *self.untried.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the end of a call whose headers did not arrive. If the connection is why, it says which
    /// one. The dial's round goes on with the servers that it has not tried.
    fn refused(&self, status: Status, untried: Vec<Address>) -> End {
        let status = self.cause(status);
        let mut end = classify::end(&status);
        // Not if the peer asks to wait or new credentials: other servers would, too.
        if end.advice == Advice::Retry && !untried.is_empty() {
            self.dialer.continue_round(untried);
            end.advice = Advice::NextServer;
        }
        if let Reason::Lost(detail) = &mut end.reason {
            let cause = DialCause::Other {
                text: detail.as_str().to_owned(),
                remedy: Some(classify::remedy(&status, self.is_encrypted())),
                source: Arc::new(status),
            };
            *detail = Detail::from_error(self.way.failed(Step::Headers, cause));
        }
        end
    }

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
    *request.metadata_mut() = MetadataMap::from_headers(headers(&call.metadata));
    Ok((path, request))
}

fn headers(metadata: &Metadata) -> HeaderMap {
    const CHECKED: &str = "metadata is checked when it is made";
    let mut headers = HeaderMap::new();
    for (name, value) in metadata.iter() {
        let name = HeaderName::from_bytes(name.as_bytes()).expect(CHECKED);
        let mut value = HeaderValue::from_str(value).expect(CHECKED);
        // Kept out of `Debug` and out of the compression tables of proxies.
        value.set_sensitive(true);
        headers.append(name, value);
    }
    headers
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
