//! The requests of one connection: which are open, and how long a connection without any may stay.

use std::{
    error::Error,
    io::IoSlice,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, service::Service};
use pin_project_lite::pin_project;
use tokio::time::{sleep, sleep_until};
use tonic::Status;
use tracing::debug;

use crate::{Refusal, RequestBody, Tasks, permit::ConnectionPermit, request_rate::retry_after};

/// The requests of one connection.
#[derive(Debug)]
pub(crate) struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
    permit: Arc<ConnectionPermit>,
}

/// A request that is open until this is dropped.
#[derive(Debug)]
struct OpenRequest(Arc<Requests>);

/// A service whose requests are counted and limited.
#[derive(Debug)]
pub(crate) struct Limited<S> {
    service: S,
    requests: Arc<Requests>,
}

pin_project! {
    /// The response of a [`Limited`] service.
    #[project = RespondingProjected]
    #[derive(Debug)]
    pub(crate) enum Responding<F> {
        Served { #[pin] future: F, open: Option<OpenRequest> },
        Refused { response: Option<Response<()>> },
    }
}

pin_project! {
    /// The body of a response; the request is open until its end, and until the last of its data is
    /// written.
    #[project = ResponseBodyProjected]
    #[derive(Debug)]
    pub(crate) enum ResponseBody<B> {
        Served { #[pin] body: B, open: Arc<OpenRequest> },
        Refused,
    }
}

/// Data of a response. hyper drops the body as soon as it has taken the last of them, and may then still
/// wait for the peer.
#[derive(Debug)]
pub(crate) struct ResponseData<D> {
    data: D,
    _open: Arc<OpenRequest>,
}

/// The longest time for which a connection may stay after its last response when it should end. It lets
/// the last bytes through, and requests that the peer sent before it learned of the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a connection until it ends, its peer is silent for too long, or the server drains. `end` tells
/// the peer of an orderly end: the requests under way are then the last.
pub(crate) async fn run<C, E>(
    connection: C,
    end: impl FnOnce(Pin<&mut C>),
    requests: Arc<Requests>,
    idle_timeout: Option<Duration>,
    tasks: Tasks,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => {
            return ended.unwrap_or_else(|error| debug!(%error, "connection failed"));
        }
        () = requests.first_missed() => {
            let (client, limits) = (&requests.permit.client, &requests.permit.limits);
            limits.refusals.count(Refusal::Silent);
            debug!(?client, "closing a connection that sent no request in time");
            return;
        }
        () = requests.idle(idle_timeout) => {}
        () = tasks.draining() => {}
    }
    end(connection.as_mut());
    tokio::select! {
        ended = connection => ended.unwrap_or_else(|error| debug!(%error, "connection failed")),
        // Requests have no deadline here: the server cuts the task when its drain takes too long. A
        // peer without requests that does not answer must not use up that time.
        () = requests.quiet_for(FLUSH_TIMEOUT) => {}
    }
}

impl Requests {
    pub(crate) fn new(permit: &Arc<ConnectionPermit>) -> Arc<Self> {
        Arc::new(Self {
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            permit: Arc::clone(permit),
        })
    }

    /// Returns the service with its requests counted here.
    pub(crate) fn limit<S>(self: &Arc<Self>, service: S) -> Limited<S> {
        let requests = Arc::clone(self);
        Limited { service, requests }
    }

    fn begin(self: &Arc<Self>) -> OpenRequest {
        self.begun.fetch_add(1, SeqCst);
        OpenRequest(Arc::clone(self))
    }

    /// Returns the number of requests so far, or `None` while one is open or something waits to be
    /// written.
    fn quiet(&self) -> Option<u64> {
        let ended = self.ended.load(SeqCst);
        let waits = self.permit.write_waits.load(Relaxed);
        (ended == self.begun.load(SeqCst) && !waits).then_some(ended)
    }

    /// Resolves when the time for the first request is over without one.
    async fn first_missed(&self) {
        sleep_until(self.permit.first_request_deadline()).await;
        if self.begun.load(SeqCst) > 0 {
            std::future::pending::<()>().await;
        }
    }

    async fn idle(&self, timeout: Option<Duration>) {
        match timeout {
            Some(timeout) => self.quiet_for(timeout).await,
            None => std::future::pending().await,
        }
    }

    /// Resolves when no request was open at the beginning and at the end of `period`, nor between. Looks
    /// only then, so that requests cost nothing; a quiet connection is found within two periods.
    async fn quiet_for(&self, period: Duration) {
        let mut before = self.quiet();
        loop {
            sleep(period).await;
            let now = self.quiet();
            if now.is_some() && now == before {
                return;
            }
            before = now;
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
    }
}

impl<S, B> Service<Request<Incoming>> for Limited<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
{
    type Response = Response<ResponseBody<B>>;
    type Error = S::Error;
    type Future = Responding<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // Counted before anything is awaited, so that no connection is closed under a new request.
        let open = Some(self.requests.begin());
        let permit = &self.requests.permit;
        if let Err(wait) = permit.check_rate() {
            permit.limits.refusals.count(Refusal::RequestRate);
            let response = Some(too_many_requests(&request, wait));
            return Responding::Refused { response };
        }
        let (head, body) = request.into_parts();
        let unfinished = &permit.limits.unfinished;
        let body = RequestBody::new(body, &head.headers, permit.id, unfinished);
        let future = self.service.call(Request::from_parts(head, body));
        Responding::Served { future, open }
    }
}

/// Returns the refusal of a request, as its protocol writes it.
fn too_many_requests<B>(request: &Request<B>, wait: Duration) -> Response<()> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut response = if grpc {
        let text = format!("too many requests; try again in {} ms", wait.as_millis());
        let mut response = Status::resource_exhausted(text).into_http::<()>();
        // gRPC clients with a retry policy wait this long (gRFC A6).
        let pushback = HeaderValue::from(wait.as_millis() as u64);
        response
            .headers_mut()
            .insert("grpc-retry-pushback-ms", pushback);
        response
    } else {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, retry_after(wait));
    response
}

