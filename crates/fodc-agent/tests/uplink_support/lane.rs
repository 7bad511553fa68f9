//! The streams on which a proxy queries the sources of an agent.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{StreamExt as _, stream};
use steadfast_wire::fodc::{
    StreamClusterTopologyRequest, StreamClusterTopologyResponse, StreamCrashDiagnosticsRequest,
    StreamCrashDiagnosticsResponse, StreamLifecycleRequest, StreamLifecycleResponse,
    StreamPressureProfilesRequest, StreamPressureProfilesResponse, StreamSchemaRegistryRequest,
    StreamSchemaRegistryResponse,
};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    server::{Dialect, Responses},
    within,
};

/// One kind of stream, whose queries are `Q` and whose responses are `R`.
pub(crate) struct Lane<Q, R> {
    is_implemented: bool,
    /// Calls by registered agents.
    calls: AtomicUsize,
    /// The queries of the newest stream.
    queries: watch::Sender<Option<mpsc::UnboundedSender<Q>>>,
    heard: mpsc::UnboundedSender<R>,
    /// What was heard and not taken yet, in order.
    responses: Mutex<mpsc::UnboundedReceiver<R>>,
}

/// The kinds of streams of a version.
#[derive(Clone)]
pub(crate) struct Lanes {
    pub(crate) topology: Arc<Lane<StreamClusterTopologyResponse, StreamClusterTopologyRequest>>,
    pub(crate) lifecycle: Arc<Lane<StreamLifecycleResponse, StreamLifecycleRequest>>,
    pub(crate) crashes: Arc<Lane<StreamCrashDiagnosticsResponse, StreamCrashDiagnosticsRequest>>,
    pub(crate) profiles: Arc<Lane<StreamPressureProfilesResponse, StreamPressureProfilesRequest>>,
    pub(crate) schema: Arc<Lane<StreamSchemaRegistryResponse, StreamSchemaRegistryRequest>>,
}

impl Lanes {
    pub(super) fn of(version: Dialect) -> Self {
        Self {
            topology: Lane::new(version >= Dialect::V0_10_0),
            lifecycle: Lane::new(version >= Dialect::V0_10_1),
            crashes: Lane::new(version >= Dialect::Newest),
            profiles: Lane::new(version >= Dialect::Newest),
            schema: Lane::new(version >= Dialect::Newest),
        }
    }

    /// Returns the number of calls of each method by registered agents.
    pub(crate) fn calls(&self) -> [usize; 5] {
        [
            &self.topology.calls,
            &self.lifecycle.calls,
            &self.crashes.calls,
            &self.profiles.calls,
            &self.schema.calls,
        ]
        .map(|calls| calls.load(Ordering::SeqCst))
    }
}

impl<Q: Send + Sync + 'static, R: Send + 'static> Lane<Q, R> {
    fn new(is_implemented: bool) -> Arc<Self> {
        let (heard, responses) = mpsc::unbounded_channel();
        Arc::new(Self {
            is_implemented,
            calls: AtomicUsize::new(0),
            queries: watch::Sender::new(None),
            heard,
            responses: Mutex::new(responses),
        })
    }

    pub(super) async fn serve(
        &self,
        request: Request<Streaming<R>>,
    ) -> Result<Response<Responses<Q>>, Status> {
        let is_registered = request.metadata().contains_key("agent_id");
        self.calls
            .fetch_add(usize::from(is_registered), Ordering::SeqCst);
        if !self.is_implemented {
            return Err(Status::unimplemented("unknown method"));
        }
        if !is_registered {
            return Err(Status::unauthenticated("agent ID not found"));
        }
        let (sender, queries) = mpsc::unbounded_channel();
        self.queries.send_replace(Some(sender));
        let mut queries = UnboundedReceiverStream::new(queries);
        // The original sends headers with its first query only.
        let first = queries.next().await;
        let mut requests = request.into_inner();
        let heard = self.heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(response)) = requests.message().await {
                heard.send(response).ok();
            }
        });
        let said = stream::iter(first).chain(queries);
        Ok(Response::new(said.map(Ok).boxed()))
    }

    /// Sends a query as soon as the stream is open.
    pub(crate) async fn query(&self, query: Q) {
        let mut queries = self.queries.subscribe();
        let open = within("a stream", queries.wait_for(Option::is_some)).await;
        let sent = open.unwrap().as_ref().unwrap().send(query);
        assert!(sent.is_ok(), "the stream is still open");
    }

    /// Returns the next message of a response.
    pub(crate) async fn response(&self) -> R {
        let mut responses = self.responses.lock().await;
        within("a response", responses.recv()).await.unwrap()
    }
}
