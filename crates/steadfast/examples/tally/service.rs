//! The service of `tally.proto`, as its authors would have it: on tonic, and without a thought of
//! connections that break.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, body::Body, server::NamedService};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// `tally.v1.WatchRequest`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct WatchRequest {
    #[prost(uint64, tag = "1")]
    pub(crate) after: u64,
}

/// `tally.v1.Event`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Event {
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) amount: u64,
}

/// What happened so far; it outlives the servers, as a database would.
#[derive(Clone)]
pub(crate) struct Log(watch::Sender<u64>);

/// What event `number` counted: no two neighbours alike, so that a sum tells if one is missing.
pub(crate) fn amount(number: u64) -> u64 {
    number * number % 97 + 1
}

impl Log {
    /// A log in which something happens that often, until the runtime stops.
    pub(crate) fn growing(every: Duration) -> Self {
        let log = Self(watch::Sender::new(0));
        let growing = log.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            loop {
                ticks.tick().await;
                growing.0.send_modify(|events| *events += 1);
            }
        });
        log
    }

    /// The number of the newest event.
    pub(crate) fn newest(&self) -> u64 {
        *self.0.borrow()
    }

    fn after(&self, after: u64) -> impl Stream<Item = Result<Event, Status>> + Send + 'static {
        stream::unfold(
            (self.0.subscribe(), after + 1),
            |(mut log, number)| async move {
                log.wait_for(|events| *events >= number).await.ok()?;
                let amount = amount(number);
                Some((Ok(Event { number, amount }), (log, number + 1)))
            },
        )
    }
}

/// A server on a runtime of its own, so that ending it is as sudden as the end of a process.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    runtime: Runtime,
}

impl Server {
    pub(crate) async fn start(addr: SocketAddr, log: Log) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let bound = runtime.spawn(TcpListener::bind(addr)).await;
        let listener = bound.map_err(std::io::Error::other)??;
        let addr = listener.local_addr()?;
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(Tally(log))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Self { addr, runtime })
    }

    /// Ends all its tasks and sockets at once.
    pub(crate) async fn kill(self) {
        let end = move || self.runtime.shutdown_timeout(Duration::from_secs(1));
        // An error here is a panic of the runtime's shutdown, which would be told by itself.
        tokio::task::spawn_blocking(end).await.ok();
    }
}

#[derive(Clone)]
struct Tally(Log);

impl NamedService for Tally {
    const NAME: &'static str = "tally.v1.Tally";
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for Tally {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let watch = Watch(self.0.clone());
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Event, WatchRequest>::default());
        Box::pin(async move { Ok(grpc.streaming(watch, request).await) })
    }
}

/// The method.
struct Watch(Log);

impl Service<Request<Streaming<WatchRequest>>> for Watch {
    type Response = Response<Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        let log = self.0.clone();
        let events = request
            .into_inner()
            .map(move |asked| match asked {
                Ok(asked) => log.after(asked.after).boxed(),
                Err(status) => stream::iter([Err(status)]).boxed(),
            })
            .flatten();
        ready(Ok(Response::new(events.boxed())))
    }
}
