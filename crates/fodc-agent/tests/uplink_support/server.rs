//! Proxies on real sockets that behave like the originals: headers only with the first message, a
//! crash without the nested address, and the methods and message limits of their versions.

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
use tonic::{Code, Request, Response, Status, Streaming};

use super::lane::Lanes;

pub(super) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A version of the original proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dialect {
    /// The first version: knows agents by address, and crashes without one.
    Seed,
    /// The first release: knows agents by pod name, and has the topology.
    V0_10_0,
    /// Has the lifecycle, too.
    V0_10_1,
    V0_10_2,
    V0_10_3,
    /// Has every stream, and larger messages.
    Newest,
}

impl Dialect {
    pub(crate) const ALL: [Self; 6] = [
        Self::Seed,
        Self::V0_10_0,
        Self::V0_10_1,
        Self::V0_10_2,
        Self::V0_10_3,
        Self::Newest,
    ];
}

/// The behaviour of a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    pub(crate) dialect: Dialect,
    pub(crate) heartbeat_seconds: i64,
    /// The most agents that may be registered.
    pub(crate) capacity: usize,
    /// Never responds.
    pub(crate) mute: bool,
    /// Refuses the metrics stream with this status.
    pub(crate) metrics_refusal: Option<(Code, &'static str)>,
    /// Does not read responses.
    pub(crate) ignores_responses: bool,
}

impl Behaviour {
    pub(crate) fn of(dialect: Dialect) -> Self {
        Self {
            dialect,
            heartbeat_seconds: 0,
            capacity: usize::MAX,
            mute: false,
            metrics_refusal: None,
            ignores_responses: false,
        }
    }
}

/// The events that proxies at one address have seen, over all restarts.
#[derive(Debug, Default)]
pub(crate) struct ProxyLog {
    pub(crate) registrations: Vec<RegisterAgentRequest>,
    pub(crate) refusals: u64,
    pub(crate) heartbeats: u64,
    pub(crate) last_heartbeat: RegisterAgentRequest,
    /// Requests that would have crashed the original.
    pub(crate) crashes: u64,
    /// The agents whose registration stream is open.
    pub(crate) online: Vec<String>,
    streams: BTreeMap<String, mpsc::UnboundedSender<Result<StreamMetricsResponse, Status>>>,
    registry: BTreeMap<String, mpsc::UnboundedSender<Status>>,
}

/// A proxy on a runtime of its own, so that killing it is like killing a process.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) log: Arc<Mutex<ProxyLog>>,
    pub(crate) responses: mpsc::UnboundedReceiver<(String, StreamMetricsRequest)>,
    /// The other streams since the start of the proxy.
    pub(crate) lanes: Lanes,
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Service {
    behaviour: Behaviour,
    log: Arc<Mutex<ProxyLog>>,
    responses: mpsc::UnboundedSender<(String, StreamMetricsRequest)>,
    lanes: Lanes,
}

impl Proxy {
    /// Starts a proxy on a free port of the IPv4 loopback.
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), behaviour, Arc::default())
    }

    /// Starts a proxy at an address, with the log of the one before it.
    pub(crate) fn start_at(
        addr: SocketAddr,
        behaviour: Behaviour,
        log: Arc<Mutex<ProxyLog>>,
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
        let (sender, responses) = mpsc::unbounded_channel();
        let lanes = Lanes::of(behaviour.dialect);
        let service = Service {
            behaviour,
            log: Arc::clone(&log),
            responses: sender,
            lanes: lanes.clone(),
        };
        let message_bytes = match behaviour.dialect {
            Dialect::Newest => 32 << 20,
            _ => 4 << 20,
        };
        let listener: TcpListener = {
            let _entered = runtime.enter();
            socket.listen(128).unwrap()
        };
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let service = FodcServiceServer::new(service).max_decoding_message_size(message_bytes);
            let incoming = TcpListenerStream::new(listener);
            // A Go server returns connection credit whether or not its streams are read.
            let server = tonic::transport::Server::builder()
                .initial_stream_window_size(1 << 16)
                .initial_connection_window_size(64 << 20)
                .add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            addr,
            log,
            responses,
            lanes,
            runtime: Some(runtime),
        }
    }

    /// Kills the proxy and starts another one at its address.
    pub(crate) fn restart(self, behaviour: Behaviour) -> Self {
        let (addr, log) = (self.addr, Arc::clone(&self.log));
        drop(self);
        {
            let mut log = log.lock().unwrap();
            log.online.clear();
            log.streams.clear();
            log.registry.clear();
        }
        Self::start_at(addr, behaviour, log)
    }

    /// Starts a chaos proxy in front of this one.
    pub(crate) fn behind(&self) -> steadfast_chaos::Proxy {
        let _entered = self.runtime.as_ref().expect("not killed").enter();
        steadfast_chaos::Proxy::start(self.addr).unwrap()
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, ProxyLog> {
        self.log.lock().unwrap()
    }

    /// Waits until the log satisfies `wanted`.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&ProxyLog) -> bool) {
        let seen = async {
            while !wanted(&self.log()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let came = timeout(super::LIMIT, seen).await.is_ok();
        assert!(
            came,
            "not within {:?}: {what}: {:?}",
            super::LIMIT,
            self.log()
        );
    }

    /// Sends a query to the newest agent as soon as its metrics stream is open.
    pub(crate) async fn query(&self, query: StreamMetricsResponse) {
        let newest = |log: &ProxyLog| {
            let newest = log.online.last()?;
            log.streams
                .get(newest)
                .filter(|stream| !stream.is_closed())
                .cloned()
        };
        self.until("a metrics stream", |log| newest(log).is_some())
            .await;
        let stream = newest(&self.log()).unwrap();
        stream.send(Ok(query)).unwrap();
    }

    /// Ends the newest agent's metrics stream.
    pub(crate) fn end_metrics(&self, status: Status) {
        let mut log = self.log();
        let newest = log.online.last().unwrap().clone();
        let stream = log.streams.remove(&newest).unwrap();
        stream.send(Err(status)).ok();
    }

    /// Forgets every agent, as the registry does after a long silence.
    pub(crate) fn forget_agents(&self) {
        for (id, end) in &self.log().registry {
            end.send(Status::unknown(format!("agent {id} not found")))
                .ok();
        }
    }

    /// Returns the next response with the id of its agent.
    pub(crate) async fn response(&mut self) -> (String, StreamMetricsRequest) {
        super::within("a response", self.responses.recv())
            .await
            .unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The port must be free afterwards, and a runtime cannot wait inside another one.
            let stop = std::thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(5)));
            stop.join().ok();
        }
    }
}

