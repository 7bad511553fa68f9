//! A scripted agent: speaks as any of the originals' versions does, and misbehaves on request.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use steadfast_wire::fodc::{
    Address, Metric, MetricType, RegisterAgentRequest, RegisterAgentResponse, StreamMetricsRequest,
    StreamMetricsResponse, fodc_service_client::FodcServiceClient,
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

/// Longer than anything takes on the busiest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A registered agent. Dropping it breaks its connection.
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) heartbeat_seconds: i64,
    pub(crate) profile: Option<steadfast_wire::fodc::ProxyProfile>,
    pub(crate) heartbeats: Sender<RegisterAgentRequest>,
    pub(crate) registration: Streaming<RegisterAgentResponse>,
    pub(crate) client: FodcServiceClient<Channel>,
}

/// What a scripted agent does with a question.
pub(crate) enum Action {
    Answer(StreamMetricsRequest),
    Late(Duration, StreamMetricsRequest),
    Several(Vec<StreamMetricsRequest>),
    Nothing,
}

/// A metrics stream under way.
pub(crate) struct Metrics {
    pub(crate) questions: Arc<Mutex<Vec<StreamMetricsResponse>>>,
    /// Questions that were asked before the one before was answered.
    pub(crate) overlapping: Arc<AtomicUsize>,
    /// How the stream ended.
    pub(crate) task: JoinHandle<Status>,
    pub(crate) answers: Sender<StreamMetricsRequest>,
}

pub(crate) async fn dial(address: SocketAddr) -> FodcServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = timeout(PATIENCE, endpoint.connect())
        .await
        .unwrap()
        .unwrap();
    FodcServiceClient::new(channel)
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

impl Agent {
    pub(crate) async fn register(address: SocketAddr, first: RegisterAgentRequest) -> Self {
        Self::try_register(dial(address).await, first)
            .await
            .map_err(|(message, status)| format!("{message:?} {status}"))
            .unwrap()
    }

    /// The refusal is the answer and the status that the stream ended with.
    pub(crate) async fn try_register(
        mut client: FodcServiceClient<Channel>,
        first: RegisterAgentRequest,
    ) -> Result<Self, (RegisterAgentResponse, Status)> {
        let (heartbeats, outgoing) = channel(64);
        heartbeats.send(first).await.unwrap();
        let call = client.register_agent(ReceiverStream::new(outgoing));
        let mut registration = timeout(PATIENCE, call).await.unwrap().unwrap().into_inner();
        let answer = timeout(PATIENCE, registration.message()).await.unwrap();
        let answer = answer.unwrap().expect("an answer to the registration");
        if !answer.success {
            return Err((answer, end_of(&mut registration).await));
        }
        Ok(Self {
            id: answer.agent_id,
            heartbeat_seconds: answer.heartbeat_interval_seconds,
            profile: answer.profile,
            heartbeats,
            registration,
            client,
        })
    }

    /// Opens a metrics stream and answers each question by the script.
    pub(crate) async fn metrics(
        &self,
        script: impl FnMut(StreamMetricsResponse) -> Action + Send + 'static,
    ) -> Metrics {
        metrics(self.client.clone(), &self.id, script).await
    }

    /// Answers every question with these.
    pub(crate) async fn answering(&self, samples: Vec<Metric>) -> Metrics {
        self.metrics(move |_| Action::Answer(reply(samples.clone())))
            .await
    }
}

pub(crate) async fn metrics(
    mut client: FodcServiceClient<Channel>,
    id: &str,
    mut script: impl FnMut(StreamMetricsResponse) -> Action + Send + 'static,
) -> Metrics {
    let (answers, outgoing) = channel(64);
    let call = client.stream_metrics(with_id(id, outgoing));
    let mut asked = timeout(PATIENCE, call).await.unwrap().unwrap().into_inner();
    let questions = Arc::new(Mutex::new(Vec::new()));
    let overlapping = Arc::new(AtomicUsize::new(0));
    let (log, overlaps, sender) = (
        Arc::clone(&questions),
        Arc::clone(&overlapping),
        answers.clone(),
    );
    let task = tokio::spawn(async move {
        let unanswered = Arc::new(AtomicUsize::new(0));
        loop {
            let question = match asked.message().await {
                Ok(Some(question)) => question,
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            };
            overlaps.fetch_add(unanswered.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
            log.lock().unwrap().push(question.clone());
            match script(question) {
                Action::Answer(reply) => {
                    unanswered.fetch_sub(1, Ordering::SeqCst);
                    sender.send(reply).await.ok();
                }
                Action::Several(replies) => {
                    unanswered.fetch_sub(1, Ordering::SeqCst);
                    for reply in replies {
                        sender.send(reply).await.ok();
                    }
                }
                Action::Late(by, reply) => {
                    let (sender, unanswered) = (sender.clone(), Arc::clone(&unanswered));
                    tokio::spawn(async move {
                        sleep(by).await;
                        unanswered.fetch_sub(1, Ordering::SeqCst);
                        sender.send(reply).await.ok();
                    });
                }
                Action::Nothing => {}
            }
        }
    });
    Metrics {
        questions,
        overlapping,
        task,
        answers,
    }
}

impl Metrics {
    pub(crate) fn asked(&self) -> usize {
        self.questions.lock().unwrap().len()
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

/// The status with which a stream ends, whatever comes before.
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
    timeout(PATIENCE, end).await.expect("the stream ends")
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

pub(crate) fn reply(metrics: Vec<Metric>) -> StreamMetricsRequest {
    StreamMetricsRequest {
        metrics,
        timestamp: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        ..StreamMetricsRequest::default()
    }
}
