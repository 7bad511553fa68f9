//! Proxies on real sockets, as the originals behave: headers only with the first message, a nested
//! message that must not be missing, limits of their versions.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use steadfast_wire::fodc::{
    RegisterAgentRequest, RegisterAgentResponse, StreamClusterTopologyRequest,
    StreamClusterTopologyResponse, StreamCrashDiagnosticsRequest, StreamCrashDiagnosticsResponse,
    StreamLifecycleRequest, StreamLifecycleResponse, StreamMetricsRequest, StreamMetricsResponse,
    StreamPressureProfilesRequest, StreamPressureProfilesResponse, StreamSchemaRegistryRequest,
    StreamSchemaRegistryResponse,
    fodc_service_server::{FodcService, FodcServiceServer},
};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, time::timeout};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A version of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The first: knows addresses, and dies without one.
    Seed,
    /// The releases: know pods.
    Release,
    /// The newest: as the releases, with larger messages and live roles.
    Newest,
}

/// How a proxy behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    pub(crate) dialect: Dialect,
    pub(crate) heartbeat_seconds: i64,
    /// Registrations that may be held.
    pub(crate) capacity: usize,
    /// Nothing is ever answered.
    pub(crate) mute: bool,
    /// The metrics stream is not implemented.
    pub(crate) metrics_unimplemented: bool,
    /// Answers are not read.
    pub(crate) reads_no_answers: bool,
}

impl Behaviour {
    pub(crate) fn of(dialect: Dialect) -> Self {
        Self {
            dialect,
            heartbeat_seconds: 0,
            capacity: usize::MAX,
            mute: false,
            metrics_unimplemented: false,
            reads_no_answers: false,
        }
    }
}

/// What proxies have seen, over all their restarts.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) registrations: Vec<RegisterAgentRequest>,
    pub(crate) refusals: u64,
    pub(crate) heartbeats: u64,
    /// What would have killed the original.
    pub(crate) crashes: u64,
    /// Agents whose registration stream is open.
    pub(crate) online: Vec<String>,
    streams: BTreeMap<String, mpsc::UnboundedSender<Result<StreamMetricsResponse, Status>>>,
    registry: BTreeMap<String, mpsc::UnboundedSender<Status>>,
}

/// A proxy on a runtime of its own, so that killing it is like killing a process.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) books: Arc<Mutex<Books>>,
    pub(crate) answers: mpsc::UnboundedReceiver<(String, StreamMetricsRequest)>,
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Service {
    behaviour: Behaviour,
    books: Arc<Mutex<Books>>,
    answers: mpsc::UnboundedSender<(String, StreamMetricsRequest)>,
}

