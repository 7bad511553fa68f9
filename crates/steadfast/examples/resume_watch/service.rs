//! A server of `meter.proto` as its authors would write it: tonic's generated code, and nothing
//! about connections that break.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use super::meter::{
    Reading, WatchRequest,
    meter_server::{Meter, MeterServer},
};

/// The stored readings. They outlive the servers, as a database would.
#[derive(Clone)]
pub(crate) struct Store(watch::Sender<u64>);

/// Returns the value of a reading. Neighbours differ, so that a wrong sum reveals a missing one.
pub(crate) fn value(sequence: u64) -> u64 {
    sequence * sequence % 97 + 1
}

impl Store {
    /// Creates a store that gains a reading per `interval` until the runtime stops.
    pub(crate) fn growing(interval: Duration) -> Self {
        let store = Self(watch::Sender::new(0));
        let growing = store.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            loop {
                ticks.tick().await;
                growing.0.send_modify(|readings| *readings += 1);
            }
        });
        store
    }

    /// Returns the sequence number of the newest reading.
    pub(crate) fn newest(&self) -> u64 {
        *self.0.borrow()
    }

    fn after(&self, after: u64) -> impl Stream<Item = Result<Reading, Status>> + Send + 'static {
        stream::unfold(
            (self.0.subscribe(), after + 1),
            |(mut store, sequence)| async move {
                store
                    .wait_for(|readings| *readings >= sequence)
                    .await
                    .ok()?;
                let value = value(sequence);
                Some((Ok(Reading { sequence, value }), (store, sequence + 1)))
            },
        )
    }
}

/// A server on its own runtime. Ending that is as sudden as killing a process.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    runtime: Runtime,
}

impl Server {
    pub(crate) async fn start(addr: SocketAddr, store: Store) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let bound = runtime.spawn(TcpListener::bind(addr)).await;
        let listener = bound.map_err(std::io::Error::other)??;
        let addr = listener.local_addr()?;
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(MeterServer::new(store))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Self { addr, runtime })
    }

    /// Ends all tasks and sockets at once.
    pub(crate) async fn kill(self) {
        let end = move || self.runtime.shutdown_timeout(Duration::from_secs(1));
        // Fails only if the shutdown panics, which is reported by itself.
        tokio::task::spawn_blocking(end).await.ok();
    }
}

#[tonic::async_trait]
impl Meter for Store {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Reading, Status>> + Send>>;

    async fn watch(
        &self,
        requests: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let store = self.clone();
        let readings = requests
            .into_inner()
            .map(move |request| match request {
                Ok(request) => store.after(request.after).boxed(),
                Err(status) => stream::iter([Err(status)]).boxed(),
            })
            .flatten();
        Ok(Response::new(readings.boxed()))
    }
}