impl<F, B, E> Future for Responding<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            RespondingProjected::Served { future, open } => {
                ready!(future.poll(cx)).map(|response| {
                    let open = open.take().expect("a future is not polled after its end");
                    let open = Arc::new(open);
                    response.map(|body| ResponseBody::Served { body, open })
                })
            }
            RespondingProjected::Refused { response } => {
                let response = response
                    .take()
                    .expect("a future is not polled after its end");
                Ok(response.map(|()| ResponseBody::Refused))
            }
        })
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    type Data = ResponseData<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let ResponseBodyProjected::Served { body, open } = self.project() else {
            return Poll::Ready(None);
        };
        body.poll_frame(cx).map_ok(|frame| {
            frame.map_data(|data| ResponseData {
                data,
                _open: Arc::clone(open),
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Served { body, .. } => body.is_end_stream(),
            Self::Refused => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Served { body, .. } => body.size_hint(),
            Self::Refused => SizeHint::with_exact(0),
        }
    }
}

impl<D: Buf> Buf for ResponseData<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.data.copy_to_bytes(length)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        sync::Semaphore,
        time::{Instant, timeout},
    };

    use super::*;
    use crate::{
        ClientKey, KeyedPermits, Refusals, UnfinishedLimits, descriptors, permit::SharedLimits,
        unfinished::UnfinishedMessages,
    };

    fn permit() -> Arc<ConnectionPermit> {
        let refusals = Refusals::default();
        let unfinished = UnfinishedMessages::new(UnfinishedLimits::default(), refusals.clone());
        let limits = SharedLimits::new(refusals, FLUSH_TIMEOUT, unfinished, None);
        let client = ClientKey::V6(1);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let descriptor = descriptors::try_acquire(&client, false).unwrap();
        let of_client = KeyedPermits::new(1).try_acquire(client.clone()).unwrap();
        ConnectionPermit::new(client, &limits, (permit, descriptor, of_client))
    }

    #[tokio::test(start_paused = true)]
    async fn connection_whose_write_waits_is_not_quiet() {
        let requests = Requests::new(&permit());
        drop(requests.begin());
        let waits = &requests.permit.write_waits;
        waits.store(true, Relaxed);
        let quiet = timeout(10 * FLUSH_TIMEOUT, requests.quiet_for(FLUSH_TIMEOUT)).await;
        assert!(quiet.is_err());
        waits.store(false, Relaxed);
        let started = Instant::now();
        requests.quiet_for(FLUSH_TIMEOUT).await;
        assert_eq!(started.elapsed(), FLUSH_TIMEOUT);
    }
}