impl Service {
    fn log(&self) -> MutexGuard<'_, ProxyLog> {
        self.log.lock().unwrap()
    }

    /// Returns the reason why the original would refuse a request.
    fn refusal(&self, request: &RegisterAgentRequest) -> Option<String> {
        if self.log().online.len() >= self.behaviour.capacity {
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
                self.log().crashes += 1;
                Some("nil pointer dereference".to_owned())
            }
            (Dialect::Seed, Some(_)) => None,
            _ => {
                let none = request.pod_name.is_empty();
                none.then(|| "pod name cannot be empty".to_owned())
            }
        }
    }

    async fn mute<T>(&self) -> Result<Response<Responses<T>>, Status> {
        std::future::pending().await
    }
}

#[tonic::async_trait]
impl FodcService for Service {
    type RegisterAgentStream = Responses<RegisterAgentResponse>;
    type StreamMetricsStream = Responses<StreamMetricsResponse>;
    type StreamClusterTopologyStream = Responses<StreamClusterTopologyResponse>;
    type StreamLifecycleStream = Responses<StreamLifecycleResponse>;
    type StreamCrashDiagnosticsStream = Responses<StreamCrashDiagnosticsResponse>;
    type StreamPressureProfilesStream = Responses<StreamPressureProfilesResponse>;
    type StreamSchemaRegistryStream = Responses<StreamSchemaRegistryResponse>;

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
            self.log().refusals += 1;
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
            let mut log = self.log();
            log.registrations.push(first);
            log.online.push(id.clone());
            log.registry.insert(id.clone(), end);
        }
        let response = RegisterAgentResponse {
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
                        Ok(Some(heartbeat)) => {
                            let mut log = service.log();
                            log.heartbeats += 1;
                            log.last_heartbeat = heartbeat;
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    },
                    end = ends.recv() => break end,
                }
            };
            service.log().online.retain(|online| *online != id);
            status
        });
        let rest = rest.filter_map(async |status| status.map(Err));
        Ok(Response::new(
            stream::iter([Ok(response)]).chain(rest).boxed(),
        ))
    }

    async fn stream_metrics(
        &self,
        request: Request<Streaming<StreamMetricsRequest>>,
    ) -> Result<Response<Self::StreamMetricsStream>, Status> {
        if let Some((code, message)) = self.behaviour.metrics_refusal {
            return Err(Status::new(code, message));
        }
        let id = request.metadata().get("agent_id");
        let Some(id) = id.and_then(|id| id.to_str().ok()).map(str::to_owned) else {
            return Err(Status::unauthenticated("agent ID not found"));
        };
        let (sender, queries) = mpsc::unbounded_channel();
        self.log().streams.insert(id.clone(), sender);
        let mut queries = UnboundedReceiverStream::new(queries);
        // The original sends headers with its first query only.
        let first = queries.next().await;
        let mut requests = request.into_inner();
        if self.behaviour.ignores_responses {
            let rest = queries.map(move |query| {
                let _unread = &requests;
                query
            });
            return Ok(Response::new(stream::iter(first).chain(rest).boxed()));
        }
        let responses = self.responses.clone();
        tokio::spawn(async move {
            while let Ok(Some(response)) = requests.message().await {
                responses.send((id.clone(), response)).ok();
            }
        });
        let mut ended = false;
        let said = stream::iter(first).chain(queries);
        let said = said.take_while(move |query| {
            let goes_on = !ended;
            ended = query.is_err();
            std::future::ready(goes_on)
        });
        Ok(Response::new(said.boxed()))
    }

    async fn stream_cluster_topology(
        &self,
        request: Request<Streaming<StreamClusterTopologyRequest>>,
    ) -> Result<Response<Self::StreamClusterTopologyStream>, Status> {
        self.lanes.topology.serve(request).await
    }

    async fn stream_lifecycle(
        &self,
        request: Request<Streaming<StreamLifecycleRequest>>,
    ) -> Result<Response<Self::StreamLifecycleStream>, Status> {
        self.lanes.lifecycle.serve(request).await
    }

    async fn stream_crash_diagnostics(
        &self,
        request: Request<Streaming<StreamCrashDiagnosticsRequest>>,
    ) -> Result<Response<Self::StreamCrashDiagnosticsStream>, Status> {
        self.lanes.crashes.serve(request).await
    }

    async fn stream_pressure_profiles(
        &self,
        request: Request<Streaming<StreamPressureProfilesRequest>>,
    ) -> Result<Response<Self::StreamPressureProfilesStream>, Status> {
        self.lanes.profiles.serve(request).await
    }

    async fn stream_schema_registry(
        &self,
        request: Request<Streaming<StreamSchemaRegistryRequest>>,
    ) -> Result<Response<Self::StreamSchemaRegistryStream>, Status> {
        self.lanes.schema.serve(request).await
    }
}
