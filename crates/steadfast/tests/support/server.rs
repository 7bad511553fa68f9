//! A gRPC server whose handler the test writes, on a runtime of its own.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use steadfast::transport::Call;
use steadfast_chaos::Proxy;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, body::Body, server::NamedService};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::note::Note;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The response to a call.
pub(crate) type Responses = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

/// A call as a handler sees it.
pub(crate) struct Incoming {
    /// The last part of the path.
    pub(crate) method: String,
    pub(crate) request: Request<Streaming<Note>>,
}

/// Makes a whole HTTP response, so that a test can send responses that no gRPC server sends.
type Handler = Arc<dyn Fn(http::Request<Body>) -> Boxed<http::Response<Body>> + Send + Sync>;

/// The path of the method called `name`.
pub(crate) fn path(name: &str) -> String {
    format!("/{}/{name}", Notary::NAME)
}

/// The call of the method that most tests use.
pub(crate) fn talk() -> Call {
    Call::new(path("Talk"))
}

/// A gRPC server. It has its own runtime, so that killing it is like killing a process and the tasks of
/// the test's runtime are those of the link.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    calls: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

impl Server {
    /// Serves on a free loopback port.
    pub(crate) fn start<F>(handler: impl Fn(Incoming) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Responses, Status>> + Send + 'static,
    {
        Self::with_windows(1 << 16, handler)
    }

    /// As [`Server::start`], with HTTP/2 windows of that many bytes.
    pub(crate) fn with_windows<F>(
        windows: u32,
        handler: impl Fn(Incoming) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Responses, Status>> + Send + 'static,
    {
        let handler: Arc<MethodHandler> = Arc::new(move |incoming| Box::pin(handler(incoming)));
        Self::serve(
            windows,
            Arc::new(move |request| {
                let method = request.uri().path().rsplit('/').next().unwrap_or_default();
                let method = Method {
                    name: method.to_owned(),
                    handler: Arc::clone(&handler),
                };
                Box::pin(async move {
                    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Note, Note>::default());
                    grpc.streaming(method, request).await
                })
            }),
        )
    }

    /// Sends the same response to every call.
    pub(crate) fn answering(
        response: impl Fn() -> http::Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::serve(1 << 16, Arc::new(move |_| Box::pin(ready(response()))))
    }

    fn serve(windows: u32, handler: Handler) -> Self {
        let runtime = runtime();
        let bound = block_on_elsewhere(&runtime, TcpListener::bind("127.0.0.1:0"));
        let listener = bound.unwrap();
        let addr = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let notary = Notary {
            handler,
            calls: Arc::clone(&calls),
        };
        runtime.spawn(async move {
            tonic::transport::Server::builder()
                .initial_stream_window_size(windows)
                .initial_connection_window_size(windows.max(1 << 20))
                .add_service(notary)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        Self {
            addr,
            calls,
            runtime: Some(runtime),
        }
    }

    /// Starts a proxy in front of the server, on the server's runtime.
    pub(crate) fn proxy(&self) -> Proxy {
        let _entered = self.runtime.as_ref().expect("not killed").enter();
        Proxy::start(self.addr).unwrap()
    }

    /// Returns the number of calls handled so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Acquire)
    }

    /// Ends all tasks and sockets of the server at once.
    pub(crate) fn kill(mut self) -> SocketAddr {
        self.stop();
        self.addr
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(1)))
                .join()
                .unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Waits on a thread of its own, because a runtime cannot be waited for from within another one.
pub(crate) fn block_on_elsewhere<T: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let handle = runtime.handle().clone();
    std::thread::spawn(move || handle.block_on(future))
        .join()
        .unwrap()
}

/// Sends headers at once and then nothing.
pub(crate) fn silent(_: Incoming) -> Ready<Result<Responses, Status>> {
    ready(Ok(futures_util::stream::pending().boxed()))
}

/// Returns every message of the client.
pub(crate) fn echo(incoming: Incoming) -> Ready<Result<Responses, Status>> {
    ready(Ok(incoming.request.into_inner().boxed()))
}

/// The service, which serves every path under its name.
#[derive(Clone)]
struct Notary {
    handler: Handler,
    calls: Arc<AtomicU64>,
}

impl NamedService for Notary {
    const NAME: &'static str = "test.Notary";
}

impl Service<http::Request<Body>> for Notary {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::AcqRel);
        let answered = (self.handler)(request);
        Box::pin(async move { Ok(answered.await) })
    }
}

type MethodHandler = dyn Fn(Incoming) -> Boxed<Result<Responses, Status>> + Send + Sync;

struct Method {
    name: String,
    handler: Arc<MethodHandler>,
}

impl Service<Request<Streaming<Note>>> for Method {
    type Response = Response<Responses>;
    type Error = Status;
    type Future = Boxed<Result<Response<Responses>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Note>>) -> Self::Future {
        let answered = (self.handler)(Incoming {
            method: self.name.clone(),
            request,
        });
        Box::pin(async move { Ok(Response::new(answered.await?)) })
    }
}