impl Proxy {
    /// On a free port of the IPv4 loopback.
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), behaviour, Arc::default())
    }

    /// Where the one before was, with what that one knew.
    pub(crate) fn start_at(
        addr: SocketAddr,
        behaviour: Behaviour,
        books: Arc<Mutex<Books>>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let socket = {
            let _entered = runtime.enter();
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(addr).unwrap();
            socket
        };
        let (sender, answers) = mpsc::unbounded_channel();
        let service = Service {
            behaviour,
            books: Arc::clone(&books),
            answers: sender,
        };
        let message_bytes = match behaviour.dialect {
            Dialect::Seed | Dialect::Release => 4 << 20,
            Dialect::Newest => 32 << 20,
        };
        let listener: TcpListener = {
            let _entered = runtime.enter();
            socket.listen(128).unwrap()
        };
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let service = FodcServiceServer::new(service).max_decoding_message_size(message_bytes);
            let incoming = TcpListenerStream::new(listener);
            // A Go server gives room back on the connection whoever reads its streams.
            let server = tonic::transport::Server::builder()
                .initial_stream_window_size(1 << 16)
                .initial_connection_window_size(64 << 20)
                .add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            addr,
            books,
            answers,
            runtime: Some(runtime),
        }
    }

    /// Kills it and starts another one in its place.
    pub(crate) fn restart(self, behaviour: Behaviour) -> Self {
        let (addr, books) = (self.addr, Arc::clone(&self.books));
        drop(self);
        {
            let mut books = books.lock().unwrap();
            books.online.clear();
            books.streams.clear();
            books.registry.clear();
        }
        Self::start_at(addr, behaviour, books)
    }

    /// Something between agents and it that can go wrong.
    pub(crate) fn behind(&self) -> steadfast_chaos::Proxy {
        let _entered = self.runtime.as_ref().expect("not killed").enter();
        steadfast_chaos::Proxy::start(self.addr).unwrap()
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// Waits until what was seen is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Books) -> bool) {
        let seen = async {
            while !wanted(&self.books()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let came = timeout(super::LIMIT, seen).await.is_ok();
        assert!(
            came,
            "not within {:?}: {what}: {:?}",
            super::LIMIT,
            self.books()
        );
    }

    /// Asks the newest agent as soon as its metrics stream is there.
    pub(crate) async fn ask(&self, question: StreamMetricsResponse) {
        let newest = |books: &Books| {
            let newest = books.online.last()?;
            books
                .streams
                .get(newest)
                .filter(|stream| !stream.is_closed())
                .cloned()
        };
        self.until("a metrics stream", |books| newest(books).is_some())
            .await;
        let stream = newest(&self.books()).unwrap();
        stream.send(Ok(question)).unwrap();
    }

    /// Ends the newest agent's metrics stream.
    pub(crate) fn end_metrics(&self, status: Status) {
        let mut books = self.books();
        let newest = books.online.last().unwrap().clone();
        let stream = books.streams.remove(&newest).unwrap();
        stream.send(Err(status)).ok();
    }

    /// Forgets every agent, as the registry does after a long silence.
    pub(crate) fn forget_agents(&self) {
        for (id, end) in &self.books().registry {
            end.send(Status::unknown(format!("agent {id} not found")))
                .ok();
        }
    }

    /// The next answer, and whose it is.
    pub(crate) async fn answer(&mut self) -> (String, StreamMetricsRequest) {
        super::within("an answer", self.answers.recv())
            .await
            .unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Its port is free when this returns. A runtime does not wait inside another one.
            let stop = std::thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(5)));
            stop.join().ok();
        }
    }
}

impl Service {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// Why the original would refuse it.
    fn refusal(&self, request: &RegisterAgentRequest) -> Option<String> {
        if self.books().online.len() >= self.behaviour.capacity {
            return Some(format!(
                "maximum number of agents ({}) reached",
                self.behaviour.capacity
            ));
        }
        if request.node_role.is_empty() {
            return Some("node role cannot be empty".to_owned());
        }
        match (self.behaviour.dialect, &request.primary_address) {
            (Dialect::Seed, Some(address)) if address.ip.is_empty() => {
                Some("primary address IP cannot be empty".to_owned())
            }
            (Dialect::Seed, Some(address)) if address.port <= 0 => {
                Some("primary address port must be positive".to_owned())
            }
            (Dialect::Seed, None) => {
                self.books().crashes += 1;
                Some("nil pointer dereference".to_owned())
            }
            (Dialect::Seed, Some(_)) => None,
            (Dialect::Release | Dialect::Newest, _) => {
                let none = request.pod_name.is_empty();
                none.then(|| "pod name cannot be empty".to_owned())
            }
        }
    }

    async fn mute<T>(&self) -> Result<Response<Answers<T>>, Status> {
        std::future::pending().await
    }
}

#[tonic::async_trait]
impl FodcService for Service {
    type RegisterAgentStream = Answers<RegisterAgentResponse>;
    type StreamMetricsStream = Answers<StreamMetricsResponse>;
    type StreamClusterTopologyStream = Answers<StreamClusterTopologyResponse>;
    type StreamLifecycleStream = Answers<StreamLifecycleResponse>;
    type StreamCrashDiagnosticsStream = Answers<StreamCrashDiagnosticsResponse>;
    type StreamPressureProfilesStream = Answers<StreamPressureProfilesResponse>;
    type StreamSchemaRegistryStream = Answers<StreamSchemaRegistryResponse>;

