//! A scripted agent that speaks as any version of the originals does, and misbehaves on request.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use steadfast_fodc_proxy::Proxy;
use steadfast_wire::fodc::{
    Address, AgentProfile, Metric, MetricType, RegisterAgentRequest, RegisterAgentResponse,
    StreamMetricsRequest, StreamMetricsResponse, fodc_service_client::FodcServiceClient,
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Longer than any step takes on the busiest machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A registered agent. Dropping it breaks its connection.
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) heartbeat_seconds: i64,
    pub(crate) profile: Option<steadfast_wire::fodc::ProxyProfile>,
    pub(crate) heartbeats: Sender<RegisterAgentRequest>,
    pub(crate) registration: Streaming<RegisterAgentResponse>,
    pub(crate) client: FodcServiceClient<Channel>,
}

/// The reaction of a scripted agent to a query.
pub(crate) enum Action {
    Respond(StreamMetricsRequest),
    RespondLate(Duration, StreamMetricsRequest),
    RespondInParts(Vec<StreamMetricsRequest>),
    Ignore,
}

/// A metrics stream under way.
pub(crate) struct Metrics {
    pub(crate) queries: Arc<Mutex<Vec<StreamMetricsResponse>>>,
    /// The number of queries that arrived while another was outstanding.
    pub(crate) overlapping: Arc<AtomicUsize>,
    /// Ends with the stream; the status is the stream's.
    pub(crate) task: JoinHandle<Status>,
    pub(crate) responses: Sender<StreamMetricsRequest>,
}

pub(crate) async fn dial(address: SocketAddr) -> FodcServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = timeout(TIMEOUT, endpoint.connect()).await.unwrap().unwrap();
    FodcServiceClient::new(channel)
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

impl Agent {
    pub(crate) async fn register(proxy: &Proxy, first: RegisterAgentRequest) -> Self {
        Self::try_register(dial(proxy.grpc_address()).await, first)
            .await
            .map_err(|(message, status)| format!("{message:?} {status}"))
            .unwrap()
    }

    /// A refusal is the response and the status that the stream ended with.
    pub(crate) async fn try_register(
        mut client: FodcServiceClient<Channel>,
        first: RegisterAgentRequest,
    ) -> Result<Self, (RegisterAgentResponse, Status)> {
        let (heartbeats, outgoing) = channel(64);
        heartbeats.send(first).await.unwrap();
        let call = client.register_agent(ReceiverStream::new(outgoing));
        let mut registration = timeout(TIMEOUT, call).await.unwrap().unwrap().into_inner();
        let response = timeout(TIMEOUT, registration.message()).await.unwrap();
        let response = response.unwrap().expect("an response to the registration");
        if !response.success {
            return Err((response, end_of(&mut registration).await));
        }
        Ok(Self {
            id: response.agent_id,
            heartbeat_seconds: response.heartbeat_interval_seconds,
            profile: response.profile,
            heartbeats,
            registration,
            client,
        })
    }

    /// Registers over a connection of its own and returns the refusal.
    pub(crate) async fn refused(
        proxy: &Proxy,
        first: RegisterAgentRequest,
    ) -> (RegisterAgentResponse, Status) {
        let tried = Self::try_register(dial(proxy.grpc_address()).await, first).await;
        tried.map(|agent| agent.id).expect_err("it is refused")
    }

    /// Opens a metrics stream and reacts to each query by the script.
    pub(crate) async fn metrics(
        &self,
        script: impl FnMut(StreamMetricsResponse) -> Action + Send + 'static,
    ) -> Metrics {
        metrics(self.client.clone(), &self.id, script).await
    }

    /// Opens a metrics stream and responds to every query with these samples.
    pub(crate) async fn responding(&self, samples: Vec<Metric>) -> Metrics {
        self.metrics(move |_| Action::Respond(message(samples.clone())))
            .await
    }
}

pub(crate) async fn metrics(
    mut client: FodcServiceClient<Channel>,
    id: &str,
    mut script: impl FnMut(StreamMetricsResponse) -> Action + Send + 'static,
) -> Metrics {
    let (responses, outgoing) = channel(64);
    let call = client.stream_metrics(with_id(id, outgoing));
    let mut inbound = timeout(TIMEOUT, call).await.unwrap().unwrap().into_inner();
    let queries = Arc::new(Mutex::new(Vec::new()));
    let overlapping = Arc::new(AtomicUsize::new(0));
    let (log, overlaps, sender) = (
        Arc::clone(&queries),
        Arc::clone(&overlapping),
        responses.clone(),
    );
    let task = tokio::spawn(async move {
        let outstanding = Arc::new(AtomicUsize::new(0));
        loop {
            let query = match inbound.message().await {
                Ok(Some(query)) => query,
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            };
            overlaps.fetch_add(outstanding.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
            log.lock().unwrap().push(query.clone());
            match script(query) {
                Action::Respond(response) => {
                    outstanding.fetch_sub(1, Ordering::SeqCst);
                    sender.send(response).await.ok();
                }
                Action::RespondInParts(parts) => {
                    outstanding.fetch_sub(1, Ordering::SeqCst);
                    for response in parts {
                        sender.send(response).await.ok();
                    }
                }
                Action::RespondLate(by, response) => {
                    let (sender, outstanding) = (sender.clone(), Arc::clone(&outstanding));
                    tokio::spawn(async move {
                        sleep(by).await;
                        outstanding.fetch_sub(1, Ordering::SeqCst);
                        sender.send(response).await.ok();
                    });
                }
                Action::Ignore => {}
            }
        }
    });
    Metrics {
        queries,
        overlapping,
        task,
        responses,
    }
}

/// Opens a stream of an agent and sends what the script returns for each query. The stream ends when
/// the result is dropped.
macro_rules! answer {
    ($agent:expr, $method:ident, $script:expr) => {{
        let (sender, messages) = tokio::sync::mpsc::channel(64);
        let request = $crate::agent::with_id(&$agent.id, messages);
        let mut client = $agent.client.clone();
        let call = client.$method(request);
        let queries = tokio::time::timeout($crate::agent::TIMEOUT, call).await;
        let queries = queries.unwrap().unwrap().into_inner();
        $crate::agent::Answering::new(queries, sender, $script)
    }};
}
pub(crate) use answer;

/// A stream that answers by a script.
pub(crate) struct Answering {
    task: JoinHandle<()>,
}

impl Answering {
    pub(crate) fn new<Q: Send + 'static, R: Send + 'static>(
        mut queries: Streaming<Q>,
        responses: Sender<R>,
        mut script: impl FnMut(Q) -> Vec<R> + Send + 'static,
    ) -> Self {
        let task = tokio::spawn(async move {
            while let Ok(Some(query)) = queries.message().await {
                for response in script(query) {
                    responses.send(response).await.ok();
                }
            }
        });
        Self { task }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Metrics {
    /// Returns the status that the stream ends with.
    pub(crate) async fn end(&mut self) -> Status {
        let end = timeout(TIMEOUT, &mut self.task).await;
        end.expect("the stream ends").unwrap()
    }

    pub(crate) fn query_count(&self) -> usize {
        self.queries.lock().unwrap().len()
    }
}

pub(crate) fn with_id<T: Send + 'static>(
    id: &str,
    messages: Receiver<T>,
) -> Request<ReceiverStream<T>> {
    let mut request = Request::new(ReceiverStream::new(messages));
    request
        .metadata_mut()
        .insert("agent_id", id.parse().unwrap());
    request
}

/// Returns the status that a stream ends with, whatever comes before.
pub(crate) async fn end_of<T>(stream: &mut Streaming<T>) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    };
    timeout(TIMEOUT, end).await.expect("the stream ends")
}

/// A registration as the releases send it.
pub(crate) fn pod(name: &str, role: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        node_role: role.to_owned(),
        pod_name: name.to_owned(),
        container_names: vec!["data".to_owned()],
        ..RegisterAgentRequest::default()
    }
}

/// A registration of an agent with the profile.
pub(crate) fn ours(name: &str, instance: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        profile: Some(AgentProfile {
            version: 1,
            instance: instance.to_owned(),
            ..AgentProfile::default()
        }),
        ..pod(name, "r")
    }
}

/// A registration as the first version sends it.
pub(crate) fn seed(ip: &str, port: i32, role: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        node_role: role.to_owned(),
        primary_address: Some(Address {
            ip: ip.to_owned(),
            port,
        }),
        ..RegisterAgentRequest::default()
    }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub(crate) fn metric(name: &str, pairs: &[(&str, &str)], value: f64) -> Metric {
    Metric {
        name: name.to_owned(),
        labels: labels(pairs),
        value,
        ..Metric::default()
    }
}

pub(crate) fn typed(name: &str, pairs: &[(&str, &str)], value: f64, kind: MetricType) -> Metric {
    Metric {
        r#type: kind.into(),
        ..metric(name, pairs, value)
    }
}

/// A sample of a window, at so many seconds.
pub(crate) fn at(seconds: i64, name: &str, pairs: &[(&str, &str)], value: f64) -> Metric {
    Metric {
        timestamp: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        ..metric(name, pairs, value)
    }
}

pub(crate) fn message(metrics: Vec<Metric>) -> StreamMetricsRequest {
    StreamMetricsRequest {
        metrics,
        timestamp: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        ..StreamMetricsRequest::default()
    }
}