    async fn register_agent(
        &self,
        request: Request<Streaming<RegisterAgentRequest>>,
    ) -> Result<Response<Self::RegisterAgentStream>, Status> {
        if self.behaviour.mute {
            return self.mute().await;
        }
        assert!(request.metadata().get("agent_id").is_none());
        let mut requests = request.into_inner();
        let Some(first) = requests.message().await? else {
            return Ok(Response::new(stream::empty().boxed()));
        };
        if let Some(why) = self.refusal(&first) {
            self.books().refusals += 1;
            let refused = RegisterAgentResponse {
                message: why.clone(),
                ..RegisterAgentResponse::default()
            };
            let said = stream::iter([Ok(refused), Err(Status::unknown(why))]);
            return Ok(Response::new(said.boxed()));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let (end, mut ends) = mpsc::unbounded_channel();
        {
            let mut books = self.books();
            books.registrations.push(first);
            books.online.push(id.clone());
            books.registry.insert(id.clone(), end);
        }
        let answer = RegisterAgentResponse {
            success: true,
            message: "Agent registered successfully".to_owned(),
            heartbeat_interval_seconds: self.behaviour.heartbeat_seconds,
            agent_id: id.clone(),
            ..RegisterAgentResponse::default()
        };
        let service = self.clone();
        let rest = stream::once(async move {
            let status = loop {
                tokio::select! {
                    heard = requests.message() => match heard {
                        Ok(Some(_)) => service.books().heartbeats += 1,
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    },
                    end = ends.recv() => break end,
                }
            };
            service.books().online.retain(|online| *online != id);
            status
        });
        let rest = rest.filter_map(async |status| status.map(Err));
        Ok(Response::new(
            stream::iter([Ok(answer)]).chain(rest).boxed(),
        ))
    }

    async fn stream_metrics(
        &self,
        request: Request<Streaming<StreamMetricsRequest>>,
    ) -> Result<Response<Self::StreamMetricsStream>, Status> {
        if self.behaviour.metrics_unimplemented {
            return Err(Status::unimplemented("unknown method StreamMetrics"));
        }
        let id = request.metadata().get("agent_id");
        let Some(id) = id.and_then(|id| id.to_str().ok()).map(str::to_owned) else {
            return Err(Status::unauthenticated("agent ID not found"));
        };
        let (sender, questions) = mpsc::unbounded_channel();
        self.books().streams.insert(id.clone(), sender);
        let mut questions = UnboundedReceiverStream::new(questions);
        // Headers go with the first question, however late that is.
        let first = questions.next().await;
        let mut requests = request.into_inner();
        if self.behaviour.reads_no_answers {
            let rest = questions.map(move |question| {
                let _unread = &requests;
                question
            });
            return Ok(Response::new(stream::iter(first).chain(rest).boxed()));
        }
        let answers = self.answers.clone();
        tokio::spawn(async move {
            while let Ok(Some(answer)) = requests.message().await {
                answers.send((id.clone(), answer)).ok();
            }
        });
        let mut ended = false;
        let said = stream::iter(first).chain(questions);
        let said = said.take_while(move |question| {
            let goes_on = !ended;
            ended = question.is_err();
            std::future::ready(goes_on)
        });
        Ok(Response::new(said.boxed()))
    }

    async fn stream_cluster_topology(
        &self,
        _: Request<Streaming<StreamClusterTopologyRequest>>,
    ) -> Result<Response<Self::StreamClusterTopologyStream>, Status> {
        self.mute().await
    }

    async fn stream_lifecycle(
        &self,
        _: Request<Streaming<StreamLifecycleRequest>>,
    ) -> Result<Response<Self::StreamLifecycleStream>, Status> {
        self.mute().await
    }

    async fn stream_crash_diagnostics(
        &self,
        _: Request<Streaming<StreamCrashDiagnosticsRequest>>,
    ) -> Result<Response<Self::StreamCrashDiagnosticsStream>, Status> {
        self.mute().await
    }

    async fn stream_pressure_profiles(
        &self,
        _: Request<Streaming<StreamPressureProfilesRequest>>,
    ) -> Result<Response<Self::StreamPressureProfilesStream>, Status> {
        self.mute().await
    }

    /// Only the newest has it.
    async fn stream_schema_registry(
        &self,
        _: Request<Streaming<StreamSchemaRegistryRequest>>,
    ) -> Result<Response<Self::StreamSchemaRegistryStream>, Status> {
        match self.behaviour.dialect {
            Dialect::Newest => Err(Status::unauthenticated("agent ID not found")),
            Dialect::Seed | Dialect::Release => Err(Status::unimplemented("unknown method")),
        }
    }
}
